"""The clients that the examples are tried with: real libraries, on the standard loop.

Each is a context manager. It checks what the server answers (several connections at once, each with
contents of its own, and 1 MiB), then yields with a connection still open, so that the server can be
stopped under it; afterwards it checks how that looked from here. It refuses to know on which model
the server runs.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeAlias

import aiohttp
import httpx
import pytest
import socketio  # type: ignore[import-untyped]
import websockets
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

Place: TypeAlias = tuple[str, int]
Connect: TypeAlias = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

AT_ONCE = 5  # as many as the notes' own experiment had
BIG = random.Random(1).randbytes(1 << 20)  # more than a socket's buffers hold: writes are partial


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except (ConnectionError, ssl.SSLError):
        pass  # the server was quicker


async def _exchange(connect: Connect, parts: list[bytes]) -> None:
    reader, writer = await connect()
    for part in parts:
        writer.write(part)
        await writer.drain()
        assert await reader.readexactly(len(part)) == part
    if writer.can_write_eof():
        writer.write_eof()  # half-closed: the server must see the end, and close its own half
        assert await reader.read() == b""
    await _close(writer)


async def _exchange_big(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(BIG)
    receiving = asyncio.create_task(reader.readexactly(len(BIG)))  # else both sides would fill up
    await writer.drain()
    assert await receiving == BIG
    await _close(writer)


async def _break_off(connect: Connect, data: bytes) -> None:
    """Send something and break off with a RST, as a client that crashed does."""
    _, writer = await connect()
    writer.write(data)
    transport = writer.transport
    connection: socket.socket = transport.get_extra_info("socket")
    if connection.family != socket.AF_UNIX:
        linger = struct.pack("ii", 1, 0)  # on, for 0 s: closing resets (socket(7))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


async def break_off_a_request(place: Place) -> None:
    """Send half a request over HTTP and crash."""
    head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    await _break_off(lambda: asyncio.open_connection(*place), head + b"half a body")


@asynccontextmanager
async def stream(connect: Connect) -> AsyncIterator[None]:
    """Talk to an echo server over whatever ``connect`` opens."""
    messages = [[b"client %d says %d\n" % (n, k) * (k + 1) for k in range(20)] for n in range(AT_ONCE)]
    await asyncio.gather(*(_exchange(connect, parts) for parts in messages))
    await _exchange_big(connect)
    await _break_off(connect, BIG)
    reader, writer = await connect()
    writer.write(b"still here")
    assert await reader.readexactly(10) == b"still here"
    yield
    assert await reader.read() == b""
    await _close(writer)


@asynccontextmanager
async def tcp(place: Place) -> AsyncIterator[None]:
    """Talk to an echo server over TCP."""
    async with stream(lambda: asyncio.open_connection(*place)):
        yield


@asynccontextmanager
async def iperf3(place: Place) -> AsyncIterator[None]:
    """Measure against it with the stock iperf3, in both directions, between clients that it refuses."""
    program = shutil.which("iperf3")
    if program is None:
        pytest.skip("iperf3 is not installed; remedy: apt-get install iperf3")
    for words in (["-u"], [], ["--bidir"], ["-R", "-P", "2"]):
        child = await asyncio.create_subprocess_exec(
            program, "-J", "-c", place[0], "-p", str(place[1]), "-n", "2M", *words, stdout=asyncio.subprocess.PIPE
        )
        told = json.loads((await child.communicate())[0])
        if words in (["-u"], ["--bidir"]):
            assert "you are trying to set is not" in told["error"], told
            continue
        assert child.returncode == 0 and "error" not in told, told
        assert told["end"]["sum_received"]["bytes"] > 0
    yield


@asynccontextmanager
async def unix(path: str) -> AsyncIterator[None]:
    """Talk to an echo server over a Unix socket."""
    async with stream(lambda: asyncio.open_unix_connection(path)):
        yield


@asynccontextmanager
async def tls(place: Place, trust: str) -> AsyncIterator[None]:
    """Talk to an echo server over TLS, and refuse it where its certificate isn't trusted."""
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(*place, ssl=ssl.create_default_context())
    context = ssl.create_default_context(cafile=trust)
    async with stream(lambda: asyncio.open_connection(*place, ssl=context)):
        yield


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Place) -> None:
        self.received.put_nowait(data)


@asynccontextmanager
async def udp(place: Place) -> AsyncIterator[None]:
    """Send datagrams, one at a time from each socket, so that no buffer drops any."""
    loop = asyncio.get_running_loop()

    async def exchange(parts: list[bytes]) -> None:
        transport, protocol = await loop.create_datagram_endpoint(_Datagrams, remote_addr=place)
        for part in parts:
            transport.sendto(part)
            assert await protocol.received.get() == part
        transport.close()

    messages = [[b"client %d says %d" % (n, k) * (k + 1) for k in range(20)] for n in range(AT_ONCE)]
    await asyncio.gather(*(exchange(parts) for parts in messages))
    size = 65507  # the most that IPv4's 16-bit total length leaves: 65535 - 20 - 8
    await exchange([BIG[start : start + size] for start in range(0, len(BIG), size)])
    yield


@asynccontextmanager
async def chat(place: Place) -> AsyncIterator[None]:
    """Come in one after the other, and hear everybody else but not oneself."""
    lines = [BIG[start : start + 1000].hex().encode() + b"\n" for start in range(0, 1 << 19, 1000)]
    readers: list[asyncio.StreamReader] = []
    writers: list[asyncio.StreamWriter] = []
    for number in range(AT_ONCE):
        reader, writer = await asyncio.open_connection(*place)
        writer.write(b"client%d\n" % number)
        answer = b"welcome client%d, you are number %d\n" % (number, number + 1)
        assert await reader.readline() == answer
        for other in readers:
            assert await other.readline() == b"* client%d came\n" % number
        readers.append(reader)
        writers.append(writer)
    writers[0].writelines(lines)  # 1 MiB, to each of the others
    for reader in readers[1:]:
        for line in lines:
            assert await reader.readline() == b"client0: " + line
    writers[1].write(b"bye\n")
    assert await readers[0].readline() == b"client1: bye\n"
    await _close(writers[1])
    assert await readers[0].readline() == b"* client1 left\n"
    yield
    for writer in writers:
        await _close(writer)


@asynccontextmanager
async def http_by_aiohttp(place: Place) -> AsyncIterator[None]:
    """Ask over several connections, with bodies of known length and in chunks."""
    url = "http://{}:{}".format(*place)
    async with aiohttp.ClientSession() as session:

        async def ask(number: int) -> None:
            body = b"client %d " % number * 1000
            for _ in range(5):
                async with session.post(f"{url}/echo", data=body) as answer:
                    assert await answer.read() == body

        await asyncio.gather(*(ask(number) for number in range(AT_ONCE)))
        async with session.post(f"{url}/echo", data=BIG) as answer:
            assert await answer.read() == BIG
        async with session.get(f"{url}/count", params={"to": "1000"}) as answer:
            assert await answer.read() == b"".join(b"%d\n" % number for number in range(1000))
        async with session.get(f"{url}/nothing") as answer:
            assert answer.status == 404
        await by_curl(url)
        await break_off_a_request(place)
        yield  # with the session's connections kept alive


@asynccontextmanager
async def http_by_httpx(place: Place) -> AsyncIterator[None]:
    """Ask over several connections, and send one body in pieces."""
    url = "http://{}:{}".format(*place)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(BIG), 10_000):
            yield BIG[start : start + 10_000]

    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:

        async def ask(number: int) -> None:
            body = b"client %d " % number * 1000
            for _ in range(5):
                assert (await client.post(f"{url}/echo", content=body)).content == body

        await asyncio.gather(*(ask(number) for number in range(AT_ONCE)))
        assert (await client.post(f"{url}/echo", content=BIG)).content == BIG
        assert (await client.post(f"{url}/echo", content=pieces())).content == BIG
        assert (await client.get(f"{url}/nothing")).status_code == 404
        await by_curl(url)
        await break_off_a_request(place)
        yield  # with the client's connections kept alive


async def ask(place: Place) -> None:
    """Ask once, over a connection of its own."""
    async with aiohttp.ClientSession() as session, session.get("http://{}:{}/".format(*place)) as answer:
        assert await answer.text() == "hello\n"


async def by_curl(url: str) -> None:
    """Ask once more with curl, where there is one: a client that isn't Python."""
    if shutil.which("curl"):
        words = ["curl", "--silent", "--noproxy", "*", "--max-time", "60", f"{url}/"]
        child = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        answer, _ = await child.communicate()
        assert answer == b"hello\n"


@asynccontextmanager
async def http_by_tornado(place: Place) -> AsyncIterator[None]:
    """Ask by Tornado's own client, then talk over its WebSocket."""
    url = "http://{}:{}".format(*place)
    client = AsyncHTTPClient(force_instance=True)

    async def post(body: bytes) -> bytes:
        kind = {"Content-Type": "application/octet-stream"}  # its own would be a form's
        answer = await client.fetch(f"{url}/echo", method="POST", body=body, headers=kind)
        return answer.body

    async def ask(number: int) -> None:
        body = b"client %d " % number * 1000
        for _ in range(5):
            assert await post(body) == body

    await asyncio.gather(*(ask(number) for number in range(AT_ONCE)))
    assert await post(BIG) == BIG
    await by_curl(url)
    await break_off_a_request(place)
    client.close()
    channel = await websocket_connect("ws://{}:{}/socket".format(*place))
    for message in ("text", b"bytes", "ünïcode" * 1000):
        await channel.write_message(message, binary=isinstance(message, bytes))
        assert await channel.read_message() == message
    yield
    assert await channel.read_message() is None  # closed by the server
    channel.close()


@asynccontextmanager
async def websocket(place: Place) -> AsyncIterator[None]:
    """Talk over several WebSockets; text stays text and bytes stay bytes."""
    url = "ws://{}:{}".format(*place)

    async def talk(number: int) -> None:
        async with websockets.connect(url, proxy=None) as channel:
            for message in [f"client {number} says {k}" * (k + 1) for k in range(20)]:
                await channel.send(message)
                assert await channel.recv() == message

    await asyncio.gather(*(talk(number) for number in range(AT_ONCE)))
    async with websockets.connect(url, proxy=None) as channel:
        channel.transport.abort()  # without a good-bye
    async with websockets.connect(url, proxy=None, max_size=None) as channel:
        await channel.send(BIG)
        assert await channel.recv() == BIG
        yield
        with pytest.raises(websockets.ConnectionClosedOK):  # the server said good-bye
            await channel.recv()


@asynccontextmanager
async def socket_io(place: Place) -> AsyncIterator[None]:
    """Talk over WebSocket and over long polling; all hear what one of them shouts."""
    url = "http://{}:{}".format(*place)
    async with AsyncExitStack() as stack:
        clients, heard, gone = [], asyncio.Queue[str](), asyncio.Queue[str]()
        for transport in ["websocket"] * (AT_ONCE - 1) + ["polling"]:
            client = socketio.AsyncClient(reconnection=False)
            client.on("heard", heard.put)
            client.on("disconnect", gone.put)
            await client.connect(url, transports=[transport])
            stack.push_async_callback(client.eio.disconnect, abort=True)  # waits for no poll
            clients.append(client)
        for number, client in enumerate(clients):
            for message in (f"client {number}", b"client %d" % number * 1000):
                assert await client.call("echo", message) == message
        assert await clients[0].call("echo", BIG) == BIG
        await clients[0].emit("shout", "hey")
        assert [await heard.get() for _ in clients] == ["HEY"] * len(clients)
        yield
        assert len([await gone.get() for _ in clients]) == len(clients)

"""Contract: datagrams, TLS, pipes, child processes, bare sockets, fork.

It knows the rest of what asyncio programs ask of a loop beside plain streams.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import ssl
import sys
import tempfile

from .contract import (
    Recorder,
    accepted,
    on_loop,
    payload,
    read_raw,
    run,
    scenario,
    turns,
    write_raw,
)
from .subjects import LoopFactory


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[tuple[bytes, object]] = asyncio.Queue()
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()
        self.lost = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.got.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.put_nowait(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


@on_loop
async def datagrams_keep_their_borders_and_their_senders() -> None:
    loop = asyncio.get_running_loop()
    server, at_server = await loop.create_datagram_endpoint(_Datagrams, ("127.0.0.1", 0))
    address = server.get_extra_info("sockname")
    client, at_client = await loop.create_datagram_endpoint(_Datagrams, remote_addr=address)
    client_address = client.get_extra_info("sockname")
    # 60,000 bytes fit one IPv4 datagram; an empty one is a datagram too, but asyncio's
    # sendto() ignores it before Python 3.13, so that a bare socket sends it.
    for data in (b"one", payload(60_000), b"three"):
        client.sendto(data)
        assert await at_server.got.get() == (data, client_address)
        server.sendto(data, client_address)
        assert await at_client.got.get() == (data, address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bare:
        bare.sendto(b"", address)
        assert (await at_server.got.get())[0] == b""
        for number in range(100):
            bare.sendto(b"%d" % number, address)
        for number in range(100):
            assert (await at_server.got.get())[0] == b"%d" % number
    client.close()
    server.close()
    assert await at_client.lost is None
    assert await at_server.lost is None


@on_loop
async def an_unreachable_port_is_reported_and_the_endpoint_goes_on() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        address = peer.getsockname()
    client, at_client = await loop.create_datagram_endpoint(_Datagrams, remote_addr=address)
    client.sendto(b"is anybody there?")
    assert isinstance(await at_client.errors.get(), ConnectionRefusedError)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(address)
        client.sendto(b"now?")
        peer.setblocking(False)
        assert await read_raw(peer, 4) == b"now?"
        peer.sendto(b"yes", client.get_extra_info("sockname"))
        assert (await at_client.got.get())[0] == b"yes"
    client.close()
    assert await at_client.lost is None


def _tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    # The certificates that CPython's own tests use; they are installed with them.
    utils = importlib.import_module("test.test_asyncio.utils")
    server: ssl.SSLContext = utils.simple_server_sslcontext()
    client: ssl.SSLContext = utils.simple_client_sslcontext()
    return server, client


@on_loop
async def tls_carries_much_and_ends_cleanly() -> None:
    server_context, client_context = _tls_contexts()
    data = payload(1 << 20)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(data)))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client_context)
    assert writer.get_extra_info("cipher")
    writer.write(data)
    assert await reader.read() == data
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@on_loop
async def a_plain_stream_becomes_tls_on_both_sides() -> None:
    loop = asyncio.get_running_loop()
    server_context, client_context = _tls_contexts()
    server_sock, client_sock = socket.socketpair()
    server_plain, at_server = await loop.create_connection(Recorder, sock=server_sock)
    client_plain, at_client = await loop.create_connection(Recorder, sock=client_sock)
    client_plain.write(b"STARTTLS\n")
    await at_server.until_received(9)
    server_tls, client_tls = await asyncio.gather(
        loop.start_tls(server_plain, at_server, server_context, server_side=True),
        loop.start_tls(client_plain, at_client, client_context),
    )
    assert server_tls is not None and client_tls is not None
    at_server.received.clear()
    data = payload(300_000)
    client_tls.write(data)
    await at_server.until_received(len(data))
    assert at_server.received == data
    server_tls.write(b"bye")
    await at_client.until_received(3)
    server_tls.close()
    await at_client.until_call("connection_lost")
    await at_server.until_call("connection_lost")


@on_loop
async def a_tls_handshake_with_a_peer_that_leaves_raises() -> None:
    loop = asyncio.get_running_loop()
    _, client_context = _tls_contexts()
    near, far = socket.socketpair()
    far.close()
    try:
        await loop.create_connection(Recorder, sock=near, ssl=client_context, server_hostname="")
    except (ConnectionError, ssl.SSLError):
        return
    raise AssertionError("the handshake did not fail")


@on_loop
async def pipes_read_to_the_end_and_write_with_flow_control() -> None:
    loop = asyncio.get_running_loop()
    data = payload(1 << 20)
    read_fd, write_fd = os.pipe()
    reader = asyncio.StreamReader()
    read_transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_fd, "rb", 0)
    )
    write_transport, writer = await loop.connect_write_pipe(PipeWriter, os.fdopen(write_fd, "wb", 0))
    write_transport.write(data)
    assert writer.calls[-1] == "pause_writing"  # a pipe holds 64 KiB (pipe(7))
    assert await reader.readexactly(len(data)) == data
    while writer.calls[-1] != "resume_writing":
        await asyncio.sleep(0.001)
    write_transport.write_eof()
    assert await reader.read() == b""
    while writer.calls[-1] != "connection_lost":
        await asyncio.sleep(0.001)
    read_transport.close()
    await turns(3)


class PipeWriter(asyncio.BaseProtocol):
    """Keeps the callbacks of a pipe's writing end."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_writing(self) -> None:
        self.calls.append("pause_writing")

    def resume_writing(self) -> None:
        self.calls.append("resume_writing")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.calls.append("connection_lost")


@on_loop
async def the_writing_end_of_a_pipe_learns_that_its_reader_has_gone() -> None:
    loop = asyncio.get_running_loop()
    read_fd, write_fd = os.pipe()
    _, writer = await loop.connect_write_pipe(PipeWriter, os.fdopen(write_fd, "wb", 0))
    os.close(read_fd)
    while "connection_lost" not in writer.calls:
        await asyncio.sleep(0.001)


@on_loop
async def a_child_process_talks_over_its_pipes_and_tells_its_status() -> None:
    data = payload(1 << 20)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d);sys.stderr.write('done'); sys.exit(7)",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(data)
    assert (out, err, process.returncode) == (data, b"done", 7)


@on_loop
async def several_child_processes_end_each_in_its_own_way() -> None:
    sleeper = await asyncio.create_subprocess_exec("sleep", "1000")
    quick = await asyncio.create_subprocess_shell("exit 3")
    echo = await asyncio.create_subprocess_shell("read line; echo got $line", stdin=-1, stdout=asyncio.subprocess.PIPE)
    assert await quick.wait() == 3
    assert echo.stdin is not None and echo.stdout is not None
    echo.stdin.write(b"it\n")
    assert await echo.stdout.readline() == b"got it\n"
    assert await echo.wait() == 0
    sleeper.kill()
    assert await sleeper.wait() == -signal.SIGKILL


@on_loop
async def bare_sockets_connect_accept_send_and_receive() -> None:
    loop = asyncio.get_running_loop()
    data = payload(1 << 20)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        accepting = asyncio.create_task(loop.sock_accept(listener))
        await turns(2)
        await loop.sock_connect(client, listener.getsockname())
        server, address = await accepting
        assert address == client.getsockname()
        with server:
            sending = asyncio.create_task(loop.sock_sendall(client, data))
            got = bytearray(len(data))
            view = memoryview(got)
            while view:
                view = view[await loop.sock_recv_into(server, view) :]
            await sending
            assert got == data
            receiving = asyncio.create_task(loop.sock_recv(client, 10))
            await turns(2)
            await loop.sock_sendall(server, b"back")
            assert await receiving == b"back"
            server.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(client, 10) == b""


@on_loop
async def files_go_out_by_sendfile() -> None:
    loop = asyncio.get_running_loop()
    data = payload(1 << 20)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        sending = asyncio.create_task(loop.sock_sendfile(near, file, 100))
        assert await read_raw(far, len(data) - 100) == data[100:]
        assert await sending == len(data) - 100
        near.close()
        far.close()
        async with await accepted() as connection:
            connection.transport.write(b"head")
            whole = asyncio.create_task(loop.sendfile(connection.transport, file))
            assert await read_raw(connection.far, 4 + len(data)) == b"head" + data
            assert await whole == len(data)
            await write_raw(connection.far, b"and back")
            await connection.near.until_received(8)


@scenario
def a_forked_child_makes_a_loop_of_its_own_and_the_parent_goes_on(make: LoopFactory) -> None:
    async def exchange() -> None:
        async with await accepted() as connection:
            await write_raw(connection.far, b"ping")
            await connection.near.until_received(4)
            connection.transport.write(b"pong")
            assert await read_raw(connection.far, 4) == b"pong"

    async def main() -> None:
        async with await accepted() as connection:
            await write_raw(connection.far, b"before")
            await connection.near.until_received(6)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    asyncio.set_event_loop(None)
                    asyncio.events._set_running_loop(None)
                    run(make, exchange())
                    status = 0
                finally:
                    os._exit(status)
            await write_raw(connection.far, b" after")
            await connection.near.until_received(12)
            assert connection.near.received == b"before after"
            _, wait_status = await asyncio.to_thread(os.waitpid, child, 0)
            assert wait_status == 0, f"the child failed with wait status {wait_status}"
        await exchange()

    run(make, main())


@scenario
def two_loops_take_turns_in_one_thread(make: LoopFactory) -> None:
    first, second = make(), make()
    try:
        for number in range(3):
            for loop in (first, second):
                task = loop.create_task(asyncio.sleep(0, number))
                assert loop.run_until_complete(task) == number
        order: list[str] = []
        first.call_soon(order.append, "first")
        second.run_until_complete(asyncio.sleep(0.001))
        assert order == [], "a loop ran another loop's callback"
        first.run_until_complete(asyncio.sleep(0))
        assert order == ["first"]
    finally:
        first.close()
        second.close()

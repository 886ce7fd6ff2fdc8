"""asyncio over the user-space stack: programs that never heard of it talk to themselves through all its layers.

Everything here runs on the network "lo", so that no device and no permission is needed. What the kernel says to the
stack is in tests/journeys/test_net.py.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Coroutine
from typing import TypeVar, cast

import pytest

from underlay.errors import UnderlayError
from underlay.loop import stack_loop
from underlay.loop._bridge import FIRST_NUMBER
from underlay.loop._io_stack import StackLoop
from underlay.loop._stack_socket import StackSocket

T = TypeVar("T")
HOST = "127.0.0.1"


def run(main: Coroutine[object, object, T], **names: str) -> T:
    with asyncio.Runner(loop_factory=lambda: stack_loop("lo", names=names)) as runner:
        return runner.run(main)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


# --- streams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_stream_comes_back_whole(host: str) -> None:
    sent = os.urandom(3_000_000)

    async def main() -> bytes:
        async with await asyncio.start_server(echo, host, 7777):
            reader, writer = await asyncio.open_connection(host, 7777)

            async def send() -> None:
                writer.write(sent)
                await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            received = await reader.read(-1)
            await sending
            writer.close()
            await writer.wait_closed()
            return received

    assert run(main()) == sent


def test_no_thread_and_no_descriptor_of_the_kernels_is_a_connection() -> None:
    async def main() -> tuple[int, int, list[int]]:
        before = len(os.listdir("/proc/self/fd"))
        async with await asyncio.start_server(echo, HOST, 7777):
            pairs = [await asyncio.open_connection(HOST, 7777) for _ in range(20)]
            numbers = [writer.get_extra_info("socket").fileno() for _, writer in pairs]
            grown = len(os.listdir("/proc/self/fd")) - before
            threads = threading.active_count()
            for _, writer in pairs:
                writer.close()
            return grown, threads, numbers

    grown, threads, numbers = run(main())
    assert (grown, threads) == (0, 1)
    assert all(number >= FIRST_NUMBER for number in numbers) and len(set(numbers)) == 20


def test_addresses_are_told_as_by_the_kernels_sockets() -> None:
    async def main() -> tuple[object, ...]:
        seen: list[object] = []

        async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.extend((writer.get_extra_info("sockname"), writer.get_extra_info("peername")))
            writer.close()

        async with await asyncio.start_server(note, HOST, 0) as server:
            bound = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*bound)
            mine, theirs = writer.get_extra_info("sockname"), writer.get_extra_info("peername")
            await reader.read()
            writer.close()
        return bound, mine, theirs, *seen

    bound, mine, theirs, server_side, client_side = run(main())
    assert bound == theirs == server_side and mine == client_side
    assert bound[0] == mine[0] == HOST and bound[1] != mine[1]  # type: ignore[index]


def test_a_port_where_nobody_listens_refuses() -> None:
    async def main() -> None:
        await asyncio.open_connection(HOST, 9)

    with pytest.raises(ConnectionRefusedError):
        run(main())


def test_a_destination_without_a_route_is_unreachable() -> None:
    async def main() -> None:
        await asyncio.open_connection("192.0.2.1", 9)

    with pytest.raises(OSError) as refused:
        run(main())
    assert refused.value.errno == errno.ENETUNREACH


def test_a_port_that_is_taken_is_taken() -> None:
    async def main() -> None:
        async with await asyncio.start_server(echo, HOST, 7777):
            await asyncio.start_server(echo, HOST, 7777)

    with pytest.raises(OSError) as refused:
        run(main())
    assert refused.value.errno == errno.EADDRINUSE


def test_a_peer_that_aborts_resets() -> None:
    async def main() -> None:
        accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()

        async def keep(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer)

        async with await asyncio.start_server(keep, HOST, 7777):
            reader, writer = await asyncio.open_connection(HOST, 7777)
            peer = (await accepted).get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            (await accepted).transport.abort()
            try:
                await reader.read()
            finally:
                writer.close()

    with pytest.raises(ConnectionResetError):
        run(main())


def test_a_slow_reader_holds_the_writer_back() -> None:
    async def main() -> tuple[int, int]:
        accepted: asyncio.Future[asyncio.StreamReader] = asyncio.get_running_loop().create_future()
        over = asyncio.Event()

        async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(reader)
            await over.wait()
            writer.transport.abort()  # its reading may be paused, and then it never hears of the other end's abort

        async with await asyncio.start_server(keep, HOST, 7777):
            _, writer = await asyncio.open_connection(HOST, 7777)
            sent = 0
            while True:
                writer.write(bytes(65536))
                sent += 65536
                try:
                    async with asyncio.timeout(0.3):
                        await writer.drain()
                except TimeoutError:
                    break
            held = sent
            reader = await accepted
            received = 0
            while received < held:
                received += len(await reader.read(1 << 20))
            await writer.drain()
            writer.transport.abort()
            over.set()
            return held, received

    held, received = run(main())
    assert received == held


def test_tls_runs_over_the_stack(tmp_path_factory: pytest.TempPathFactory) -> None:
    import trustme

    authority = trustme.CA()
    server_side, client_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server_side)
    authority.configure_trust(client_side)

    async def main() -> bytes:
        async with await asyncio.start_server(echo, HOST, 7777, ssl=server_side):
            reader, writer = await asyncio.open_connection(HOST, 7777, ssl=client_side, server_hostname="localhost")
            writer.write(b"secret" * 20_000)
            answer = await reader.readexactly(120_000)
            writer.close()
            return answer

    assert run(main()) == b"secret" * 20_000


# --- datagrams ----------------------------------------------------------------------------------------------------


def test_datagrams_keep_their_boundaries() -> None:
    class Mirror(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.DatagramTransport, transport)  # by class only since Python 3.12

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(data[::-1], addr)

    class Collect(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.got: asyncio.Queue[bytes] = asyncio.Queue()

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.got.put_nowait(data)

    async def main() -> list[bytes]:
        loop = asyncio.get_running_loop()
        server, _ = await loop.create_datagram_endpoint(Mirror, local_addr=(HOST, 5353))
        client, collect = await loop.create_datagram_endpoint(Collect, remote_addr=(HOST, 5353))
        for size in (1, 1000, 60_000):
            client.sendto(b"a" + b"b" * size)
        got = [await collect.got.get() for _ in range(3)]
        client.close()
        server.close()
        return got

    assert run(main()) == [b"b" * size + b"a" for size in (1, 1000, 60_000)]


def test_a_datagram_that_nobody_takes_is_refused_to_a_connected_socket() -> None:
    class Note(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.error: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

        def error_received(self, exc: Exception) -> None:
            self.error.set_result(exc)

    async def main() -> Exception:
        client, note = await asyncio.get_running_loop().create_datagram_endpoint(Note, remote_addr=(HOST, 9))
        client.sendto(b"anybody?")
        error = await note.error
        client.close()
        return error

    assert isinstance(run(main()), ConnectionRefusedError)


# --- sockets that a program makes itself ----------------------------------------------------------------------------


def test_a_socket_made_in_a_coroutine_is_the_stacks_and_one_made_elsewhere_the_kernels() -> None:
    async def main() -> tuple[socket.socket, socket.socket, socket.socket]:
        inside = socket.socket()
        unix = socket.socket(socket.AF_UNIX)
        in_thread = await asyncio.to_thread(socket.socket)
        return inside, unix, in_thread

    inside, unix, in_thread = run(main())
    outside = socket.socket()
    with inside, unix, in_thread, outside:
        assert type(inside) is StackSocket and isinstance(inside, socket.socket)
        assert [type(sock) for sock in (unix, in_thread, outside)] == [socket.socket] * 3


def test_sock_calls_of_the_loop_take_a_socket_of_the_stack() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        with socket.socket() as listener, socket.socket() as client:
            for sock in (listener, client):
                sock.setblocking(False)
            listener.bind((HOST, 0))
            listener.listen()
            accepting = asyncio.create_task(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            server, address = await accepting
            assert address == client.getsockname()
            with server:
                sending = asyncio.create_task(loop.sock_sendall(client, b"x" * 500_000))
                received = 0
                while received < 500_000:
                    received += len(await loop.sock_recv(server, 65536))
                await sending
                buffer = bytearray(5)
                await loop.sock_sendall(server, b"hello")
                await loop.sock_recv_into(client, buffer)
                return bytes(buffer)

    assert run(main()) == b"hello"


def test_a_blocking_call_pumps_the_stack_until_its_time_is_over() -> None:
    async def main() -> bytes:
        with (
            socket.create_server((HOST, 7777)) as listener,
            socket.create_connection((HOST, 7777), timeout=5) as client,
            listener.accept()[0] as server,
        ):
            client.sendall(b"ping")
            answer = server.recv(10)
            client.settimeout(0.01)
            with pytest.raises(TimeoutError):
                client.recv(1)
            server.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
            with client.makefile("wb") as file:
                file.write(b" and pong")
            return answer + server.recv(20)

    assert run(main()) == b"ping and pong"


def test_what_the_stack_lacks_is_refused_with_the_kernels_errno() -> None:
    async def main() -> None:
        with pytest.raises(OSError) as refused:
            StackSocket(socket.AF_UNIX)
        assert refused.value.errno == errno.EAFNOSUPPORT
        with socket.socket() as sock:
            for level, name in ((socket.SOL_SOCKET, 9999), (socket.IPPROTO_TCP, 9999)):
                for call in (lambda: sock.setsockopt(level, name, 1), lambda: sock.getsockopt(level, name)):  # noqa: B023
                    with pytest.raises(OSError) as refused:
                        call()
                    assert refused.value.errno == errno.ENOPROTOOPT
            with pytest.raises(OSError) as refused:
                sock.getpeername()
            assert refused.value.errno == errno.ENOTCONN
            with pytest.raises(OSError) as refused:
                sock.bind(("192.0.2.1", 0))
            assert refused.value.errno == errno.EADDRNOTAVAIL
        with pytest.raises(OSError) as refused:
            sock.recv(1)
        assert refused.value.errno == errno.EBADF and sock.fileno() == -1

    run(main())


def test_options_are_told_as_they_were_set() -> None:
    async def main() -> None:
        with socket.socket() as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
            for level, name, value in (
                (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
            ):
                sock.setsockopt(level, name, value)
                assert sock.getsockopt(level, name) == value
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16) == b"reno".ljust(16, b"\0")

    run(main())


def test_a_detached_socket_lives_on_under_its_number() -> None:
    async def main() -> bytes:
        with socket.create_server((HOST, 7777)) as listener, socket.create_connection((HOST, 7777)) as client:
            server = listener.accept()[0]
            number = server.detach()
            assert server.fileno() == -1
            with socket.socket(fileno=number) as again:
                again.sendall(b"still here")
                client.settimeout(5)
                return client.recv(20)

    assert run(main()) == b"still here"


# --- the life of the loop -------------------------------------------------------------------------------------------


def test_unix_sockets_pipes_subprocesses_and_executors_are_the_kernels() -> None:
    async def main() -> tuple[bytes, int]:
        left, right = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=left)
        right.sendall(b"unix")
        data = await reader.readexactly(4)
        writer.close()
        right.close()
        child = await asyncio.create_subprocess_exec("true")
        await child.wait()
        return data, await asyncio.get_running_loop().run_in_executor(None, lambda: 42)

    assert run(main()) == (b"unix", 42)


IN_FLIGHT = """
import asyncio, gc, os, threading
from underlay.loop import stack_loop

async def hold(reader, writer):
    await reader.read(10)
    await asyncio.Event().wait()

async def main():
    server = await asyncio.start_server(hold, "127.0.0.1", 7777)
    pairs = [await asyncio.open_connection("127.0.0.1", 7777) for _ in range(3)]
    pairs[-1][1].write(b"x" * 1_000_000)
    await asyncio.sleep(0.01)
    return server, pairs

before = os.listdir("/proc/self/fd")
loop = stack_loop("lo")
kept = loop.run_until_complete(main())
loop.close()
print(os.listdir("/proc/self/fd") == before, threading.active_count())
del kept
gc.collect()
"""


def test_a_loop_closed_with_everything_in_flight_leaves_no_descriptor() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_FLIGHT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True 1\n"), done.stderr
    assert "Traceback" not in done.stderr


def test_one_network_is_driven_by_one_loop_at_a_time() -> None:
    first = stack_loop("lo")
    assert isinstance(first, StackLoop)
    second = StackLoop(first._bridge, owns_network=False)

    async def main() -> None:
        await asyncio.to_thread(drive_second)

    def drive_second() -> None:
        with pytest.raises(RuntimeError, match="another event loop drives this network"):
            second.run_forever()

    first.run_until_complete(main())
    second.run_until_complete(asyncio.sleep(0))
    second.close()
    first.close()


def test_a_socket_of_the_kernels_is_served_and_said_to_be_the_kernels_once() -> None:
    async def main(listener: socket.socket, client: socket.socket, datagrams: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        async with await asyncio.start_server(echo, sock=listener):
            await loop.sock_connect(client, listener.getsockname())
            loop.add_reader(datagrams, lambda: None)
            loop.remove_reader(datagrams)
            await loop.sock_sendall(client, b"by the kernel")
            answer = await loop.sock_recv(client, 99)
            client.close()  # since 3.12 the server's end waits for that of its connections
            return answer

    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    with socket.create_server((HOST, 0)) as listener, socket.socket() as client, datagrams:
        client.setblocking(False)
        with pytest.warns(RuntimeWarning, match="make it in a coroutine of the loop") as warned:
            assert run(main(listener, client, datagrams)) == b"by the kernel"
    assert len(warned) == 1


def test_other_descriptors_of_the_kernels_are_nothing_to_warn_of() -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        reading, writing = os.pipe()
        loop = asyncio.get_running_loop()
        with left, right:
            for fd in (left, reading):
                loop.add_reader(fd, lambda: None)
                await asyncio.sleep(0)
                loop.remove_reader(fd)
        os.close(reading)
        os.close(writing)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main())


def test_a_socket_of_the_stack_outside_of_its_loop_says_where_it_belongs() -> None:
    with pytest.raises(UnderlayError, match="outside of its loop"):
        StackSocket()


# --- programs -------------------------------------------------------------------------------------------------------


def test_aiohttps_server_and_client_run_unmodified() -> None:
    from aiohttp import ClientSession, web

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello " + (await request.text()))

    async def main() -> list[str]:
        app = web.Application()
        app.router.add_post("/", hello)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, HOST, 8080).start()
        async with ClientSession() as session:

            async def ask(who: int) -> str:
                async with session.post("http://127.0.0.1:8080/", data=str(who)) as answer:
                    return await answer.text()

            answers = await asyncio.gather(*(ask(who) for who in range(50)))
        await runner.cleanup()
        return answers

    assert run(main()) == [f"hello {who}" for who in range(50)]


def test_websockets_run_unmodified() -> None:
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import ServerConnection, serve

    async def mirror(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message[::-1])

    async def main() -> list[str | bytes]:
        async with serve(mirror, HOST, 8765), connect("ws://127.0.0.1:8765") as socket:
            answers = []
            for message in ("abc", b"\x01\x02" * 100_000):
                await socket.send(message)
                answers.append(await socket.recv())
            return answers

    assert run(main()) == ["cba", b"\x02\x01" * 100_000]

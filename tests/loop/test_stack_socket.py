"""A socket of the stack beside one of the kernel's: the same calls, the same answers, and the same end.

It knows what programs do with sockets by hand. What asyncio makes of them is in `test_io_stack.py`.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import TypeVar

import pytest

from underlay.loop import stack_loop
from underlay.loop._io_stack import StackLoop
from underlay.loop._stack_options import Options
from underlay.loop._stack_socket import StackSocket

T = TypeVar("T")
HOST = "127.0.0.1"
SOL, TCP, IP, IPV6 = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6


def run(main: Coroutine[object, object, T]) -> T:
    with asyncio.Runner(loop_factory=lambda: stack_loop("lo")) as runner:
        return runner.run(main)


def pair(**options: int) -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection, with time-outs."""
    with socket.create_server((HOST, 7777)) as listener:
        for name, value in options.items():
            listener.setsockopt(SOL, getattr(socket, name), value)
        client = socket.create_connection((HOST, 7777), timeout=5)
        server = listener.accept()[0]
        server.settimeout(5)
        return client, server


# --- the same as the kernel's -----------------------------------------------------------------------------------------

OPTIONS: list[tuple[int, int, int, int | bytes]] = [
    (socket.SOCK_STREAM, SOL, socket.SO_KEEPALIVE, 5),
    (socket.SOCK_STREAM, SOL, socket.SO_KEEPALIVE, -1),
    (socket.SOCK_STREAM, SOL, socket.SO_REUSEADDR, True),
    (socket.SOCK_STREAM, SOL, socket.SO_SNDBUF, 0),
    (socket.SOCK_STREAM, SOL, socket.SO_RCVBUF, 1),
    (socket.SOCK_STREAM, SOL, socket.SO_SNDBUF, 20_000),
    (socket.SOCK_STREAM, SOL, socket.SO_KEEPALIVE, b"\0"),
    (socket.SOCK_STREAM, SOL, socket.SO_LINGER, b"\0"),
    (socket.SOCK_STREAM, SOL, socket.SO_LINGER, struct.pack("ii", 1, 7)),
    (socket.SOCK_STREAM, SOL, 9999, 1),
    (socket.SOCK_STREAM, TCP, 9999, 1),
    (socket.SOCK_STREAM, TCP, socket.TCP_NODELAY, 2),
    (socket.SOCK_STREAM, TCP, socket.TCP_KEEPIDLE, 0),
    (socket.SOCK_STREAM, TCP, socket.TCP_KEEPIDLE, 32_768),
    (socket.SOCK_STREAM, TCP, socket.TCP_KEEPINTVL, 30),
    (socket.SOCK_STREAM, TCP, socket.TCP_KEEPCNT, 128),
    (socket.SOCK_STREAM, TCP, socket.TCP_SYNCNT, 0),
    (socket.SOCK_STREAM, TCP, socket.TCP_USER_TIMEOUT, -1),
    (socket.SOCK_STREAM, TCP, socket.TCP_CONGESTION, b"no such one"),
    (socket.SOCK_STREAM, IP, socket.IP_TTL, 256),
    (socket.SOCK_STREAM, IP, socket.IP_TTL, 0),
    (socket.SOCK_STREAM, IP, socket.IP_TTL, -1),
    (socket.SOCK_STREAM, IP, socket.IP_TTL, b"\x07"),
    (socket.SOCK_DGRAM, IP, socket.IP_MULTICAST_TTL, 256),
    (socket.SOCK_DGRAM, IP, socket.IP_MULTICAST_LOOP, b"\0"),
    (socket.SOCK_DGRAM, SOL, socket.SO_BROADCAST, 3),
    (socket.SOCK_DGRAM, TCP, socket.TCP_NODELAY, 1),
]


def outcome(sock: socket.socket, level: int, name: int, value: int | bytes) -> object:
    size = 8 if (level, name) == (SOL, socket.SO_LINGER) else 0
    try:
        sock.setsockopt(level, name, value)
        return sock.getsockopt(level, name, size) if size else sock.getsockopt(level, name)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@pytest.mark.parametrize(("kind", "level", "name", "value"), OPTIONS)
def test_an_option_is_taken_or_refused_as_by_the_kernel(kind: int, level: int, name: int, value: int | bytes) -> None:
    async def main() -> tuple[object, object]:
        with socket.socket(socket.AF_INET, kind) as sock:
            told = outcome(sock, level, name, value)
            sock.setsockopt(SOL, socket.SO_REUSEADDR, 1)  # a refused option spoils no other
            return told, type(sock)

    here, kind_of_socket = run(main())
    with socket.socket(socket.AF_INET, kind) as sock:
        assert here == outcome(sock, level, name, value)
    assert kind_of_socket is StackSocket


CALLS: list[tuple[str, Callable[[socket.socket], object]]] = [
    ("recv before connect", lambda sock: sock.recv(1)),
    ("send before connect", lambda sock: sock.send(b"x")),
    ("getpeername before connect", lambda sock: sock.getpeername()),
    ("shutdown before connect", lambda sock: sock.shutdown(socket.SHUT_WR)),
    ("accept before listen", lambda sock: sock.accept()),
    ("negative recv", lambda sock: sock.recv(-1)),
    ("bind twice", lambda sock: [sock.bind((HOST, 0)) for _ in range(2)]),  # type: ignore[func-returns-value]
    ("bind to a stranger", lambda sock: sock.bind(("192.0.2.1", 0))),
    ("bind to a bad port", lambda sock: sock.bind((HOST, 65_536))),
    ("bind to no pair", lambda sock: sock.bind(HOST)),
    ("connect to nobody", lambda sock: sock.connect((HOST, 9))),
    ("a time-out below 0", lambda sock: sock.settimeout(-1)),
]


@pytest.mark.parametrize("call", [call for _, call in CALLS], ids=[name for name, _ in CALLS])
def test_a_wrong_call_is_refused_as_by_the_kernel(call: Callable[[socket.socket], object]) -> None:
    def refusal() -> tuple[type[BaseException], object] | None:
        with socket.socket() as sock:
            try:
                call(sock)
            except (OSError, ValueError, TypeError, OverflowError) as error:
                return type(error), getattr(error, "errno", None)
            return None

    async def main() -> tuple[type[BaseException], object] | None:
        return refusal()

    kernels = refusal()
    assert kernels is not None
    assert run(main()) == kernels


def test_as_many_syns_are_sent_again_as_the_program_says() -> None:
    options = Options()
    assert options.tcp().syn_retries is None
    options.set(TCP, socket.TCP_SYNCNT, 2)
    assert options.tcp().syn_retries == 2


def test_a_socket_whose_connection_was_refused_may_try_again() -> None:
    async def main() -> bytes:
        with socket.socket() as client:
            with pytest.raises(ConnectionRefusedError):
                client.connect((HOST, 7777))
            with socket.create_server((HOST, 7777)) as listener:
                client.connect((HOST, 7777))
                with pytest.raises(OSError) as refused:
                    client.connect((HOST, 7777))
                assert refused.value.errno == errno.EISCONN
                with listener.accept()[0] as server:
                    server.sendall(b"welcome")
                    return client.recv(10)

    assert run(main()) == b"welcome"


# --- the end of a socket ----------------------------------------------------------------------------------------------


def test_a_file_made_of_a_socket_outlives_it_and_ends_the_connection() -> None:
    async def main() -> tuple[bytes, bytes]:
        client, server = pair()
        server.sendall(b"a line\n")
        file = client.makefile("rb")
        client.close()
        line = file.readline()
        file.close()
        with server:
            return line, server.recv(1)

    assert run(main()) == (b"a line\n", b"")


def test_a_socket_that_nobody_has_any_more_is_closed_with_a_warning() -> None:
    async def main() -> bytes:
        client, server = pair()
        with pytest.warns(ResourceWarning, match="unclosed"):
            del client
            gc.collect()
        with server:
            return server.recv(1)

    assert run(main()) == b""


def test_many_sockets_leave_nothing_in_the_bridge() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StackLoop)
        for _ in range(50):
            for sock in pair():
                sock.close()
            socket.socket().close()
        await asyncio.sleep(0)
        bridge = loop._bridge
        assert not (bridge._sockets or any(bridge.readiness.counts()) or bridge._detached)

    run(main())


def test_calls_after_the_end_of_the_network_say_so() -> None:
    kept: list[socket.socket] = []

    async def main() -> None:
        kept.extend(pair())

    run(main())
    for call in (lambda: kept[0].send(b"x"), lambda: kept[1].recv(1), lambda: kept[0].getsockname()):
        with pytest.raises(OSError) as refused:
            call()
        assert refused.value.errno == errno.ENETDOWN
    for sock in kept:
        sock.close()


def test_a_blocking_call_in_another_thread_is_refused_instead_of_a_race() -> None:
    async def main() -> None:
        client, server = pair()
        with client, server, pytest.raises(RuntimeError, match="only wait in the thread that runs its loop"):
            await asyncio.to_thread(client.recv, 1)

    run(main())


def test_a_forked_child_lets_go_of_the_network() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StackLoop)
        child = os.fork()
        if not child:
            os._exit(0 if loop._bridge.closed else 1)
        status = os.waitpid(child, 0)[1]
        assert not loop._bridge.closed
        return os.waitstatus_to_exitcode(status)

    assert run(main()) == 0


def test_sendfile_begins_where_it_is_told_also_at_the_beginning(tmp_path: object) -> None:
    content = bytes(range(256)) * 20

    async def main() -> bytes:
        client, server = pair()
        with client, server, open(f"{tmp_path}/content", "w+b") as file:
            file.write(content)
            file.flush()
            client.setblocking(False)
            await asyncio.get_running_loop().sock_sendfile(client, file)
            client.close()
            received = b""
            while data := server.recv(65536):
                received += data
            return received

    assert run(main()) == content


def test_a_file_is_sent_without_leave_to_fall_back_and_nobody_writes_meanwhile(tmp_path: object) -> None:
    content = bytes(range(256)) * 4096  # more than the socket takes at once

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        client, server = pair()
        client.setblocking(False)
        server.setblocking(False)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=client)
        reader, writer = await asyncio.open_connection(sock=server)
        with open(f"{tmp_path}/content", "w+b") as file:
            file.write(content)
            file.flush()
            sending = loop.create_task(loop.sendfile(transport, file, fallback=False))
            await reader.readexactly(1)
            with pytest.raises(RuntimeError, match="sendfile is in progress"):
                transport.write(b"between")
            received = b"\0" + await reader.readexactly(len(content) - 1)
            assert await sending == len(content)
            transport.write(b"after")
            transport.close()
            received += await reader.read()
        writer.close()
        return received

    assert run(main()) == content + b"after"


def test_a_file_that_is_none_of_the_systems_needs_leave_to_fall_back() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        client, server = pair()
        with client, server:
            client.setblocking(False)
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await loop.sock_sendfile(client, io.BytesIO(b"abc"), fallback=False)
            await loop.sock_sendfile(client, io.BytesIO(b"abc"), fallback=True)
            return server.recv(10)

    assert run(main()) == b"abc"


# --- data ----------------------------------------------------------------------------------------------------


def test_many_queued_buffers_are_not_joined_again_at_each_try() -> None:
    async def main() -> list[int]:
        client, server = pair()
        with client, server:
            client.setblocking(False)
            assert isinstance(client, StackSocket)
            joined: list[int] = []
            core = client._core

            class Noting:  # a compiled core takes no other method
                def send(self, data: bytes, flags: int, target: object) -> int:
                    joined.append(len(data))
                    return core.send(data, flags, None)

                close = core.close

            client._core = Noting()  # type: ignore[assignment]
            client.sendmsg([bytes(65536)] * 1000)
            return joined

    assert run(main()) == [4 * 65536]


def test_what_came_of_a_whole_is_not_lost_where_the_rest_does_not_come() -> None:
    async def main() -> tuple[bytes, bytes]:
        client, server = pair()
        with client, server:
            server.settimeout(0.02)
            client.sendall(b"abc")
            part = server.recv(10, socket.MSG_WAITALL)
            client.sendall(b"defgh")
            return part, server.recv(5, socket.MSG_WAITALL)

    assert run(main()) == (b"abc", b"defgh")


def test_a_listener_of_two_families_that_lacks_one_is_none() -> None:
    async def main() -> None:
        with socket.create_server((HOST, 7777)), socket.socket(socket.AF_INET6) as both:
            for _ in range(2):
                with pytest.raises(OSError) as refused:
                    both.bind(("::", 7777))
                assert refused.value.errno == errno.EADDRINUSE

    run(main())


def test_the_unspecified_address_means_this_machine() -> None:
    async def main() -> tuple[bytes, bytes]:
        with (
            socket.create_server((HOST, 7777)) as listener,
            socket.create_connection(("0.0.0.0", 7777)) as client,
            listener.accept()[0] as server,
        ):
            client.sendall(b"stream")
            stream = server.recv(10)
        with socket.socket(type=socket.SOCK_DGRAM) as here, socket.socket(type=socket.SOCK_DGRAM) as there:
            there.bind((HOST, 7777))
            there.settimeout(5)
            here.sendto(b"datagram", ("0.0.0.0", 7777))
            return stream, there.recv(10)

    assert run(main()) == (b"stream", b"datagram")

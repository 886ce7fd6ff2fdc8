"""Unix sockets within a host, with the errors that Linux has."""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import socket
import stat
from collections.abc import Awaitable, Callable

import pytest

from underlay.sim import World

PATH = "/run/service.sock"


def run(test: Callable[[World], Awaitable[object]], seed: int = 1) -> object:
    return World(seed).run(test)  # type: ignore[arg-type]


def on_a(test: Callable[[], Awaitable[object]]) -> object:
    async def body(world: World) -> object:
        async with world.host("a"):
            return await test()

    return run(body)


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()


async def serve() -> None:
    async with await asyncio.start_unix_server(shout, PATH) as server:
        await server.serve_forever()


async def ask(line: bytes = b"hello\n", path: str = PATH) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line)
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer


def refused(test: Callable[[], Awaitable[object]]) -> int | None:
    with pytest.raises(OSError) as caught:
        on_a(test)
    return caught.value.errno


def test_a_unix_server_answers_within_its_host() -> None:
    async def test() -> object:
        async with await asyncio.start_unix_server(shout, PATH):
            return await ask()

    assert on_a(test) == b"HELLO\n"


def test_much_data_goes_through_in_both_directions() -> None:
    async def test() -> object:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

        data = os.urandom(3_000_000)
        async with await asyncio.start_unix_server(echo, PATH):
            reader, writer = await asyncio.open_unix_connection(PATH)

            async def send() -> None:
                writer.write(data)
                await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            came = await reader.read(-1)
            await sending
            writer.close()
            return came == data

    assert on_a(test) is True


def test_a_name_is_known_on_its_host_only_and_none_of_a_file() -> None:
    async def test(world: World) -> object:
        world.host("a", start=serve)
        async with world.host("b"):
            await asyncio.sleep(1)
            with pytest.raises(FileNotFoundError):
                await ask()
        assert not pathlib.Path(PATH).exists()
        async with world.host("a"):
            return await ask()

    assert run(test) == b"HELLO\n"


def test_nobody_by_that_name_is_enoent() -> None:
    assert refused(ask) == errno.ENOENT
    assert refused(lambda: ask(path="\0abstract")) == errno.ECONNREFUSED


def test_a_name_whose_server_is_closed_refuses_and_can_be_taken_again() -> None:
    async def test() -> object:
        (await asyncio.start_unix_server(shout, PATH)).close()
        with pytest.raises(ConnectionRefusedError):
            await ask()
        async with await asyncio.start_unix_server(shout, PATH):
            return await ask()

    assert on_a(test) == b"HELLO\n"


def test_a_server_takes_over_the_path_of_another_as_asyncio_removes_the_others_file() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def test() -> bytes:
        async with await asyncio.start_unix_server(mute, PATH), await asyncio.start_unix_server(shout, PATH):
            return await ask()

    assert on_a(test) == b"HELLO\n"


def test_an_abstract_name_that_is_taken_is_eaddrinuse() -> None:
    async def test() -> None:
        async with await asyncio.start_unix_server(shout, "\0service"):
            await asyncio.start_unix_server(shout, "\0service")

    with pytest.raises(OSError, match="is already in use"):
        on_a(test)
    assert refused(test) == errno.EADDRINUSE


def test_a_real_socket_of_that_name_is_left_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "real.sock"
    with socket.socket(socket.AF_UNIX) as real:
        real.bind(str(path))

        async def test() -> object:
            async with await asyncio.start_unix_server(shout, path):
                return await ask(path=str(path))

        assert on_a(test) == b"HELLO\n"
        assert stat.S_ISSOCK(path.stat().st_mode)


def test_the_names_are_gone_with_a_crash() -> None:
    async def test(world: World) -> object:
        host = world.host("a", start=serve)
        await asyncio.sleep(1)
        host.crash()
        host.start = None
        host.restart()
        async with host:
            with pytest.raises(FileNotFoundError):
                await ask()
        return None

    run(test)


def test_a_peer_that_closes_is_an_end_and_writing_to_it_a_broken_pipe() -> None:
    async def test() -> None:
        one, other = socket.socketpair()
        other.close()
        assert one.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            one.send(b"x")
        one.close()

    on_a(test)


def test_a_peer_that_closes_on_unread_data_is_a_reset_after_what_it_sent() -> None:
    async def test() -> None:
        one, other = socket.socketpair()
        one.send(b"unread")
        other.send(b"last")
        other.close()
        assert one.recv(100) == b"last"
        with pytest.raises(ConnectionResetError):
            one.recv(100)
        one.close()

    on_a(test)


def test_a_listener_that_closes_resets_who_was_not_accepted() -> None:
    async def test() -> None:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(PATH)
            listener.listen()
            client.connect(PATH)
            assert client.getpeername() == PATH
            listener.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    on_a(test)


def test_a_full_backlog_says_try_again() -> None:
    async def test() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(PATH)
            listener.listen(0)
            clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
            for client in clients:
                client.setblocking(False)
            clients[0].connect(PATH)
            with pytest.raises(BlockingIOError):
                clients[1].connect(PATH)
            for client in clients:
                client.close()

    on_a(test)


def test_half_of_a_connection_can_be_shut() -> None:
    async def test() -> None:
        one, other = socket.socketpair()
        one.shutdown(socket.SHUT_WR)
        assert other.recv(1) == b""
        other.send(b"still")
        assert one.recv(10) == b"still"
        with pytest.raises(BrokenPipeError):
            one.send(b"x")
        one.close()
        other.close()

    on_a(test)


def test_a_buffer_is_full_until_the_peer_reads() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        one.setblocking(False)
        other.setblocking(False)
        sent = one.send(bytes(1 << 20))
        assert 0 < sent < 1 << 20
        with pytest.raises(BlockingIOError):
            one.send(b"x")
        waits = asyncio.create_task(loop.sock_sendall(one, b"x"))
        await asyncio.sleep(1)
        assert not waits.done()
        assert len(await loop.sock_recv(other, 1 << 20)) == sent
        await waits
        assert other.recv(1, socket.MSG_PEEK) == other.recv(1) == b"x"
        one.close()
        other.close()

    on_a(test)


MISUSE: list[tuple[Callable[[socket.socket], object], int]] = [
    (lambda sock: sock.listen(), errno.EINVAL),
    (lambda sock: sock.accept(), errno.EINVAL),
    (lambda sock: sock.recv(1), errno.EINVAL),
    (lambda sock: sock.send(b"x"), errno.ENOTCONN),
    (lambda sock: sock.getpeername(), errno.ENOTCONN),
    (lambda sock: sock.connect("/nowhere/at all"), errno.ENOENT),
    (lambda sock: sock.connect("\0nobody of this name"), errno.ECONNREFUSED),
    (lambda sock: sock.shutdown(9), errno.EINVAL),
]


def check_misuse() -> None:
    for call, number in MISUSE:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            with pytest.raises(OSError) as caught:
                call(sock)
            assert caught.value.errno == number
    with socket.socket(socket.AF_UNIX) as sock:
        assert sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM
        assert sock.getsockname() == ""
        sock.shutdown(socket.SHUT_RD)
        sock.bind("")
        assert len(sock.getsockname()) == 6
        with pytest.raises(OSError) as caught:
            sock.bind("\0other")
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(OSError, match="AF_UNIX path too long"):
            sock.connect("x" * 200)
        with pytest.raises(TypeError):
            sock.connect(("127.0.0.1", 7))


def test_misuse_has_the_errno_that_the_kernel_has() -> None:
    async def test() -> None:
        check_misuse()

    check_misuse()
    on_a(test)

"""Signal-driven I/O also serves what sends no signals: eventfd and its like, and Unix sockets' news of space.

It knows which files have no O_ASYNC, and whom a Unix socket tells; the signals themselves are test_io_signal.py's.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from underlay.loop._io_signal import SignalLoop

from ..conformance.contract import paired, payload, read_raw, turns
from ._reactors import run


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


def running() -> SignalLoop:
    return cast(SignalLoop, asyncio.get_running_loop())


def slices(loop: SignalLoop) -> set[int]:
    """The descriptors for which the loop wakes every few milliseconds."""
    return loop._poller._without_signals | loop._poller._silent_writers


# --- what sends no signals ---------------------------------------------------------------------------------------


def an_eventfd() -> tuple[int, Callable[[], object]]:
    fd = os.eventfd(0)
    return fd, lambda: os.eventfd_write(fd, 1)


def a_timerfd() -> tuple[int, Callable[[], object]]:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.timerfd_create(1, 0)  # CLOCK_MONOTONIC
    in_a_microsecond = struct.pack("4l", 0, 0, 0, 1000)
    return fd, lambda: libc.timerfd_settime(fd, 0, in_a_microsecond, None)


def a_pidfd() -> tuple[int, Callable[[], object]]:
    waits, ends = os.pipe()
    child = os.posix_spawn("/bin/cat", ["cat"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, waits, 0)])
    os.close(waits)

    def end() -> None:
        os.close(ends)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)

    return os.pidfd_open(child), end


def a_file() -> tuple[int, Callable[[], object]]:
    return os.open("/proc/self/stat", os.O_RDONLY), int  # always ready


@pytest.mark.parametrize("make", [an_eventfd, a_timerfd, a_pidfd, a_file])
def test_a_descriptor_without_signals_is_watched_all_the_same(
    make: Callable[[], tuple[int, Callable[[], object]]],
) -> None:
    async def main() -> None:
        fd, make_ready = make()
        os.set_blocking(fd, False)
        assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ASYNC
        loop = running()
        called = asyncio.Event()
        loop.add_reader(fd, called.set)
        assert fd in loop._poller._without_signals
        make_ready()
        await called.wait()
        loop.remove_reader(fd)
        assert not loop._poller._without_signals
        os.close(fd)

    run("signal", main())
    if make is a_pidfd:
        os.waitpid(-1, 0)


# --- Unix sockets, and whom they tell of space ------------------------------------------------------------------


def fill(sock: socket.socket) -> int:
    sent = 0
    try:
        while True:
            sent += sock.send(bytes(4096))
    except BlockingIOError:
        return sent


def fill_until_poll_says_no(sock: socket.socket) -> int:
    """Send in small pieces while poll(2) says that there is room, so that no send is ever refused."""
    asker = select.poll()
    asker.register(sock, select.POLLOUT)
    sent = 0
    while asker.poll(0):
        sent += sock.send(bytes(1000))
    return sent


@pytest.mark.parametrize("filled", [fill, fill_until_poll_says_no])
@pytest.mark.parametrize("read_too", ["first", "later", "never"])
def test_a_full_unix_socket_tells_its_writer_of_space_however_it_came_to_be_watched(
    filled: Callable[[socket.socket], int], read_too: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair

    async def main() -> None:
        loop = running()
        space = asyncio.Event()
        sent = filled(near)
        if read_too == "first":
            loop.add_reader(near, int)
            await turns(3)
        loop.add_writer(near, space.set)
        if read_too == "later":
            loop.add_reader(near, int)
        await turns(3)
        assert not space.is_set()
        assert len(await read_raw(far, sent)) == sent
        await space.wait()
        loop.remove_writer(near)
        loop.remove_reader(near)

    run("signal", main())


def test_a_unix_socket_read_only_again_costs_no_more_wake_ups(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair

    async def main() -> None:
        loop = running()
        loop.add_writer(near, int)
        loop.add_reader(near, int)
        assert slices(loop)
        loop.remove_writer(near)
        assert not slices(loop)
        loop.remove_reader(near)

    run("signal", main())


def test_a_connection_that_reads_nothing_is_told_of_space_all_the_same() -> None:
    async def main() -> None:
        async with await paired() as connection:
            connection.transport.pause_reading()  # and so O_ASYNC is off when the kernel refuses
            connection.transport.write(payload(1 << 20))
            await turns(3)
            assert await read_raw(connection.far, 1 << 20) == payload(1 << 20)

    run("signal", main())


def test_a_connection_on_a_unix_socket_needs_no_slices() -> None:
    async def main() -> None:
        async with await paired() as connection:
            connection.transport.write(payload(1 << 20))
            await turns(3)
            assert not slices(running())
            assert await read_raw(connection.far, 1 << 20) == payload(1 << 20)

    run("signal", main())

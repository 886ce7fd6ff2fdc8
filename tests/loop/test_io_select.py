"""select(2): the bit map's end is told in a sentence, and one closed descriptor does not fail the others.

It knows FD_SETSIZE and EBADF; which callbacks asyncio owes to whom is the contract's.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import select
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from underlay.loop._io_select import FD_SETSIZE, SelectPoller
from underlay.loop._reactor import READ, WRITE

from ..conformance.contract import turns
from ._reactors import run

SENTENCE = (
    r"^select\(\) can't watch descriptor {}: its bit map ends at 1023 \(FD_SETSIZE\); "
    r"use the poll or epoll model, which have no such limit$"
)


@pytest.fixture
def beyond() -> Iterator[socket.socket]:
    """A socket whose descriptor is 1024 or more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard <= FD_SETSIZE:
        pytest.skip(f"the hard limit of descriptors is {hard}; remedy: ulimit -Hn 4096 before the tests")
    if soft <= FD_SETSIZE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FD_SETSIZE + 100, hard))
    near, far = socket.socketpair()
    with near, far, socket.socket(fileno=fcntl.fcntl(near, fcntl.F_DUPFD_CLOEXEC, FD_SETSIZE)) as high:
        yield high
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_is_the_c_librarys() -> None:
    with pytest.raises(ValueError, match="out of range"):
        select.select([FD_SETSIZE], [], [], 0)
    with suppress(OSError):  # EBADF, where the process has ever had so many; but it fits
        select.select([FD_SETSIZE - 1], [], [], 0)


@pytest.mark.parametrize("fd", [1024, 1025, 70000])
def test_a_descriptor_beyond_the_bit_map_is_refused_with_the_remedy(fd: int) -> None:
    poller = SelectPoller()
    with pytest.raises(ValueError, match=SENTENCE.format(fd)):
        poller.add(fd, READ)
    assert poller.wait(0) == []  # and leaves nothing behind


def test_a_refused_descriptor_does_not_harm_the_loop(beyond: socket.socket) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for watch in (loop.add_reader, loop.add_writer):
            with pytest.raises(ValueError, match=SENTENCE.format(beyond.fileno())):
                watch(beyond, int)
        assert loop.remove_reader(beyond) is False
        await turns(3)

    run("select", main())


def test_the_other_multiplexers_have_no_such_limit(beyond: socket.socket) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        writable = asyncio.Event()
        loop.add_writer(beyond, writable.set)
        await writable.wait()
        loop.remove_writer(beyond)

    for model in ("poll", "epoll", "epoll_et", "nonblocking", "signal"):
        run(model, main())


def test_an_error_shows_as_readable_and_writable_and_both_are_told_at_once() -> None:
    poller = SelectPoller()
    near, far = socket.socketpair()
    with near, far:
        poller.add(near.fileno(), READ | WRITE)
        assert poller.wait(0) == [(near.fileno(), WRITE)]
        far.send(b"x")
        assert poller.wait(0) == [(near.fileno(), READ | WRITE)]
        poller.modify(near.fileno(), READ)
        assert poller.wait(0) == [(near.fileno(), READ)]
        poller.modify(near.fileno(), WRITE)
        assert poller.wait(0) == [(near.fileno(), WRITE)]
        poller.remove(near.fileno())
        assert poller.wait(0) == []


def test_a_closed_descriptor_is_found_among_the_open_ones_and_forgotten() -> None:
    poller = SelectPoller()
    reading, writing = os.pipe()
    near, far = socket.socketpair()
    with near, far:
        poller.add(near.fileno(), READ)
        poller.add(reading, READ)
        poller.add(writing, WRITE)
        os.close(reading)
        os.close(writing)
        far.send(b"x")
        assert poller.wait(None) == []  # the turn that found out
        assert poller.wait(None) == [(near.fileno(), READ)]
        assert (poller._reading, poller._writing) == ({near.fileno()}, set())
        poller.remove(reading)


def test_errors_other_than_a_closed_descriptor_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(select, "select", no_memory)
    with pytest.raises(OSError, match="allocate"):
        SelectPoller().wait(0)

"""The non-blocking model asks by trying where it may, by poll(2) where it must, and pauses as its policy says.

Pauses are recorded instead of slept. It knows EAGAIN; which callbacks asyncio owes to whom is the contract's.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from underlay.loop import _io_nonblocking
from underlay.loop._io_nonblocking import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    ROUNDS_BEFORE_PAUSE,
    NonblockingLoop,
    NonblockingPoller,
)
from underlay.loop._reactor import READ, WRITE

from ..conformance.contract import Recorder, paired, turns
from ._reactors import new_loop, run

DOUBLED = [FIRST_PAUSE_S * 2**n for n in range(5)]  # 50, 100, 200, 400, 800 µs; the next would be over a millisecond


@pytest.fixture
def pauses_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses asked for, in order; none is slept."""
    recorded: list[float] = []

    class Time:
        sleep = staticmethod(recorded.append)

    monkeypatch.setattr(_io_nonblocking, "time", Time)
    return recorded


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield near, far


Pair = tuple[socket.socket, socket.socket]


def rounds(poller: NonblockingPoller, count: int, timeout_s: float | None = None) -> None:
    for _ in range(count):
        poller.wait(timeout_s)


# --- the pause policy ----------------------------------------------------------------------------------------------


def test_a_thousand_empty_rounds_pass_without_a_pause_then_pauses_double_up_to_a_millisecond(
    pauses_s: list[float],
) -> None:
    poller = NonblockingPoller()
    rounds(poller, ROUNDS_BEFORE_PAUSE)
    assert pauses_s == []
    rounds(poller, 8)
    assert pauses_s == [*DOUBLED, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert (ROUNDS_BEFORE_PAUSE, FIRST_PAUSE_S, LONGEST_PAUSE_S) == (1000, 50e-6, 1e-3)  # as the file states it


def test_a_find_of_poll_starts_the_policy_anew(pauses_s: list[float], pair: Pair) -> None:
    near, far = pair
    poller = NonblockingPoller()
    poller.add(near.fileno(), READ)
    rounds(poller, ROUNDS_BEFORE_PAUSE + 3)
    far.send(b"x")
    del pauses_s[:]
    assert poller.wait(None) == [(near.fileno(), READ)]  # this round couldn't know, and paused before
    assert pauses_s == [DOUBLED[3]]
    near.recv(1)
    del pauses_s[:]
    rounds(poller, ROUNDS_BEFORE_PAUSE + 1)  # the round that resets is the first of them
    assert pauses_s == []
    rounds(poller, 2)
    assert pauses_s == DOUBLED[:2]


def test_a_find_of_a_try_starts_the_policy_anew(pauses_s: list[float]) -> None:
    poller = NonblockingPoller()
    rounds(poller, ROUNDS_BEFORE_PAUSE + 4)
    poller.found = True  # as whoever's read found something says
    del pauses_s[:]
    rounds(poller, ROUNDS_BEFORE_PAUSE + 1)
    assert pauses_s == []
    rounds(poller, 1)
    assert pauses_s == DOUBLED[:1]


def test_a_round_that_must_not_wait_does_not_pause_and_counts_as_progress(pauses_s: list[float]) -> None:
    poller = NonblockingPoller()
    rounds(poller, ROUNDS_BEFORE_PAUSE + 2)
    del pauses_s[:]
    rounds(poller, 5, timeout_s=0)
    rounds(poller, ROUNDS_BEFORE_PAUSE)
    assert pauses_s == []


def test_no_pause_is_longer_than_the_time_to_the_next_timer(pauses_s: list[float]) -> None:
    poller = NonblockingPoller()
    rounds(poller, ROUNDS_BEFORE_PAUSE, timeout_s=0.0003)
    rounds(poller, 5, timeout_s=0.0003)
    assert pauses_s == [*DOUBLED[:3], 0.0003, 0.0003]


@pytest.mark.parametrize("kind", ["protocol", "buffered protocol", "datagrams"])
def test_each_transports_read_tells_of_its_find_and_only_of_a_find(kind: str, pauses_s: list[float]) -> None:
    class Lender(asyncio.BufferedProtocol):
        def get_buffer(self, sizehint: int) -> bytearray:
            return bytearray(100)

        def buffer_updated(self, nbytes: int) -> None:
            note()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            note()

    class Ordinary(Recorder):
        def data_received(self, data: bytes) -> None:
            note()

    async def main() -> None:
        loop = cast(NonblockingLoop, asyncio.get_running_loop())
        transport: asyncio.BaseTransport
        near, far = socket.socketpair(type=socket.SOCK_DGRAM if kind == "datagrams" else socket.SOCK_STREAM)
        near.setblocking(False)
        with far:
            if kind == "datagrams":
                transport, _ = await loop.create_datagram_endpoint(Receiver, sock=near)
            else:
                factory = Lender if kind == "buffered protocol" else Ordinary
                transport, _ = await loop.create_connection(factory, sock=near)
            while len(pauses_s) < 2:  # every try says EAGAIN, so the rounds count as empty
                await asyncio.sleep(0.02)
            far.send(b"x")
            await arrived.wait()
            transport.close()
            await turns(2)

    def note() -> None:
        told.append(cast(NonblockingLoop, asyncio.get_running_loop())._poller.found)
        arrived.set()

    told: list[bool] = []
    arrived = asyncio.Event()
    run("nonblocking", main())
    assert told == [True]


# --- whom it tries, and whom it asks by poll ------------------------------------------------------------------------


def test_a_descriptor_is_asked_by_poll_until_trying_is_allowed(pair: Pair) -> None:
    near, far = pair
    poller = NonblockingPoller()
    fd = near.fileno()
    poller.add(fd, READ)
    assert poller.wait(0) == []
    poller.try_reading(fd)
    assert poller.wait(0) == [(fd, READ)]  # nothing is there; the reader finds out by EAGAIN
    assert poller._polled == set()
    poller.modify(fd, READ | WRITE)
    assert poller._polled == {fd}  # for writing there is nothing to try
    assert dict(poller.wait(0)) == {fd: READ | WRITE}
    poller.modify(fd, WRITE)
    assert poller.wait(0) == [(fd, WRITE)]
    poller.modify(fd, READ)
    assert poller.wait(0) == []  # a later reader must say again that it may be tried
    far.send(b"x")
    assert poller.wait(0) == [(fd, READ)]
    poller.try_reading(fd)
    poller.remove(fd)
    assert poller.wait(0) == []
    assert (poller._watched, poller._tried, poller._polled) == ({}, {}, set())


def test_a_descriptor_closed_while_watched_is_told_once_and_no_longer_a_find(pauses_s: list[float]) -> None:
    reading, writing = os.pipe()
    poller = NonblockingPoller()
    poller.add(reading, READ)
    os.close(reading)
    os.close(writing)
    assert [fd for fd, _ in poller.wait(None)] == [reading]
    rounds(poller, ROUNDS_BEFORE_PAUSE + 2)
    assert pauses_s == DOUBLED[:1]
    poller.modify(reading, 0)
    poller.remove(reading)


def test_transports_are_tried_and_everyone_else_is_polled(pair: Pair) -> None:
    near, _ = pair

    async def main() -> None:
        loop = cast(NonblockingLoop, asyncio.get_running_loop())
        poller = loop._poller
        own_pipe = set(poller._watched)
        async with await paired() as connection:
            fd = connection.transport.get_extra_info("socket").fileno()
            loop.add_reader(near, int)
            await turns(3)
            assert set(poller._tried) == {fd}
            assert poller._polled == own_pipe | {near.fileno()}
            connection.transport.pause_reading()
            assert poller._tried == {}
            connection.transport.resume_reading()
            assert set(poller._tried) == {fd}
            loop.remove_reader(near)
        assert poller._tried == {}

    run("nonblocking", main())


def test_an_empty_loop_that_only_waits_for_a_timer_pauses(pauses_s: list[float]) -> None:
    loop = new_loop("nonblocking")
    try:
        loop.run_until_complete(asyncio.sleep(0.05))
    finally:
        loop.close()
    assert pauses_s[: len(DOUBLED)] == DOUBLED

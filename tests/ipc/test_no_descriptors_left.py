"""Where no descriptor is left, a channel is not made, and nothing is lost of those that the attempt had got."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from underlay import ipc
from underlay.errors import UsageError
from underlay.ipc import _door
from underlay.ipc._steps import slept_through

PATIENCE_S = 20.0


def _queues() -> set[str]:
    return {line.split()[1] for line in Path("/proc/sysvipc/msg").read_text().splitlines()[1:]}


@contextlib.contextmanager
def _room_for(number: int) -> Iterator[None]:
    """This process gets so many descriptors more, and none of those that it had and gave back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.listdir("/proc/self/fd")
    highest = max(map(int, before))
    with contextlib.ExitStack() as filled:
        for each in range(highest):
            if str(each) not in before:
                filled.callback(os.close, os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + number, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _number_open() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("both_ways", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("kind", ipc.KINDS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_channel_that_finds_no_descriptor_loses_none(kind: str, both_ways: bool) -> None:
    for each in ipc.pair(kind, both_ways=both_ways):
        each.close()
    before = _number_open()
    failed = made = 0
    for room in range(30):
        with _room_for(room):
            try:
                for each in ipc.pair(kind, both_ways=both_ways):
                    each.close()
                made += 1
            except (OSError, UsageError):  # the kernel has one number for both limits of message queues
                failed += 1
        assert _number_open() == before, room
    assert failed
    assert made


_NAMES = {"tcp": "127.0.0.1:0", "pipe": "orders", "ring": "orders", "seqpacket": "orders"}


def _visits(address: str) -> None:
    while True:
        with contextlib.suppress(OSError, EOFError, UsageError), ipc.open(address, timeout_s=PATIENCE_S) as channel:
            channel.receive(timeout_s=PATIENCE_S)


def _lets_in(kind_and_told: tuple[str, Any]) -> None:
    kind, told = kind_and_told
    with ipc.listen(kind, _NAMES[kind]) as listener:
        told.send(listener.address or listener.name)
        for channel in listener:
            channel.close()


@contextlib.contextmanager
def _child(work: Callable[[Any], None], what: object) -> Iterator[None]:
    """A process that does something meanwhile."""
    other = multiprocessing.get_context("fork").Process(target=work, args=(what,))
    other.start()
    try:
        yield
    finally:
        other.kill()
        other.join()
        other.close()


@pytest.mark.usefixtures("names_folder")
@pytest.mark.parametrize("kind", _NAMES)
def test_who_lets_somebody_in_and_finds_no_descriptor_loses_none(kind: str) -> None:
    with ipc.listen(kind, _NAMES[kind]) as listener, _child(_visits, listener.address or listener.name):
        listener.accept(timeout_s=PATIENCE_S).close()
        before = _number_open()
        failed = came = 0
        for room in range(24):
            with _room_for(room):
                try:
                    listener.accept(timeout_s=0.1).close()
                    came += 1
                except OSError:  # its time may be over, too
                    failed += 1
            # Who has knocked and said nothing yet is kept; nobody but him.
            assert _number_open() <= before + len(listener._reception.waits()) - 1, room
        assert failed
        assert came
        listener.accept(timeout_s=PATIENCE_S).close()


@pytest.mark.parametrize("role", ["receiver", "sender", "both"])
def test_who_awaits_somebody_over_tcp_and_finds_no_descriptor_loses_none(
    role: Literal["receiver", "sender", "both"],
) -> None:
    before = _number_open()
    for room in range(8):
        with ipc.create("tcp", "127.0.0.1:0", role=role) as mine, _child(_visits, mine.address):
            awaits = _number_open()
            with _room_for(room):
                until_s = time.monotonic() + 0.1
                while time.monotonic() < until_s and mine._life.alone:
                    with contextlib.suppress(OSError):
                        mine.look()
            if mine._life.alone:
                assert _number_open() <= awaits + len(mine._life.waits()) - 1, room
                until_s = time.monotonic() + PATIENCE_S
                while mine._life.alone:  # somebody is let in as soon as there is room
                    assert time.monotonic() < until_s
                    mine.look()
        assert _number_open() == before, room


@pytest.mark.usefixtures("names_folder")
@pytest.mark.parametrize("kind", _NAMES)
@pytest.mark.parametrize("role", ["receiver", "sender", "both"])
def test_who_makes_a_name_and_finds_no_descriptor_loses_none(
    kind: str, role: Literal["receiver", "sender", "both"]
) -> None:
    before = _number_open()
    failed = made = 0
    for room in range(30):
        with _room_for(room):
            try:
                ipc.create(kind, _NAMES[kind], role=role).close()
                made += 1
            except OSError:
                failed += 1
        assert _number_open() == before, room
        assert ipc.names() == []
    assert failed
    assert made


@pytest.mark.usefixtures("names_folder")
@pytest.mark.parametrize("kind", _NAMES)
def test_who_comes_and_finds_no_descriptor_loses_none(kind: str) -> None:
    reader, writer = multiprocessing.get_context("fork").Pipe(duplex=False)
    with reader, writer, _child(_lets_in, (kind, writer)):
        address = reader.recv()
        ipc.open(address, timeout_s=PATIENCE_S).close()
        before = _number_open()
        failed = came = 0
        for room in range(24):
            with _room_for(room):
                try:
                    ipc.open(address, timeout_s=PATIENCE_S).close()
                    came += 1
                except OSError:
                    failed += 1
            assert _number_open() == before, room
        assert failed
        assert came


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_queue_of_the_kernel_stays_on_record_where_no_descriptor_is_left() -> None:
    before = _queues()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for room in range(24):
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + room, hard))
        try:
            with contextlib.suppress(OSError):
                for each in ipc.pair("sysv"):
                    each.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    gc.collect()
    for each in ipc.pair("sysv"):  # whoever makes the next one removes what is left
        each.close()
    assert not _queues() - before


def test_who_is_given_an_end_and_has_no_room_for_it_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_door, "_MOST_DESCRIPTORS", 1)  # the kernel drops the others, as it does at the limit
    before = os.listdir("/proc/self/fd")
    visitor, host = socket.socketpair()
    with visitor, host:
        assert _door.answer(host, {"end": {}}, [0] * 5)
        with pytest.raises(OSError, match="no room for the descriptors of a channel: Too many open files"):
            slept_through(_door.asking(visitor, "somebody", time.monotonic() + 5))
    assert len(os.listdir("/proc/self/fd")) == len(before)

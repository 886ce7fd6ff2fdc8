"""Somebody else has closed a descriptor of ours: that is told, and nothing else stays open for it."""

from __future__ import annotations

import errno
import gc
import os
from typing import Any

import pytest

from underlay import ipc

PATIENCE_S = 20.0
pytestmark = pytest.mark.usefixtures("names_folder")


def _open_descriptors() -> set[int]:
    gc.collect()
    # Not that of the folder that was just listed.
    return {int(each) for each in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{each}")}


def _close_one_and_then_all(end: Any, descriptor: int, others: set[int]) -> None:
    """Close one under the end, and the end: what it raises, and that of the others none is left."""
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor") as met:
        end.close()
    assert met.value.errno == errno.EBADF
    assert end.closed
    end.close()  # once more is nothing
    assert not _open_descriptors() & others


def _pair(kind: str, both_ways: bool, used: bool) -> tuple[ipc.Channel, ipc.Channel]:
    receiver, sender = ipc.pair(kind, both_ways=both_ways)
    if used:
        sender.send(b"on")
        assert receiver.receive(timeout_s=PATIENCE_S) == b"on"
        with pytest.raises(TimeoutError):
            receiver.receive(timeout_s=0.001)
    return receiver, sender


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("both_ways", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("kind", ipc.KINDS)
def test_all_other_descriptors_of_a_channel_are_closed(kind: str, both_ways: bool, used: bool) -> None:
    before = _open_descriptors()
    number = 0
    while True:
        ends = _pair(kind, both_ways, used)
        own = sorted(_open_descriptors() - before)
        known = {*ends[0].descriptors, *ends[1].descriptors}
        broken = own[number] if number < len(own) else None
        if broken is not None:
            os.close(broken)
        errors = []
        for end in ends:
            try:
                end.close()
            except OSError as error:
                errors.append(error.errno)
            assert end.closed
        assert _open_descriptors() == before, number
        if broken is None:
            break
        # Python itself has one for each mapping, of which it says nothing.
        assert errors == [errno.EBADF] or (not errors and broken not in known), number
        number += 1
    assert not errors
    assert number >= len(known)


@pytest.mark.parametrize("make", [ipc.Mutex, ipc.Semaphore, ipc.Event, ipc.Condition, ipc.ReadWriteLock])
def test_a_lock_is_closed_all_the_same(make: Any) -> None:
    before = _open_descriptors()
    thing = make()
    _close_one_and_then_all(thing, thing.descriptors[0], set())
    assert _open_descriptors() == before


def test_an_end_that_awaits_somebody_gives_back_both_ends_and_its_name() -> None:
    for number in range(5):
        before = _open_descriptors()
        mailbox = ipc.create("pipe", "orders")
        own = sorted(_open_descriptors() - before)
        _close_one_and_then_all(mailbox, own[number], set(own))
        assert _open_descriptors() == before
        assert ipc.names() == []


def test_a_listener_gives_back_its_name_and_those_whom_it_has_let_in() -> None:
    before = _open_descriptors()
    listener = ipc.listen("pipe", "orders")
    own = _open_descriptors() - before
    visitor = ipc.open("orders")
    came = _open_descriptors() - own - set(visitor.descriptors) - before
    assert came
    os.close(min(own))
    with pytest.raises(OSError, match="Bad file descriptor"):
        listener.close()
    visitor.close()
    assert _open_descriptors() == before
    assert ipc.names() == []

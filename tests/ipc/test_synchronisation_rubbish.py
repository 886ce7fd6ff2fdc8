"""Another program that writes into the page of a lock gets nobody killed: glibc believes what it finds there."""

from __future__ import annotations

import os
import random
import signal
import struct
from collections.abc import Callable

import pytest
from tests.conformance.synchronisation_work import use_once

from underlay import ipc

Thing = ipc.Mutex | ipc.Semaphore | ipc.Event | ipc.Condition | ipc.Barrier | ipc.ReadWriteLock
MAKERS: dict[str, Callable[[], Thing]] = {
    "mutex": ipc.Mutex,
    "semaphore": lambda: ipc.Semaphore(0),
    "event": ipc.Event,
    "condition": ipc.Condition,
    "barrier": lambda: ipc.Barrier(2),
    "read-write-lock": ipc.ReadWriteLock,
}
_TIMED_OUT_S = 20
_GAVE_NO_ANSWER = 99


def _use(make: Callable[[], Thing], rubbish: Callable[[memoryview], None]) -> int:
    """How a process ends that uses one: 0 where it had it, 1 where it was told or waited in vain."""
    child = os.fork()
    if not child:
        try:
            signal.alarm(_TIMED_OUT_S)
            thing = make()
            with memoryview(thing._map) as page:
                rubbish(page)
            try:
                had = use_once(thing, timeout_s=0.01)
                if isinstance(thing, ipc.Semaphore):
                    thing.release()
            except (ipc.Damaged, ipc.HolderDied, ipc.BrokenBarrier, TimeoutError):
                had = False
            os._exit(not had)
        finally:
            os._exit(_GAVE_NO_ANSWER)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("name", MAKERS)
def test_rubbish_in_its_page_kills_nobody(name: str) -> None:
    def zeros(page: memoryview) -> None:
        page[:] = bytes(len(page))

    assert _use(MAKERS[name], zeros) in (0, 1)
    for seed in range(10):
        data = random.Random(seed).randbytes(os.sysconf("SC_PAGESIZE"))

        def all_of_it(page: memoryview, data: bytes = data) -> None:
            page[:] = data

        def but_the_guard(page: memoryview, data: bytes = data) -> None:
            page[64:] = data[64:]

        assert _use(MAKERS[name], all_of_it) in (0, 1)
        assert _use(MAKERS[name], but_the_guard) in (0, 1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("kind", [0x20, 0x40, 0x42, 0x50, 0xC2])  # with priorities, of which glibc is certain
@pytest.mark.parametrize("name", ["mutex", "condition", "barrier", "read-write-lock"])
def test_a_mutex_of_another_kind_is_told_and_never_unlocked(name: str, kind: int) -> None:
    assert _use(MAKERS[name], lambda page: struct.pack_into("i", page, 16, kind)) == 1

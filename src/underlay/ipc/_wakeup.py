"""How a process that waits for shared memory to change is woken, and why no wake-up is ever lost.

This file knows flags, eventfd(2), futex(2) and spinning. It refuses to know what is awaited.

**Which to choose.** ``eventfd``: a system call wakes a sleeper, one lets it sleep (see `_poller`), and any event loop
can watch it; the default. ``futex``: one call wakes, one sleeps, both through ctypes; asyncio needs a thread for it,
and a death is seen 50 ms late. ``spin``: no system call between processes on two cores, the quickest answer there is,
and a whole core gone while one waits; it yields, so that it works on one core too.

**Why none is lost.** Who finds nothing says so in a flag, and looks once more before it sleeps. Who changes something
looks at the flag afterwards, and rings where it is set. So each of them writes and then reads what the other writes;
one of both must see the other. Yet a processor may do a later read before an earlier write is seen elsewhere, the
only reordering that x86 has (Intel SDM 3A, 8.2.3.4); then both see the old, and the one sleeps for ever: Dekker's
problem. An instruction with a lock prefix between the write and the read forbids it (ibid. 8.2.3.9), and the cheapest
that plain Python reaches is an uncontended lock: to take one that is free, and to release it, is an atomic operation
each in all versions of CPython.

**Elsewhere.** Other processors reorder more: the payload and the index that publishes it, too. There each of these
places calls membarrier(2), whose caller passes a full barrier: correct, and some 1 µs a time.
"""

from __future__ import annotations

import ctypes
import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from . import _futex
from ._end import close_all
from ._libc import X86_64, failure, function

ORDERED: Final = X86_64
"""Whether stores are seen in their order, and loads done in theirs: total store order."""

_SYS_MEMBARRIER: Final = 324 if X86_64 else 283
_MEMBARRIER_GLOBAL_EXPEDITED: Final = 1 << 1
# An empty turn of the spinning loop takes some 40 ns: 4 µs, less than it takes a kernel to wake anybody, then the core
# is offered to others between any two portions.
_SPINS: Final = 100
_membarrier = function("syscall", ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_uint, ctypes.c_int)


def order() -> None:
    """Let nobody see what is written after this before what was written ahead of it; not needed where `ORDERED`."""
    if _membarrier(_SYS_MEMBARRIER, _MEMBARRIER_GLOBAL_EXPEDITED, 0, 0) < 0:
        raise failure("membarrier")


def new_fence_pair() -> tuple[Callable[[bool], object], Callable[[], object]]:
    """Two functions, called with False and with nothing, one after the other, that complete all writes before any read.

    Each is a fence by itself, where the first says True, and one lock of a thread. Ctrl-C may come between the two and
    leave the lock taken: then the next first one says False and is none, and the second is one and sets that right.
    """
    lock = threading.Lock()
    return lock.acquire, lock.release


def new_fence() -> Callable[[], None]:
    """One function for both, where a call more does not matter."""
    first, second = new_fence_pair()

    def fence() -> None:
        if not ORDERED:
            order()
        first(False)
        second()

    return fence


def drain(descriptor: int) -> None:
    """Take back what was written to an eventfd."""
    try:
        os.eventfd_read(descriptor)
    except BlockingIOError:
        pass


class Bell(ABC):
    """Wakes whoever waits on one side: who waits has one object of it, who rings another."""

    ready: tuple[int, int] | None = None
    """What to poll; None where `block` waits."""

    def __init__(self, words: memoryview, flag: int) -> None:
        self.words = words
        self.flag = flag
        self.fence = new_fence()

    @abstractmethod
    def arm(self) -> None:
        """Say that this side is about to wait. It must look once more before it does."""

    def disarm(self) -> None:
        """Say that it need not wait after all."""
        self.words[self.flag] = 0

    def drain(self) -> None:  # noqa: B027 — most have nothing to take back
        """Take back what was rung, where who waits watches whether, not when."""

    @abstractmethod
    def ring(self) -> None:
        """Wake who waits: the flag was set."""

    def block(self, timeout_s: float) -> None:
        """Wait for the bell; may end early."""
        raise NotImplementedError


class EventBell(Bell):
    """An eventfd(2). Who waits with an epoll for edges never reads it: its count only grows."""

    def __init__(self, words: memoryview, flag: int, descriptor: int) -> None:
        super().__init__(words, flag)
        self._descriptor = descriptor
        self.ready = (descriptor, select.POLLIN)

    def arm(self) -> None:
        """Say that this side is about to wait."""
        self.words[self.flag] = 1
        self.fence()

    def drain(self) -> None:
        """Take back what was rung."""
        drain(self._descriptor)

    def ring(self) -> None:
        """Wake who waits."""
        self.words[self.flag] = 0
        try:
            os.eventfd_write(self._descriptor, 1)
        except BlockingIOError:
            pass  # it was rung 2⁶⁴ times, which takes 100,000 years, or somebody wrote so much: that was news too

    def block(self, timeout_s: float) -> None:
        """Wait for the bell, where who waits has nothing else to poll."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        poller.poll(timeout_s * 1000)


class FutexBell(Bell):
    """A futex(2) on the flag: it sleeps while the flag is set."""

    def __init__(self, words: memoryview, flag: int, address: int) -> None:
        super().__init__(words, flag)
        # The low half of a word: x86 and all that underlay knows have the low byte first.
        self._address = address + flag * 8

    def arm(self) -> None:
        """Say that this side is about to wait."""
        self.words[self.flag] = 1
        self.fence()

    def ring(self) -> None:
        """Wake who waits, all of them: the flag is one for all."""
        self.words[self.flag] = 0
        _futex.wake(self._address)

    def block(self, timeout_s: float) -> None:
        """Wait for the bell; the kernel looks at the flag, under its own lock, before it lets sleep."""
        _futex.sleep(self._address, 1, timeout_s)


class SpinBell(Bell):
    """Nobody sleeps: who waits looks at a word until it is another one."""

    def __init__(self, words: memoryview, flag: int, watched: int) -> None:
        super().__init__(words, flag)
        self._watched = watched
        self._seen = 0

    def arm(self) -> None:
        """Remember how it was."""
        self._seen = self.words[self._watched]
        self.fence()

    def disarm(self) -> None:
        """Nobody was told."""

    def ring(self) -> None:
        """Nobody sleeps."""
        self.words[self.flag] = 0

    def block(self, timeout_s: float) -> None:
        """Wait for another word."""
        words, watched, seen = self.words, self._watched, self._seen
        deadline_s = time.monotonic() + timeout_s
        while True:
            for _ in range(_SPINS):
                if words[watched] != seen:
                    return
            os.sched_yield()
            if time.monotonic() >= deadline_s:
                return


def descriptors_for(wakeup: str, how_many: int) -> int:
    """How many descriptors so many bells need."""
    return how_many if wakeup == "eventfd" else 0


def new_descriptors(wakeup: str, how_many: int) -> tuple[int, ...]:
    """The descriptors that so many bells need."""
    made: list[int] = []
    try:
        for _ in range(descriptors_for(wakeup, how_many)):
            made.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    except OSError:
        close_all(made)
        raise
    return tuple(made)


def bell(wakeup: str, words: memoryview, flag: int, watched: int, address: int, descriptor: int | None) -> Bell:
    """The bell of one side: its flag, the word that changes when it is rung, and where the memory is mapped."""
    if descriptor is not None:
        return EventBell(words, flag, descriptor)
    if wakeup == "futex":
        return FutexBell(words, flag, address)
    return SpinBell(words, flag, watched)

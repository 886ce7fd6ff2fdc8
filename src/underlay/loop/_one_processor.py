"""One processor for all threads of a blocking loop, and what they start is free of it.

This file knows scheduling policies and affinity masks.  It does not know what the threads do.

Only one thread at a time can run Python. Where two processors are free, the kernel wakes the threads of two
connections side by side all the same; the second finds the interpreter lock taken, sleeps, and is woken once more when
it is free. With 100 connections of 1 KiB those futex calls and switches were more than half of each request's
CPU time. Kept on one processor, and under SCHED_BATCH, whose threads don't preempt each other when they wake
(sched(7)), a thread mostly runs from one system call to the next and finds the lock free: 11.9 µs a request instead of
28 (`benchmarks/loops.py --cells 100x1KiB:protocol --io blocking`, medians, two processors).

Mask and policy are inherited by every thread and process that a thread starts (SCHED_RESET_ON_FORK resets only
real-time policies and negative nice values), and a handler may start some, which shall have the whole machine as on
any other loop.  So before a start of which the interpreter tells (sys.audit) both are given back, and taken again
before the thread's next wait. CPython 3.11 doesn't tell of threads, and no version of `multiprocessing`'s method
"spawn": there what a handler starts by itself, not by `loop.run_in_executor` or `loop.subprocess_exec`, stays
on the processor.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from typing import Final

# Starts of threads and processes, as the tables of audit events in Python's documentation name them.
_STARTS: Final = frozenset(
    {
        "_thread.start_joinable_thread",
        "_thread.start_new_thread",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.system",
        "subprocess.Popen",
    }
)

_loops: Final = itertools.count()
_here: Final = threading.local()
_hook_lock: Final = threading.Lock()
_hook_is_set = False


class Processor:
    """The processor that one loop keeps its threads on, among those that its home may use.

    ``number`` is None where there is no choice to make: one processor only, or a system without affinity.

    Sources: sched_setaffinity(2), sched(7).
    """

    def __init__(self) -> None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._allowed: Final = frozenset(allowed)
        # By the process's number, so that workers, which mostly have consecutive ones, do not all choose the same;
        # and a second loop of a process takes the next.
        turn = os.getpid() + next(_loops)
        self.number: Final = sorted(allowed)[turn % len(allowed)] if len(allowed) > 1 else None

    def enter(self) -> Stay:
        """Keep the calling thread on the processor, until it gives up the `Stay` or ends."""
        _set_hook()
        _here.stay = stay = Stay(self._allowed, self.number)
        stay.take()
        return stay


class Stay:
    """One thread's stay on the processor; ``away`` while the thread is as free as any other.

    Where the system refuses a mask (the process was moved to other processors) or a policy (seccomp), it only costs
    time. A policy that somebody chose for the process, real-time or idle, is left alone.
    """

    __slots__ = ("_allowed", "_number", "away")

    def __init__(self, allowed: frozenset[int], number: int | None) -> None:
        self._allowed = allowed
        self._number = number
        self.away = False

    def take(self) -> None:
        """Go onto the processor, and preempt nobody there."""
        self.away = False
        if self._number is not None:
            _try_mask({self._number})
        _try_policy("SCHED_OTHER", "SCHED_BATCH")

    def give_back(self) -> None:
        """Be free again, for whoever inherits it next."""
        if self.away:
            return
        self.away = True
        if self._number is not None:
            _try_mask(self._allowed)
        _try_policy("SCHED_BATCH", "SCHED_OTHER")


def set_free() -> None:
    """Let what the calling thread starts next have all processors; harmless in any thread."""
    stay: Stay | None = getattr(_here, "stay", None)
    if stay is not None:
        stay.give_back()


def start_beside(thread: threading.Thread) -> None:
    """Start another of the loop's own threads: it enters by itself, so that nothing need be given back for it."""
    stay, _here.stay = getattr(_here, "stay", None), None
    try:
        thread.start()
    finally:
        _here.stay = stay


def _try_mask(processors: frozenset[int] | set[int]) -> None:
    try:
        os.sched_setaffinity(0, processors)
    except OSError:
        pass


def _try_policy(former: str, wanted: str) -> None:
    try:
        if os.sched_getscheduler(0) == getattr(os, former):
            os.sched_setscheduler(0, getattr(os, wanted), os.sched_param(0))
    except (AttributeError, OSError):  # AttributeError: another system than Linux
        pass


def _set_hook() -> None:
    global _hook_is_set
    with _hook_lock:
        if _hook_is_set:
            return
        _hook_is_set = True
    sys.addaudithook(_on_audit)


def _on_audit(event: str, _: tuple[object, ...], starts: frozenset[str] = _STARTS) -> None:
    # For every audited event of the process, and still at its very end, when a module's globals may be gone.
    if event in starts and set_free is not None:
        set_free()

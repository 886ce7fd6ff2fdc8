"""What held the loops of a process, and how often: bounded, and readable at any moment.

This file knows counts and the words of a report. It refuses to know how a block was noticed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ._watch_stack import Frame, callers_own

__all__ = ["Block", "BlockedPlace", "Ledger", "WatchStatistics", "still_held"]

# Places kept apart. More than these, and a list is no help any more; the rest is counted together.
MOST_PLACES: Final = 100


@dataclass(frozen=True, slots=True)
class Block:
    """One call that held a loop. ``str()`` is the report, with the stack and its source lines.

    ``held_s`` is how late the loop was, to which at most a quarter of ``threshold_s`` is to be added. ``at`` is the
    program's own line, ``stack`` all lines from the blocking one outwards to the loop, ``times`` how often that
    line has held a loop until now, ``thread`` the name of the loop's thread.
    """

    held_s: float
    threshold_s: float
    at: Frame
    stack: tuple[Frame, ...]
    times: int
    thread: str

    def __str__(self) -> str:
        return _with_stack(self.summary, self.stack)

    @property
    def summary(self) -> str:
        """The first line of the report."""
        times = "" if self.times == 1 else f", for the {_ordinal(self.times)} time"
        return f"{_loop_of(self.thread)} was held for {self.held_s * 1e3:,.0f} ms by {_by(self.stack)}{times}"


@dataclass(frozen=True, slots=True)
class BlockedPlace:
    """One line of the program that held loops: how often, how long in all and at most, and the stack at first."""

    at: Frame
    count: int
    total_s: float
    longest_s: float
    stack: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class WatchStatistics:
    """What a watchdog has seen so far.

    ``places`` has at most 100 entries, the greatest total first; what held a loop at other lines is in ``elsewhere``.
    ``unplaced`` counts how often a loop was late by more than the threshold while no call was seen in it: the machine
    was busy, or the process stood still.
    """

    count: int
    total_s: float
    longest_s: float
    places: tuple[BlockedPlace, ...]
    elsewhere: int
    unplaced: int


class Ledger:
    """Counts blocks by place. Several loops, in several threads, may write into one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._places: dict[Frame, BlockedPlace] = {}
        self._count, self._total_s, self._longest_s = 0, 0.0, 0.0
        self._elsewhere = self._unplaced = 0

    def clear_in_child(self) -> None:
        """After fork(2), where another thread may have had the lock."""
        self._lock = threading.Lock()
        self.clear()

    def add(self, stack: Sequence[Frame], held_s: float, threshold_s: float) -> Block:
        """Count one block, and make its report."""
        at, times = callers_own(stack), 1
        with self._lock:
            self._count += 1
            self._total_s += held_s
            self._longest_s = max(self._longest_s, held_s)
            known = self._places.get(at)
            if known is not None:
                times = known.count + 1
                longest_s = max(known.longest_s, held_s)
                self._places[at] = BlockedPlace(at, times, known.total_s + held_s, longest_s, known.stack)
            elif len(self._places) < MOST_PLACES:
                self._places[at] = BlockedPlace(at, 1, held_s, held_s, tuple(stack))
            else:
                self._elsewhere += 1
        return Block(held_s, threshold_s, at, tuple(stack), times, threading.current_thread().name)

    def add_unplaced(self) -> None:
        """Count a loop that was late for no reason that was seen."""
        with self._lock:
            self._unplaced += 1

    def statistics(self) -> WatchStatistics:
        """What was counted until now."""
        with self._lock:
            places = sorted(self._places.values(), key=lambda place: place.total_s, reverse=True)
            return WatchStatistics(
                self._count, self._total_s, self._longest_s, tuple(places), self._elsewhere, self._unplaced
            )


def still_held(stack: Sequence[Frame], late_s: float, thread_ident: int) -> str:
    """What is said of a call that has not come back yet; it is not counted, as it will be if it does."""
    name = next((each.name for each in threading.enumerate() if each.ident == thread_ident), "")
    return _with_stack(f"{_loop_of(name)} has been held for {late_s:,.1f} s, and still is, by {_by(stack)}", stack)


def _loop_of(thread: str) -> str:
    return "the event loop" if thread == "MainThread" else f"the event loop of thread {thread}"


def _by(stack: Sequence[Frame]) -> str:
    at = callers_own(stack)
    return f"{at}" if stack[0] == at else f"{at} (at {stack[0]})"


def _with_stack(summary: str, stack: Sequence[Frame]) -> str:
    return "\n".join([summary, *(f"    {frame}{_source(frame)}" for frame in stack)])


def _source(frame: Frame) -> str:
    return f": {frame.source}" if frame.source else ""


def _ordinal(number: int) -> str:
    """How English counts.

    >>> [_ordinal(number) for number in (2, 3, 11, 21, 112)]
    ['2nd', '3rd', '11th', '21st', '112th']
    """
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"

"""Whether who waits offers the core to others for a moment, before it sleeps for what the other side may do next.

This file knows sched_yield(2), and learns when it pays. It refuses to know what is awaited.

**Why.** To sleep and to be woken are two system calls and the scheduler's work for both: more than a message costs, and
on two cores of a virtual machine, whose sleeping core is called by an interrupt, ten times more (benchmarks/ipc.py has
it as "bare eventfd"). On one core the other side runs as soon as this one yields; on two it has often answered after a
few looks.

**What it may cost.** Where nothing comes, some µs: after a vain offer the next wait goes without, after one more the
next three, and so on; one that pays sets that back. Where a third process computes on the same core, it gets its time
slice, milliseconds: a thousand times what an offer can save. So late ones count for more, and only many that paid in
between set them back. (A late one may also be an answer that took its time; then little is lost by going without.)
"""

from __future__ import annotations

import os
import time
from typing import Final

# A process that was looking answers within 3 to 8 µs, and one that slept on the same core within 5 µs.
_MOMENT_NS: Final = 12_000
# Somebody else has run meanwhile: no look takes so long, and a time slice takes longer (0.7 to 3 ms, sched(7)).
_LATE_NS: Final = 100_000
_MOST_SKIPS: Final = 1023
# After a late offer so many waits go without, and four times as many after each further one, up to what makes good a
# slice of 3 ms by savings of 2 µs, twice over.
_SKIPS_WHEN_LATE, _MOST_SKIPS_WHEN_LATE = 15, 4095
# So many that paid since the last late one say that that one was chance.
_PAID_FOR_CHANCE: Final = 256


class Patience:
    """What one way has learned; it is asked before each wait."""

    __slots__ = ("_late", "_paid", "_skips", "_vain")

    def __init__(self) -> None:
        self._skips = self._vain = self._late = self._paid = 0

    def offer(self, words: memoryview, watched: int, seen: int) -> bool:
        """Offer the core until a word is another one, for a moment; whether it is. Says no at once where that is wise.

        A change that came late is said as well, and learned as a failure.
        """
        if self._skips:
            self._skips -= 1
            return False
        begun_ns = time.monotonic_ns()
        while True:
            os.sched_yield()
            changed = words[watched] != seen
            taken_ns = time.monotonic_ns() - begun_ns
            if taken_ns > _LATE_NS:
                self._was_late()
                return changed
            if changed:
                self._vain = 0
                self._paid += 1
                return True
            if taken_ns > _MOMENT_NS:
                self._skips = self._vain = min(2 * self._vain + 1, _MOST_SKIPS)
                return False

    def offer_once(self) -> bool:
        """Offer the core once, where that may pay; whether it did. Then one tries, and says `paid` where that pays.

        For what costs a system call to look at.
        """
        if self._skips:
            self._skips -= 1
            return False
        begun_ns = time.monotonic_ns()
        os.sched_yield()
        if time.monotonic_ns() - begun_ns > _LATE_NS:
            self._was_late()
        else:
            self._skips = self._vain = min(2 * self._vain + 1, _MOST_SKIPS)
        return True

    def paid(self) -> None:
        """There was something after `offer_once`."""
        if self._skips == self._vain:  # else it was late
            self._skips = self._vain = 0
            self._paid += 1

    def forgo(self, most: int) -> int:
        """How many of the next waits go without an offer, up to so many; who asks does those."""
        waits = min(self._skips, most)
        self._skips -= waits
        return waits

    def _was_late(self) -> None:
        if self._paid >= _PAID_FOR_CHANCE:
            self._late = 0
        self._paid = self._vain = 0
        self._skips = self._late = min(4 * self._late + _SKIPS_WHEN_LATE, _MOST_SKIPS_WHEN_LATE)


def patience_for(wakeup: str) -> Patience | None:
    """What goes with a wakeup; who spins needs none."""
    return None if wakeup == "spin" else Patience()

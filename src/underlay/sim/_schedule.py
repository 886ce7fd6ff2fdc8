"""What happens next: one heap of moments for a whole world.

This file knows order: by time, then by a tie that is drawn from the seed, as two machines that do something at one
instant have no order, then first in, first out. It refuses to know what happens.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final, TypeAlias

# When, its tie, a number that says first in first out, whether it was withdrawn aside: what to call with what.
Moment: TypeAlias = tuple[float, float, int, Callable[[Any], None], Any]


class Schedule:
    """Moments to come; ``now`` is the time of the last one taken.

    >>> schedule = Schedule(Random(1))
    >>> schedule.at(2.0, print, "second")
    >>> schedule.at(1.0, print, "first")
    >>> while schedule.step():
    ...     pass
    first
    second
    >>> schedule.now
    2.0
    """

    __slots__ = ("_draw", "_number", "heap", "is_stopped", "now", "taken")

    def __init__(self, rng: Random) -> None:
        self.now = 0.0
        self.taken = 0
        self.is_stopped = False
        self.heap: list[Moment] = []  # to look at its first; it is replaced where moments are withdrawn
        self._number = 0
        self._draw: Final = rng.random

    def at(self, when: float, call: Callable[[Any], None], argument: Any) -> None:
        """Let ``call(argument)`` happen at `when`, in an order of the seed's with what else happens then."""
        self._number += 1
        heapq.heappush(self.heap, (when, self._draw(), self._number, call, argument))

    def first_at(self, when: float, call: Callable[[Any], None], argument: Any) -> float:
        """The same; gives the tie that was drawn, for others to be `behind` it."""
        self._number += 1
        tie = self._draw()
        heapq.heappush(self.heap, (when, tie, self._number, call, argument))
        return tie

    def behind(self, when: float, tie: float, call: Callable[[Any], None], argument: Any) -> None:
        """The same with a tie that is given, to keep an order of the caller's own at one instant."""
        self._number += 1
        heapq.heappush(self.heap, (when, tie, self._number, call, argument))

    def tie(self) -> float:
        """Draw a tie for `behind`."""
        return self._draw()

    def step(self) -> bool:
        """Let the next moment happen; False where none is left."""
        heap = self.heap
        if not heap:
            return False
        self.now, _, _, call, argument = heapq.heappop(heap)
        self.taken += 1
        call(argument)
        return True

    def run(self, taken: int, until_s: float) -> bool:
        """Let moments happen until `stop`, or so many are taken, or one is later; False where none is left."""
        while not self.is_stopped:
            heap = self.heap
            if not heap:
                return False
            self.now, _, _, call, argument = heapq.heappop(heap)
            self.taken += 1
            call(argument)
            if self.taken >= taken or self.now > until_s:
                break
        return True

    def stop(self) -> None:
        """Let `run` end behind the moment that happens now."""
        self.is_stopped = True

    def next_at(self) -> float | None:
        """When the next moment is."""
        return self.heap[0][0] if self.heap else None

    def withdraw(self, unwanted: Callable[[Moment], bool]) -> list[Moment]:
        """Take out the moments that are unwanted, in their order."""
        out = sorted(each for each in self.heap if unwanted(each))
        if out:
            gone = {each[2] for each in out}
            self.heap = [each for each in self.heap if each[2] not in gone]
            heapq.heapify(self.heap)
        return out

    def __len__(self) -> int:
        return len(self.heap)

    def __iter__(self) -> Iterator[Moment]:
        return iter(sorted(self.heap, key=lambda each: each[:3]))

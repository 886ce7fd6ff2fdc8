"""Deadlines of many things of one kind, and which of them are due.

This file knows keys and the times that belong to them. It refuses to know what
a key stands for, what happens when its time has come, and any clock.

A heap gives the next deadline at once; a deadline that was moved or taken back
stays in the heap as a husk until it comes to the top, or until husks are most
of it and the heap is made anew.
"""

from __future__ import annotations

import heapq
from typing import Final, Generic, TypeVar

_Key = TypeVar("_Key")

# Rebuilding costs the more the longer the heap is, so it has to be worth it; asyncio rebuilds at half of 100 too.
_HUSKS_WORTH_PURGING: Final = 100


class Timers(Generic[_Key]):
    """One deadline for each key.

    >>> timers: Timers[str] = Timers()
    >>> timers.schedule("ping", 2.0)
    >>> timers.schedule("pong", 1.0)
    >>> timers.schedule("ping", 3.0)
    >>> timers.next_deadline(), timers.due(2.5), timers.next_deadline()
    (1.0, ['pong'], 3.0)
    """

    __slots__ = ("_count", "_deadlines", "heap")

    def __init__(self) -> None:
        self._deadlines: dict[_Key, float] = {}
        self.heap: list[tuple[float, int, _Key]] = []  # its first may be a husk, and no later than what is next
        self._count = 0  # orders equal deadlines by when they were scheduled, and keeps keys from being compared

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, key: _Key) -> bool:
        return key in self._deadlines

    def schedule(self, key: _Key, deadline: float) -> None:
        """Let ``key`` be due at ``deadline``, and at no other time."""
        self._deadlines[key] = deadline
        self._count += 1
        heapq.heappush(self.heap, (deadline, self._count, key))
        if len(self.heap) > 2 * len(self._deadlines) + _HUSKS_WORTH_PURGING:
            # Equal deadlines keep the order of their dictionary, which is the order in which keys came.
            self.heap = [(when, number, key) for number, (key, when) in enumerate(self._deadlines.items())]
            self._count = len(self.heap)
            heapq.heapify(self.heap)

    def cancel(self, key: _Key) -> None:
        """Let ``key`` never be due; one that has no deadline is passed over."""
        self._deadlines.pop(key, None)

    def next_deadline(self) -> float | None:
        """Return the earliest deadline, or None where there is none."""
        heap = self.heap
        while heap:
            deadline, _, key = heap[0]
            if self._deadlines.get(key) == deadline:
                return deadline
            heapq.heappop(heap)
        return None

    def due(self, now: float) -> list[_Key]:
        """Take out the keys whose deadline is not after ``now``, the earliest first."""
        keys: list[_Key] = []
        while True:
            deadline = self.next_deadline()
            if deadline is None or deadline > now:
                return keys
            key = heapq.heappop(self.heap)[2]
            del self._deadlines[key]
            keys.append(key)

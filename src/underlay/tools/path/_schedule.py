"""When a flow sends its next probe, and how far it reaches.

First a flow finds the path: distance after distance, the next one as soon as the last is answered, or 50 ms after it
was sent. It stops at the host, at a router that refuses, or when so many hops in a row have kept silent; a black
hole ends it so. That was the first round. Each further round sends one probe to each distance, spread evenly, since
bunches would meet the limits of routers. A silent end gets one probe a round, at a distance that changes, to see
whether the path has opened.

Time is an argument, in nanoseconds. This file refuses to know sockets, and what is lost.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ._ledger import AnswerKind
from ._model import Ending

__all__ = ["Schedule"]

# While the path is being found, the next distance waits so long for the answer of the last: longer than most
# round trips take, so that few probes overshoot the host, and 20 distances still take a second.
_GAP_NS: Final = 50_000_000
# So many probes to a dead end without an answer, of which the last may be on its way, and one goes farther each round.
_DOUBTED: Final = 2


class Schedule:
    """The plan of one flow."""

    def __init__(
        self, *, rounds: int | None, interval_ns: int, start_ns: int, max_hops: int, silent_hops: int, shift_ns: int = 0
    ) -> None:
        self._rounds = rounds
        self._interval_ns = interval_ns
        self._max_hops = max_hops
        self._silent_hops = silent_hops
        self._start_ns = start_ns + shift_ns
        self._is_searching = True
        self._next_ttl = 1
        self._next_ns = self._start_ns
        self._plan: deque[int] = deque()
        self._step_ns = 0
        self._tail = 0
        self.rounds_sent = 0
        self.farthest_answer = 0
        """The greatest distance from which a router answered."""
        self.end_ttl: int | None = None
        """The distance at which the path ends."""
        self._end_kind: AnswerKind | None = None
        self._unconfirmed = 0
        """Probes to a dead end since a router has last said to one of them that it is one."""

    # --- what was heard --------------------------------------------------------------------------------

    def answered(self, ttl: int, kind: AnswerKind, now_ns: int, *, is_elsewhere: bool = False) -> None:
        """Take note of the first answer to a probe; ``is_elsewhere`` where that was to go farther than ``ttl``.

        What the host itself has answered holds against a router that says it cannot be reached: then packets are lost.
        """
        if kind is AnswerKind.PASSING:
            self.farthest_answer = max(self.farthest_answer, ttl)
            if self.end_ttl is not None and ttl >= self.end_ttl:  # the path became longer
                self.end_ttl = self._end_kind = None
                self._tail = 0
        elif kind is AnswerKind.REACHED:
            if self.end_ttl is None or self._end_kind is AnswerKind.UNREACHABLE or ttl <= self.end_ttl:
                self._end(ttl, kind)
        elif self._end_kind is not AnswerKind.REACHED and (self.end_ttl is None or ttl <= self.end_ttl):
            if not is_elsewhere:
                self._unconfirmed = 0
            elif ttl != self.end_ttl:
                self._unconfirmed = _DOUBTED
            self._end(ttl, kind)
        if self._is_searching and ttl == self._next_ttl - 1:
            self._next_ns = min(self._next_ns, now_ns)

    def _end(self, ttl: int, kind: AnswerKind) -> None:
        self.end_ttl, self._end_kind = ttl, kind
        self.farthest_answer = min(self.farthest_answer, ttl)

    # --- what is to be done ----------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether every round is sent."""
        return self._rounds is not None and self.rounds_sent >= self._rounds

    def wake_ns(self) -> int | None:
        """When to ask again at the latest; None when only an answer or its absence gives something to do."""
        if self.is_done or (self._is_searching and self._next_ttl > self.last_ttl):
            return None
        return self._next_ns

    def take(self, now_ns: int, *, is_waiting: bool) -> int | None:
        """Give the distance to send a probe to now, which is thereby sent; None for none now.

        ``is_waiting`` tells that probes of this flow are on their way.
        """
        if self.is_done:
            return None
        if self._is_searching:
            if self._next_ttl <= self.last_ttl:
                if now_ns < self._next_ns:
                    return None
                self._next_ttl += 1
                self._next_ns = now_ns + _GAP_NS
                return self._next_ttl - 1
            if self.end_ttl is None and is_waiting:
                return None
            self._is_searching = False
            self.rounds_sent = 1
            self._begin_round(now_ns)
            return None
        while self._plan and self.end_ttl is not None and self._plan[0] > self.end_ttl and not self._is_doubted:
            self._plan.popleft()
        if not self._plan:
            self._round_is_sent(now_ns)
            return None
        if now_ns < self._next_ns:
            return None
        ttl = self._plan.popleft()
        self._unconfirmed += ttl == self.end_ttl
        # What is late stays late: to catch up would be a burst.
        self._next_ns = max(self._next_ns, now_ns - self._step_ns) + self._step_ns
        if not self._plan:
            self._round_is_sent(now_ns)
        return ttl

    def _round_is_sent(self, now_ns: int) -> None:
        self.rounds_sent += 1
        self._begin_round(now_ns)

    def _begin_round(self, now_ns: int) -> None:
        self._start_ns = max(self._start_ns + self._interval_ns, now_ns)
        self._next_ns = self._start_ns
        self._plan = deque(range(1, (self.end_ttl or self.farthest_answer) + 1))
        last = self.farthest_answer if self.end_ttl is None else self.end_ttl
        if self._end_kind is not AnswerKind.REACHED and last < self._max_hops:
            room = min(self._silent_hops, self._max_hops - last)
            self._plan.append(last + 1 + self._tail % room)
            self._tail += 1
        self._step_ns = self._interval_ns // max(len(self._plan), 1)

    @property
    def _is_doubted(self) -> bool:
        """Whether a dead end is none any more, perhaps: the way may have opened behind a hop that is silent."""
        return self._end_kind is AnswerKind.UNREACHABLE and self._unconfirmed >= _DOUBTED

    # --- what is known ---------------------------------------------------------------------------------

    @property
    def ending(self) -> Ending:
        """How the path ends, as far as this flow knows."""
        if self._end_kind is AnswerKind.REACHED:
            return Ending.REACHED
        if self._end_kind is AnswerKind.UNREACHABLE:
            return Ending.UNREACHABLE
        if self._is_searching:
            return Ending.UNKNOWN
        return Ending.TOO_LONG if self.farthest_answer >= self._max_hops else Ending.SILENT

    @property
    def last_ttl(self) -> int:
        """How far the path is looked for, and shown."""
        return self.end_ttl or min(self._max_hops, self.farthest_answer + self._silent_hops)

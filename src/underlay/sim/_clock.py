"""The clock of one host: the world's time, as this machine tells it.

This file knows offset and drift. It refuses to know what is done with the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..errors import UsageError
from ._schedule import Schedule

# What CLOCK_MONOTONIC of a machine says that was started a moment ago: not 0, which some programs take for "never".
BOOTED_S: Final = 1000.0
# The time of day of every world at its begin, 2030-01-01 00:00 UTC: fixed, that a run can be repeated any day.
EPOCH_S: Final = 1_893_456_000.0
# 1030 is a year that ``datetime`` has, and 3030 too.
_MOST_WRONG_S: Final = 1000 * 365 * 86_400.0
# A clock that stood still or went back would let no timer come; one far too fast has no use either.
_LEAST_DRIFT: Final = -0.999
_MOST_DRIFT: Final = 1000.0


def _lies(value: object, least: float, most: float) -> bool:
    """Whether it is a number between these."""
    return isinstance(value, float | int) and least <= value <= most


class HostClock:
    """Monotonic time and time of day of a host; ``drift`` 1e-6 is fast by a microsecond a second.

    Code that takes time (`Host.take`) runs at once, and the clock is ahead of the world by what it took: it stands at
    ``ahead_s``, in its own time, until the world is there too. ``changed(offset_s, drift)`` is told of what is made
    wrong, None of what is not.
    """

    __slots__ = ("_changed", "_drift", "_from_s", "_monotonic_s", "_offset_s", "_schedule", "ahead_s", "pace")

    def __init__(self, schedule: Schedule, changed: Callable[[float | None, float | None], None] | None = None) -> None:
        self._changed = changed
        self._schedule = schedule
        self._from_s = schedule.now
        self._monotonic_s = BOOTED_S + schedule.now
        self._drift = 0.0
        # Seconds of this clock in one of the world's.
        self.pace = 1.0
        self._offset_s = 0.0
        self.ahead_s = 0.0

    def time(self) -> float:
        """Seconds of the host's CLOCK_MONOTONIC."""
        time_s = self._monotonic_s + (self._schedule.now - self._from_s) * self.pace
        return time_s if time_s > self.ahead_s else self.ahead_s

    @property
    def offset_s(self) -> float:
        """How far the time of day is ahead of the right one."""
        return self._offset_s

    @offset_s.setter
    def offset_s(self, offset_s: float) -> None:
        if not _lies(offset_s, -_MOST_WRONG_S, _MOST_WRONG_S):
            raise UsageError(
                f"a clock cannot be wrong by {offset_s!r} s", remedy="say the seconds, of a thousand years at most"
            )
        self._offset_s = offset_s
        if self._changed is not None:
            self._changed(offset_s, None)

    def time_of_day(self) -> float:
        """Seconds since 1970, as the host has them: right but for ``offset_s`` and what the drift made of it."""
        return self.time() - BOOTED_S + EPOCH_S + self._offset_s

    def world_s(self, host_s: float) -> float:
        """When the world has the time that this clock will show as `host_s`."""
        return self._from_s + (host_s - self._monotonic_s) / self.pace

    @property
    def drift(self) -> float:
        """By what share it is too fast; set, it goes on from where it is at that pace."""
        return self._drift

    @drift.setter
    def drift(self, drift: float) -> None:
        if not _lies(drift, _LEAST_DRIFT, _MOST_DRIFT):
            raise UsageError(f"a clock cannot drift by {drift!r}", remedy="1e-4 is fast by 0.1 ms a second, -1e-4 slow")
        self._monotonic_s += (self._schedule.now - self._from_s) * self.pace
        self._from_s = self._schedule.now
        self._drift, self.pace = drift, 1.0 + drift
        if self._changed is not None:
            self._changed(None, drift)

"""One reading after another, and what happened between them.

This file knows the order of things and the clock. It refuses to know files and terminals.
"""

from __future__ import annotations

import enum
import errno
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ...errors import UnderlayError, UsageError
from .._complaints import reason
from ._processes import ProcessSample, ProcessUsage, now_s, process_usage, read_processes, since_start
from ._sample import Sample, read_sample
from ._usage import Usage, between, since_boot

__all__ = ["Period", "Reading", "Watch"]

# Processors' time is told in ticks of 10 ms (_SC_CLK_TCK, proc_stat(5)): more often there is nothing new to tell.
_LEAST_INTERVAL_S: Final = 0.01
# What the command line tells by itself.
_SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# Eleven days: whoever asks for more has made a mistake.
_MOST_INTERVAL_S: Final = 1e6


class Period(enum.StrEnum):
    """Which time a reading is about."""

    BOOT = "since boot"
    """All of it since the machine was started; of processes, since each was."""
    INTERVAL = "interval"
    """The time since the reading before."""
    AVERAGE = "average"
    """All of it since this program's first reading."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the machine was busy with for a while, and the processes that were asked for."""

    period: Period
    usage: Usage
    processes: tuple[ProcessUsage, ...] = ()
    """The busiest first."""


@dataclass(frozen=True, slots=True)
class _Moment:
    sample: Sample
    processes: list[ProcessSample]


class Watch:
    """Readings of this machine: the averages since boot first, then one for each interval, ``count`` in all.

    An interval of None gives the first reading alone. ``pids`` are processes to tell of, ``top`` the number of the
    busiest ones. `UsageError` for a process that is not there.

    >>> [reading.period.value for reading in Watch(0.05, 2).readings()]
    ['since boot', 'interval']
    """

    def __init__(
        self, interval_s: float | None = None, count: int | None = None, *, pids: Sequence[int] = (), top: int = 0
    ) -> None:
        if interval_s is not None and not _LEAST_INTERVAL_S <= interval_s <= _MOST_INTERVAL_S:
            raise UsageError(
                f"an interval of {interval_s:.15g} s", remedy=f"give {_LEAST_INTERVAL_S:g} to {_MOST_INTERVAL_S:.10g}"
            )
        if count is not None and count < 1:
            raise UsageError(f"{count} rows", remedy="give 1 or more")
        if top < 0:
            raise UsageError(f"the {top} busiest processes", remedy="give 1 or more")
        self._interval_s = interval_s
        self._count = 1 if interval_s is None else count
        self._pids, self._top = tuple(dict.fromkeys(pids)), top
        self._first: _Moment | None = None
        self._last: _Moment | None = None
        present = {each.pid for each in read_processes(self._pids, io=False)}
        for pid in self._pids:
            if pid not in present:
                raise UsageError(f"there is no process {pid}", remedy="`--top 10` shows who is busy")

    def readings(self) -> Iterator[Reading]:
        """Give one reading after another; between two it sleeps. It ends when all processes of ``pids`` have ended."""
        self._first = self._last = self._read()
        busiest = since_start(self._first.processes, now_s())
        yield Reading(Period.BOOT, since_boot(self._first.sample), self._chosen(busiest))
        begin_s = time.monotonic()
        number = 1
        while self._interval_s is not None and (self._count is None or number < self._count):
            # By the clock and not from the last one on, so that rows of two machines stay side by side. What was
            # slept through is left out.
            steps = max(number, math.ceil((time.monotonic() - begin_s) / self._interval_s))
            time.sleep(max(0.0, begin_s + steps * self._interval_s - time.monotonic()))
            begin_s += (steps - number) * self._interval_s
            before, self._last = self._last, self._read()
            number += 1
            yield self._between(Period.INTERVAL, before, self._last)
            if self._pids and not self._last.processes:
                return

    def average(self) -> Reading | None:
        """Give the averages from the first reading to the last; None before there are two."""
        if self._first is None or self._last is None or self._first is self._last:
            return None
        return self._between(Period.AVERAGE, self._first, self._last)

    def _between(self, period: Period, before: _Moment, now: _Moment) -> Reading:
        usage = between(before.sample, now.sample)
        return Reading(period, usage, self._chosen(process_usage(before.processes, now.processes, usage.elapsed_s)))

    def _chosen(self, busiest: list[ProcessUsage]) -> tuple[ProcessUsage, ...]:
        if not self._top:
            return tuple(busiest)
        wanted = [each for each in busiest if each.pid in self._pids]
        return tuple(wanted + [each for each in busiest if each.pid not in self._pids][: self._top])

    def _read(self) -> _Moment:
        try:
            sample = read_sample()
        except (OSError, LookupError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _SHORTAGES:
                raise  # this machine has too little, and /proc is not at fault
            said = f"{error.filename}: {reason(error)}" if isinstance(error, OSError) else str(error)
            raise UnderlayError(
                f"/proc does not tell what this machine does: {said}", remedy="is it mounted, and is this Linux?"
            ) from error
        return _Moment(sample, read_processes(None if self._top else self._pids))

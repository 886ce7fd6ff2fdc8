"""What single processes use: /proc/PID/stat, and /proc/PID/io where it may be read.

A process is known by its number and its time of start, since numbers are used again. This file knows these files. It
refuses to know the machine as a whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .._printable import masked
from ._usage import counted

__all__ = ["ProcessSample", "ProcessUsage", "now_s", "process_usage", "read_processes", "since_start"]

_PROC: Final = Path("/proc")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# proc_pid_stat(5) counts fields from 1; these are places behind the name's closing bracket, where field 3 is 0.
_STATE, _PARENT, _MINOR, _MAJOR, _UTIME, _STIME, _THREADS, _START, _RSS = 0, 1, 7, 9, 11, 12, 17, 19, 21


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One reading of one process."""

    pid: int
    started_ticks: int
    name: str
    state: str
    user_ticks: int
    system_ticks: int
    threads: int
    resident_bytes: int
    minor_faults: int
    major_faults: int
    read_bytes: int | None
    written_bytes: int | None


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What one process used for a while."""

    pid: int
    name: str
    state: str
    """One letter: proc_pid_stat(5)."""
    cpu_percent: float
    """Of one processor: 200 is two of them."""
    user_percent: float
    system_percent: float
    threads: int
    resident_bytes: int
    minor_faults_per_s: float
    major_faults_per_s: float
    read_bytes_per_s: float | None
    """From disks; None for another user's process, which only root may ask."""
    written_bytes_per_s: float | None


def read_processes(pids: Iterable[int] | None = None, *, io: bool = True, proc: Path = _PROC) -> list[ProcessSample]:
    """Read the processes with these numbers, or all; those that ended meanwhile are left out.

    ``io=False`` leaves out what came from and went to disks, a file more for each. ``OSError`` where /proc is none and
    all are asked for.

    >>> import os
    >>> [each.pid for each in read_processes([os.getpid()])] == [os.getpid()]
    True
    """
    if pids is None:
        pids = (int(name) for name in os.listdir(proc) if name.isdecimal())
    return [found for pid in pids if (found := _read(proc / str(pid), pid, io)) is not None]


def _read(folder: Path, pid: int, io: bool) -> ProcessSample | None:
    try:
        data = (folder / "stat").read_bytes()
    except OSError:
        return None
    # The name may hold spaces and brackets; the last bracket ends it.
    head, _, rest = data.rpartition(b")")
    fields = rest.split()
    if len(fields) <= _RSS:
        return None
    try:
        numbers = [int(field) for field in fields[1 : _RSS + 1]]
    except ValueError:
        return None
    read, written = _io(folder) if io else (None, None)
    return ProcessSample(
        pid,
        numbers[_START - 1],
        masked(head.partition(b"(")[2].decode(errors="replace")),
        fields[_STATE].decode(errors="replace"),
        numbers[_UTIME - 1],
        numbers[_STIME - 1],
        numbers[_THREADS - 1],
        numbers[_RSS - 1] * _PAGE_BYTES,
        numbers[_MINOR - 1],
        numbers[_MAJOR - 1],
        read,
        written,
    )


def _io(folder: Path) -> tuple[int | None, int | None]:
    try:
        lines = (folder / "io").read_bytes().splitlines()
    except OSError:  # another user's, or gone
        return None, None
    found = dict(line.split(b": ", 1) for line in lines if b": " in line)
    try:
        return int(found[b"read_bytes"]), int(found[b"write_bytes"])
    except (KeyError, ValueError):
        return None, None


def process_usage(
    before: Iterable[ProcessSample], now: Iterable[ProcessSample], elapsed_s: float
) -> list[ProcessUsage]:
    """Tell what each process used between two readings, the busiest first; one that began meanwhile, since then.

    ``elapsed_s`` is the time between the two, more than 0.
    """
    earlier = {(each.pid, each.started_ticks): each for each in before}
    found = []
    for each in now:
        was = earlier.get((each.pid, each.started_ticks))
        user = counted(each.user_ticks, was.user_ticks if was else 0) / _TICKS_PER_S / elapsed_s * 100
        system = counted(each.system_ticks, was.system_ticks if was else 0) / _TICKS_PER_S / elapsed_s * 100
        found.append(
            ProcessUsage(
                each.pid,
                each.name,
                each.state,
                user + system,
                user,
                system,
                each.threads,
                each.resident_bytes,
                counted(each.minor_faults, was.minor_faults if was else 0) / elapsed_s,
                counted(each.major_faults, was.major_faults if was else 0) / elapsed_s,
                _rate(each.read_bytes, was.read_bytes if was else 0, elapsed_s),
                _rate(each.written_bytes, was.written_bytes if was else 0, elapsed_s),
            )
        )
    return _busiest_first(found)


def _busiest_first(found: Iterable[ProcessUsage]) -> list[ProcessUsage]:
    return sorted(found, key=lambda each: (-each.cpu_percent, -each.resident_bytes, each.pid))


def _rate(now: int | None, before: int | None, elapsed_s: float) -> float | None:
    return None if now is None or before is None else counted(now, before) / elapsed_s


def since_start(samples: Iterable[ProcessSample], uptime_s: float) -> list[ProcessUsage]:
    """Tell the averages of each process since its own start, the busiest first."""
    found = []
    for each in samples:
        age_s = max(uptime_s - each.started_ticks / _TICKS_PER_S, 1 / _TICKS_PER_S)
        found += process_usage([], [each], age_s)
    return _busiest_first(found)


def now_s() -> float:
    """The clock by which processes' ages are told: since the machine's start, sleep included (proc_pid_stat(5))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

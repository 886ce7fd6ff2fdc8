"""Knows how to read what a process tree has cost: CPU time, context switches, system calls, memory.

It reads clocks, /proc and perf counters of other processes; it does not know why they run. All
readings are sums since the processes began, so that a difference of two is the cost of what lay
between.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# <linux/posix-timers_types.h>: a negative clock id names another process's clock; 2 is
# CPUCLOCK_SCHED, the scheduler's own sum in ns over all threads, ended ones included (utime and
# stime in /proc come in ticks of 10 ms).
_CPUCLOCK_SCHED = 2


def process_tree(pid: int) -> list[int]:
    """Give `pid` and all its living descendants, parents first.

    Source: /proc/<pid>/task/<tid>/children where the kernel has it, else the parent's id in every
    /proc/<pid>/stat.
    """
    tree = [pid]
    if not Path(f"/proc/{pid}/task/{pid}/children").exists():
        return _tree_by_parents(pid)
    for member in tree:  # grows while it is walked
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                tree += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return tree


def _tree_by_parents(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(") ")[2].split()[1])
        except OSError:
            continue
    tree = [pid]
    for member in tree:
        tree += [child for child, parent in parents.items() if parent == member]
    return tree


def cpu_s(pids: Iterable[int]) -> float:
    """Give the CPU seconds (user and system) that these processes have used, to the nanosecond."""
    total_ns = 0
    for pid in pids:
        try:
            total_ns += time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
        except OSError:  # it ended meanwhile
            continue
    return total_ns / 1e9


@dataclass(frozen=True)
class Switches:
    """Context switches of a process tree: given up by waiting (voluntary), or taken away."""

    voluntary: int
    involuntary: int


def switches(pids: Iterable[int]) -> Switches:
    """Sum the context switches of all living threads of these processes.

    Source: proc_pid_status(5). A thread that ended takes its count with it, so a difference is exact
    only while threads stay, as connections do within a measured window.
    """
    voluntary = involuntary = 0
    for pid in pids:
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            try:
                text = status.read_text()
            except OSError:
                continue
            voluntary += _field(text, "voluntary_ctxt_switches:")
            involuntary += _field(text, "nonvoluntary_ctxt_switches:")
    return Switches(voluntary, involuntary)


def memory_bytes(pids: Iterable[int]) -> int:
    """Give the memory that these processes hold, each shared page divided by its sharers (PSS).

    Source: proc_pid_smaps(5), which has no file smaps_rollup where the kernel was built without it;
    then it is the resident size, which counts shared pages in full. What the kernel itself holds for
    a socket is in neither.
    """
    total = 0
    for pid in pids:
        try:
            total += _field(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss:") * 1024
        except OSError:
            try:
                total += _field(Path(f"/proc/{pid}/status").read_text(), "VmRSS:") * 1024
            except OSError:
                continue
    return total


def machine_busy_s() -> float:
    """Give the CPU seconds that all programs of the machine, and its hypervisor, have used since boot.

    Source: the first line of proc_stat(5), in ticks; idle and iowait are left out, and guest time,
    which is in user already.
    """
    try:
        with open("/proc/stat") as stat:
            ticks = [int(word) for word in stat.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0.0
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _field(text: str, name: str) -> int:
    """Give the number after a line's name in a file of /proc; 0 if there is no such line."""
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0

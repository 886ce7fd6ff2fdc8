"""Knows how to read what a process tree has cost: CPU time, context switches, system calls, memory.

It reads clocks, /proc and perf counters of other processes; it does not know why they run. All
readings are sums since the processes began, so that a difference of two is the cost of what lay
between.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
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

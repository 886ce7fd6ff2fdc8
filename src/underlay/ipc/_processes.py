"""What the kernel says of a process by its number: whether it lives, is stopped, and when it began.

This file knows /proc/PID/stat. It refuses to know why somebody asks.
"""

from __future__ import annotations

_DEAD = ("Z", "X")  # dead, and not waited for yet: proc_pid_stat(5), field 3


def start_of(process: int) -> int | None:
    """When a process began, in ticks since the machine did, so that none of the same number is taken for it.

    None where it is dead. Field 22 of proc_pid_stat(5).

    >>> import os
    >>> start_of(os.getpid()) == start_of(os.getpid()), start_of(1 << 30)
    (True, None)
    """
    fields = _stat_of(process)
    return int(fields[19]) if fields else None


def state_of(process: int) -> str:
    """The letter of a process's state, field 3 of proc_pid_stat(5); none where it is dead.

    >>> import os
    >>> state_of(os.getpid()), state_of(1 << 30)
    ('R', '')
    """
    fields = _stat_of(process)
    return fields[0] if fields else ""


def _stat_of(process: int) -> list[str]:
    """The fields from the third on, after the name, which may have anything in it; none where it is dead."""
    try:
        with open(f"/proc/{process}/stat", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if not fields or fields[0] in _DEAD else fields

"""The real-time signals that this process has left for the loops, so that no two of them take the same one.

This file knows which numbers are nobody's. It refuses to know what they are for: the signal-driven model takes one a
loop from the high end, a watchdog one a loop from the low end.
"""

from __future__ import annotations

import signal
from typing import Final

__all__ = ["free_signals", "take_unused"]

# The lowest and the highest are left to others: programs that pick one by hand pick SIGRTMIN, SIGRTMIN+1 or SIGRTMAX.
free_signals: Final = list(range(signal.SIGRTMIN + 3, signal.SIGRTMAX))


def take_unused() -> int | None:
    """The lowest free number that nobody in this process handles, ignores, or blocks in this thread; None without one.

    Python's own `signal.getsignal` knows only what was set by Python, so the kernel is asked (proc_pid_status(5)).
    A number that is blocked is waited for by somebody: sigwaitinfo(2), signalfd(2).
    """
    used, blocked = _masks("/proc/thread-self/status")
    if all(blocked >> (number - 1) & 1 for number in free_signals):
        # This thread blocks whatever there is, as threads often do that leave signals to others: the first one tells.
        blocked = _masks("/proc/self/status")[1]
    for number in free_signals:
        if not (used | blocked) >> (number - 1) & 1:
            free_signals.remove(number)
            return number
    return None


def _masks(path: str) -> tuple[int, int]:
    """The signals that are handled or ignored, and those that the thread blocks."""
    with open(path) as status:
        lines = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    return int(lines["SigCgt"], 16) | int(lines["SigIgn"], 16), int(lines["SigBlk"], 16)

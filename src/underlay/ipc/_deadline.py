"""When a wait is over: what a caller may give as a time-out, and how long one call of the kernel may wait.

This file knows numbers of seconds. It refuses to know what is awaited.
"""

from __future__ import annotations

import math
import time
from typing import Final, SupportsFloat, TypeAlias, cast

from ..errors import UsageError

# Whoever waits longer looks again: poll(2) takes 24 days at most, milliseconds in an int. And nothing wakes a thread
# that waits for what another thread closes (close(2)): so it sees that within half a second.
_LONGEST_CALL_S: Final = 0.5


# What a caller gives: a float or an int. It is `deadline` that refuses all else, in a sentence; machine code that knows
# of a float would refuse it before, in words of its own.
Seconds: TypeAlias = SupportsFloat


def deadline(timeout_s: Seconds) -> float:
    """When that time is over, by `time.monotonic`; never, where it is infinite. One below zero is over already.

    Raises ``UsageError`` for what is no number of seconds.
    """
    try:
        deadline_s = time.monotonic() + cast("float", timeout_s)
    except OverflowError:  # a whole number that no float can hold
        deadline_s = math.inf if cast("float", timeout_s) > 0 else math.nan
    except TypeError:
        deadline_s = math.nan
    if math.isnan(deadline_s):
        raise UsageError(
            f"timeout_s={timeout_s!r} is no number of seconds", remedy="give one, as 0.5; None waits for ever"
        )
    return deadline_s


def for_epoll_s(left_s: float | None) -> float:
    """What one call of epoll_wait(2) is told of the time that is left; whoever calls looks again after it."""
    return _LONGEST_CALL_S if left_s is None else max(0.0, min(left_s, _LONGEST_CALL_S))


def for_poll_ms(left_s: float | None) -> float:
    """The same for poll(2), in its unit."""
    return 1000 * for_epoll_s(left_s)

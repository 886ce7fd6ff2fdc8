"""The contract of a clock: what may ask the time, asks it of one of these.

This file knows only the shape. It refuses to know any real clock: the loop
brings the kernel's, a simulation brings its own, and code that merely computes
takes ``now`` as an argument and needs neither.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["Clock"]


@runtime_checkable
class Clock(Protocol):
    """Something that knows how late it is.

    ``asyncio``'s loops satisfy it as they are: their ``time()`` is this one.

    >>> class Stopped:
    ...     def time(self) -> float:
    ...         return 12.5
    >>> clock: Clock = Stopped()
    >>> clock.time()
    12.5
    """

    def time(self) -> float:
        """Return the time in seconds, counted from a start of the clock's own.

        It never goes back. Only differences mean something: it is not the time
        of day (``CLOCK_MONOTONIC`` in clock_gettime(2) is such a clock).
        """
        ...

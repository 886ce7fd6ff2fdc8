"""Who is told what happens at an end of a test: the command line, or a program of yours.

This file knows the occasions and does nothing at them.
"""

from __future__ import annotations

from ...errors import UnderlayError
from ._results import Interval, Result
from ._settings import Settings

__all__ = ["Watcher"]


class Watcher:
    """Is told of each step of a test; each method may be overridden, and does nothing by itself.

    A server calls it from the thread of the test, one test at a time but for `refused`, which comes from `serve`.
    What it raises ends the test, and `serve`.

    >>> class Rates(Watcher):
    ...     def interval(self, interval):
    ...         print(f"{interval.bits_per_s:.0f} bit/s")
    """

    def listening(self, addresses: list[str]) -> None:
        """A server is ready at these addresses."""

    def started(self, peer: str, settings: Settings) -> None:
        """A test runs; ``settings`` is complete now, the length of a block included."""

    def interval(self, interval: Interval) -> None:
        """An interval has passed; of a bidirectional test there are two, this end's sending first."""

    def finished(self, result: Result) -> None:
        """A test has ended as it should."""

    def broken(self, error: UnderlayError, result: Result | None) -> None:
        """A server's test was broken off; ``result`` is what there was by then, if it ran."""

    def refused(self, peer: str) -> None:
        """A server sent a client away, because it has another."""

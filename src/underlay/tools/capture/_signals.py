"""The signals that end a capture, or the reading of a file, in order: once they ask, twice they end the process.

This file knows signals. It refuses to know what is to be ended.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

__all__ = ["Stoppable", "ended_at_once", "ended_by_signals"]


class Stoppable(Protocol):
    """What can be asked to end, from a signal's handler."""

    @property
    def is_stopping(self) -> bool:
        """Whether it was."""

    def stop(self) -> None:
        """Ask it."""


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process while libpcap compiles a filter: for one of thousands of words it takes minutes.

    Nothing is open yet that would have to be closed, and a handler of Python's would have to wait.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def ended_by_signals(work: Stoppable) -> Iterator[None]:
    """Let Ctrl-C, and the signals by which others ask us to end, end it in order; twice: at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if work.is_stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        if work.is_stopping:  # and does not come to it: nobody reads our output, for instance
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        work.stop()

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup`, or the background of a shell
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

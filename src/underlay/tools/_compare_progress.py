"""Tells on stderr how far a comparison has come: one line that changes on a terminal, else a line per round.

It knows terminals, the clock and the signals that end a comparison; it does not measure.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from ._load_process import INTERRUPTIONS


class Progress:
    """Tells on stderr how far it has come: one line that changes on a terminal, else a line per round."""

    def __init__(self, rounds: int, check: Callable[[], None]) -> None:
        self._rounds = rounds
        self._check = check
        self._is_terminal = sys.stderr.isatty()
        self._begin = time.monotonic()
        self._round = 0

    def say(self, text: str) -> None:
        """Show what is being done now; nothing in a pipe."""
        if self._is_terminal:
            print(f"\r\033[K{text[:78]}", end="", file=sys.stderr, flush=True)

    def step(self, round_number: int, model: str, done: int, total: int) -> None:
        """Show the step and what is left of the time; here an interruption is seen at the latest."""
        self._check()
        if round_number != self._round:
            self._round = round_number
            if not self._is_terminal:
                print(f"round {round_number} of {self._rounds}", file=sys.stderr, flush=True)
        left = ""
        if done >= 2:
            seconds = (time.monotonic() - self._begin) / done * (total - done)
            left = f", about {seconds:.0f} s left"
        full = round(20 * done / total) if total else 0
        self.say(f"{'━' * full}{'╌' * (20 - full)} round {round_number}/{self._rounds} {model}{left}")

    def failed(self, model: str, reason: str) -> None:
        """Tell a failure at once."""
        self.clear()
        print(f"{model}: {reason}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the changing line away."""
        if self._is_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


class Interruption:
    """Lets SIGTERM end a comparison as Ctrl-C does, and lets neither be lost.

    Python prints, and then forgets, an exception that a signal's handler raises within a finalizer or a
    callback after fork(2); so the handler also remembers, and `check` raises once more.
    """

    def __init__(self) -> None:
        self._seen = False
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> None:
        for number in INTERRUPTIONS:
            self._before[number] = signal.signal(number, self._interrupt)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise KeyboardInterrupt if there has been an interruption."""
        if self._seen:
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._seen = True
        raise KeyboardInterrupt

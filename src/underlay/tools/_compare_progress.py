"""Tells on stderr how far a comparison has come: one line that changes on a terminal, else a line per round.

It knows terminals and the clock; it does not measure.
"""

from __future__ import annotations

import sys
import time


class Progress:
    """Tells on stderr how far it has come: one line that changes on a terminal, else a line per round."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._is_terminal = sys.stderr.isatty()
        self._begin = time.monotonic()
        self._round = 0

    def say(self, text: str) -> None:
        """Show what is being done now; nothing in a pipe."""
        if self._is_terminal:
            print(f"\r\033[K{text[:78]}", end="", file=sys.stderr, flush=True)

    def step(self, round_number: int, model: str, done: int, total: int) -> None:
        """Show the step and what is left of the time."""
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

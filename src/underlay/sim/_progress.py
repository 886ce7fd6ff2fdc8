"""How far the exploration of a test is, on one line of a terminal that is written anew.

This file knows the line, below the one on which pytest writes. It refuses to know what is explored.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Final, Self

# Who waits for longer wants to know how far it is; who looks sees a number change.
_AFTER_S: Final = 1.0
_EACH_S: Final = 0.2


class Progress:
    """``writer`` is a terminal writer of pytest's, None where there is no terminal; ``capture`` holds back output."""

    def __init__(self, writer: Any, name: str, seeds: int, capture: Any) -> None:
        self._writer = writer
        self._name = name
        self._seeds = seeds
        self._capture = capture
        self._began_s = time.monotonic()
        self._next_s = self._began_s + _AFTER_S
        self._is_shown = False

    def tell(self, explored: int) -> None:
        """So many seeds are done."""
        if self._writer is None or time.monotonic() < self._next_s:
            return
        now_s = time.monotonic()
        self._next_s = now_s + _EACH_S
        per_s = explored / (now_s - self._began_s)
        tail = f": {explored} of {self._seeds} seeds, {per_s:.0f} a second"
        width = self._writer.fullwidth - 1
        text = (self._name[: max(0, width - len(tail))] + tail)[:width]
        self._write(("" if self._is_shown else "\n") + f"\r\x1b[K{text}")
        self._is_shown = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._is_shown:
            # Back up, to where pytest had left its cursor: it knows nothing of our line.
            column = self._writer.width_of_current_line
            self._write("\r\x1b[K\x1b[A" + (f"\x1b[{column}C" if column else ""))

    def _write(self, text: str) -> None:
        with self._capture.global_and_fixture_disabled() if self._capture is not None else nullcontext():
            self._writer._file.write(text)
            self._writer._file.flush()

"""The table of who waits for something, or has it: which process, and in what state; the dead are told from the living.

This file knows the rows of a table in shared memory. It refuses to know what their states mean.

A row's first word is written last, and taken back first: who dies while it writes leaves a row that is free.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from ..errors import UsageError
from ._processes import start_of

_ROW_WORDS: Final = 4  # the process and the thread, its start, the state, the turn
ROW_BYTES: Final = 8 * _ROW_WORDS
_OWNER, _START, _STATE, _TURN = range(_ROW_WORDS)


class Parties:
    """The rows, by their number. Whoever changes them has the guard."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._rows = len(words) // _ROW_WORDS

    def enter(self, state: int, *, thread: int = 0, turn: int = 0, keep: int = 0) -> int:
        """A row of this process; the dead make room, but those in the state ``keep``.

        Raises ``UsageError`` where all are taken.
        """
        owners = self._owners()
        if 0 not in owners:
            self.bury(keep)
            owners = self._owners()
        if 0 not in owners:
            raise UsageError(
                f"{self._rows} processes and threads have it or wait for it already", remedy="let fewer do so at once"
            )
        row, process = owners.index(0), os.getpid()
        words, at = self._words, row * _ROW_WORDS
        words[at + _START], words[at + _STATE], words[at + _TURN] = start_of(process) or 0, state, turn
        words[at + _OWNER] = process << 32 | thread
        return row

    def leave(self, row: int) -> None:
        """Free a row."""
        self._words[row * _ROW_WORDS + _OWNER] = 0

    def state(self, row: int) -> int:
        """The state of a row."""
        return int(self._words[row * _ROW_WORDS + _STATE])

    def set_state(self, row: int, state: int) -> None:
        """Give a row another state."""
        self._words[row * _ROW_WORDS + _STATE] = state

    def process(self, row: int) -> int:
        """The process of a row."""
        return int(self._words[row * _ROW_WORDS + _OWNER]) >> 32

    def find(self, thread: int) -> int | None:
        """The row of a thread of this process."""
        try:
            return self._owners().index(os.getpid() << 32 | thread)
        except ValueError:
            return None

    def states(self) -> list[int]:
        """The states of all rows that are taken."""
        words = self._words
        return [words[row * _ROW_WORDS + _STATE] for row, owner in enumerate(self._owners()) if owner]

    def rows(self, state: int) -> list[int]:
        """The rows in a state, by their turn."""
        words = self._words
        found = [row for row, owner in enumerate(self._owners()) if owner and words[row * _ROW_WORDS + _STATE] == state]
        return sorted(found, key=lambda row: int(words[row * _ROW_WORDS + _TURN]))

    def is_dead(self, row: int) -> bool:
        """Whether the process of a row is gone."""
        return start_of(self.process(row)) != self._words[row * _ROW_WORDS + _START]

    def dead(self) -> Iterator[int]:
        """The rows whose processes are gone."""
        return (row for row, owner in enumerate(self._owners()) if owner and self.is_dead(row))

    def bury(self, keep: int) -> None:
        """Free the rows of the dead, but those in this state."""
        for row in self.dead():
            if self.state(row) != keep:
                self.leave(row)

    def of_this_process(self) -> list[int]:
        """The rows of this process."""
        own = os.getpid()
        return [row for row, owner in enumerate(self._owners()) if owner >> 32 == own]

    def _owners(self) -> list[int]:
        return list(self._words[::_ROW_WORDS])

"""A stdout that waits for room where its descriptor does not.

Whoever shares a pipe or a terminal with us may have made it non-blocking (O_NONBLOCK in open(2) belongs to all of them;
event loops do so). Python's own stdout then drops what finds no room, without a word. To make it blocking again would
be theirs to notice; so this file waits by poll(2) instead. It refuses to know what is written.
"""

from __future__ import annotations

import io
import os
import select
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["blocking"]


class _Waiting(io.RawIOBase):
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: ReadableBuffer, /) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                room = select.poll()
                room.register(self._descriptor, select.POLLOUT)
                room.poll()


def blocking(stdout: TextIO) -> TextIO:
    """Give one in the place of a stdout that is not; the descriptor stays the given one's, and closes with it."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Waiting(stdout.fileno())),
        encoding=stdout.encoding,
        errors=stdout.errors,
        line_buffering=stdout.isatty(),
    )

"""Writes all that it is given, and waits for room where the descriptor does not: by a call, or as a stdout.

Two of Python's lose output without a word. Whoever shares a pipe or a terminal with us may have made it non-blocking
(O_NONBLOCK in open(2) belongs to all of them; event loops do so), and what finds no room is dropped. To make it
blocking again would be theirs to notice, so this file waits by poll(2) instead. And unbuffered (PYTHONUNBUFFERED) a
write that the kernel took in part, because a signal came, is never ended.

This file refuses to know what is written.
"""

from __future__ import annotations

import io
import os
import select
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["whole", "write_all"]


def write_all(descriptor: int, data: ReadableBuffer) -> None:
    """Write it to the last byte, whoever made the descriptor non-blocking; raises what write(2) says else."""
    rest = memoryview(data).cast("B")
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            room = select.poll()
            room.register(descriptor, select.POLLOUT)
            room.poll()


class _Whole(io.RawIOBase):
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: ReadableBuffer, /) -> int:
        write_all(self._descriptor, data)
        return memoryview(data).nbytes


def whole(stdout: TextIO) -> TextIO:
    """Give one in the place of a stdout that would lose something; the descriptor stays the given one's."""
    is_unbuffered = isinstance(stdout.buffer, io.RawIOBase)
    raw = _Whole(stdout.fileno())
    buffer = cast("io.BufferedWriter[_Whole]", raw) if is_unbuffered else io.BufferedWriter(raw)  # as Python's own is
    return io.TextIOWrapper(
        buffer,
        encoding=stdout.encoding,
        errors=stdout.errors,
        line_buffering=stdout.isatty(),
        write_through=is_unbuffered,
    )

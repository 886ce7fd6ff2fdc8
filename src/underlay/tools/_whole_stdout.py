"""A stdout that writes all it is given, and waits for room where its descriptor does not.

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

__all__ = ["whole"]


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
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                room = select.poll()
                room.register(self._descriptor, select.POLLOUT)
                room.poll()
        return size


def whole(stdout: TextIO) -> TextIO:
    """Give the same stdout, or one in its place if it would lose something; the descriptor stays the given one's."""
    is_unbuffered = isinstance(stdout.buffer, io.RawIOBase)
    if os.get_blocking(stdout.fileno()) and not is_unbuffered:
        return stdout
    raw = _Whole(stdout.fileno())
    buffer = cast("io.BufferedWriter[_Whole]", raw) if is_unbuffered else io.BufferedWriter(raw)  # as Python's own is
    return io.TextIOWrapper(
        buffer,
        encoding=stdout.encoding,
        errors=stdout.errors,
        line_buffering=stdout.isatty(),
        write_through=is_unbuffered,
    )

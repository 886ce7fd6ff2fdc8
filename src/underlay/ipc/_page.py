"""A page of memory that processes share, and an eventfd that wakes who sleeps.

This file knows words of eight bytes, each on a cache line of its own, and when a sleeper has to be woken. It refuses
to know what for.

Aligned stores and loads of eight bytes through a memoryview of "Q" are single moves. **No wake-up is lost** as long as
the queue's own lock lies between: who wants to sleep says so, and then looks at the queue once more; who puts
something into it looks afterwards whether somebody sleeps. Whoever has the lock second sees what the first had stored.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

_LINE_WORDS: Final = 8  # a cache line has 64 bytes


class Page:
    """The words of a page, by number."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._words = memoryview(self._map).cast("Q")
        self._lines: list[memoryview] = []

    def word(self, number: int) -> memoryview:
        """A word as a view of one item; it shares no cache line with the others."""
        line = self._words[number * _LINE_WORDS : number * _LINE_WORDS + 1]
        self._lines.append(line)
        return line

    def close(self) -> None:
        """Give the mapping back, and all words of it."""
        for line in self._lines:
            line.release()
        self._words.release()
        self._map.close()


def make_bell() -> int:
    """A new eventfd that counts: each read takes one off, and it is readable while any is left."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)


def silence(bell: int) -> None:
    """Take all off that an eventfd has counted."""
    try:
        while True:
            os.eventfd_read(bell)
    except BlockingIOError:
        return

"""The memory that a model needs which announces changes of readiness instead of its level.

This file knows why one announcement may be worth several reads, and how to find out cheaply.  It does not know
whether the announcement came from edge-triggered epoll or from a signal.

asyncio reads once per event, at most 64 KiB here, and accepts up to `backlog` connections. An edge says only
that something *became* readable: what one read leaves in the socket is never announced again, so a 1 MiB
burst hangs after its first 64 KiB. So every announced descriptor is remembered here until someone shows that
it is used up: our own transports by a short read or EAGAIN, or poll(2) asked without waiting, at the next
turn, about all those that remain.
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Mapping
from typing import Final

from ._reactor import READ

# The peer's end is among what is announced: POLLRDHUP for its last byte, the others for both directions.
_ENDED: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Edges(set[int]):
    """The descriptors whose last announcement may not be used up; whoever empties one discards it.

    ``watched`` holds what is asked of each descriptor (READ | WRITE bits).
    """

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, int] = {}
        self._ended: set[int] = set()

    def forget(self, fd: int) -> None:
        """Ask nothing more of `fd`."""
        self.watched.pop(fd, None)
        self.discard(fd)
        self._ended.discard(fd)

    def announce_end(self, fd: int) -> None:
        """Remember `fd` until it is forgotten: its peer's end was announced, perhaps together with its last data.

        No edge follows an end, so a short read proves nothing any more.
        """
        self._ended.add(fd)

    def still_ready(self) -> list[tuple[int, int]]:
        """Ask poll(2), without waiting, which remembered descriptors are ready; forget the rest."""
        self |= self._ended
        if not self:
            return []
        poll = select.poll()
        watched = self.watched
        for fd in self:
            events = watched[fd]
            # The peer's end lasts, so it is asked about only for someone who reads: a writer would spin on it.
            poll.register(fd, events | select.POLLRDHUP if events & READ else events)
        ready = []
        for fd, mask in poll.poll(0):
            if mask & select.POLLNVAL:
                continue  # closed while watched: forgotten silently, as epoll does
            if mask & _ENDED:
                self._ended.add(fd)
                mask = (mask & ~select.POLLRDHUP) | READ
            ready.append((fd, mask))
        if len(ready) < len(self):
            self.intersection_update([fd for fd, _ in ready])
        return ready


def merged(
    first: Iterable[tuple[int, int]] | Mapping[int, int], second: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Both lists of ``(fd, bits)`` with each descriptor once: called a second time, a callback might block."""
    ready = dict(first)
    for fd, mask in second:
        ready[fd] = ready.get(fd, 0) | mask
    return list(ready.items())

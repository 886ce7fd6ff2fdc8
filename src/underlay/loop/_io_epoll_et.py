"""Model 3, multiplexing by epoll(7), edge-triggered: the kernel tells each change of readiness once.

This file knows EPOLLET and what a hang-up looks like among the events. It does not know who watches a
descriptor; what the kernel won't repeat is remembered in ``_edges.py``.

Cost: as level-triggered epoll, but what stays ready isn't told again; a descriptor that wasn't emptied costs
a share of one poll(2) per turn until it is.
"""

from __future__ import annotations

import math
import select
from contextlib import suppress
from typing import Final

from ._edges import Edges, merged
from ._reactor import READ, ReactorLoop

_ONCE: Final = select.EPOLLET | select.EPOLLRDHUP
_ENDED: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class EpollEtPoller:
    """Readiness from epoll_wait(2), told once per change; `edges` remembers what may be left of it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.edges = Edges()
        self.close = self._epoll.close

    def add(self, fd: int, events: int) -> None:
        """Watch `fd`; the kernel announces at once what is ready already."""
        self._epoll.register(fd, events | _ONCE)
        self.edges.watched[fd] = events

    def modify(self, fd: int, events: int) -> None:
        """Watch `fd` for these events instead; EPOLL_CTL_MOD announces anew what is ready already."""
        self._epoll.modify(fd, events | _ONCE)
        self.edges.watched[fd] = events

    def remove(self, fd: int) -> None:
        """Forget `fd`; the kernel has forgotten it already where it was closed first (epoll(7), question 6)."""
        self.edges.forget(fd)
        with suppress(OSError):
            self._epoll.unregister(fd)

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Wait for an edge, but not at all while something remembered is still ready."""
        edges = self.edges
        remembered = edges.still_ready()
        if remembered:
            timeout_s = 0
        elif timeout_s:
            timeout_s = math.ceil(timeout_s * 1e3) * 1e-3
        fresh = self._epoll.poll(timeout_s)
        watched = edges.watched
        for i, (fd, mask) in enumerate(fresh):
            if fd not in watched:
                continue  # closed before it was given up, while a duplicate keeps its file in the kernel's list
            edges.add(fd)
            if mask & _ENDED:
                edges.announce_end(fd)
                # RDHUP is a fact about reading; the reactor would take an unknown bit for an error and wake the writer.
                fresh[i] = fd, (mask & ~select.EPOLLRDHUP) | READ
        return merged(fresh, remembered) if remembered else fresh


class EpollEtLoop(ReactorLoop):
    """asyncio on edge-triggered epoll, correct although asyncio reads once per event."""

    def __init__(self) -> None:
        poller = EpollEtPoller()
        super().__init__(poller, poller.edges)

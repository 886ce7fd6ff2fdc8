"""One wait for two things: that a way of a channel has news, and that the other side's life has.

This file knows epoll(7). It refuses to know what the news is, and who waits why.

**Why epoll.** poll(2) enters the waiting process into the queue of each descriptor and takes it out again, at every
wait; an epoll stays in all of them. And an eventfd that is watched for edges need not be read: each write is an edge.
That leaves a single system call to who sleeps and is woken, where there were two, of which poll(2) was the dearer.

An epoll is shared after fork(2), and then one process would take what is news for the other: see `Poller.close`.
"""

from __future__ import annotations

import select

from ._contract import Incoming, Outgoing
from ._deadline import for_epoll_s
from ._life import Life


class Poller:
    """Waits for one way, and for the other side's life with it."""

    __slots__ = ("_descriptor", "_epoll", "_life", "_ready", "_version", "_way")

    def __init__(self, way: Outgoing | Incoming, life: Life) -> None:
        self._way = way
        self._life = life
        self._epoll: select.epoll | None = None
        self._ready: tuple[int, int] | None = None
        self._descriptor = self._version = -1

    def wait(self, left_s: float | None) -> bool:
        """Wait so long until there are news; whether they are of the way alone."""
        epoll = self._epoll
        if epoll is None or self._version != self._life.version or self._ready is not self._way.ready:
            epoll = self._registered()
        # Room for two events: more than one is all that matters.
        news = epoll.poll(for_epoll_s(left_s), 2)
        return len(news) == 1 and news[0][0] == self._descriptor

    def _registered(self) -> select.epoll:
        self.close()
        self._ready, self._version = self._way.ready, self._life.version
        assert self._ready is not None
        self._descriptor, event = self._ready
        # The events of poll(2) have the same numbers here: epoll_ctl(2).
        wanted = {self._descriptor: event | select.EPOLLET if self._way.is_rung else event}
        for descriptor in self._life.waits():
            wanted[descriptor] = wanted.get(descriptor, 0) | select.EPOLLIN
        self._epoll = epoll = select.epoll()
        for descriptor, events in wanted.items():
            epoll.register(descriptor, events)
        return epoll

    def close(self) -> None:
        """Give the epoll back; the next wait makes another. To be called in a process that was forked meanwhile."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

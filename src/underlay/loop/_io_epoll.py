"""Model 3, multiplexing by epoll(7), level-triggered: the kernel keeps the list of descriptors and gives back
only ready ones.

This file knows epoll's four calls.  It does not know who watches a descriptor or what they do with it.

Cost: one system call a turn whatever the number of descriptors watched, and one more for each change of
interest.
"""

from __future__ import annotations

import math
import select
from contextlib import suppress

from ._reactor import ReactorLoop


class EpollPoller:
    """Readiness from epoll_wait(2), told again every turn for as long as it lasts."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.add = self._epoll.register
        self.modify = self._epoll.modify
        self.close = self._epoll.close

    def remove(self, fd: int) -> None:
        """Forget `fd`; the kernel has forgotten it already where it was closed first (epoll(7), question 6)."""
        with suppress(OSError):
            self._epoll.unregister(fd)

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Wait for readiness; an early return by a rounded-down millisecond would make the loop spin, so round up."""
        if timeout_s:
            timeout_s = math.ceil(timeout_s * 1e3) * 1e-3
        return self._epoll.poll(timeout_s)


class EpollLoop(ReactorLoop):
    """asyncio on level-triggered epoll: what the standard loop uses too, with a leaner turn and transport."""

    def __init__(self) -> None:
        super().__init__(EpollPoller())

"""Model 3, multiplexing by poll(2): an array of descriptors goes in on every call and comes back flagged.

This file knows poll's array.  It does not know who watches a descriptor or what they do with it.

Cost: like select it copies and scans everything watched each turn, but any descriptor fits.
"""

from __future__ import annotations

import math
import select
from contextlib import suppress

from ._reactor import ReactorLoop


class PollPoller:
    """Readiness from poll(2), told again every turn for as long as it lasts."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.add = self._poll.register
        self.modify = self._poll.modify

    def remove(self, fd: int) -> None:
        """Forget `fd`, also where `wait` had to forget it first."""
        with suppress(KeyError):
            self._poll.unregister(fd)

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Wait for readiness; rounded up to poll's milliseconds, so that a timer is due when it returns."""
        ready = self._poll.poll(None if timeout_s is None else math.ceil(timeout_s * 1e3))
        for fd, mask in ready:
            if mask & select.POLLNVAL:
                # Closed while watched: poll would flag it at once for ever, where epoll forgets it silently.
                self.remove(fd)
        return ready

    def close(self) -> None:
        """Nothing to close: poll keeps no state in the kernel."""


class PollLoop(ReactorLoop):
    """asyncio on poll(2)."""

    def __init__(self) -> None:
        super().__init__(PollPoller())

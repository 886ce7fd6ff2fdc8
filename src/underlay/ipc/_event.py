"""An event that processes wait for until one sets it.

This file knows one word that is set or not. It refuses to know more: nobody can die inside.
"""

from __future__ import annotations

from ._shared import Shared, slices
from ._threads import awaited


class Event(Shared):
    """Is set or not; processes wait until it is. As ``threading.Event``, between processes.

    With a ``name`` it is the one that other processes of this user have by that name, or a new one; what that raises,
    `Mutex` says.

    >>> from underlay import ipc
    >>> event = ipc.Event()
    >>> event.wait(timeout_s=0)
    False
    >>> event.set(); event.wait(), event.is_set()
    (True, True)
    >>> event.close()
    """

    def is_set(self) -> bool:
        """Whether it is set."""
        self._check()
        return bool(self._state[0])

    def set(self) -> None:
        """Set it, and wake all that wait."""
        self._check()
        self._state[0] = 1
        self._wake()

    def clear(self) -> None:
        """Set it back: who waits from now on waits for the next `set`."""
        self._check()
        self._state[0] = 0

    def wait(self, *, timeout_s: float | None = None) -> bool:
        """Wait until it is set; whether it is."""
        if self.is_set():
            return True
        for slice_s in slices(timeout_s):
            seen = self._watched[0]
            if self.is_set():
                return True
            self._sleep(seen, slice_s)
        return self.is_set()

    @property
    def aio(self) -> AsyncEvent:
        """The same for asyncio: ``await event.aio.wait()``; all else is done on the event itself."""
        return AsyncEvent(self)


class AsyncEvent:
    """An event for asyncio: `wait` is awaited; all else is done on the `Event`. Time-outs are asyncio's own."""

    def __init__(self, event: Event) -> None:
        self._event = event

    async def wait(self) -> bool:
        """Wait until it is set."""
        return await awaited(lambda timeout_s: self._event.wait(timeout_s=timeout_s) or None)

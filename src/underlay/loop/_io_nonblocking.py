"""Model 2, synchronous non-blocking I/O: every descriptor is asked, again and again, and answers EAGAIN until it
has something.

This file knows whom it may simply ask by trying, whom only poll(2) may ask, and when to pause between rounds.
It does not know what is done with an answer.

Cost: a failed system call per connection and round. With one busy connection nothing answers faster, because
nobody has to be woken; with a thousand idle ones it is heat.

The pause policy: as long as any round finds something, no pause. After `ROUNDS_BEFORE_PAUSE` rounds that
found nothing, sleep `FIRST_PAUSE_S`, doubling each further empty round up to `LONGEST_PAUSE_S`; the first
find resets it.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, TypeVarTuple, Unpack

from ._edges import merged
from ._reactor import READ, ReactorLoop
from ._transport import READS_BY_TRYING, DatagramTransport, StreamTransport

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

_Ts = TypeVarTuple("_Ts")
_P = ParamSpec("_P")
_T = TypeVar("_T")

# About 2 ms of empty rounds over one connection: longer than a loopback peer takes to answer, short enough that an
# idle program is asleep before anyone looks at it.
ROUNDS_BEFORE_PAUSE: Final = 1000
FIRST_PAUSE_S: Final = 50e-6  # the kernel's own timer slack, prctl(2) PR_SET_TIMERSLACK: shorter can't be had
LONGEST_PAUSE_S: Final = 1e-3  # the most that a first request after a silence waits


class NonblockingPoller:
    """Descriptors to ask each round: some by trying the read that is wanted, others through poll(2) without waiting."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watched: dict[int, int] = {}
        self._polled: set[int] = set()
        self._tried: dict[int, int] = {}
        self._tries: list[tuple[int, int]] = []
        self._empty_rounds = 0
        self._pause_s = FIRST_PAUSE_S
        self.found = False  # set by whoever's read found something

    def try_reading(self, fd: int) -> None:
        """From now on ask `fd` by calling its reader, which must take EAGAIN for an answer."""
        self._tried[fd] = READ
        self.modify(fd, self._watched[fd])

    def add(self, fd: int, events: int) -> None:
        """Watch `fd`, through poll(2) until `try_reading` allows more."""
        self.modify(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Watch `fd` for these events instead."""
        if not events & READ:
            self._tried.pop(fd, None)
        self._watched[fd] = events
        through_poll = events & ~self._tried.get(fd, 0)
        if through_poll:
            self._poll.register(fd, through_poll)
            self._polled.add(fd)
        elif fd in self._polled:
            self._poll.unregister(fd)
            self._polled.discard(fd)
        self._tries = list(self._tried.items())

    def remove(self, fd: int) -> None:
        """Forget `fd`, whether or not it is still open."""
        self.modify(fd, 0)
        del self._watched[fd]

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Ask everyone once; pause before by the policy, if `timeout_s` allows and the last rounds found nothing."""
        if self.found or timeout_s == 0:
            self.found = False
            self._empty_rounds = 0
            self._pause_s = FIRST_PAUSE_S
        else:
            self._empty_rounds += 1
            if self._empty_rounds > ROUNDS_BEFORE_PAUSE:
                time.sleep(self._pause_s if timeout_s is None else min(self._pause_s, timeout_s))
                self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        polled = self._poll.poll(0)
        for fd, mask in polled:
            if mask & select.POLLNVAL:
                # Closed while watched: poll would flag it at once for ever, where epoll forgets it silently.
                self._poll.unregister(fd)
                self._polled.discard(fd)
        if not polled:
            return self._tries
        self.found = True
        return merged(self._tries, polled)

    def close(self) -> None:
        """Nothing to close: there is no state in the kernel."""


class NonblockingLoop(ReactorLoop):
    """asyncio by asking every descriptor again and again; it uses a whole processor while traffic flows."""

    _poller: NonblockingPoller

    def __init__(self) -> None:
        super().__init__(NonblockingPoller())

    def _add_reader(
        self, fd: FileDescriptorLike, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts
    ) -> asyncio.Handle:
        handle = super()._add_reader(fd, callback, *args)
        if getattr(callback, "__func__", None) in READS_BY_TRYING and isinstance(fd, int):
            self._poller.try_reading(fd)
        return handle

    def _make_socket_transport(self, *args: Any, **kwargs: Any) -> StreamTransport:
        transport = super()._make_socket_transport(*args, **kwargs)
        transport._recv = self._noting(transport._recv)
        transport._recv_into = self._noting(transport._recv_into)
        return transport

    def _make_datagram_transport(self, *args: Any, **kwargs: Any) -> DatagramTransport:
        transport = super()._make_datagram_transport(*args, **kwargs)
        transport._recvfrom = self._noting(transport._recvfrom)
        return transport

    def _noting(self, read: Callable[_P, _T]) -> Callable[_P, _T]:
        """`read`, and the poller told when it didn't raise EAGAIN."""
        poller = self._poller

        def noted(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            data = read(*args, **kwargs)
            poller.found = True
            return data

        return noted

"""A listening socket whose connections the kernel accepts by itself: one submission, a completion for each.

This file knows multishot accept and what asyncio does when accepting fails. It does not know what becomes of a
connection, which is the loop's.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import socket
from asyncio import constants, trsock
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from . import _ring
from ._uring_transport import KIND_BITS

if TYPE_CHECKING:
    from ._io_uring import RingPoller

ACCEPTED: Final = 2  # the kind of a completion, in the low bits of its user_data

# As asyncio's accept: what ends with the one connection, and what is worth a pause.  A cancelled accept is a
# dead thread's, and begins again.
_PASSING: Final = frozenset({errno.EAGAIN, errno.EINTR, errno.ECONNABORTED, errno.ECANCELED})
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """A listening socket with a multishot accept in the kernel: one submission, a completion for each connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poller: RingPoller,
        sock: socket.socket,
        serve: Callable[[socket.socket], None],
    ) -> None:
        self.sock = sock
        self._loop = loop
        self._serve = serve
        self._context = contextvars.copy_context()
        self._poller = poller
        self._id = self._poller.new_id()
        self._head = _ring.head(_ring.ACCEPT, sock.fileno(), _ring.ACCEPT_MULTISHOT)
        self.mark = self._id << KIND_BITS | ACCEPTED
        self.accepting = False  # the kernel was told to
        self._has_left = False
        self._accepted: deque[int] = deque()  # not served yet
        self._poller.listeners[self._id] = self
        self.arm()

    def arm(self) -> None:
        """Have the kernel accept until it is told to stop."""
        if self._id in self._poller.listeners and not self.accepting and not self._has_left:
            self.accepting = self._poller.push(self._head, 0, 0, socket.SOCK_CLOEXEC << 32, self.mark) >= 0

    def completed(self, result: int, more: bool) -> None:
        """Take one completion: a connection, or the error that ended accepting."""
        self.accepting = more
        if result >= 0:
            self._accepted.append(result)
            self._loop.call_soon(self._serve_next, context=self._context)
        elif -result in _OUT_OF_RESOURCES:
            self._loop.call_soon(self._out_of_resources, -result, context=self._context)
            return
        elif -result not in _PASSING:
            self._loop.call_soon(self._broken, -result, context=self._context)
            return
        if not more:
            self.arm()

    def _serve_next(self) -> None:
        if self._accepted:
            sock = self.sock
            connection = socket.socket(sock.family, sock.type, sock.proto, self._accepted.popleft())
            connection.setblocking(False)
            self._serve(connection)

    def _out_of_resources(self, error: int) -> None:
        """As asyncio: say so, and leave the waiting connections waiting for a second."""
        if self._id not in self._poller.listeners:
            return
        self._loop.call_exception_handler(
            {
                "message": "socket.accept() out of system resource",
                "exception": OSError(error, os.strerror(error)),
                "socket": trsock.TransportSocket(self.sock),
            }
        )
        self._loop.call_later(constants.ACCEPT_RETRY_DELAY, self.arm)

    def _broken(self, error: int) -> None:
        raise OSError(error, os.strerror(error))  # the loop reports it, as it does of asyncio's accept()

    def close(self) -> None:
        """Stop accepting; when this returns the kernel holds the socket no longer, and its port can be used again."""
        if self._poller.listeners.pop(self._id, None) is not None:
            self._poller.end(self.mark)
        self.forget_accepted()

    def leave(self) -> None:
        """Stop accepting, as `close`; but what the kernel has accepted is served: nobody else can."""
        self._has_left = True
        self._poller.end(self.mark)

    def forget_accepted(self) -> None:
        """Close the connections that nobody will serve, as the kernel does with those in the backlog."""
        while self._accepted:
            os.close(self._accepted.popleft())

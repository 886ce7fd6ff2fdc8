"""How messages go into a TCP connection and come out of it, before there is one as well as after.

This file knows the goodbye, and how the kernel says that a machine cannot be reached. It refuses to know addresses, and
what a connection tells of the other side: see `_tcp`.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ._contract import Message, Terms
from ._errors import MessageTooLong
from ._life import Over
from ._sockets import socket_of
from ._stream import LENGTH, StreamIncoming, StreamOutgoing

if TYPE_CHECKING:
    from typing_extensions import Buffer

# What an end says at its end: lengths that no message has.
_LAST_WORDS: Final = {Over.CLOSED: (1 << 32) - 1, Over.ABANDONED: (1 << 32) - 2}
_ENDS: Final = {length: over for over, length in _LAST_WORDS.items()}


def goodbye(failed: bool) -> bytes:
    """What an end says that is closed, or that is left with its work undone."""
    return LENGTH.pack(_LAST_WORDS[Over.ABANDONED if failed else Over.CLOSED])


# What the kernel says of who cannot be reached any more, besides the connection errors.
_UNREACHABLE: Final = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN})


def _raise_if_unreachable(error: OSError) -> None:
    if error.errno in _UNREACHABLE:
        raise ConnectionAbortedError(error.errno, error.strerror) from error


class _Line:
    """The connection under one way, and how it is written and read; before there is one, what listens for it."""

    def __init__(self, descriptor: int) -> None:
        self._connection = socket_of(descriptor)
        self._listened: socket.socket | None = None

    def connect(self, connection: socket.socket) -> int:
        """Go on with the connection that was awaited; its descriptor."""
        # What listened stays open beside it: an event loop may still watch its number.
        self._listened, self._connection = self._connection, connection
        return connection.fileno()

    def write(self, data: Buffer) -> int:
        try:
            return self._connection.send(data, socket.MSG_NOSIGNAL)
        except OSError as error:
            _raise_if_unreachable(error)
            raise

    def gather(self, buffers: Sequence[Buffer]) -> int:
        try:
            return self._connection.sendmsg(buffers, (), socket.MSG_NOSIGNAL)
        except OSError as error:
            _raise_if_unreachable(error)
            raise

    def read(self, most_bytes: int) -> bytes:
        try:
            return self._connection.recv(most_bytes)
        except OSError as error:
            _raise_if_unreachable(error)
            raise

    def read_into(self, buffer: memoryview) -> int:
        try:
            return self._connection.recv_into(buffer)
        except OSError as error:
            _raise_if_unreachable(error)
            raise

    def close(self) -> None:
        try:
            self._connection.close()
        finally:
            if self._listened is not None:
                self._listened.close()


class TcpOutgoing(StreamOutgoing):
    """Writes messages into a connection. While that is awaited, there is no room."""

    def __init__(self, descriptor: int, *, awaits: bool) -> None:
        self._line = line = _Line(descriptor)
        self._awaits = awaits
        super().__init__(descriptor, line.write, line.gather, line.close)

    def connect(self, connection: socket.socket) -> None:
        """Go on with the connection that was awaited."""
        self._descriptor, self._awaits = self._line.connect(connection), False
        self.ready = (self._descriptor, select.POLLOUT)

    def try_send(self, message: Message, priority: int) -> bool:
        """Take a message whole, or say that there is no room."""
        return not self._awaits and super().try_send(message, priority)


class TcpIncoming(StreamIncoming):
    """Reads messages from a connection, and at its end whether there was a goodbye."""

    def __init__(self, terms: Terms, descriptor: int, *, awaits: bool) -> None:
        self._line = line = _Line(descriptor)
        self._awaits = awaits
        self.over: Over | None = None
        """How the other side ended, when all before it is read."""
        super().__init__(terms, descriptor, line.read, line.read_into, line.close)

    def connect(self, connection: socket.socket) -> None:
        """Go on with the connection that was awaited."""
        self._descriptor, self._awaits = self._line.connect(connection), False
        self.ready = (self._descriptor, select.POLLIN)

    def try_receive(self) -> bytes | None:
        """The next message, or None where it is not there whole. Raises ``EOFError`` after the goodbye."""
        if self._awaits:
            return None
        try:
            return super().try_receive()
        except MessageTooLong as error:
            if error.size_bytes not in _ENDS:
                raise
            self.over = _ENDS[error.size_bytes]
            raise EOFError from None
        except (EOFError, ConnectionError):
            self.over = Over.DIED
            raise

    def read_ahead(self) -> None:
        """Read all that has come, so that ``over`` is known; it is received as if this had not been."""
        ahead = []
        with contextlib.suppress(EOFError, OSError):
            while (message := self.try_receive()) is not None:
                ahead.append(message)
        self._messages += ahead
        self.hungry = 0

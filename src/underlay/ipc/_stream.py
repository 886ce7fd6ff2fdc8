"""Messages through a stream of bytes that a descriptor reads or writes: four bytes of length before each.

This file knows that a stream keeps no boundaries and takes what it has room for. It refuses to know whether it is a
pipe or a socket, and who is at the other end.

**PIPE_BUF.** A write of up to 4,096 bytes goes into a pipe whole or not at all; a longer one may go in part, and then
the rest has to wait (pipe(7)); a stream socket may always take a part. A sender that dies meanwhile leaves a torn
message: the receiver never gives it out, and counts it.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ._contract import Incoming, Message, Outgoing, Terms
from ._errors import MessageTooLong

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LENGTH: Final = struct.Struct("!I")
# What one read(2) asks for: a pipe holds as much unless it is told otherwise (pipe(7)).
_READ_BYTES: Final = 65536


class StreamOutgoing(Outgoing):
    """Writes messages, each after its length."""

    def __init__(
        self, terms: Terms, descriptor: int, write: Callable[[Buffer], int], close: Callable[[int], object]
    ) -> None:
        self._descriptor = descriptor
        self._write = write
        self._close = close
        self._rest: memoryview | None = None
        self.ready = (descriptor, select.POLLOUT)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptor that is written."""
        return (self._descriptor,)

    def try_send(self, message: Message, priority: int) -> bool:
        """Take a message whole, or say that there is no room."""
        if self._rest is not None and not self.flush():
            return False
        # One write for both: a length alone could be all that has room.
        data = b"".join((_LENGTH.pack(len(message)), message))
        try:
            written = self._write(data)
        except BlockingIOError:
            return False
        if written < len(data):
            self._rest = memoryview(data)[written:]
        return True

    def flush(self) -> bool:
        """Whether all that was taken has gone out; goes on with it first."""
        while self._rest is not None:
            try:
                written = self._write(self._rest)
            except BlockingIOError:
                return False
            self._rest = self._rest[written:] if written < len(self._rest) else None
        return True

    def close(self) -> None:
        """Close the descriptor."""
        self._close(self._descriptor)


class StreamIncoming(Incoming):
    """Reads messages, each after its length."""

    def __init__(
        self, terms: Terms, descriptor: int, read: Callable[[int], bytes], close: Callable[[int], object]
    ) -> None:
        self._descriptor = descriptor
        self._read = read
        self._close = close
        self._max_message_bytes = terms.max_message_bytes
        self._buffer = bytearray()
        self._at = 0
        self.dropped = 0
        self.ready = (descriptor, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptor that is read."""
        return (self._descriptor,)

    def try_receive(self) -> bytes | None:
        """The next message, or None where it is not there whole."""
        while True:
            message = self._next()
            if message is not None:
                return message
            try:
                data = self._read(_READ_BYTES)
            except BlockingIOError:
                return None
            if not data:
                if self._buffer:
                    self.dropped += 1
                    self._buffer.clear()
                raise EOFError
            self._buffer += data

    def _next(self) -> bytes | None:
        buffer, at = self._buffer, self._at
        if len(buffer) - at >= 4:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > self._max_message_bytes:
                raise MessageTooLong(length, self._max_message_bytes, "this end", "have the other end send it in parts")
            if len(buffer) - at >= 4 + length:
                start, self._at = at + 4, at + 4 + length
                with memoryview(buffer) as whole:
                    return bytes(whole[start : self._at])
        if at:
            del buffer[:at]
            self._at = 0
        return None

    def close(self) -> None:
        """Close the descriptor."""
        self._close(self._descriptor)

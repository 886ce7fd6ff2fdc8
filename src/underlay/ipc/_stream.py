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
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ._contract import Incoming, Message, Outgoing, Terms
from ._framing import LengthPrefixDecoder

if TYPE_CHECKING:
    from typing_extensions import Buffer

LENGTH: Final = struct.Struct("!I")
# Up to here one buffer for the length and the message is cheaper than telling the kernel of two (measured: the copy
# of 8 KiB costs as much as the second entry of an iovec does in Python).
_JOINED_BYTES: Final = 8192
# What one read(2) asks for at least: a pipe holds as much unless it is told otherwise (pipe(7)).
_READ_BYTES: Final = 65536
# And at most: more than a socket's buffer holds is never there at once.
_LONG_READ_BYTES: Final = 1 << 20


class StreamOutgoing(Outgoing):
    """Writes messages, each after its length.

    ``write`` writes the beginning of a buffer, ``gather`` that of several, and both say how much it was.
    """

    def __init__(
        self,
        descriptor: int,
        write: Callable[[Buffer], int],
        gather: Callable[[Sequence[Buffer]], int],
        close: Callable[[], object],
    ) -> None:
        self._descriptor = descriptor
        self._write = write
        self._gather = gather
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
        size = len(message)
        # One call for both: a length alone could be all that has room.
        try:
            if size <= _JOINED_BYTES:
                message = b"".join((LENGTH.pack(size), message))
                left = size + 4 - self._write(message)
            else:
                left = size + 4 - self._gather((LENGTH.pack(size), message))
        except BlockingIOError:
            return False
        if left:
            self._keep(message, left)
        return True

    def _keep(self, message: Message, left: int) -> None:
        if left > len(message):  # some of the length is among it
            message = b"".join((LENGTH.pack(len(message)), message))
        rest = memoryview(message)[-left:]
        # Bytes stay what they are; any other buffer is the caller's, who may change it while the rest waits here.
        self._rest = rest if type(message) is bytes else memoryview(bytes(rest))

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
        self._close()


class StreamIncoming(Incoming):
    """Reads messages, each after its length. A long one is copied once between the kernel and who receives it."""

    def __init__(
        self, terms: Terms, descriptor: int, read: Callable[[int], bytes], close: Callable[[], object]
    ) -> None:
        self._descriptor = descriptor
        self._read = read
        self._close = close
        self._decoder = LengthPrefixDecoder(LENGTH.size, terms.max_message_bytes)
        self._messages: deque[bytes] = deque()
        self.dropped = 0
        self.ready = (descriptor, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptor that is read."""
        return (self._descriptor,)

    def try_receive(self) -> bytes | None:
        """The next message, or None where it is not there whole."""
        if self._messages:
            return self._messages.popleft()
        decoder = self._decoder
        while decoder.fault is None:
            try:
                data = self._read(min(max(_READ_BYTES, decoder.missing_bytes), _LONG_READ_BYTES))
            except BlockingIOError:
                return None
            if not data:
                if decoder.pending_bytes:
                    self.dropped += 1
                    self._decoder = LengthPrefixDecoder(LENGTH.size, decoder.max_message_bytes)
                raise EOFError
            found = decoder.feed(data)
            if found:
                if len(found) > 1 or decoder.fault is not None:
                    # What is here already makes no descriptor readable.
                    self.hungry = 0
                    self._messages += found
                    return self._messages.popleft()
                return found[0]
        raise decoder.fault

    def close(self) -> None:
        """Close the descriptor."""
        self._close()

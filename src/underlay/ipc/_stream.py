"""Messages through a stream of bytes that a descriptor reads or writes: four bytes of length before each.

This file knows that a stream keeps no boundaries and takes what it has room for. It refuses to know whether it is a
pipe or a socket, and who is at the other end.

**PIPE_BUF.** A write of up to 4,096 bytes goes into a pipe whole or not at all; a longer one may go in part, and then
the rest has to wait (pipe(7)); a stream socket may always take a part. A sender that dies meanwhile leaves a torn
message: the receiver never gives it out, and counts it.
"""

from __future__ import annotations

import mmap
import select
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from ._contract import Incoming, Message, Outgoing, Terms
from ._framing import LengthPrefixDecoder

if TYPE_CHECKING:
    from typing_extensions import Buffer

LENGTH: Final = struct.Struct("!I")
# Up to here one buffer for the length and the message is cheaper than telling the kernel of two (measured: the copy
# of 8 KiB costs as much as the second entry of an iovec does in Python).
_JOINED_BYTES: Final = 8192
# What one read(2) asks for: first a page, for which memory is found sooner; where that was full, as much as a pipe
# holds unless it is told otherwise (pipe(7)).
_READ_FIRST_BYTES: Final = 4096
_READ_BYTES: Final = 65536
# A message of which more is missing is read into a buffer that is used again, and copied once from there. Pieces, or a
# new buffer, that live beside the message make the heap grow and shrink with each one, and the kernel clear its pages
# anew: that costs ten times the copy (measured at 1 MiB).
_LONG_BYTES: Final = 65536
# After an offer of the core that brought a message, so many reads come after one: a vain read costs more than it.
_OFFERS_FIRST: Final = 64
# A buffer for longer ones is given back after its message.
_KEPT_BYTES: Final = 4 << 20


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
        self.ready = (descriptor, select.POLLOUT)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptor that is written."""
        return (self._descriptor,)

    def try_send(self, message: Message, priority: int) -> bool:
        """Take a message whole, or say that there is no room."""
        if self.rest is not None and not self.flush():
            return False
        size = len(message)
        # One call for both: a length alone could be all that has room.
        try:
            if size <= _JOINED_BYTES:
                message = LENGTH.pack(size) + message
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
        self.rest = rest if type(message) is bytes else memoryview(bytes(rest))

    def flush(self) -> bool:
        """Whether all that was taken has gone out; goes on with it first."""
        while self.rest is not None:
            try:
                written = self._write(self.rest)
            except BlockingIOError:
                return False
            self.rest = self.rest[written:] if written < len(self.rest) else None
        return True

    def close(self) -> None:
        """Close the descriptor."""
        self._close()


class StreamIncoming(Incoming):
    """Reads messages, each after its length.

    ``read`` gives up to so many bytes; ``read_into`` fills the beginning of a buffer and says how much it was.
    ``read_soon`` is a ``read`` that waits, for ``moment_s``.
    """

    def __init__(
        self,
        terms: Terms,
        descriptor: int,
        read: Callable[[int], bytes],
        read_into: Callable[[memoryview], int],
        close: Callable[[], object],
        read_soon: Callable[[int], bytes] | None = None,
        moment_s: float = 0.0,
    ) -> None:
        self._descriptor = descriptor
        self._read = read
        self._read_soon = read_soon or read
        self.moment_s = moment_s
        self._read_into = read_into
        self._close = close
        self._max_message_bytes = terms.max_message_bytes
        self._read_bytes = _READ_FIRST_BYTES
        self._begun = False  # whether the decoder holds the beginning of a message
        self._decoder = LengthPrefixDecoder(LENGTH.size, terms.max_message_bytes)
        self._messages: deque[bytes] = deque()
        # Pages of a map that nothing was read into take no memory: a length that is a lie costs none.
        self._long: mmap.mmap | None = None
        self._long_at = self._long_bytes = 0
        self._offers_first = 0
        self._dropped = 0
        self.ready = (descriptor, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptor that is read."""
        return (self._descriptor,)

    def count_dropped(self) -> int:
        """How many messages came torn."""
        return self._dropped

    def try_receive(self) -> bytes | None:
        """The next message, or None where it is not there whole."""
        patience = self.patience
        if patience is None or self._messages:
            return self._receive(self._read)
        offered = False
        if self._offers_first:
            self._offers_first -= 1
            offered = patience.offer_once()
        message = self._receive(self._read)
        if message is None:
            if offered or not patience.offer_once():
                return None
            message = self._receive(self._read)
            if message is None:
                return None
            offered = True
            self._offers_first = _OFFERS_FIRST
        if offered:
            patience.paid()
        return message

    def receive_soon(self) -> bytes | None:
        """The same, and the first read waits a moment."""
        return self._receive(self._read_soon)

    def _receive(self, read: Callable[[int], bytes]) -> bytes | None:
        if self._messages:
            return self._messages.popleft()
        decoder = self._decoder
        fault = decoder.fault
        while fault is None:
            try:
                if self._long_bytes:
                    return self._read_long()
                data = read(self._read_bytes)
            except BlockingIOError:
                return None
            size = len(data) - LENGTH.size
            if 0 <= size <= self._max_message_bytes and not self._begun and data.startswith(LENGTH.pack(size)):
                return data[LENGTH.size :]  # one message and no more
            if not data:
                self._torn(decoder.pending_bytes)
            read = self._read
            self._read_bytes = _READ_BYTES if len(data) >= _READ_FIRST_BYTES else _READ_FIRST_BYTES
            found = decoder.feed(data)
            fault = decoder.fault
            if decoder.missing_bytes > _LONG_BYTES:
                self._begin_long(decoder)
            self._begun = decoder.pending_bytes > 0
            if found:
                if len(found) > 1 or fault is not None:
                    # What is here already makes no descriptor readable.
                    self.hungry = 0
                    self._messages += found
                    return self._messages.popleft()
                return found[0]
        raise fault

    def _begin_long(self, decoder: LengthPrefixDecoder) -> None:
        missing = decoder.missing_bytes
        begun = decoder.let_go()
        self._long_at, self._long_bytes = len(begun), len(begun) + missing
        if self._long is None or len(self._long) < self._long_bytes:
            self._give_back()
            self._long = mmap.mmap(-1, self._long_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._long[: len(begun)] = begun

    def _read_long(self) -> bytes:
        room, size = self._long, self._long_bytes
        assert room is not None
        with memoryview(room) as whole:
            while self._long_at < size:
                with whole[self._long_at : size] as rest:
                    read = self._read_into(rest)
                if not read:
                    self._torn(size)
                self._long_at += read
        message = room[:size]
        self._long_bytes = 0
        if size > _KEPT_BYTES:
            self._give_back()
        return message

    def _give_back(self) -> None:
        if self._long is not None:
            self._long.close()
            self._long = None

    def _torn(self, pending_bytes: int) -> NoReturn:
        if pending_bytes:
            self._dropped += 1
            self._long_bytes = 0
            self._decoder = LengthPrefixDecoder(LENGTH.size, self._decoder.max_message_bytes)
        raise EOFError

    def close(self) -> None:
        """Close the descriptor."""
        self._give_back()
        self._close()

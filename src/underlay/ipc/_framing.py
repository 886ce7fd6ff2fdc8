"""Messages in a stream of bytes: where one ends and the next begins. It does no input or output itself.

A stream, of TCP for instance, keeps no boundaries: two messages may arrive in one piece, and one in two. A framing says
how they are told apart; its decoder takes pieces as they come and gives whole messages. This file knows three ways to
frame, and that a length which is read may be a lie: the limit is looked at before memory is taken. It refuses to know
where the bytes come from; for asyncio's streams see `_framed`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from ..errors import UnderlayError, UsageError
from ._contract import MAX_MESSAGE_BYTES
from ._errors import MessageTooLong

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from typing_extensions import Buffer

    from ._framed import FramedStream

# An integer of more bytes than this no machine has the memory for.
_MOST_LENGTH_BYTES: Final = 8
# A shorter piece of a message is put to others before it: an object of its own costs 33 bytes, and a stranger may send
# single bytes.
_SMALL_PIECE_BYTES: Final = 4096
_DIGITS: Final = frozenset(b"0123456789")
_IN_PARTS: Final = "have the other end send it in parts"


class NotFramed(UnderlayError, ValueError):
    """What came is not what this framing writes: the rest of the stream cannot be understood."""


class TornMessage(UnderlayError, EOFError):
    """The stream ended in the middle of a message."""


class Decoder(ABC):
    """Takes a stream in any pieces and gives its messages."""

    def __init__(self, max_message_bytes: int) -> None:
        self.max_message_bytes: Final = max_message_bytes
        self.fault: UnderlayError | None = None
        """Why nothing more can be understood; the next `feed` raises it."""

    @property
    @abstractmethod
    def pending_bytes(self) -> int:
        """How much it holds of a message that is not whole yet."""

    def feed(self, data: Buffer) -> list[bytes]:
        """The messages that this piece makes whole, in order.

        Raises `MessageTooLong` and `NotFramed`, and then for ever; messages that came before the fault are given first.
        """
        if self.fault is not None:
            raise self.fault
        found: list[bytes] = []
        try:
            self._decode(data if type(data) is bytes else bytes(data), found)
        except (MessageTooLong, NotFramed) as fault:
            self.fault = fault
            if not found:
                raise
        return found

    def eof(self) -> None:
        """The stream has ended. Raises `TornMessage` in the middle of a message, and the fault there was."""
        if self.fault is not None:
            raise self.fault
        if self.pending_bytes:
            raise TornMessage(
                f"the stream ended {self.pending_bytes:,} bytes into a message",
                remedy="what is missing was never sent: see what became of the sender",
            )

    @abstractmethod
    def _decode(self, data: bytes, found: list[bytes]) -> None:
        """Add the messages that this piece makes whole to those found."""

    def _too_long(self, size_bytes: int) -> MessageTooLong:
        return MessageTooLong(size_bytes, self.max_message_bytes, "this end", _IN_PARTS)


def _check_whole(asked: str, number: object) -> None:
    if not isinstance(number, int):
        raise UsageError(f"{asked}={number!r} is no whole number", remedy="give one")


class Framing(ABC):
    """One way to tell messages apart in a stream of bytes."""

    def __init__(self, max_message_bytes: int, most_bytes: int = MAX_MESSAGE_BYTES) -> None:
        _check_whole("max_message_bytes", max_message_bytes)
        if not 0 < max_message_bytes <= most_bytes:
            raise UsageError(
                f"{self!r} cannot frame messages of up to {max_message_bytes:,} bytes",
                remedy=f"max_message_bytes is from 1 to {most_bytes:,} here",
            )
        self.max_message_bytes: Final = max_message_bytes

    @abstractmethod
    def encode(self, message: Buffer) -> bytes:
        """A message as it goes into the stream. Raises `MessageTooLong`."""

    @abstractmethod
    def decoder(self) -> Decoder:
        """What decodes one stream, from its beginning."""

    def over(self, reader: StreamReader, writer: StreamWriter) -> FramedStream:
        """Messages over a pair of asyncio's streams, which it closes at the end of an ``async with``.

        >>> import asyncio
        >>> async def answer(reader, writer):
        ...     async with LengthPrefix().over(reader, writer) as stream:
        ...         async for message in stream:
        ...             await stream.send(message.upper())
        >>> async def main():
        ...     async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        ...         streams = await asyncio.open_connection(*server.sockets[0].getsockname())
        ...         async with LengthPrefix().over(*streams) as stream:
        ...             await stream.send(b"hello")
        ...             return await stream.receive()
        >>> asyncio.run(main())
        b'HELLO'
        """
        from ._framed import FramedStream

        return FramedStream(self, reader, writer)

    def _checked(self, message: Buffer) -> bytes | memoryview:
        view = message if type(message) is bytes else memoryview(message).cast("B")
        if len(view) > self.max_message_bytes:
            raise MessageTooLong(len(view), self.max_message_bytes, repr(self))
        return view

    def __repr__(self) -> str:
        return type(self).__name__


class LengthPrefix(Framing):
    """Each message after its length: an unsigned integer of ``length_bytes`` bytes, the highest first.

    >>> framing = LengthPrefix()
    >>> framing.encode(b"hello")
    b'\\x00\\x00\\x00\\x05hello'
    >>> framing.decoder().feed(b"\\x00\\x00\\x00\\x01a\\x00\\x00\\x00\\x00\\x00")
    [b'a', b'']
    """

    def __init__(self, length_bytes: int = 4, max_message_bytes: int | None = None) -> None:
        _check_whole("length_bytes", length_bytes)
        if not 1 <= length_bytes <= _MOST_LENGTH_BYTES:
            raise UsageError(
                f"a length of {length_bytes} bytes cannot be", remedy=f"length_bytes is from 1 to {_MOST_LENGTH_BYTES}"
            )
        self.length_bytes: Final = length_bytes
        most_bytes: int = 256**length_bytes - 1
        super().__init__(
            min(most_bytes, MAX_MESSAGE_BYTES) if max_message_bytes is None else max_message_bytes, most_bytes
        )

    def encode(self, message: Buffer) -> bytes:
        """A message as it goes into the stream. Raises `MessageTooLong`."""
        checked = self._checked(message)
        return b"".join((len(checked).to_bytes(self.length_bytes, "big"), checked))

    def decoder(self) -> LengthPrefixDecoder:
        """What decodes one stream, from its beginning."""
        return LengthPrefixDecoder(self.length_bytes, self.max_message_bytes)


class LengthPrefixDecoder(Decoder):
    """Takes a stream of messages, each after its length. A long one is copied once, when its last piece has come."""

    def __init__(self, length_bytes: int, max_message_bytes: int) -> None:
        super().__init__(max_message_bytes)
        self._length_bytes = length_bytes
        self._head = b""  # the beginning of a length
        self._pieces: list[bytes | bytearray] = []  # the beginning of a message
        self._begun_bytes = 0  # how long they are
        self.missing_bytes = 0
        """How much of the message that has begun is still to come; 0 where none has."""

    @property
    def pending_bytes(self) -> int:
        """How much it holds of a message that is not whole yet, its length included."""
        return self._length_bytes + self._begun_bytes if self.missing_bytes else len(self._head)

    def let_go(self) -> bytes:
        """The beginning of the message that has begun. Whoever asks reads the ``missing_bytes`` itself."""
        begun = b"".join(self._pieces)
        self._pieces.clear()
        self.missing_bytes = self._begun_bytes = 0
        return begun

    def _decode(self, data: bytes, found: list[bytes]) -> None:
        length_bytes, at, end = self._length_bytes, 0, len(data)
        if self.missing_bytes:
            if end < self.missing_bytes:
                self._keep(data)
                self.missing_bytes -= end
                return
            at = self.missing_bytes
            if self._pieces:
                self._pieces.append(data if at == end else data[:at])
                found.append(b"".join(self._pieces))
                self._pieces.clear()
            else:
                found.append(data if at == end else data[:at])
            self.missing_bytes = self._begun_bytes = 0
        elif self._head:
            data = self._head + data
            end = len(data)
            self._head = b""
        while end - at >= length_bytes:
            body = at + length_bytes
            length = int.from_bytes(data[at:body], "big")
            if length > self.max_message_bytes:
                raise self._too_long(length)
            at = body + length
            if at > end:
                self.missing_bytes = at - end
                if body < end:
                    self._keep(data[body:])
                return
            found.append(data[body:at])
        if at < end:
            self._head = data[at:]

    def _keep(self, piece: bytes) -> None:
        pieces = self._pieces
        self._begun_bytes += len(piece)
        if len(piece) >= _SMALL_PIECE_BYTES:
            pieces.append(piece)
        elif pieces and type(pieces[-1]) is bytearray:
            pieces[-1] += piece
        else:
            pieces.append(bytearray(piece))


class Delimiter(Framing):
    """Each message before a delimiter, which no message may contain: lines, for instance.

    >>> framing = Delimiter(b"\\n")
    >>> framing.encode(b"hello")
    b'hello\\n'
    >>> framing.decoder().feed(b"one\\n\\nthr")
    [b'one', b'']
    """

    def __init__(self, delimiter: bytes = b"\n", max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        if not isinstance(delimiter, bytes):
            raise UsageError(f"a delimiter is bytes, and {delimiter!r} is not", remedy='give some, b"\\n" for instance')
        if not delimiter:
            raise UsageError("a delimiter of no bytes delimits nothing", remedy='give one, b"\\n" for instance')
        self.delimiter: Final = delimiter
        super().__init__(max_message_bytes)

    def encode(self, message: Buffer) -> bytes:
        """A message as it goes into the stream. Raises `MessageTooLong`, and ``UsageError`` if it has the delimiter.

        >>> Delimiter(b"--").encode(b"a-")
        Traceback (most recent call last):
        underlay.errors.UsageError: before a b'--', b'a-' would end at byte 1; use LengthPrefix() for any bytes
        """
        framed = b"".join((self._checked(message), self.delimiter))
        # Looked for in the whole: the end of a message may be the beginning of a delimiter.
        at = framed.find(self.delimiter)
        if at < len(framed) - len(self.delimiter):
            said = framed[: -len(self.delimiter)][:40]
            raise UsageError(
                f"before a {self.delimiter!r}, {said!r} would end at byte {at:,}",
                remedy="use LengthPrefix() for any bytes",
            )
        return framed

    def decoder(self) -> DelimiterDecoder:
        """What decodes one stream, from its beginning."""
        return DelimiterDecoder(self.delimiter, self.max_message_bytes)


class DelimiterDecoder(Decoder):
    """Takes a stream of messages, each before a delimiter. No byte is looked at twice for a delimiter of one byte."""

    def __init__(self, delimiter: bytes, max_message_bytes: int) -> None:
        super().__init__(max_message_bytes)
        self._delimiter = delimiter
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """How much it holds of a message that is not whole yet."""
        return len(self._buffer)

    def _decode(self, data: bytes, found: list[bytes]) -> None:
        buffer, delimiter, start = self._buffer, self._delimiter, 0
        # A delimiter may have begun in what was there before.
        search = max(0, len(buffer) - len(delimiter) + 1)
        buffer += data
        try:
            while (at := buffer.find(delimiter, search)) >= 0:
                if at - start > self.max_message_bytes:
                    raise self._too_long(at - start)
                with memoryview(buffer) as whole:
                    found.append(bytes(whole[start:at]))
                start = search = at + len(delimiter)
            # The last bytes may be the beginning of the delimiter.
            if len(buffer) - start > self.max_message_bytes + len(delimiter) - 1:
                raise self._too_long(len(buffer) - start - len(delimiter) + 1)
        finally:
            del buffer[:start]


class Netstring(Framing):
    """Each message as D. J. Bernstein's netstring: its length in decimal digits, a colon, it, and a comma.

    >>> framing = Netstring()
    >>> framing.encode(b"hello")
    b'5:hello,'
    >>> framing.decoder().feed(b"5:hello,0:,3:ab")
    [b'hello', b'']
    """

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        super().__init__(max_message_bytes)

    def encode(self, message: Buffer) -> bytes:
        """A message as it goes into the stream. Raises `MessageTooLong`."""
        checked = self._checked(message)
        return b"".join((b"%d:" % len(checked), checked, b","))

    def decoder(self) -> NetstringDecoder:
        """What decodes one stream, from its beginning."""
        return NetstringDecoder(self.max_message_bytes)


class NetstringDecoder(Decoder):
    """Takes a stream of netstrings."""

    def __init__(self, max_message_bytes: int) -> None:
        super().__init__(max_message_bytes)
        self._most_digits = len(str(max_message_bytes))
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """How much it holds of a message that is not whole yet, its length included."""
        return len(self._buffer)

    def _decode(self, data: bytes, found: list[bytes]) -> None:
        buffer, at = self._buffer, 0
        buffer += data
        try:
            while True:
                colon = buffer.find(b":", at, at + self._most_digits + 1)
                if colon < 0:
                    self._look_at_digits(buffer[at : at + self._most_digits + 1])
                    return
                digits = bytes(buffer[at:colon])
                self._look_at_digits(digits)
                if not digits or (len(digits) > 1 and digits[0] == ord("0")):
                    raise NotFramed(
                        f"{digits + b':'!r} begins no netstring", remedy="it is a length without leading zeros"
                    )
                if (length := int(digits)) > self.max_message_bytes:
                    raise self._too_long(length)
                comma = colon + 1 + length
                if comma >= len(buffer):
                    return
                if buffer[comma] != ord(","):
                    raise NotFramed(
                        f"a netstring of {length:,} bytes is followed by {bytes(buffer[comma : comma + 1])!r}",
                        remedy="it is a comma; the length or what came before it is wrong",
                    )
                with memoryview(buffer) as whole:
                    found.append(bytes(whole[colon + 1 : comma]))
                at = comma + 1
        finally:
            del buffer[:at]

    def _look_at_digits(self, digits: bytes | bytearray) -> None:
        """Raise for what cannot be the beginning of a length."""
        if not _DIGITS.issuperset(digits):
            raise NotFramed(f"{bytes(digits)!r} begins no netstring", remedy="it is a length, a colon, that, a comma")
        if len(digits) > self._most_digits:
            if digits[0] == ord("0"):
                raise NotFramed(f"{bytes(digits)!r} begins no netstring", remedy="it is a length without leading zeros")
            raise self._too_long(int(digits))

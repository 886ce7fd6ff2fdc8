"""The two byte queues of a connection: what waits to be sent, and what waits to be read.

This file knows how to keep chunks of bytes without copying them and to give any
number of them from the front. It refuses to know sequence numbers and windows.

Both queues keep many tiny pieces as few larger ones, so that memory stays within
a small factor of the bytes they hold, whatever sizes come.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["ReceiveQueue", "SendQueue"]

# An object and its place in a deque cost about 50 bytes: pieces shorter than this are joined…
_SMALL_BYTES: Final = 512
# …until they are this long, so that no byte is copied more than about 16 times.
_JOINED_BYTES: Final = 8192


class SendQueue:
    """Bytes that were never sent; what has been sent is kept by the retransmission queue.

    >>> queue = SendQueue()
    >>> queue.append(b"hello "); queue.append(b"world")
    >>> bytes(queue.take(8)), queue.size_bytes
    (b'hello wo', 3)
    """

    __slots__ = ("_chunks", "_first", "_tail", "size_bytes")

    def __init__(self) -> None:
        # An empty deque has 600 bytes: an idle connection has none.
        self._chunks: deque[bytes | memoryview] | None = None
        self._first = 0  # bytes of the first chunk that were taken already
        self._tail: bytearray | None = None  # small pieces behind all chunks
        self.size_bytes = 0

    def append(self, data: bytes | memoryview) -> None:
        """Put `data` behind the rest; it must never change afterwards (small ones are copied)."""
        size = len(data)
        waiting = self.size_bytes
        self.size_bytes = waiting + size
        tail = self._tail
        if size < _SMALL_BYTES and waiting:
            if tail is None:
                self._tail = bytearray(data)
            else:
                tail += data
                if len(tail) >= _JOINED_BYTES:
                    self._seal()
            return
        if tail is not None:
            self._seal()
        if self._chunks is None:
            self._chunks = deque()
        self._chunks.append(data)

    def _seal(self) -> deque[bytes | memoryview]:
        """Make a chunk of the small pieces."""
        chunks = self._chunks
        if chunks is None:
            chunks = self._chunks = deque()
        if self._tail is not None:
            chunks.append(bytes(self._tail))
            self._tail = None
        return chunks

    def take(self, count: int) -> bytes | memoryview:
        """Remove and give the first `count` bytes, of those there are; a piece of one chunk is not copied."""
        chunks = self._chunks
        if not chunks:
            if self._tail is None:
                return b""
            chunks = self._seal()
        chunk = chunks[0]
        first = self._first
        left = len(chunk) - first
        if count < left:
            self._first = first + count
            self.size_bytes -= count
            if type(chunk) is bytes:
                chunk = chunks[0] = memoryview(chunk)
            return chunk[first : first + count]
        if count == left or (len(chunks) == 1 and self._tail is None):
            chunks.popleft()
            self._first = 0
            self.size_bytes -= left
            return chunk[first:] if first else chunk
        return self._join(min(count, self.size_bytes))

    def _join(self, wanted: int) -> bytes:
        pieces: list[bytes | memoryview] = []
        self.size_bytes -= wanted
        chunks = self._seal()
        while wanted:
            chunk = chunks[0]
            end = min(self._first + wanted, len(chunk))
            pieces.append(memoryview(chunk)[self._first : end])
            wanted -= end - self._first
            if end == len(chunk):
                chunks.popleft()
                self._first = 0
            else:
                self._first = end
        return b"".join(pieces)

    def clear(self) -> None:
        """Forget everything."""
        self._chunks = None
        self._tail = None
        self._first = 0
        self.size_bytes = 0

    def rest(self) -> None:
        """Give the memory back that nothing needs while the queue is empty."""
        if not self.size_bytes:
            self.clear()


class ReceiveQueue:
    """Bytes in order that the program has not read.

    >>> queue = ReceiveQueue()
    >>> queue.append(b"hello "); queue.append(b"world")
    >>> queue.take(5), queue.take(100), queue.size_bytes
    (b'hello', b' world', 0)
    """

    __slots__ = ("_chunks", "_first", "size_bytes")

    def __init__(self) -> None:
        self._chunks: deque[bytes] | None = None
        self._first = 0
        self.size_bytes = 0

    def append(self, data: bytes) -> None:
        """Put `data` behind the rest."""
        size = len(data)
        chunks = self._chunks
        if chunks is None:
            self._chunks = deque((data,))
        elif size < _SMALL_BYTES and chunks and len(chunks[-1]) < _JOINED_BYTES:
            chunks[-1] += data
        else:
            chunks.append(data)
        self.size_bytes += size

    def take(self, count: int) -> bytes:
        """Remove and give at most `count` bytes; a whole chunk is given as it is."""
        chunks = self._chunks
        if not chunks or count <= 0:
            return b""
        chunk = chunks[0]
        first = self._first
        left = len(chunk) - first
        if count < left:
            self._first = first + count
            self.size_bytes -= count
            return chunk[first : first + count]
        if count == left or len(chunks) == 1:
            chunks.popleft()
            self._first = 0
            self.size_bytes -= left
            return chunk[first:] if first else chunk
        pieces = [chunk[first:] if first else chunk]
        chunks.popleft()
        self._first = 0
        wanted = count - left
        while wanted and chunks:
            chunk = chunks[0]
            if len(chunk) > wanted:
                pieces.append(chunk[:wanted])
                self._first = wanted
                wanted = 0
            else:
                pieces.append(chunk)
                chunks.popleft()
                wanted -= len(chunk)
        joined = b"".join(pieces)
        self.size_bytes -= len(joined)
        return joined

    def peek(self, count: int, offset: int = 0) -> bytes:
        """Give at most `count` bytes from `offset` on and leave them where they are."""
        offset += self._first
        pieces = []
        for chunk in self._chunks or ():
            if count <= 0:
                break
            if offset < len(chunk):
                piece = chunk[offset : offset + count]
                pieces.append(piece)
                count -= len(piece)
                offset = 0
            else:
                offset -= len(chunk)
        return b"".join(pieces)

    def take_into(self, buffer: memoryview) -> int:
        """Move as many bytes as fit into `buffer` (of bytes, writable); give their number."""
        place = 0
        room = len(buffer)
        chunks = self._chunks
        while place < room and chunks:
            chunk = chunks[0]
            end = min(len(chunk), self._first + room - place)
            count = end - self._first
            buffer[place : place + count] = memoryview(chunk)[self._first : end]
            place += count
            if end == len(chunk):
                chunks.popleft()
                self._first = 0
            else:
                self._first = end
        self.size_bytes -= place
        return place

    def clear(self) -> None:
        """Forget everything."""
        self._chunks = None
        self._first = 0
        self.size_bytes = 0

    def rest(self) -> None:
        """Give the memory back that nothing needs while the queue is empty."""
        if not self.size_bytes:
            self._chunks = None

"""What goes into send and its like, and what comes out of recv and its like: buffers, flags, and what was cut.

This file knows which buffers and flags the calls of a socket take, and how ``socketmodule.c`` refuses others.  It
does not know sockets.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from ._stack_address import Pair

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

# More than a send buffer has room for at a time, mostly.
MOST_JOINED_BYTES: Final = 1 << 18

# The flags as plain numbers: `&` with an enum.IntFlag is written in Python, and as slow as all else that send() does.
MSG_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
MSG_ERRQUEUE: Final = int(socket.MSG_ERRQUEUE)
MSG_MORE: Final = int(socket.MSG_MORE)
MSG_OOB: Final = int(socket.MSG_OOB)
MSG_PEEK: Final = int(socket.MSG_PEEK)
MSG_TRUNC: Final = int(socket.MSG_TRUNC)
MSG_WAITALL: Final = int(socket.MSG_WAITALL)

# recv(2) and send(2): those that the stack can honour. MSG_NOSIGNAL is how Python sends anyway; MSG_EOR, MSG_CONFIRM
# and MSG_DONTROUTE say nothing to a host that keeps no records and finds its neighbours itself.
SEND_FLAGS: Final = int(
    MSG_DONTWAIT | socket.MSG_NOSIGNAL | MSG_OOB | MSG_MORE | socket.MSG_EOR | socket.MSG_CONFIRM | socket.MSG_DONTROUTE
)
RECEIVE_FLAGS: Final = int(
    MSG_DONTWAIT
    | socket.MSG_NOSIGNAL
    | MSG_OOB
    | MSG_WAITALL
    | MSG_TRUNC
    | MSG_PEEK
    | MSG_ERRQUEUE
    | socket.MSG_CMSG_CLOEXEC
)


class Message(NamedTuple):
    """What one receive gives: what fits of it, who sent it (None: a stream), its size, and recvmsg(2)'s flags."""

    data: bytes
    sender: Pair | None
    size_bytes: int
    flags: int


def filled(message: Message) -> bytes:
    """The bytes, as many as the size says: with MSG_TRUNC nothing was written where these zeros are."""
    return message.data if len(message.data) == message.size_bytes else message.data.ljust(message.size_bytes, b"\0")


def refuse_flags(flags: int, known: int) -> None:
    """EOPNOTSUPP for flags that are none of these."""
    if flags & ~known:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def check_ancillary(size_bytes: int) -> None:
    """There is no ancillary data to fill a buffer with, but it must be one."""
    if size_bytes < 0:
        raise ValueError("invalid ancillary data buffer length")


def room(length_bytes: int, wanted_bytes: int, call: str) -> int:
    """How much of a buffer is to be filled: all of it, or what was said."""
    if wanted_bytes < 0:
        raise ValueError(f"negative buffersize in {call}")
    if wanted_bytes > length_bytes:
        raise ValueError("nbytes is greater than the length of the buffer" if call == "recvfrom_into" else
                         "buffer too small for requested bytes")  # fmt: skip
    return wanted_bytes or length_bytes


@contextmanager
def writable(buffer: WriteableBuffer) -> Iterator[memoryview]:
    """The bytes of a buffer that can be written."""
    with memoryview(buffer) as whole:
        if whole.readonly:
            raise TypeError(f"a read-write bytes-like object is required, not {type(buffer).__name__!r}")
        if not whole.c_contiguous:
            raise BufferError("memoryview: underlying buffer is not C-contiguous")
        with whole.cast("B") as view:
            yield view


def scatter(data: bytes, views: Sequence[memoryview]) -> None:
    """Fill one after another."""
    begin = 0
    for view in views:
        part = data[begin : begin + len(view)]
        view[: len(part)] = part
        begin += len(part)


def plain(data: ReadableBuffer) -> bytes | bytearray | memoryview:
    """Something whose length is in bytes; BufferError for what isn't in one piece."""
    if isinstance(data, bytes | bytearray):
        return data
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def join(buffers: Iterable[ReadableBuffer], most_bytes: int | None) -> bytes:
    """All of them as one, or the first up to a buffer that reaches ``most_bytes``."""
    parts: list[bytes | bytearray | memoryview] = []
    size = 0
    for buffer in buffers:
        parts.append(plain(buffer))
        size += len(parts[-1])
        if most_bytes is not None and size >= most_bytes:
            break  # a part is taken anyway, and the rest would be joined again each time
    return b"".join(parts)

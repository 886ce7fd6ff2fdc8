"""A pipe(7): one way, in order, between processes that have its ends.

This file knows how a pipe is made, read and written. It refuses to know what the bytes mean: see `_stream`.
"""

from __future__ import annotations

import fcntl
import os
from functools import partial
from typing import Final

from . import _descriptors
from ._contract import MAX_MESSAGE_BYTES, Kind, Terms
from ._patience import Patience
from ._stream import StreamIncoming, StreamOutgoing

KIND: Final = Kind(
    name="pipe",
    summary="a pipe(7)",
    max_message_bytes=MAX_MESSAGE_BYTES,
    one_way=True,
)


def make(terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        set_capacity(terms, writer)
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    return (reader,), (writer,)


def set_capacity(terms: Terms, descriptor: int) -> None:
    """Give a pipe room for as much as was asked for."""
    if terms.capacity:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, terms.capacity)


def check(terms: Terms, descriptors: tuple[int, ...], writes: bool) -> None:
    """Raise ``ValueError`` where a way cannot be made of these."""
    _descriptors.check_number(descriptors, 1)
    _descriptors.check_pipe(descriptors[0], writes)


def outgoing(terms: Terms, descriptor: int) -> StreamOutgoing:
    """The way out through a pipe's writing end."""
    return StreamOutgoing(
        descriptor, partial(os.write, descriptor), partial(os.writev, descriptor), partial(os.close, descriptor)
    )


def incoming(terms: Terms, descriptor: int) -> StreamIncoming:
    """The way in through a pipe's reading end."""

    def read_into(buffer: memoryview) -> int:
        return os.readv(descriptor, (buffer,))

    way = StreamIncoming(terms, descriptor, partial(os.read, descriptor), read_into, partial(os.close, descriptor))
    way.patience = Patience()
    return way

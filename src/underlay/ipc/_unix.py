"""A pair of Unix stream sockets, unix(7): both ways, in order, on one machine.

This file knows how they are made. It refuses to know what the bytes mean: see `_stream`.
"""

from __future__ import annotations

import socket
from typing import Final

from ._contract import MAX_MESSAGE_BYTES, Kind, Terms
from ._sockets import check_unix
from ._sockets import stream_incoming as incoming
from ._sockets import stream_outgoing as outgoing

__all__ = ["KIND", "check", "incoming", "make", "outgoing"]

KIND: Final = Kind(
    name="unix",
    summary="a Unix stream socket, unix(7)",
    max_message_bytes=MAX_MESSAGE_BYTES,
    one_way=False,
)


def make(terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for each in pair:
        each.setblocking(False)
        if terms.capacity:
            # The kernel doubles it, for what it keeps besides, and gives no more than net.core.wmem_max (socket(7)).
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, min(terms.capacity, 1 << 30))
    reader, writer = pair
    return (reader.detach(),), (writer.detach(),)


def check(terms: Terms, descriptors: tuple[int, ...], writes: bool) -> None:
    """Raise ``ValueError`` where a way cannot be made of these."""
    check_unix(descriptors, socket.SOCK_STREAM)

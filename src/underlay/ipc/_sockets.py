"""Descriptors of sockets: sent to without a signal, and never waited for.

This file knows how Python's socket objects go with descriptors that a channel owns. It refuses to know families.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._contract import Terms
from ._stream import StreamIncoming, StreamOutgoing

if TYPE_CHECKING:
    from typing_extensions import Buffer


def socket_of(descriptor: int) -> socket.socket:
    """A descriptor as a socket that owns it; its calls never wait, whatever default time-out the program has."""
    found = socket.socket(fileno=descriptor)
    found.setblocking(False)
    return found


def stream_outgoing(terms: Terms, descriptor: int) -> StreamOutgoing:
    """The way out through a stream socket."""
    sending = socket_of(descriptor)
    plain_send, send_several = sending.send, sending.sendmsg

    # A program may have given SIGPIPE its default action back, which ends it.
    def write(data: Buffer) -> int:
        return plain_send(data, socket.MSG_NOSIGNAL)

    def gather(buffers: Sequence[Buffer]) -> int:
        return send_several(buffers, (), socket.MSG_NOSIGNAL)

    return StreamOutgoing(descriptor, write, gather, sending.close)


def stream_incoming(terms: Terms, descriptor: int) -> StreamIncoming:
    """The way in through a stream socket."""
    receiving = socket_of(descriptor)
    return StreamIncoming(terms, descriptor, receiving.recv, receiving.recv_into, receiving.close)

"""Descriptors of sockets: sent to without a signal, and never waited for.

This file knows how Python's socket objects go with descriptors that a channel owns. It refuses to know families.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from . import _descriptors
from ._contract import Terms
from ._stream import StreamIncoming, StreamOutgoing

if TYPE_CHECKING:
    from typing_extensions import Buffer

MOMENT_S: Final = 0.01
"""How long a receive sleeps in recv(2) itself: a few ticks of the slowest clock that Linux is built with (100 Hz). A
death that the kernel does not tell, since a third process has a copy of the dead one's end, is seen so much later."""
_TIMEVAL: Final = struct.Struct("@ll")  # struct timeval: socket(7), SO_RCVTIMEO


def socket_of(descriptor: int) -> socket.socket:
    """A descriptor as a socket that owns it; its calls never wait, whatever default time-out the program has."""
    found = socket.socket(fileno=descriptor)
    found.setblocking(False)
    return found


def receiving_socket_of(descriptor: int) -> socket.socket:
    """A descriptor as a socket that owns it, whose calls wait for `MOMENT_S` unless they say MSG_DONTWAIT.

    Only for one that nobody else sends or receives on: that it waits belongs to the socket, not to the descriptor.
    """
    found = socket.socket(fileno=descriptor)
    found.setblocking(True)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(0, int(MOMENT_S * 1e6)))
    return found


def check_unix(descriptors: tuple[int, ...], kind: int) -> None:
    """Raise ``ValueError`` where these are not one Unix socket of this kind."""
    _descriptors.check_number(descriptors, 1)
    _descriptors.check_socket(descriptors[0], (socket.AF_UNIX,), kind)


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
    receiving = receiving_socket_of(descriptor)
    plain_receive, receive_into = receiving.recv, receiving.recv_into

    def read(most_bytes: int) -> bytes:
        return plain_receive(most_bytes, socket.MSG_DONTWAIT)

    def read_into(buffer: memoryview) -> int:
        return receive_into(buffer, 0, socket.MSG_DONTWAIT)

    return StreamIncoming(terms, descriptor, read, read_into, receiving.close, plain_receive, MOMENT_S)

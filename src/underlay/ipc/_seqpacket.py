"""A pair of Unix sockets of packets, unix(7): the kernel keeps the boundaries; both ways, in order, on one machine.

This file knows packets, how long they can be, and how an empty one is told from the end. It refuses to know who is at
the other end.

**The empty packet.** Both an empty packet and the end of all packets read as no bytes. So an empty message goes as a
mark of eight bytes, and a message that happens to begin with that mark has it once more before it. All other messages
go as they are, without a byte or a copy more.

**ECONNRESET.** A socket that is closed with packets unread leaves this error at the other one, which gets it *before*
the packets that wait there: it is passed over once, and they are received.
"""

from __future__ import annotations

import mmap
import select
import socket
from typing import Final

from ._contract import Incoming, Kind, Message, Outgoing, Terms
from ._errors import MessageTooLong
from ._sockets import MOMENT_S, check_unix, receiving_socket_of, socket_of

# Drawn at random once; both ends have to have the same.
_MARK: Final = bytes.fromhex("5f0ba4d9927e61c3")
# What the kernel keeps of the buffer for itself (net/unix/af_unix.c: len > sk_sndbuf - 32 is EMSGSIZE).
_KEPT_BYTES: Final = 32 + len(_MARK)


def _most_bytes() -> int:
    # net.core.wmem_max is not to be read in every container; a socket can always be asked what it got.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
        return asked.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _KEPT_BYTES


KIND: Final = Kind(
    name="seqpacket",
    summary="a Unix socket of packets, unix(7)",
    max_message_bytes=_most_bytes(),
    limited_by="net.core.wmem_max",
    one_way=False,
)


def make(terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wanted_bytes = max(terms.capacity, terms.max_message_bytes + _KEPT_BYTES)
    for each in pair:
        each.setblocking(False)
        if terms.capacity or each.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < wanted_bytes:
            # The kernel doubles it (socket(7)), and a packet has to fit into the double.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, (wanted_bytes + 1) // 2)
    reader, writer = pair
    return (reader.detach(),), (writer.detach(),)


def check(terms: Terms, descriptors: tuple[int, ...], writes: bool) -> None:
    """Raise ``ValueError`` where a way cannot be made of these."""
    check_unix(descriptors, socket.SOCK_SEQPACKET)


class PacketOutgoing(Outgoing):
    """Sends messages, a packet each."""

    def __init__(self, terms: Terms, descriptor: int) -> None:
        self._socket = socket_of(descriptor)
        self.ready = (descriptor, select.POLLOUT)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptor that is written."""
        return (self._socket.fileno(),)

    def try_send(self, message: Message, priority: int) -> bool:
        """Take a message whole, or say that there is no room."""
        if not message or message[:8] == _MARK:
            message = b"".join((_MARK, message))
        try:
            self._socket.send(message, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close the descriptor."""
        self._socket.close()


class PacketIncoming(Incoming):
    """Receives messages, a packet each."""

    def __init__(self, terms: Terms, descriptor: int) -> None:
        self._socket = receiving_socket_of(descriptor)
        self._max_message_bytes = terms.max_message_bytes
        # One buffer for all packets: a new one for the longest that could come costs ten times the receive (measured).
        # Pages of a map that no packet reached take no memory. One byte more than there can be: a longer packet, of
        # another version of us, is seen and not cut.
        room_bytes = terms.max_message_bytes + len(_MARK) + 1
        self._room = mmap.mmap(-1, room_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.ready = (descriptor, select.POLLIN)
        self.moment_s = MOMENT_S

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptor that is read."""
        return (self._socket.fileno(),)

    def try_receive(self) -> bytes | None:
        """The next message, or None where there is none yet."""
        return self._receive(socket.MSG_DONTWAIT)

    def receive_soon(self) -> bytes | None:
        """The same, and recv(2) waits a moment."""
        return self._receive(0)

    def _receive(self, flags: int) -> bytes | None:
        try:
            size = self._socket.recv_into(self._room, 0, flags)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            size = self._socket.recv_into(self._room, 0, flags)
        if not size:
            raise EOFError
        packet = self._room[:size]
        if packet[:8] == _MARK:
            packet = packet[8:]
        if len(packet) > self._max_message_bytes:
            raise MessageTooLong(
                len(packet), self._max_message_bytes, "this end", "have the other end send it in parts"
            )
        return packet

    def close(self) -> None:
        """Close the descriptor."""
        self._socket.close()
        self._room.close()


def outgoing(terms: Terms, descriptor: int) -> PacketOutgoing:
    """The way out through a socket of packets."""
    return PacketOutgoing(terms, descriptor)


def incoming(terms: Terms, descriptor: int) -> PacketIncoming:
    """The way in through a socket of packets."""
    return PacketIncoming(terms, descriptor)

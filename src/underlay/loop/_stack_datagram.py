"""What a datagram socket does on a user-space host.

This file knows which call of a UDP socket is allowed when, and how its options become those of the stack's UDP
socket.  It does not know time-outs or argument parsing (``_stack_socket.py``), nor datagrams. No call here waits.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from ._stack_address import Pair, named
from ._stack_core import IN, OUT, would_block
from ._stack_message import MSG_MORE, MSG_OOB, MSG_PEEK, MSG_TRUNC, Message
from ._stack_options import Options, refuse

if TYPE_CHECKING:
    from ._bridge import Bridge
    from ._stack_core import Core
    from ._stack_socket import StackSocket

_SOL: Final = socket.SOL_SOCKET
_IP: Final = socket.IPPROTO_IP
_IPV6: Final = socket.IPPROTO_IPV6

# struct ip_mreq and ip_mreqn of ip(7): the group, then an address of the interface (and its index).
_MREQ_BYTES: Final = 8
# What MSG_MORE may gather: the length in a UDP header has 16 bits.
_MOST_CORKED_BYTES: Final = 65535


class DatagramCore:
    """A UDP socket."""

    connecting = False

    def __init__(self, bridge: Bridge, family: int) -> None:
        self._bridge = bridge
        self._family = socket.AddressFamily(family)
        self._below = bridge.host.udp.open(4 if family == socket.AF_INET else 6)
        self._options = Options()
        self._below.v6_only = self._options.v6_only
        self._writing_shut = False
        # What MSG_MORE holds back, and for whom: the first call says it (udp(7), UDP_CORK).
        self._corked: tuple[bytearray, Pair | None] | None = None

    def bind_to(self, sock: StackSocket) -> None:
        """Know whom the bridge is to tell of what arrives."""
        self._bridge.attach(self._below, sock)

    # --- who talks to whom ----------------------------------------------------------------------------------

    def bind(self, address: Pair) -> None:
        """Take a local address and port."""
        self._below.bind(*address)
        self._options.note_bound(address[0])

    def listen(self, backlog: int) -> None:
        """Refused: datagrams have no connections."""
        raise refuse(errno.EOPNOTSUPP)

    def accept(self) -> tuple[Core, Pair]:
        """Refused likewise."""
        raise refuse(errno.EOPNOTSUPP)

    def connect(self, address: Pair) -> None:
        """Choose a peer."""
        self._below.connect(*address)

    def finish_connect(self) -> None:
        """There is no handshake."""

    def shutdown(self, how: int) -> None:
        """ENOTCONN without a peer; with one nobody is told, but what is sent after SHUT_WR is EPIPE."""
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise refuse(errno.EINVAL)
        self._writing_shut = self._writing_shut or how != socket.SHUT_RD
        if self._below.remote is None:
            raise refuse(errno.ENOTCONN)

    # --- data -----------------------------------------------------------------------------------------------

    def receive(self, max_bytes: int) -> tuple[bytes, Pair | None]:
        """One datagram, cut to `max_bytes`, and who sent it."""
        datagram = self._below.receive_from()
        if datagram is None:
            raise would_block()
        data, sender = datagram
        return data[:max_bytes], sender

    def message(self, max_bytes: int, flags: int) -> Message:
        """The same as `flags` of recv(2) want it, and whether it was cut."""
        datagram = self._below.peek() if flags & MSG_PEEK else self._below.receive_from()
        if datagram is None:
            raise would_block()
        whole, sender = datagram
        data = whole[:max_bytes]
        is_cut = len(data) < len(whole)
        return Message(data, sender, len(whole if flags & MSG_TRUNC else data), MSG_TRUNC if is_cut else 0)

    def holds(self, size_bytes: int) -> bool:
        """Whether a datagram or an error waits."""
        return self._below.readable

    failed = False

    def send(self, data: Any, flags: int, target: Pair | None) -> int:
        """Send one datagram."""
        if flags & MSG_OOB:
            raise refuse(errno.EOPNOTSUPP)
        if self._writing_shut:
            raise refuse(errno.EPIPE)
        if target is not None:
            target = named(target[0]), target[1]
        corked = self._corked
        if flags & MSG_MORE or corked is not None:
            if corked is None:
                corked = self._corked = bytearray(), target
            if len(corked[0]) + len(data) > _MOST_CORKED_BYTES:
                raise refuse(errno.EMSGSIZE)
            corked[0].extend(data)
            if not flags & MSG_MORE:
                self._corked = None
                self._below.send_to(corked[0], corked[1], self._bridge.now())
            return len(data)
        return self._below.send_to(data, target, self._bridge.now())

    def readiness(self, events: int) -> int:
        """What poll(2) says of it."""
        return (events & IN if self._below.readable else 0) | (events & OUT if self._below.writable else 0)

    # --- names, options, the end ----------------------------------------------------------------------------

    def local(self) -> Pair:
        """The local address and port."""
        return self._below.local

    def remote(self) -> Pair:
        """The peer's; ENOTCONN without one."""
        if self._below.remote is None or not self._below.remote[1]:
            raise refuse(errno.ENOTCONN)
        return self._below.remote

    def set_option(self, level: int, name: int, value: Any) -> None:
        """Set an option; it takes effect at once."""
        if level in (_IP, _IPV6) and name in _MEMBERSHIPS:
            if isinstance(value, int):
                raise refuse(errno.EINVAL)
            join, group = name in _JOINS, bytes(value)
            self._change_membership(join=join, group=group[:16] if level == _IPV6 else group[:4], whole=group)
            return
        if level == socket.IPPROTO_TCP:
            raise refuse(errno.ENOPROTOOPT)
        if (level, name) == (_IPV6, socket.IPV6_V6ONLY) and self._below.local[1]:
            raise refuse(errno.EINVAL)  # it has a port already: ipv6(7)
        self._options.set(level, name, value)
        self._below.v6_only = self._options.v6_only
        below, now = self._below, self._options.value(level, name)
        if level == _SOL and name == socket.SO_BROADCAST:
            below.broadcast = bool(now)
        elif level == _SOL and name == socket.SO_REUSEADDR:
            below.reuse_address = bool(now)
        elif level == _SOL and name == socket.SO_REUSEPORT:
            below.reuse_port = bool(now)
        elif level == _SOL and name == socket.SO_RCVBUF:
            below.receive_buffer_bytes = now
        elif (level, name) in ((_IP, socket.IP_TOS), (_IPV6, socket.IPV6_TCLASS)):
            below.dscp = now >> 2  # the two bits below are ECN's: RFC 3168
        elif (level, name) in ((_IP, socket.IP_TTL), (_IPV6, socket.IPV6_UNICAST_HOPS)):
            below.ttl = now
        elif (level, name) in ((_IP, socket.IP_MULTICAST_TTL), (_IPV6, socket.IPV6_MULTICAST_HOPS)):
            below.multicast_ttl = now
        elif (level, name) in ((_IP, socket.IP_MULTICAST_LOOP), (_IPV6, socket.IPV6_MULTICAST_LOOP)):
            below.multicast_loop = bool(now)

    def _change_membership(self, *, join: bool, group: bytes, whole: bytes) -> None:
        if len(whole) < _MREQ_BYTES:
            raise refuse(errno.EINVAL)
        change = self._below.join if join else self._below.leave
        change(group, self._bridge.now())

    def option(self, level: int, name: int, kind: int) -> int | bytes:
        """An option's value."""
        if (level, name) == (_SOL, socket.SO_ERROR):
            return self.take_error()
        return self._options.get(level, name, kind, self._family)

    def take_error(self) -> int:
        """SO_ERROR."""
        return self._below.take_error()

    def close(self) -> None:
        """Give the port back."""
        self._bridge.detach(self._below)
        self._below.close(self._bridge.now())


_JOINS: Final = frozenset({socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP})
_MEMBERSHIPS: Final = _JOINS | {socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP}

"""What the parts of the stack promise each other: chance, the IP layer below TCP and UDP, and the events above.

This file knows only these promises. It refuses to know a header's layout, a state
machine, and who keeps the promise: TCP runs as well over a real host as over two
lists in a test.

The order of calls that every transport relies on: frames come in by
``receive_*``, the program's own calls by the sockets' methods, time by
``handle_timers``; none of them sends data or an ordinary acknowledgment at once.
``TcpLayer.flush(now)`` sends what all of them together made due, so that segments
which came together are answered by one ACK (RFC 9293 §3.10.7.4, MUST-58 and
MUST-59) and small writes become one segment. ``Host.poll_frames`` flushes first.
"""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from ._tcp_packet import TcpPacket

__all__ = ["DEFAULT_TTL", "Events", "IcmpError", "IcmpKind", "IpOutput", "Path", "Rng"]

# RFC 1700 "IP time to live": 64 is the value assigned as the default, and Linux's.
DEFAULT_TTL: Final = 64


class Rng(Protocol):
    """Where chance comes from; ``random.Random(seed)`` and ``random.SystemRandom()`` both fit."""

    def getrandbits(self, k: int, /) -> int:
        """Give a uniform integer of `k` bits."""
        ...

    def random(self) -> float:
        """Give a uniform float in [0, 1)."""
        ...


class Events(enum.IntFlag):
    """What has become true of a socket since it was last told; poll its attributes for the level."""

    READABLE = 1
    """Bytes, the end of the stream, or an error wait for ``receive``."""
    WRITABLE = 2
    """The send buffer has room again after it had none."""
    CONNECTED = 4
    """The handshake of an active open is complete."""
    ACCEPTABLE = 8
    """A listener has a connection for ``accept``."""
    ERROR = 16
    """``error`` holds an errno; the connection is gone, or (UDP, ICMP) the last datagram failed."""
    CLOSED = 32
    """The socket holds no more state in its layer: nothing will ever come of it again."""
    URGENT = 64
    """Urgent data was announced (RFC 9293 §3.8.5, MUST-32)."""
    SOFT_ERROR = 128
    """``soft_error`` of a connection holds an errno: trouble on the path, which may pass (RFC 9293 §3.9.1.8, MUST-47).

    Nothing else changes, so that a program need not look (SHLD-20)."""


class Path(NamedTuple):
    """How packets for one destination leave this host."""

    source: bytes
    """The address that they are to carry as their source (4 or 16 bytes)."""
    mtu_bytes: int
    """The largest IP packet that goes through undivided, as far as is known: link's and discovered path MTU."""
    offload: bool
    """The link cuts super segments and fills transport checksums (TSO)."""
    by_value: bool = False
    """The link carries a TCP segment as the value that it is (``IpOutput.send_tcp``)."""


class IpOutput(Protocol):
    """What TCP and UDP know of the host below them."""

    def path(self, destination: bytes, source: bytes | None = None, /) -> Path | None:
        """Tell how to reach `destination`, from `source` if it is given; None if there is no way."""
        ...

    def is_unicast(self, address: bytes, /) -> bool:
        """Tell whether `address` names one host: not unspecified, multicast or any broadcast that is known here."""
        ...

    def send(
        self,
        source: bytes,
        destination: bytes,
        protocol: int,
        head: bytes,
        payload: bytes | memoryview,
        now: float,
        *,
        segment_bytes: int = 0,
        checksum_offset: int = 0,
        ttl: int = DEFAULT_TTL,
        ecn: int = 0,
        dscp: int = 0,
        dont_fragment: bool = True,
        options: bytes = b"",
    ) -> None:
        """Send one transport header and its payload; what cannot be sent is counted below, never raised.

        `segment_bytes` > 0 lets the link cut the payload into that many bytes each; `checksum_offset` > 0 leaves
        the transport checksum at that place of `head` to the link (both only where ``Path.offload``). `options`
        are IPv4 options, already padded.
        """
        ...

    def send_tcp(self, packet: TcpPacket, now: float, /) -> None:
        """Send one segment as a value, only where ``Path.by_value``; what cannot be sent is counted below."""
        ...


class IcmpKind(enum.Enum):
    """What an ICMP error says, whichever version says it (RFC 792, RFC 1122 §3.2.2, RFC 4443)."""

    NETWORK_UNREACHABLE = enum.auto()
    """v4 type 3 codes 0, 6, 11; v6 type 1 code 0."""
    HOST_UNREACHABLE = enum.auto()
    """v4 type 3 codes 1, 7, 8, 12; v6 type 1 codes 2, 3; also our own ARP or ND that got no answer."""
    PROTOCOL_UNREACHABLE = enum.auto()
    """v4 type 3 code 2; v6 type 4 code 1."""
    PORT_UNREACHABLE = enum.auto()
    """v4 type 3 code 3; v6 type 1 code 4."""
    PACKET_TOO_BIG = enum.auto()
    """v4 type 3 code 4; v6 type 2. ``mtu_bytes`` says what would pass."""
    SOURCE_ROUTE_FAILED = enum.auto()
    """v4 type 3 code 5."""
    PROHIBITED = enum.auto()
    """v4 type 3 codes 9, 10, 13; v6 type 1 codes 1, 5, 6."""
    TIME_EXCEEDED = enum.auto()
    """v4 type 11; v6 type 3."""
    PARAMETER_PROBLEM = enum.auto()
    """v4 type 12; v6 type 4 but code 1."""
    SOURCE_QUENCH = enum.auto()
    """v4 type 4: obsolete (RFC 6633), to be passed over in silence."""


# As Linux maps them: net/ipv4/icmp.c icmp_err_convert[], net/ipv6/icmp.c icmpv6_err_convert().
_ERRNO: Final = {
    IcmpKind.NETWORK_UNREACHABLE: errno.ENETUNREACH,
    IcmpKind.HOST_UNREACHABLE: errno.EHOSTUNREACH,
    IcmpKind.PROTOCOL_UNREACHABLE: errno.ENOPROTOOPT,
    IcmpKind.PORT_UNREACHABLE: errno.ECONNREFUSED,
    IcmpKind.PACKET_TOO_BIG: errno.EMSGSIZE,
    IcmpKind.SOURCE_ROUTE_FAILED: errno.EOPNOTSUPP,
    IcmpKind.PROHIBITED: errno.EHOSTUNREACH,
    IcmpKind.TIME_EXCEEDED: errno.EHOSTUNREACH,
    IcmpKind.PARAMETER_PROBLEM: errno.EPROTO,
    IcmpKind.SOURCE_QUENCH: 0,
}


class IcmpError(NamedTuple):
    """An ICMP error about a packet that we sent, as a transport needs to see it.

    >>> here, there = b"\\x0a\\0\\0\\1", b"\\x0a\\0\\0\\2"
    >>> errno.errorcode[IcmpError(IcmpKind.PORT_UNREACHABLE, here, there, 17, bytes(8)).errno]
    'ECONNREFUSED'
    """

    kind: IcmpKind
    local: bytes
    """The source address of the packet that failed: ours."""
    remote: bytes
    """Its destination address."""
    protocol: int
    """Its transport: 6 for TCP, 17 for UDP."""
    quoted: bytes | memoryview
    """The beginning of its transport header, 8 bytes at least (RFC 792); may hold any number more."""
    mtu_bytes: int = 0
    """For PACKET_TOO_BIG: the next hop's MTU, 0 where an old router does not tell."""

    @property
    def errno(self) -> int:
        """The errno by which Linux would tell a program of it."""
        return _ERRNO[self.kind]

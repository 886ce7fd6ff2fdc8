"""ICMP and ICMPv6: echo, and errors in both directions (RFC 792, RFC 1122 section 3.2.2, RFC 4443).

This file knows which message is answered, which error may be sent and how
often, and which transport an error that came in belongs to. It refuses to know
neighbour discovery (``_neighbour_discovery.py``), sockets and frames.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from ..wire import (
    IcmpMessage,
    build_icmp4,
    build_icmp6,
    parse_icmp4,
    parse_icmp6,
    parse_quoted_packet,
    pseudo_header_sum,
)
from ._contract import IcmpError, IcmpKind
from ._host_config import Drops, HostConfig
from ._ip_output import PacketOutput
from ._local_addresses import LocalAddresses
from ._path_mtu import next_plateau
from ._rate_limit import PeerLimits, TokenBucket
from ._received import Received

ICMP4: Final = 1  # its protocol number (RFC 792)
ICMP6: Final = 58  # RFC 4443 section 1

ECHO_REPLY4: Final = 0
ECHO_REQUEST4: Final = 8
ECHO_REQUEST6: Final = 128
ECHO_REPLY6: Final = 129

_ERRORS4: Final = frozenset({3, 4, 5, 11, 12})  # RFC 1122 section 3.2.2: unreachable … parameter problem, and redirect
_REDIRECT4: Final = 5
_REDIRECT6: Final = 137
_FIRST_INFORMATIONAL6: Final = 128  # RFC 4443 section 2.1: types below are errors

# RFC 1812 section 4.3.2.3: as much of the packet as fits into 576 bytes; RFC 4443 section 2.4 c: into 1280.
_QUOTE4_BYTES: Final = 576 - 20 - 8
_QUOTE6_BYTES: Final = 1280 - 40 - 8


class Problem(enum.Enum):
    """Why a packet came to nothing; the values are (type, code) of ICMP and of ICMPv6."""

    NETWORK_UNREACHABLE = (3, 0), (1, 0)
    HOST_UNREACHABLE = (3, 1), (1, 3)
    PROTOCOL_UNREACHABLE = (3, 2), (4, 1)
    PORT_UNREACHABLE = (3, 3), (1, 4)
    PACKET_TOO_BIG = (3, 4), (2, 0)
    PROHIBITED = (3, 13), (1, 1)
    HOP_LIMIT = (11, 0), (3, 0)
    REASSEMBLY_TIME = (11, 1), (3, 1)
    FIELD = (12, 0), (4, 0)
    OPTION_UNKNOWN = (12, 0), (4, 2)


_KIND4: Final[Mapping[tuple[int, int], IcmpKind]] = MappingProxyType(
    {
        **dict.fromkeys([(3, 0), (3, 6), (3, 11)], IcmpKind.NETWORK_UNREACHABLE),
        **dict.fromkeys([(3, 1), (3, 7), (3, 8), (3, 12)], IcmpKind.HOST_UNREACHABLE),
        (3, 2): IcmpKind.PROTOCOL_UNREACHABLE,
        (3, 3): IcmpKind.PORT_UNREACHABLE,
        (3, 4): IcmpKind.PACKET_TOO_BIG,
        (3, 5): IcmpKind.SOURCE_ROUTE_FAILED,
        **dict.fromkeys([(3, 9), (3, 10), (3, 13)], IcmpKind.PROHIBITED),
        (4, 0): IcmpKind.SOURCE_QUENCH,
        **dict.fromkeys([(11, 0), (11, 1)], IcmpKind.TIME_EXCEEDED),
        **dict.fromkeys([(12, 0), (12, 1), (12, 2)], IcmpKind.PARAMETER_PROBLEM),
    }
)
_KIND6: Final[Mapping[tuple[int, int], IcmpKind]] = MappingProxyType(
    {
        (1, 0): IcmpKind.NETWORK_UNREACHABLE,
        **dict.fromkeys([(1, 2), (1, 3)], IcmpKind.HOST_UNREACHABLE),
        (1, 4): IcmpKind.PORT_UNREACHABLE,
        **dict.fromkeys([(1, 1), (1, 5), (1, 6)], IcmpKind.PROHIBITED),
        (2, 0): IcmpKind.PACKET_TOO_BIG,
        **dict.fromkeys([(3, 0), (3, 1)], IcmpKind.TIME_EXCEEDED),
        (4, 1): IcmpKind.PROTOCOL_UNREACHABLE,
        **dict.fromkeys([(4, 0), (4, 2), (4, 3)], IcmpKind.PARAMETER_PROBLEM),
    }
)


class EchoReply(NamedTuple):
    """A reply to one of our echo requests."""

    source: bytes
    identifier: int
    sequence: int
    data: bytes
    ttl: int
    received_s: float


class IcmpLayer:
    """ICMP of one host, both versions.

    ``transports`` maps a protocol number to who is told of errors; ``neighbour_discovery`` hears the ICMPv6
    messages that are neither echo nor error.
    """

    def __init__(self, config: HostConfig, drops: Drops, addresses: LocalAddresses, output: PacketOutput) -> None:
        self._config = config
        self._drops = drops
        self._addresses = addresses
        self._output = output
        self._all = TokenBucket(config.icmp_errors_per_second, config.icmp_errors_burst)
        self._peers = PeerLimits(config.icmp_errors_per_peer_per_second, config.icmp_errors_per_peer_burst)
        self._replies: deque[EchoReply] = deque()
        self.transports: dict[int, Callable[[IcmpError, float], None]] = {}
        self.neighbour_discovery: Callable[[Received, IcmpMessage, float], None] | None = None
        self.errors_sent = 0

    # -- asking and answering ------------------------------------------------------------------------------------------

    def send_echo(self, destination: bytes, identifier: int, sequence: int, data: bytes, now: float) -> bool:
        """Send an echo request; False where no route leads there. `receive_reply` gives what comes back."""
        path = self._output.path(destination)
        if path is None:
            return False
        self._send_echo(path.source, destination, False, (identifier & 0xFFFF) << 16 | sequence & 0xFFFF, data, now)
        return True

    def receive_reply(self) -> EchoReply | None:
        """Take the oldest reply; None where none waits."""
        return self._replies.popleft() if self._replies else None

    def receive4(self, packet: Received, now: float) -> None:
        """Take an ICMP message; a ``WireError`` goes to the caller, who counts it."""
        message = parse_icmp4(packet.data, packet.start, packet.end)
        if message.type == ECHO_REQUEST4:
            if packet.to_one:
                self._send_echo(packet.destination, packet.source, True, message.rest, message.body, now)
            else:
                self._drops.count("icmp.echo_to_many")  # RFC 1122 section 3.2.2.6 allows to be silent: smurf attacks
        elif message.type == ECHO_REPLY4:
            self._take_reply(packet, message, now)
        elif message.type in _ERRORS4:
            self._take_error(packet, message, _KIND4, now)
        else:
            self._drops.count("icmp.type_unknown")

    def receive6(self, packet: Received, now: float) -> None:
        """Take an ICMPv6 message; a ``WireError`` goes to the caller, who counts it."""
        pseudo = pseudo_header_sum(packet.source, packet.destination, ICMP6, packet.end - packet.start)
        message = parse_icmp6(packet.data, packet.start, packet.end, pseudo=pseudo)
        if message.type == ECHO_REQUEST6:
            source: bytes | None = packet.destination
            if not packet.to_one:  # RFC 4443 section 4.2: answered from an address of ours
                path = self._output.path(packet.source)
                source = path.source if path is not None else None
            if source is not None and self._addresses.is_single_host(packet.source):
                self._send_echo(source, packet.source, True, message.rest, message.body, now)
        elif message.type == ECHO_REPLY6:
            self._take_reply(packet, message, now)
        elif message.type < _FIRST_INFORMATIONAL6:
            self._take_error(packet, message, _KIND6, now)
        elif self.neighbour_discovery is not None:
            self.neighbour_discovery(packet, message, now)

    # -- errors --------------------------------------------------------------------------------------------------------

    def send_error(self, packet: Received, problem: Problem, now: float, *, rest: int = 0) -> None:
        """Tell the sender of a packet what came of it, where the RFCs allow it and not too often.

        ``rest`` is what stands behind the checksum: an MTU, or where in the packet the problem is.
        """
        if not packet.to_one:
            return
        if not self._addresses.is_single_host(packet.source) or self._is_about_error(packet):
            return
        if packet.source not in self._addresses.unicast and not (
            self._peers.take(packet.source, now) and self._all.take(now)
        ):
            self._drops.count("icmp.rate_limited")
            return
        # RFC 1122 section 3.2.2: what it was sent to answers; a router answers from where the answer leaves.
        source: bytes | None = packet.destination if self._addresses.is_local(packet.destination) else None
        if source is None:
            path = self._output.path(packet.source)
            if path is None:
                return
            source = path.source
        self.errors_sent += 1
        begin = packet.packet_start
        if len(source) == 4:
            quote = bytes(packet.data[begin : min(packet.end, begin + _QUOTE4_BYTES)])
            kind, code = problem.value[0]
            self._output.send(
                source,
                packet.source,
                ICMP4,
                build_icmp4(kind, code, rest, quote),
                b"",
                now,
                ttl=self._config.ttl,
                dont_fragment=False,
                dscp=48,  # RFC 1812 section 4.3.2.5: internetwork control, as Linux does
            )
        else:
            quote = bytes(packet.data[begin : min(packet.end, begin + _QUOTE6_BYTES)])
            kind, code = problem.value[1]
            body = build_icmp6(source, packet.source, kind, code, rest, quote)
            self._output.send(source, packet.source, ICMP6, body, b"", now, ttl=self._config.ttl, dont_fragment=False)

    def fail_locally(self, error: IcmpError, now: float) -> None:
        """Tell a transport of an error that this host found itself."""
        handler = self.transports.get(error.protocol)
        if handler is not None:
            handler(error, now)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _send_echo(
        self, source: bytes, destination: bytes, is_reply: bool, rest: int, data: bytes | memoryview, now: float
    ) -> None:
        if len(source) == 4:
            protocol = ICMP4
            message = build_icmp4(ECHO_REPLY4 if is_reply else ECHO_REQUEST4, 0, rest, data)
        else:
            protocol = ICMP6
            kind = ECHO_REPLY6 if is_reply else ECHO_REQUEST6
            message = build_icmp6(source, destination, kind, 0, rest, data)
        self._output.send(source, destination, protocol, message, b"", now, ttl=self._config.ttl, dont_fragment=False)

    def _take_reply(self, packet: Received, message: IcmpMessage, now: float) -> None:
        if len(self._replies) >= self._config.echo_replies:
            self._drops.count("icmp.replies_full")
            return
        rest = message.rest
        self._replies.append(EchoReply(packet.source, rest >> 16, rest & 0xFFFF, bytes(message.body), packet.ttl, now))

    def _take_error(
        self, packet: Received, message: IcmpMessage, kinds: Mapping[tuple[int, int], IcmpKind], now: float
    ) -> None:
        if message.type == _REDIRECT4 and kinds is _KIND4:
            self._drops.count("icmp.redirect_ignored")  # it would let anybody on the link take our packets over
            return
        kind = kinds.get((message.type, message.code))
        if kind is None:
            self._drops.count("icmp.code_unknown")
            return
        quoted = parse_quoted_packet(message.body)
        if quoted.source not in self._addresses.unicast or not packet.to_one:
            self._drops.count("icmp.not_about_us")
            return
        mtu_bytes = 0
        if kind is IcmpKind.PACKET_TOO_BIG:
            mtu_bytes = message.rest & 0xFFFF if kinds is _KIND4 else message.rest
            if not mtu_bytes and kinds is _KIND4:
                mtu_bytes = next_plateau(message.body[2] << 8 | message.body[3])
            self._output.lower_path_mtu(quoted.destination, mtu_bytes, now)
        self.fail_locally(
            IcmpError(kind, quoted.source, quoted.destination, quoted.protocol, quoted.transport, mtu_bytes), now
        )

    @staticmethod
    def _is_about_error(packet: Received) -> bool:
        """Whether a packet is such that no error may be sent about it: an error itself, or a later fragment."""
        data = packet.data
        if packet.start >= packet.end:
            return False
        if len(packet.source) == 4:
            begin = packet.packet_start
            if (data[begin + 6] & 0x1F) << 8 | data[begin + 7]:
                return True
            return packet.protocol == ICMP4 and data[packet.start] in _ERRORS4
        return packet.protocol == ICMP6 and (
            data[packet.start] < _FIRST_INFORMATIONAL6 or data[packet.start] == _REDIRECT6
        )

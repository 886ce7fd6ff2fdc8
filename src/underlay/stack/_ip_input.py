"""The way in: from a packet on an interface to the layer that it is for.

This file knows what is checked before a packet is believed, what is put
together from fragments, and which protocol goes where. It refuses to know links,
sockets and what a transport makes of it. What cannot be believed is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from ..wire import (
    IPv6Header,
    build_ipv4,
    build_ipv6,
    build_ipv6_extensions,
    check_ipv6_extensions,
    parse_ipv4,
    parse_ipv6,
)
from ._fragments import Reassembler
from ._host_config import Drops, HostConfig
from ._icmp import IcmpLayer, Problem
from ._interface import ANY4, ANY6, Interface
from ._local_addresses import AddressKind, LocalAddresses
from ._received import Received

TCP: Final = 6  # its protocol number (RFC 9293)
# "This network", loopback, groups and what is reserved (RFC 1122 section 3.2.1.3): for a second look.
_SUSPECT_FIRST: Final = frozenset({0, 127, *range(224, 256)})
_new = tuple.__new__  # a third of the time of the class's own constructor, for what is made per packet
_NO_NEXT_HEADER: Final = 59  # RFC 8200 section 4.7


class TcpInput(Protocol):
    """What the way in knows of TCP."""

    def receive_segment(
        self,
        source: bytes,
        destination: bytes,
        data: bytes | memoryview,
        start: int,
        end: int,
        now: float,
        *,
        checksum_valid: bool = False,
        ip_options: bytes = b"",
    ) -> None:
        """Take one segment; ``ip_options`` are those of its IPv4 header, or of its first fragment's."""
        ...


Handler = Callable[[Received, float], None]


class PacketInput:
    """The way in of one host. ``handlers`` maps protocol numbers other than TCP's to who takes them."""

    def __init__(
        self,
        config: HostConfig,
        drops: Drops,
        addresses: LocalAddresses,
        icmp: IcmpLayer,
        tcp: TcpInput,
        handlers4: dict[int, Handler],
        handlers6: dict[int, Handler],
        forward: Handler | None,
    ) -> None:
        self._drops = drops
        self._addresses = addresses
        self._icmp = icmp
        self._tcp = tcp
        self._handlers4 = handlers4
        self._handlers6 = handlers6
        self._forward = forward
        self.fragments4 = Reassembler(config, drops, "ip")
        self.fragments6 = Reassembler(config, drops, "ip6", overlaps_refused=True)
        self.delivered = 0
        self.fragments_received = 0
        self.reassembled = 0

    def receive4(
        self,
        interface: Interface,
        data: bytes | memoryview,
        start: int,
        now: float,
        *,
        checksum_valid: bool = False,
        link_to_one: bool = True,
        is_own: bool = False,
    ) -> None:
        """Take an IPv4 packet that begins at ``start``; a ``WireError`` goes to the caller, who counts it.

        ``link_to_one`` is whether the frame was for this station alone; ``is_own`` is whether the host sent it.
        """
        header = parse_ipv4(data, start, verify=not checksum_valid)
        source, destination = header.source, header.destination
        addresses = self._addresses
        # The first line is what nearly all pass; the functions are for the few.
        if (
            (source[0] in _SUSPECT_FIRST or source in addresses.unicast or source in addresses.broadcasts)
            and not is_own
            and (addresses.is_martian_source(interface, source) or (source == ANY4 and link_to_one))
        ):
            self._drops.count("ip.martian_source")
            return
        if destination in addresses.unicast:
            to_one = link_to_one
            if destination[0] == 127 and not interface.is_loopback:
                self._drops.count("ip.martian_destination")
                return
        else:
            kind = addresses.classify(interface, destination)
            if kind is AddressKind.OTHER or kind is AddressKind.FOREIGN_GROUP:
                packet = Received(
                    interface,
                    source,
                    destination,
                    header.protocol,
                    data,
                    start,
                    start + header.header_bytes,
                    start + header.total_bytes,
                    header.ttl,
                    link_to_one,
                    checksum_valid,
                )
                self._others(packet, kind, link_to_one, now)
                return
            to_one = kind is AddressKind.UNICAST
        begin, end = start + header.header_bytes, start + header.total_bytes
        protocol = header.protocol
        options = header.options
        if header.more_fragments or header.fragment_offset_bytes:
            packet = Received(
                interface, source, destination, protocol, data, start, begin, end, header.ttl, to_one, False
            )
            whole = self._reassemble(
                packet,
                self.fragments4,
                header.identification,
                header.fragment_offset_bytes,
                header.more_fragments,
                now,
            )
            if whole is None:
                return
            first = self.fragments4.first
            options = bytes(first.data[first.packet_start + 20 : first.start]) if first is not None else b""
            # The quote of an error shows the packet as if it had come whole.
            shown = build_ipv4(
                source,
                destination,
                protocol,
                len(whole),
                ttl=header.ttl,
                identification=header.identification,
                dont_fragment=False,
            )
            data = shown + whole
            start, begin, end = 0, len(shown), len(data)
            checksum_valid = False
        self.delivered += 1
        if protocol == TCP:
            if to_one:
                self._tcp.receive_segment(
                    source, destination, data, begin, end, now, checksum_valid=checksum_valid, ip_options=options
                )
            else:
                self._drops.count("tcp.to_many")  # RFC 9293 section 3.9.2.3, MUST-57
            return
        packet = _new(
            Received,
            (interface, source, destination, protocol, data, start, begin, end, header.ttl, to_one, checksum_valid),
        )
        handler = self._handlers4.get(protocol)
        if handler is not None:
            handler(packet, now)
        else:
            self._drops.count("ip.protocol_unknown")
            self._icmp.send_error(packet, Problem.PROTOCOL_UNREACHABLE, now)

    def receive6(
        self,
        interface: Interface,
        data: bytes | memoryview,
        start: int,
        now: float,
        *,
        checksum_valid: bool = False,
        link_to_one: bool = True,
        is_own: bool = False,
    ) -> None:
        """Take an IPv6 packet that begins at ``start``; else as `receive4`."""
        header = parse_ipv6(data, start)
        source, destination = header.source, header.destination
        addresses = self._addresses
        if (
            (source[0] in (0, 0xFF) or source in addresses.unicast)
            and not is_own
            and (addresses.is_martian_source(interface, source) or (source == ANY6 and destination[0] != 0xFF))
        ):
            self._drops.count("ip6.martian_source")
            return
        if destination in addresses.unicast:
            to_one = link_to_one
            if destination[0] == 0 and not interface.is_loopback:
                self._drops.count("ip6.martian_destination")
                return
        else:
            kind = addresses.classify(interface, destination)
            if kind is AddressKind.OTHER or kind is AddressKind.FOREIGN_GROUP:
                packet = Received(
                    interface,
                    source,
                    destination,
                    header.transport,
                    data,
                    start,
                    start + header.header_bytes,
                    start + header.total_bytes,
                    header.hop_limit,
                    link_to_one,
                    checksum_valid,
                )
                self._others(packet, kind, link_to_one, now)
                return
            to_one = kind is AddressKind.UNICAST
        begin, end = start + header.header_bytes, start + header.total_bytes
        protocol = header.transport
        if header.fragment is not None:
            packet = Received(
                interface, source, destination, protocol, data, start, begin, end, header.hop_limit, to_one, False
            )
            piece = header.fragment
            whole = self._reassemble(
                packet, self.fragments6, piece.identification, piece.offset_bytes, piece.more_fragments, now
            )
            if whole is None:
                return
            data = _whole6(header, whole)
            header = parse_ipv6(data)
            protocol = header.transport
            start, begin, end = 0, header.header_bytes, len(data)
            checksum_valid = False
        if header.extensions:
            problem = check_ipv6_extensions(header)
            if problem is not None:
                self._drops.count(problem.key)
                if problem.code is not None:
                    packet = Received(
                        interface, source, destination, protocol, data, start, begin, end, header.hop_limit,
                        to_one or problem.even_multicast, False,
                    )  # fmt: skip
                    cause = Problem.OPTION_UNKNOWN if problem.code == 2 else Problem.FIELD
                    self._icmp.send_error(packet, cause, now, rest=problem.pointer)
                return
        self.delivered += 1
        if protocol == TCP:
            if to_one:
                self._tcp.receive_segment(source, destination, data, begin, end, now, checksum_valid=checksum_valid)
            else:
                self._drops.count("tcp.to_many")
            return
        packet = _new(
            Received,
            (
                interface, source, destination, protocol, data, start, begin, end, header.hop_limit, to_one,
                checksum_valid,
            ),
        )  # fmt: skip
        handler = self._handlers6.get(protocol)
        if handler is not None:
            handler(packet, now)
        elif protocol != _NO_NEXT_HEADER:
            self._drops.count("ip6.protocol_unknown")
            self._icmp.send_error(packet, Problem.PROTOCOL_UNREACHABLE, now, rest=_named_at(header))

    def expire(self, now: float) -> None:
        """Give up packets whose fragments did not come, and tell their senders (RFC 792, RFC 8200 section 4.5)."""
        for reassembler in (self.fragments4, self.fragments6):
            for expired in reassembler.expire(now):
                if expired.first is not None:
                    self._icmp.send_error(expired.first, Problem.REASSEMBLY_TIME, now)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _others(self, packet: Received, kind: AddressKind, link_to_one: bool, now: float) -> None:
        """Take a packet that is not for this host."""
        if self._forward is None or kind is AddressKind.FOREIGN_GROUP or not link_to_one:
            self._drops.count("ip.not_for_us" if len(packet.source) == 4 else "ip6.not_for_us")
        else:
            self._forward(packet, now)

    def _reassemble(
        self, packet: Received, reassembler: Reassembler, identification: int, offset: int, more: bool, now: float
    ) -> bytes | None:
        """Keep a fragment; return its packet's whole payload where it was the last one missing."""
        self.fragments_received += 1
        piece = packet.data[packet.start : packet.end]
        if offset == 0 and not more:
            return bytes(piece)  # RFC 6946: an atomic fragment has no others
        key: tuple[bytes, bytes, int, int] = packet.source, packet.destination, packet.protocol, identification
        if len(packet.source) == 16:
            key = packet.source, packet.destination, 0, identification  # RFC 8200 section 4.5 has no protocol in it
        first = None
        if offset == 0:
            start = packet.packet_start
            first = packet._replace(
                data=bytes(packet.data[start : packet.end]),
                packet_start=0,
                start=packet.start - start,
                end=packet.end - start,
            )
        whole = reassembler.add(key, offset, piece, more=more, first=first, now=now)
        if whole is not None:
            self.reassembled += 1
        return whole


def _whole6(header: IPv6Header, payload: bytes) -> bytes:
    """Make the packet that was divided: the headers that each fragment repeats, and all that was divided."""
    assert header.fragment is not None
    repeated = header.extensions[:-1]
    chain = build_ipv6_extensions(repeated, header.fragment.next_header) if repeated else b""
    first = repeated[0].protocol if repeated else header.fragment.next_header
    size = len(chain) + len(payload)
    return b"".join(
        (
            build_ipv6(
                header.source,
                header.destination,
                first,
                size,
                hop_limit=header.hop_limit,
                traffic_class=header.traffic_class,
            ),
            chain,
            payload,
        )
    )


def _named_at(header: IPv6Header) -> int:
    """Return where the number of the transport stands, for an error's pointer (RFC 4443 section 3.4)."""
    if not header.extensions:
        return 6  # "next header" in the first 40 bytes
    return header.header_bytes - len(header.extensions[-1].data)

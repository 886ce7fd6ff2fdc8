"""Passing packets on: what a host does when it is a router (RFC 1812 section 5, RFC 8200).

This file knows what is changed in a packet that goes further, and what its
sender is told when it cannot. It refuses to know where it came in and how the
next hop is found.
"""

from __future__ import annotations

from typing import Final

from ..wire import PROTOCOL_TCP, PROTOCOL_UDP, TCP_CHECKSUM_OFFSET, Frame, checksum, pseudo_header_sum
from ._fragmentation import HEADER4_BYTES, HEADER6_BYTES, fragment4
from ._host_config import Drops
from ._icmp import IcmpLayer, Problem
from ._interface import is_link_local, is_loopback, is_multicast
from ._ip_output import Hop, PacketOutput
from ._local_addresses import LocalAddresses
from ._received import Received

_CHECKSUM_AT: Final = {PROTOCOL_TCP: TCP_CHECKSUM_OFFSET, PROTOCOL_UDP: 6}  # RFC 9293 section 3.1, RFC 768
_TCP_HEADER_BYTES: Final = 20  # RFC 9293 section 3.1, without options
_DONT_FRAGMENT: Final = 0x40  # in the byte at 6 of the IPv4 header
_MORE_FRAGMENTS: Final = 0x20
_OPTION_COPIED: Final = 0x80  # RFC 791 section 3.1


class Forwarder:
    """The router in a host."""

    def __init__(self, drops: Drops, addresses: LocalAddresses, output: PacketOutput, icmp: IcmpLayer) -> None:
        self._drops = drops
        self._addresses = addresses
        self._output = output
        self._icmp = icmp
        self.forwarded = 0

    def forward(self, packet: Received, now: float) -> None:
        """Send a packet for somebody else on its way, or say to its sender why not."""
        source, destination = packet.source, packet.destination
        if (
            is_link_local(source)
            or is_link_local(destination)
            or is_loopback(destination)
            or is_multicast(destination)
            or not self._addresses.is_single_host(source)
            or not self._addresses.is_single_host(destination)
        ):
            self._drops.count("forward.scope")  # RFC 1812 section 5.3.7, RFC 4291 section 2.5.6
            return
        if packet.ttl <= 1:
            self._drops.count("forward.ttl")
            self._icmp.send_error(packet, Problem.HOP_LIMIT, now)
            return
        hop = self._output.hop(destination)
        if hop is None or hop.is_local:
            self._drops.count("forward.no_route")
            self._icmp.send_error(packet, Problem.NETWORK_UNREACHABLE, now)
            return
        data = bytearray(packet.data[packet.packet_start : packet.end])
        is_big = len(data) > hop.interface.mtu_bytes
        segment_bytes = _super_segment_bytes(data, packet, hop) if is_big and packet.checksum_valid else 0
        if segment_bytes:
            is_big = False
        elif packet.checksum_valid:
            _complete_checksum(data, packet)
        if len(source) == 16:
            if is_big:
                self._too_big(packet, hop, now)
                return
            data[7] -= 1
        else:
            if is_big and data[6] & _DONT_FRAGMENT:
                self._too_big(packet, hop, now)
                return
            data[8] -= 1
            # RFC 1624: what is taken from a field is added to the checksum, with the carry to its other end.
            total = (data[10] << 8 | data[11]) + 0x100
            total = (total & 0xFFFF) + (total >> 16)
            data[10], data[11] = total >> 8, total & 0xFF
        self.forwarded += 1
        if is_big:
            self._fragment(packet, hop, data, now)
        elif segment_bytes:
            start = packet.start - packet.packet_start
            frame = Frame(bytes(data), b"", segment_bytes, start, TCP_CHECKSUM_OFFSET)
            head_bytes = start + (data[start + 12] >> 4) * 4
            frame = frame._replace(head=frame.head[:head_bytes], payload=frame.head[head_bytes:])
            self._output.send_packet(hop, frame, now, loop_back=False)
        else:
            self._output.send_packet(hop, Frame(bytes(data)), now, loop_back=False)

    def _too_big(self, packet: Received, hop: Hop, now: float) -> None:
        self._drops.count("forward.too_big")
        self._icmp.send_error(packet, Problem.PACKET_TOO_BIG, now, rest=hop.interface.mtu_bytes)

    def _fragment(self, packet: Received, hop: Hop, data: bytearray, now: float) -> None:
        """Divide an IPv4 packet, which may be a piece itself (RFC 791 section 3.2)."""
        header_bytes = packet.start - packet.packet_start
        offset = ((data[6] & 0x1F) << 8 | data[7]) * 8
        options = bytes(data[HEADER4_BYTES:header_bytes])
        if any(options) and options[0] & _OPTION_COPIED:
            # Nobody has sent source routes for decades, and routers refuse them (RFC 7126 section 4.3).
            self._drops.count("forward.options")
            return
        for piece in fragment4(
            packet.source,
            packet.destination,
            packet.protocol,
            bytes(data[header_bytes:]),
            hop.interface.mtu_bytes,
            identification=data[4] << 8 | data[5],
            ttl=packet.ttl - 1,
            traffic_class=data[1],
            first_offset_bytes=offset,
            more_follow=bool(data[6] & _MORE_FRAGMENTS),
        ):
            self._output.fragments_sent += 1
            self._output.send_packet(hop, Frame(piece), now, loop_back=False)


def _super_segment_bytes(data: bytearray, packet: Received, hop: Hop) -> int:
    """Return into what segments the link is to cut a super-frame of TCP; 0 where it is none, or the link cuts nothing.

    The checksum's field is made to hold the pseudo header's sum, as a link with offload wants it.
    """
    start = packet.start - packet.packet_start
    if packet.protocol != PROTOCOL_TCP or not hop.offload or len(data) < start + _TCP_HEADER_BYTES:
        return 0
    head_bytes = start + (data[start + 12] >> 4) * 4
    if not start + _TCP_HEADER_BYTES <= head_bytes < len(data):
        return 0
    pseudo = pseudo_header_sum(packet.source, packet.destination, PROTOCOL_TCP, len(data) - start)
    place = start + TCP_CHECKSUM_OFFSET
    data[place : place + 2] = (pseudo % 0xFFFF).to_bytes(2, "big")
    return hop.interface.mtu_bytes - head_bytes


def _complete_checksum(data: bytearray, packet: Received) -> None:
    """Fill in a transport checksum that the link vouched for: the field may hold only the pseudo header's sum."""
    at = _CHECKSUM_AT.get(packet.protocol)
    start = packet.start - packet.packet_start
    if at is None or len(data) < start + at + 2:
        return
    if len(packet.source) == 16:
        is_whole = start == HEADER6_BYTES  # behind extension headers may be a piece only, for which no link vouches
    else:
        is_whole = not (data[6] << 8 | data[7]) & 0x3FFF
    if not is_whole:
        return
    place = start + at
    data[place : place + 2] = b"\0\0"
    pseudo = pseudo_header_sum(packet.source, packet.destination, packet.protocol, len(data) - start)
    total = checksum(memoryview(data)[start:], pseudo) or 0xFFFF
    data[place : place + 2] = total.to_bytes(2, "big")

"""A TCP segment in its IP packet as values, for a link that carries no bytes.

This file knows which bytes such a packet stands for. It refuses to know what a segment means, and who looks at bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from ..wire import (
    PROTOCOL_TCP,
    TCP_CHECKSUM_OFFSET,
    Frame,
    TcpSegment,
    build_ipv4,
    build_ipv6,
    build_tcp_header,
)

__all__ = ["TcpPacket"]


class TcpPacket(NamedTuple):
    """A segment on its way between two hosts of one process: nothing is encoded, summed, copied and read again.

    Whoever is to see bytes (a capture, a link that damages some) has them by ``frame``, the same that the sender would
    have sent, with what an offload leaves open.

    >>> from ..wire import ACK
    >>> here, there = b"\\x0a\\0\\0\\1", b"\\x0a\\0\\0\\2"
    >>> segment = TcpSegment(4000, 80, 1, 1, ACK, 64240, 0, None, None, False, (), None, b"hello")
    >>> packet = TcpPacket((there, 80, here, 4000), segment, 0, 64, 0, 45)
    >>> packet.frame().head[:4].hex(), packet.frame().size_bytes
    ('4500002d', 45)
    """

    key: tuple[bytes, int, bytes, int]
    """Where it goes, address and port, and where it is from: the connection's name at its receiver."""
    segment: TcpSegment
    """As `parse_tcp` would give it; it has no option but timestamps."""
    segment_bytes: int
    """For a super segment, how many bytes of payload each packet has on a wire; 0: this is one packet."""
    ttl: int
    dscp: int
    size_bytes: int
    """Of the whole IP packet."""

    def tcp_header(self) -> bytes:
        """The TCP header, whose checksum an offload is to complete."""
        there, _, here, _ = self.key
        source_port, destination_port, seq, ack, flags, window, urgent_pointer, *_, timestamp, payload = self.segment
        return build_tcp_header(
            here, there, source_port, destination_port, seq, ack, flags, window, payload,
            urgent_pointer=urgent_pointer, timestamp=timestamp, offload=True,
        )  # fmt: skip

    def frame(self) -> Frame:
        """The bytes that a link would have been given."""
        there, _, here, _ = self.key
        payload = self.segment.payload
        head = self.tcp_header()
        size = len(head) + len(payload)
        if len(there) == 4:
            header = build_ipv4(here, there, PROTOCOL_TCP, size, ttl=self.ttl, dscp=self.dscp)
        else:
            header = build_ipv6(here, there, PROTOCOL_TCP, size, hop_limit=self.ttl, traffic_class=self.dscp << 2)
        return Frame(header + head, payload, self.segment_bytes, len(header), TCP_CHECKSUM_OFFSET)

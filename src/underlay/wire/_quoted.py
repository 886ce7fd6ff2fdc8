"""The beginning of our own packet that an ICMP error brings back.

This file knows how to find the transport header in a packet that was cut short
(RFC 792: 8 bytes of it at least; RFC 4443 §2.4: as much as fits). It refuses to
know whether we ever sent such a packet: that is the transport's to check.
"""

from __future__ import annotations

from typing import NamedTuple

from ._errors import WireError
from ._ipv6 import walk_extensions

__all__ = ["QuotedPacket", "parse_quoted_packet"]

_PORTS_AND_MORE_BYTES = 8  # RFC 792: the "64 bits of Data Datagram" that each error holds


class QuotedPacket(NamedTuple):
    """Which packet an ICMP error is about."""

    source: bytes
    destination: bytes
    protocol: int
    """Its transport."""
    transport: bytes | memoryview
    """The transport header and whatever followed; 8 bytes at least."""


def parse_quoted_packet(data: bytes | memoryview, start: int = 0, end: int | None = None) -> QuotedPacket:
    """Read the packet quoted in ``data[start:end]``, the body of an ICMP or ICMPv6 error.

    Its length fields and checksums are not looked at: it is cut short, and routers change it on its way. One
    that is no first fragment has no ports, and is a `WireError` as all that names no transport is.
    """
    if end is None:
        end = len(data)
    version = data[start] >> 4 if end > start else 0
    if version == 4:
        header_bytes = (data[start] & 15) * 4
        if header_bytes < 20:
            raise WireError("icmp", "quoted_packet", f"its header says it has {header_bytes} bytes")
        place = start + header_bytes
        if place + _PORTS_AND_MORE_BYTES > end:
            raise WireError("icmp", "quoted_packet", "it ends before the transport's first 8 bytes")
        if (data[start + 6] & 0x1F) or data[start + 7]:
            raise WireError("icmp", "quoted_packet", "a later fragment names no transport")
        source, destination = bytes(data[start + 12 : start + 16]), bytes(data[start + 16 : start + 20])
        return QuotedPacket(source, destination, data[start + 9], data[place:end])
    if version != 6:
        raise WireError("icmp", "quoted_packet", "it is no IP packet")
    if end - start < 40:
        raise WireError("icmp", "quoted_packet", "it ends within its IPv6 header")
    try:
        _, protocol, header_bytes, fragment = walk_extensions(data, start, end, data[start + 6])
    except WireError as error:
        raise WireError("icmp", "quoted_packet", str(error)) from None
    if fragment is not None and fragment.offset_bytes:
        raise WireError("icmp", "quoted_packet", "a later fragment names no transport")
    place = start + header_bytes
    if place + _PORTS_AND_MORE_BYTES > end:
        raise WireError("icmp", "quoted_packet", "it ends before the transport's first 8 bytes")
    return QuotedPacket(
        bytes(data[start + 8 : start + 24]), bytes(data[start + 24 : start + 40]), protocol, data[place:end]
    )

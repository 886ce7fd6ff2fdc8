"""The UDP header (RFC 768; over IPv6 also RFC 8200 §8.1).

This file knows ports, length and checksum. It refuses to know sockets, and what
is to happen to a datagram that nobody waits for.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ._checksum import pseudo_header_sum, words_sum
from ._errors import WireError, refuse_short
from ._ipv4 import PROTOCOL_UDP

__all__ = ["UdpHeader", "build_udp", "parse_udp"]

_HEADER: Final = struct.Struct("!HHHH")
_new = tuple.__new__


class UdpHeader(NamedTuple):
    """The 8 bytes before a datagram's payload."""

    source_port: int
    destination_port: int
    length_bytes: int
    """Header and payload, 8 at least; the payload ends at ``start + length_bytes``."""
    checksum: int
    """As it was sent; 0 means that the sender (over IPv4) computed none."""


def parse_udp(
    data: bytes | memoryview,
    start: int = 0,
    end: int | None = None,
    *,
    pseudo: int | None = None,
    require_checksum: bool = False,
) -> UdpHeader:
    """Read the header of the datagram in ``data[start:end]``, where `end` is the IP packet's end.

    `pseudo` is the ``pseudo_header_sum`` for ``end - start`` bytes (not folded); None leaves the checksum
    unverified. A datagram shorter than its packet is verified over its own length, as Linux does.
    `require_checksum` says that it came over IPv6, where 0 for "none" is an error (RFC 8200 §8.1).
    """
    if end is None:
        end = len(data)
    if end - start < 8:
        refuse_short("udp", end - start, 8)
    source_port, destination_port, length_bytes, check = _HEADER.unpack_from(data, start)
    if length_bytes < 8:
        raise WireError("udp", "length", f"{length_bytes} bytes do not even hold the header", 4)
    if start + length_bytes > end:
        raise WireError("udp", "length", f"{length_bytes} bytes, but {end - start} are here", 4)
    if check:
        if pseudo is not None:
            stop = start + length_bytes
            if (words_sum(data[start:stop]) + pseudo + stop - end) % 0xFFFF:
                raise WireError("udp", "checksum", "the datagram's sum is wrong")
    elif require_checksum:
        raise WireError("udp", "checksum", "0 for none, but over IPv6 there must be one")
    return _new(UdpHeader, (source_port, destination_port, length_bytes, check))


def build_udp(
    source: bytes,
    destination: bytes,
    source_port: int,
    destination_port: int,
    payload: bytes | memoryview,
    *,
    offload: bool = False,
) -> bytes:
    """Build the 8 bytes of the header alone; a checksum that comes out as 0 is sent as 0xFFFF (RFC 768).

    With `offload` the checksum field holds only the folded sum of the pseudo header, for a link that completes
    it (virtio-net's NEEDS_CSUM).
    """
    length_bytes = 8 + len(payload)
    total = pseudo_header_sum(source, destination, PROTOCOL_UDP, length_bytes)
    if offload:
        check = total % 0xFFFF or 0xFFFF
    else:
        total += source_port + destination_port + length_bytes + words_sum(payload)
        check = 0xFFFF - total % 0xFFFF  # 0xFFFF, never 0
    try:
        return _HEADER.pack(source_port, destination_port, length_bytes, check)
    except struct.error:
        if length_bytes > 0xFFFF:
            raise WireError("udp", "length", f"{length_bytes} bytes, but 65535 fit") from None
        raise WireError("udp", "port", f"{source_port} or {destination_port} is not within 0 to 65535") from None

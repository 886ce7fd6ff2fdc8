"""The IPv4 header (RFC 791): read, checked and built.

This file knows the header's fields, its options' lengths and its checksum. It
refuses to know routes, what an option asks for, and how fragments come together;
it gives the fields that reassembly needs.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ._checksum import words_sum
from ._errors import WireError, refuse_short

__all__ = [
    "PROTOCOL_ICMP",
    "PROTOCOL_IGMP",
    "PROTOCOL_TCP",
    "PROTOCOL_UDP",
    "IPv4Header",
    "build_ipv4",
    "parse_ipv4",
]

# IANA "protocol-numbers".
PROTOCOL_ICMP: Final = 1
PROTOCOL_IGMP: Final = 2
PROTOCOL_TCP: Final = 6
PROTOCOL_UDP: Final = 17

_HEADER: Final = struct.Struct("!BBHHHBBH4s4s")
_SUM: Final = struct.Struct("!QQI")  # the same 20 bytes in the fewest numbers that can be added
_DONT_FRAGMENT: Final = 0x4000
_MORE_FRAGMENTS: Final = 0x2000
_MAX_PACKET_BYTES: Final = 0xFFFF  # RFC 791 §3.1: the total length has 16 bits
_OPTION_END: Final = 0
_OPTION_NOP: Final = 1
_new = tuple.__new__


class IPv4Header(NamedTuple):
    """One IPv4 header that holds what RFC 791 demands."""

    source: bytes
    destination: bytes
    protocol: int
    ttl: int
    identification: int
    dont_fragment: bool
    more_fragments: bool
    fragment_offset_bytes: int
    """Where this fragment's payload belongs; always a multiple of 8."""
    dscp: int
    """The differentiated services code point, 6 bits (RFC 2474)."""
    ecn: int
    """Explicit congestion notification, 2 bits (RFC 3168)."""
    options: bytes
    """As they stand, with padding; their lengths were checked, what they say was not."""
    header_bytes: int
    """20 to 60: where the payload begins."""
    total_bytes: int
    """Header and payload: where the packet ends, and a frame's padding begins."""


def parse_ipv4(data: bytes | memoryview, start: int = 0, end: int | None = None, *, verify: bool = True) -> IPv4Header:
    """Read the header of the packet that begins at `start`; its payload ends at ``start + total_bytes``.

    `end` (default: the end of `data`) bounds what was received; beyond the packet there may be padding. With
    `verify` off the header's checksum is not looked at.
    """
    if end is None:
        end = len(data)
    if end - start < 20:
        refuse_short("ipv4", end - start, 20)
    first, tos, total_bytes, identification, fragment, ttl, protocol, _, source, destination = _HEADER.unpack_from(
        data, start
    )
    options = b""
    if first == 0x45:
        header_bytes = 20
    else:
        if first >> 4 != 4:
            raise WireError("ipv4", "version", f"{first >> 4} is not 4", 0)
        header_bytes = (first & 15) * 4
        if header_bytes < 20:
            raise WireError("ipv4", "ihl", f"{header_bytes} bytes, but a header has 20 at least", 0)
        if start + header_bytes > end:
            raise WireError("ipv4", "ihl", f"the header of {header_bytes} bytes ends behind the data", 0)
        options = bytes(data[start + 20 : start + header_bytes])
    if total_bytes < header_bytes:
        raise WireError("ipv4", "total_length", f"{total_bytes} bytes do not even hold the header", 2)
    if start + total_bytes > end:
        raise WireError("ipv4", "total_length", f"{total_bytes} bytes, but {end - start} are here", 2)
    if verify:
        one, two, three = _SUM.unpack_from(data, start)
        total = one + two + three
        if options:
            total += int.from_bytes(options, "big")
        if total % 0xFFFF:
            raise WireError("ipv4", "checksum", "the header's sum is wrong")
    if options:
        _check_options(options)
    if fragment == _DONT_FRAGMENT or not fragment:  # nearly always
        return _new(
            IPv4Header,
            (
                source, destination, protocol, ttl, identification, fragment != 0, False, 0,
                tos >> 2, tos & 3, options, header_bytes, total_bytes,
            ),
        )  # fmt: skip
    offset_bytes = (fragment & 0x1FFF) * 8
    if offset_bytes + total_bytes - header_bytes > _MAX_PACKET_BYTES:
        raise WireError("ipv4", "fragment_offset", "the fragment ends behind the largest packet there is", 6)
    return _new(
        IPv4Header,
        (
            source, destination, protocol, ttl, identification,
            fragment & _DONT_FRAGMENT != 0, fragment & _MORE_FRAGMENTS != 0, offset_bytes,
            tos >> 2, tos & 3, options, header_bytes, total_bytes,
        ),
    )  # fmt: skip


def _check_options(options: bytes) -> None:
    """Walk through the options; each must end within the header (RFC 791 §3.1)."""
    place = 0
    while place < len(options):
        kind = options[place]
        if kind == _OPTION_END:
            return
        if kind == _OPTION_NOP:
            place += 1
            continue
        if place + 1 >= len(options):
            raise WireError("ipv4", "options", f"option {kind} has no length", 20 + place)
        size = options[place + 1]
        if size < 2:
            raise WireError("ipv4", "options", f"option {kind} says it has {size} bytes", 21 + place)
        if place + size > len(options):
            raise WireError("ipv4", "options", f"option {kind} ends behind the header", 21 + place)
        place += size


def build_ipv4(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload_bytes: int,
    *,
    ttl: int = 64,
    identification: int = 0,
    dont_fragment: bool = True,
    more_fragments: bool = False,
    fragment_offset_bytes: int = 0,
    dscp: int = 0,
    ecn: int = 0,
    options: bytes = b"",
) -> bytes:
    """Build the header alone, with its checksum, for a payload of `payload_bytes`.

    `options` are padded with zeros to a multiple of 4 bytes. A field that does not fit is a `WireError`.

    >>> header = build_ipv4(bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), PROTOCOL_UDP, 8)
    >>> parse_ipv4(header + bytes(8)).total_bytes
    28
    """
    if len(source) != 4 or len(destination) != 4:
        raise WireError("ipv4", "address", "an IPv4 address has 4 bytes")
    first = 0x45
    total_bytes = 20 + payload_bytes
    if options:
        options = options.ljust(len(options) + 3 & ~3, b"\0")
        if len(options) > 40:
            raise WireError("ipv4", "ihl", f"{len(options)} bytes of options, but 40 fit")
        first += len(options) >> 2
        total_bytes += len(options)
    fragment = _DONT_FRAGMENT if dont_fragment else 0
    if more_fragments or fragment_offset_bytes:
        if fragment_offset_bytes & 7 or not 0 <= fragment_offset_bytes <= 0xFFF8:
            raise WireError("ipv4", "fragment_offset", f"{fragment_offset_bytes} is no multiple of 8 below 65536")
        fragment |= fragment_offset_bytes >> 3 | (_MORE_FRAGMENTS if more_fragments else 0)
    tos = dscp << 2 | ecn
    if tos and not (0 <= dscp <= 0x3F and 0 <= ecn <= 3):
        raise _unfit(dscp=(dscp, 0x3F))
    # The sum of the words, most of them still apart; see _checksum.py.
    total = (
        (first << 8) + tos + total_bytes + identification + fragment + (ttl << 8) + protocol
        + int.from_bytes(source + destination, "big")
    )  # fmt: skip
    if options:
        total += words_sum(options)
    try:
        header = _HEADER.pack(
            first, tos, total_bytes, identification, fragment, ttl, protocol,
            0xFFFF - (total % 0xFFFF or 0xFFFF), source, destination,
        )  # fmt: skip
    except struct.error:
        raise _unfit(
            total_length=(total_bytes, 0xFFFF),
            identification=(identification, 0xFFFF),
            ttl=(ttl, 0xFF),
            protocol=(protocol, 0xFF),
        ) from None
    return header + options if options else header


def _unfit(**fields: tuple[int, int]) -> WireError:
    """Say which of the fields, each with its largest value, did not fit."""
    for name, (value, most) in fields.items():
        if not 0 <= value <= most:
            return WireError("ipv4", name, f"{value} is not within 0 to {most}")
    return WireError("ipv4", "ecn", "it is not within 0 to 3")

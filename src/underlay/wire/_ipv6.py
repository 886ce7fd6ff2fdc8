"""The IPv6 header and the extension headers behind it (RFC 8200).

This file knows where each header ends, and which transport comes last. It
refuses to know routes, and how fragments come together; what the options of a
packet that is for us ask for is looked at only by `check_ipv6_extensions`, as a
router has to leave them alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from ._errors import WireError, refuse_short

__all__ = [
    "IPV6_DESTINATION_OPTIONS",
    "IPV6_FRAGMENT",
    "IPV6_HOP_BY_HOP",
    "IPV6_NO_NEXT_HEADER",
    "IPV6_ROUTER_ALERT",
    "IPV6_ROUTING",
    "MAX_IPV6_EXTENSIONS",
    "PROTOCOL_ICMP6",
    "ExtensionProblem",
    "IPv6Extension",
    "IPv6Fragment",
    "IPv6Header",
    "build_ipv6",
    "build_ipv6_extensions",
    "build_ipv6_fragment_header",
    "check_ipv6_extensions",
    "parse_ipv6",
]

# IANA "protocol-numbers"; RFC 8200 §4.3 to §4.7.
IPV6_HOP_BY_HOP: Final = 0
IPV6_ROUTING: Final = 43
IPV6_FRAGMENT: Final = 44
PROTOCOL_ICMP6: Final = 58
IPV6_NO_NEXT_HEADER: Final = 59
IPV6_DESTINATION_OPTIONS: Final = 60

# RFC 8504 §5.3 allows a limit. RFC 8200 §4.1 recommends an order of at most 5 of these four kinds.
MAX_IPV6_EXTENSIONS: Final = 8
# RFC 8504 §5.3; as Linux: max_dst_opts_number, max_hbh_opts_number, and padding of 7 bytes at most.
_MAX_OPTIONS: Final = 8
_MAX_PADDING_BYTES: Final = 7

_EXTENSIONS: Final = frozenset((IPV6_HOP_BY_HOP, IPV6_ROUTING, IPV6_FRAGMENT, IPV6_DESTINATION_OPTIONS))
_PAD1: Final = 0
_PADN: Final = 1
_ROUTER_ALERT: Final = 5  # RFC 2711 §2.1

_HEADER: Final = struct.Struct("!IHBB16s16s")
_FRAGMENT_HEADER: Final = struct.Struct("!BBHI")
_new = tuple.__new__


class IPv6Extension(NamedTuple):
    """One extension header, as it stands."""

    protocol: int
    """Which it is: the number by which the header before it announces it."""
    data: bytes
    """All its bytes, a multiple of 8; the first announces what follows."""


class IPv6Fragment(NamedTuple):
    """What a fragment header says (RFC 8200 §4.5)."""

    next_header: int
    """What the fragmented part begins with."""
    identification: int
    offset_bytes: int
    """Where this fragment's payload belongs; always a multiple of 8."""
    more_fragments: bool


class IPv6Header(NamedTuple):
    """One IPv6 header with its extension headers."""

    source: bytes
    destination: bytes
    next_header: int
    """What follows the first 40 bytes."""
    hop_limit: int
    traffic_class: int
    flow_label: int
    payload_bytes: int
    """All that follows the first 40 bytes, extension headers included."""
    extensions: tuple[IPv6Extension, ...]
    """In their order. A fragment's end with its fragment header: the others are what each fragment repeats."""
    transport: int
    """What begins at ``start + header_bytes``: a transport, something unknown, or 59 for nothing."""
    header_bytes: int
    """40 and the extension headers."""
    fragment: IPv6Fragment | None
    """None for a whole packet, also for one that says it is its own only fragment (RFC 6946)."""
    total_bytes: int
    """The packet's size: 40 + ``payload_bytes``."""

    @property
    def dscp(self) -> int:
        """The differentiated services code point, 6 bits (RFC 2474)."""
        return self.traffic_class >> 2

    @property
    def ecn(self) -> int:
        """Explicit congestion notification, 2 bits (RFC 3168)."""
        return self.traffic_class & 3


def parse_ipv6(data: bytes | memoryview, start: int = 0, end: int | None = None) -> IPv6Header:
    """Read the headers of the packet that begins at `start`; it ends at ``start + total_bytes``.

    Behind a fragment header (but a lone one) nothing is read: what follows there is whole only after reassembly.
    Pointers in errors count from `start`, as an ICMPv6 Parameter Problem wants them.
    """
    if end is None:
        end = len(data)
    if end - start < 40:
        refuse_short("ipv6", end - start, 40)
    first, payload_bytes, next_header, hop_limit, source, destination = _HEADER.unpack_from(data, start)
    if first >> 28 != 6:
        raise WireError("ipv6", "version", f"{first >> 28} is not 6", 0)
    if start + 40 + payload_bytes > end:
        raise WireError("ipv6", "payload_length", f"{payload_bytes} bytes, but {end - start - 40} are here", 4)
    if next_header not in _EXTENSIONS:  # nearly always
        return _new(
            IPv6Header,
            (
                source, destination, next_header, hop_limit, first >> 20 & 0xFF, first & 0xFFFFF, payload_bytes,
                (), next_header, 40, None, 40 + payload_bytes,
            ),
        )  # fmt: skip
    extensions, transport, header_bytes, fragment = walk_extensions(
        data, start, start + 40 + payload_bytes, next_header
    )
    return _new(
        IPv6Header,
        (
            source, destination, next_header, hop_limit, first >> 20 & 0xFF, first & 0xFFFFF, payload_bytes,
            extensions, transport, header_bytes, fragment, 40 + payload_bytes,
        ),
    )  # fmt: skip


def walk_extensions(
    data: bytes | memoryview, start: int, end: int, kind: int
) -> tuple[tuple[IPv6Extension, ...], int, int, IPv6Fragment | None]:
    """Follow the chain: give the extensions, the transport, the bytes up to it, and the fragment if it is one."""
    extensions: list[IPv6Extension] = []
    place = start + 40
    announced = 6  # where the field stands that announced this header
    while kind in _EXTENSIONS:
        offset = place - start
        if len(extensions) == MAX_IPV6_EXTENSIONS:
            raise WireError("ipv6", "extensions", f"more than {MAX_IPV6_EXTENSIONS} extension headers", announced)
        if kind == IPV6_HOP_BY_HOP and extensions:
            raise WireError("ipv6", "extension_order", "hop-by-hop options that do not come first", announced)
        if place + 8 > end:
            raise WireError("ipv6", "extension_length", f"extension header {kind} ends behind the packet", offset)
        size = 8 if kind == IPV6_FRAGMENT else (data[place + 1] + 1) * 8
        if place + size > end:
            raise WireError("ipv6", "extension_length", f"extension header {kind} ends behind the packet", offset + 1)
        extensions.append(IPv6Extension(kind, bytes(data[place : place + size])))
        announced = offset
        place += size
        if kind == IPV6_FRAGMENT:
            kind, _, bits, identification = _FRAGMENT_HEADER.unpack_from(data, place - 8)
            if bits & 0xFFF9:
                fragment = IPv6Fragment(kind, identification, bits & 0xFFF8, bits & 1 != 0)
                if fragment.offset_bytes + end - place > 0xFFFF:
                    # RFC 8200 §4.5: the pointer names the fragment offset field.
                    raise WireError("ipv6", "fragment_offset", "it ends behind the largest packet there is", offset + 2)
                return tuple(extensions), kind, place - start, fragment
        else:
            kind = data[place - size]
    return tuple(extensions), kind, place - start, None


class ExtensionProblem(NamedTuple):
    """Why a host has to discard a packet that is for it, and what ICMPv6 is to say about it (RFC 8200 §4.2)."""

    key: str
    """The name under which it is counted, like a `WireError`'s."""
    pointer: int
    """The offending octet's offset from the IPv6 header."""
    code: int | None
    """The Parameter Problem's code: 0 an erroneous field, 2 an unrecognized option. None: nothing is sent."""
    even_multicast: bool
    """It is sent also if the packet's destination was a multicast group."""


def check_ipv6_extensions(header: IPv6Header) -> ExtensionProblem | None:
    """Look at what the extension headers of a packet that is for us ask for; None: nothing that stops it.

    Known options are padding and router alert; all others are treated as their two highest bits demand. A
    routing header with segments left is refused, as no type is known (type 0: RFC 5095).
    """
    offset = 40
    for kind, data in header.extensions:
        if kind == IPV6_ROUTING:
            if data[3]:
                return ExtensionProblem("ipv6.routing_type", offset + 2, 0, False)
        elif kind != IPV6_FRAGMENT:
            problem = _check_options(data, offset)
            if problem is not None:
                return problem
        offset += len(data)
    return None


def _check_options(data: bytes, offset: int) -> ExtensionProblem | None:
    place, end = 2, len(data)
    options = padding_bytes = 0
    while place < end:
        kind = data[place]
        if kind == _PAD1:
            size = 1
        elif place + 2 > end or place + 2 + data[place + 1] > end:
            return ExtensionProblem("ipv6.option_length", offset + min(place + 1, end - 1), 0, False)
        else:
            size = 2 + data[place + 1]
        if kind in (_PAD1, _PADN):
            padding_bytes += size
            if padding_bytes > _MAX_PADDING_BYTES:
                return ExtensionProblem("ipv6.padding", offset + place, None, False)
        else:
            padding_bytes = 0
            options += 1
            if options > _MAX_OPTIONS:
                return ExtensionProblem("ipv6.options", offset + place, None, False)
            action = kind >> 6  # RFC 8200 §4.2
            if kind != _ROUTER_ALERT and action:
                return ExtensionProblem("ipv6.option", offset + place, None if action == 1 else 2, action == 2)
        place += size
    return None


def build_ipv6(
    source: bytes,
    destination: bytes,
    next_header: int,
    payload_bytes: int,
    *,
    hop_limit: int = 64,
    traffic_class: int = 0,
    flow_label: int = 0,
) -> bytes:
    """Build the first 40 bytes alone; `payload_bytes` includes extension headers, if there are any.

    >>> header = build_ipv6(bytes(16), bytes(15) + bytes([1]), IPV6_NO_NEXT_HEADER, 0)
    >>> parse_ipv6(header).header_bytes
    40
    """
    if len(source) != 16 or len(destination) != 16:
        raise WireError("ipv6", "address", "an IPv6 address has 16 bytes")
    if not (0 <= flow_label <= 0xFFFFF and 0 <= traffic_class <= 0xFF):
        raise WireError("ipv6", "flow_label", f"{flow_label} or traffic class {traffic_class} does not fit")
    try:
        return _HEADER.pack(
            0x60000000 | traffic_class << 20 | flow_label, payload_bytes, next_header, hop_limit, source, destination
        )
    except struct.error:
        for name, value, most in (("payload_length", payload_bytes, 0xFFFF), ("next_header", next_header, 0xFF)):
            if not 0 <= value <= most:
                raise WireError("ipv6", name, f"{value} is not within 0 to {most}") from None
        raise WireError("ipv6", "hop_limit", f"{hop_limit} is not within 0 to 255") from None


def build_ipv6_fragment_header(next_header: int, identification: int, offset_bytes: int, more_fragments: bool) -> bytes:
    """Build the 8 bytes of a fragment header (RFC 8200 §4.5)."""
    if offset_bytes & 7 or not 0 <= offset_bytes <= 0xFFF8:
        raise WireError("ipv6", "fragment_offset", f"{offset_bytes} is no multiple of 8 below 65536")
    try:
        return _FRAGMENT_HEADER.pack(next_header, 0, offset_bytes | more_fragments, identification)
    except struct.error as error:
        raise WireError("ipv6", "identification", str(error)) from None


def build_ipv6_extensions(extensions: Iterable[IPv6Extension], next_header: int) -> bytes:
    """Chain extension headers: each announces the one behind it, and the last announces `next_header`.

    A packet's own ``next_header`` is then the first one's ``protocol``. Reassembly puts the ``extensions[:-1]`` of
    a first fragment before the whole again so.

    >>> build_ipv6_extensions([IPV6_ROUTER_ALERT], PROTOCOL_ICMP6).hex()
    '3a00050200000100'
    """
    chain = list(extensions)
    following = [extension.protocol for extension in chain[1:]] + [next_header]
    # No extension at all is no bytes: then `next_header` follows the IPv6 header itself.
    return b"".join(bytes([kind]) + extension.data[1:] for extension, kind in zip(chain, following, strict=False))


# RFC 2711 §2.1 with value 0, "datagram contains a Multicast Listener Discovery message", and a PadN.
IPV6_ROUTER_ALERT: Final = IPv6Extension(IPV6_HOP_BY_HOP, bytes.fromhex("0000050200000100"))

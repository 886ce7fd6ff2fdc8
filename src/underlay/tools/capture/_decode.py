"""What a captured packet holds: who sends to whom, by which protocol, and what it says in a few words.

This file knows which header follows which, for the link types that are captured and the usual ones of files; the
headers themselves `underlay.wire` knows, and ``_damaged.py`` what is left of wrong ones. A packet may be cut short
(snaplen), damaged or made up: whatever it is, `decode` gives an answer and never raises. It refuses to know other
packets, so says nothing that only they tell.

Checksums are not looked at. A packet that this machine sends has none yet where its card computes them.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ...wire import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    PROTOCOL_ICMP,
    PROTOCOL_ICMP6,
    PROTOCOL_IGMP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    TcpSegment,
    WireError,
    format_ip,
    parse_arp,
    parse_icmp4,
    parse_ipv4,
    parse_ipv6,
    parse_tcp,
    parse_udp,
)
from . import _protocol_words as words
from ._damaged import readable_ipv4, readable_ipv6, readable_tcp
from ._link_types import ETHERNET, LINUX_SLL, LINUX_SLL2, NULL, RAW_IP, SLL_BYTES, TAGS
from ._tunnels import TRANSPARENT_ETHERNET, VXLAN_PORT, Carried, inside_ip, inside_link, inside_vxlan

__all__ = ["Decoded", "decode"]


class Decoded(NamedTuple):
    """One packet, read."""

    protocol: str
    """The innermost that is known, as "TCP", "DNS", "ARP"; or the number of an unknown one."""
    source: bytes
    """Of 4 or 16 bytes an IP address, of 6 a MAC address; empty where there is none."""
    destination: bytes
    source_port: int
    """-1 without ports."""
    destination_port: int
    payload_bytes: int
    """What TCP or UDP carried, whether it was kept or not."""
    segment: TcpSegment | None
    """Of TCP, its header."""
    text: str
    """What it says; for TCP, about which only its connection knows more, what is wrong or carries it, or empty."""
    tunnels: tuple[str, ...] = ()
    """What carries it, the innermost first: "GRE", "VXLAN", "MPLS", …; all the rest is of the packet inside."""


# www.tcpdump.org/linktypes.html. 12 and 14 are what BSDs and old files have for raw IP.
_RAW: Final = frozenset((12, 14, RAW_IP))
_IPV4: Final = 228
_IPV6: Final = 229
# A family of 2 is IPv4; IPv6 has another number in each system (linktypes.html, LINKTYPE_NULL).
_FAMILY6: Final = frozenset((10, 24, 28, 30))

# More than a few VLAN tags only an attacker sends.
_MOST_TAGS: Final = 4
# A tunnel in a tunnel in a tunnel is met, as MPLS in GRE; what is deeper is left alone.
_MOST_TUNNELS: Final = 4
_FIRST_ETHERTYPE: Final = 0x600  # below, it is an 802.3 length

# What the headers are called that `WireError` names.
_HEADERS: Final = {"ipv4": "IPv4", "ipv6": "IPv6"}
_DNS_PORTS: Final = frozenset((53, 5353))  # RFC 1035, RFC 6762
_WITH_PORTS: Final = frozenset((PROTOCOL_TCP, PROTOCOL_UDP))
_U16: Final = struct.Struct("!H")
_EMPTY: Final = b""
# A NamedTuple's own __new__ is Python, and takes three times as long.
_new = tuple.__new__


def decode(link_type: int, data: bytes, size_bytes: int) -> Decoded:
    """Read ``data``, what was kept of a packet that had ``size_bytes`` on a link of this type.

    >>> decode(101, bytes.fromhex("450000214ea600004011081b7f0000017f000001 d64204d2000d0000 68656c6c6f"), 33)[:3]
    ('UDP', b'\\x7f\\x00\\x00\\x01', b'\\x7f\\x00\\x00\\x01')
    """
    # A header's end is judged by what there was on the wire. What of it was not kept is an IndexError, a struct.error
    # or, of slices, simply shorter.
    end = max(size_bytes, len(data))
    try:
        if link_type == ETHERNET:
            return _ethernet(data, 0, end)
        if link_type in _RAW:
            return _ip(data, 0, end)
        if link_type == LINUX_SLL2:
            return _typed(data, _U16.unpack_from(data)[0], 20, end, data[12 : 12 + min(data[11], 8)])
        if link_type == LINUX_SLL:
            return _typed(data, _U16.unpack_from(data, 14)[0], SLL_BYTES, end, data[6:12])
        if link_type == _IPV4:
            return _ipv4(data, 0, end)
        if link_type == _IPV6:
            return _ipv6(data, 0, end)
        if link_type in NULL:
            family = data[:4] if link_type == 108 or data[0] == 0 else data[3::-1]
            number = int.from_bytes(family, "big")
            kind = ETHERTYPE_IPV4 if number == 2 else ETHERTYPE_IPV6 if number in _FAMILY6 else 0
            return _typed(data, kind, 4, end, _EMPTY)
    except WireError as error:
        return _nothing(_HEADERS.get(error.header, error.header.upper()), f"malformed: {error}")
    except (IndexError, struct.error):
        cut = len(data) < size_bytes
        return _nothing("?", f"cut after {len(data)} bytes" if cut else f"too short: {len(data)} bytes")
    return _nothing("?", f"link type {link_type}, {size_bytes} bytes")


def _nothing(protocol: str, text: str, source: bytes = _EMPTY, destination: bytes = _EMPTY) -> Decoded:
    return Decoded(protocol, source, destination, -1, -1, 0, None, text)


def _ethernet(data: bytes, place: int, end: int, depth: int = 0) -> Decoded:
    kind = data[place + 12] << 8 | data[place + 13]
    if kind == ETHERTYPE_IPV4:
        return _ipv4(data, place + 14, end, depth)
    if kind == ETHERTYPE_IPV6:
        return _ipv6(data, place + 14, end, depth)
    return _typed(data, kind, place + 14, end, data[place + 6 : place + 12], data[place : place + 6], depth)


def _typed(
    data: bytes, kind: int, place: int, end: int, source: bytes, destination: bytes = _EMPTY, depth: int = 0
) -> Decoded:
    """Read what an EtherType announces."""
    for _ in range(_MOST_TAGS):
        if kind not in TAGS:
            break
        (kind,) = _U16.unpack_from(data, place + 2)
        place += 4
    if kind == ETHERTYPE_IPV4:
        return _ipv4(data, place, end, depth)
    if kind == ETHERTYPE_IPV6:
        return _ipv6(data, place, end, depth)
    source = source if len(source) == 6 else _EMPTY
    if kind == ETHERTYPE_ARP:
        packet = parse_arp(data, place, len(data))
        return _nothing("ARP", words.arp(packet), source, destination)
    if kind < _FIRST_ETHERTYPE:
        return _nothing("LLC", f"{max(end - place, 0)} bytes", source, destination)
    name = words.ETHERTYPES.get(kind, f"0x{kind:04x}")
    found = _nothing(name, f"{max(end - place, 0)} bytes", source, destination)
    carried = inside_link(kind, data, place)
    return found if carried is None else _inner(data, carried, end, depth, found, f"in {carried[2]}")


def _inner(data: bytes, carried: Carried, end: int, depth: int, outer: Decoded, said: str) -> Decoded:
    """Read the packet that another carries; that one, where it cannot be read."""
    kind, place, name = carried
    if depth >= _MOST_TUNNELS:
        return outer
    try:
        if kind == TRANSPARENT_ETHERNET:
            found = _ethernet(data, place, end, depth + 1)
        else:
            found = _typed(data, kind, place, end, _EMPTY, _EMPTY, depth + 1)
    except (WireError, IndexError, struct.error):
        return outer
    if not found.source:
        return outer
    return _with(found, said)._replace(tunnels=(*found.tunnels, name.partition(" ")[0]))


def _ip(data: bytes, place: int, end: int) -> Decoded:
    version = data[place] >> 4
    if version == 6:
        return _ipv6(data, place, end)
    return _ipv4(data, place, end)


def _ipv4(data: bytes, place: int, end: int, depth: int = 0) -> Decoded:
    said = ""
    try:
        header = parse_ipv4(data, place, end, verify=False)
        stop = place + header.total_bytes
    except WireError as error:
        if data[place] >> 4 != 4 or len(data) < place + 20:
            raise
        try:
            data, stop, said = readable_ipv4(data, place, end)
            header = parse_ipv4(data, place, end, verify=False)
        except WireError:
            return _nothing("IPv4", f"malformed: {error}", data[place + 12 : place + 16], data[place + 16 : place + 20])
        if error.field == "options":
            said = f"malformed: {error}"
    if header.more_fragments or header.fragment_offset_bytes:
        name = words.PROTOCOLS.get(header.protocol, str(header.protocol))
        first = header.fragment_offset_bytes
        last = first + stop - place - header.header_bytes
        text = f"fragment of {name}, id {header.identification}, bytes {first} to {last}"
        found = _nothing("IPv4", text, header.source, header.destination)
    else:
        start = place + header.header_bytes
        found = _transport(data, start, stop, header.protocol, header.source, header.destination, depth)
    return _with(found, said) if said else found


def _ipv6(data: bytes, place: int, end: int, depth: int = 0) -> Decoded:
    said = ""
    try:
        header = parse_ipv6(data, place, end)
        # No length: a super-frame of Linux is as long as it is.
        stop = place + header.total_bytes if header.payload_bytes else end
    except WireError as error:
        if data[place] >> 4 != 6 or len(data) < place + 40:
            raise
        try:
            data, stop, said = readable_ipv6(data, place, end)
            header = parse_ipv6(data, place, end)
        except WireError:
            return _nothing("IPv6", f"malformed: {error}", data[place + 8 : place + 24], data[place + 24 : place + 40])
    if header.fragment is not None:
        name = words.PROTOCOLS.get(header.fragment.next_header, str(header.fragment.next_header))
        first = header.fragment.offset_bytes
        last = first + header.total_bytes - header.header_bytes
        text = f"fragment of {name}, id {header.fragment.identification}, bytes {first} to {last}"
        found = _nothing("IPv6", text, header.source, header.destination)
    else:
        start = place + header.header_bytes
        found = _transport(data, start, stop, header.transport, header.source, header.destination, depth)
    return _with(found, said) if said else found


def _with(found: Decoded, said: str) -> Decoded:
    """Add what is to be said of the header before."""
    return found._replace(text=f"{found.text}, {said}" if found.text else said)


def _transport(
    data: bytes, place: int, end: int, protocol: int, source: bytes, destination: bytes, depth: int
) -> Decoded:
    name = words.PROTOCOLS.get(protocol) or f"IP {protocol}"
    try:
        if protocol == PROTOCOL_TCP:
            segment = parse_tcp(memoryview(data), place, end)
            payload_bytes = end - place - (data[place + 12] >> 4) * 4
            ports = segment[:2]
            return _new(Decoded, ("TCP", source, destination, *ports, payload_bytes, segment, "", ()))
        if protocol == PROTOCOL_UDP:
            return _udp(data, place, end, source, destination, depth)
        if protocol == PROTOCOL_ICMP:
            return _nothing("ICMP", words.icmp4(parse_icmp4(data, place, end, verify=False)), source, destination)
        if protocol == PROTOCOL_ICMP6:
            # ICMPv6 has the same layout (RFC 4443 §2.1), and its checksum is not looked at either.
            return _nothing("ICMPv6", words.icmp6(parse_icmp4(data, place, end, verify=False)), source, destination)
        if protocol == PROTOCOL_IGMP:
            return _nothing("IGMP", words.igmp(data[place:end]), source, destination)
    except WireError as error:
        text = f"malformed: {error}"
    except (IndexError, struct.error):
        kept = max(len(data) - place, 0)
        text = f"cut after {kept} bytes" if len(data) < end else f"malformed: it has {kept} bytes"
    else:
        found = _nothing(name, f"{end - place} bytes", source, destination)
        carried = inside_ip(protocol, data, place)
        if carried is None:
            return found
        return _inner(data, carried, end, depth, found, _between(carried[2], source, destination))
    found = _nothing(name, text, source, destination)
    if protocol not in _WITH_PORTS or len(data) < place + 4 or end < place + 4:
        return found
    ports = (_U16.unpack_from(data, place)[0], _U16.unpack_from(data, place + 2)[0])
    found = found._replace(source_port=ports[0], destination_port=ports[1])
    readable = readable_tcp(data, place, end) if protocol == PROTOCOL_TCP else None
    if readable is not None:
        found = found._replace(segment=readable, payload_bytes=end - place - (data[place + 12] >> 4) * 4)
    return found


def _between(name: str, source: bytes, destination: bytes) -> str:
    return f"in {name} {format_ip(source)} > {format_ip(destination)}"


def _udp(data: bytes, place: int, end: int, source: bytes, destination: bytes, depth: int) -> Decoded:
    header = parse_udp(data, place, end)
    ports = (header.source_port, header.destination_port)
    payload_bytes = header.length_bytes - 8
    protocol, text = "UDP", "1 byte" if payload_bytes == 1 else f"{payload_bytes} bytes"
    if (ports[0] in _DNS_PORTS or ports[1] in _DNS_PORTS) and payload_bytes:
        said = words.dns(data, place + 8, min(place + header.length_bytes, len(data)))
        if said is not None:
            protocol, text = "mDNS" if 5353 in ports else "DNS", said
    found: Decoded = _new(Decoded, (protocol, source, destination, *ports, payload_bytes, None, text, ()))
    carried = inside_vxlan(data, place + 8) if ports[1] == VXLAN_PORT else None
    if carried is None:
        return found
    stop = place + header.length_bytes
    return _inner(data, carried, stop, depth, found, _between(carried[2], source, destination))

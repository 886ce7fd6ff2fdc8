"""Where the packet begins that another packet carries: tunnels of IP, and what stands between a link and IP.

This file knows the headers of GRE, VXLAN, MPLS and PPPoE as far as it takes to pass them over. What cannot be passed
over, as a header that is cut or of another version, gives None, and the packet is what it is outside. It refuses to
know what is inside.
"""

from __future__ import annotations

from typing import Final

from ...wire import ETHERTYPE_IPV4, ETHERTYPE_IPV6

__all__ = ["TRANSPARENT_ETHERNET", "VXLAN_PORT", "Carried", "inside_ip", "inside_link", "inside_vxlan"]

TRANSPARENT_ETHERNET: Final = 0x6558
"""The EtherType of a whole Ethernet frame (RFC 7637 §3.2)."""

Carried = tuple[int, int, str]
"""The EtherType of what is carried, where it begins, and what carries it."""

_IP_IN_IP: Final = 4  # RFC 2003
_IPV6_IN_IP: Final = 41  # RFC 4213
_GRE: Final = 47
_FIRST_ETHERTYPE: Final = 0x600  # below, it is none
VXLAN_PORT: Final = 4789
"""RFC 7348 §4.1."""
_MPLS: Final = frozenset((0x8847, 0x8848))
_MOST_LABELS: Final = 8
_PPPOE_SESSION: Final = 0x8864  # RFC 2516
_PPP: Final = {0x0021: ETHERTYPE_IPV4, 0x0057: ETHERTYPE_IPV6}  # IANA "ppp-numbers"


def _number(data: bytes, place: int, size: int) -> int:
    return int.from_bytes(data[place : place + size], "big") if place + size <= len(data) else -1


def inside_ip(protocol: int, data: bytes, place: int) -> Carried | None:
    """Look behind an IP header."""
    if protocol == _IP_IN_IP:
        return ETHERTYPE_IPV4, place, "IP-in-IP"
    if protocol == _IPV6_IN_IP:
        return ETHERTYPE_IPV6, place, "IPv6-in-IP"
    if protocol != _GRE or len(data) < place + 4:
        return None
    # RFC 2784, RFC 2890: a checksum, a key and a sequence number may follow, 4 bytes each. With bit 1 there is a route
    # of RFC 1701; version 1 is PPTP's.
    flags = data[place]
    if flags & 0x40 or data[place + 1] & 0x07:
        return None
    kind = data[place + 2] << 8 | data[place + 3]
    return (kind, place + 4 + 4 * (flags & 0xB0).bit_count(), "GRE") if kind >= _FIRST_ETHERTYPE else None


def inside_vxlan(data: bytes, place: int) -> Carried | None:
    """Look behind the header of UDP to `VXLAN_PORT`."""
    if _number(data, place, 1) != 0x08:
        return None
    return TRANSPARENT_ETHERNET, place + 8, f"VXLAN {_number(data, place + 4, 3)}"


def inside_link(kind: int, data: bytes, place: int) -> Carried | None:
    """Look behind an EtherType."""
    if kind == _PPPOE_SESSION:
        inner = _PPP.get(_number(data, place + 6, 2))
        return None if inner is None else (inner, place + 8, f"PPPoE {_number(data, place + 2, 2)}")
    if kind not in _MPLS:
        return None
    labels = []
    for _ in range(_MOST_LABELS):
        entry = _number(data, place, 4)
        labels.append(entry >> 12)
        place += 4
        if entry & 0x100:  # RFC 3032 §2.1: the bottom of the stack; nobody says what follows, but that it is IP
            inner = {4: ETHERTYPE_IPV4, 6: ETHERTYPE_IPV6}.get(_number(data, place, 1) >> 4)
            return None if entry < 0 or inner is None else (inner, place, f"MPLS {'+'.join(map(str, labels))}")
    return None

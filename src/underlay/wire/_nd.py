"""Neighbor discovery for IPv6 (RFC 4861): five kinds of ICMPv6 message and their options.

This file knows the layouts, and what a message must hold to be one. It refuses to
know caches, timers, hop limits and prefixes in use; that a message's IP header
is right (hop limit 255, source and destination, §6.1 and §7.1) is its reader's
to check.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ._errors import WireError
from ._icmp4 import IcmpMessage
from ._icmp6 import build_icmp6

__all__ = [
    "ND_NEIGHBOR_ADVERTISEMENT",
    "ND_NEIGHBOR_SOLICITATION",
    "ND_REDIRECT",
    "ND_ROUTER_ADVERTISEMENT",
    "ND_ROUTER_SOLICITATION",
    "NdMessage",
    "NdOptions",
    "NeighborAdvertisement",
    "NeighborSolicitation",
    "PrefixInformation",
    "Redirect",
    "RouterAdvertisement",
    "RouterSolicitation",
    "build_nd",
    "parse_nd",
]

# RFC 4861 §4.1 to §4.5.
ND_ROUTER_SOLICITATION: Final = 133
ND_ROUTER_ADVERTISEMENT: Final = 134
ND_NEIGHBOR_SOLICITATION: Final = 135
ND_NEIGHBOR_ADVERTISEMENT: Final = 136
ND_REDIRECT: Final = 137

# RFC 4861 §4.6.
_SOURCE_MAC: Final = 1
_TARGET_MAC: Final = 2
_PREFIX_INFORMATION: Final = 3
_MTU: Final = 5

# What stands before the options, behind the 8 bytes that all messages share.
_FIXED_BYTES: Final = {
    ND_ROUTER_SOLICITATION: 0,
    ND_ROUTER_ADVERTISEMENT: 8,
    ND_NEIGHBOR_SOLICITATION: 16,
    ND_NEIGHBOR_ADVERTISEMENT: 16,
    ND_REDIRECT: 32,
}

_PREFIX: Final = struct.Struct("!BBBBIII16s")
_TIMERS: Final = struct.Struct("!II")


class PrefixInformation(NamedTuple):
    """A prefix that a router announces (RFC 4861 §4.6.2)."""

    prefix: bytes
    prefix_bits: int
    on_link: bool
    autonomous: bool
    """Hosts may make addresses from it (RFC 4862)."""
    valid_lifetime_s: int
    """0xFFFFFFFF is for ever."""
    preferred_lifetime_s: int


class NdOptions(NamedTuple):
    """The options of one message; unknown ones are passed over, and of two of one kind the last counts."""

    source_mac: bytes | None = None
    target_mac: bytes | None = None
    mtu_bytes: int | None = None
    prefixes: tuple[PrefixInformation, ...] = ()


_NONE: Final = NdOptions()


class RouterSolicitation(NamedTuple):
    """A host asks for routers (RFC 4861 §4.1)."""

    options: NdOptions = _NONE


class RouterAdvertisement(NamedTuple):
    """A router tells of itself (RFC 4861 §4.2); 0 in a field but the lifetime means that it says nothing of it."""

    hop_limit: int
    managed: bool
    """Addresses are to be had by DHCPv6."""
    other: bool
    """Other configuration is to be had by DHCPv6."""
    router_lifetime_s: int
    """How long it is a default router; 0: it is none."""
    reachable_time_ms: int
    retransmit_timer_ms: int
    options: NdOptions = _NONE


class NeighborSolicitation(NamedTuple):
    """Who has `target`? (RFC 4861 §4.3)."""

    target: bytes
    options: NdOptions = _NONE


class NeighborAdvertisement(NamedTuple):
    """`target` is there (RFC 4861 §4.4)."""

    target: bytes
    router: bool
    solicited: bool
    override: bool
    options: NdOptions = _NONE


class Redirect(NamedTuple):
    """`target` is a better first hop for `destination` (RFC 4861 §4.5)."""

    target: bytes
    destination: bytes
    options: NdOptions = _NONE


NdMessage = RouterSolicitation | RouterAdvertisement | NeighborSolicitation | NeighborAdvertisement | Redirect


def parse_nd(message: IcmpMessage) -> NdMessage:
    """Read an ICMPv6 message of type 133 to 137."""
    kind, code, rest, body = message
    if code:
        raise WireError("nd", "code", f"{code} is not 0", 1)
    if kind == ND_NEIGHBOR_SOLICITATION:
        return NeighborSolicitation(_target(body), _parse_options(body, 16))
    if kind == ND_NEIGHBOR_ADVERTISEMENT:
        return NeighborAdvertisement(
            _target(body), rest >> 31 != 0, rest >> 30 & 1 != 0, rest >> 29 & 1 != 0, _parse_options(body, 16)
        )
    if kind == ND_ROUTER_SOLICITATION:
        return RouterSolicitation(_parse_options(body, 0))
    if kind == ND_ROUTER_ADVERTISEMENT:
        if len(body) < 8:
            raise WireError("nd", "header", "the message ends within its timers")
        reachable_time_ms, retransmit_timer_ms = _TIMERS.unpack_from(body)
        return RouterAdvertisement(
            rest >> 24, rest >> 23 & 1 != 0, rest >> 22 & 1 != 0, rest & 0xFFFF,
            reachable_time_ms, retransmit_timer_ms, _parse_options(body, 8),
        )  # fmt: skip
    if kind == ND_REDIRECT:
        if len(body) < 32:
            raise WireError("nd", "header", "the message ends within its addresses")
        return Redirect(bytes(body[:16]), bytes(body[16:32]), _parse_options(body, 32))
    raise WireError("nd", "type", f"{kind} is not within 133 to 137", 0)


def _target(body: bytes | memoryview) -> bytes:
    target = bytes(body[:16])
    if len(target) < 16:
        raise WireError("nd", "header", "the message ends within its target address")
    if target[0] == 0xFF:  # RFC 4861 §7.1.1, §7.1.2
        raise WireError("nd", "target", "it is a multicast group", 8)
    return target


def _parse_options(body: bytes | memoryview, place: int) -> NdOptions:
    if place == len(body):
        return _NONE
    source_mac: bytes | None = None
    target_mac: bytes | None = None
    mtu_bytes: int | None = None
    prefixes: list[PrefixInformation] = []
    while place < len(body):
        if place + 8 > len(body):
            raise WireError("nd", "option", "the message ends within an option", 8 + place)
        kind, size = body[place], body[place + 1] * 8
        if size == 0:  # RFC 4861 §4.6: such a message is to be discarded
            raise WireError("nd", "option", f"option {kind} says it has no bytes", 9 + place)
        if place + size > len(body):
            raise WireError("nd", "option", f"option {kind} ends behind the message", 9 + place)
        if kind in (_SOURCE_MAC, _TARGET_MAC):
            if size != 8:  # RFC 2464 §6
                raise WireError("nd", "link_layer_address", f"{size} bytes are no Ethernet option", 9 + place)
            if kind == _SOURCE_MAC:
                source_mac = bytes(body[place + 2 : place + 8])
            else:
                target_mac = bytes(body[place + 2 : place + 8])
        elif kind == _MTU:
            if size != 8:
                raise WireError("nd", "mtu", f"it has {size} bytes, not 8", 9 + place)
            mtu_bytes = int.from_bytes(body[place + 4 : place + 8], "big")
        elif kind == _PREFIX_INFORMATION:
            if size != 32:
                raise WireError("nd", "prefix_information", f"it has {size} bytes, not 32", 9 + place)
            _, _, bits, flags, valid_s, preferred_s, _, prefix = _PREFIX.unpack_from(body, place)
            if bits > 128:
                raise WireError("nd", "prefix_length", f"{bits} bits, but an address has 128", 10 + place)
            prefixes.append(PrefixInformation(prefix, bits, flags & 0x80 != 0, flags & 0x40 != 0, valid_s, preferred_s))
        place += size
    return NdOptions(source_mac, target_mac, mtu_bytes, tuple(prefixes))


def build_nd(source: bytes, destination: bytes, message: NdMessage) -> bytes:
    """Build the whole ICMPv6 message, with its checksum; its packet needs hop limit 255.

    >>> us, group = bytes(15) + bytes([1]), bytes(15) + bytes([2])
    >>> build_nd(us, group, NeighborSolicitation(group, NdOptions(source_mac=b"ourmac")))[0]
    135
    """
    rest = 0
    try:
        if isinstance(message, NeighborSolicitation):
            kind, fixed = ND_NEIGHBOR_SOLICITATION, message.target
        elif isinstance(message, NeighborAdvertisement):
            kind, fixed = ND_NEIGHBOR_ADVERTISEMENT, message.target
            rest = message.router << 31 | message.solicited << 30 | message.override << 29
        elif isinstance(message, RouterSolicitation):
            kind, fixed = ND_ROUTER_SOLICITATION, b""
        elif isinstance(message, RouterAdvertisement):
            kind, fixed = ND_ROUTER_ADVERTISEMENT, _TIMERS.pack(message.reachable_time_ms, message.retransmit_timer_ms)
            if not (0 <= message.hop_limit <= 0xFF and 0 <= message.router_lifetime_s <= 0xFFFF):
                raise WireError("nd", "router_lifetime", "it or the hop limit does not fit")
            rest = message.hop_limit << 24 | message.managed << 23 | message.other << 22 | message.router_lifetime_s
        else:
            kind, fixed = ND_REDIRECT, message.target + message.destination
        body = fixed + _build_options(message.options)
    except struct.error as error:
        raise WireError("nd", "option", str(error)) from None
    if len(fixed) != _FIXED_BYTES[kind]:
        raise WireError("nd", "target", "an IPv6 address has 16 bytes")
    return build_icmp6(source, destination, kind, 0, rest, body)


def _build_options(options: NdOptions) -> bytes:
    pieces = []
    for kind, mac in ((_SOURCE_MAC, options.source_mac), (_TARGET_MAC, options.target_mac)):
        if mac is not None:
            if len(mac) != 6:
                raise WireError("nd", "link_layer_address", "a MAC address has 6 bytes")
            pieces.append(bytes((kind, 1)) + mac)
    if options.mtu_bytes is not None:
        pieces.append(struct.pack("!BBHI", _MTU, 1, 0, options.mtu_bytes))
    for prefix, bits, on_link, autonomous, valid_s, preferred_s in options.prefixes:
        if len(prefix) != 16:
            raise WireError("nd", "prefix_information", "an IPv6 prefix has 16 bytes")
        flags = on_link << 7 | autonomous << 6
        pieces.append(_PREFIX.pack(_PREFIX_INFORMATION, 4, bits, flags, valid_s, preferred_s, 0, prefix))
    return b"".join(pieces)

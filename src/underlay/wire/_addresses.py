"""Addresses as bytes and as text, and the link addresses that multicast groups have.

This file knows that 4 bytes are an IPv4 address, 16 an IPv6 address and 6 a MAC
address, and how people write them. It refuses to know names, prefixes, scopes
and who owns an address.
"""

from __future__ import annotations

import ipaddress
import string
from typing import Final

__all__ = [
    "BROADCAST_MAC",
    "format_ip",
    "format_mac",
    "multicast_mac",
    "parse_ip",
    "parse_mac",
    "solicited_node",
]

# IEEE 802.3: all ones is every station on the link.
BROADCAST_MAC: Final = b"\xff\xff\xff\xff\xff\xff"

_V4_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291 §2.5.5.2
_SOLICITED_NODE: Final = bytes.fromhex("ff0200000000000000000001ff")  # RFC 4291 §2.7.1
_HEX: Final = frozenset(string.hexdigits)


def format_ip(address: bytes) -> str:
    """Write an address of 4 or 16 bytes as people do (IPv6 after RFC 5952).

    >>> format_ip(bytes([10, 9, 0, 2])), format_ip(bytes(15) + bytes([1]))
    ('10.9.0.2', '::1')
    """
    if len(address) == 4:
        return ".".join(map(str, address))
    if len(address) != 16:
        raise ValueError(f"an IP address has 4 or 16 bytes, not {len(address)}")
    if address[:12] == _V4_MAPPED:  # RFC 5952 §5; CPython does so from 3.13 on
        return "::ffff:" + ".".join(map(str, address[12:]))
    return str(ipaddress.IPv6Address(bytes(address)))


def parse_ip(text: str) -> bytes:
    """Read an IPv4 or IPv6 address; ``ValueError`` says what is wrong with another text.

    A zone (``fe80::1%eth0``) is refused: a link is no part of an address's bytes.

    >>> parse_ip("10.9.0.2").hex(), parse_ip("fd00::2").hex()
    ('0a090002', 'fd000000000000000000000000000002')
    """
    if "%" in text:
        raise ValueError(f"{text!r} has a zone, which is no part of an address")
    return ipaddress.ip_address(text).packed


def format_mac(address: bytes) -> str:
    """Write a MAC address of 6 bytes as six pairs with colons.

    >>> format_mac(BROADCAST_MAC)
    'ff:ff:ff:ff:ff:ff'
    """
    if len(address) != 6:
        raise ValueError(f"a MAC address has 6 bytes, not {len(address)}")
    return bytes(address).hex(":")


def parse_mac(text: str) -> bytes:
    """Read a MAC address written as six pairs of hexadecimal digits with colons or dashes.

    >>> parse_mac("02:00:5e:10:00:01").hex()
    '02005e100001'
    """
    pairs = text.replace("-", ":").split(":")
    if len(pairs) != 6 or any(len(pair) != 2 or not _HEX.issuperset(pair) for pair in pairs):
        raise ValueError(f"{text!r} is no MAC address; write it like 02:00:5e:10:00:01")
    return bytes.fromhex("".join(pairs))


def multicast_mac(group: bytes) -> bytes:
    """Map a multicast group to its Ethernet address (RFC 1112 §6.4, RFC 2464 §7).

    >>> format_mac(multicast_mac(parse_ip("224.0.0.251"))), format_mac(multicast_mac(parse_ip("ff02::1:3")))
    ('01:00:5e:00:00:fb', '33:33:00:01:00:03')
    """
    if len(group) == 4:  # the lower 23 bits: 32 groups share one address
        return b"\x01\x00\x5e" + bytes([group[1] & 0x7F]) + group[2:]
    return b"\x33\x33" + group[12:]


def solicited_node(address: bytes) -> bytes:
    """Give the group in which the owner of an IPv6 address listens for neighbor solicitations (RFC 4291 §2.7.1).

    >>> format_ip(solicited_node(parse_ip("fd00::12:3456")))
    'ff02::1:ff12:3456'
    """
    return _SOLICITED_NODE + address[13:]

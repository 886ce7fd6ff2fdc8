"""ARP packets for IPv4 over Ethernet (RFC 826).

This file knows the one layout that is in use: MAC addresses of 6 bytes, IPv4
addresses of 4. It refuses to know caches, probes and who answers.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ._errors import WireError, refuse_short

__all__ = ["ARP_REPLY", "ARP_REQUEST", "ArpPacket", "build_arp", "parse_arp"]

# RFC 826 "ares_op$REQUEST", "ares_op$REPLY".
ARP_REQUEST: Final = 1
ARP_REPLY: Final = 2

_PACKET: Final = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET: Final = 1  # RFC 826: the hardware type of Ethernet
_IPV4: Final = 0x0800


class ArpPacket(NamedTuple):
    """One ARP packet; ``operation`` may be another than request or reply, and is then nobody's business."""

    operation: int
    sender_mac: bytes
    sender_ip: bytes
    target_mac: bytes
    target_ip: bytes


def parse_arp(data: bytes | memoryview, start: int = 0, end: int | None = None) -> ArpPacket:
    """Read an ARP packet; what follows its 28 bytes is padding."""
    if end is None:
        end = len(data)
    if end - start < 28:
        refuse_short("arp", end - start, 28)
    hardware, protocol, hardware_bytes, protocol_bytes, operation, smac, sip, tmac, tip = _PACKET.unpack_from(
        data, start
    )
    if hardware != _ETHERNET:
        raise WireError("arp", "hardware_type", f"{hardware} is not Ethernet's")
    if protocol != _IPV4:
        raise WireError("arp", "protocol_type", f"0x{protocol:04x} is not IPv4's")
    if hardware_bytes != 6:
        raise WireError("arp", "hardware_length", f"an Ethernet address has 6 bytes, not {hardware_bytes}")
    if protocol_bytes != 4:
        raise WireError("arp", "protocol_length", f"an IPv4 address has 4 bytes, not {protocol_bytes}")
    return ArpPacket(operation, smac, sip, tmac, tip)


def build_arp(operation: int, sender_mac: bytes, sender_ip: bytes, target_mac: bytes, target_ip: bytes) -> bytes:
    """Build the 28 bytes of an ARP packet.

    >>> parse_arp(build_arp(ARP_REQUEST, b"sender", b"from", bytes(6), b"whom")).target_ip
    b'whom'
    """
    if len(sender_mac) != 6 or len(target_mac) != 6:
        raise WireError("arp", "hardware_length", "a MAC address has 6 bytes")
    if len(sender_ip) != 4 or len(target_ip) != 4:
        raise WireError("arp", "protocol_length", "an IPv4 address has 4 bytes")
    try:
        return _PACKET.pack(_ETHERNET, _IPV4, 6, 4, operation, sender_mac, sender_ip, target_mac, target_ip)
    except struct.error as error:
        raise WireError("arp", "operation", str(error)) from None

"""IGMPv2 messages: who listens to which IPv4 multicast group (RFC 2236).

This file knows the 8 bytes of a message. It refuses to know timers and
memberships, and IGMPv3: of a longer message only these 8 bytes are read
(RFC 2236 §2.5), and its packet's router alert option is the IP header's matter.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ._checksum import words_sum
from ._errors import WireError, refuse_short

__all__ = [
    "IGMP_LEAVE",
    "IGMP_QUERY",
    "IGMP_V1_REPORT",
    "IGMP_V2_REPORT",
    "IPV4_ROUTER_ALERT",
    "IgmpMessage",
    "build_igmp",
    "parse_igmp",
]

# RFC 2236 §2.1.
IGMP_QUERY: Final = 0x11
IGMP_V1_REPORT: Final = 0x12
IGMP_V2_REPORT: Final = 0x16
IGMP_LEAVE: Final = 0x17

# RFC 2113 §2.1: the IPv4 option that each IGMPv2 packet carries (RFC 2236 §2).
IPV4_ROUTER_ALERT: Final = bytes.fromhex("94040000")

_HEADER: Final = struct.Struct("!BBH4s")


class IgmpMessage(NamedTuple):
    """One message; a query for all groups has the group 0.0.0.0."""

    type: int
    max_response_ds: int
    """In tenths of a second, in a query: within which time members are to answer; 0 in one of IGMPv1."""
    group: bytes


def parse_igmp(data: bytes | memoryview, start: int = 0, end: int | None = None, *, verify: bool = True) -> IgmpMessage:
    """Read the message in ``data[start:end]``; its checksum covers all of it."""
    if end is None:
        end = len(data)
    if end - start < 8:
        refuse_short("igmp", end - start, 8)
    kind, max_response_ds, _, group = _HEADER.unpack_from(data, start)
    if verify:
        total = words_sum(data[start:end])
        if total % 0xFFFF or not total:  # nothing but zeros sums to +0, which is wrong too
            raise WireError("igmp", "checksum", "the message's sum is wrong")
    return IgmpMessage(kind, max_response_ds, group)


def build_igmp(type: int, group: bytes, max_response_ds: int = 0) -> bytes:
    """Build the 8 bytes of a message.

    >>> build_igmp(IGMP_V2_REPORT, bytes([224, 0, 0, 251])).hex()
    '16000904e00000fb'
    """
    if len(group) != 4:
        raise WireError("igmp", "group", "an IPv4 address has 4 bytes")
    total = (type << 8) + max_response_ds + int.from_bytes(group, "big")
    try:
        return _HEADER.pack(type, max_response_ds, 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0)), group)
    except struct.error as error:
        raise WireError("igmp", "type", f"type {type} or time {max_response_ds} does not fit: {error}") from None

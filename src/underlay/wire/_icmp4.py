"""ICMP for IPv4 (RFC 792), and the message type that both ICMPs share.

This file knows the four fields and the checksum. It refuses to know who sends
which message when, and what an error does to a connection.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ._checksum import checksum, words_sum
from ._errors import WireError, refuse_short

__all__ = [
    "ICMP4_DESTINATION_UNREACHABLE",
    "ICMP4_ECHO_REPLY",
    "ICMP4_ECHO_REQUEST",
    "ICMP4_PARAMETER_PROBLEM",
    "ICMP4_REDIRECT",
    "ICMP4_SOURCE_QUENCH",
    "ICMP4_TIME_EXCEEDED",
    "IcmpMessage",
    "build_icmp4",
    "parse_icmp4",
]

# RFC 792 "Summary of Message Types".
ICMP4_ECHO_REPLY: Final = 0
ICMP4_DESTINATION_UNREACHABLE: Final = 3
ICMP4_SOURCE_QUENCH: Final = 4
ICMP4_REDIRECT: Final = 5
ICMP4_ECHO_REQUEST: Final = 8
ICMP4_TIME_EXCEEDED: Final = 11
ICMP4_PARAMETER_PROBLEM: Final = 12

_HEADER: Final = struct.Struct("!BBHI")


class IcmpMessage(NamedTuple):
    """One message of ICMP or ICMPv6; which of them, its reader knows from the packet."""

    type: int
    code: int
    rest: int
    """The 4 bytes behind the checksum as one number; what they mean depends on the type."""
    body: bytes | memoryview
    """What follows these 8 bytes: echo data, or the beginning of the packet that an error is about."""

    @property
    def identifier(self) -> int:
        """An echo's identifier."""
        return self.rest >> 16

    @property
    def sequence(self) -> int:
        """An echo's sequence number."""
        return self.rest & 0xFFFF


def parse_icmp4(
    data: bytes | memoryview, start: int = 0, end: int | None = None, *, verify: bool = True
) -> IcmpMessage:
    """Read the message in ``data[start:end]``; with `verify` off its checksum is not looked at.

    >>> parse_icmp4(build_icmp4(ICMP4_ECHO_REQUEST, 0, 7 << 16 | 1, b"ping")).sequence
    1
    """
    if end is None:
        end = len(data)
    if end - start < 8:
        refuse_short("icmp4", end - start, 8)
    kind, code, _, rest = _HEADER.unpack_from(data, start)
    if verify:
        total = words_sum(data[start:end])
        if total % 0xFFFF or not total:  # nothing but zeros sums to +0, which is wrong too
            raise WireError("icmp4", "checksum", "the message's sum is wrong")
    return IcmpMessage(kind, code, rest, data[start + 8 : end])


def build_icmp4(type: int, code: int, rest: int = 0, body: bytes | memoryview = b"") -> bytes:
    """Build the whole message, with its checksum."""
    try:
        head = _HEADER.pack(type, code, 0, rest)
        total = checksum(body, int.from_bytes(head, "big"))
        return b"".join((_HEADER.pack(type, code, total, rest), body))
    except struct.error as error:
        raise WireError("icmp4", "type", f"type {type}, code {code} or rest {rest} does not fit: {error}") from None

"""ICMPv6 messages (RFC 4443): type, code, checksum with a pseudo header, and the rest.

This file knows the layout that all messages share. It refuses to know neighbor
discovery, which stands in `_nd.py`, and who sends which message when.
"""

from __future__ import annotations

import struct
from typing import Final

from ._checksum import checksum, pseudo_header_sum, words_sum
from ._errors import WireError, refuse_short
from ._icmp4 import IcmpMessage
from ._ipv6 import PROTOCOL_ICMP6

__all__ = [
    "ICMP6_DESTINATION_UNREACHABLE",
    "ICMP6_ECHO_REPLY",
    "ICMP6_ECHO_REQUEST",
    "ICMP6_MLD_DONE",
    "ICMP6_MLD_QUERY",
    "ICMP6_MLD_REPORT",
    "ICMP6_PACKET_TOO_BIG",
    "ICMP6_PARAMETER_PROBLEM",
    "ICMP6_TIME_EXCEEDED",
    "build_icmp6",
    "parse_icmp6",
]

# RFC 4443 §2.1; types below 128 are errors. RFC 2710 §3.1.
ICMP6_DESTINATION_UNREACHABLE: Final = 1
ICMP6_PACKET_TOO_BIG: Final = 2
ICMP6_TIME_EXCEEDED: Final = 3
ICMP6_PARAMETER_PROBLEM: Final = 4
ICMP6_ECHO_REQUEST: Final = 128
ICMP6_ECHO_REPLY: Final = 129
ICMP6_MLD_QUERY: Final = 130
ICMP6_MLD_REPORT: Final = 131
ICMP6_MLD_DONE: Final = 132

_HEADER: Final = struct.Struct("!BBHI")


def parse_icmp6(
    data: bytes | memoryview, start: int = 0, end: int | None = None, *, pseudo: int | None = None
) -> IcmpMessage:
    """Read the message in ``data[start:end]``.

    `pseudo` is the ``pseudo_header_sum`` for ``end - start`` bytes; None leaves the checksum unverified. Even the
    shortest message in use has 8 bytes.
    """
    if end is None:
        end = len(data)
    if end - start < 8:
        refuse_short("icmp6", end - start, 8)
    kind, code, _, rest = _HEADER.unpack_from(data, start)
    if pseudo is not None and (words_sum(data[start:end]) + pseudo) % 0xFFFF:
        raise WireError("icmp6", "checksum", "the message's sum is wrong")
    return IcmpMessage(kind, code, rest, data[start + 8 : end])


def build_icmp6(
    source: bytes, destination: bytes, type: int, code: int, rest: int = 0, body: bytes | memoryview = b""
) -> bytes:
    """Build the whole message, with its checksum.

    >>> ping = build_icmp6(bytes(16), bytes(16), ICMP6_ECHO_REQUEST, 0, 7 << 16 | 1, b"ping")
    >>> parse_icmp6(ping, pseudo=pseudo_header_sum(bytes(16), bytes(16), PROTOCOL_ICMP6, len(ping))).identifier
    7
    """
    try:
        head = _HEADER.pack(type, code, 0, rest)
    except struct.error as error:
        raise WireError("icmp6", "type", f"type {type}, code {code} or rest {rest} does not fit: {error}") from None
    total = pseudo_header_sum(source, destination, PROTOCOL_ICMP6, 8 + len(body)) + int.from_bytes(head, "big")
    return b"".join((_HEADER.pack(type, code, checksum(body, total), rest), body))

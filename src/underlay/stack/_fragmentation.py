"""Cutting a packet into fragments that a path carries (RFC 791 section 3.2, RFC 8200 section 4.5).

This file knows how a packet's payload is divided and what each piece's header
says. It refuses to know whether it should be divided, and where it goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..wire import IPV6_FRAGMENT, build_ipv4, build_ipv6, build_ipv6_fragment_header

HEADER4_BYTES: Final = 20  # RFC 791 section 3.1, without options
HEADER6_BYTES: Final = 40  # RFC 8200 section 3
FRAGMENT_HEADER_BYTES: Final = 8  # RFC 8200 section 4.5
_UNIT: Final = 8  # both count their offsets in units of 8 bytes


def fragment4(
    source: bytes,
    destination: bytes,
    protocol: int,
    data: bytes | memoryview,
    mtu_bytes: int,
    *,
    identification: int,
    ttl: int,
    traffic_class: int = 0,
    first_offset_bytes: int = 0,
    more_follow: bool = False,
) -> Iterator[bytes]:
    """Yield the packets of at most ``mtu_bytes`` that carry ``data``, the first piece first.

    ``data`` may itself be a piece that lies ``first_offset_bytes`` into its packet and has followers: a router
    divides fragments too.
    """
    step = (mtu_bytes - HEADER4_BYTES) // _UNIT * _UNIT
    for offset in range(0, len(data), step):
        piece = data[offset : offset + step]
        header = build_ipv4(
            source,
            destination,
            protocol,
            len(piece),
            ttl=ttl,
            identification=identification,
            dont_fragment=False,
            more_fragments=more_follow or offset + step < len(data),
            fragment_offset_bytes=first_offset_bytes + offset,
            dscp=traffic_class >> 2,
            ecn=traffic_class & 3,
        )
        yield header + piece


def fragment6(
    source: bytes,
    destination: bytes,
    protocol: int,
    data: bytes | memoryview,
    mtu_bytes: int,
    *,
    identification: int,
    hop_limit: int,
    traffic_class: int = 0,
) -> Iterator[bytes]:
    """Yield the packets of at most ``mtu_bytes`` that carry ``data``, each with a fragment header."""
    step = (mtu_bytes - HEADER6_BYTES - FRAGMENT_HEADER_BYTES) // _UNIT * _UNIT
    for offset in range(0, len(data), step):
        piece = data[offset : offset + step]
        header = build_ipv6(
            source,
            destination,
            IPV6_FRAGMENT,
            FRAGMENT_HEADER_BYTES + len(piece),
            hop_limit=hop_limit,
            traffic_class=traffic_class,
        )
        fragment = build_ipv6_fragment_header(protocol, identification, offset, offset + step < len(data))
        yield header + fragment + piece

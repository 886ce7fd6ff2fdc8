"""Source routes of IPv4, as far as TCP must know them (RFC 9293 §3.9.2.1, RFC 791 §3.1, RFC 1122 §3.2.1.8).

This file knows the options Loose and Strict Source Route: how to ask for one,
and how to turn round one that a segment came by. It refuses to know routing, and
every other option, which TCP passes over (MUST-50).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["MAX_HOPS", "Route", "return_hops", "route_to"]

_END: Final = 0
_NOP: Final = 1
_LOOSE: Final = 131
_STRICT: Final = 137
# RFC 791 §3.1: options have 40 bytes at most, of which 3 and one for padding are not addresses.
MAX_HOPS: Final = 9


class Route(NamedTuple):
    """Where IP is to send packets first, and the options that tell the rest of the way."""

    next_hop: bytes
    options: bytes


def route_to(destination: bytes, hops: Sequence[bytes]) -> Route:
    """Give the way to `destination` through `hops`; without any it is the destination itself.

    >>> route_to(bytes([10, 0, 0, 9]), [bytes([10, 0, 0, 1])]).options.hex(" ")
    '83 07 04 0a 00 00 09 00'
    """
    if not hops:
        return Route(destination, b"")
    addresses = b"".join((*hops[1:], destination))
    # RFC 791: the pointer counts from 1 and names the first address that is not used up.
    return Route(hops[0], bytes((_LOOSE, 3 + len(addresses), 4)) + addresses + b"\0")


def return_hops(options: bytes | memoryview) -> tuple[bytes, ...]:
    """Give the hops back to the sender of a packet with these IP options; none if it came by no source route.

    A route counts only if it is completed: the pointer is behind the last address (MUST-53).

    >>> return_hops(bytes([131, 11, 12, 10, 0, 0, 1, 10, 0, 0, 2, 0]))
    (b'\\n\\x00\\x00\\x02', b'\\n\\x00\\x00\\x01')
    """
    place = 0
    while place < len(options):
        kind = options[place]
        if kind == _END:
            break
        if kind == _NOP:
            place += 1
            continue
        if place + 1 >= len(options):
            break
        size = options[place + 1]
        if size < 2 or place + size > len(options):
            break
        if kind in (_LOOSE, _STRICT) and size >= 7 and size % 4 == 3 and options[place + 2] > size:
            addresses = bytes(options[place + 3 : place + size])
            return tuple(addresses[start : start + 4] for start in range(len(addresses) - 4, -1, -4))
        place += size
    return ()

"""Sequence numbers modulo 2³², and how this TCP never has to compare them.

This file knows the arithmetic of RFC 9293 §3.4. It refuses to know what a number
counts.

On the wire a sequence number has 32 bits and wraps. In here it does not: a
connection counts from its initial sequence number upwards without end, each
number from the wire is read as that unending number of the same low 32 bits
which is nearest to one already known, and what goes out is cut to 32 bits. So
``<`` is ``<``, and no comparison can be written wrongly.
"""

from __future__ import annotations

from typing import Final

__all__ = ["HALF", "MASK", "is_before", "signed", "unwrap"]

MASK: Final = 0xFFFF_FFFF
HALF: Final = 0x8000_0000


def unwrap(wire: int, near: int) -> int:
    """Give the number nearest to `near` whose low 32 bits are `wire`.

    >>> unwrap(0x10, 0xFFFF_FFF0) == 0x1_0000_0010
    True
    >>> hex(unwrap(0xFFFF_FFF0, 0x1_0000_0010))
    '0xfffffff0'
    """
    return near + ((wire - near + HALF) & MASK) - HALF


def signed(difference: int) -> int:
    """Read a difference of two 32-bit numbers as a signed one: negative is before.

    >>> signed(1 - 0xFFFF_FFFF), signed(0xFFFF_FFFF - 1)
    (2, -2)
    """
    return ((difference + HALF) & MASK) - HALF


def is_before(one: int, other: int) -> bool:
    """Tell whether the 32-bit number `one` comes before `other` (timestamps, RFC 7323 §5.2).

    >>> is_before(0xFFFF_FFFF, 0), is_before(0, 0xFFFF_FFFF), is_before(7, 7)
    (True, False, False)
    """
    return (one - other) & MASK >= HALF

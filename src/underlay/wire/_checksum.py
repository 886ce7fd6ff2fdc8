"""The Internet checksum: the one's complement of the one's complement sum of 16-bit words (RFC 1071).

This file knows only arithmetic. It refuses to know where a header keeps its
checksum, and what a zero in that field means.

The trick: 2¹⁶ ≡ 1 (mod 65535), so bytes read as one big integer, modulo 65535,
are the one's complement sum of their words. Sums of anything that stands at an
even offset can be added as plain integers of any size and folded once.
"""

from __future__ import annotations

from typing import Final

__all__ = ["checksum", "pseudo_header_sum"]

# Measured (CPython 3.11): dividing costs more per byte than adding, so from here on four parts are added and
# divided once. 1024 B: 1.8 µs in one piece, 1.5 in four; 64 KiB: 109 and 65.
_SPLIT_BYTES: Final = 1024


def words_sum(data: bytes | bytearray | memoryview) -> int:
    """Sum the words of `data`, not folded; an odd last byte counts as if a zero followed it (RFC 1071 §4.1).

    The result is congruent to the one's complement sum modulo 65535, and 0 only for zeros.
    """
    size = len(data)
    if size < _SPLIT_BYTES:
        total = int.from_bytes(data, "big")
        return total << 8 if size & 1 else total
    part = size >> 2 & ~1  # each part begins at an even offset
    last = int.from_bytes(data[3 * part :], "big")
    return (
        int.from_bytes(data[:part], "big")
        + int.from_bytes(data[part : 2 * part], "big")
        + int.from_bytes(data[2 * part : 3 * part], "big")
        + (last << 8 if size & 1 else last)
    )


def checksum(data: bytes | bytearray | memoryview, initial: int = 0) -> int:
    """Give the Internet checksum of `data`, 0 to 0xFFFF (RFC 1071).

    `initial` is added to the sum: a pseudo header's, or what was summed before at an even offset; it need not
    be folded. Over data that holds its own right checksum the result is 0.

    >>> hex(checksum(bytes.fromhex("0001f203f4f5f6f7")))       # RFC 1071 §3: the sum is ddf2
    '0x220d'
    >>> checksum(bytes.fromhex("0001f203f4f5f6f7220d"))
    0
    """
    total = words_sum(data) + initial
    # A one's complement sum of anything but zeros is never +0: the remainder 0 stands for 0xFFFF.
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def pseudo_header_sum(source: bytes, destination: bytes, protocol: int, length_bytes: int) -> int:
    """Sum the pseudo header that TCP, UDP and ICMPv6 checksums cover, not folded, for ``initial``.

    `length_bytes` counts the transport header and its payload. Both addresses have 4 bytes (RFC 9293 §3.1) or
    both 16 (RFC 8200 §8.1).

    >>> pseudo_header_sum(bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 6, 20) % 0xFFFF
    5149
    """
    return int.from_bytes(source, "big") + int.from_bytes(destination, "big") + protocol + length_bytes

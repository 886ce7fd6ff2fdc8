"""The bytes of a packet for a person's eyes: sixteen a row, as tcpdump's -X has them.

This file knows where a link header ends, and the layout of rows. It refuses to know what the bytes mean.
"""

from __future__ import annotations

from typing import Final

from ._link_types import ETHERNET, LINUX_SLL, LINUX_SLL2, NULL, SLL_BYTES, TAGS

__all__ = ["dump", "link_header_bytes"]

_ROW_BYTES: Final = 16
_HEADER_BYTES: Final = {LINUX_SLL: SLL_BYTES, LINUX_SLL2: 20, **dict.fromkeys(NULL, 4)}
_ETHERNET_BYTES: Final = 14
_TAG_BYTES: Final = 4

# isgraph(3) in the C locale; a space is a dot as well, so that a row's end is seen.
_SHOWN: Final = "".join(chr(code) if 0x21 <= code <= 0x7E else "." for code in range(256))


def link_header_bytes(link_type: int, data: bytes) -> int:
    """How many bytes come before the network's own header; 0 for a link type whose header is not known.

    >>> link_header_bytes(1, bytes(12) + bytes.fromhex("8100 0007 0800"))
    18
    """
    if link_type != ETHERNET:
        return _HEADER_BYTES.get(link_type, 0)
    place = _ETHERNET_BYTES
    while int.from_bytes(data[place - 2 : place], "big") in TAGS:
        place += _TAG_BYTES
    return place


def dump(data: bytes) -> list[str]:
    """Write the rows: an offset, pairs of bytes in hexadecimal, and the letters of ASCII among them.

    >>> dump(b"GET / HTTP/1.1\\r\\n\\r")[1]
    '\\t0x0010:  0d                                       .'
    """
    rows = []
    for start in range(0, len(data), _ROW_BYTES):
        part = data[start : start + _ROW_BYTES]
        # bytes.hex() counts its groups from the end, unless told by a negative number.
        rows.append(f"\t0x{start:04x}:  {part.hex(' ', -2):<39}  {part.decode('latin-1').translate(_SHOWN)}")
    return rows

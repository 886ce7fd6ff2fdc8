"""The blocks of pcapng (draft-ietf-opsawg-pcapng), as bytes: their types, their options, their layout.

This file knows numbers and padding. It refuses to know files, frames and what is worth writing.
"""

from __future__ import annotations

import struct
from typing import Final

# Section 4 of the draft: the blocks' types. The obsolete packet block (appendix A) is only read.
SECTION: Final = 0x0A0D_0D0A
INTERFACE: Final = 1
OBSOLETE_PACKET: Final = 2
SIMPLE_PACKET: Final = 3
STATISTICS: Final = 5
PACKET: Final = 6
BYTE_ORDER: Final = 0x1A2B_3C4D
# Link types, from the registry of the draft and of pcap: www.tcpdump.org/linktypes.html
ETHERNET: Final = 1
RAW_IP: Final = 101
# Options; 1 is a comment in every block.
COMMENT: Final = 1
SHB_APPLICATION: Final = 4
IF_NAME: Final = 2
IF_TSRESOL: Final = 9
IF_FILTER: Final = 11
IF_TSOFFSET: Final = 14
EPB_FLAGS: Final = 2
ISB_START: Final = 2
ISB_END: Final = 3
ISB_RECEIVED: Final = 4
ISB_DROPPED: Final = 5

NANOSECONDS: Final = 9  # if_tsresol: ten to the minus nine
FLAGS: Final = {"in": 1, "out": 2}  # epb_flags, bits 0 and 1
DIRECTIONS: Final = {1: "in", 2: "out"}

BLOCK: Final = struct.Struct("<II")
PACKET_BODY: Final = struct.Struct("<IIIII")
OPTION: Final = struct.Struct("<HH")

SNAP_BYTES: Final = 262_144
"""How much of a packet is kept unless told otherwise: tcpdump's default (MAXIMUM_SNAPLEN), more than frames have."""
_COMMENT_BYTES: Final = 1000


def padded(data: bytes) -> bytes:
    """Fill up to a multiple of 4 bytes."""
    return data + bytes(-len(data) % 4)


def option(code: int, value: bytes) -> bytes:
    """Lay out one option; code 0 ends them."""
    return OPTION.pack(code, len(value)) + padded(value)


def block(kind: int, body: bytes) -> bytes:
    """Lay out one block; its length stands on both sides."""
    size = len(body) + 12
    return BLOCK.pack(kind, size) + body + struct.pack("<I", size)


def cut(text: str) -> bytes:
    """UTF-8 of a bounded length; what is cut within a letter loses the whole letter."""
    return text.encode(errors="replace")[:_COMMENT_BYTES].decode(errors="ignore").encode()


def section() -> bytes:
    """Lay out what a file begins with."""
    return block(
        SECTION, struct.pack("<IHHq", BYTE_ORDER, 1, 0, -1) + option(SHB_APPLICATION, b"underlay") + option(0, b"")
    )


def interface(name: str, link_type: int, snap_bytes: int, filter_text: str = "") -> bytes:
    """Lay out an interface whose times are nanoseconds."""
    body = struct.pack("<HHI", link_type, 0, snap_bytes)
    body += option(IF_NAME, cut(name)) + option(IF_TSRESOL, bytes([NANOSECONDS]))
    if filter_text:
        body += option(IF_FILTER, b"\0" + cut(filter_text))  # 0: as libpcap writes it
    return block(INTERFACE, body + option(0, b""))


def statistics(number: int, start_ns: int, end_ns: int, received: int, dropped: int) -> bytes:
    """Lay out what an interface counted."""
    body = struct.pack("<III", number, end_ns >> 32, end_ns & 0xFFFF_FFFF)
    body += option(ISB_START, struct.pack("<II", start_ns >> 32, start_ns & 0xFFFF_FFFF))
    body += option(ISB_END, struct.pack("<II", end_ns >> 32, end_ns & 0xFFFF_FFFF))
    body += option(ISB_RECEIVED, struct.pack("<Q", received)) + option(ISB_DROPPED, struct.pack("<Q", dropped))
    return block(STATISTICS, body + option(0, b""))

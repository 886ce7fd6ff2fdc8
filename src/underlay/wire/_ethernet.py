"""Ethernet II frames: addresses, type, one 802.1Q tag, padding and the frame check sequence.

This file knows IEEE 802.3 and 802.1Q as far as a host needs them. It refuses to
know what a payload is, who has which address, and 802.2 LLC: a frame whose type
field is an 802.3 length (below 0x600) parses, and its reader may pass it over.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from ._errors import WireError, refuse_short

__all__ = [
    "ETHERTYPE_ARP",
    "ETHERTYPE_IPV4",
    "ETHERTYPE_IPV6",
    "ETHERTYPE_VLAN",
    "EthernetHeader",
    "build_ethernet",
    "check_fcs",
    "ethernet_fcs",
    "parse_ethernet",
]

# IEEE 802 numbers (IANA "ethertypes").
ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_ARP: Final = 0x0806
ETHERTYPE_VLAN: Final = 0x8100
ETHERTYPE_IPV6: Final = 0x86DD

# IEEE 802.3: 64 bytes with the 4 of the check sequence.
_MIN_FRAME_BYTES: Final = 60

_HEADER: Final = struct.Struct("!6s6sH")
_TAGGED: Final = struct.Struct("!6s6sHHH")
_TAG: Final = struct.Struct("!HH")
_new = tuple.__new__


class EthernetHeader(NamedTuple):
    """The header of one frame; ``vlan`` is None without a tag."""

    destination: bytes
    source: bytes
    ethertype: int
    """The payload's type, behind the tag if there is one."""
    vlan: int | None
    """The tag control information: 3 bits of priority, 1 of drop eligibility, 12 of VLAN identifier."""
    header_bytes: int
    """14, or 18 with a tag: where the payload begins."""

    @property
    def vlan_id(self) -> int | None:
        """The VLAN identifier (VID); 0 means that the tag carries only a priority."""
        return None if self.vlan is None else self.vlan & 0xFFF

    @property
    def priority(self) -> int:
        """The priority code point (PCP), 0 to 7; 0 without a tag."""
        return 0 if self.vlan is None else self.vlan >> 13


def parse_ethernet(data: bytes | memoryview, start: int = 0, end: int | None = None) -> EthernetHeader:
    """Read the Ethernet header, and one 802.1Q tag behind it (a second tag is the payload's matter).

    >>> header = parse_ethernet(bytes.fromhex("ffffffffffff 020000000001 8100 6005 0806"))
    >>> hex(header.ethertype), header.vlan_id, header.priority, header.header_bytes
    ('0x806', 5, 3, 18)
    """
    if end is None:
        end = len(data)
    if end - start < 14:
        refuse_short("ethernet", end - start, 14)
    destination, source, ethertype = _HEADER.unpack_from(data, start)
    if ethertype != ETHERTYPE_VLAN:
        return _new(EthernetHeader, (destination, source, ethertype, None, 14))
    if end - start < 18:
        raise WireError("ethernet", "vlan", "the frame ends within its 802.1Q tag")
    vlan, ethertype = _TAG.unpack_from(data, start + 14)
    return _new(EthernetHeader, (destination, source, ethertype, vlan, 18))


def build_ethernet(
    destination: bytes,
    source: bytes,
    ethertype: int,
    payload: bytes | memoryview = b"",
    *,
    vlan: int | None = None,
    pad: bool = False,
    fcs: bool = False,
) -> bytes:
    """Build a frame: header, payload, zeros up to 60 bytes if `pad`, check sequence if `fcs`.

    `vlan` is the whole tag control information; a plain VLAN identifier is one with priority 0.
    """
    if len(destination) != 6 or len(source) != 6:
        raise WireError("ethernet", "address", "a MAC address has 6 bytes")
    try:
        if vlan is None:
            head = _HEADER.pack(destination, source, ethertype)
        else:
            head = _TAGGED.pack(destination, source, ETHERTYPE_VLAN, vlan, ethertype)
    except struct.error as error:
        raise WireError("ethernet", "ethertype" if vlan is None else "vlan", str(error)) from None
    if not (payload or pad or fcs):
        return head
    frame = b"".join((head, payload))
    if pad and len(frame) < _MIN_FRAME_BYTES:
        frame = frame.ljust(_MIN_FRAME_BYTES, b"\0")
    return frame + ethernet_fcs(frame) if fcs else frame


def ethernet_fcs(data: bytes | memoryview) -> bytes:
    """Give the 4 bytes of the frame check sequence, as they stand on the wire (IEEE 802.3 §3.2.9).

    It is the CRC-32 that zlib computes. Ethernet sends each byte's lowest bit first, so what is one number to
    zlib stands on the wire with its low byte first.

    >>> ethernet_fcs(b"123456789").hex()
    '2639f4cb'
    """
    return zlib.crc32(data).to_bytes(4, "little")


def check_fcs(data: bytes | memoryview) -> bool:
    """Tell whether the last 4 bytes of a frame are its right check sequence."""
    return len(data) >= 18 and zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")

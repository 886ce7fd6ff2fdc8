"""What a router may append to an ICMP error: extension objects (RFC 4884), and MPLS labels among them (RFC 4950).

This file knows how the objects are laid out. It refuses to know where in an error they begin: the length field of
RFC 4884 §4 tells that to who reads the error, and Linux to who reads the error queue (IP_RECVERR_RFC4884).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ._checksum import checksum, words_sum
from ._errors import WireError, refuse_short

__all__ = ["ICMP_EXTENSION_MPLS", "IcmpExtension", "MplsLabel", "build_icmp_extensions", "parse_icmp_extensions"]

ICMP_EXTENSION_MPLS: Final = 1  # RFC 4950 §3: class 1; type 1 is the stack of the packet that came in

_VERSION: Final = 2  # RFC 4884 §7
_OBJECT: Final = struct.Struct("!HBB")


class MplsLabel(NamedTuple):
    """One entry of a label stack, 4 bytes (RFC 3032 §2.1)."""

    label: int
    """20 bits."""
    traffic_class: int
    """3 bits; RFC 3032 calls them experimental, RFC 5462 gave them this name."""
    is_bottom: bool
    """Whether it is the innermost of its stack."""
    ttl: int
    """Hops that are left, 0 to 255."""


class IcmpExtension(NamedTuple):
    """One object: its class, its type within that class, and its bytes without the header of 4 (RFC 4884 §8)."""

    object_class: int
    object_type: int
    payload: bytes

    @property
    def labels(self) -> tuple[MplsLabel, ...]:
        """The label stack, outermost first; empty where this is none. An entry that was cut short is left out."""
        if (self.object_class, self.object_type) != (ICMP_EXTENSION_MPLS, 1):
            return ()
        whole = len(self.payload) & ~3
        return tuple(
            MplsLabel(word >> 12, word >> 9 & 7, bool(word & 0x100), word & 0xFF)
            for (word,) in struct.iter_unpack("!I", self.payload[:whole])
        )


def parse_icmp_extensions(
    data: bytes | memoryview, start: int = 0, end: int | None = None
) -> tuple[IcmpExtension, ...]:
    """Read the extension structure in ``data[start:end]``: its header, and every object behind it.

    A checksum of zero says that none was made (RFC 4884 §7). `WireError` where the structure is cut off, of another
    version, or damaged: its sum is wrong, or an object is longer than what is left.

    >>> parse_icmp_extensions(build_icmp_extensions([IcmpExtension(1, 1, bytes.fromhex("05dc1140"))]))[0].labels
    (MplsLabel(label=24001, traffic_class=0, is_bottom=True, ttl=64),)
    """
    structure = bytes(data[start:end])
    if len(structure) < 4:
        refuse_short("icmp_extension", len(structure), 4)
    if structure[0] >> 4 != _VERSION:
        raise WireError("icmp_extension", "version", f"{structure[0] >> 4}, but RFC 4884 is version {_VERSION}")
    if structure[2:4] != b"\0\0" and words_sum(structure) % 0xFFFF:
        raise WireError("icmp_extension", "checksum", "the structure's sum is wrong")
    objects = []
    place = 4
    while place < len(structure):
        if len(structure) - place < _OBJECT.size:
            raise WireError("icmp_extension", "object", "the structure ends within its header")
        size, object_class, object_type = _OBJECT.unpack_from(structure, place)
        if not _OBJECT.size <= size <= len(structure) - place:
            raise WireError("icmp_extension", "length", f"an object of {size} bytes, {len(structure) - place} are here")
        objects.append(IcmpExtension(object_class, object_type, structure[place + _OBJECT.size : place + size]))
        place += size
    return tuple(objects)


def build_icmp_extensions(objects: list[IcmpExtension]) -> bytes:
    """Build the structure with its checksum: a header of 4 bytes, then each object with one of 4 (RFC 4884 §7, §8).

    `WireError` for an object whose class, type or length has no room in its header.
    """
    try:
        body = b"".join(
            _OBJECT.pack(_OBJECT.size + len(each.payload), each.object_class, each.object_type) + each.payload
            for each in objects
        )
    except struct.error as error:
        raise WireError("icmp_extension", "object", f"its class, type or length does not fit: {error}") from None
    head = bytes((_VERSION << 4, 0))
    return head + checksum(head + b"\0\0" + body).to_bytes(2, "big") + body

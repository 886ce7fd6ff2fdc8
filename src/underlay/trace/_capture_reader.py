"""Reads capture files, packet by packet: pcapng in either byte order, with any clock, and the older pcap.

This file knows draft-ietf-opsawg-pcapng and draft-ietf-opsawg-pcap as far as a reader needs them. What comes from a
file is not believed: sizes are bounded, and a file that ends or lies in the middle is a `CaptureFormatError` after all
the packets before that place. It refuses to know what is inside a packet.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from . import _pcapng_blocks as blocks

__all__ = [
    "CaptureFormatError",
    "CaptureReader",
    "CapturedFrame",
    "CapturedLink",
    "ReadCounts",
    "ReadInterface",
    "ReadPacket",
    "read_pcapng",
]

# Both bounds are libpcap's: MAX_BLOCKSIZE of sf-pcapng.c, and MAXIMUM_SNAPLEN, which its pcap reader takes as the most.
_MOST_BLOCK_BYTES: Final = 16 << 20
_MOST_PACKET_BYTES: Final = 262_144
# A packet's interface has a number of 32 bits, but of 16 in the obsolete block: nothing has more.
_MOST_INTERFACES: Final = 1 << 16

_SECTION: Final = b"\n\r\r\n"  # blocks.SECTION, which is the same in both byte orders
_ORDERS: Final = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
# draft-ietf-opsawg-pcap §4: the first four bytes tell the byte order, and micro- from nanoseconds.
_PCAP: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_BILLION: Final = 1_000_000_000


class CaptureFormatError(ValueError):
    """A file that is no capture, or not whole; ``offset_bytes`` says where that showed."""

    def __init__(self, reason: str, offset_bytes: int) -> None:
        super().__init__(reason, offset_bytes)
        self.reason = reason
        self.offset_bytes = offset_bytes

    def __str__(self) -> str:
        return f"{self.reason} (at byte {self.offset_bytes})"


class ReadInterface(NamedTuple):
    """Where packets were captured; ``link_type`` is a number of www.tcpdump.org/linktypes.html."""

    name: str
    link_type: int
    snap_bytes: int


class ReadPacket(NamedTuple):
    """One packet of a file."""

    interface: ReadInterface
    time_ns: int
    """Since 1970; 0 in a simple packet block, which has no time."""
    data: bytes
    """As much of it as was kept."""
    size_bytes: int
    """How long it was on the wire, or as long as what was kept, where the file says less."""
    direction: str
    """``"in"``, ``"out"``, or empty where the file does not say."""
    comment: str


class _Clock(NamedTuple):
    ticks_per_s: int
    offset_s: int


class ReadCounts(NamedTuple):
    """What the file says that an interface counted; None where it does not."""

    received: int | None
    """Packets that passed the filter, those that were dropped included."""
    dropped: int | None
    """Of these, for want of room."""


class CaptureReader:
    """Iterates over the packets of an open file; `CaptureFormatError` where it is no capture or is not whole.

    ``interfaces`` and ``counts`` (`ReadCounts` by the interface's place there) are of the section that is being read,
    and complete after its last packet. The file is not closed.

    >>> from io import BytesIO
    >>> list(CaptureReader(BytesIO(bytes.fromhex("d4c3b2a1 0200 0400 00000000 00000000 00000400 01000000"))))
    []
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._place = 0
        self._order = "<"
        self.interfaces: list[ReadInterface] = []
        self.counts: dict[int, ReadCounts] = {}
        self._earlier_dropped: int | None = None  # in the sections before
        self._clocks: list[_Clock] = []
        self._magic = self._first()

    def __iter__(self) -> Iterator[ReadPacket]:
        if self._magic == _SECTION:
            return self._blocks()
        if self._magic in _PCAP:
            return self._records(*_PCAP[self._magic])
        raise CaptureFormatError("it is neither pcapng nor pcap", 0)

    @property
    def dropped_packets(self) -> int | None:
        """How many packets the file, as far as it was read, says were dropped; None where it does not say."""
        told = [counts.dropped for counts in self.counts.values() if counts.dropped is not None]
        if self._earlier_dropped is not None:
            told.append(self._earlier_dropped)
        return sum(told) if told else None

    def _first(self) -> bytes:
        start = self._take(1, "it is empty")
        return start + self._take(3, "it ends within its first four bytes, which say what it is")

    def _take(self, size: int, complaint: str = "it ends in the middle of a packet") -> bytes:
        data = self._file.read(size)
        while len(data) < size:  # a pipe gives what there is
            more = self._file.read(size - len(data))
            if not more:
                raise CaptureFormatError(complaint, self._place + len(data))
            data += more
        self._place += size
        return data

    # --- pcap ---

    def _records(self, order: str, ns_per_tick: int) -> Iterator[ReadPacket]:
        major, _, _, _, snap_bytes, link_type = struct.unpack(order + "HHiIII", self._take(20))
        if major != 2:
            raise CaptureFormatError(f"it is pcap of version {major}, and there is only 2", 4)
        # The upper bits tell of a frame check sequence (draft-ietf-opsawg-pcap §4.1).
        interface = ReadInterface("", link_type & 0xFFFF, snap_bytes)
        self.interfaces.append(interface)
        head = struct.Struct(order + "IIII")
        while start := self._file.read(1):
            self._place += 1
            seconds, fraction, kept, size_bytes = head.unpack(start + self._take(15))
            if kept > _MOST_PACKET_BYTES:
                raise CaptureFormatError(f"a packet says it has {kept} bytes", self._place - 8)
            data = self._take(kept)
            time_ns = seconds * _BILLION + fraction * ns_per_tick
            yield ReadPacket(interface, time_ns, data, max(size_bytes, kept), "", "")

    # --- pcapng ---

    def _blocks(self) -> Iterator[ReadPacket]:
        kind = self._magic
        while True:
            start = self._place - 4
            is_section = kind == _SECTION
            size_field = self._take(4)
            lead = b""
            if is_section:
                lead = self._take(4)
                if lead not in _ORDERS:
                    raise CaptureFormatError("a section has no byte order", start + 8)
                self._order = _ORDERS[lead]
                self._earlier_dropped = self.dropped_packets
                self.interfaces, self._clocks, self.counts = [], [], {}
            (size,) = struct.unpack(self._order + "I", size_field)
            if size < 12 + len(lead) or size % 4 or size > _MOST_BLOCK_BYTES:
                raise CaptureFormatError(f"a block says it has {size} bytes", start + 4)
            body = lead + self._take(size - 12 - len(lead))
            if self._take(4) != size_field:
                raise CaptureFormatError("a block's two lengths differ", self._place - 4)
            if not is_section:
                try:
                    packet = self._block(struct.unpack(self._order + "I", kind)[0], body)
                except (struct.error, IndexError):
                    raise CaptureFormatError("a block is too short for what it is", start) from None
                except _Wrong as error:
                    raise CaptureFormatError(str(error), start) from None
                if packet is not None:
                    yield packet
            first = self._file.read(1)
            if not first:
                return
            self._place += 1
            kind = first + self._take(3, "it ends in the middle of a block")

    def _block(self, kind: int, body: bytes) -> ReadPacket | None:
        order = self._order
        if kind == blocks.PACKET:
            number, high, low, kept, size_bytes = struct.unpack_from(order + "IIIII", body)
            return self._packet(number, high << 32 | low, kept, size_bytes, body)
        if kind == blocks.INTERFACE:
            self._interface(body)
        elif kind == blocks.STATISTICS:
            (number,) = struct.unpack_from(order + "I", body)
            told = self._options(body, 12)
            received, dropped = (
                struct.unpack(order + "Q", told[code][0])[0] if code in told else None
                for code in (blocks.ISB_RECEIVED, blocks.ISB_DROPPED)
            )
            if number < len(self.interfaces):
                self.counts[number] = ReadCounts(received, dropped)
        elif kind == blocks.SIMPLE_PACKET:
            (size_bytes,) = struct.unpack_from(order + "I", body)
            if not self.interfaces:
                raise _Wrong("a packet names an interface that there is not")
            snap_bytes = self.interfaces[0].snap_bytes or _MOST_PACKET_BYTES
            kept = min(size_bytes, snap_bytes, len(body) - 4)
            return ReadPacket(self.interfaces[0], 0, body[4 : 4 + kept], size_bytes, "", "")
        elif kind == blocks.OBSOLETE_PACKET:
            number, _, high, low, kept, size_bytes = struct.unpack_from(order + "HHIIII", body)
            return self._packet(number, high << 32 | low, kept, size_bytes, body)
        return None  # another block is passed over (draft §3.1)

    def _interface(self, body: bytes) -> None:
        if len(self.interfaces) >= _MOST_INTERFACES:
            raise _Wrong(f"it has more than {_MOST_INTERFACES} interfaces")
        link_type, _, snap_bytes = struct.unpack_from(self._order + "HHI", body)
        told = self._options(body, 8)
        resolution = told.get(blocks.IF_TSRESOL, [b"\x06"])[0][0]  # microseconds unless said
        ticks = 1 << (resolution & 0x7F) if resolution & 0x80 else 10**resolution
        offset_s = 0
        if blocks.IF_TSOFFSET in told:
            (offset_s,) = struct.unpack(self._order + "q", told[blocks.IF_TSOFFSET][0])
        name = told.get(blocks.IF_NAME, [b""])[0].rstrip(b"\0").decode(errors="replace")
        self.interfaces.append(ReadInterface(name, link_type, snap_bytes))
        self._clocks.append(_Clock(ticks, offset_s))

    def _packet(self, number: int, ticks: int, kept: int, size_bytes: int, body: bytes) -> ReadPacket:
        if number >= len(self.interfaces):
            raise _Wrong("a packet names an interface that there is not")
        start = blocks.PACKET_BODY.size  # the obsolete block has other fields, and as many bytes of them
        if start + kept > len(body):
            raise _Wrong(f"a packet says it has {kept} bytes, more than its block")
        told = self._options(body, start + kept + -kept % 4) if len(body) - start - kept > 3 else {}
        flags = 0
        if blocks.EPB_FLAGS in told:
            (flags,) = struct.unpack(self._order + "I", told[blocks.EPB_FLAGS][0])
        comment = "; ".join(each.rstrip(b"\0").decode(errors="replace") for each in told.get(blocks.COMMENT, ()))
        clock = self._clocks[number]
        time_ns = ticks * _BILLION // clock.ticks_per_s + clock.offset_s * _BILLION
        direction = blocks.DIRECTIONS.get(flags & 3, "")
        data = body[start : start + kept]
        return ReadPacket(self.interfaces[number], time_ns, data, max(size_bytes, kept), direction, comment)

    def _options(self, body: bytes, start: int) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        head = self._order + "HH"
        while start + 4 <= len(body):
            code, size = struct.unpack_from(head, body, start)
            if code == 0:
                break
            if start + 4 + size > len(body):
                raise _Wrong("an option is longer than its block")
            found.setdefault(code, []).append(body[start + 4 : start + 4 + size])
            start += 4 + size + -size % 4
        return found


class _Wrong(Exception):
    """What is wrong with a block whose place the caller knows."""


class CapturedLink(NamedTuple):
    """An interface of a file; ``seen`` and ``unwritten`` are None where the file tells nothing of them."""

    name: str
    is_ethernet: bool
    seen: int | None
    unwritten: int | None


class CapturedFrame(NamedTuple):
    """A frame of a file; ``data`` may be shorter than it was, ``size_bytes`` tells."""

    link: str
    direction: str
    data: bytes
    size_bytes: int
    time_ns: int
    comment: str


def read_pcapng(file: str | os.PathLike[str] | bytes) -> tuple[list[CapturedLink], list[CapturedFrame]]:
    """Read a whole capture file of one section at once, or its bytes; ``ValueError`` for one that is not whole."""
    if isinstance(file, bytes):
        return _all(io.BytesIO(file))
    with open(file, "rb") as opened:
        return _all(opened)


def _all(file: BinaryIO) -> tuple[list[CapturedLink], list[CapturedFrame]]:
    reader = CaptureReader(file)
    frames = [
        CapturedFrame(
            packet.interface.name, packet.direction, packet.data, packet.size_bytes, packet.time_ns, packet.comment
        )
        for packet in reader
    ]
    none = ReadCounts(None, None)
    links = [
        CapturedLink(each.name, each.link_type == blocks.ETHERNET, *reader.counts.get(number, none))
        for number, each in enumerate(reader.interfaces)
    ]
    return links, frames

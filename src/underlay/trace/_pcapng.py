"""Frames in a pcapng file: one interface for each link, nanoseconds, the direction, and what became of a frame.

This file knows the blocks of pcapng (draft-ietf-opsawg-pcapng) that it takes to write such a file and to read it
again. It listens to the probe ``link.frame``. It refuses to know any header inside a frame, but for one guess: whether
the first frame of a link begins with Ethernet or with IP, where nobody said so.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple, Self

from ..link import FRAME

__all__ = [
    "LIMIT_BYTES",
    "CaptureStatistics",
    "CapturedFrame",
    "CapturedLink",
    "PcapngWriter",
    "capture",
    "read_pcapng",
]

# Section 4 of the draft: the blocks' types.
_SECTION: Final = 0x0A0D_0D0A
_INTERFACE: Final = 1
_STATISTICS: Final = 5
_PACKET: Final = 6
_BYTE_ORDER: Final = 0x1A2B_3C4D
# Link types, from the registry of the draft and of pcap: www.tcpdump.org/linktypes.html
_ETHERNET: Final = 1
_RAW_IP: Final = 101
# Options; 1 is a comment in every block.
_COMMENT: Final = 1
_SHB_APPLICATION: Final = 4
_IF_NAME: Final = 2
_IF_TSRESOL: Final = 9
_EPB_FLAGS: Final = 2
_ISB_START: Final = 2
_ISB_END: Final = 3
_ISB_RECEIVED: Final = 4
_ISB_DROPPED: Final = 5

_NANOSECONDS: Final = 9  # if_tsresol: ten to the minus nine
_FLAGS: Final = {"in": 1, "out": 2}  # epb_flags, bits 0 and 1
_DIRECTIONS: Final = {1: "in", 2: "out"}

_BLOCK: Final = struct.Struct("<II")
_PACKET_BODY: Final = struct.Struct("<IIIII")
_OPTION: Final = struct.Struct("<HH")

# The default limit of a file: what Wireshark still opens in a few seconds.
LIMIT_BYTES: Final = 1 << 30
# The default of tcpdump (MAXIMUM_SNAPLEN): more than any frame has.
_SNAP_BYTES: Final = 262_144
# A link's names come from the caller, but a bug may make up ever new ones.
_MOST_LINKS: Final = 4096
_STATISTICS_BYTES: Final = 24 + 4 * 12 + 4  # one block with four options and their end
_COMMENT_BYTES: Final = 1000


@dataclass(frozen=True, slots=True)
class CaptureStatistics:
    """What a writer wrote, and the frames that it did not write, for want of room."""

    written_frames: int
    written_bytes: int
    unwritten_frames: int


class _Link:
    """An interface of the file."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seen = 0
        self.unwritten = 0
        self.last_ns = 0


class PcapngWriter:
    """Writes frames to a pcapng file as they come; ``record`` fits the probe ``link.frame``.

    A file that exists is overwritten. At most ``limit_bytes`` are written; the frames after that are counted, and the
    file stays whole. Of each frame at most ``snap_bytes`` are kept. ``links`` names the links that are wanted, all of
    them unless given. A frame with a virtual time stands at ``epoch_s`` plus that time (seconds since 1970); one
    without at ``clock()``, in nanoseconds since 1970. A disk that is full ends the writing, and `close` raises what it
    said. One thread at a time.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        limit_bytes: int = LIMIT_BYTES,
        snap_bytes: int = _SNAP_BYTES,
        links: Collection[str] | None = None,
        epoch_s: float = 0.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._owned = isinstance(file, (str, os.PathLike))
        self._file: BinaryIO
        if isinstance(file, (str, os.PathLike)):
            self._file = open(file, "wb")  # noqa: SIM115 - closed by close()
        else:
            self._file = file
        self._limit_bytes = limit_bytes
        self._snap_bytes = snap_bytes
        self._wanted = links
        self._epoch_ns = round(epoch_s * 1e9)
        self._clock = clock
        self._links: dict[str, _Link] = {}
        self._written_frames = self._written_bytes = self._unwritten_frames = 0
        self._reserved_bytes = 0
        self._begun_ns: int | None = None
        self._error: OSError | None = None
        self._closed = False
        section = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1) + _option(_SHB_APPLICATION, b"underlay") + _option(0, b"")
        self._write(_block(_SECTION, section))

    def add_link(self, name: str, *, is_ethernet: bool) -> None:
        """Say what the frames of a link begin with; without this the first of them is looked at.

        A link that is already in the file stays what it is.
        """
        if name not in self._links:
            self._add(name, _ETHERNET if is_ethernet else _RAW_IP)

    def record(self, link: str, direction: str, data: bytes, now: float | None, comment: str) -> None:
        """Write one frame; the parameters are those of the probe ``link.frame``."""
        if self._closed or (self._wanted is not None and link not in self._wanted):
            return
        interface = self._links.get(link)
        if interface is None:
            interface = self._add(link, _RAW_IP if _looks_like_ip(data) else _ETHERNET)
            if interface is None:
                self._unwritten_frames += 1
                return
        # Nothing in the file is before 1970: its times have no sign.
        time_ns = max(0, self._clock() if now is None else self._epoch_ns + round(now * 1e9))
        interface.seen += 1
        interface.last_ns = time_ns
        if self._begun_ns is None:
            self._begun_ns = time_ns
        kept = data[: self._snap_bytes]
        body = _PACKET_BODY.pack(interface.number, time_ns >> 32, time_ns & 0xFFFF_FFFF, len(kept), len(data))
        options = _option(_EPB_FLAGS, struct.pack("<I", _FLAGS.get(direction, 0)))
        if comment:
            options += _option(_COMMENT, _cut(comment))
        if self._write(_block(_PACKET, body + _padded(kept) + options + _option(0, b""))):
            self._written_frames += 1
        else:
            interface.unwritten += 1
            self._unwritten_frames += 1

    def statistics(self) -> CaptureStatistics:
        """What was written so far, and how many frames were not."""
        return CaptureStatistics(self._written_frames, self._written_bytes, self._unwritten_frames)

    def close(self) -> None:
        """Write how many frames each link had, and close the file. A second time does nothing.

        Raises the ``OSError`` that ended the writing early, if one did.
        """
        if self._closed:
            return
        self._closed = True
        self._reserved_bytes = 0  # what was kept free for these blocks
        for interface in self._links.values():
            end_ns = interface.last_ns
            start_ns = self._begun_ns or 0
            body = struct.pack("<III", interface.number, end_ns >> 32, end_ns & 0xFFFF_FFFF)
            body += _option(_ISB_START, struct.pack("<II", start_ns >> 32, start_ns & 0xFFFF_FFFF))
            body += _option(_ISB_END, struct.pack("<II", end_ns >> 32, end_ns & 0xFFFF_FFFF))
            body += _option(_ISB_RECEIVED, struct.pack("<Q", interface.seen))
            body += _option(_ISB_DROPPED, struct.pack("<Q", interface.unwritten)) + _option(0, b"")
            self._write(_block(_STATISTICS, body))
        try:
            if self._owned:
                self._file.close()
            else:
                self._file.flush()
        except OSError as error:
            self._error = self._error or error
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, name: str, link_type: int) -> _Link | None:
        if len(self._links) >= _MOST_LINKS:
            return None
        self._reserved_bytes += _STATISTICS_BYTES
        body = struct.pack("<HHI", link_type, 0, self._snap_bytes)
        body += _option(_IF_NAME, _cut(name)) + _option(_IF_TSRESOL, bytes([_NANOSECONDS])) + _option(0, b"")
        if not self._write(_block(_INTERFACE, body)):
            self._reserved_bytes -= _STATISTICS_BYTES
            return None
        link = self._links[name] = _Link(len(self._links))
        return link

    def _write(self, block: bytes) -> bool:
        """Write a block whole, or not at all."""
        if self._error is not None or self._written_bytes + len(block) > self._limit_bytes - self._reserved_bytes:
            return False
        try:
            self._file.write(block)
        except OSError as error:
            self._error = error
            return False
        self._written_bytes += len(block)
        return True


@contextmanager
def capture(
    file: str | os.PathLike[str] | BinaryIO,
    *,
    limit_bytes: int = LIMIT_BYTES,
    snap_bytes: int = _SNAP_BYTES,
    links: Collection[str] | None = None,
    epoch_s: float = 0.0,
) -> Iterator[PcapngWriter]:
    """Write the frames of every link to a file for the length of a ``with`` block; see `PcapngWriter`.

    >>> import io
    >>> from underlay.link import VirtualWire
    >>> from underlay.wire import Frame
    >>> wire, file = VirtualWire("w"), io.BytesIO()
    >>> with capture(file) as writer:
    ...     wire.send(0, Frame(bytes(60)), now=1.5)
    >>> writer.statistics().written_frames
    1
    """
    writer = PcapngWriter(file, limit_bytes=limit_bytes, snap_bytes=snap_bytes, links=links, epoch_s=epoch_s)
    with writer, FRAME.listening(writer.record):
        yield writer


# --- reading ------------------------------------------------------------------------------------------


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
    """Read a file that `PcapngWriter` wrote, or its bytes; ``ValueError`` for one that is not whole.

    Files of other programs are read as far as they are little-endian, in one section, with nanoseconds.
    """
    if isinstance(file, bytes):
        data = file
    else:
        with open(file, "rb") as opened:
            data = opened.read()
    links: list[CapturedLink] = []
    frames: list[CapturedFrame] = []
    start = 0
    try:
        while start < len(data):
            kind, size = _BLOCK.unpack_from(data, start)
            if size < 12 or size % 4 or struct.unpack_from("<I", data, start + size - 4)[0] != size:
                raise ValueError(f"the block at byte {start} has no proper length")
            _read_block(kind, data[start + 8 : start + size - 4], links, frames)
            start += size
    except (struct.error, IndexError) as error:
        raise ValueError(f"the block at byte {start} is cut off") from error
    return links, frames


def _read_block(kind: int, body: bytes, links: list[CapturedLink], frames: list[CapturedFrame]) -> None:
    if kind == _SECTION:
        if struct.unpack_from("<I", body)[0] != _BYTE_ORDER:
            raise ValueError("not little-endian")
    elif kind == _INTERFACE:
        options = _options(body, 8)
        if options.get(_IF_TSRESOL, b"\x06")[0] != _NANOSECONDS:
            raise ValueError("times are not in nanoseconds")
        is_ethernet = struct.unpack_from("<H", body)[0] == _ETHERNET
        links.append(CapturedLink(options.get(_IF_NAME, b"").decode(), is_ethernet, None, None))
    elif kind == _PACKET:
        number, high, low, kept, size_bytes = _PACKET_BODY.unpack_from(body)
        data = body[20 : 20 + kept]
        options = _options(body, 20 + len(_padded(data)))
        (flags,) = struct.unpack("<I", options.get(_EPB_FLAGS, bytes(4)))
        comment = options.get(_COMMENT, b"").decode()
        direction = _DIRECTIONS.get(flags & 3, "")
        frames.append(CapturedFrame(links[number].name, direction, data, size_bytes, high << 32 | low, comment))
    elif kind == _STATISTICS:
        (number,) = struct.unpack_from("<I", body)
        options = _options(body, 12)
        seen, unwritten = (int.from_bytes(options[which], "little") for which in (_ISB_RECEIVED, _ISB_DROPPED))
        links[number] = links[number]._replace(seen=seen, unwritten=unwritten)


def _options(body: bytes, start: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while start + 4 <= len(body):
        code, size = _OPTION.unpack_from(body, start)
        if code == 0:
            break
        found[code] = body[start + 4 : start + 4 + size]
        start += 4 + size + -size % 4
    return found


# --- layout -------------------------------------------------------------------------------------------


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + _padded(value)


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return _BLOCK.pack(kind, size) + body + struct.pack("<I", size)


def _cut(text: str) -> bytes:
    """UTF-8 of a bounded length; what is cut within a letter loses the whole letter."""
    return text.encode(errors="replace")[:_COMMENT_BYTES].decode(errors="ignore").encode()


def _looks_like_ip(data: bytes) -> bool:
    """Whether a frame begins with an IP header whose length is the frame's: no Ethernet address does, but by chance."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        return int.from_bytes(data[2:4], "big") == len(data)
    return len(data) >= 40 and data[0] >> 4 == 6 and int.from_bytes(data[4:6], "big") + 40 == len(data)

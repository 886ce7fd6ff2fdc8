"""Frames in a pcapng file: one interface for each link, nanoseconds, the direction, and what became of a frame.

This file knows which blocks of pcapng (draft-ietf-opsawg-pcapng) such a file has, and when they are written; how they
look, ``_pcapng_blocks.py`` knows. It listens to the probe ``link.frame``. It refuses to know any header inside a frame,
but for one guess: whether the first frame of a link begins with Ethernet or with IP, where nobody said so.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Final, Self

from ..link import FRAME
from . import _pcapng_blocks as blocks

__all__ = [
    "LIMIT_BYTES",
    "CaptureStatistics",
    "PcapngWriter",
    "capture",
]

# The default limit of a file: what Wireshark still opens in a few seconds.
LIMIT_BYTES: Final = 1 << 30
# A link's names come from the caller, but a bug may make up ever new ones.
_MOST_LINKS: Final = 4096
_STATISTICS_BYTES: Final = 24 + 4 * 12 + 4  # one block with four options and their end


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
        snap_bytes: int = blocks.SNAP_BYTES,
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
        self._write(blocks.section())

    def add_link(self, name: str, *, is_ethernet: bool) -> None:
        """Say what the frames of a link begin with; without this the first of them is looked at.

        A link that is already in the file stays what it is.
        """
        if name not in self._links:
            self._add(name, blocks.ETHERNET if is_ethernet else blocks.RAW_IP)

    def record(self, link: str, direction: str, data: bytes, now: float | None, comment: str) -> None:
        """Write one frame; the parameters are those of the probe ``link.frame``."""
        if self._closed or (self._wanted is not None and link not in self._wanted):
            return
        interface = self._links.get(link)
        if interface is None:
            interface = self._add(link, blocks.RAW_IP if _looks_like_ip(data) else blocks.ETHERNET)
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
        body = blocks.PACKET_BODY.pack(interface.number, time_ns >> 32, time_ns & 0xFFFF_FFFF, len(kept), len(data))
        options = blocks.option(blocks.EPB_FLAGS, struct.pack("<I", blocks.FLAGS.get(direction, 0)))
        if comment:
            options += blocks.option(blocks.COMMENT, blocks.cut(comment))
        if self._write(blocks.block(blocks.PACKET, body + blocks.padded(kept) + options + blocks.option(0, b""))):
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
            self._write(
                blocks.statistics(
                    interface.number, self._begun_ns or 0, interface.last_ns, interface.seen, interface.unwritten
                )
            )
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
        if not self._write(blocks.interface(name, link_type, self._snap_bytes)):
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
    snap_bytes: int = blocks.SNAP_BYTES,
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


def _looks_like_ip(data: bytes) -> bool:
    """Whether a frame begins with an IP header whose length is the frame's: no Ethernet address does, but by chance."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        return int.from_bytes(data[2:4], "big") == len(data)
    return len(data) >= 40 and data[0] >> 4 == 6 and int.from_bytes(data[4:6], "big") + 40 == len(data)

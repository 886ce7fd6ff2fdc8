"""Packets of the kernel's into a pcapng file, many at a time; the file is whole however the writing ends.

This file knows batches: blocks are gathered and written by one write(2), which a burst of packets needs, and what a
full disk took only a part of is cut off at the last whole block. It refuses to know where packets come from. (Frames
that a probe reports one by one are `PcapngWriter`'s.)
"""

from __future__ import annotations

import os
import select
import stat
import struct
from typing import Final

from . import _pcapng_blocks as blocks

__all__ = ["PacketFile"]

_HEAD: Final = struct.Struct("<IIIIIII")
_TAIL: Final = struct.Struct("<I")
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")  # by the size's lowest two bits
_LAST_NS: Final = (1 << 64) - 1  # of a block's time, in the year 2554
_NO_OPTIONS: Final = b""

# What is gathered before it is written without being asked for.
_BATCH_BYTES: Final = 1 << 20


class PacketFile:
    """Writes packets to the descriptor ``fd``, which stays the caller's; `flush` and `close` raise what the disk says.

    ``written_packets`` are in the file, ``unwritten_packets`` were given but are not; the file has whole blocks at
    every moment that no write is under way, also after a failure (a pipe cannot take back what it took).
    ``moved_times`` counts packets whose time a block cannot say, before 1970 or after 2554: it says the nearest.
    """

    def __init__(self, fd: int, *, snap_bytes: int = blocks.SNAP_BYTES) -> None:
        self._fd = fd
        status = os.fstat(fd)
        self._can_cut = stat.S_ISREG(status.st_mode)
        self._snap_bytes = snap_bytes
        self._gathered: list[bytes] = [blocks.section()]
        self._gathered_bytes = len(self._gathered[0])
        self._gathered_packets = 0
        self._size_bytes = 0
        self._begun_ns = -1
        self._last_ns: list[int] = []
        self._error: OSError | None = None
        self.written_packets = 0
        self.unwritten_packets = 0
        self.moved_times = 0
        # Options that most packets have, laid out once.
        self._flags = {
            direction: blocks.option(blocks.EPB_FLAGS, struct.pack("<I", bits)) + blocks.option(0, b"")
            for direction, bits in blocks.FLAGS.items()
        }

    @property
    def written_bytes(self) -> int:
        """How long the file is."""
        return self._size_bytes

    def add_interface(self, name: str, link_type: int, filter_text: str = "") -> int:
        """Announce an interface, and give the number by which packets name it."""
        self._gather(blocks.interface(name, link_type, self._snap_bytes, filter_text))
        self._last_ns.append(-1)
        return len(self._last_ns) - 1

    def add(
        self, interface: int, time_ns: int, data: bytes, size_bytes: int, direction: str = "", comment: str = ""
    ) -> None:
        """Gather one packet: ``data`` is what was kept of ``size_bytes``; ``time_ns`` counts from 1970."""
        if self._error is not None:
            self.unwritten_packets += 1
            return
        kept = len(data)
        if not 0 <= time_ns <= _LAST_NS:
            time_ns = 0 if time_ns < 0 else _LAST_NS
            self.moved_times += 1
        options = self._flags.get(direction, _NO_OPTIONS)
        if comment:
            options = blocks.option(blocks.COMMENT, blocks.cut(comment)) + (options or blocks.option(0, b""))
        padding = _PADDING[kept & 3]
        size = 32 + kept + len(padding) + len(options)
        head = _HEAD.pack(blocks.PACKET, size, interface, time_ns >> 32, time_ns & 0xFFFF_FFFF, kept, size_bytes)
        self._gathered.append(head + data + padding + options + _TAIL.pack(size))
        self._gathered_bytes += size
        self._gathered_packets += 1
        if self._begun_ns < 0:
            self._begun_ns = time_ns
        self._last_ns[interface] = time_ns
        if self._gathered_bytes >= _BATCH_BYTES:
            self.flush()

    def _gather(self, block: bytes) -> None:
        if self._error is None:
            self._gathered.append(block)
            self._gathered_bytes += len(block)

    def flush(self) -> None:
        """Write what was gathered; after a failure the file ends with the last block that fitted, and takes no more."""
        if self._error is not None or not self._gathered:
            return
        gathered, packets = self._gathered, self._gathered_packets
        self._gathered, self._gathered_bytes, self._gathered_packets = [], 0, 0
        data = memoryview(b"".join(gathered))
        done = 0
        try:
            while done < len(data):
                try:
                    done += os.write(self._fd, data[done:])
                except BlockingIOError:  # somebody who shares the pipe made it non-blocking: its reader is slow
                    room = select.poll()  # select(2) knows no descriptor above 1023
                    room.register(self._fd, select.POLLOUT)
                    room.poll()
        except OSError as error:
            self._error = error
            self._cut(gathered, done, packets)
            raise
        self._size_bytes += done
        self.written_packets += packets

    def _cut(self, gathered: list[bytes], done: int, packets: int) -> None:
        """Keep the whole blocks of what was written."""
        kept = kept_packets = 0
        for block in gathered:
            if kept + len(block) > done:
                break
            kept += len(block)
            kept_packets += block[:4] == b"\6\0\0\0"
        self._size_bytes += kept
        self.written_packets += kept_packets
        self.unwritten_packets += packets - kept_packets
        if self._can_cut and done > kept:
            os.lseek(self._fd, kept - done, os.SEEK_CUR)
            os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_CUR))

    def close(self, counts: dict[int, tuple[int, int]] | None = None) -> None:
        """Write what is gathered, and for each interface how many packets were received, and dropped by the kernel."""
        for number, (received, dropped) in (counts or {}).items():
            end_ns = max(self._last_ns[number], 0)
            self._gather(blocks.statistics(number, max(self._begun_ns, 0), end_ns, received, dropped))
        self.flush()

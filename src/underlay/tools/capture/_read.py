"""Packets of a file, in the order in which they stand there, as many as a filter lets pass.

This file joins the reader of files with filters for whatever link types it meets. It refuses to know what is inside a
packet.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

from ...errors import UsageError
from ...trace import SNAP_BYTES, CaptureReader, ReadPacket
from ._filter import CompiledFilter, compile_filter
from ._link_types import ETHERNET

__all__ = ["patient", "read_packets"]

# A file may have as many link types as it likes; each gets a filter of its own.
_MOST_LINK_TYPES = 64
# What is read at once; a pipe gives what there is.
_READ_BYTES = 1 << 18


class _Patient(io.RawIOBase):
    def __init__(self, fd: int, before: Callable[[], None]) -> None:
        self._fd = fd
        self._before = before

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._before()
        return os.readv(self._fd, [buffer])


def patient(file: BinaryIO, before: Callable[[], None]) -> BinaryIO:
    """Read an open file so that ``before`` is called each time that more may have to be waited for.

    At the other end of a pipe may be a running capture: what has come by then is shown by then.
    """
    return io.BufferedReader(_Patient(file.fileno(), before), _READ_BYTES)


def read_packets(file: BinaryIO | CaptureReader, text: str = "") -> Iterator[ReadPacket]:
    """Give the packets of an open pcapng or pcap file, or of a reader of one, that pass the filter ``text``.

    Raises `CaptureFormatError` where the file is not whole, after all the packets before that place, and
    ``UsageError`` for a filter that is none.
    """
    filters: dict[int, CompiledFilter] = {}
    if text:
        compile_filter(text, ETHERNET, SNAP_BYTES)  # that it is wrong is told also where there is no packet
    for packet in file if isinstance(file, CaptureReader) else CaptureReader(file):
        if text:
            link_type = packet.interface.link_type
            chosen = filters.get(link_type)
            if chosen is None:
                if len(filters) >= _MOST_LINK_TYPES:
                    raise UsageError(f"a file of more than {_MOST_LINK_TYPES} link types cannot be filtered")
                chosen = filters[link_type] = compile_filter(text, link_type, SNAP_BYTES)
                if chosen.asks_the_kernel:
                    raise UsageError(
                        f"the filter {text!r} asks for what only a running capture knows",
                        remedy="inbound, outbound and ifindex are not for files",
                    )
            if not chosen.matches(packet.data, packet.size_bytes):
                continue
        yield packet

"""Packets of a file, in the order in which they stand there, as many as a filter lets pass.

This file joins the reader of files with filters for whatever link types it meets. It refuses to know what is inside a
packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from ...errors import UsageError
from ...trace import SNAP_BYTES, CaptureReader, ReadPacket
from .._printable import quoted
from ._filter import CompiledFilter, asks_for_a_capture, compile_filter
from ._link_types import ETHERNET, LINUX_SLL2

__all__ = ["check_filter", "read_packets"]

# A file may have as many link types as it likes; each gets a filter of its own.
_MOST_LINK_TYPES = 64


def check_filter(text: str) -> None:
    """Raise ``UsageError`` for a filter that is none, whatever the links of the packets may be."""
    try:
        compile_filter(text, ETHERNET, SNAP_BYTES)
    except UsageError:
        if not _is_known_of_cooked(text):
            raise


def _is_known_of_cooked(text: str) -> bool:
    """Whether a filter asks for what a running capture knows of any packet, and a file of those in SLL2."""
    if not asks_for_a_capture(text):
        return False
    try:
        compile_filter(text, LINUX_SLL2, SNAP_BYTES)
    except UsageError:
        return False
    return True


def _compile(text: str, link_type: int) -> CompiledFilter:
    """Compile a filter for the packets of a file; of a running capture libpcap until 1.10 does not know that it is."""
    chosen = None
    try:
        chosen = compile_filter(text, link_type, SNAP_BYTES)
    except UsageError:
        if not _is_known_of_cooked(text):
            raise
    if chosen is None or chosen.asks_the_kernel:
        raise UsageError(
            f"the filter {quoted(text)} asks for what only a running capture knows",
            remedy="inbound, outbound and ifindex are not for files",
        )
    return chosen


def read_packets(file: BinaryIO | CaptureReader, text: str = "") -> Iterator[ReadPacket]:
    """Give the packets of an open pcapng or pcap file, or of a reader of one, that pass the filter ``text``.

    Raises `CaptureFormatError` where the file is not whole, after all the packets before that place, and
    ``UsageError`` for a filter that is none.
    """
    filters: dict[int, CompiledFilter] = {}
    if text:
        check_filter(text)  # that it is wrong is told also where there is no packet
    for packet in file if isinstance(file, CaptureReader) else CaptureReader(file):
        if text:
            link_type = packet.interface.link_type
            chosen = filters.get(link_type)
            if chosen is None:
                if len(filters) >= _MOST_LINK_TYPES:
                    raise UsageError(f"a file of more than {_MOST_LINK_TYPES} link types cannot be filtered")
                chosen = filters[link_type] = _compile(text, link_type)
            if not chosen.matches(packet.data, packet.size_bytes):
                continue
        yield packet

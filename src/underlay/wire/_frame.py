"""What the stack hands to a link: one frame as two pieces, and what is left for the link to fill in.

This file knows the pieces and the virtio-net kind of offload (segmentation,
checksum). It refuses to know which headers the bytes hold, and any device.
"""

from __future__ import annotations

from typing import NamedTuple

from ._checksum import checksum

__all__ = ["Frame"]


class Frame(NamedTuple):
    """Bytes on their way out, immutable; the payload is not copied before something needs one piece.

    ``len(frame)`` is a tuple's; the size is ``size_bytes``.

    >>> frame = Frame(b"head", b"and payload")
    >>> frame.size_bytes, frame.to_bytes()
    (15, b'headand payload')
    """

    head: bytes
    """The link header (if the link has one) and those of network and transport; or simply all bytes."""
    payload: bytes | memoryview = b""
    """The bytes behind ``head``."""
    segment_bytes: int = 0
    """For a super-frame, how many bytes of payload each segment has on the wire (TSO); 0: this is one frame."""
    checksum_start: int = 0
    """The link is to sum from this offset to the end…"""
    checksum_offset: int = 0
    """…and write the checksum this many bytes further, where the pseudo header's sum stands. 0 and 0: it is done."""

    @property
    def size_bytes(self) -> int:
        """The size of head and payload together."""
        return len(self.head) + len(self.payload)

    def to_bytes(self) -> bytes:
        """Join head and payload; what is left to the link stays undone."""
        return b"".join((self.head, self.payload)) if self.payload else self.head

    def with_checksum(self) -> Frame:
        """Do what the link was to do about the checksum; a complete frame returns itself.

        For links without offload, and for captures. A super-frame gets the checksum that it would have as one.
        """
        if not self.checksum_offset:
            return self
        data = bytearray(self.to_bytes())
        place = self.checksum_start + self.checksum_offset
        # A UDP checksum that comes out as 0 is sent as 0xFFFF (RFC 768); for TCP the two are the same number.
        data[place : place + 2] = (checksum(memoryview(data)[self.checksum_start :]) or 0xFFFF).to_bytes(2, "big")
        size = len(self.head)
        return Frame(bytes(data[:size]), self.payload, self.segment_bytes)

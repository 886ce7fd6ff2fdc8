"""The header before each frame of a TUN or TAP with offload: which checksum is open, and how a super-frame is cut.

This file knows ``struct virtio_net_hdr`` (linux/virtio_net.h; virtio 1.2, section 5.1.6). It refuses to know how
frames are read or written.
"""

from __future__ import annotations

import struct
from typing import Final

from ..wire import CWR, Frame
from ._segmentation import network_start

__all__ = ["HEADER", "HEADER_BYTES", "PLAIN", "UDP_SEGMENTS", "header_for"]

# flags, gso_type, hdr_len, gso_size, csum_start, csum_offset; little-endian, as TUNSETVNETLE asks for.
HEADER: Final = struct.Struct("<BBHHHH")
HEADER_BYTES: Final = HEADER.size
PLAIN: Final = bytes(HEADER_BYTES)
"""The header of a frame that is complete in itself."""

NEEDS_CHECKSUM: Final = 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM
DATA_VALID: Final = 2  # VIRTIO_NET_HDR_F_DATA_VALID
_TCP4: Final = 1  # VIRTIO_NET_HDR_GSO_TCPV4
_TCP6: Final = 4  # VIRTIO_NET_HDR_GSO_TCPV6
UDP_SEGMENTS: Final = 5  # VIRTIO_NET_HDR_GSO_UDP_L4, since Linux 6.2
ECN: Final = 0x80  # VIRTIO_NET_HDR_GSO_ECN

_UDP_CHECKSUM: Final = 6  # where the checksum stands in a UDP header, RFC 768
_TCP_DATA_OFFSET: Final = 12  # RFC 9293, section 3.1
_TCP_FLAGS: Final = 13


def header_for(frame: Frame, *, is_ethernet: bool) -> bytes:
    """Write the header for a frame whose checksum, or segments, are left to the kernel.

    ``IndexError`` for a super-frame whose head is shorter than its headers.

    >>> header_for(Frame(bytes(40), checksum_start=20, checksum_offset=16), is_ethernet=False).hex(" ")
    '01 00 00 00 00 00 14 00 10 00'
    """
    head, _, segment_bytes, start, offset = frame
    if not segment_bytes:
        return HEADER.pack(NEEDS_CHECKSUM, 0, 0, 0, start, offset)
    if offset == _UDP_CHECKSUM:
        kind, header_bytes = UDP_SEGMENTS, start + 8
    else:
        header_bytes = start + (head[start + _TCP_DATA_OFFSET] >> 4) * 4
        kind = _TCP4 if head[network_start(head, is_ethernet=is_ethernet)] >> 4 == 4 else _TCP6
        if head[start + _TCP_FLAGS] & CWR:
            kind |= ECN
    return HEADER.pack(NEEDS_CHECKSUM, kind, header_bytes, segment_bytes, start, offset)

"""What a network card with offload does, in software: cut a super-frame into segments, finish an open checksum.

This file knows as much of IPv4, IPv6, TCP and UDP as it takes to write the headers of the pieces: lengths, the IPv4
identification, sequence numbers, and the flags that belong to the first or to the last piece only. It refuses to know
connections.
"""

from __future__ import annotations

import struct
from typing import Final

from ..wire import (
    CWR,
    FIN,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    PSH,
    TCP_CHECKSUM_OFFSET,
    Frame,
    checksum,
    pseudo_header_sum,
)

__all__ = ["finished", "network_start", "segments"]

_ETHERNET_BYTES: Final = 14
_VLAN_BYTES: Final = 4
_VLAN: Final = b"\x81\x00"
_IPV4: Final = 4
_IPV6: Final = 6
_IPV6_BYTES: Final = 40
_UDP_BYTES: Final = 8
_UDP_CHECKSUM: Final = 6  # RFC 768
# The first piece alone says that the window was reduced (RFC 3168, section 6.1.2); the last alone ends the stream,
# or asks for delivery. What is in the super-frame's header is meant once.
_FIRST_ONLY: Final = CWR
_LAST_ONLY: Final = FIN | PSH
_U16: Final = struct.Struct("!H")
_U32: Final = struct.Struct("!I")


def network_start(head: bytes, *, is_ethernet: bool) -> int:
    """Tell where the IP header begins."""
    if not is_ethernet:
        return 0
    return _ETHERNET_BYTES + (_VLAN_BYTES if head[12:14] == _VLAN else 0)


def finished(frame: Frame, *, is_ethernet: bool) -> list[Frame] | None:
    """Give what a link without offload carries: the pieces of a super-frame, or the frame with its checksum.

    None for a super-frame, or an open checksum, that contradicts its own headers.
    """
    if frame.segment_bytes:
        return segments(frame, is_ethernet=is_ethernet)
    if not frame.checksum_start:
        return [frame]
    head, payload, _, start, offset = frame
    if start + offset + 2 > len(head):
        return None
    if len(head) - start & 1 and payload:  # the sum goes over pairs of bytes: join, that none is parted
        head, payload = frame.to_bytes(), b""
    # The field holds the sum of the pseudo header, so that the plain sum over everything is what is wanted.
    value = checksum(payload, int.from_bytes(head[start:], "big")) if payload else checksum(head[start:])
    if offset == _UDP_CHECKSUM and value == 0:
        value = 0xFFFF  # RFC 768: zero says that there is none
    field = start + offset
    return [Frame(head[:field] + _U16.pack(value) + head[field + 2 :], payload)]


def segments(frame: Frame, *, is_ethernet: bool, checksums: bool = True) -> list[Frame] | None:
    """Cut a super-frame of TCP, or of UDP (RFC 768), into frames of at most ``segment_bytes`` of payload.

    The payloads are views of the one that was given; nothing of it is copied. Without ``checksums`` the transport's
    stays as it is, for a reader who was told that the data are valid. None when the headers contradict each other.
    """
    head, payload, segment_bytes, start, offset = frame
    network = network_start(head, is_ethernet=is_ethernet)
    is_udp = offset == _UDP_CHECKSUM
    if not (network + 20 <= start and start + 20 - 12 * is_udp <= len(head)) or offset not in (
        _UDP_CHECKSUM,
        TCP_CHECKSUM_OFFSET,
    ):
        return None
    version = head[network] >> 4
    if version == _IPV4:
        source, destination = head[network + 12 : network + 16], head[network + 16 : network + 20]
    elif version == _IPV6 and start >= network + _IPV6_BYTES:
        source, destination = head[network + 8 : network + 24], head[network + 24 : network + 40]
    else:
        return None
    header_bytes = start + (_UDP_BYTES if is_udp else (head[start + 12] >> 4) * 4)
    if header_bytes > len(head) or (not is_udp and header_bytes < start + 20):
        return None
    if header_bytes < len(head):
        payload = frame.to_bytes()[header_bytes:] if payload else memoryview(head)[header_bytes:]
        head = head[:header_bytes]
    view = memoryview(payload)
    size = len(view)
    pieces = []
    for number, begin in enumerate(range(0, max(size, 1), segment_bytes)):
        part = view[begin : begin + segment_bytes]
        header = bytearray(head)
        network_bytes = header_bytes - network + len(part)
        if version == _IPV4:
            _U16.pack_into(header, network + 2, network_bytes)
            identification = _U16.unpack_from(head, network + 4)[0] + number
            _U16.pack_into(header, network + 4, identification & 0xFFFF)
            _U16.pack_into(header, network + 10, 0)
            _U16.pack_into(header, network + 10, checksum(header[network:start]))
        else:
            _U16.pack_into(header, network + 4, network_bytes - _IPV6_BYTES)
        transport_bytes = header_bytes - start + len(part)
        if is_udp:
            _U16.pack_into(header, start + 4, transport_bytes)
        else:
            sequence = _U32.unpack_from(head, start + 4)[0] + begin
            _U32.pack_into(header, start + 4, sequence & 0xFFFF_FFFF)
            if begin:
                header[start + 13] &= ~_FIRST_ONLY
            if begin + segment_bytes < size:
                header[start + 13] &= ~_LAST_ONLY
        if checksums:
            _U16.pack_into(header, start + offset, 0)
            pseudo = pseudo_header_sum(source, destination, PROTOCOL_UDP if is_udp else PROTOCOL_TCP, transport_bytes)
            value = checksum(part, pseudo + int.from_bytes(header[start:], "big"))
            _U16.pack_into(header, start + offset, value or (0xFFFF if is_udp else 0))
        pieces.append(Frame(bytes(header), part))
    return pieces

"""Frames on their way: bytes that nobody changes any more, whose they are, and what a capture shows of them.

This file knows where addresses stand in a frame. It refuses to know where it is.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from ..link import finished
from ..stack import TcpPacket
from ..wire import Frame

# What travels: bytes, or a TCP segment as a value, as long as it is on a way where nobody would look at its bytes.
Packet: TypeAlias = Frame | TcpPacket

# How an Ethernet frame begins, and where the last address of an ARP packet in it ends.
_ETHERNET_BYTES: Final = 14
_ARP: Final = b"\x08\x06"
_ARP_END: Final = 42


def frame_of(packet: Packet) -> Frame:
    """The bytes of a packet, however it has come so far."""
    return packet.frame() if isinstance(packet, TcpPacket) else packet


def kept(frame: Frame) -> Frame:
    """The frame with bytes that nobody changes before it arrives."""
    payload = frame[1]
    if type(payload) is memoryview and not payload.readonly:
        return frame._replace(payload=bytes(payload))
    return frame


def addresses_of(frame: bytes | memoryview, *, is_ethernet: bool) -> tuple[bytes, bytes]:
    """Who sends an IP packet, or asks by ARP, and whom; nobody's of what is neither."""
    start = _ETHERNET_BYTES if is_ethernet else 0
    if is_ethernet and frame[12:14] == _ARP and len(frame) >= _ARP_END:
        return bytes(frame[28:32]), bytes(frame[38:42])  # RFC 826: the protocol addresses of both
    if len(frame) >= start + 20 and frame[start] >> 4 == 4:
        return bytes(frame[start + 12 : start + 16]), bytes(frame[start + 16 : start + 20])
    if len(frame) >= start + 40 and frame[start] >> 4 == 6:
        return bytes(frame[start + 8 : start + 24]), bytes(frame[start + 24 : start + 40])
    return b"", b""


def for_capture(frame: Frame, *, is_ethernet: bool) -> bytes:
    """Its bytes as they are on a wire, checksums included; a super-frame stays one."""
    pieces = finished(frame, is_ethernet=is_ethernet) if not frame[2] or len(frame[1]) <= frame[2] else None
    return pieces[0].to_bytes() if pieces else frame.to_bytes()

"""The TCP header (RFC 9293 §3.1) and the options in use: MSS, window scale, SACK, timestamps.

This file knows the layout, how long each option is, and the checksum. It
refuses to know connections: which option is allowed when, what a window scale
above 14 is taken for, and whether a sequence number is acceptable.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from ._checksum import words_sum
from ._errors import WireError, refuse_short
from ._ipv4 import PROTOCOL_TCP

__all__ = [
    "ACK",
    "CWR",
    "ECE",
    "FIN",
    "PSH",
    "RST",
    "SYN",
    "TCP_CHECKSUM_OFFSET",
    "URG",
    "TcpSegment",
    "build_tcp_header",
    "parse_tcp",
]

# RFC 9293 §3.1, control bits.
FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
URG: Final = 0x20
ECE: Final = 0x40
CWR: Final = 0x80

# Where the checksum stands in the header (RFC 9293 §3.1): what an offload needs to know.
TCP_CHECKSUM_OFFSET: Final = 16

# RFC 9293 §3.2; RFC 7323 §2.2, §3.2; RFC 2018 §2, §3.
_END: Final = 0
_NOP: Final = 1
_MSS: Final = 2
_WINDOW_SCALE: Final = 3
_SACK_PERMITTED: Final = 4
_SACK: Final = 5
_TIMESTAMPS: Final = 8
_OPTION_NAMES: Final = {
    _MSS: "mss",
    _WINDOW_SCALE: "window_scale",
    _SACK_PERMITTED: "sack_permitted",
    _SACK: "sack",
    _TIMESTAMPS: "timestamps",
}

# The four bytes before an aligned timestamp (RFC 7323 appendix A): NOP NOP 8 10.
_NOP_NOP_TIMESTAMPS: Final = 0x0101080A
# Linux saves a NOP NOP by putting SACK-permitted before it: 4 2 8 10 (tcp_options_write()).
_SACK_PERMITTED_TIMESTAMPS: Final = 0x0402080A
_NOP_NOP_SACK_PERMITTED: Final = b"\1\1\4\2"
_MAX_OPTIONS_BYTES: Final = 40  # RFC 9293 §3.1: the data offset has 4 bits

_HEADER: Final = struct.Struct("!HHIIBBHHH")
_HEADER_TIMESTAMPS: Final = struct.Struct("!HHIIBBHHHIII")
_TIMESTAMP_OPTION: Final = struct.Struct("!III")
_BLOCK: Final = struct.Struct("!II")
_new = tuple.__new__


class TcpSegment(NamedTuple):
    """One segment; an option that it does not have is None, False or empty, unknown ones are passed over."""

    source_port: int
    destination_port: int
    seq: int
    ack: int
    flags: int
    """The control bits: FIN, SYN, RST, PSH, ACK, URG, ECE, CWR."""
    window: int
    """As it stands, not scaled."""
    urgent_pointer: int
    mss: int | None
    window_scale: int | None
    """As it stands; RFC 7323 §2.3 has the reader take 14 for more than 14."""
    sack_permitted: bool
    sack: tuple[tuple[int, int], ...]
    """Up to 4 blocks of (left edge, right edge)."""
    timestamp: tuple[int, int] | None
    """TSval and TSecr."""
    payload: bytes | memoryview
    """A slice of what was parsed: a memoryview gives a memoryview, nothing is copied."""


def parse_tcp(
    data: bytes | memoryview, start: int = 0, end: int | None = None, *, pseudo: int | None = None
) -> TcpSegment:
    """Read the segment in ``data[start:end]``.

    `pseudo` is the ``pseudo_header_sum`` for ``end - start`` bytes; None leaves the checksum unverified.
    A malformed option is an error that names it, as ``tcp.option`` or ``tcp.mss``.
    """
    if end is None:
        end = len(data)
    if end - start < 20:
        refuse_short("tcp", end - start, 20)
    source_port, destination_port, seq, ack, offset, flags, window, _, urgent_pointer = _HEADER.unpack_from(data, start)
    if pseudo is not None and (words_sum(data[start:end]) + pseudo) % 0xFFFF:
        raise WireError("tcp", "checksum", "the segment's sum is wrong")
    if offset < 0x60 and offset >= 0x50:
        return _new(
            TcpSegment,
            (
                source_port, destination_port, seq, ack, flags, window, urgent_pointer,
                None, None, False, (), None, data[start + 20 : end],
            ),
        )  # fmt: skip
    if offset >= 0x80 and offset < 0x90 and end - start >= 32:
        kind, value, echo = _TIMESTAMP_OPTION.unpack_from(data, start + 20)
        if kind == _NOP_NOP_TIMESTAMPS:
            return _new(
                TcpSegment,
                (
                    source_port, destination_port, seq, ack, flags, window, urgent_pointer,
                    None, None, False, (), (value, echo), data[start + 32 : end],
                ),
            )  # fmt: skip
    header_bytes = (offset >> 4) * 4
    if header_bytes < 20:
        raise WireError("tcp", "data_offset", f"{header_bytes} bytes, but a header has 20 at least", 12)
    if start + header_bytes > end:
        raise WireError("tcp", "data_offset", f"the header of {header_bytes} bytes ends behind the data", 12)
    mss, window_scale, sack_permitted, sack, timestamp = _parse_options(data, start + 20, start + header_bytes)
    return _new(
        TcpSegment,
        (
            source_port, destination_port, seq, ack, flags, window, urgent_pointer,
            mss, window_scale, sack_permitted, sack, timestamp, data[start + header_bytes : end],
        ),
    )  # fmt: skip


_Options = tuple[int | None, int | None, bool, tuple[tuple[int, int], ...], tuple[int, int] | None]


def _parse_options(data: bytes | memoryview, place: int, end: int) -> _Options:
    """Walk through the options; of two of one kind the last counts, as for Linux."""
    first = place - 20
    mss = window_scale = timestamp = None
    sack_permitted = False
    sack: tuple[tuple[int, int], ...] = ()
    while place < end:
        kind = data[place]
        if kind == _END:
            break
        if kind == _NOP:
            place += 1
            continue
        # An illegal length is to be survived (RFC 9293 MUST-7); the suggested way is to refuse the segment.
        if place + 1 >= end:
            raise _malformed(kind, "it has no length", place - first)
        size = data[place + 1]
        if size < 2:
            raise _malformed(kind, f"it says it has {size} bytes", place + 1 - first)
        if place + size > end:
            raise _malformed(kind, f"its {size} bytes end behind the header", place + 1 - first)
        if kind == _TIMESTAMPS:
            if size != 10:
                raise _malformed(kind, f"it has {size} bytes, not 10", place + 1 - first)
            timestamp = _BLOCK.unpack_from(data, place + 2)
        elif kind == _SACK:
            if size < 10 or size & 7 != 2:
                raise _malformed(kind, f"{size} bytes are no whole blocks", place + 1 - first)
            sack = tuple(_BLOCK.iter_unpack(data[place + 2 : place + size]))
        elif kind == _MSS:
            if size != 4:
                raise _malformed(kind, f"it has {size} bytes, not 4", place + 1 - first)
            mss = data[place + 2] << 8 | data[place + 3]
        elif kind == _WINDOW_SCALE:
            if size != 3:
                raise _malformed(kind, f"it has {size} bytes, not 3", place + 1 - first)
            window_scale = data[place + 2]
        elif kind == _SACK_PERMITTED:
            if size != 2:
                raise _malformed(kind, f"it has {size} bytes, not 2", place + 1 - first)
            sack_permitted = True
        place += size
    return mss, window_scale, sack_permitted, sack, timestamp


def _malformed(kind: int, reason: str, pointer: int) -> WireError:
    return WireError("tcp", _OPTION_NAMES.get(kind, "option"), f"option {kind}: {reason}", pointer)


def build_tcp_header(
    source: bytes,
    destination: bytes,
    source_port: int,
    destination_port: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    payload: bytes | memoryview = b"",
    *,
    urgent_pointer: int = 0,
    mss: int | None = None,
    window_scale: int | None = None,
    sack_permitted: bool = False,
    sack: Sequence[tuple[int, int]] = (),
    timestamp: tuple[int, int] | None = None,
    offload: bool = False,
) -> bytes:
    """Build the header with its options, in the order that Linux has them, and the checksum over `payload`.

    `source` and `destination` are the IP addresses (4 or 16 bytes each) of the pseudo header. Of `sack` as many
    blocks are sent as fit in 40 bytes of options: 4, or 3 beside a timestamp. With `offload` the checksum field
    holds only the folded sum of the pseudo header, over the whole payload however long, for a link that completes
    it (virtio-net's NEEDS_CSUM) and cuts it (TSO). A field that does not fit is a `WireError`.

    >>> here, there = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    >>> head = build_tcp_header(here, there, 4000, 80, 1, 0, SYN, 64240, mss=1460, sack_permitted=True)
    >>> len(head), parse_tcp(head).mss
    (28, 1460)
    """
    try:
        if mss is None and window_scale is None and not sack_permitted and not sack:
            options = b""  # nearly always
        else:
            options = _build_options(mss, window_scale, sack_permitted, sack, timestamp)
            timestamp = None
        header_bytes = 20 + len(options) if timestamp is None else 32
        total = (
            int.from_bytes(source, "big") + int.from_bytes(destination, "big")
            + PROTOCOL_TCP + header_bytes + len(payload)
        )  # fmt: skip
        if offload:
            check = total % 0xFFFF or 0xFFFF
        else:
            # The sum of the header's words, most of them still apart; see _checksum.py.
            total += source_port + destination_port + seq + ack + (header_bytes << 10) + flags + window + urgent_pointer
            if timestamp is not None:
                total += _NOP_NOP_TIMESTAMPS + timestamp[0] + timestamp[1]
            elif options:
                total += int.from_bytes(options, "big")
            if payload:
                total += words_sum(payload)
            check = 0xFFFF - (total % 0xFFFF or 0xFFFF)
        if timestamp is not None:
            return _HEADER_TIMESTAMPS.pack(
                source_port, destination_port, seq, ack, 0x80, flags, window, check, urgent_pointer,
                _NOP_NOP_TIMESTAMPS, timestamp[0], timestamp[1],
            )  # fmt: skip
        header = _HEADER.pack(
            source_port, destination_port, seq, ack, header_bytes << 2, flags, window, check, urgent_pointer
        )
        return header + options if options else header
    except struct.error as error:
        for name, value, most in (
            ("source_port", source_port, 0xFFFF),
            ("destination_port", destination_port, 0xFFFF),
            ("seq", seq, 0xFFFF_FFFF),
            ("ack", ack, 0xFFFF_FFFF),
            ("flags", flags, 0xFF),
            ("window", window, 0xFFFF),
            ("urgent_pointer", urgent_pointer, 0xFFFF),
        ):
            if not 0 <= value <= most:
                raise WireError("tcp", name, f"{value} is not within 0 to {most}") from None
        raise WireError("tcp", "timestamps", str(error)) from None


def _build_options(
    mss: int | None,
    window_scale: int | None,
    sack_permitted: bool,
    sack: Sequence[tuple[int, int]],
    timestamp: tuple[int, int] | None,
) -> bytes:
    """Lay the options out as Linux does (tcp_options_write()); each piece is a multiple of 4 bytes."""
    pieces = []
    room = _MAX_OPTIONS_BYTES
    try:
        if mss is not None:
            pieces.append(struct.pack("!BBH", _MSS, 4, mss))
            room -= 4
    except struct.error:
        raise WireError("tcp", "mss", f"{mss} is not within 0 to 65535") from None
    if timestamp is not None:
        lead = _SACK_PERMITTED_TIMESTAMPS if sack_permitted else _NOP_NOP_TIMESTAMPS
        pieces.append(_TIMESTAMP_OPTION.pack(lead, timestamp[0], timestamp[1]))
        room -= 12
    elif sack_permitted:
        pieces.append(_NOP_NOP_SACK_PERMITTED)
        room -= 4
    if window_scale is not None:
        if not 0 <= window_scale <= 0xFF:
            raise WireError("tcp", "window_scale", f"{window_scale} is not within 0 to 255")
        pieces.append(bytes((_NOP, _WINDOW_SCALE, 3, window_scale)))
        room -= 4
    blocks = sack[: (room - 4) >> 3]
    if blocks:
        pieces.append(bytes((_NOP, _NOP, _SACK, 2 + 8 * len(blocks))))
        try:
            pieces.extend(_BLOCK.pack(left, right) for left, right in blocks)
        except struct.error:
            raise WireError("tcp", "sack", "an edge is not within 0 to 4294967295") from None
    return b"".join(pieces)

"""``struct tcp_info`` of Linux: what the kernel knows of a connection, from getsockopt(2) or from sock_diag.

This file knows the layout of <linux/tcp.h> and its units. A kernel that is older gives fewer bytes, and what it does
not give is None. It refuses to know where the bytes come from.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

__all__ = ["TCP_INFO_BYTES", "TcpInfo", "parse_tcp_info"]

# Up to tcpi_bytes_retrans (Linux 4.19): 1-byte fields, then u32 from 8, u64 from 104.
_WORDS: Final = struct.Struct("=24I")
_WORDS_AT: Final = 8
_LIMITS: Final = struct.Struct("=4Q")
_LIMITS_AT: Final = 160
_MIN_RTT_AT: Final = 148

TCP_INFO_BYTES: Final = 256
"""What getsockopt(2) is asked for: more than any field here needs, and what every kernel cuts to its own."""

# TCP_INFINITE_SSTHRESH, and what tells that there was no round trip yet.
_UNKNOWN: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """What the kernel knows of one TCP connection. Times are µs, sizes bytes, the window segments of ``mss_bytes``.

    ``busy_us`` is how long there was something to send, and the next two how much of it the peer's window or our own
    buffer kept it from being sent; None before Linux 4.10.
    """

    mss_bytes: int
    rtt_us: int
    rtt_variation_us: int
    window_segments: int
    retransmissions: int
    path_mtu_bytes: int
    min_rtt_us: int | None
    busy_us: int | None
    window_limited_us: int | None
    buffer_limited_us: int | None

    @property
    def window_bytes(self) -> int:
        """The congestion window."""
        return self.window_segments * self.mss_bytes


def parse_tcp_info(raw: bytes) -> TcpInfo:
    """Read what the kernel gave; raises ``ValueError`` for less than the oldest layout (Linux 2.6).

    >>> parse_tcp_info(bytes(104)).rtt_us
    0
    """
    if len(raw) < _WORDS_AT + _WORDS.size:
        raise ValueError(f"{len(raw)} bytes are no tcp_info")
    words = _WORDS.unpack_from(raw, _WORDS_AT)
    least: int | None = None
    if len(raw) >= _MIN_RTT_AT + 4:
        (least,) = struct.unpack_from("=I", raw, _MIN_RTT_AT)
    busy: int | None = None
    by_window: int | None = None
    by_buffer: int | None = None
    if len(raw) >= _LIMITS_AT + _LIMITS.size:
        _, busy, by_window, by_buffer = _LIMITS.unpack_from(raw, _LIMITS_AT)
    return TcpInfo(
        mss_bytes=words[2],
        rtt_us=words[15],
        rtt_variation_us=words[16],
        window_segments=words[18],
        retransmissions=words[23],
        path_mtu_bytes=words[13],
        min_rtt_us=None if least == _UNKNOWN else least,
        busy_us=busy,
        window_limited_us=by_window,
        buffer_limited_us=by_buffer,
    )

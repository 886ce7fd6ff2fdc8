"""``struct tcp_info`` of Linux: what the kernel knows of a connection, from getsockopt(2) or from sock_diag.

This file knows the layout of <linux/tcp.h> and its units. A kernel that is older gives fewer bytes, and what it does
not give is None. It refuses to know where the bytes come from.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

__all__ = ["TCP_INFO_BYTES", "TcpInfo", "parse_tcp_info", "unpack_tcp_info"]

# state, ca_state, retransmits, probes, backoff, options, the window scales, flags; then rto up to total_retrans; the
# rates and bytes; segments up to data_segs_out; delivery_rate up to sndbuf_limited; delivered and delivered_ce;
# bytes_sent and bytes_retrans; dsack_dups, reord_seen, rcv_ooopack and snd_wnd, which came last (Linux 5.4).
_LAYOUT: Final = struct.Struct("=8B24I4Q6I4Q2I2Q4I")
# So many bytes the oldest kernels give, those that know min_rtt, and those that know sndbuf_limited.
_OLDEST_BYTES: Final = 104
_WITH_MIN_RTT_BYTES: Final = 152
_WITH_LIMITS_BYTES: Final = 192

TCP_INFO_BYTES: Final = 256
"""What getsockopt(2) is asked for: more than any field here needs, and what every kernel cuts to its own."""

# TCP_INFINITE_SSTHRESH, and what tells that there was no round trip yet.
_UNKNOWN: Final = 0xFFFFFFFF


# A named tuple, and no dataclass: `dataclasses` takes longer to import than `underlay ports` to list its sockets.
class TcpInfo(NamedTuple):
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


def unpack_tcp_info(raw: bytes) -> tuple[int, ...]:
    """All numbers up to ``tcpi_snd_wnd`` in their order: 0 for those that an older kernel does not give.

    >>> unpack_tcp_info(bytes(8) + struct.pack("=I", 200_000))[8]
    200000
    """
    return _LAYOUT.unpack(raw[: _LAYOUT.size].ljust(_LAYOUT.size, b"\0"))


def parse_tcp_info(raw: bytes) -> TcpInfo:
    """Read what the kernel gave; raises ``ValueError`` for less than the oldest layout (Linux 2.6).

    >>> parse_tcp_info(bytes(104)).rtt_us
    0
    """
    if len(raw) < _OLDEST_BYTES:
        raise ValueError(f"{len(raw)} bytes are no tcp_info")
    given = unpack_tcp_info(raw)
    words, least = given[8:32], given[39]
    busy, by_window, by_buffer = given[43:46] if len(raw) >= _WITH_LIMITS_BYTES else (None, None, None)
    return TcpInfo(
        mss_bytes=words[2],
        rtt_us=words[15],
        rtt_variation_us=words[16],
        window_segments=words[18],
        retransmissions=words[23],
        path_mtu_bytes=words[13],
        min_rtt_us=None if len(raw) < _WITH_MIN_RTT_BYTES or least == _UNKNOWN else least,
        busy_us=busy,
        window_limited_us=by_window,
        buffer_limited_us=by_buffer,
    )

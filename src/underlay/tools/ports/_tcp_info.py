"""``struct tcp_info``, as the kernel lays it out, and what of it is told (linux/tcp.h).

This file knows the layout and the kernel's units. It refuses to know where the bytes come from.
"""

from __future__ import annotations

import struct
from typing import Final

from ._socket import CONGESTION_STATES, TcpInfo

__all__ = ["read_tcp_info"]

# state, ca_state, retransmits, probes, backoff, options, the window scales, flags; then rto up to total_retrans; the
# rates and bytes; segments up to data_segs_out; delivery_rate up to sndbuf_limited; delivered and delivered_ce;
# bytes_sent and bytes_retrans; dsack_dups, reord_seen, rcv_ooopack and snd_wnd, which came last (Linux 5.4).
_LAYOUT: Final = struct.Struct("=8B24I4Q6I4Q2I2Q4I")

# TCP_INFINITE_SSTHRESH of include/net/tcp.h: it was never set.
_INFINITE: Final = 0x7FFFFFFF
# What is told for a least round trip before there was one, and for pacing without a limit.
_NEVER: Final = 0xFFFFFFFF
_UNLIMITED: Final = 0xFFFFFFFF_FFFFFFFF


def read_tcp_info(data: bytes, congestion_control: str) -> TcpInfo:
    """Read the bytes of ``struct tcp_info``: an older kernel's are fewer, a newer one's more.

    >>> read_tcp_info(bytes(8) + struct.pack("=I", 200_000), "cubic").rto_us
    200000
    """
    given = _LAYOUT.unpack(data[: _LAYOUT.size].ljust(_LAYOUT.size, b"\0"))
    numbers, bytes_and_rates, segments, rest = given[8:32], given[32:36], given[36:42], given[42:]
    rto, _, send_mss, receive_mss, unacked, _, lost = numbers[:7]
    last_sent, _, last_received, _, path_mtu, _, rtt, rtt_variation, ssthresh, cwnd = numbers[9:19]
    pacing, _, acknowledged, received = bytes_and_rates
    segments_out, segments_in, unsent, min_rtt, _, _ = segments
    delivery, busy, receive_limited, send_limited, _, _, sent, retransmitted, _, _, _, peer_window = rest
    return TcpInfo(
        congestion_control,
        CONGESTION_STATES[given[1]] if given[1] < len(CONGESTION_STATES) else str(given[1]),
        rtt,
        rtt_variation,
        0 if min_rtt == _NEVER else min_rtt,
        rto,
        cwnd,
        0 if ssthresh >= _INFINITE else ssthresh,
        send_mss,
        receive_mss,
        path_mtu,
        unacked,
        lost,
        numbers[23],
        sent,
        retransmitted,
        acknowledged,
        received,
        segments_out,
        segments_in,
        unsent,
        peer_window,
        0 if pacing == _UNLIMITED else pacing,
        delivery,
        busy,
        receive_limited,
        send_limited,
        last_sent,
        last_received,
    )

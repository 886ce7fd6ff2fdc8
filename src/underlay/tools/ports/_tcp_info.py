"""What is told of a connection, of the kernel's ``struct tcp_info`` (linux/tcp.h).

This file knows what each number means, and which mean nothing. It refuses to know where the bytes come from.
"""

from __future__ import annotations

from typing import Final

from .._tcp_info import unpack_tcp_info
from ._socket import CONGESTION_STATES, TcpInfo

__all__ = ["read_tcp_info"]

# TCP_INFINITE_SSTHRESH of include/net/tcp.h: it was never set.
_INFINITE: Final = 0x7FFFFFFF
# What is told for a least round trip before there was one, and for pacing without a limit.
_NEVER: Final = 0xFFFFFFFF
_UNLIMITED: Final = 0xFFFFFFFF_FFFFFFFF


def read_tcp_info(data: bytes, congestion_control: str) -> TcpInfo:
    """Read the bytes of ``struct tcp_info``: an older kernel's are fewer, a newer one's more.

    >>> import struct
    >>> read_tcp_info(bytes(8) + struct.pack("=I", 200_000), "cubic").rto_us
    200000
    """
    given = unpack_tcp_info(data)
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

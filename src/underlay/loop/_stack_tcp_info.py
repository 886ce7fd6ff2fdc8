"""``struct tcp_info`` of Linux, filled with what the stack knows of a connection: getsockopt(2) with TCP_INFO.

This file knows the layout of <linux/tcp.h>, its units (µs, ms, segments) and which figure of the stack's `TcpInfo`
stands where.  It does not know how a figure comes to be.  What the stack has no figure for is 0.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ..stack import State

if TYPE_CHECKING:
    from ..stack import TcpConnection

# In their order; a format of struct.pack for each stretch of one width.
_FIELDS: Final = {
    "8B": "state ca_state retransmits probes backoff options wscale flags",
    "24I": (
        "rto ato snd_mss rcv_mss unacked sacked lost retrans fackets last_data_sent last_ack_sent last_data_recv "
        "last_ack_recv pmtu rcv_ssthresh rtt rttvar snd_ssthresh snd_cwnd advmss reordering rcv_rtt rcv_space "
        "total_retrans"
    ),
    "4Q": "pacing_rate max_pacing_rate bytes_acked bytes_received",
    "6I": "segs_out segs_in notsent_bytes min_rtt data_segs_in data_segs_out",
    "4Q ": "delivery_rate busy_time rwnd_limited sndbuf_limited",
    "2I": "delivered delivered_ce",
    "2Q": "bytes_sent bytes_retrans",
    "4I": "dsack_dups reord_seen rcv_ooopack snd_wnd",
}
_LAYOUT: Final = struct.Struct("=" + "".join(_FIELDS))
_NAMES: Final = " ".join(_FIELDS.values()).split()

# TCPI_OPT_TIMESTAMPS, TCPI_OPT_SACK and TCPI_OPT_WSCALE of <linux/tcp.h>.
_TIMESTAMPS, _SACK, _WINDOW_SCALE = 1, 2, 4
# enum tcp_ca_state.
_PHASE: Final = {"open": 0, "fast recovery": 3, "after a timeout": 4}
# TCP_INFINITE_SSTHRESH, and what is told of a shortest round trip before there is one.
_INFINITE: Final = 0x7FFFFFFF
_UNKNOWN: Final = 0xFFFFFFFF
# Of a socket that is not connected: TCP_TIMEOUT_INIT in µs, TCP_MSS_DEFAULT, TCP_INIT_CWND, and TCP_FASTRETRANS_THRESH
# (net.ipv4.tcp_reordering).
_NEW: Final = {"rto": 1_000_000, "snd_mss": 536, "snd_cwnd": 10, "snd_ssthresh": _INFINITE, "reordering": 3}


def without_connection(*, listening: bool = False, waiting: int = 0, backlog: int = 0) -> bytes:
    """That of a new socket; or of a listener: its state, the connections that wait, and the most that may."""
    if listening:
        return _pack({"state": State.LISTEN.value, "unacked": waiting, "sacked": backlog, "snd_cwnd": _NEW["snd_cwnd"]})
    return _pack({"state": State.CLOSED.value, **_NEW, "min_rtt": _UNKNOWN})


def of_connection(connection: TcpConnection, now: float) -> bytes:
    """That of a connection, at this moment."""
    info = connection.info()
    # A socket of Linux is closed as soon as its connection has only to wait for late segments.
    state = State.CLOSED if info.state is State.TIME_WAIT else info.state
    options = _TIMESTAMPS * info.timestamps | _SACK * info.sack
    scaled = info.send_window_scale or info.receive_window_scale
    mss = info.send_mss
    ssthresh = info.ssthresh_bytes // mss
    return _pack(
        {
            "state": state.value,
            "ca_state": _PHASE[info.phase],
            "retransmits": info.backoffs,
            "probes": connection.probes,
            "backoff": info.backoffs,
            "options": options | (_WINDOW_SCALE if scaled else 0),
            "wscale": info.send_window_scale | info.receive_window_scale << 4,
            "rto": _us(info.rto_s),
            "ato": _us(connection.layer.config.ack_delay_s) if info.bytes_in else 0,
            "snd_mss": mss,
            "rcv_mss": info.receive_mss,
            "unacked": -(-info.flight_bytes // mss),
            "sacked": -(-info.sacked_bytes // mss),
            "lost": -(-info.lost_bytes // mss),
            "last_data_sent": _ms_since(connection.idle_from, now) if info.bytes_out else 0,
            "last_data_recv": _ms_since(connection.received_at, now) if info.bytes_in else 0,
            "pmtu": info.path_mtu_bytes,
            "rcv_ssthresh": info.receive_window_bytes,
            "rtt": _us(info.srtt_s),
            "rttvar": _us(info.rttvar_s),
            "snd_ssthresh": ssthresh if 0 < ssthresh < _INFINITE else _INFINITE,
            "snd_cwnd": info.cwnd_bytes // mss or _NEW["snd_cwnd"],
            "advmss": info.advertised_mss,
            "reordering": _NEW["reordering"],
            "rcv_space": info.receive_buffer_bytes,
            "total_retrans": info.retransmitted_segments,
            "bytes_acked": max(connection.snd_una - connection.iss - 1, 0),
            "bytes_received": info.bytes_in,
            "segs_out": info.segments_out,
            "segs_in": info.segments_in,
            "notsent_bytes": info.unsent_bytes,
            "min_rtt": _us(info.min_rtt_s) if info.srtt_s else _UNKNOWN,
            "bytes_sent": info.bytes_out + info.retransmitted_bytes,
            "bytes_retrans": info.retransmitted_bytes,
            "snd_wnd": info.send_window_bytes,
        }
    )


def _us(seconds: float) -> int:
    return min(max(int(seconds * 1e6), seconds > 0), _UNKNOWN)  # what was measured is never 0


def _ms_since(then: float, now: float) -> int:
    return min(int(max(now - then, 0.0) * 1e3), _UNKNOWN)


def _pack(figures: dict[str, int]) -> bytes:
    return _LAYOUT.pack(*(figures.get(name, 0) for name in _NAMES))

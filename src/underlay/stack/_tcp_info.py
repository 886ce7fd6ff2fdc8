"""What can be read off TCP: one connection (as Linux's TCP_INFO tells it) and a whole layer.

This file knows the figures and their units. It refuses to know who keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ._tcp_options import Congestion
from ._tcp_state import State

__all__ = ["TcpInfo", "TcpStatistics"]


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """One connection at one moment; after tcp(7) TCP_INFO."""

    state: State
    congestion: Congestion
    phase: str
    """What loss recovery is doing: "open", "fast recovery" or "after a timeout"."""
    rto_s: float
    srtt_s: float
    """0.0 before the first measurement."""
    rttvar_s: float
    min_rtt_s: float
    backoffs: int
    cwnd_bytes: int
    ssthresh_bytes: int
    flight_bytes: int
    """Sent and not acknowledged."""
    sacked_bytes: int
    lost_bytes: int
    unsent_bytes: int
    unread_bytes: int
    out_of_order_bytes: int
    send_window_bytes: int
    receive_window_bytes: int
    send_buffer_bytes: int
    receive_buffer_bytes: int
    send_mss: int
    """Most payload of a segment now: what both sides and the path allow, less options (TCP_MAXSEG, tcpi_snd_mss)."""
    receive_mss: int
    advertised_mss: int
    path_mtu_bytes: int
    send_window_scale: int
    receive_window_scale: int
    timestamps: bool
    sack: bool
    segments_in: int
    segments_out: int
    bytes_in: int
    bytes_out: int
    retransmitted_segments: int
    retransmitted_bytes: int
    duplicates_in: int
    timeouts: int


@dataclass(frozen=True, slots=True)
class TcpStatistics:
    """A whole layer, counted from its beginning; ``connections`` and what follows it as it is now."""

    segments_in: int
    segments_out: int
    resets_in: int
    resets_out: int
    retransmitted_segments: int
    timeouts: int
    tail_probes: int
    window_probes: int
    keepalives: int
    active_opens: int
    passive_opens: int
    connections: int
    syn_requests: int
    orphans: int
    time_wait: int
    listeners: int
    drops: Mapping[str, int]
    """What was refused, by reason: `WireError.key` and the stack's own, such as ``"paws"`` or ``"listener.full"``."""

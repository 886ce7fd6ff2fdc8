"""The transmission control block: everything that TCP remembers of one connection (RFC 9293 §3.3.1).

This file knows the variables, their units and what each is at the beginning. It
refuses to know what changes them: `_tcp_input` does for a segment that came,
`_tcp_output` for one that goes, `_tcp_timers` for time that passed, and
`_tcp_connection` for a call of the program.

Sequence numbers here do not wrap (`_tcp_sequence`). Names are RFC 9293's:
``snd_una``, ``rcv_nxt`` and so on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ._tcp_buffers import ReceiveQueue, SendQueue
from ._tcp_congestion import CongestionControl
from ._tcp_options import TcpOptions
from ._tcp_reassembly import Reassembly
from ._tcp_rto import RtoEstimator
from ._tcp_scoreboard import Scoreboard, Sent
from ._tcp_source_route import route_to
from ._tcp_state import TRANSITIONS, State, TcpEvent

if TYPE_CHECKING:
    from ._tcp_layer import TcpLayer
    from ._tcp_listener import TcpListener

__all__ = ["NEVER", "Key", "Tcb"]

NEVER: Final = float("inf")

Key = tuple[bytes, int, bytes, int]
"""Local address and port, remote address and port: what tells connections apart."""


class Tcb:
    """One connection's variables. Programs may read them, and change none."""

    __slots__ = (
        "_options",
        "accepted",
        "ack_at",
        "ack_now",
        "adv_mss",
        "board",
        "by_value",
        "challenged_at",
        "congestion",
        "counted_bytes",
        "counted_from",
        "counted_most",
        "cwnd_limited",
        "deadline",
        "detached",
        "dirty",
        "dsack",
        "error",
        "fin_pending",
        "heap_at",
        "heard_closed_at",
        "idle_from",
        "ip_options",
        "irs",
        "iss",
        "keepalive_at",
        "keepalive_probes",
        "key",
        "last_ack_sent",
        "layer",
        "life_at",
        "listener",
        "max_snd_wnd",
        "next_hop",
        "notified_room",
        "offload",
        "oob",
        "oob_at",
        "opened_passively",
        "orphan",
        "orphan_bytes",
        "path_mtu",
        "peer_closed",
        "peer_key",
        "peer_mss",
        "pingpong",
        "probes",
        "pushed",
        "queue",
        "quick_acks",
        "rcv_adv",
        "rcv_buf",
        "rcv_mss",
        "rcv_nxt",
        "rcv_sws",
        "rcv_up",
        "rcv_wscale",
        "read_closed",
        "reassembly",
        "received",
        "received_at",
        "rto",
        "rtx_at",
        "rtx_kind",
        "sack",
        "scaling",
        "small_end",
        "snd_buf",
        "snd_mss",
        "snd_nxt",
        "snd_una",
        "snd_up",
        "snd_wl1",
        "snd_wl2",
        "snd_wnd",
        "snd_wscale",
        "soft_error",
        "state",
        "stats",
        "stuck_from",
        "timestamps",
        "tlp_end",
        "tlp_is_retransmission",
        "ts_offset",
        "ts_recent",
        "ts_recent_at",
        "unacked_bytes",
        "unsent",
        "write_closed",
    )  # fmt: skip

    def __init__(self, layer: TcpLayer, key: Key, options: TcpOptions) -> None:
        config = layer.config
        self.layer = layer
        self.key: Key = key
        self.state = State.CLOSED
        self._options = options
        self.next_hop = key[2]
        """Where IP is to send first: the peer, or the first hop of a source route."""
        self.ip_options = b""
        self.opened_passively = False
        self.listener: TcpListener | None = None
        self.accepted = True
        """The program knows of it: events are told."""
        self.detached = False
        """The program has closed it: an orphan."""
        self.orphan = False
        """Counted among the layer's orphans."""
        self.orphan_bytes = 0
        """What it still had to send then, which is counted too."""
        self.error: int | None = None
        """errno of what ended it, until the program took it."""
        self.soft_error = 0
        """errno of what may pass, 0 once something is acknowledged again: an ICMP error, ETIMEDOUT for R1 (MUST-20)."""

        # --- sending ---
        self.iss = 0
        self.snd_una = 0
        self.snd_nxt = 0
        self.snd_wnd = 0
        self.snd_wl1 = 0
        self.snd_wl2 = 0
        self.max_snd_wnd = 0
        self.snd_wscale = 0
        """By how many bits the peer's window is to be shifted."""
        self.snd_mss = 536
        """Payload bytes of a full segment, its options already subtracted (RFC 9293 §3.7.1, Eff.snd.MSS)."""
        self.peer_mss = 536
        self.path_mtu = 0
        self.offload = False
        self.by_value = False
        """The link carries segments as values."""
        self.peer_key = key
        """What the peer calls this connection, where `by_value`."""
        self.unsent = SendQueue()
        self.queue: deque[Sent] = deque()
        """Sent and not acknowledged."""
        self.snd_buf = options.send_buffer_bytes or config.send_buffer_bytes
        self.notified_room = True
        """False: a send found no room, and the program waits for WRITABLE."""
        self.write_closed = False
        """No more data comes from the program."""
        self.fin_pending = False
        """A FIN is to be sent behind all data."""
        self.snd_up: int | None = None
        """Sequence number behind our urgent data, until that is acknowledged."""
        self.small_end = 0
        """End of the last segment that was sent and not full (Minshall's variant of Nagle's algorithm, as Linux)."""
        self.cwnd_limited = False
        self.idle_from = 0.0
        """When data was sent last."""
        self.stuck_from = NEVER
        """Since when nothing that was sent gets acknowledged."""

        # --- receiving ---
        self.irs = 0
        self.rcv_nxt = 0
        self.rcv_adv = 0
        """Right edge of the widest window ever told; it never moves left."""
        self.rcv_wscale = 0
        self.rcv_buf = options.receive_buffer_bytes or config.receive_buffer_bytes
        self.rcv_mss = 536
        """Bytes of the longest segments that the peer sends."""
        self.rcv_sws = 1
        """A window grows by no less than this (RFC 9293 §3.8.6.2.2)."""
        self.adv_mss = 536
        """The MSS that we told."""
        self.received = ReceiveQueue()
        self.reassembly: Reassembly | None = None
        self.read_closed = False
        """The program wants no more of it."""
        self.peer_closed = False
        """The peer's FIN is behind what was received."""
        self.rcv_up: int | None = None
        """Sequence number behind the peer's urgent data, until the program has read so far."""
        self.oob: bytes | None = None
        """The urgent byte that was taken out of the stream."""
        self.oob_at: int | None = None
        """Sequence number of the byte that is to be taken out, while it is still in the stream."""

        # --- acknowledging ---
        self.ack_now = False
        self.ack_at = NEVER
        self.unacked_bytes = 0
        self.pushed = 0
        """1 if some of these were the end of a write, 2 for two such short segments (Linux: ICSK_ACK_PUSHED, 2)."""
        self.last_ack_sent = 0
        self.quick_acks = config.quick_acks
        self.received_at = -NEVER
        """When data came last."""
        self.heard_closed_at = -NEVER
        """When the peer last told of a closed window."""
        self.pingpong = False
        """Data goes both ways in turn, so that acknowledgments may ride on it."""
        self.dsack: tuple[int, int] | None = None

        # --- options in force ---
        self.sack = False
        self.scaling = False
        self.timestamps = False
        self.ts_offset = 0
        self.ts_recent = 0
        self.ts_recent_at = 0.0

        # --- loss and congestion ---
        self.rto = RtoEstimator(initial_s=config.initial_rto_s, min_s=config.min_rto_s, max_s=config.max_rto_s)
        self.congestion: CongestionControl | None = None
        self.board: Scoreboard | None = None
        """Made at the first sign of trouble."""
        self.tlp_end = -1
        self.tlp_is_retransmission = False

        # --- receive buffer's growth ---
        self.counted_bytes = 0
        self.counted_from = 0.0
        self.counted_most = 1

        # --- timers: absolute times, NEVER when off ---
        self.rtx_at = NEVER
        self.rtx_kind = 0
        """What `rtx_at` is for: RTO, TLP, probe of a zero window, reordering (`_tcp_timers`)."""
        self.keepalive_at = NEVER
        self.keepalive_probes = 0
        self.probes = 0
        self.life_at = NEVER
        """End of TIME_WAIT, or of an orphan's patience."""
        self.deadline = NEVER
        self.heap_at = NEVER
        """The earliest entry of this connection in the layer's heap."""
        self.dirty = False
        self.challenged_at = -NEVER
        self.stats: list[int] = [0] * 8
        """Segments in, out; bytes in, out; retransmitted segments, bytes; duplicates in; timeouts."""

    def move(self, event: TcpEvent) -> None:
        """Go to the state to which `event` leads."""
        self.state = TRANSITIONS[self.state, event]

    def take_route(self, hops: Sequence[bytes]) -> None:
        """Send by way of `hops` from now on."""
        self.next_hop, self.ip_options = route_to(self.key[2], hops)

    def rest(self) -> None:
        """Give back what it does not need while nothing is on its way."""
        self.unsent.rest()
        self.received.rest()
        if self.board is not None and not self.board.active:
            self.board = None

    @property
    def flight_bytes(self) -> int:
        """Bytes sent and not acknowledged."""
        return self.snd_nxt - self.snd_una

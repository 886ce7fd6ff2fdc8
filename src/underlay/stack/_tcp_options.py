"""What can be chosen about TCP: per connection (`TcpOptions`) and for a whole layer (`TcpConfig`).

This file knows each choice, its default and where the default comes from. It
refuses to know what is done with it.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final, Literal

from ._contract import DEFAULT_TTL
from ._tcp_source_route import MAX_HOPS

__all__ = ["DEFAULT_OPTIONS", "Congestion", "TcpConfig", "TcpOptions"]

Congestion = Literal["cubic", "newreno"]


@dataclass(frozen=True, slots=True)
class TcpOptions:
    """What a program chooses for one connection; a listener's are inherited by what it accepts.

    An option that cannot be is ``OSError(EINVAL)``, as setsockopt(2) gives.

    >>> TcpOptions(nodelay=True).nodelay
    True
    """

    nodelay: bool = False
    """Nagle's algorithm off (TCP_NODELAY; RFC 9293 MUST-17)."""
    keepalive: bool = False
    """Probe an idle peer (SO_KEEPALIVE). RFC 9293 MUST-25: off by default."""
    keepalive_idle_s: float = 7200.0
    """How long it must be idle first (TCP_KEEPIDLE). RFC 9293 MUST-28: no less than two hours by default."""
    keepalive_interval_s: float = 75.0
    """Between probes (TCP_KEEPINTVL); Linux's default."""
    keepalive_count: int = 9
    """Unanswered probes that end it (TCP_KEEPCNT); Linux's default. RFC 9293 MUST-29: never a single one."""
    user_timeout_s: float | None = None
    """R2: how long sent data may stay without acknowledgment (TCP_USER_TIMEOUT; MUST-21). None: by count."""
    syn_retries: int | None = None
    """Retransmissions of a SYN before it is given up (TCP_SYNCNT). None: by `TcpConfig`."""
    linger_s: float | None = None
    """SO_LINGER; 0 makes ``close`` a reset, None and any other time an orderly end in the background."""
    congestion: Congestion = "cubic"
    """Congestion control: ``"cubic"`` (RFC 9438, Linux's default) or ``"newreno"`` (RFC 5681)."""
    oob_inline: bool = False
    """Leave the last urgent byte in the stream (SO_OOBINLINE; RFC 6093 §6 would rather have True, Linux has False)."""
    send_buffer_bytes: int | None = None
    """Limit of bytes not yet acknowledged (SO_SNDBUF). None: it grows with the congestion window."""
    receive_buffer_bytes: int | None = None
    """Limit of bytes not yet read (SO_RCVBUF). None: it grows with what is read in one round trip."""
    max_segment_bytes: int | None = None
    """Upper limit of the MSS, said to the peer and kept (TCP_MAXSEG)."""
    quick_ack: bool = False
    """Never delay an acknowledgment (TCP_QUICKACK)."""
    ttl: int = DEFAULT_TTL
    """Time to live or hop limit of what is sent (RFC 9293 MUST-49)."""
    dscp: int = 0
    """Differentiated services code point of what is sent, 0 to 63 (RFC 9293 MUST-48)."""
    reuse_address: bool = False
    """SO_REUSEADDR: another socket that sets it too may bind the port of this one."""
    reuse_port: bool = False
    """SO_REUSEPORT: the same, and both may listen."""
    source_route: tuple[bytes, ...] = ()
    """IPv4 addresses that every packet is to pass, in this order (RFC 9293 MUST-51); it overrides one received."""

    def __post_init__(self) -> None:
        wrong = (
            self.congestion not in ("cubic", "newreno")
            or self.keepalive_idle_s <= 0
            or self.keepalive_interval_s <= 0
            or not 0 < self.keepalive_count <= 127  # Linux: MAX_TCP_KEEPCNT
            or (self.user_timeout_s is not None and self.user_timeout_s <= 0)
            or (self.syn_retries is not None and not 0 < self.syn_retries <= 127)  # Linux: MAX_TCP_SYNCNT
            or (self.linger_s is not None and self.linger_s < 0)
            or (self.send_buffer_bytes is not None and self.send_buffer_bytes <= 0)
            or (self.receive_buffer_bytes is not None and self.receive_buffer_bytes <= 0)
            # Linux: TCP_MIN_MSS is 88, MAX_TCP_WINDOW 32767.
            or (self.max_segment_bytes is not None and not 88 <= self.max_segment_bytes <= 32767)
            or not 1 <= self.ttl <= 255
            or not 0 <= self.dscp <= 63
            or len(self.source_route) > MAX_HOPS
            or any(len(hop) != 4 for hop in self.source_route)
        )
        if wrong:
            raise OSError(errno.EINVAL, f"an option of TCP is out of range: {self}")


DEFAULT_OPTIONS: Final = TcpOptions()


@dataclass(frozen=True, slots=True)
class TcpConfig:
    """What holds for every connection of a layer; Linux's names of the same thing stand in parentheses."""

    options: TcpOptions = DEFAULT_OPTIONS
    """For connections and listeners that are given none."""
    timestamps: bool = True
    """RFC 7323 timestamps and PAWS (net.ipv4.tcp_timestamps)."""
    window_scaling: bool = True
    """RFC 7323 window scaling (tcp_window_scaling)."""
    sack: bool = True
    """RFC 2018 selective acknowledgment, RFC 8985 RACK-TLP (tcp_sack)."""
    initial_window_segments: int = 10
    """RFC 6928."""
    initial_rto_s: float = 1.0
    """RFC 6298 §2.1."""
    min_rto_s: float = 0.2
    """Least of what is added to SRTT, as Linux's TCP_RTO_MIN; RFC 6298 §2.4 would have 1 s for the sum."""
    max_rto_s: float = 120.0
    """Linux's TCP_RTO_MAX; RFC 6298 §2.5 asks for 60 s at least."""
    peer_ack_delay_s: float = 0.2
    """What a peer may delay an acknowledgment (TCP_DELACK_MAX; RFC 8985 §7.2, WCDelAckT)."""
    ack_delay_s: float = 0.04
    """What we delay one (TCP_DELACK_MIN, TCP_ATO_MIN). RFC 9293 MUST-40: less than 0.5 s."""
    quick_acks: int = 16
    """Segments that are acknowledged at once while a connection is young (TCP_MAX_QUICKACKS)."""
    syn_retries: int = 6
    """Least retransmissions of a SYN (tcp_syn_retries): 127 s, for which RFC 9293 MUST-23 has 3 minutes at least.

    It is retransmitted until `min_syn_timeout_s` too, and given up by the first timeout after both. A program may
    give less: ``user_timeout_s``, ``syn_retries``."""
    min_syn_timeout_s: float = 180.0
    """A SYN is given up after its retries and no sooner than this (RFC 9293 MUST-23). Linux has no such limit."""
    syn_ack_retries: int = 5
    """Retransmissions of a SYN, ACK (tcp_synack_retries)."""
    retries: int = 15
    """R2 where no user timeout is set, as a count of retransmissions (tcp_retries2): 924 s and more."""
    retries_advice: int = 3
    """R1: from here on the path is doubted (tcp_retries1; RFC 9293 MUST-20, SHLD-10)."""
    orphan_retries: int = 8
    """R2 of a connection that the program has closed (tcp_orphan_retries)."""
    msl_s: float = 30.0
    """Maximum segment lifetime; TIME_WAIT lasts twice as long, Linux's TCP_TIMEWAIT_LEN of 60 s. RFC 9293: 120 s."""
    fin_timeout_s: float = 60.0
    """How long a closed connection waits for the peer's FIN (tcp_fin_timeout)."""
    max_time_wait: int = 16384
    """Connections in TIME_WAIT, beyond which the oldest is dropped (tcp_max_tw_buckets)."""
    max_orphans: int = 32768
    """Connections that were closed but not finished, beyond which a close is a reset (tcp_max_orphans).

    Half of `max_connections`: those that go leave room for those that come. Linux reckons it from the machine's
    memory. One takes 3.4 KB here, so all of them 110 MB; what they still have to send has a limit of its own."""
    max_orphan_bytes: int = 256 << 20
    """What all of these still had to send when they were closed; beyond it a close is a reset too (tcp_mem[2])."""
    max_connections: int = 65536
    """All connections of the layer; beyond it a SYN is dropped and ``connect`` fails with ENOBUFS."""
    max_syn_backlog: int = 1024
    """Unfinished passive opens of one listener, however long its backlog is (tcp_max_syn_backlog)."""
    syn_cookies: bool = True
    """Answer with cookies when the SYN queue is full, instead of dropping (tcp_syncookies)."""
    challenge_acks_per_s: int = 1000
    """RFC 5961 §7 (tcp_challenge_ack_limit, before Linux 6 made it unlimited)."""
    invalid_ack_interval_s: float = 0.5
    """Least time between two acknowledgments of out-of-window segments, per connection (tcp_invalid_ratelimit)."""
    send_buffer_bytes: int = 16384 * 8
    """First limit of a send buffer; Linux's tcp_wmem begins with 16 KiB, but accounts memory, not payload."""
    max_send_buffer_bytes: int = 4 << 20
    """It grows no further by itself (tcp_wmem[2])."""
    receive_buffer_bytes: int = 128 << 10
    """First limit of a receive buffer (tcp_rmem[1])."""
    max_receive_buffer_bytes: int = 6 << 20
    """It grows no further by itself (tcp_rmem[2])."""
    max_reassembly_blocks: int = 1024
    """Holes in the stream that are kept track of, for each connection."""
    ephemeral_ports: tuple[int, int] = (32768, 60999)
    """First and last port for sockets that ask for none (ip_local_port_range)."""
    abort_connecting_on_unreachable: bool = True
    """An ICMP "unreachable" ends a handshake at once, as Linux does it (RFC 5461 §4); False: RFC 9293 MUST-56."""
    max_super_segment_bytes: int = 62 << 10
    """Most payload given to a link with offload at once: with its headers it fits the 64 KiB of an IP packet."""

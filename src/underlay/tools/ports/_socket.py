"""The nouns: a socket as the kernel describes it, its state, who holds it, and what TCP knows of its way.

This file knows names and how they are written. It refuses to know where they come from.

They are named tuples and not dataclasses, since there may be tens of thousands: a tuple of 20 is made in 0.3 µs here, a
frozen dataclass in 2.
"""

from __future__ import annotations

import enum
import socket
from typing import Final, NamedTuple

__all__ = ["CONGESTION_STATES", "WILDCARDS", "Owner", "Socket", "State", "TcpInfo", "endpoint", "interface_name"]

WILDCARDS: Final = ("0.0.0.0", "::")
"""What a socket is bound to that hears every address of its family (ip(7), INADDR_ANY; ipv6(7))."""

# enum tcp_ca_state, include/uapi/linux/tcp.h
CONGESTION_STATES: Final = ("open", "disorder", "cwr", "recovery", "loss")


class State(enum.StrEnum):
    """Where a socket is in its life: RFC 9293's names for TCP, and Linux's for what has none there."""

    ESTABLISHED = "established"
    SYN_SENT = "syn-sent"
    SYN_RECEIVED = "syn-received"
    FIN_WAIT_1 = "fin-wait-1"
    FIN_WAIT_2 = "fin-wait-2"
    TIME_WAIT = "time-wait"
    CLOSE_WAIT = "close-wait"
    LAST_ACK = "last-ack"
    LISTEN = "listen"
    CLOSING = "closing"
    BOUND = "bound"
    """A TCP socket that has a port and neither listens nor is connected; Linux tells of them since 6.8."""
    UNCONNECTED = "unconnected"
    """A UDP or Unix socket without a peer."""


class Owner(NamedTuple):
    """One descriptor of one process that holds a socket."""

    pid: int
    descriptor: int
    name: str
    """The process's short name (``comm``, at most 15 bytes), which it may have chosen itself."""
    command: str
    """Its command line, the words joined by spaces; empty for one that has ended meanwhile."""
    uid: int
    """The user that the process runs as."""


class TcpInfo(NamedTuple):
    """What TCP knows of a connection, of the kernel's ``struct tcp_info`` (tcp(7)); 0 where the kernel does not say."""

    congestion_control: str
    """The algorithm, such as ``cubic``; empty where the kernel does not say."""
    congestion_state: str
    """``open``, ``disorder``, ``cwr``, ``recovery`` or ``loss``."""
    rtt_us: int
    rtt_variation_us: int
    min_rtt_us: int
    """The least round trip of late; 0 before there was one."""
    rto_us: int
    cwnd_segments: int
    ssthresh_segments: int
    """0 while it was never set, when slow start has no end yet."""
    send_mss_bytes: int
    receive_mss_bytes: int
    path_mtu_bytes: int
    in_flight_segments: int
    """Sent and not yet acknowledged. Of a listener: the connections that wait to be accepted."""
    lost_segments: int
    """Of those in flight, taken for lost."""
    retransmitted_segments: int
    """Since the connection began."""
    bytes_sent: int
    bytes_retransmitted: int
    bytes_acknowledged: int
    """With one for the SYN, of the end that connected."""
    bytes_received: int
    segments_out: int
    segments_in: int
    unsent_bytes: int
    """In the send queue, and not sent yet."""
    peer_window_bytes: int
    pacing_rate_bytes_per_s: int
    """0 where nothing is paced."""
    delivery_rate_bytes_per_s: int
    busy_us: int
    """So long there was something to send."""
    receive_window_limited_us: int
    """Of the busy time, so long the peer's window held it."""
    send_buffer_limited_us: int
    """Of the busy time, so long the send buffer held it."""
    last_sent_ms: int
    """So long ago data was sent."""
    last_received_ms: int
    """So long ago data came."""


class Socket(NamedTuple):
    """One socket, as it was at the moment of asking.

    >>> Socket("tcp", 6, State.LISTEN, "::", 80, "::", 0, 0, 128).local
    '*:80'
    """

    protocol: str
    """``tcp``, ``udp`` or ``unix``."""
    family: int
    """4 or 6 for IPv4 or IPv6; 0 for a Unix socket."""
    state: State
    local_address: str
    """``0.0.0.0`` or ``::`` where it hears every address. Of a Unix socket its path, ``@name`` in the abstract
    namespace (unix(7)), empty without a name."""
    local_port: int
    peer_address: str
    """Of a Unix socket the peer's path, where that has one."""
    peer_port: int
    receive_queue: int
    """Bytes that came and were not read; of a TCP listener, the connections that wait to be accepted."""
    send_queue: int
    """Bytes that were not acknowledged; of a TCP listener, the most connections that may wait (its backlog)."""
    timer: str = ""
    """What runs: ``retransmit``, ``keepalive``, ``time-wait`` or ``probe`` of a closed window; or nothing."""
    timer_ms: int = 0
    """In so many ms it fires."""
    timer_retries: int = 0
    """So often it fired without an answer."""
    uid: int | None = None
    """The user that it belongs to; None where it belongs to none any more (TIME-WAIT, orphans)."""
    inode: int = 0
    """0 where no process has it: TIME-WAIT, orphans, connections that wait to be accepted."""
    cookie: int = 0
    """The kernel's own number for it, which is never used twice."""
    interface: int = 0
    """The index of the only interface that it is bound to; 0 for none."""
    v6_only: bool = False
    """An IPv6 socket that hears no IPv4 (IPV6_V6ONLY); told of those without a peer."""
    kind: str = "stream"
    """``stream``, ``datagram`` or ``seqpacket``."""
    peer_inode: int = 0
    """Of a connected Unix socket: its peer's."""
    owners: tuple[Owner, ...] = ()
    """Who holds it, as far as /proc shows it to this user."""
    tcp_info: TcpInfo | None = None

    @property
    def local(self) -> str:
        """Its own end as it is written: ``127.0.0.1:80``, ``[::1]:80``, ``*:80`` for IPv4 and IPv6, or a path."""
        if self.protocol == "unix":
            return self.local_address
        address = self.local_address
        # Only one without a peer can hear both families: what is connected has one address.
        if address == "::" and not self.v6_only and not self.peer_port:
            address = "*"
        return endpoint(address, self.local_port, self.interface)

    @property
    def peer(self) -> str:
        """The other end as it is written; ``*`` where there is none yet, and for a Unix socket its path."""
        if self.protocol == "unix":
            return self.peer_address
        if not self.peer_port and self.peer_address in WILDCARDS:
            return "*"
        return endpoint(self.peer_address, self.peer_port)

    @property
    def is_orphan(self) -> bool:
        """Whether its program closed it and the kernel still sees it to its end: no process has it any more."""
        return self.inode == 0 and self.state in _ORPHANS


_ORPHANS: Final = frozenset({State.FIN_WAIT_1, State.FIN_WAIT_2, State.CLOSING, State.LAST_ACK})


def endpoint(address: str, port: int, interface: int = 0) -> str:
    """Write an address and a port, with the interface where it is bound to one.

    >>> endpoint("::1", 80), endpoint("127.0.0.53", 53, 1)
    ('[::1]:80', '127.0.0.53%lo:53')
    """
    if interface:
        address = f"{address}%{interface_name(interface)}"
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def interface_name(index: int) -> str:
    """The name of an interface, or its index where it is gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)

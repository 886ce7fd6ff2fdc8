"""What a host may be told about itself, and what it tells: its limits, its times, its counters.

This file knows every number that the host's layers below TCP use, and where
each comes from. It refuses to know what the layers do with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ._contract import DEFAULT_TTL
from ._tcp_options import TcpConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """The limits and times of a host; each default says where it comes from."""

    forwarding: bool = False
    """Whether packets for others are passed on (RFC 1122 section 3.3.1.2: a host does not, unless it is told)."""

    ttl: int = DEFAULT_TTL
    """Time to live of ICMP and, unless a socket says otherwise, of UDP (RFC 1700)."""

    # Neighbours
    reachable_s: float = 30.0
    """How long a neighbour is believed after it answered (RFC 4861 section 10, REACHABLE_TIME)."""
    delay_first_probe_s: float = 5.0
    """How long an old neighbour is used before it is asked again (RFC 4861 section 10, DELAY_FIRST_PROBE_TIME)."""
    retransmit_s: float = 1.0
    """Between two questions for one neighbour (RFC 4861 section 10, RETRANS_TIMER; RFC 1122 section 2.3.2.1)."""
    neighbour_solicitations: int = 3
    """Questions without an answer until a neighbour is given up (RFC 4861 section 10, MAX_MULTICAST_SOLICIT)."""
    neighbours: int = 1024
    """Neighbours of one family on one interface (Linux: net.ipv4.neigh.default.gc_thresh3)."""
    pending_packets_per_neighbour: int = 64
    """Packets that wait for one neighbour; the oldest gives way (RFC 1122 section 2.3.2.2 wants one at least)."""
    pending_bytes: int = 1 << 20
    """Bytes that wait for all neighbours of one family on one interface."""

    # Addresses
    detect_duplicates: bool = False
    """Whether an address is used only after nobody objected (RFC 5227, RFC 4862); it takes up to 7 seconds."""
    announcements: int = 2
    """How often a new address is announced (RFC 5227 section 1.1, ANNOUNCE_NUM)."""

    # Fragments
    reassembly_timeout_s: float = 60.0
    """How long a packet waits for its missing pieces (RFC 1122 section 3.3.2; RFC 8200 section 4.5)."""
    reassembly_bytes: int = 4 << 20
    """Bytes of all waiting pieces (Linux: net.ipv4.ipfrag_high_thresh); the oldest packet gives way."""
    reassembly_packets: int = 1024
    """Packets that wait for pieces; the oldest gives way."""
    reassembly_fragments: int = 256
    """Pieces of one packet; 64 KiB in the smallest fragments of IPv6 (1280 bytes) are 53."""

    # ICMP
    icmp_errors_per_second: float = 1000.0
    """Error messages to all others (Linux: net.ipv4.icmp_msgs_per_sec)."""
    icmp_errors_burst: int = 50
    """…and how many of them at once (Linux: net.ipv4.icmp_msgs_burst)."""
    icmp_errors_per_peer_per_second: float = 1.0
    """Error messages to one peer (Linux: net.ipv4.icmp_ratelimit)."""
    icmp_errors_per_peer_burst: int = 6
    """…and how many of them at once (Linux: XRLIM_BURST_FACTOR in net/ipv4/route.c)."""
    echo_replies: int = 1024
    """Replies to our own echo requests that wait to be read; the newest gives way."""

    # Routes
    path_mtu_timeout_s: float = 600.0
    """How long a smaller path MTU is believed (RFC 1191 section 6.3, RFC 8201 section 4: ten minutes)."""
    path_mtu_entries: int = 1024
    """Destinations with a path MTU of their own; the oldest gives way."""
    smallest_path_mtu_bytes: int = 552
    """No IPv4 path MTU below it is believed (Linux: net.ipv4.route.min_pmtu); IPv6 has its own 1280."""
    route_cache: int = 4096
    """Destinations whose next hop is remembered; when it is full it begins anew."""

    # Queues
    output_frames: int = 16384
    """Frames that wait to be polled; the newest gives way."""
    local_packets: int = 4096
    """Packets from the host to itself that wait; the newest gives way."""

    # UDP
    udp_receive_bytes: int = 212_992
    """Bytes that wait in one UDP socket, 64 counted for each datagram (Linux: net.core.rmem_default)."""
    udp_sockets: int = 65_536
    """Open UDP sockets of one host."""
    ephemeral_ports: tuple[int, int] = (32_768, 60_999)
    """First and last port that is chosen for who names none (Linux: net.ipv4.ip_local_port_range)."""

    # Multicast
    group_memberships: int = 256
    """Multicast groups of one interface."""

    tcp: TcpConfig = field(default_factory=TcpConfig)
    """What the TCP layer is told."""


@dataclass(frozen=True, slots=True)
class InterfaceStatistics:
    """What went through one interface since it was added; bytes count link headers, as the frames did."""

    index: int
    name: str
    frames_received: int
    frames_sent: int
    bytes_received: int
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """What a host counted since it was made.

    ``drops`` maps a reason to how often it was the reason: the ``key`` of a
    ``WireError`` ("ipv4.checksum") or one of the stack's own ("ip.not_for_us").
    """

    interfaces: tuple[InterfaceStatistics, ...]
    packets_delivered: int
    packets_forwarded: int
    fragments_received: int
    fragments_sent: int
    packets_reassembled: int
    neighbours: int
    pending_packets: int
    drops: Mapping[str, int]


class Drops(dict[str, int]):
    """How often each reason made the stack drop something.

    >>> drops = Drops()
    >>> drops.count("ip.not_for_us")
    >>> drops
    {'ip.not_for_us': 1}
    """

    def count(self, reason: str) -> None:
        """Count one more drop for ``reason``."""
        self[reason] = self.get(reason, 0) + 1

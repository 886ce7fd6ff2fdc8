"""The TCP/IP stack as pure state machines: bytes, time and chance in; frames, events and the next deadline out.

This room knows ARP, IP, ICMP, UDP and TCP. It refuses to know sockets, clocks,
threads and the devices that carry its frames: time is an argument ``now`` in
seconds of any monotonic clock, chance an argument ``rng``.
"""

from __future__ import annotations

from ._contract import DEFAULT_TTL, Events, IcmpError, IcmpKind, IpOutput, Path, Rng
from ._host import Host
from ._host_config import HostConfig, HostStatistics, InterfaceStatistics
from ._icmp import EchoReply
from ._routes import Route
from ._tcp_connection import TcpConnection
from ._tcp_info import TcpInfo, TcpStatistics
from ._tcp_layer import TcpLayer
from ._tcp_listener import TcpListener
from ._tcp_options import Congestion, TcpConfig, TcpOptions
from ._tcp_packet import TcpPacket
from ._tcp_ports import Binding
from ._tcp_state import TRANSITIONS, State, TcpEvent
from ._udp import UdpLayer, UdpSocket, UdpStatistics

__all__ = [
    "DEFAULT_TTL",
    "TRANSITIONS",
    "Binding",
    "Congestion",
    "EchoReply",
    "Events",
    "Host",
    "HostConfig",
    "HostStatistics",
    "IcmpError",
    "IcmpKind",
    "InterfaceStatistics",
    "IpOutput",
    "Path",
    "Rng",
    "Route",
    "State",
    "TcpConfig",
    "TcpConnection",
    "TcpEvent",
    "TcpInfo",
    "TcpLayer",
    "TcpListener",
    "TcpOptions",
    "TcpPacket",
    "TcpStatistics",
    "UdpLayer",
    "UdpSocket",
    "UdpStatistics",
]

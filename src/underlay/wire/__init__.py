"""Headers and bytes, both ways: Ethernet, ARP, IP, ICMP, UDP, TCP, and the Internet checksum.

This room knows the layout of each header. It refuses to know state: who sends
which header when, and what a host does about one. A ``parse_*`` function takes
``(data, start, end)``, copies no payload, and gives an immutable value or raises
`WireError`, which names the field; a ``build_*`` function gives bytes.
"""

from __future__ import annotations

from ._addresses import BROADCAST_MAC, format_ip, format_mac, multicast_mac, parse_ip, parse_mac, solicited_node
from ._arp import ARP_REPLY, ARP_REQUEST, ArpPacket, build_arp, parse_arp
from ._checksum import checksum, pseudo_header_sum
from ._errors import WireError
from ._ethernet import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_VLAN,
    EthernetHeader,
    build_ethernet,
    check_fcs,
    ethernet_fcs,
    parse_ethernet,
)
from ._frame import Frame
from ._icmp4 import (
    ICMP4_DESTINATION_UNREACHABLE,
    ICMP4_ECHO_REPLY,
    ICMP4_ECHO_REQUEST,
    ICMP4_PARAMETER_PROBLEM,
    ICMP4_REDIRECT,
    ICMP4_SOURCE_QUENCH,
    ICMP4_TIME_EXCEEDED,
    IcmpMessage,
    build_icmp4,
    parse_icmp4,
)
from ._ipv4 import PROTOCOL_ICMP, PROTOCOL_IGMP, PROTOCOL_TCP, PROTOCOL_UDP, IPv4Header, build_ipv4, parse_ipv4
from ._tcp import (
    ACK,
    CWR,
    ECE,
    FIN,
    PSH,
    RST,
    SYN,
    TCP_CHECKSUM_OFFSET,
    URG,
    TcpSegment,
    build_tcp_header,
    parse_tcp,
)
from ._udp import UdpHeader, build_udp, parse_udp

__all__ = [
    "ACK",
    "ARP_REPLY",
    "ARP_REQUEST",
    "BROADCAST_MAC",
    "CWR",
    "ECE",
    "ETHERTYPE_ARP",
    "ETHERTYPE_IPV4",
    "ETHERTYPE_IPV6",
    "ETHERTYPE_VLAN",
    "FIN",
    "ICMP4_DESTINATION_UNREACHABLE",
    "ICMP4_ECHO_REPLY",
    "ICMP4_ECHO_REQUEST",
    "ICMP4_PARAMETER_PROBLEM",
    "ICMP4_REDIRECT",
    "ICMP4_SOURCE_QUENCH",
    "ICMP4_TIME_EXCEEDED",
    "PROTOCOL_ICMP",
    "PROTOCOL_IGMP",
    "PROTOCOL_TCP",
    "PROTOCOL_UDP",
    "PSH",
    "RST",
    "SYN",
    "TCP_CHECKSUM_OFFSET",
    "URG",
    "ArpPacket",
    "EthernetHeader",
    "Frame",
    "IPv4Header",
    "IcmpMessage",
    "TcpSegment",
    "UdpHeader",
    "WireError",
    "build_arp",
    "build_ethernet",
    "build_icmp4",
    "build_ipv4",
    "build_tcp_header",
    "build_udp",
    "check_fcs",
    "checksum",
    "ethernet_fcs",
    "format_ip",
    "format_mac",
    "multicast_mac",
    "parse_arp",
    "parse_ethernet",
    "parse_icmp4",
    "parse_ip",
    "parse_ipv4",
    "parse_mac",
    "parse_tcp",
    "parse_udp",
    "pseudo_header_sum",
    "solicited_node",
]

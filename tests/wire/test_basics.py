"""The first promises of each header: what is built parses, and a real captured frame is read right.

The thorough tests stand beside this file, one for each header. This one also asks that the room's face is whole.
"""

from __future__ import annotations

import pytest

from underlay import wire
from underlay.wire import ACK, PSH, SYN, Frame, WireError

HERE = bytes([10, 9, 0, 1])
THERE = bytes([10, 9, 0, 2])


def test_each_name_of_the_rooms_face_is_there_once() -> None:
    assert len(set(wire.__all__)) == len(wire.__all__)
    for name in wire.__all__:
        assert getattr(wire, name) is not None


def test_a_whole_packet_is_built_and_read_back() -> None:
    payload = b"GET / HTTP/1.1\r\n\r\n"
    tcp = wire.build_tcp_header(HERE, THERE, 4000, 80, 1, 2, PSH | ACK, 502, payload, timestamp=(7, 8))
    ip = wire.build_ipv4(HERE, THERE, wire.PROTOCOL_TCP, len(tcp) + len(payload))
    frame = Frame(wire.build_ethernet(b"destin", b"source", wire.ETHERTYPE_IPV4) + ip + tcp, payload).to_bytes()
    padded = memoryview(frame + bytes(9))

    ethernet = wire.parse_ethernet(padded)
    start = ethernet.header_bytes
    header = wire.parse_ipv4(padded, start)
    end = start + header.total_bytes
    start += header.header_bytes
    pseudo = wire.pseudo_header_sum(header.source, header.destination, header.protocol, end - start)
    segment = wire.parse_tcp(padded, start, end, pseudo=pseudo)
    assert (ethernet.destination, ethernet.ethertype) == (b"destin", wire.ETHERTYPE_IPV4)
    assert (header.source, header.destination) == (HERE, THERE)
    assert segment[:12] == (4000, 80, 1, 2, PSH | ACK, 502, 0, None, None, False, (), (7, 8))
    assert segment.payload == payload
    assert isinstance(segment.payload, memoryview)


def test_a_syn_carries_its_options_as_linux_lays_them_out() -> None:
    head = wire.build_tcp_header(
        HERE, THERE, 1, 2, 3, 0, SYN, 64240, mss=1460, window_scale=7, sack_permitted=True, timestamp=(1, 0)
    )
    assert head[20:].hex(" ", 4) == "020405b4 0402080a 00000001 00000000 01030307"
    segment = wire.parse_tcp(head, pseudo=wire.pseudo_header_sum(HERE, THERE, 6, len(head)))
    assert (segment.mss, segment.window_scale, segment.sack_permitted, segment.timestamp) == (1460, 7, True, (1, 0))


def test_an_udp_datagram_and_an_echo_are_built_and_read_back() -> None:
    udp = wire.build_udp(HERE, THERE, 1000, 53, b"odd")
    assert wire.parse_udp(udp + b"odd", pseudo=wire.pseudo_header_sum(HERE, THERE, 17, 11))[:3] == (1000, 53, 11)
    echo = wire.build_icmp4(wire.ICMP4_ECHO_REQUEST, 0, 5 << 16 | 6, b"abc")
    message = wire.parse_icmp4(echo)
    assert (message.type, message.identifier, message.sequence, message.body) == (8, 5, 6, b"abc")


def test_arp_is_built_and_read_back() -> None:
    packet = wire.ArpPacket(wire.ARP_REQUEST, b"sender", HERE, bytes(6), THERE)
    assert wire.parse_arp(wire.build_arp(*packet)) == packet


@pytest.mark.parametrize(
    ("parse", "key"),
    [
        (wire.parse_ethernet, "ethernet.header"),
        (wire.parse_arp, "arp.header"),
        (wire.parse_ipv4, "ipv4.header"),
        (wire.parse_icmp4, "icmp4.header"),
        (wire.parse_udp, "udp.header"),
        (wire.parse_tcp, "tcp.header"),
        (wire.parse_ipv6, "ipv6.header"),
        (wire.parse_icmp6, "icmp6.header"),
        (wire.parse_igmp, "igmp.header"),
        (wire.parse_dns, "dns.header"),
    ],
)
def test_too_few_bytes_are_an_error_of_the_header(parse: object, key: str) -> None:
    assert callable(parse)
    with pytest.raises(WireError) as caught:
        parse(b"short")
    assert caught.value.key == key


def test_a_neighbor_solicitation_behind_a_router_alert_is_built_and_read_back() -> None:
    here, there = wire.parse_ip("fe80::1"), wire.solicited_node(wire.parse_ip("fe80::2"))
    wanted = wire.NeighborSolicitation(wire.parse_ip("fe80::2"), wire.NdOptions(source_mac=b"ourmac"))
    icmp = wire.build_nd(here, there, wanted)
    extensions = wire.build_ipv6_extensions([wire.IPV6_ROUTER_ALERT], wire.PROTOCOL_ICMP6)
    packet = wire.build_ipv6(here, there, wire.IPV6_HOP_BY_HOP, len(extensions + icmp), hop_limit=255)
    packet += extensions + icmp
    header = wire.parse_ipv6(packet)
    assert (header.transport, header.header_bytes, header.hop_limit) == (wire.PROTOCOL_ICMP6, 48, 255)
    assert wire.check_ipv6_extensions(header) is None
    pseudo = wire.pseudo_header_sum(here, there, header.transport, len(icmp))
    assert wire.parse_nd(wire.parse_icmp6(packet, header.header_bytes, pseudo=pseudo)) == wanted


def test_igmp_and_dns_are_built_and_read_back() -> None:
    report = wire.build_igmp(wire.IGMP_V2_REPORT, bytes([224, 0, 0, 251]))
    assert wire.parse_igmp(report) == (wire.IGMP_V2_REPORT, 0, bytes([224, 0, 0, 251]))
    query = wire.parse_dns(wire.build_dns_query(9, "example.org."))
    answer = wire.DnsRecord("example.org", wire.DNS_A, 60, THERE)
    response = wire.parse_dns(wire.build_dns_answer(query, [answer]))
    assert (response.identification, response.is_response, response.answers) == (9, True, (answer,))

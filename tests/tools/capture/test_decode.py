"""What a packet says in one line; and that whatever bytes there are, something is said and nothing raised."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from underlay.tools.capture import Describer, decode
from underlay.tools.capture import _decode as module
from underlay.wire import (
    ACK,
    ARP_REPLY,
    ARP_REQUEST,
    DNS_A,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ICMP4_DESTINATION_UNREACHABLE,
    ICMP4_ECHO_REQUEST,
    ICMP4_TIME_EXCEEDED,
    PROTOCOL_ICMP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    SYN,
    DnsRecord,
    build_arp,
    build_dns_answer,
    build_dns_query,
    build_ethernet,
    build_icmp4,
    build_ipv4,
    build_ipv6,
    build_ipv6_fragment_header,
    build_tcp_header,
    build_udp,
    parse_dns,
    parse_ip,
)

HERE, THERE = bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])
HERE6, THERE6 = parse_ip("fd00::1"), parse_ip("fd00::2")
MACS = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
RAW, ETHERNET, SLL, SLL2 = 101, 1, 113, 276


def ip(protocol: int, payload: bytes, **more: int | bool) -> bytes:
    return build_ipv4(HERE, THERE, protocol, len(payload), **more) + payload  # type: ignore[arg-type]


def udp(payload: bytes, ports: tuple[int, int] = (4000, 7)) -> bytes:
    return ip(PROTOCOL_UDP, build_udp(HERE, THERE, *ports, payload) + payload)


def tcp(payload: bytes = b"", flags: int = ACK, **options: int) -> bytes:
    header = build_tcp_header(HERE, THERE, 4000, 80, 77, 1, flags, 500, payload, **options)  # type: ignore[arg-type]
    return ip(PROTOCOL_TCP, header + payload)


def said(data: bytes, link_type: int = RAW, size_bytes: int | None = None) -> str:
    packet = Describer().describe(link_type, data, len(data) if size_bytes is None else size_bytes, 0, "eth0")
    return packet.body


QUERY = build_dns_query(7, "example.org")
ANSWER = build_dns_answer(parse_dns(QUERY), [DnsRecord("example.org", DNS_A, 60, bytes([192, 0, 2, 7]))])
QUOTED = ip(PROTOCOL_UDP, build_udp(HERE, THERE, 4000, 7, b"") + b"")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (
            tcp(flags=SYN, mss=1460, window_scale=7),
            "TCP 10.9.0.1:4000 > 10.9.0.2:80  SYN, seq 0, win 500, mss 1460, scale 7  [handshake 1/3]",
        ),
        (tcp(b"hello"), "TCP 10.9.0.1:4000 > 10.9.0.2:80  ACK, seq 1, ack 1, win 500, 5 bytes"),
        (udp(b"hello"), "UDP 10.9.0.1:4000 > 10.9.0.2:7  5 bytes"),
        (udp(QUERY, (4000, 53)), "DNS 10.9.0.1:4000 > 10.9.0.2:53  query A example.org"),
        (udp(ANSWER, (53, 4000)), "DNS 10.9.0.1:53 > 10.9.0.2:4000  answer A example.org: 192.0.2.7"),
        (
            udp(build_dns_answer(parse_dns(QUERY), rcode=3), (53, 4000)),
            "DNS 10.9.0.1:53 > 10.9.0.2:4000  no such name: A example.org",
        ),
        (udp(b"not dns", (53, 4000)), "UDP 10.9.0.1:53 > 10.9.0.2:4000  7 bytes"),
        (
            ip(PROTOCOL_ICMP, build_icmp4(ICMP4_ECHO_REQUEST, 0, 7 << 16 | 1)),
            "ICMP 10.9.0.1 > 10.9.0.2  echo request, id 7, seq 1",
        ),
        (
            ip(PROTOCOL_ICMP, build_icmp4(ICMP4_DESTINATION_UNREACHABLE, 3, 0, QUOTED)),
            "ICMP 10.9.0.1 > 10.9.0.2  unreachable: port of UDP 10.9.0.1:4000 > 10.9.0.2:7",
        ),
        (ip(PROTOCOL_ICMP, build_icmp4(ICMP4_TIME_EXCEEDED, 0, 0, b"")), "ICMP 10.9.0.1 > 10.9.0.2  time exceeded"),
        (ip(47, bytes(10)), "GRE 10.9.0.1 > 10.9.0.2  10 bytes"),
        (ip(253, bytes(10)), "IP 253 10.9.0.1 > 10.9.0.2  10 bytes"),
        (
            ip(PROTOCOL_UDP, bytes(8), more_fragments=True, identification=9),
            "IPv4 10.9.0.1 > 10.9.0.2  fragment of UDP, id 9, bytes 0 to 8",
        ),
        (
            build_ipv6(HERE6, THERE6, 17, 9) + build_udp(HERE6, THERE6, 5, 6, b"x") + b"x",
            "UDP [fd00::1]:5 > [fd00::2]:6  1 byte",
        ),
        (
            build_ipv6(HERE6, THERE6, 44, 16) + build_ipv6_fragment_header(17, 5, 8, True) + bytes(8),
            "IPv6 fd00::1 > fd00::2  fragment of UDP, id 5, bytes 8 to 16",
        ),
    ],
)
def test_a_line_of(data: bytes, line: str) -> None:
    assert said(data) == line


@pytest.mark.parametrize(
    ("payload", "kind", "line"),
    [
        (build_arp(ARP_REQUEST, MACS[1], HERE, bytes(6), THERE), ETHERTYPE_ARP, "who has 10.9.0.2? tell 10.9.0.1"),
        (build_arp(ARP_REPLY, MACS[0], THERE, MACS[1], HERE), ETHERTYPE_ARP, "10.9.0.2 is at 02:00:00:00:00:02"),
        (bytes(20), 0x88CC, "20 bytes"),
        (bytes(20), 0x1234, "20 bytes"),
        (bytes(20), 20, "20 bytes"),
    ],
)
def test_a_line_of_what_is_not_ip(payload: bytes, kind: int, line: str) -> None:
    text = said(build_ethernet(*MACS, kind, payload), ETHERNET)
    assert text.endswith(f"02:00:00:00:00:01 > 02:00:00:00:00:02  {line}")
    assert text.split()[0] == {ETHERTYPE_ARP: "ARP", 0x88CC: "LLDP", 0x1234: "0x1234", 20: "LLC"}[kind]


def test_tags_and_cooked_headers_and_families_are_passed_over() -> None:
    packet = udp(b"x")
    tagged = build_ethernet(*MACS, ETHERTYPE_IPV4, packet, vlan=5)
    twice = tagged[:12] + bytes.fromhex("88a80007") + tagged[12:]
    cooked = struct.pack("!HHH8sH", 4, 1, 6, MACS[1], ETHERTYPE_IPV4) + packet
    cooked_tagged = struct.pack("!HHH8sHHH", 4, 1, 6, MACS[1], 0x8100, 5, ETHERTYPE_IPV4) + packet
    cooked2 = struct.pack("!HHiHBB8s", ETHERTYPE_IPV4, 0, 2, 1, 4, 6, MACS[1]) + packet
    for link_type, data in [
        (ETHERNET, tagged), (ETHERNET, twice), (SLL, cooked), (SLL2, cooked2), (228, packet), (12, packet),
        (SLL, cooked_tagged),
        (0, bytes([2, 0, 0, 0]) + packet), (0, bytes([0, 0, 0, 2]) + packet), (108, bytes([0, 0, 0, 2]) + packet),
    ]:  # fmt: skip
        assert said(data, link_type) == "UDP 10.9.0.1:4000 > 10.9.0.2:7  1 byte", link_type
    assert said(packet, 147) == "? link type 147, 29 bytes"


INNER = tcp(b"hi")
INNER6 = build_ipv6(HERE6, THERE6, 17, 9) + build_udp(HERE6, THERE6, 5, 6, b"x") + b"x"
FRAME = build_ethernet(*MACS, ETHERTYPE_IPV4, INNER)
VXLAN = bytes.fromhex("08000000 00000700") + FRAME
CARRIED = {
    "IP-in-IP 10.9.0.1 > 10.9.0.2": ip(4, INNER),
    "GRE 10.9.0.1 > 10.9.0.2": ip(47, bytes.fromhex("00000800") + INNER),
    "VXLAN 7 10.9.0.1 > 10.9.0.2": ip(17, build_udp(HERE, THERE, 5, 4789, VXLAN) + VXLAN),
}
LINE = "TCP 10.9.0.1:4000 > 10.9.0.2:80  ACK, seq 1, ack 1, win 500, 2 bytes"


@pytest.mark.parametrize("name", CARRIED)
def test_what_a_tunnel_carries_is_read(name: str) -> None:
    packet = CARRIED[name]
    assert said(packet) == f"{LINE}, in {name}"
    assert decode(RAW, packet, len(packet)).tunnels == (name.split()[0],)
    for size in range(len(packet)):  # what is not there to read is what it is outside
        assert decode(RAW, packet[:size], len(packet)).protocol
        assert decode(RAW, packet[:size], size).protocol


def test_a_tunnel_of_other_kinds() -> None:
    keyed = bytes.fromhex("a0006558 00000000 00000007") + FRAME  # a checksum and a key, and a whole frame
    assert said(ip(47, keyed)) == f"{LINE}, in GRE 10.9.0.1 > 10.9.0.2"
    assert said(ip(41, INNER6)) == "UDP [fd00::1]:5 > [fd00::2]:6  1 byte, in IPv6-in-IP 10.9.0.1 > 10.9.0.2"
    labels = bytes.fromhex("00010040 00020140")
    assert said(build_ethernet(*MACS, 0x8847, labels + INNER), ETHERNET) == f"{LINE}, in MPLS 16+32"
    ppp = struct.pack("!BBHHH", 0x11, 0, 7, 2 + len(INNER), 0x21)
    assert said(build_ethernet(*MACS, 0x8864, ppp + INNER), ETHERNET) == f"{LINE}, in PPPoE 7"
    mpls_in_gre = ip(47, bytes.fromhex("00008847 00010140") + INNER)
    assert said(mpls_in_gre) == f"{LINE}, in MPLS 16, in GRE 10.9.0.1 > 10.9.0.2"


def test_what_cannot_be_passed_over_is_what_it_is_outside() -> None:
    for payload in ("01000800", "40000800", "00000000", "0000880b", ""):  # version, route, no type, PPP, cut
        data = bytes.fromhex(payload) + bytes(len(payload) and 20)
        assert said(ip(47, data)) == f"GRE 10.9.0.1 > 10.9.0.2  {len(data)} bytes"
    for labels in (bytes.fromhex("00010040") * 1000, bytes.fromhex("0001014000"), b""):
        text = said(build_ethernet(*MACS, 0x8847, labels), ETHERNET)
        assert text.startswith("MPLS 02:00:00:00:00:01 > ")
    assert said(ip(17, build_udp(HERE, THERE, 5, 4789, b"no") + b"no")).startswith("UDP 10.9.0.1:5 > 10.9.0.2:4789")


def test_tunnels_in_tunnels_without_end_are_not_followed() -> None:
    packet = INNER
    for _ in range(1000):
        packet = ip(4, packet)
    assert said(packet).count("in IP-in-IP") == module._MOST_TUNNELS < 1000


def test_a_segment_in_its_tunnel_and_out_of_it_is_no_retransmission() -> None:
    describer = Describer()
    lines = [describer.describe(RAW, data, len(data), 0, "any") for data in (*CARRIED.values(), INNER)]
    assert [line.notes for line in lines] == [()] * 4
    again = describer.describe(RAW, INNER, len(INNER), 10**9, "any")
    assert again.notes == ("retransmission",)


def test_padding_is_not_payload() -> None:
    frame = build_ethernet(*MACS, ETHERTYPE_IPV4, tcp(b""), pad=True)
    assert len(frame) == 60
    assert decode(ETHERNET, frame, 60).payload_bytes == 0


def test_a_packet_that_was_cut_says_how_long_it_was() -> None:
    packet = tcp(bytes(1000))
    whole, cut = decode(RAW, packet, len(packet)), decode(RAW, packet[:40], len(packet))
    assert (cut.payload_bytes, cut.source_port) == (whole.payload_bytes, whole.source_port) == (1000, 4000)
    assert said(packet[:30], size_bytes=len(packet)) == "TCP 10.9.0.1:4000 > 10.9.0.2:80  cut after 10 bytes"
    assert said(packet[:22], size_bytes=len(packet)) == "TCP 10.9.0.1 > 10.9.0.2  cut after 2 bytes"
    assert said(packet[:10], size_bytes=len(packet)) == "? cut after 10 bytes"


def test_a_super_frame_without_a_length_is_as_long_as_it_is() -> None:
    packet = bytearray(tcp(bytes(1000)))
    packet[2:4] = b"\0\0"
    read = decode(RAW, bytes(packet), 180_000)
    assert (read.protocol, read.payload_bytes) == ("TCP", 180_000 - 40)
    six = build_ipv6(HERE6, THERE6, PROTOCOL_TCP, 0) + build_tcp_header(HERE6, THERE6, 1, 2, 3, 4, ACK, 5, b"")
    assert decode(RAW, six, 180_000).payload_bytes == 180_000 - 60


def test_a_malformed_header_is_named() -> None:
    packet = bytearray(tcp())
    packet[32] = 0x10
    assert "TCP 10.9.0.1:4000 > 10.9.0.2:80  malformed: tcp.data_offset" in said(bytes(packet))
    short = bytearray(udp(b"x"))
    short[24:26] = b"\0\3"
    assert "malformed: udp.length" in said(bytes(short))
    assert said(b"\x46" + bytes(19)).startswith("IPv4 0.0.0.0 > 0.0.0.0  malformed: ipv4.ihl")
    assert said(b"\x45" + bytes(9)).startswith("IPv4 malformed: ipv4.header")


def with_options(options: bytes, payload: bytes = b"hi", flags: int = ACK) -> bytes:
    """Give a segment with these bytes for options, right or wrong."""
    options += bytes(-len(options) % 4)
    header = bytearray(build_tcp_header(HERE, THERE, 4000, 80, 77, 1, flags, 500, b""))
    header[12] = 20 + len(options) << 2
    return ip(PROTOCOL_TCP, bytes(header) + options + payload)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (bytes([8, 0]), "tcp.timestamps: option 8: it says it has 0 bytes"),
        (bytes([253, 1]), "tcp.option: option 253: it says it has 1 bytes"),
        (bytes([253, 200]), "tcp.option: option 253: its 200 bytes end behind the header"),
        (bytes([2, 5, 1, 1, 1]), "tcp.mss: option 2: it has 5 bytes, not 4"),
        (bytes([1, 1, 1, 8]), "tcp.timestamps: option 8: it has no length"),
        (bytes([5, 12]) + bytes(10), "tcp.sack: option 5: 12 bytes are no whole blocks"),
    ],
)
def test_a_segment_with_a_wrong_option_is_a_segment(options: bytes, wrong: str) -> None:
    head = "TCP 10.9.0.1:4000 > 10.9.0.2:80  ACK, seq 1, ack 1, win 500, 2 bytes"
    assert said(with_options(options)) == f"{head}, malformed: {wrong}"


def test_what_stands_before_a_wrong_option_is_read() -> None:
    packet = with_options(bytes([2, 4, 5, 180, 1, 3, 0]), b"", SYN)
    segment = decode(RAW, packet, len(packet)).segment
    assert segment is not None and (segment.mss, segment.window_scale) == (1460, None)


def test_a_segment_whose_options_were_cut_off_is_a_segment() -> None:
    """What 64 bytes of each frame hold, and so did tcpdump for long: a header, but not all of its timestamps."""
    packet = with_options(bytes([1, 1, 8, 10]) + bytes(8), bytes(1000))
    line = said(packet[:50], size_bytes=len(packet))
    assert line == "TCP 10.9.0.1:4000 > 10.9.0.2:80  ACK, seq 1, ack 1, win 500, 1000 bytes, cut after 30 bytes"


def test_a_length_that_is_not_there_is_not_believed() -> None:
    packet = bytearray(tcp(b"hi"))
    head = "TCP 10.9.0.1:4000 > 10.9.0.2:80  ACK, seq 1, ack 1, win 500, 2 bytes"
    packet[2:4] = b"\0\0"  # a card will cut it
    assert said(bytes(packet)) == head
    packet[2:4] = b"\7\0"
    assert said(bytes(packet)) == f"{head}, its IP header says 1792 bytes"
    packet[2:4] = b"\0\x10"
    assert said(bytes(packet)).startswith("IPv4 10.9.0.1 > 10.9.0.2  malformed: ipv4.total_length: 16 bytes")
    six = build_ipv6(HERE6, THERE6, 17, 59) + build_udp(HERE6, THERE6, 5, 6, b"x") + b"x"
    assert said(six) == "UDP [fd00::1]:5 > [fd00::2]:6  1 byte, its IP header says 59 bytes"


def test_a_jumbogram_is_as_long_as_it_is() -> None:
    segment = build_tcp_header(HERE6, THERE6, 1, 2, 3, 4, ACK, 5, b"")
    option = struct.pack("!BBBBI", PROTOCOL_TCP, 0, 0xC2, 4, 8 + len(segment) + 70_000)  # RFC 2675 §2
    packet = build_ipv6(HERE6, THERE6, 0, 0) + option + segment + bytes(70_000)
    assert decode(RAW, packet, len(packet)).payload_bytes == 70_000


def test_wrong_options_of_ip_are_passed_over_and_named() -> None:
    packet = bytearray(tcp(b"hi"))
    packet[0], packet[3] = 0x46, len(packet) + 4
    packet[20:20] = bytes([7, 0, 0, 0])
    line = said(bytes(packet))
    assert line.startswith(
        "TCP 10.9.0.1:4000 > 10.9.0.2:80  ACK, seq 1, ack 1, win 500, 2 bytes, malformed: ipv4.options"
    )
    six = build_ipv6(HERE6, THERE6, 60, 80) + bytes([60, 0, 1, 4, 0, 0, 0, 0]) * 10
    assert said(six).startswith("IPv6 fd00::1 > fd00::2  malformed: ipv6.extensions")


def test_a_datagram_of_wrong_length_has_ports() -> None:
    for length in (0, 4, 100):
        packet = ip(PROTOCOL_UDP, struct.pack("!HHHH", 5, 6, length, 0) + b"abc")
        assert said(packet).startswith("UDP 10.9.0.1:5 > 10.9.0.2:6  malformed: udp.length")


def test_what_a_stranger_wrote_steers_no_terminal() -> None:
    query = build_dns_query(7, r"a\027[2Jb.org")
    assert "\x1b" not in said(udp(query, (4000, 53)))
    packet = Describer().describe(RAW, udp(b""), 28, 0, "eth0", "in", "evil\x1b[2J\n")
    assert "\x1b" not in packet.line and "\n" not in packet.line


def test_what_a_stranger_wrote_is_no_longer_than_what_a_person_reads() -> None:
    packet = Describer().describe(RAW, udp(b""), 28, 0, "n" * 60_000, "in", "c" * 1_000_000)
    assert packet.owner == "c" * 1000 + "…" and packet.interface == "n" * 1000 + "…"


ICMP6_KINDS = (1, 2, 128, 130, 133, 134, 135, 136, 137, 143)
WHOLE = [
    tcp(b"hello", SYN, mss=1, window_scale=2),
    udp(ANSWER, (53, 4000)),
    udp(QUERY, (5353, 5353)),
    QUOTED,
    ip(PROTOCOL_ICMP, build_icmp4(ICMP4_DESTINATION_UNREACHABLE, 3, 0, QUOTED)),
    ip(2, bytes(8)),
    *(build_ipv6(HERE6, THERE6, 58, 32) + bytes([kind]) + bytes(31) for kind in ICMP6_KINDS),
]


@given(
    data=st.one_of(st.binary(max_size=100), st.sampled_from(WHOLE)),
    link_type=st.sampled_from([0, 1, 12, 101, 108, 113, 228, 229, 276, 999]),
    cut=st.integers(0, 120),
    flips=st.lists(st.tuples(st.integers(0, 119), st.integers(1, 255)), max_size=4),
    longer=st.integers(0, 100_000),
)
@example(data=b"", link_type=0, cut=0, flips=[], longer=0)
def test_any_bytes_are_survived(
    data: bytes, link_type: int, cut: int, flips: list[tuple[int, int]], longer: int
) -> None:
    broken = bytearray(data)
    for place, flip in flips:
        if place < len(broken):
            broken[place] ^= flip
    kept = bytes(broken[: max(0, len(broken) - cut)])
    packet = Describer().describe(link_type, kept, len(kept) + longer, 0, "eth0")
    assert packet.line.isprintable()
    assert packet.as_json()["schema"] == "underlay.capture/1"


def test_each_prefix_of_a_packet_is_survived_on_each_link() -> None:
    for whole in WHOLE:
        for link_type, head in ((RAW, b""), (ETHERNET, bytes(12) + b"\x08\0"), (SLL, bytes(14) + b"\x08\0")):
            data = head + whole
            for size in range(len(data)):
                assert decode(link_type, data[:size], len(data)).protocol
                assert decode(link_type, data[:size], size).protocol


def test_tags_without_end_are_not_followed() -> None:
    data = bytes(12) + bytes.fromhex("81000001") * 1000
    assert said(data, ETHERNET).startswith("0x8100 ")
    assert module._MOST_TAGS < 1000

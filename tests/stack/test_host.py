"""A host as its owner sees it: frames in, frames out, events, the next deadline, and what it counted."""

from __future__ import annotations

import errno
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stack._net import Hub, Net, ip, mac, two_hosts

from underlay.stack import Host, HostConfig
from underlay.wire import (
    ETHERTYPE_IPV4,
    IPv6Extension,
    build_arp,
    build_ethernet,
    build_icmp4,
    build_icmp6,
    build_ipv4,
    build_ipv6,
    build_ipv6_extensions,
    build_tcp_header,
    build_udp,
    parse_ipv4,
)


def lonely(*addresses: str, mac: bytes | None = None, config: HostConfig | None = None) -> tuple[Host, int]:
    """A host on a point-to-point link (or with a MAC address), and its interface."""
    host = Host("lonely", rng=random.Random(7), config=config or HostConfig())
    return host, host.add_interface(addresses, mac=mac)


def udp4(source: str, destination: str, payload: bytes = b"hi", port: int = 9) -> bytes:
    """An IPv4 packet with a UDP datagram."""
    a, b = ip(source), ip(destination)
    segment = build_udp(a, b, 1000, port, payload) + payload
    return build_ipv4(a, b, 17, len(segment)) + segment


def test_two_hosts_find_each_other_and_echo() -> None:
    net, a, b, hub = two_hosts()
    for target in ("10.0.0.2", "fd00::2"):
        assert a.icmp.send_echo(ip(target), 7, 1, b"anybody there?", net.now)
        net.settle()
        reply = a.icmp.receive_reply()
        assert reply is not None
        assert (reply.source, reply.identifier, reply.sequence, reply.data) == (ip(target), 7, 1, b"anybody there?")
    assert [each.data[12:14].hex() for each in hub.passed] == ["0806", "0806", "0800", "0800"] + ["86dd"] * 4
    assert a.statistics().drops == b.statistics().drops == {}


@pytest.mark.parametrize("target", ["10.0.0.2", "fd00::2"])
@pytest.mark.parametrize("size", [0, 1472, 1473, 9000, 65_000])
def test_an_echo_larger_than_the_link_goes_in_fragments(target: str, size: int) -> None:
    net, a, _, hub = two_hosts()
    data = random.Random(size).randbytes(size)
    a.icmp.send_echo(ip(target), 7, 1, data, net.now)
    net.settle()
    reply = a.icmp.receive_reply()
    assert reply is not None
    assert reply.data == data
    assert max(len(each.data) for each in hub.passed) <= 1514


def test_an_idle_host_waits_for_nothing() -> None:
    net, a, b, _ = two_hosts()
    a.icmp.send_echo(ip("10.0.0.2"), 7, 1, b"", net.now)
    net.run(60.0)
    assert a.next_deadline() is None
    assert b.next_deadline() is None


def test_a_point_to_point_link_has_no_link_header_and_no_questions() -> None:
    host, tun = lonely("10.9.0.2/24", "fd09::2/64")
    host.receive_frame(tun, udp4("10.9.0.1", "10.9.0.2"), 1.0)
    (index, frame) = host.poll_frames(1.0)[0]
    assert index == tun
    assert parse_ipv4(frame.to_bytes()).protocol == 1
    host.icmp.send_echo(ip("fd09::1"), 1, 1, b"x", 1.0)
    assert host.poll_frames(1.0)[0][1].to_bytes()[0] >> 4 == 6


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "10.9.0.2"])
def test_a_host_answers_itself_without_a_frame(address: str) -> None:
    host, _ = lonely("10.9.0.2/24")
    assert host.icmp.send_echo(ip(address), 7, 1, b"x" * 20_000, 0.0)
    assert host.next_deadline() == 0.0
    assert host.poll_frames(0.0) == []
    reply = host.icmp.receive_reply()
    assert reply is not None
    assert (reply.source, len(reply.data)) == (ip(address), 20_000)


def test_loopback_addresses_never_leave_and_never_come_in() -> None:
    host, tun = lonely("10.9.0.2/24")
    host.add_route("0.0.0.0/0", None, tun)
    assert host.icmp.send_echo(ip("127.0.0.9"), 1, 1, b"", 0.0)
    assert host.poll_frames(0.0) == []
    host.receive_frame(tun, udp4("127.0.0.1", "10.9.0.2"), 0.0)
    host.receive_frame(tun, udp4("10.9.0.1", "127.0.0.1"), 0.0)
    assert host.statistics().drops == {"ip.martian_source": 1, "ip.martian_destination": 1}
    assert host.poll_frames(0.0) == []


@pytest.mark.parametrize(
    "source", ["0.0.0.0", "0.1.2.3", "10.9.0.255", "10.9.0.2", "224.0.0.1", "255.255.255.255", "240.0.0.1"]
)
def test_a_source_that_no_other_host_can_have_is_dropped_and_counted(source: str) -> None:
    host, tun = lonely("10.9.0.2/24")
    host.receive_frame(tun, udp4(source, "10.9.0.2"), 0.0)
    assert host.statistics().drops == {"ip.martian_source": 1}
    assert host.poll_frames(0.0) == []


def test_what_is_for_others_is_counted_and_nobody_is_told() -> None:
    host, tap = lonely("10.9.0.2/24", mac=mac(1))
    to_me = build_ethernet(mac(1), mac(2), ETHERTYPE_IPV4)
    host.receive_frame(tap, to_me + udp4("10.9.0.1", "10.9.0.3"), 0.0)
    host.receive_frame(tap, build_ethernet(mac(3), mac(2), ETHERTYPE_IPV4) + udp4("10.9.0.1", "10.9.0.2"), 0.0)
    host.receive_frame(tap, to_me + udp4("10.9.0.1", "224.1.1.1"), 0.0)
    host.receive_frame(tap, build_ethernet(mac(1), mac(2), 0x88CC) + b"lldp", 0.0)
    host.receive_frame(tap, build_ethernet(mac(1), mac(2), ETHERTYPE_IPV4, vlan=5) + udp4("10.9.0.1", "10.9.0.2"), 0.0)
    assert host.statistics().drops == {
        "ip.not_for_us": 2,
        "ethernet.not_for_us": 1,
        "ethernet.type_unknown": 1,
        "ethernet.vlan": 1,
    }


def test_a_priority_tag_without_a_vlan_is_read() -> None:
    host, tap = lonely("10.9.0.2/24", mac=mac(1))
    frame = build_ethernet(mac(1), mac(2), ETHERTYPE_IPV4, vlan=5 << 13) + udp4("10.9.0.1", "10.9.0.2")
    host.receive_frame(tap, frame, 0.0)
    assert host.statistics().drops == {"udp.no_socket": 1}


def test_padding_behind_a_short_packet_is_not_part_of_it() -> None:
    net, _, b, hub = two_hosts()
    socket = b.udp.open()
    socket.bind(bytes(4), 9)
    frame = build_ethernet(mac(2), mac(1), ETHERTYPE_IPV4, udp4("10.0.0.1", "10.0.0.2"), pad=True)
    b.receive_frame(1, frame, net.now)
    assert socket.receive_from() == (b"hi", (ip("10.0.0.1"), 1000))
    assert hub.passed == []


def test_a_gateway_takes_what_is_not_on_the_link() -> None:
    net, a, _, hub = two_hosts()
    a.add_route("0.0.0.0/0", "10.0.0.2", 1)
    a.add_route("default", "fd00::2", 1)
    a.icmp.send_echo(ip("192.0.2.1"), 1, 1, b"", net.now)
    a.icmp.send_echo(ip("2001:db8::1"), 1, 1, b"", net.now)
    net.settle()
    routed = [each.data for each in hub.passed if ip("192.0.2.1") in each.data or ip("2001:db8::1") in each.data]
    assert [frame[:6] for frame in routed] == [mac(2), mac(2)]
    assert str(a.routes()[-1]).startswith("::/0 via fd00::2")


def test_without_a_route_nothing_is_sent() -> None:
    host, _ = lonely("10.9.0.2/24")
    assert not host.icmp.send_echo(ip("192.0.2.1"), 1, 1, b"", 0.0)
    host._output.send(ip("10.9.0.2"), ip("192.0.2.1"), 17, b"", b"", 0.0)
    assert host.statistics().drops == {"ip.no_route": 1}


def test_a_new_route_is_used_at_once() -> None:
    net = Net()
    left, right = Hub(), Hub()
    host = net.host("a")
    net.join(left, host, ["10.0.0.1/24"], None)
    net.join(right, host, ["10.1.0.1/24"], None)
    host.add_route("0.0.0.0/0", None, 1)
    host.icmp.send_echo(ip("192.0.2.1"), 1, 1, b"", 0.0)
    host.add_route("192.0.2.0/24", None, 2)
    host.icmp.send_echo(ip("192.0.2.1"), 1, 1, b"", 0.0)
    sent = host.poll_frames(0.0)
    assert [index for index, _ in sent] == [1, 2]
    assert [parse_ipv4(frame.to_bytes()).source for _, frame in sent] == [ip("10.0.0.1"), ip("10.1.0.1")]


def test_the_source_is_the_address_nearest_to_the_next_hop() -> None:
    host, tun = lonely("10.0.0.1/24", "10.1.0.1/24", "fd00::1/64", "fe80::1/64")
    host.add_route("0.0.0.0/0", "10.1.0.9", tun)
    host.add_route("::/0", None, tun)
    for destination, source in [
        ("10.0.0.7", "10.0.0.1"),
        ("10.1.0.7", "10.1.0.1"),
        ("192.0.2.1", "10.1.0.1"),
        ("2001:db8::1", "fd00::1"),
        ("fe80::9", "fe80::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("10.1.0.1", "10.1.0.1"),
    ]:
        path = host._output.path(ip(destination))
        assert path is not None
        assert path.source == ip(source), destination


def test_a_path_from_an_address_of_somebody_else_does_not_exist() -> None:
    host, _ = lonely("10.0.0.1/24")
    assert host._output.path(ip("10.0.0.2"), ip("10.0.0.1")) is not None
    assert host._output.path(ip("10.0.0.2"), ip("10.0.0.9")) is None
    assert host._output.path(ip("10.0.0.2"), ip("127.0.0.1")) is None


def test_a_link_without_offload_never_gets_more_than_its_mtu() -> None:
    host, _ = lonely("10.0.0.1/24")
    send = host._output.send
    here, there = ip("10.0.0.1"), ip("10.0.0.2")
    send(here, there, 6, bytes(20), bytes(1460), 0.0)
    send(here, there, 6, bytes(20), bytes(1461), 0.0)
    send(here, there, 6, bytes(20), bytes(14600), 0.0, segment_bytes=1460)
    assert [frame.size_bytes for _, frame in host.poll_frames(0.0)] == [1500]
    assert host.statistics().drops == {"ip.too_big": 2}


def test_a_link_with_offload_gets_super_frames_uncopied_with_what_is_left_to_do() -> None:
    host = Host("fast", rng=random.Random(7))
    tap = host.add_interface(["10.0.0.1/24"], mac=mac(1), offload=True)
    here, there = ip("10.0.0.1"), ip("10.0.0.2")
    frame = build_ethernet(mac(1), mac(2), 0x0806, build_arp(1, mac(2), there, bytes(6), here))
    host.receive_frame(tap, frame, 0.0)
    host.poll_frames(0.0)
    path = host._output.path(there)
    assert path is not None
    assert path.offload
    payload = memoryview(bytes(60_000))
    host._output.send(here, there, 6, bytes(32), payload, 0.0, segment_bytes=1448, checksum_offset=16)
    host._output.send(here, there, 6, bytes(32), payload, 0.0, segment_bytes=1449, checksum_offset=16)
    host._output.send(here, there, 6, bytes(32), bytes(65_500), 0.0, segment_bytes=1448, checksum_offset=16)
    ((_, sent),) = host.poll_frames(0.0)
    assert sent.payload is payload
    assert (sent.segment_bytes, sent.checksum_start, sent.checksum_offset) == (1448, 34, 16)
    assert host.statistics().drops == {"ip.too_big": 2}


def test_a_checksum_that_the_link_vouches_for_is_not_looked_at() -> None:
    host, tun = lonely("10.0.0.1/24")
    socket = host.udp.open()
    socket.bind(bytes(4), 9)
    wrong = bytearray(udp4("10.0.0.2", "10.0.0.1"))
    wrong[26] ^= 1
    host.receive_frame(tun, bytes(wrong), 0.0)
    assert socket.receive_from() is None
    host.receive_frame(tun, memoryview(wrong), 0.0, checksum_valid=True)
    assert socket.receive_from() is not None
    assert host.statistics().drops == {"udp.checksum": 1}


def test_an_unknown_protocol_is_told_to_its_sender() -> None:
    host, tun = lonely("10.0.0.1/24", "fd00::1/64")
    host.receive_frame(tun, build_ipv4(ip("10.0.0.2"), ip("10.0.0.1"), 132, 8) + bytes(8), 0.0)
    host.receive_frame(tun, build_ipv6(ip("fd00::2"), ip("fd00::1"), 132, 8) + bytes(8), 0.0)
    four, six = (frame.to_bytes() for _, frame in host.poll_frames(0.0))
    assert tuple(four[20:22]) == (3, 2)
    assert tuple(six[40:42]) == (4, 1)
    assert int.from_bytes(six[44:48], "big") == 6


def test_an_unknown_protocol_behind_extensions_is_named_where_it_stands() -> None:
    host, tun = lonely("fd00::1/64")
    chain = build_ipv6_extensions([IPv6Extension(60, bytes(8)), IPv6Extension(60, bytes(16))], 132)
    host.receive_frame(tun, build_ipv6(ip("fd00::2"), ip("fd00::1"), 60, 24 + 8) + chain + bytes(8), 0.0)
    ((_, frame),) = host.poll_frames(0.0)
    assert int.from_bytes(frame.to_bytes()[44:48], "big") == 48
    assert chain[8] == 132


@pytest.mark.parametrize(
    ("source", "destination"), [("::", "fd00::1"), ("::1", "fd00::1"), ("fd00::1", "fd00::1"), ("ff02::1", "fd00::1"),
                                ("::ffff:10.0.0.2", "fd00::1")]
)  # fmt: skip
def test_an_ipv6_source_that_no_other_host_can_have_is_dropped_and_counted(source: str, destination: str) -> None:
    host, tun = lonely("fd00::1/64")
    host.receive_frame(tun, build_ipv6(ip(source), ip(destination), 17, 8) + bytes(8), 0.0)
    assert host.statistics().drops == {"ip6.martian_source": 1}


def test_what_goes_through_an_interface_is_counted() -> None:
    host, tun = lonely("10.0.0.1/24")
    packet = udp4("10.0.0.2", "10.0.0.1")
    host.receive_frame(tun, packet, 0.0)
    host.icmp.send_echo(ip("10.0.0.2"), 1, 1, bytes(100), 0.0)
    host._output.send(ip("10.0.0.1"), ip("10.0.0.2"), 17, bytes(8), bytes(100), 0.0)
    sent = host.poll_frames(0.0)
    counted = host.statistics().interfaces[tun]
    assert (counted.frames_received, counted.bytes_received) == (1, len(packet))
    assert (counted.frames_sent, counted.bytes_sent) == (3, sum(frame.size_bytes for _, frame in sent))


def test_an_ipv6_option_that_must_be_known_is_answered_with_its_place() -> None:
    host, tun = lonely("fd00::1/64")
    option = IPv6Extension(60, bytes([17, 0, 0x80 | 30, 4, 0, 0, 0, 0]))
    datagram = bytes(8)
    chain = build_ipv6_extensions([option], 17)
    packet = build_ipv6(ip("fd00::2"), ip("fd00::1"), 60, 16) + chain + datagram
    host.receive_frame(tun, packet, 0.0)
    ((_, frame),) = host.poll_frames(0.0)
    assert tuple(frame.to_bytes()[40:42]) == (4, 2)
    assert int.from_bytes(frame.to_bytes()[44:48], "big") == 42


def test_output_that_nobody_polls_is_bounded() -> None:
    host, _ = lonely("10.0.0.1/24", config=HostConfig(output_frames=3, local_packets=2))
    for _ in range(5):
        host.icmp.send_echo(ip("10.0.0.2"), 1, 1, b"", 0.0)
        host.icmp.send_echo(ip("127.0.0.1"), 1, 1, b"", 0.0)
    assert len(host.poll_frames(0.0)) == 3
    assert host.statistics().drops == {"host.output_full": 2, "host.local_full": 3}


def test_the_memory_of_destinations_is_bounded() -> None:
    host, tun = lonely("10.0.0.1/24", config=HostConfig(route_cache=16))
    host.add_route("0.0.0.0/0", None, tun)
    for number in range(100):
        assert host._output.path(bytes([20, 0, 0, number])) is not None
        assert len(host._output._hops) <= 16


@pytest.mark.parametrize(
    "addresses",
    [["10.0.0.1/33"], ["224.0.0.1/24"], ["10.0.0.0/24"], ["10.0.0.255/24"], ["0.0.0.0/8"], ["nonsense"], ["::1/x"]],
)
def test_an_address_that_no_host_can_have_is_refused(addresses: list[str]) -> None:
    host = Host("wrong", rng=random.Random(1))
    with pytest.raises(ValueError, match=r"\w"):
        host.add_interface(addresses, mac=None)
    assert host.add_interface(["10.0.0.1/24"], mac=None) == 1


def test_an_address_twice_and_a_route_by_no_interface_are_refused() -> None:
    host, _ = lonely("10.0.0.1/24")
    with pytest.raises(OSError, match="already") as twice:
        host.add_interface(["10.0.0.1/8"], mac=None)
    assert twice.value.errno == errno.EEXIST
    with pytest.raises(OSError, match="already") as twice:
        host.add_interface(["10.3.0.1/24", "10.3.0.1/16"], mac=None)
    assert twice.value.errno == errno.EEXIST
    with pytest.raises(ValueError, match="no interface 5"):
        host.add_route("0.0.0.0/0", None, 5)
    with pytest.raises(ValueError, match="MTU"):
        host.add_interface(["10.2.0.1/8"], mac=None, mtu_bytes=20)
    with pytest.raises(ValueError, match="IPv6 needs"):
        host.add_interface(["fd00::1/64"], mac=None, mtu_bytes=576)
    with pytest.raises(ValueError, match="one station"):
        host.add_interface(["10.2.0.1/8"], mac=b"\xff" * 6)


def test_two_links_that_know_us_by_one_mac_address_are_both_used() -> None:
    host, _ = lonely("fd00::1/64", mac=mac(7))
    second = host.add_interface(["fd01::1/64"], mac=mac(7))
    assert [each.address for each in host.addresses(second)] == [ip("fd01::1")]


def test_an_ethernet_interface_with_ipv6_has_a_link_local_address() -> None:
    host, tap = lonely("fd00::1/64", mac=mac(7))
    assert [each.address for each in host.addresses(tap)] == [ip("fd00::1"), ip("fe80::ff:fe00:7")]
    assert host.is_local(ip("fe80::ff:fe00:7"))
    assert not host.is_local(ip("fe80::1"))


A4, B4 = ip("10.0.0.1"), ip("10.0.0.2")
A6, B6 = ip("fd00::1"), ip("fd00::2")


def _seeds() -> list[bytes]:
    """Frames that reach each layer, to be spoilt."""
    four = build_ethernet(mac(1), mac(2), 0x0800)
    six = build_ethernet(mac(1), mac(2), 0x86DD)
    datagram = build_udp(B4, A4, 1, 9, b"data") + b"data"
    datagram6 = build_udp(B6, A6, 1, 9, b"data") + b"data"
    echo = build_icmp4(8, 0, 1, b"data")
    quote = build_ipv4(A4, B4, 17, 8) + datagram[:8]
    echo6 = build_icmp6(B6, A6, 128, 0, 1, b"data")
    segment = build_tcp_header(B4, A4, 1, 2, 3, 4, 2, 100, mss=1460)
    nd = build_icmp6(B6, A6, 135, 0, 0, A6 + b"\x01\x01" + mac(2))
    return [
        build_ethernet(mac(1), mac(2), 0x0806, build_arp(1, mac(2), B4, bytes(6), A4)),
        four + build_ipv4(B4, A4, 17, len(datagram)) + datagram,
        four + build_ipv4(B4, A4, 17, len(datagram), more_fragments=True, dont_fragment=False) + datagram,
        four + build_ipv4(B4, A4, 17, len(datagram), fragment_offset_bytes=8, dont_fragment=False) + datagram,
        four + build_ipv4(B4, A4, 1, len(echo)) + echo,
        four + build_ipv4(B4, A4, 1, 36) + build_icmp4(3, 4, 1400, quote),
        four + build_ipv4(B4, A4, 6, len(segment)) + segment,
        four + build_ipv4(B4, ip("224.0.0.1"), 2, 8) + bytes([0x11, 100, 0xEE, 0x9B, 0, 0, 0, 0]),
        six + build_ipv6(B6, A6, 17, len(datagram6)) + datagram6,
        six + build_ipv6(B6, A6, 58, len(echo6)) + echo6,
        six + build_ipv6(B6, A6, 58, len(nd), hop_limit=255) + nd,
        six + build_ipv6(B6, A6, 44, 8 + len(datagram6)) + bytes([17, 0, 0, 1, 0, 0, 0, 1]) + datagram6,
    ]


SEEDS = _seeds()
SPOILT = st.tuples(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 255)), max_size=4),
    st.integers(0, 20),
)


@settings(max_examples=400)
@given(
    st.lists(st.one_of(st.binary(max_size=80), SPOILT), min_size=1, max_size=20),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_no_frame_whatever_it_holds_raises_or_fills_the_memory(
    frames: list[bytes | tuple[bytes, list[tuple[int, int]], int]],
    ethernet: bool,
    checksum_valid: bool,
    forwarding: bool,
) -> None:
    config = HostConfig(forwarding=forwarding, neighbours=4, reassembly_packets=4, route_cache=8, path_mtu_entries=4)
    host = Host("target", rng=random.Random(1), config=config)
    index = host.add_interface(["10.0.0.1/24", "fd00::1/64"], mac=mac(1) if ethernet else None)
    host.add_route("0.0.0.0/0", None, index)
    socket = host.udp.open()
    socket.bind(bytes(4), 9)
    host.tcp.listen(bytes(4), 2, 0.0)
    now = 0.0
    for each in frames:
        if isinstance(each, tuple):
            data = bytearray(each[0])
            for place, value in each[1]:
                data[place % len(data)] = value
            frame = bytes(data[: len(data) - each[2]])[0 if ethernet else 14 :]
        else:
            frame = each
        now += 0.5
        host.receive_frame(index, frame, now, checksum_valid=checksum_valid)
        host.handle_timers(now)
        for out, sent in host.poll_frames(now):
            assert out == index
            assert sent.size_bytes <= 1514
        host.poll_events()
    statistics = host.statistics()
    assert statistics.neighbours <= 8
    assert len(host._input.fragments4) <= 4
    assert len(host._output._hops) + len(host._output._scoped_hops) <= 8
    assert len(host._output.path_mtu) <= 4

"""A host that is a router: what it passes on, what it changes, and what it says to senders."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stack._net import Hub, Net, ip, mac

from underlay.stack import Host, HostConfig
from underlay.wire import (
    build_ipv4,
    build_ipv6,
    build_tcp_header,
    build_udp,
    parse_icmp4,
    parse_ipv4,
    parse_ipv6,
    parse_tcp,
    pseudo_header_sum,
)

ROUTER = HostConfig(forwarding=True)
A4, B4 = ip("10.0.0.1"), ip("10.1.0.1")
A6, B6 = ip("fd00::1"), ip("fd01::1")


def line(left_mtu: int = 1500, right_mtu: int = 1500) -> tuple[Net, Host, Host, Host, Hub, Hub]:
    """a — router — b, with a default route at both ends."""
    net, left, right = Net(), Hub(), Hub()
    a, router, b = net.host("a"), net.host("router", ROUTER), net.host("b")
    six = min(left_mtu, right_mtu) >= 1280
    for hub, host, v4, v6, number, mtu_bytes in [
        (left, a, "10.0.0.1/24", "fd00::1/64", 1, left_mtu),
        (left, router, "10.0.0.254/24", "fd00::254/64", 2, left_mtu),
        (right, router, "10.1.0.254/24", "fd01::254/64", 3, right_mtu),
        (right, b, "10.1.0.1/24", "fd01::1/64", 4, right_mtu),
    ]:
        net.join(hub, host, [v4, v6] if six else [v4], mac(number), mtu_bytes)
    for host, v4, v6 in ((a, "10.0.0.254", "fd00::254"), (b, "10.1.0.254", "fd01::254")):
        host.add_route("0.0.0.0/0", v4, 1)
        if six:
            host.add_route("::/0", v6, 1)
    net.run(5.0)
    return net, a, router, b, left, right


def bare_router() -> Host:
    """A router between two point-to-point links, 10.0.0.0/24 and 10.1.0.0/24."""
    host = Host("router", rng=random.Random(1), config=ROUTER)
    host.add_interface(["10.0.0.254/24", "fd00::254/64"], mac=None)
    host.add_interface(["10.1.0.254/24", "fd01::254/64"], mac=None)
    return host


@pytest.mark.parametrize("target", ["10.1.0.1", "fd01::1"])
def test_two_networks_reach_each_other_by_a_router(target: str) -> None:
    net, a, router, _, _, _ = line()
    a.icmp.send_echo(ip(target), 1, 1, b"far", net.now)
    net.settle()
    reply = a.icmp.receive_reply()
    assert reply is not None
    assert (reply.source, reply.ttl) == (ip(target), 63)
    assert router.statistics().packets_forwarded == 2


@pytest.mark.parametrize("size", [1200, 1473, 9000])
def test_a_datagram_crosses_a_smaller_link_in_smaller_pieces(size: int) -> None:
    net, a, router, b, _, right = line(right_mtu=800) if size != 1200 else line(right_mtu=576)
    server, client = b.udp.open(), a.udp.open()
    server.bind(bytes(4), 9)
    payload = random.Random(size).randbytes(size)
    client.send_to(payload, (B4, 9), net.now)
    net.settle()
    received = server.receive_from()
    assert received is not None
    assert received[0] == payload
    assert max(len(each.data) for each in right.passed) <= 814
    assert router.statistics().fragments_sent > 1
    assert b.statistics().packets_reassembled == 1


@pytest.mark.parametrize("target", ["10.1.0.1", "fd01::1"])
def test_a_sender_finds_the_path_mtu_by_what_the_router_says(target: str) -> None:
    net, a, router, b, _, right = line(right_mtu=1280)
    version = 6 if ":" in target else 4
    server, client = b.udp.open(version), a.udp.open(version)
    server.bind(bytes(len(ip(target))), 9)
    client.connect(ip(target), 9)
    client.dont_fragment = True
    client.send_to(bytes(1400), None, net.now)
    net.settle()
    assert all(bytes(1000) not in each.data for each in right.passed)
    with pytest.raises(OSError, match="ICMP"):
        client.send_to(bytes(1400), None, net.now)
    path = a._output.path(ip(target))
    assert path is not None
    assert path.mtu_bytes == 1280
    client.dont_fragment = False
    client.send_to(bytes(1400), None, net.now)
    net.settle()
    assert server.receive_from() is not None
    assert router.statistics().drops == {"forward.too_big": 1}


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_whose_time_is_over_is_told_to_its_sender_by_the_router(version: int) -> None:
    host = bare_router()
    if version == 4:
        packet = build_ipv4(A4, B4, 17, 8, ttl=1) + build_udp(A4, B4, 1, 2, b"")
    else:
        packet = build_ipv6(A6, B6, 17, 8, hop_limit=1) + build_udp(A6, B6, 1, 2, b"")
    host.receive_frame(1, packet, 0.0)
    ((index, frame),) = host.poll_frames(0.0)
    data = frame.to_bytes()
    assert index == 1
    if version == 4:
        assert parse_ipv4(data).source == ip("10.0.0.254")
        assert tuple(data[20:22]) == (11, 0)
    else:
        assert parse_ipv6(data).source == ip("fd00::254")
        assert tuple(data[40:42]) == (3, 0)
    assert host.statistics().drops == {"forward.ttl": 1}


@pytest.mark.parametrize("protocol", [1, 17])
def test_a_packet_without_anything_in_it_has_its_time_told_too(protocol: int) -> None:
    host = bare_router()
    host.receive_frame(1, build_ipv4(A4, B4, protocol, 0, ttl=1), 0.0)
    host.receive_frame(1, build_ipv6(A6, B6, 58, 0, hop_limit=1), 0.0)
    assert len(host.poll_frames(0.0)) == 2


def test_a_destination_without_a_route_and_one_that_is_silent_are_told_to_the_sender() -> None:
    net, a, router, _, left, _ = line()
    for target, code in (("192.0.2.1", 0), ("10.1.0.77", 1)):
        left.passed.clear()
        a.icmp.send_echo(ip(target), 1, 1, b"", net.now)
        net.run(5.0)
        told = [each.data for each in left.passed if each.sender is router and each.data[12:14] == b"\x08\x00"]
        assert [(parse_icmp4(data, 34).type, parse_icmp4(data, 34).code) for data in told] == [(3, code)]
        assert parse_ipv4(told[0], 14).source == ip("10.0.0.254")


@given(ttl=st.integers(2, 255), payload=st.binary(max_size=100), identification=st.integers(0, 0xFFFF))
def test_only_the_time_to_live_changes_and_the_checksum_stays_right(
    ttl: int, payload: bytes, identification: int
) -> None:
    host = bare_router()
    packet = build_ipv4(A4, B4, 99, len(payload), ttl=ttl, identification=identification) + payload
    host.receive_frame(1, packet, 0.0)
    ((index, frame),) = host.poll_frames(0.0)
    assert index == 2
    data = frame.to_bytes()
    header = parse_ipv4(data)
    assert header == parse_ipv4(packet)._replace(ttl=ttl - 1)
    assert data[20:] == payload


def test_what_belongs_to_one_link_is_not_passed_on() -> None:
    host = bare_router()
    for source, destination in [
        ("169.254.0.1", "10.1.0.1"),
        ("10.0.0.1", "169.254.0.1"),
        ("10.0.0.1", "10.1.0.255"),
        ("10.0.0.1", "240.0.0.1"),
        ("10.0.0.1", "0.0.0.1"),
    ]:
        host.receive_frame(1, build_ipv4(ip(source), ip(destination), 17, 0), 0.0)
    host.receive_frame(1, build_ipv6(ip("fe80::9"), B6, 17, 0), 0.0)
    host.receive_frame(1, build_ipv6(A6, ip("fe80::9"), 17, 0), 0.0)
    host.receive_frame(1, build_ipv4(A4, ip("127.0.0.9"), 17, 0), 0.0)
    drops = dict(host.statistics().drops)
    assert host.poll_frames(0.0) == []
    assert sum(drops.values()) == 8
    assert drops["forward.scope"] >= 6


def test_a_host_that_is_no_router_passes_nothing_on() -> None:
    net = Net()
    plain = net.host("plain")
    hub = Hub()
    net.join(hub, plain, ["10.9.0.1/24"], None)
    plain.receive_frame(1, build_ipv4(A4, B4, 17, 0), net.now)
    assert plain.statistics().drops == {"ip.not_for_us": 1}


@pytest.mark.parametrize("version", [4, 6])
def test_a_transport_checksum_that_the_link_left_open_is_filled_in(version: int) -> None:
    host = bare_router()
    here, there = (A4, B4) if version == 4 else (A6, B6)
    payload = b"data" * 10
    segment = build_tcp_header(here, there, 1, 2, 3, 4, 16, 100, payload=payload, offload=True) + payload
    header = build_ipv4(here, there, 6, len(segment)) if version == 4 else build_ipv6(here, there, 6, len(segment))
    host.receive_frame(1, header + segment, 0.0, checksum_valid=True)
    ((_, frame),) = host.poll_frames(0.0)
    data = frame.to_bytes()
    pseudo = pseudo_header_sum(here, there, 6, len(segment))
    assert bytes(parse_tcp(data, len(header), len(data), pseudo=pseudo).payload) == payload


def test_a_fragment_s_transport_checksum_is_left_as_it_is() -> None:
    host = bare_router()
    piece = build_ipv4(A4, B4, 17, 8, more_fragments=True, dont_fragment=False) + build_udp(A4, B4, 1, 2, bytes(90))
    host.receive_frame(1, piece, 0.0, checksum_valid=True)
    ((_, frame),) = host.poll_frames(0.0)
    assert frame.to_bytes()[20:] == piece[20:]


@pytest.mark.parametrize("version", [4, 6])
def test_a_super_frame_goes_on_as_one_where_the_link_can_cut_it(version: int) -> None:
    host = bare_router()
    host.add_interface(["10.2.0.254/24", "fd02::254/64"], mac=None, offload=True)
    here, there = (A4, ip("10.2.0.1")) if version == 4 else (A6, ip("fd02::1"))
    payload = random.Random(1).randbytes(5000)
    segment = build_tcp_header(here, there, 1, 2, 3, 4, 16, 100, payload=payload, offload=True) + payload
    header = build_ipv4(here, there, 6, len(segment)) if version == 4 else build_ipv6(here, there, 6, len(segment))
    host.receive_frame(1, header + segment, 0.0, checksum_valid=True)
    ((index, frame),) = host.poll_frames(0.0)
    assert index == 3
    assert (len(frame.head), frame.segment_bytes) == (len(header) + 20, 1500 - len(header) - 20)
    data = frame.with_checksum().to_bytes()
    pseudo = pseudo_header_sum(here, there, 6, len(segment))
    assert bytes(parse_tcp(data, len(header), len(data), pseudo=pseudo).payload) == payload
    # Without the checksum's word for it, it is a packet that is too big.
    host.receive_frame(1, header + segment, 0.0)
    ((index, _),) = host.poll_frames(0.0)
    assert index == 1
    assert host.statistics().drops == {"forward.too_big": 1}


def test_a_fragment_is_divided_again_and_the_pieces_keep_their_places() -> None:
    net, a, _, _, _, _ = line(left_mtu=1000, right_mtu=404)
    a.icmp.send_echo(B4, 1, 1, random.Random(2).randbytes(3000), net.now)
    net.settle()
    reply = a.icmp.receive_reply()
    assert reply is not None
    assert reply.data == random.Random(2).randbytes(3000)

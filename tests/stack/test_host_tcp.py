"""TCP on whole hosts: over links, over itself, through a router, and told of what ICMP says."""

from __future__ import annotations

import errno
import random

import pytest
from tests.stack._net import Hub, Net, ip, mac, two_hosts

from underlay.stack import Events, Host, HostConfig, TcpConnection
from underlay.stack._neighbours import NeighbourState
from underlay.wire import build_icmp4, build_ipv4


def carry(net: Net, sender: TcpConnection, receiver: TcpConnection, data: bytes) -> bytes:
    """Send all of ``data`` and return what came of it."""
    left, got = memoryview(data), b""
    for _ in range(10_000):
        if left:
            left = left[sender.send(left, net.now) :]
        net.run(0.001)
        while piece := receiver.receive(1 << 20, net.now):
            got += piece
        if len(got) == len(data):
            return got
    raise AssertionError(f"only {len(got)} of {len(data)} bytes came")


def connected(net: Net, a: Host, b: Host, address: str) -> tuple[TcpConnection, TcpConnection]:
    listener = b.tcp.listen(ip(address), 80, net.now)
    client = a.tcp.connect(ip(address), 80, net.now)
    net.run(0.1)
    server = listener.accept(net.now)
    assert server is not None
    return client, server


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
def test_a_connection_carries_a_megabyte_and_ends(address: str) -> None:
    net, a, b, hub = two_hosts()
    client, server = connected(net, a, b, address)
    assert (client, Events.CONNECTED) in [(each, events & Events.CONNECTED) for each, events in a.poll_events()]
    data = random.Random(1).randbytes(1 << 20)
    assert carry(net, client, server, data) == data
    assert max(len(each.data) for each in hub.passed) <= 1514
    client.close(net.now)
    net.run(0.1)
    assert server.receive(1, net.now) == b""
    server.close(net.now)
    net.run(0.1)
    assert b.tcp.statistics().connections == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1"])
def test_a_host_talks_to_itself_without_frames(address: str) -> None:
    net, a, _, hub = two_hosts()
    client, server = connected(net, a, a, address)
    data = random.Random(2).randbytes(1 << 20)
    assert carry(net, client, server, data) == data
    assert hub.passed == []


def test_a_closed_port_is_refused_and_a_silent_neighbour_is_unreachable() -> None:
    net, a, _, _ = two_hosts()
    refused = a.tcp.connect(ip("10.0.0.2"), 81, net.now)
    silent = a.tcp.connect(ip("10.0.0.77"), 81, net.now)
    net.run(0.1)
    assert refused.take_error() == errno.ECONNREFUSED
    net.run(4.0)
    assert silent.take_error() == errno.EHOSTUNREACH


def test_a_connection_finds_the_path_mtu_behind_a_router() -> None:
    net, left, right = Net(), Hub(), Hub()
    a, router, b = net.host("a"), net.host("router", HostConfig(forwarding=True)), net.host("b")
    net.join(left, a, ["10.0.0.1/24"], mac(1))
    net.join(left, router, ["10.0.0.254/24"], mac(2))
    net.join(right, router, ["10.1.0.254/24"], mac(3), 1400)
    net.join(right, b, ["10.1.0.1/24"], mac(4))
    a.add_route("0.0.0.0/0", "10.0.0.254", 1)
    b.add_route("0.0.0.0/0", "10.1.0.254", 1)
    net.run(5.0)
    client, server = connected(net, a, b, "10.1.0.1")
    data = random.Random(3).randbytes(200_000)
    assert carry(net, client, server, data) == data
    assert router.statistics().drops.get("forward.too_big", 0) >= 1
    assert max(len(each.data) for each in right.passed if each.sender is router) == 1414


def test_a_super_frame_leaves_whole_where_the_link_cuts_it() -> None:
    host = Host("fast", rng=random.Random(1))
    host.add_interface(["10.0.0.1/24"], mac=None, offload=True)
    other = Host("other", rng=random.Random(2))
    tun = other.add_interface(["10.0.0.2/24"], mac=None, offload=True)
    listener = other.tcp.listen(ip("10.0.0.2"), 80, 0.0)
    client = host.tcp.connect(ip("10.0.0.2"), 80, 0.0)
    now, sizes, server, got = 0.0, [], None, b""
    data = random.Random(4).randbytes(300_000)
    left = memoryview(data)
    for _ in range(300):
        now += 0.001
        for one, another in ((host, other), (other, host)):
            one.handle_timers(now)
            for _, frame in one.poll_frames(now):
                sizes.append(frame.size_bytes)
                assert frame.segment_bytes <= 1460
                another.receive_frame(tun, frame.to_bytes(), now, checksum_valid=True)
        server = server or listener.accept(now)
        if server is not None:
            left = left[client.send(left, now) :] if left else left
            got += server.receive(1 << 20, now) or b""
    assert got == data
    assert max(sizes) > 20_000


def test_an_icmp_error_with_a_right_sequence_number_is_heard_and_a_guess_is_not() -> None:
    host = Host("a", rng=random.Random(1))
    host.add_interface(["10.0.0.1/24"], mac=None)
    client = host.tcp.connect(ip("10.0.0.2"), 80, 0.0)
    ((_, frame),) = host.poll_frames(0.0)
    syn = frame.to_bytes()
    guess = syn[:24] + bytes(4) + syn[28:]
    for quote, error in ((guess, 0), (syn, errno.ECONNREFUSED)):
        message = build_icmp4(3, 3, 0, quote)
        host.receive_frame(1, build_ipv4(ip("10.0.0.2"), ip("10.0.0.1"), 1, len(message)) + message, 0.1)
        assert client.take_error() == error


def test_a_segment_to_many_is_counted_and_not_answered() -> None:
    host = Host("a", rng=random.Random(1))
    host.add_interface(["10.0.0.1/24"], mac=None)
    host.receive_frame(1, build_ipv4(ip("10.0.0.2"), ip("10.0.0.255"), 6, 20) + bytes(20), 0.0)
    assert host.statistics().drops == {"tcp.to_many": 1}
    assert host.poll_frames(0.0) == []


def test_a_connection_that_hears_nothing_has_its_neighbour_asked_anew() -> None:
    net, a, b, hub = two_hosts()
    client, _ = connected(net, a, b, "10.0.0.2")
    neighbour = a.neighbour(1, ip("10.0.0.2"))
    assert neighbour is not None
    assert neighbour.state is NeighbourState.REACHABLE
    hub.drop = lambda data: data[12:14] == b"\x08\x00"  # ARP passes, so only the doubt can bring the question
    hub.passed.clear()
    client.send(b"anybody?", net.now)
    net.run(25.0)
    assert any(each.data[12:14] == b"\x08\x06" and each.sender is a for each in hub.passed)


def test_an_idle_connection_wakes_nobody() -> None:
    net, a, b, _ = two_hosts()
    connected(net, a, b, "10.0.0.2")
    net.run(60.0)
    assert a.next_deadline() is None
    assert b.next_deadline() is None

"""What TCP asks of IP and hears from it, seen in the packets of whole hosts (RFC 9293 §3.9.1.1, §3.9.2)."""

from __future__ import annotations

import errno

import pytest
from tests.stack._net import Hub, Net, ip, mac, two_hosts

from underlay.stack import Host, HostConfig, TcpOptions
from underlay.wire import SYN, build_ethernet, build_ipv4, build_tcp_header, parse_ipv4


def packets(hub: Hub, sender: Host) -> list[bytes]:
    """The IPv4 packets with TCP in them that `sender` put on the wire."""
    return [
        each.data[14:]
        for each in hub.passed
        if each.sender is sender and each.data[12:14] == b"\x08\x00" and each.data[14 + 9] == 6
    ]


def two_addresses() -> tuple[Net, Host, Host, Hub]:
    """As `two_hosts`, but each has a second address: 10.0.0.11 and 10.0.0.12."""
    net = Net()
    hub = Hub()
    a, b = net.host("a"), net.host("b")
    net.join(hub, a, ["10.0.0.1/24", "10.0.0.11/24"], mac(1))
    net.join(hub, b, ["10.0.0.2/24", "10.0.0.12/24"], mac(2))
    net.run(5.0)
    hub.passed.clear()
    return net, a, b, hub


def test_an_open_takes_the_local_address_that_the_program_names() -> None:
    """MUST-43: as a parameter of the active OPEN, and of the passive one."""
    net, a, b, hub = two_addresses()
    listener = b.tcp.listen(ip("10.0.0.12"), 80, net.now)
    client = a.tcp.connect(ip("10.0.0.12"), 80, net.now, local=ip("10.0.0.11"))
    other = a.tcp.connect(ip("10.0.0.2"), 80, net.now, local=ip("10.0.0.11"))
    net.run(1)
    assert {packet[12:16] for packet in packets(hub, a)} == {ip("10.0.0.11")}
    assert listener.acceptable
    assert client.error is None
    assert other.take_error() == errno.ECONNREFUSED
    with pytest.raises(OSError, match="not ours"):
        a.tcp.connect(ip("10.0.0.2"), 80, net.now, local=ip("10.0.0.99"))


def test_a_multihomed_host_asks_ip_for_the_address_of_its_first_syn() -> None:
    """MUST-44."""
    net = Net()
    left, right = Hub(), Hub()
    a, b, c = net.host("a"), net.host("b"), net.host("c")
    net.join(left, a, ["10.0.0.1/24"], mac(1))
    net.join(right, a, ["10.1.0.1/24"], mac(2))
    net.join(left, b, ["10.0.0.2/24"], mac(3))
    net.join(right, c, ["10.1.0.2/24"], mac(4))
    net.run(5.0)
    assert a.tcp.connect(ip("10.0.0.2"), 80, net.now).local[0] == ip("10.0.0.1")
    assert a.tcp.connect(ip("10.1.0.2"), 80, net.now).local[0] == ip("10.1.0.1")
    net.run(1)
    assert {packet[12:16] for packet in packets(left, a)} == {ip("10.0.0.1")}
    assert {packet[12:16] for packet in packets(right, a)} == {ip("10.1.0.1")}


def test_every_segment_of_a_connection_has_the_local_address_of_its_first() -> None:
    """MUST-45: also where IP, asked anew, would choose another."""
    net, a, b, hub = two_addresses()
    listener = b.tcp.listen(bytes(4), 80, net.now)
    client = a.tcp.connect(ip("10.0.0.12"), 80, net.now)
    net.run(0.1)
    server = listener.accept(net.now)
    assert server is not None
    server.send(b"data", net.now)
    net.run(0.1)
    assert client.receive(10, net.now) == b"data"
    server.close(net.now)
    net.run(0.1)
    client.close(net.now)
    net.run(0.1)
    assert len(packets(hub, b)) >= 4
    assert {packet[12:16] for packet in packets(hub, b)} == {ip("10.0.0.12")}


def test_ttl_and_diffserv_reach_the_headers_of_both_ip_versions() -> None:
    """MUST-48: the program gives the DiffServ field. MUST-49: the TTL can be chosen."""
    net, a, b, hub = two_hosts()
    for address in ("10.0.0.2", "fd00::2"):
        b.tcp.listen(ip(address), 80, net.now)
        client = a.tcp.connect(ip(address), 80, net.now, options=TcpOptions(ttl=9, dscp=46))
        net.run(0.1)
        client.send(b"data", net.now)
        net.run(0.1)
        client.abort(net.now)
        net.run(0.1)
    seen4 = packets(hub, a)
    seen6 = [each.data[14:] for each in hub.passed if each.sender is a and each.data[12:14] == b"\x86\xdd"]
    seen6 = [packet for packet in seen6 if packet[6] == 6]
    assert len(seen4) == len(seen6) == 4
    assert {(packet[8], packet[1] >> 2) for packet in seen4} == {(9, 46)}
    assert {(packet[7], (packet[0] & 15) << 2 | packet[1] >> 6) for packet in seen6} == {(9, 46)}


@pytest.mark.parametrize("unknown", [bytes([1, 1, 1, 1]), bytes([222, 4, 7, 7]), bytes([148, 4, 0, 0])])
def test_ip_options_that_tcp_does_not_understand_are_ignored(unknown: bytes) -> None:
    """MUST-50: a SYN with a NOP, an unknown option, or a router alert is answered as any other."""
    net, a, b, hub = two_hosts()
    b.tcp.listen(ip("10.0.0.2"), 80, net.now)
    speak(net, a, b, unknown)
    (answer,) = packets(hub, b)
    assert parse_ipv4(answer).options == b""
    assert answer[20 + 13] == 0x12


def speak(net: Net, a: Host, b: Host, options: bytes) -> None:
    """Let a SYN of host a with these IP options come to host b."""
    source, destination = ip("10.0.0.1"), ip("10.0.0.2")
    segment = build_tcp_header(source, destination, 4000, 80, 1, 0, SYN, 65535, mss=1460)
    packet = build_ipv4(source, destination, 6, len(segment), options=options) + segment
    b.receive_frame(1, build_ethernet(mac(2), mac(1), 0x0800, packet), net.now)
    net.run(0.1)


def test_a_source_route_of_the_program_stands_in_its_packets() -> None:
    """MUST-51: the first hop is where packets go, the last of the route where they end."""
    net, a, _, hub = two_hosts()
    a.tcp.connect(ip("10.0.0.99"), 80, net.now, options=TcpOptions(source_route=(ip("10.0.0.2"),)))
    net.run(0.1)
    syn = packets(hub, a)[0]
    assert (syn[16:20], parse_ipv4(syn).options) == (ip("10.0.0.2"), bytes([131, 7, 4]) + ip("10.0.0.99") + b"\0")


def test_a_syn_that_came_by_a_source_route_is_answered_by_its_reverse_on_the_wire() -> None:
    """MUST-53: the return route that IP passes up. MUST-52: but one that the program gave goes before it."""
    net, a, b, hub = two_hosts()
    hop = ip("10.0.0.77")
    recorded = bytes([131, 7, 8]) + hop + b"\0"
    listener = b.tcp.listen(ip("10.0.0.2"), 80, net.now)
    net.join(hub, net.host("hop"), ["10.0.0.77/24"], mac(7))
    net.run(5)
    hub.passed.clear()
    speak(net, a, b, recorded)
    answer = packets(hub, b)[0]
    assert (answer[16:20], parse_ipv4(answer).options[:7]) == (hop, bytes([131, 7, 4]) + ip("10.0.0.1"))
    listener.close(net.now)
    hub.passed.clear()
    b.tcp.listen(ip("10.0.0.2"), 80, net.now, options=TcpOptions(source_route=(ip("10.0.0.1"),)))
    speak(net, a, b, recorded)
    assert packets(hub, b)[0][16:20] == ip("10.0.0.1")


def test_the_route_of_a_syn_in_pieces_is_that_of_its_first_one() -> None:
    """MUST-53: whichever of them came last."""
    recorded = bytes([131, 7, 8]) + ip("10.0.0.77") + b"\0"
    other = bytes([131, 7, 8]) + ip("10.0.0.66") + b"\0"
    for order in ((0, 1), (1, 0)):
        net, _, b, hub = two_hosts()
        listener = b.tcp.listen(ip("10.0.0.2"), 80, net.now)
        source, destination = ip("10.0.0.1"), ip("10.0.0.2")
        segment = build_tcp_header(source, destination, 4000, 80, 1, 0, SYN, 65535, mss=1460)
        pieces = [
            build_ipv4(source, destination, 6, len(part), dont_fragment=False, identification=7, options=options,
                       more_fragments=not offset, fragment_offset_bytes=offset) + part
            for offset, part, options in ((0, segment[:16], recorded), (16, segment[16:], other))
        ]  # fmt: skip
        net.join(hub, net.host("hop"), ["10.0.0.77/24"], mac(7))
        net.run(5)
        hub.passed.clear()
        for index in order:
            b.receive_frame(1, build_ethernet(mac(2), mac(1), 0x0800, pieces[index]), net.now)
        net.run(0.1)
        assert packets(hub, b)[0][16:20] == ip("10.0.0.77")
        listener.close(net.now)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("10.0.0.1", "10.0.0.255"),
        ("10.0.0.1", "255.255.255.255"),
        ("10.0.0.1", "224.0.0.1"),
        ("10.0.0.255", "10.0.0.2"),
        ("224.0.0.1", "10.0.0.2"),
        ("255.255.255.255", "10.0.0.2"),
        ("127.0.0.1", "10.0.0.2"),
        ("10.0.0.2", "10.0.0.2"),
    ],
)
def test_a_syn_to_many_or_from_none_gets_no_answer(source: str, destination: str) -> None:
    """MUST-57: to a broadcast or multicast address. MUST-63: from an invalid address."""
    net, _, b, hub = two_hosts()
    b.tcp.listen(bytes(4), 80, net.now)
    segment = build_tcp_header(ip(source), ip(destination), 4000, 80, 1, 0, SYN, 65535, mss=1460)
    packet = build_ipv4(ip(source), ip(destination), 6, len(segment)) + segment
    to = mac(2) if destination == "10.0.0.2" else b"\xff" * 6
    b.receive_frame(1, build_ethernet(to, mac(1), 0x0800, packet), net.now)
    net.run(1)
    assert packets(hub, b) == []
    assert b.tcp.statistics().syn_requests == 0
    assert sum(b.statistics().drops.values()) + sum(b.tcp.statistics().drops.values()) == 1


def test_a_path_that_swallows_everything_has_its_neighbour_asked_for_anew() -> None:
    """MUST-20: negative advice reaches IP, which doubts the next hop (RFC 1122 §3.3.1.4)."""
    net, a, b, hub = two_hosts(HostConfig(reachable_s=10_000.0))  # age alone asks nothing
    listener = b.tcp.listen(ip("10.0.0.2"), 80, net.now)
    client = a.tcp.connect(ip("10.0.0.2"), 80, net.now)
    net.run(0.1)
    assert listener.acceptable
    net.run(20.0)  # until the neighbour was asked, as after each first use
    hub.passed.clear()
    hub.drop = lambda data: data[12:14] == b"\x08\x00"
    client.send(b"data", net.now)
    net.run(1.0)
    asked = [each for each in hub.passed if each.sender is a and each.data[12:14] == b"\x08\x06"]
    assert asked == []
    net.run(20.0)
    asked = [each for each in hub.passed if each.sender is a and each.data[12:14] == b"\x08\x06"]
    assert asked

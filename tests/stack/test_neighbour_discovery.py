"""Neighbour discovery: who is answered, who is believed, and what must be from this link."""

from __future__ import annotations

import pytest
from tests.stack._net import Hub, Net, ip, mac, two_hosts

from underlay.stack import Host
from underlay.stack._neighbours import NeighbourState
from underlay.wire import (
    ETHERTYPE_IPV6,
    NdMessage,
    NdOptions,
    NeighborAdvertisement,
    NeighborSolicitation,
    Redirect,
    RouterAdvertisement,
    build_ethernet,
    build_ipv6,
    build_nd,
    multicast_mac,
    parse_icmp6,
    parse_ipv6,
    parse_nd,
    pseudo_header_sum,
    solicited_node,
)

S = NeighbourState
ME, YOU = ip("fd00::1"), ip("fd00::2")


def quiet_host() -> tuple[Net, Host]:
    net = Net()
    host = net.host("me")
    net.join(Hub(), host, ["fd00::1/64"], mac(1))
    net.run(5.0)
    return net, host


def say(
    net: Net, host: Host, source: bytes, destination: bytes, message: NdMessage, hop_limit: int = 255
) -> list[tuple[bytes, bytes, NdMessage]]:
    """Let a station say something; return (source, destination, message) of what the host says then."""
    body = build_nd(source, destination, message)
    to = multicast_mac(destination) if destination[0] == 0xFF else mac(1)
    packet = build_ipv6(source, destination, 58, len(body), hop_limit=hop_limit) + body
    host.receive_frame(1, build_ethernet(to, mac(2), ETHERTYPE_IPV6) + packet, net.now)
    answers = []
    for _, frame in host.poll_frames(net.now):
        data = frame.to_bytes()[14:]
        header = parse_ipv6(data)
        assert header.hop_limit == 255
        pseudo = pseudo_header_sum(header.source, header.destination, 58, len(data) - 40)
        answers.append((header.source, header.destination, parse_nd(parse_icmp6(data, 40, pseudo=pseudo))))
    return answers


def state(host: Host, address: bytes) -> NeighbourState | None:
    neighbour = host.neighbour(1, address)
    return neighbour.state if neighbour is not None else None


def question(target: bytes, sender: bytes | None = None) -> NeighborSolicitation:
    return NeighborSolicitation(target, NdOptions(source_mac=sender if sender is not None else mac(2)))


def test_who_asks_for_us_is_answered_and_remembered() -> None:
    net, host = quiet_host()
    answers = say(net, host, YOU, solicited_node(ME), question(ME))
    assert answers == [(ME, YOU, NeighborAdvertisement(ME, False, True, True, NdOptions(target_mac=mac(1))))]
    assert state(host, YOU) is S.DELAY  # the answer itself was the first use


def test_who_asks_for_another_is_neither_answered_nor_remembered() -> None:
    net, host = quiet_host()
    assert say(net, host, YOU, ip("ff02::1"), question(ip("fd00::9"))) == []
    assert state(host, YOU) is None


def test_a_probe_for_our_address_is_answered_to_all() -> None:
    net, host = quiet_host()
    answers = say(net, host, bytes(16), solicited_node(ME), NeighborSolicitation(ME))
    assert answers == [(ME, ip("ff02::1"), NeighborAdvertisement(ME, False, False, True, NdOptions(target_mac=mac(1))))]
    assert say(net, host, bytes(16), solicited_node(ME), question(ME)) == []
    assert host.statistics().drops == {"nd.probe_malformed": 1}


@pytest.mark.parametrize(
    "message", [question(ME), NeighborAdvertisement(YOU, False, True, True, NdOptions(target_mac=mac(2)))]
)
def test_what_a_router_passed_on_is_not_believed(message: NdMessage) -> None:
    net, host = quiet_host()
    assert say(net, host, YOU, ME, message, hop_limit=254) == []
    assert host.statistics().drops == {"nd.hop_limit": 1}
    assert state(host, YOU) is None


def test_the_answer_to_our_question_lets_what_waits_go() -> None:
    net, host = quiet_host()
    host.icmp.send_echo(YOU, 1, 1, b"ping", net.now)
    ((_, frame),) = host.poll_frames(net.now)
    data = frame.to_bytes()
    assert data[:6] == multicast_mac(solicited_node(YOU))
    header = parse_ipv6(data, 14)
    assert (header.source, header.destination) == (ME, solicited_node(YOU))
    assert parse_nd(parse_icmp6(data, 54)) == NeighborSolicitation(YOU, NdOptions(source_mac=mac(1)))
    answer = NeighborAdvertisement(YOU, False, True, True, NdOptions(target_mac=mac(2)))
    body = build_nd(YOU, ME, answer)
    packet = build_ipv6(YOU, ME, 58, len(body), hop_limit=255) + body
    host.receive_frame(1, build_ethernet(mac(1), mac(2), ETHERTYPE_IPV6) + packet, net.now)
    ((_, echo),) = host.poll_frames(net.now)
    assert echo.to_bytes()[:6] == mac(2)
    assert state(host, YOU) is S.REACHABLE


def test_a_solicited_answer_to_all_and_a_station_that_is_a_group_are_counted() -> None:
    net, host = quiet_host()
    group_mac = b"\x33\x33\0\0\0\1"
    said = NeighborAdvertisement(YOU, False, True, True, NdOptions(target_mac=mac(2)))
    say(net, host, YOU, ip("ff02::1"), said)
    say(net, host, YOU, ME, said._replace(options=NdOptions(target_mac=group_mac)))
    say(net, host, YOU, ME, question(ME, group_mac))
    assert host.statistics().drops == {"nd.solicited_to_many": 1, "nd.target_mac": 1, "nd.source_mac": 1}


def test_routers_are_passed_over() -> None:
    net, host = quiet_host()
    before = host.routes()
    say(net, host, ip("fe80::9"), ip("ff02::1"), RouterAdvertisement(64, False, False, 1800, 0, 0))
    say(net, host, ip("fe80::9"), ME, Redirect(ip("fe80::8"), YOU))
    assert host.routes() == before
    assert host.statistics().drops == {"nd.router_ignored": 2}


def test_link_local_addresses_reach_each_other() -> None:
    net, a, _, _ = two_hosts()
    assert a.icmp.send_echo(ip("fe80::ff:fe00:2"), 1, 1, b"near", net.now)
    net.settle()
    reply = a.icmp.receive_reply()
    assert reply is not None
    assert reply.source == ip("fe80::ff:fe00:2")


def test_who_does_not_answer_is_asked_three_times() -> None:
    net, a, _, hub = two_hosts()
    a.icmp.send_echo(ip("fd00::9"), 1, 1, b"", net.now)
    net.run(5.0)
    assert len(hub.passed) == 3
    assert a.statistics().drops == {"nd.unanswered": 1}

"""ARP: who is answered, who is believed, and who is not."""

from __future__ import annotations

import pytest
from tests.stack._net import Hub, Net, ip, mac, two_hosts

from underlay.stack import Host
from underlay.stack._neighbours import NeighbourState
from underlay.wire import ARP_REPLY, ARP_REQUEST, BROADCAST_MAC, ArpPacket, build_arp, build_ethernet, parse_arp

S = NeighbourState
ME, YOU = ip("10.0.0.1"), ip("10.0.0.2")


def quiet_host(*addresses: str) -> tuple[Net, Host]:
    net = Net()
    host = net.host("me")
    net.join(Hub(), host, addresses or ["10.0.0.1/24"], mac(1))
    net.run(5.0)
    host.poll_frames(net.now)
    return net, host


def say(
    net: Net, host: Host, operation: int, sender_mac: bytes, sender: bytes, target_mac: bytes, target: bytes
) -> list[ArpPacket]:
    """Let a station say something, to the host alone if it is an answer; return what the host says then."""
    frame_to = mac(1) if operation == ARP_REPLY else BROADCAST_MAC
    body = build_arp(operation, sender_mac, sender, target_mac, target)
    host.receive_frame(1, build_ethernet(frame_to, mac(2), 0x0806, body), net.now)
    return [parse_arp(frame.to_bytes(), 14) for _, frame in host.poll_frames(net.now)]


def state(host: Host, address: bytes) -> NeighbourState | None:
    neighbour = host.neighbour(1, address)
    return neighbour.state if neighbour is not None else None


def test_who_asks_for_us_is_answered_and_remembered() -> None:
    net, host = quiet_host()
    answers = say(net, host, ARP_REQUEST, mac(2), YOU, bytes(6), ME)
    assert answers == [ArpPacket(ARP_REPLY, mac(1), ME, mac(2), YOU)]
    assert state(host, YOU) is S.STALE


def test_who_asks_for_another_is_neither_answered_nor_remembered() -> None:
    net, host = quiet_host()
    assert say(net, host, ARP_REQUEST, mac(2), YOU, bytes(6), ip("10.0.0.3")) == []
    assert state(host, YOU) is None


def test_an_answer_that_nobody_waited_for_is_not_remembered() -> None:
    net, host = quiet_host()
    say(net, host, ARP_REPLY, mac(2), YOU, mac(1), ME)
    assert state(host, YOU) is None
    assert len(host._output.ports[1].caches[4]) == 0


def test_a_gratuitous_announcement_corrects_only_what_is_known() -> None:
    net, host = quiet_host()
    say(net, host, ARP_REQUEST, mac(2), YOU, bytes(6), ME)
    say(net, host, ARP_REQUEST, mac(9), YOU, bytes(6), YOU)
    say(net, host, ARP_REQUEST, mac(8), ip("10.0.0.8"), bytes(6), ip("10.0.0.8"))
    neighbour = host.neighbour(1, YOU)
    assert neighbour is not None
    assert neighbour.mac == mac(9)
    assert state(host, ip("10.0.0.8")) is None


def test_a_probe_for_our_address_is_answered_but_teaches_nothing() -> None:
    net, host = quiet_host()
    answers = say(net, host, ARP_REQUEST, mac(2), bytes(4), bytes(6), ME)
    assert answers == [ArpPacket(ARP_REPLY, mac(1), ME, mac(2), bytes(4))]
    assert len(host._output.ports[1].caches[4]) == 0


@pytest.mark.parametrize(
    ("sender_mac", "sender", "reason"),
    [
        (BROADCAST_MAC, "10.0.0.2", "arp.sender_mac"),
        (bytes(6), "10.0.0.2", "arp.sender_mac"),
        (mac(1), "10.0.0.2", "arp.own_echo"),
        (mac(2), "224.0.0.1", "arp.sender_ip"),
        (mac(2), "127.0.0.1", "arp.sender_ip"),
        (mac(2), "10.0.0.255", "arp.sender_ip"),
    ],
)
def test_a_sender_that_cannot_be_is_not_believed(sender_mac: bytes, sender: str, reason: str) -> None:
    net, host = quiet_host()
    assert say(net, host, ARP_REQUEST, sender_mac, ip(sender), bytes(6), ME) == []
    assert host.statistics().drops == {reason: 1}
    assert len(host._output.ports[1].caches[4]) == 0


def test_an_operation_other_than_request_and_reply_is_counted() -> None:
    net, host = quiet_host()
    assert say(net, host, 9, mac(2), YOU, bytes(6), ME) == []
    assert host.statistics().drops == {"arp.operation_unknown": 1}


def test_a_question_goes_to_all_with_the_address_of_the_same_network() -> None:
    net, host = quiet_host("192.0.2.1/24", "10.0.0.1/24")
    host.icmp.send_echo(YOU, 1, 1, b"", net.now)
    ((_, frame),) = host.poll_frames(net.now)
    assert frame.to_bytes()[:6] == BROADCAST_MAC
    assert parse_arp(frame.to_bytes(), 14) == ArpPacket(ARP_REQUEST, mac(1), ME, bytes(6), YOU)


def test_a_believed_neighbour_that_went_away_is_asked_alone_and_then_given_up() -> None:
    net, a, _, hub = two_hosts()
    client = a.udp.open()
    client.connect(YOU, 9)
    client.send_to(b"1", None, net.now)
    net.settle()
    client.take_error()
    hub.drop = lambda data: True
    net.run(40.0)
    hub.passed.clear()

    def asked() -> list[bytes]:
        return [each.data[:6] for each in hub.passed if each.data[12:14] == b"\x08\x06"]

    client.send_to(b"2", None, net.now)  # the old answer is old: it is used, and five seconds later doubted
    net.run(4.9)
    assert (len(hub.passed), asked()) == (1, [])
    net.run(3.0)
    assert asked() == [mac(2)] * 3
    net.run(1.0)
    assert a.neighbour(1, YOU) is None
    client.send_to(b"3", None, net.now)
    net.settle()
    assert asked()[3:] == [BROADCAST_MAC]


def test_both_ends_stay_with_what_they_know_while_they_talk() -> None:
    net, a, b, hub = two_hosts()
    for _ in range(100):
        a.icmp.send_echo(YOU, 1, 1, b"", net.now)
        net.run(1.0)
        assert a.icmp.receive_reply() is not None
    asked = [each for each in hub.passed if each.data[12:14] == b"\x08\x06"]
    assert len(asked) <= 2 * (2 + 2 * 100 / 35)
    assert state(a, YOU) in (S.REACHABLE, S.DELAY, S.PROBE)
    assert a.statistics().drops == b.statistics().drops == {}

"""An address is probed for, announced, used, defended — or given up because somebody else has it."""

from __future__ import annotations

import itertools
import random

import pytest
from tests.stack._net import Hub, Net, ip, mac

from underlay.stack import Host, HostConfig
from underlay.stack._address_detection import CLAIM_TRANSITIONS, AddressDetection, Claim, ClaimEvent
from underlay.stack._host_config import Drops
from underlay.stack._local_addresses import LocalAddresses
from underlay.wire import (
    ARP_REQUEST,
    ArpPacket,
    build_arp,
    build_ethernet,
    parse_arp,
    parse_icmp6,
    parse_ipv6,
    parse_nd,
)

CAREFUL = HostConfig(detect_duplicates=True)


def arps(hub: Hub) -> list[tuple[float, ArpPacket]]:
    return [(each.when, parse_arp(each.data, 14)) for each in hub.passed if each.data[12:14] == b"\x08\x06"]


def test_without_detection_an_address_is_used_at_once_and_announced_twice() -> None:
    net, hub = Net(), Hub()
    host = net.host("a")
    net.join(hub, host, ["10.0.0.1/24"], mac(1))
    assert host.is_local(ip("10.0.0.1"))
    net.run(60.0)
    told = ArpPacket(ARP_REQUEST, mac(1), ip("10.0.0.1"), bytes(6), ip("10.0.0.1"))
    assert arps(hub) == [(1000.0, told), (1002.0, told)]
    assert host.next_deadline() is None


def test_with_detection_it_is_probed_three_times_before_it_is_used() -> None:
    net, hub = Net(), Hub()
    host = net.host("a", CAREFUL)
    net.join(hub, host, ["10.0.0.1/24"], mac(1))
    times = []
    while not host.is_local(ip("10.0.0.1")):
        assert not host.icmp.send_echo(ip("10.0.0.2"), 1, 1, b"", net.now)
        net.run(0.25)
        times.append(net.now)
    probes = arps(hub)
    assert [packet.sender_ip for _, packet in probes] == [bytes(4)] * 3 + [ip("10.0.0.1")]
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(probes)]
    assert all(1.0 <= gap <= 2.0 for gap in gaps[:2])
    assert gaps[2] == 2.0
    assert host._detection.claim(ip("10.0.0.1")) is Claim.ANNOUNCING
    net.run(10.0)
    assert host._detection.claim(ip("10.0.0.1")) is Claim.OWNED
    assert host.icmp.send_echo(ip("10.0.0.2"), 1, 1, b"", net.now)


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_an_address_that_somebody_has_is_not_used(address: str) -> None:
    net, hub = Net(), Hub()
    owner, late = net.host("owner"), net.host("late", CAREFUL)
    bits = 64 if ":" in address else 24
    net.join(hub, owner, [f"{address}/{bits}"], mac(1))
    net.run(10.0)
    net.join(hub, late, [f"{address}/{bits}"], mac(2))
    net.run(10.0)
    assert owner.is_local(ip(address))
    assert not late.is_local(ip(address))
    assert late._detection.lost == [ip(address)]
    assert late.conflicts == {ip(address): mac(1)}
    assert late.statistics().drops["address.conflict"] >= 1
    assert ip(address) not in [each.address for each in late.addresses(1)]


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_of_two_that_probe_at_the_same_time_not_both_get_it(address: str) -> None:
    for seed in range(10):
        net, hub = Net(seed), Hub()
        hosts = [net.host(name, CAREFUL) for name in "ab"]
        bits = 64 if ":" in address else 24
        for number, host in enumerate(hosts):
            net.join(hub, host, [f"{address}/{bits}"], mac(number + 1))
        net.run(20.0)
        assert sum(host.is_local(ip(address)) for host in hosts) <= 1, seed


def test_ipv6_is_probed_once_and_then_announced() -> None:
    net, hub = Net(), Hub()
    host = net.host("a", CAREFUL)
    net.join(hub, host, ["fd00::1/64", "fe80::1/64"], mac(1))
    net.run(10.0)
    said = [(parse_ipv6(each.data, 14).source, parse_nd(parse_icmp6(each.data, 54))) for each in hub.passed]
    mine = [(source, type(message).__name__) for source, message in said if ip("fd00::1") in message]
    assert mine == [
        (bytes(16), "NeighborSolicitation"),
        (ip("fd00::1"), "NeighborAdvertisement"),
        (ip("fd00::1"), "NeighborAdvertisement"),
    ]
    assert host.is_local(ip("fd00::1"))


def claim_by_stranger(host: Host, now: float) -> int:
    """Another station says that it is 10.0.0.1; how often the host contradicts."""
    body = build_arp(ARP_REQUEST, mac(9), ip("10.0.0.1"), bytes(6), ip("10.0.0.1"))
    host.receive_frame(1, build_ethernet(b"\xff" * 6, mac(9), 0x0806, body), now)
    return len(host.poll_frames(now))


def test_an_address_in_use_is_defended_at_most_every_ten_seconds_and_kept() -> None:
    host = Host("a", rng=random.Random(1))
    host.add_interface(["10.0.0.1/24"], mac=mac(1))
    for now in (0.0, 2.0, 4.0):
        host.handle_timers(now)
    host.poll_frames(4.0)
    assert [claim_by_stranger(host, now) for now in (10.0, 11.0, 19.9, 20.0)] == [1, 0, 0, 1]
    assert host.is_local(ip("10.0.0.1"))
    assert host.statistics().drops == {"address.conflict": 4}
    assert host.conflicts == {ip("10.0.0.1"): mac(9)}
    assert host.neighbour(1, ip("10.0.0.1")) is None


class Silent:
    def probe(self, address: bytes) -> None:
        pass

    def announce(self, address: bytes) -> None:
        pass


def test_every_row_of_the_table_is_walked_by_some_life() -> None:
    walked: set[tuple[Claim, ClaimEvent]] = set()
    for conflict_at_s in (None, 0.0, 3.0):
        addresses = LocalAddresses()
        detection = AddressDetection(CAREFUL, random.Random(1), Drops(), addresses)
        assert detection.begin(b"\x0a\0\0\1", Silent(), 1.0)
        told = False
        before = detection.claim(b"\x0a\0\0\1")
        while (deadline := detection.next_deadline()) is not None:
            assert before is not None
            if conflict_at_s is not None and not told and deadline > conflict_at_s:
                detection.conflict(b"\x0a\0\0\1", None, deadline)
                told = True
                walked.add((before, ClaimEvent.CONFLICT))
                continue
            detection.handle_timers(deadline)
            after = detection.claim(b"\x0a\0\0\1")
            if after is not before:
                walked.add((before, ClaimEvent.TIMER if before is Claim.WAITING else ClaimEvent.DONE))
            before = after
    assert walked == set(CLAIM_TRANSITIONS)


def test_a_conflict_about_a_strange_address_is_nothing() -> None:
    drops = Drops()
    detection = AddressDetection(CAREFUL, random.Random(1), drops, LocalAddresses())
    detection.conflict(b"\x0a\0\0\\9", None, 1.0)
    assert drops == {}
    assert detection.claim(b"\x0a\0\0\\9") is None

"""Groups are told to routers when they are joined, asked about and left (RFC 2236)."""

from __future__ import annotations

import errno
import random

import pytest
from tests.stack._net import Hub, Net, ip, mac

from underlay.stack import Host, HostConfig
from underlay.stack._igmp import MEMBERSHIP_TRANSITIONS, Membership
from underlay.wire import (
    IGMP_LEAVE,
    IGMP_QUERY,
    IGMP_V1_REPORT,
    IGMP_V2_REPORT,
    IPV4_ROUTER_ALERT,
    build_igmp,
    build_ipv4,
    parse_igmp,
    parse_ipv4,
)

GROUP = ip("239.1.2.3")


def member() -> tuple[Host, list[tuple[int, bytes, bytes]]]:
    host = Host("member", rng=random.Random(1))
    host.add_interface(["10.0.0.1/24"], mac=None)
    return host, []


def said(host: Host, now: float) -> list[tuple[int, bytes, bytes]]:
    """(type, group, destination) of each IGMP message that the host sends now."""
    messages = []
    for _, frame in host.poll_frames(now):
        data = frame.to_bytes()
        header = parse_ipv4(data)
        assert (header.protocol, header.ttl, header.options) == (2, 1, IPV4_ROUTER_ALERT)
        message = parse_igmp(data, header.header_bytes)
        messages.append((message.type, message.group, header.destination))
    return messages


def hear(host: Host, kind: int, group: bytes, now: float, max_response_ds: int = 0) -> None:
    destination = group if any(group) else ip("224.0.0.1")
    body = build_igmp(kind, group, max_response_ds)
    packet = build_ipv4(ip("10.0.0.9"), destination, 2, 8, ttl=1, options=IPV4_ROUTER_ALERT) + body
    host.receive_frame(1, packet, now)


REPORT = (IGMP_V2_REPORT, GROUP, GROUP)


def test_a_group_is_told_at_once_and_once_more_within_ten_seconds() -> None:
    host, _ = member()
    socket = host.udp.open()
    socket.join(GROUP, 0.0, 1)
    assert said(host, 0.0) == [REPORT]
    assert host._groups.membership(GROUP, 1) is Membership.DELAYING
    deadline = host.next_deadline()
    assert deadline is not None
    assert 0 < deadline <= 10.0
    host.handle_timers(deadline)
    assert said(host, deadline) == [REPORT]
    assert host._groups.membership(GROUP, 1) is Membership.IDLE
    assert host.next_deadline() is None


def test_the_last_leave_is_told_to_all_routers_if_we_spoke_last() -> None:
    host, _ = member()
    first, second = host.udp.open(), host.udp.open()
    first.join(GROUP, 0.0, 1)
    second.join(GROUP, 0.0, 1)
    assert said(host, 0.0) == [REPORT]
    first.leave(GROUP, 0.0)
    assert said(host, 0.0) == []
    second.close(0.0)
    assert said(host, 0.0) == [(IGMP_LEAVE, GROUP, ip("224.0.0.2"))]
    assert host.next_deadline() is None
    assert host._groups.membership(GROUP, 1) is Membership.NON_MEMBER


def test_who_hears_another_s_report_need_not_send_its_own_nor_its_leave() -> None:
    host, _ = member()
    socket = host.udp.open()
    socket.join(GROUP, 0.0, 1)
    said(host, 0.0)
    hear(host, IGMP_V2_REPORT, GROUP, 0.1)
    assert host._groups.membership(GROUP, 1) is Membership.IDLE
    assert host.next_deadline() is None
    socket.close(1.0)
    assert said(host, 1.0) == []


@pytest.mark.parametrize(("asked", "tenths", "longest_s"), [(bytes(4), 50, 5.0), (GROUP, 10, 1.0), (bytes(4), 0, 10.0)])
def test_a_query_is_answered_within_its_time(asked: bytes, tenths: int, longest_s: float) -> None:
    host, _ = member()
    socket = host.udp.open()
    socket.join(GROUP, 0.0, 1)
    host.handle_timers(10.0)
    said(host, 10.0)
    body = build_igmp(IGMP_QUERY, asked, tenths)
    destination = ip("224.0.0.1") if not any(asked) else GROUP
    host.receive_frame(1, build_ipv4(ip("10.0.0.9"), destination, 2, 8, ttl=1) + body, 20.0)
    deadline = host.next_deadline()
    assert deadline is not None
    assert 20.0 <= deadline <= 20.0 + longest_s
    host.handle_timers(deadline)
    assert said(host, deadline) == [REPORT]


def test_a_query_for_another_group_is_not_answered() -> None:
    host, _ = member()
    host.udp.open().join(GROUP, 0.0, 1)
    host.handle_timers(10.0)
    hear(host, IGMP_QUERY, ip("239.9.9.9"), 20.0, 10)
    body = build_igmp(IGMP_QUERY, ip("239.9.9.9"), 10)
    host.receive_frame(1, build_ipv4(ip("10.0.0.9"), ip("224.0.0.1"), 2, 8, ttl=1) + body, 20.0)
    assert host.next_deadline() is None


def test_an_urgent_query_shortens_the_wait_and_a_leisurely_one_does_not_lengthen_it() -> None:
    host, _ = member()
    host.udp.open().join(GROUP, 0.0, 1)
    host.handle_timers(10.0)
    hear(host, IGMP_QUERY, bytes(4), 20.0, 100)
    first = host.next_deadline()
    hear(host, IGMP_QUERY, bytes(4), 20.0, 1)
    second = host.next_deadline()
    hear(host, IGMP_QUERY, bytes(4), 20.0, 255)
    assert first is not None
    assert second is not None
    assert second <= 20.1 < first
    assert host.next_deadline() == second


def test_all_systems_are_never_told_and_strange_messages_are_counted() -> None:
    host, _ = member()
    host.udp.open().join(ip("224.0.0.1"), 0.0, 1)
    assert said(host, 0.0) == []
    hear(host, IGMP_V1_REPORT, ip("224.0.0.1"), 0.0)
    hear(host, IGMP_LEAVE, ip("224.0.0.1"), 0.0)
    hear(host, 0x99, ip("224.0.0.1"), 0.0)
    assert host.statistics().drops == {"igmp.type_unknown": 1}


def test_groups_of_an_interface_are_bounded() -> None:
    host = Host("member", rng=random.Random(1), config=HostConfig(group_memberships=2))
    host.add_interface(["10.0.0.1/24"], mac=None)
    socket = host.udp.open()
    for number in range(2):
        socket.join(bytes([239, 0, 0, number]), 0.0, 1)
    with pytest.raises(OSError, match="groups already") as raised:
        socket.join(bytes([239, 0, 0, 9]), 0.0, 1)
    assert raised.value.errno == errno.ENOBUFS


def test_without_an_interface_the_route_says_where_and_the_frame_goes_to_the_group_s_mac() -> None:
    net = Net()
    left, right = Hub(), Hub()
    host = net.host("a")
    net.join(left, host, ["10.0.0.1/24"], mac(1))
    net.join(right, host, ["10.1.0.1/24"], mac(2))
    host.add_route("224.0.0.0/4", None, 2)
    host.udp.open().join(GROUP, net.now)
    net.settle()
    assert [each.data[:6].hex(":") for each in right.passed] == ["01:00:5e:01:02:03"]
    assert host._groups.membership(GROUP, 2) is Membership.DELAYING


def test_the_table_has_no_way_from_nowhere_but_joining() -> None:
    ways = [event.value for (state, event) in MEMBERSHIP_TRANSITIONS if state is Membership.NON_MEMBER]
    assert ways == ["join group"]

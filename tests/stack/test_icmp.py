"""ICMP: what is answered, what is kept back, and whom an error reaches."""

from __future__ import annotations

import random

import pytest
from tests.stack._net import ip, mac, two_hosts

from underlay.stack import Host, HostConfig, IcmpError, IcmpKind, UdpSocket
from underlay.stack._rate_limit import PeerLimits
from underlay.wire import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    build_ethernet,
    build_icmp4,
    build_icmp6,
    build_ipv4,
    build_ipv6,
    build_udp,
    multicast_mac,
    parse_icmp4,
    parse_icmp6,
    parse_ipv4,
    parse_ipv6,
    pseudo_header_sum,
)

ME4, YOU4 = ip("10.0.0.1"), ip("10.0.0.2")
ME6, YOU6 = ip("fd00::1"), ip("fd00::2")


def host_on_tun(config: HostConfig | None = None) -> Host:
    host = Host("tun", rng=random.Random(5), config=config or HostConfig())
    host.add_interface(["10.0.0.1/24", "fd00::1/64"], mac=None)
    return host


def host_on_tap() -> Host:
    host = Host("tap", rng=random.Random(5))
    host.add_interface(["10.0.0.1/24", "fd00::1/64"], mac=mac(1))
    host.handle_timers(0.0)
    host.handle_timers(10.0)
    host.poll_frames(10.0)
    return host


def datagram(source: bytes, destination: bytes, payload: bytes = b"x") -> bytes:
    """An IP packet to a UDP port that nobody has."""
    segment = build_udp(source, destination, 1000, 9, payload) + payload
    if len(source) == 4:
        return build_ipv4(source, destination, 17, len(segment)) + segment
    return build_ipv6(source, destination, 17, len(segment)) + segment


def only_frame(host: Host, now: float = 0.0) -> bytes:
    ((_, frame),) = host.poll_frames(now)
    return frame.to_bytes()


def test_an_error_quotes_the_packet_and_comes_from_where_it_was_sent_to() -> None:
    host = host_on_tun()
    packet = datagram(YOU4, ME4, b"payload" * 10)
    host.receive_frame(1, packet, 0.0)
    answer = only_frame(host)
    header = parse_ipv4(answer)
    assert (header.source, header.destination) == (ME4, YOU4)
    message = parse_icmp4(answer, 20)
    assert (message.type, message.code, bytes(message.body)) == (3, 3, packet)


def test_an_error_never_quotes_more_than_its_version_allows() -> None:
    host = host_on_tun()
    host.receive_frame(1, datagram(YOU4, ME4, bytes(1400)), 0.0)
    assert len(only_frame(host)) == 576
    host.receive_frame(1, datagram(YOU6, ME6, bytes(1400)), 0.0)
    answer = only_frame(host)
    assert len(answer) == 1280
    pseudo = pseudo_header_sum(ME6, YOU6, 58, len(answer) - 40)
    assert parse_icmp6(answer, 40, pseudo=pseudo).type == 1


@pytest.mark.parametrize(("kind", "told"), [(3, 0), (4, 0), (5, 0), (11, 0), (12, 0), (8, 1), (13, 1)])
def test_no_error_is_sent_about_an_error(kind: int, told: int) -> None:
    host = host_on_tun()
    # The first piece of a message that never becomes whole: the time-out is told, unless the message is an error.
    message = build_icmp4(kind, 0, 0, bytes(40))
    piece = build_ipv4(YOU4, ME4, 1, 48, more_fragments=True, dont_fragment=False) + message
    host.receive_frame(1, piece, 0.0)
    host.handle_timers(60.0)
    assert len(host.poll_frames(60.0)) == told


@pytest.mark.parametrize(("kind", "told"), [(1, 0), (127, 0), (137, 0), (128, 1)])
def test_no_icmpv6_error_is_sent_about_an_error(kind: int, told: int) -> None:
    host = host_on_tun()
    message = build_icmp6(YOU6, ME6, kind, 0, 0, bytes(40))
    host.receive_frame(1, build_ipv6(YOU6, ME6, 44, 56) + bytes([58, 0, 0, 1, 0, 0, 0, 1]) + message, 0.0)
    host.handle_timers(60.0)
    assert len(host.poll_frames(60.0)) == told


def test_no_error_is_sent_about_what_was_sent_to_many_or_from_nobody() -> None:
    host = host_on_tap()
    everybody = build_ethernet(b"\xff" * 6, mac(2), ETHERTYPE_IPV4)
    me = build_ethernet(mac(1), mac(2), ETHERTYPE_IPV4)
    group = build_ethernet(multicast_mac(ip("224.0.0.1")), mac(2), ETHERTYPE_IPV4)
    host.receive_frame(1, everybody + datagram(YOU4, ip("10.0.0.255")), 11.0)
    host.receive_frame(1, everybody + datagram(YOU4, ip("255.255.255.255")), 11.0)
    host.receive_frame(1, everybody + datagram(bytes(4), ip("255.255.255.255")), 11.0)
    host.receive_frame(1, group + datagram(YOU4, ip("224.0.0.1")), 11.0)
    host.receive_frame(1, everybody + datagram(YOU4, ME4), 11.0)  # RFC 1122 §3.2.2: a link-layer broadcast
    host.receive_frame(1, everybody + build_ipv4(YOU4, ip("10.0.0.255"), 132, 0), 11.0)
    host.receive_frame(1, me + datagram(ip("10.0.0.255"), ME4), 11.0)
    host.receive_frame(1, build_ethernet(mac(1), mac(2), ETHERTYPE_IPV6) + datagram(bytes(16), ME6), 11.0)
    assert host.poll_frames(11.0) == []


def test_errors_to_one_peer_come_in_a_burst_of_six_and_then_once_a_second() -> None:
    host = host_on_tun()
    sent = []
    for tick in range(100):
        host.receive_frame(1, datagram(YOU4, ME4), tick / 10)
        sent.append(len(host.poll_frames(tick / 10)))
    assert sum(sent[:10]) == 6
    assert sum(sent) == 6 + 9
    assert host.statistics().drops["icmp.rate_limited"] == 85
    host.receive_frame(1, datagram(ip("10.0.0.3"), ME4), 10.0)
    assert len(host.poll_frames(10.0)) == 1


def test_errors_to_all_peers_together_are_limited_too() -> None:
    host = host_on_tun(HostConfig(icmp_errors_per_second=10.0, icmp_errors_burst=5))
    for number in range(20):
        host.receive_frame(1, datagram(bytes([10, 0, 0, 10 + number]), ME4), 0.0)
    assert len(host.poll_frames(0.0)) == 5
    host.receive_frame(1, datagram(ip("10.0.0.99"), ME4), 0.1)
    assert len(host.poll_frames(0.1)) == 1


def test_the_limits_remember_a_bounded_number_of_peers() -> None:
    limits = PeerLimits(1.0, 1)
    for number in range(1000):
        assert limits.take(number.to_bytes(4, "big"), 0.0)
    assert len(limits._buckets) == 256
    assert not limits.take((999).to_bytes(4, "big"), 0.0)


def test_an_echo_to_a_broadcast_is_not_answered_but_one_to_an_ipv6_group_is() -> None:
    host = host_on_tap()
    ping = build_icmp4(8, 0, 1, b"x")
    everybody = build_ethernet(b"\xff" * 6, mac(2), ETHERTYPE_IPV4)
    host.receive_frame(1, everybody + build_ipv4(YOU4, ip("10.0.0.255"), 1, len(ping)) + ping, 11.0)
    assert host.poll_frames(11.0) == []
    assert host.statistics().drops["icmp.echo_to_many"] == 1
    all_nodes = ip("ff02::1")
    ping6 = build_icmp6(YOU6, all_nodes, 128, 0, 1, b"x")
    frame = build_ethernet(multicast_mac(all_nodes), mac(2), ETHERTYPE_IPV6)
    host.receive_frame(1, frame + build_ipv6(YOU6, all_nodes, 58, len(ping6)) + ping6, 11.0)
    question = only_frame(host, 11.0)
    assert question[54] == 135  # it asks where the answer goes, and the answer waits
    assert host.statistics().pending_packets == 1


@pytest.mark.parametrize("version", [4, 6])
def test_replies_that_nobody_reads_are_bounded(version: int) -> None:
    host = host_on_tun(HostConfig(echo_replies=2))
    for sequence in range(3):
        if version == 4:
            pong = build_icmp4(0, 0, sequence, b"x")
            host.receive_frame(1, build_ipv4(YOU4, ME4, 1, len(pong)) + pong, 0.0)
        else:
            pong = build_icmp6(YOU6, ME6, 129, 0, sequence, b"x")
            host.receive_frame(1, build_ipv6(YOU6, ME6, 58, len(pong)) + pong, 0.0)
    replies = [host.icmp.receive_reply() for _ in range(3)]
    assert [reply.sequence for reply in replies if reply is not None] == [0, 1]
    assert host.statistics().drops == {"icmp.replies_full": 1}


def connected(host: Host, remote: bytes) -> UdpSocket:
    socket = host.udp.open(4 if len(remote) == 4 else 6)
    socket.connect(remote, 9)
    return socket


KINDS4 = [
    (3, 0, IcmpKind.NETWORK_UNREACHABLE),
    (3, 1, IcmpKind.HOST_UNREACHABLE),
    (3, 2, IcmpKind.PROTOCOL_UNREACHABLE),
    (3, 3, IcmpKind.PORT_UNREACHABLE),
    (3, 4, IcmpKind.PACKET_TOO_BIG),
    (3, 5, IcmpKind.SOURCE_ROUTE_FAILED),
    (3, 6, IcmpKind.NETWORK_UNREACHABLE),
    (3, 9, IcmpKind.PROHIBITED),
    (3, 13, IcmpKind.PROHIBITED),
    (4, 0, IcmpKind.SOURCE_QUENCH),
    (11, 0, IcmpKind.TIME_EXCEEDED),
    (11, 1, IcmpKind.TIME_EXCEEDED),
    (12, 0, IcmpKind.PARAMETER_PROBLEM),
]
KINDS6 = [
    (1, 0, IcmpKind.NETWORK_UNREACHABLE),
    (1, 1, IcmpKind.PROHIBITED),
    (1, 2, IcmpKind.HOST_UNREACHABLE),
    (1, 3, IcmpKind.HOST_UNREACHABLE),
    (1, 4, IcmpKind.PORT_UNREACHABLE),
    (1, 5, IcmpKind.PROHIBITED),
    (2, 0, IcmpKind.PACKET_TOO_BIG),
    (3, 0, IcmpKind.TIME_EXCEEDED),
    (4, 0, IcmpKind.PARAMETER_PROBLEM),
    (4, 1, IcmpKind.PROTOCOL_UNREACHABLE),
]


@pytest.mark.parametrize(("kind", "code", "meaning"), KINDS4)
def test_an_icmp_error_reaches_the_transport_that_it_is_about(kind: int, code: int, meaning: IcmpKind) -> None:
    host = host_on_tun()
    heard: list[IcmpError] = []
    host.icmp.transports[6] = lambda error, now: heard.append(error)
    quote = build_ipv4(ME4, YOU4, 6, 400) + b"8 bytes!"
    message = build_icmp4(kind, code, 1400, quote)
    host.receive_frame(1, build_ipv4(ip("10.0.0.9"), ME4, 1, len(message)) + message, 0.0)
    (error,) = heard
    mtu = 1400 if meaning is IcmpKind.PACKET_TOO_BIG else 0
    assert error._replace(quoted=bytes(error.quoted)) == IcmpError(meaning, ME4, YOU4, 6, b"8 bytes!", mtu)


@pytest.mark.parametrize(("kind", "code", "meaning"), KINDS6)
def test_an_icmpv6_error_reaches_the_transport_that_it_is_about(kind: int, code: int, meaning: IcmpKind) -> None:
    host = host_on_tun()
    heard: list[IcmpError] = []
    host.icmp.transports[6] = lambda error, now: heard.append(error)
    quote = build_ipv6(ME6, YOU6, 6, 400) + b"8 bytes!"
    message = build_icmp6(YOU6, ME6, kind, code, 1400, quote)
    host.receive_frame(1, build_ipv6(YOU6, ME6, 58, len(message)) + message, 0.0)
    (error,) = heard
    assert (error.kind, error.local, error.remote, error.protocol) == (meaning, ME6, YOU6, 6)
    assert error.mtu_bytes == (1400 if meaning is IcmpKind.PACKET_TOO_BIG else 0)


def test_an_error_about_a_packet_that_we_cannot_have_sent_is_counted() -> None:
    host = host_on_tun()
    heard: list[IcmpError] = []
    host.icmp.transports[17] = lambda error, now: heard.append(error)
    for quote, reason in [
        (datagram(YOU4, ip("10.0.0.9")), "icmp.not_about_us"),
        (b"\x45", "icmp.quoted_packet"),
        (b"", "icmp.quoted_packet"),
        (datagram(ME4, YOU4)[:27], "icmp.quoted_packet"),
    ]:
        before = host.statistics().drops.get(reason, 0)
        message = build_icmp4(3, 3, 0, quote)
        host.receive_frame(1, build_ipv4(YOU4, ME4, 1, len(message)) + message, 0.0)
        assert host.statistics().drops[reason] == before + 1
    assert heard == []


def test_a_redirect_changes_nothing() -> None:
    host = host_on_tun()
    message = build_icmp4(5, 1, 0x0A000009, datagram(ME4, YOU4))
    before = host.routes()
    host.receive_frame(1, build_ipv4(YOU4, ME4, 1, len(message)) + message, 0.0)
    assert host.routes() == before
    assert host.statistics().drops == {"icmp.redirect_ignored": 1}


def test_a_spoilt_message_is_counted_by_its_checksum() -> None:
    host = host_on_tun()
    ping = build_icmp4(8, 0, 1, b"x")[:-1] + b"y"
    host.receive_frame(1, build_ipv4(YOU4, ME4, 1, len(ping)) + ping, 0.0)
    ping6 = build_icmp6(YOU6, ME6, 128, 0, 1, b"x")[:-1] + b"y"
    host.receive_frame(1, build_ipv6(YOU6, ME6, 58, len(ping6)) + ping6, 0.0)
    assert host.statistics().drops == {"icmp4.checksum": 1, "icmp6.checksum": 1}


@pytest.mark.parametrize(("remote", "too_big", "pieces"), [("10.0.0.2", 1000, 2), ("fd00::2", 1300, 2)])
def test_a_smaller_path_mtu_divides_datagrams_and_is_forgotten_after_ten_minutes(
    remote: str, too_big: int, pieces: int
) -> None:
    net, a, _, hub = two_hosts()
    socket = connected(a, ip(remote))
    socket.dont_fragment = True
    version4 = len(ip(remote)) == 4
    here = ip("10.0.0.1") if version4 else ME6
    quote = datagram(here, ip(remote))
    if version4:
        quote = quote[:20] + socket.local[1].to_bytes(2, "big") + b"\0\x09" + quote[24:]
        message = build_icmp4(3, 4, too_big, quote)
        packet = build_ipv4(ip("10.0.0.2"), here, 1, len(message)) + message
    else:
        quote = quote[:40] + socket.local[1].to_bytes(2, "big") + b"\0\x09" + quote[44:]
        message = build_icmp6(ip("fd00::2"), here, 2, 0, too_big, quote)
        packet = build_ipv6(ip("fd00::2"), here, 58, len(message)) + message
    ethertype = ETHERTYPE_IPV4 if version4 else ETHERTYPE_IPV6
    a.receive_frame(1, build_ethernet(mac(1), mac(2), ethertype) + packet, net.now)
    path = a._output.path(ip(remote))
    assert path is not None
    assert path.mtu_bytes == too_big
    with pytest.raises(OSError, match="ICMP"):
        socket.send_to(bytes(1400), None, net.now)
    with pytest.raises(OSError, match="too big"):
        socket.send_to(bytes(1400), None, net.now)
    socket.dont_fragment = False
    socket.send_to(bytes(1400), None, net.now)
    net.settle()
    mine = [each for each in hub.passed if each.sender is a and each.data[12:14] == ethertype.to_bytes(2, "big")]
    large = [each for each in mine if len(each.data) > 100]
    assert len(large) == pieces
    assert max(len(each.data) for each in large) <= too_big + 14
    net.run(601.0)
    a.poll_events()
    path = a._output.path(ip(remote))
    assert path is not None
    assert path.mtu_bytes == 1500


def test_an_old_router_that_tells_no_mtu_makes_us_try_the_next_smaller_common_one() -> None:
    host = host_on_tun()
    quote = build_ipv4(ME4, YOU4, 17, 1480) + bytes(8)
    message = build_icmp4(3, 4, 0, quote)
    host.receive_frame(1, build_ipv4(YOU4, ME4, 1, len(message)) + message, 0.0)
    path = host._output.path(YOU4)
    assert path is not None
    assert path.mtu_bytes == 1492


@pytest.mark.parametrize(("told", "believed"), [(68, 552), (551, 552), (1400, 1400), (1500, 1500), (9000, 1500)])
def test_a_path_mtu_is_believed_only_within_reason(told: int, believed: int) -> None:
    host = host_on_tun()
    message = build_icmp4(3, 4, told, datagram(ME4, YOU4))
    host.receive_frame(1, build_ipv4(YOU4, ME4, 1, len(message)) + message, 0.0)
    path = host._output.path(YOU4)
    assert path is not None
    assert path.mtu_bytes == believed


def test_a_path_mtu_of_ipv6_is_never_below_1280() -> None:
    host = host_on_tun()
    message = build_icmp6(YOU6, ME6, 2, 0, 600, datagram(ME6, YOU6))
    host.receive_frame(1, build_ipv6(YOU6, ME6, 58, len(message)) + message, 0.0)
    path = host._output.path(YOU6)
    assert path is not None
    assert path.mtu_bytes == 1280


def test_a_packet_that_never_became_whole_is_told_to_its_sender_if_its_beginning_came() -> None:
    host = host_on_tun()
    segment = build_udp(YOU4, ME4, 1000, 9, bytes(92)) + bytes(92)
    first = build_ipv4(YOU4, ME4, 17, 48, identification=1, more_fragments=True, dont_fragment=False) + segment[:48]
    last = build_ipv4(YOU4, ME4, 17, 52, identification=2, fragment_offset_bytes=48, dont_fragment=False) + segment[48:]
    host.receive_frame(1, first, 0.0)
    host.receive_frame(1, last, 0.0)
    six = build_ipv6(YOU6, ME6, 44, 56) + bytes([17, 0, 0, 1, 0, 0, 0, 1]) + segment[:48]
    host.receive_frame(1, six, 0.0)
    assert host.next_deadline() == 60.0
    host.handle_timers(60.0)
    four, answer6 = (frame.to_bytes() for _, frame in host.poll_frames(60.0))
    message = parse_icmp4(four, 20)
    assert (message.type, message.code, bytes(message.body)) == (11, 1, first)
    assert parse_ipv6(answer6).destination == YOU6
    assert tuple(answer6[40:42]) == (3, 1)
    assert host.statistics().drops == {"ip.reassembly_timeout": 2, "ip6.reassembly_timeout": 1}
    assert host.next_deadline() is None


def test_behind_a_link_header_the_same_packet_is_quoted() -> None:
    host = host_on_tap()
    first = build_ipv4(YOU4, ME4, 17, 48, identification=1, more_fragments=True, dont_fragment=False) + bytes(48)
    host.receive_frame(1, build_ethernet(mac(1), mac(2), ETHERTYPE_IPV4) + first, 11.0)
    host.receive_frame(1, build_ethernet(mac(1), mac(2), ETHERTYPE_IPV4) + datagram(YOU4, ME4), 11.0)
    host.poll_frames(11.0)
    host.handle_timers(71.0)
    waiting = host._output.ports[1].caches[4].get(YOU4)
    assert waiting is not None
    assert waiting.pending is not None
    quotes = [bytes(parse_icmp4(packet.to_bytes(), 20).body) for packet in waiting.pending]
    assert quotes[-1] == first

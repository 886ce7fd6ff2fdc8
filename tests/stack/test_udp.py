"""UDP sockets: who hears what, what is refused, and which error comes back to whom."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stack._net import Hub, Net, ip, mac, two_hosts

from underlay.stack import Events, Host, HostConfig, UdpSocket
from underlay.wire import build_ipv4, build_ipv6, parse_udp, pseudo_header_sum

ANY4, ANY6 = bytes(4), bytes(16)


def alone(config: HostConfig | None = None) -> Host:
    host = Host("alone", rng=random.Random(3), config=config or HostConfig())
    host.add_interface(["10.0.0.1/24", "fd00::1/64"], mac=None)
    host.add_interface(["10.1.0.1/24"], mac=None)
    return host


def bound(host: Host, address: str, port: int) -> UdpSocket:
    socket = host.udp.open(6 if ":" in address else 4)
    socket.bind(ip(address), port)
    return socket


def number(raised: pytest.ExceptionInfo[OSError]) -> str:
    assert raised.value.errno is not None
    return errno.errorcode[raised.value.errno]


@pytest.mark.parametrize(("here", "there"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
def test_a_datagram_and_its_answer(here: str, there: str) -> None:
    net, a, b, _ = two_hosts()
    server = bound(b, there, 53)
    client = a.udp.open(server.version)
    assert client.send_to(b"question", (ip(there), 53), net.now) == 8
    net.settle()
    assert b.poll_events() == [(server, Events.READABLE)]
    assert b.poll_events() == []
    received = server.receive_from()
    assert received is not None
    assert received == (b"question", (ip(here), client.local[1]))
    server.send_to(b"answer", received[1], net.now)
    net.settle()
    assert client.readable
    assert client.receive_from() == (b"answer", (ip(there), 53))
    assert client.receive_from() is None
    assert 32_768 <= client.local[1] <= 60_999


@pytest.mark.parametrize("there", ["10.0.0.2", "fd00::2"])
def test_a_stranger_s_port_comes_back_as_connection_refused_to_a_connected_socket_once(there: str) -> None:
    net, a, _, _ = two_hosts()
    client = a.udp.open(6 if ":" in there else 4)
    client.connect(ip(there), 9)
    client.send_to(b"anybody?", None, net.now)
    net.settle()
    assert a.poll_events() == [(client, Events.ERROR)]
    assert client.readable
    with pytest.raises(ConnectionRefusedError):
        client.receive_from()
    assert client.receive_from() is None
    client.send_to(b"anybody?", None, net.now)
    net.settle()
    with pytest.raises(ConnectionRefusedError):
        client.send_to(b"again?", None, net.now)
    client.send_to(b"and again?", None, net.now)
    net.settle()
    assert client.take_error() == errno.ECONNREFUSED
    assert client.take_error() == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_closed_port_of_the_host_itself_refuses_as_often_as_it_is_asked(address: str) -> None:
    host = alone()
    client = host.udp.open(6 if ":" in address else 4)
    client.connect(ip(address), 9)
    for _ in range(50):
        client.send_to(b"anybody?", None, 0.0)
        host.poll_frames(0.0)
        assert client.take_error() == errno.ECONNREFUSED
    assert host.udp.statistics().datagrams_sent == 50


def test_peek_gives_the_oldest_datagram_and_leaves_it_there() -> None:
    host = alone()
    server, client = bound(host, "127.0.0.1", 53), bound(host, "127.0.0.1", 54)
    assert server.peek() is None
    for data in (b"first", b"second"):
        client.send_to(data, server.local, 0.0)
    host.poll_frames(0.0)
    waiting = server.queued_bytes
    assert server.peek() == (b"first", client.local)
    assert server.peek(3) == (b"fir", client.local)
    assert server.peek(100) == server.receive_from() == (b"first", client.local)
    assert server.queued_bytes < waiting
    assert server.receive_from() == (b"second", client.local)
    client.connect(ip("127.0.0.1"), 9)
    client.send_to(b"anybody?", None, 0.0)
    host.poll_frames(0.0)
    with pytest.raises(ConnectionRefusedError):
        client.peek()
    assert client.peek() is None
    client.close(0.0)
    with pytest.raises(OSError, match="closed"):
        client.peek()


def test_an_unconnected_socket_is_not_told_of_errors() -> None:
    net, a, b, _ = two_hosts()
    client = a.udp.open()
    client.send_to(b"anybody?", (ip("10.0.0.2"), 9), net.now)
    net.settle()
    assert a.poll_events() == []
    assert not client.readable
    assert b.statistics().drops == {"udp.no_socket": 1}


@pytest.mark.parametrize("there", ["10.0.0.9", "fd00::9"])
def test_a_neighbour_that_does_not_answer_comes_back_as_host_unreachable(there: str) -> None:
    net, a, _, _ = two_hosts()
    client = a.udp.open(6 if ":" in there else 4)
    client.connect(ip(there), 9)
    client.send_to(b"anybody?", None, net.now)
    net.run(2.9)
    assert not client.readable
    net.run(0.2)
    with pytest.raises(OSError, match="ICMP") as raised:
        client.receive_from()
    assert number(raised) == "EHOSTUNREACH"


def test_a_connected_socket_hears_only_its_peer_and_goes_before_an_unconnected_one() -> None:
    net, a, b, _ = two_hosts()
    general = b.udp.open()
    general.reuse_address = True
    general.bind(ANY4, 53)
    special = b.udp.open()
    special.reuse_address = True
    special.bind(ANY4, 53)
    peer, other = bound(a, "10.0.0.1", 1000), bound(a, "10.0.0.1", 1001)
    special.connect(ip("10.0.0.1"), 1000)
    assert special.local == (ip("10.0.0.2"), 53)
    for sender in (peer, other):
        sender.send_to(b"from %d" % sender.local[1], (ip("10.0.0.2"), 53), net.now)
    net.settle()
    assert special.receive_from() == (b"from 1000", (ip("10.0.0.1"), 1000))
    assert special.receive_from() is None
    assert general.receive_from() == (b"from 1001", (ip("10.0.0.1"), 1001))


def test_connecting_anew_and_disconnecting_chooses_the_address_anew() -> None:
    host = alone()
    socket = host.udp.open()
    socket.connect(ip("10.0.0.9"), 9)
    port = socket.local[1]
    assert socket.local[0] == ip("10.0.0.1")
    socket.connect(ip("10.1.0.9"), 9)
    assert socket.local == (ip("10.1.0.1"), port)
    with pytest.raises(OSError, match="Network is unreachable"):
        socket.connect(ip("192.0.2.1"), 9)
    assert (socket.local, socket.remote) == ((ip("10.1.0.1"), port), (ip("10.1.0.9"), 9))
    socket.disconnect()
    assert (socket.local, socket.remote) == ((ANY4, port), None)


def test_connecting_to_the_zero_address_means_the_host_itself() -> None:
    host = alone()
    server = bound(host, "0.0.0.0", 53)
    client = host.udp.open()
    client.connect(ANY4, 53)
    client.send_to(b"me?", None, 0.0)
    host.poll_frames(0.0)
    assert server.receive_from() == (b"me?", (ip("127.0.0.1"), client.local[1]))


def test_a_queue_that_is_full_drops_the_newest_and_counts_it() -> None:
    host = alone()
    server, client = bound(host, "127.0.0.1", 53), host.udp.open()
    server.receive_buffer_bytes = 3 * (100 + 64)
    for index in range(5):
        client.send_to(bytes([index]) * 100, server.local, 0.0)
    host.poll_frames(0.0)
    assert server.drops == 2
    assert host.statistics().drops == {"udp.queue_full": 2}
    assert server.queued_bytes == 492
    kept = [received[0][0] for _ in range(3) if (received := server.receive_from()) is not None]
    assert kept == [0, 1, 2]
    assert server.queued_bytes == 0


def test_a_port_belongs_to_one_socket_unless_both_agree() -> None:
    host = alone()
    bound(host, "10.0.0.1", 53)
    bound(host, "10.1.0.1", 53)
    bound(host, "::", 53)
    for address in ("10.0.0.1", "0.0.0.0"):
        with pytest.raises(OSError, match="in use") as raised:
            bound(host, address, 53)
        assert number(raised) == "EADDRINUSE"
    first, second = host.udp.open(), host.udp.open()
    first.reuse_port = second.reuse_port = True
    first.bind(ANY4, 54)
    second.bind(ANY4, 54)


def test_sockets_that_share_a_port_share_its_senders() -> None:
    host = alone()
    servers = []
    for _ in range(4):
        server = host.udp.open()
        server.reuse_port = True
        server.bind(ip("127.0.0.1"), 53)
        servers.append(server)
    clients = [host.udp.open() for _ in range(40)]
    for client in clients:
        client.send_to(b"1", servers[0].local, 0.0)
        client.send_to(b"2", servers[0].local, 0.0)
    host.poll_frames(0.0)
    heard = []
    for server in servers:
        senders = []
        while (received := server.receive_from()) is not None:
            senders.append(received[1][1])
        heard.append(senders)
        assert all(senders.count(port) == 2 for port in senders)
    assert sum(map(len, heard)) == 80
    assert all(heard)


def test_a_closed_socket_gives_its_port_back_and_says_so() -> None:
    host = alone()
    socket = bound(host, "10.0.0.1", 53)
    socket.close(0.0)
    socket.close(0.0)
    bound(host, "10.0.0.1", 53)
    with pytest.raises(OSError, match="closed") as raised:
        socket.receive_from()
    assert number(raised) == "EBADF"
    assert not socket.writable


def test_what_linux_refuses_is_refused_with_its_number() -> None:
    host = alone()
    socket = host.udp.open()
    cases: list[tuple[str, Callable[[], object]]] = [
        ("EADDRNOTAVAIL", lambda: host.udp.open().bind(ip("10.0.0.9"), 53)),
        ("EAFNOSUPPORT", lambda: host.udp.open().bind(ANY6, 53)),
        ("EAFNOSUPPORT", lambda: host.udp.open(5)),
        ("EINVAL", lambda: host.udp.open().bind(ANY4, 70_000)),
        ("EINVAL", lambda: bound(host, "10.0.0.1", 0).bind(ANY4, 1)),
        ("EDESTADDRREQ", lambda: socket.send_to(b"", None, 0.0)),
        ("EINVAL", lambda: socket.send_to(b"", (ip("10.0.0.2"), 0), 0.0)),
        ("ENETUNREACH", lambda: socket.send_to(b"", (ip("192.0.2.1"), 9), 0.0)),
        ("EACCES", lambda: socket.send_to(b"", (ip("10.0.0.255"), 9), 0.0)),
        ("EACCES", lambda: socket.send_to(b"", (ip("255.255.255.255"), 9), 0.0)),
        ("EACCES", lambda: socket.connect(ip("10.0.0.255"), 9)),
        ("EMSGSIZE", lambda: socket.send_to(bytes(65_508), (ip("10.0.0.2"), 9), 0.0)),
        ("EINVAL", lambda: socket.join(ip("10.0.0.2"), 0.0)),
        ("EADDRNOTAVAIL", lambda: socket.leave(ip("224.1.1.1"), 0.0)),
        ("ENODEV", lambda: socket.join(ip("224.1.1.1"), 0.0, 77)),
    ]
    for name, call in cases:
        with pytest.raises(OSError, match=r"\w") as raised:
            call()
        assert number(raised) == name


def test_a_socket_that_may_not_be_divided_is_told_the_size() -> None:
    net, a, b, hub = two_hosts()
    server = bound(b, "10.0.0.2", 9)
    client = a.udp.open()
    client.dont_fragment = True
    client.send_to(bytes(1472), (ip("10.0.0.2"), 9), net.now)
    with pytest.raises(OSError, match="too big") as raised:
        client.send_to(bytes(1473), (ip("10.0.0.2"), 9), net.now)
    assert number(raised) == "EMSGSIZE"
    client.dont_fragment = False
    client.send_to(bytes(65_507), (ip("10.0.0.2"), 9), net.now)
    net.settle()
    sizes = [len(received[0]) for _ in range(2) if (received := server.receive_from()) is not None]
    assert sizes == [1472, 65_507]
    assert max(len(each.data) for each in hub.passed) == 1514


def test_a_broadcast_reaches_every_socket_of_every_host_and_nobody_complains() -> None:
    net, a, b, hub = two_hosts()
    c = net.host("c")
    net.join(hub, c, ["10.0.0.3/24"], mac(3))
    net.run(5.0)
    sockets = []
    for host in (a, b, b):
        socket = host.udp.open()
        socket.reuse_address = True
        socket.bind(ANY4, 67)
        sockets.append(socket)
    sockets[0].broadcast = True
    for target in ("10.0.0.255", "255.255.255.255"):
        sockets[0].send_to(b"who is there?", (ip(target), 67), net.now)
    hub.passed.clear()
    net.settle()
    for socket in sockets:
        for _ in range(2):
            assert socket.receive_from() == (b"who is there?", (ip("10.0.0.1"), 67))
        assert socket.receive_from() is None
    assert [each.data[:6] for each in hub.passed] == [b"\xff" * 6] * 2
    assert c.statistics().drops == {"udp.no_socket": 2}


@pytest.mark.parametrize(("group", "head"), [("224.1.2.3", "01005e010203"), ("ff02::4:5", "333300040005")])
def test_a_group_is_heard_by_those_who_joined_as_long_as_they_are_in_it(group: str, head: str) -> None:
    net, a, b, hub = two_hosts()
    version = 6 if ":" in group else 4
    listener = bound(b, "::" if version == 6 else "0.0.0.0", 5000)
    sender = a.udp.open(version)
    sender.multicast_interface = 1

    def heard() -> bool:
        sender.send_to(b"all", (ip(group), 5000), net.now)
        net.settle()
        return listener.receive_from() is not None

    assert not heard()
    listener.join(ip(group), net.now, 1)
    with pytest.raises(OSError, match="already") as raised:
        listener.join(ip(group), net.now, 1)
    assert number(raised) == "EADDRINUSE"
    hub.passed.clear()
    assert heard()
    assert bytes.fromhex(head) in [each.data[:6] for each in hub.passed]
    assert [each.data[22 if version == 4 else 21] for each in hub.passed if each.sender is a] == [1]
    listener.leave(ip(group), net.now)
    assert not heard()
    listener.join(ip(group), net.now, 1)
    listener.close(net.now)
    assert b._output.ports[1].interface.groups == {}


def test_a_sender_in_its_own_group_hears_itself_unless_it_does_not_want_to() -> None:
    host = alone()
    socket = bound(host, "0.0.0.0", 5000)
    socket.join(ip("224.1.2.3"), 0.0, 1)
    socket.multicast_interface = 1
    socket.send_to(b"hello", (ip("224.1.2.3"), 5000), 0.0)
    host.poll_frames(0.0)
    assert socket.receive_from() == (b"hello", (ip("10.0.0.1"), 5000))
    socket.send_to(bytes(4000), (ip("224.1.2.3"), 5000), 0.0)
    assert len(host.poll_frames(0.0)) == 3
    assert socket.receive_from() == (bytes(4000), (ip("10.0.0.1"), 5000))
    socket.multicast_loop = False
    for size in (5, 4000):
        socket.send_to(bytes(size), (ip("224.1.2.3"), 5000), 0.0)
    host.poll_frames(0.0)
    assert socket.receive_from() is None


def test_a_link_with_offload_fills_in_the_checksum() -> None:
    host = Host("fast", rng=random.Random(3))
    host.add_interface(["10.0.0.1/24"], mac=None, offload=True)
    socket = host.udp.open()
    socket.send_to(b"data", (ip("10.0.0.2"), 9), 0.0)
    socket.send_to(bytes(2000), (ip("10.0.0.2"), 9), 0.0)
    whole, *pieces = [frame for _, frame in host.poll_frames(0.0)]
    assert (whole.checksum_start, whole.checksum_offset) == (20, 6)
    assert [piece.checksum_offset for piece in pieces] == [0, 0]
    other = Host("slow", rng=random.Random(3))
    tun = other.add_interface(["10.0.0.2/24"], mac=None)
    server = bound(other, "10.0.0.2", 9)
    for frame in (whole, *pieces):
        other.receive_frame(tun, frame.with_checksum().to_bytes(), 0.0)
    assert [len(received[0]) for _ in range(2) if (received := server.receive_from()) is not None] == [4, 2000]


def test_a_link_without_offload_gets_the_checksum_whole() -> None:
    host = alone()
    socket = host.udp.open()
    socket.send_to(b"data", (ip("10.0.0.2"), 9), 0.0)
    ((_, frame),) = host.poll_frames(0.0)
    assert (frame.checksum_start, frame.checksum_offset) == (0, 0)
    assert frame.with_checksum() is frame
    pseudo = pseudo_header_sum(ip("10.0.0.1"), ip("10.0.0.2"), 17, 12)
    assert parse_udp(frame.to_bytes(), 20, pseudo=pseudo).checksum


def test_ports_run_out_with_a_number_and_sockets_too() -> None:
    host = alone(HostConfig(ephemeral_ports=(50_000, 50_002), udp_sockets=5))
    taken = {bound(host, "0.0.0.0", 0).local[1] for _ in range(3)}
    assert taken == {50_000, 50_001, 50_002}
    with pytest.raises(OSError, match="all UDP ports") as raised:
        bound(host, "0.0.0.0", 0)
    assert number(raised) == "EADDRINUSE"
    host.udp.open()
    with pytest.raises(OSError, match="UDP sockets") as raised:
        host.udp.open()
    assert number(raised) == "EMFILE"


def test_an_ipv6_datagram_without_checksum_and_a_short_one_are_counted() -> None:
    host = alone()
    bound(host, "::", 9)
    packet = build_ipv6(ip("fd00::2"), ip("fd00::1"), 17, 8) + bytes([0, 1, 0, 9, 0, 8, 0, 0])
    host.receive_frame(1, packet, 0.0)
    host.receive_frame(1, build_ipv4(ip("10.0.0.2"), ip("10.0.0.1"), 17, 7) + bytes(7), 0.0)
    assert host.statistics().drops == {"udp.checksum": 1, "udp.header": 1}


@given(
    st.lists(
        st.tuples(st.sampled_from(["open", "close", "connect", "disconnect", "send"]), st.integers(0, 5)), max_size=60
    )
)
def test_the_tables_hold_exactly_the_open_sockets(steps: list[tuple[str, int]]) -> None:
    net = Net()
    host = net.host("a")
    net.join(Hub(), host, ["10.0.0.1/24"], None)
    sockets: dict[int, UdpSocket] = {}
    for what, index in steps:
        if what == "open" and index not in sockets:
            sockets[index] = bound(host, "0.0.0.0", 6000 + index)
        elif index not in sockets:
            continue
        elif what == "close":
            sockets.pop(index).close(0.0)
        elif what == "connect":
            sockets[index].connect(ip("10.0.0.1"), 6000 + (index + 1) % 6)
        elif what == "disconnect":
            sockets[index].disconnect()
        else:
            sockets[index].send_to(b"x", (ip("127.0.0.1"), 6000), 0.0)
        udp = host.udp
        assert udp._count == len(sockets)
        listed = [each for many in (*udp._unconnected.values(), *udp._connected.values()) for each in many]
        assert sorted(map(id, listed)) == sorted(map(id, sockets.values()))
        assert sum(map(len, udp._by_port.values())) == len(sockets)

"""What getsockopt tells of a socket of the stack, new, listening or connected, as the kernel does of its own."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest

from underlay.loop._stack_options import Options

from ._both import Net, Situation, each, kernel, names, stack, tell

SITUATIONS: list[Situation] = []
SOL, TCP, IP, IPV6 = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6
# <linux/tcp.h>, up to tcpi_total_retrans.
INFO = struct.Struct("=8B24I")
FIELDS = (
    *("state", "ca_state", "retransmits", "probes", "backoff", "options", "wscale", "flags", "rto", "ato", "snd_mss"),
    *("rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets", "last_data_sent", "last_ack_sent"),
    *("last_data_recv", "last_ack_recv", "pmtu", "rcv_ssthresh", "rtt", "rttvar", "snd_ssthresh", "snd_cwnd"),
    *("advmss", "reordering", "rcv_rtt", "rcv_space", "total_retrans"),
)


def situation(function: Situation) -> Situation:
    SITUATIONS.append(function)
    return function


def info(sock: socket.socket) -> dict[str, int]:
    return dict(zip(FIELDS, INFO.unpack(sock.getsockopt(TCP, socket.TCP_INFO, INFO.size)), strict=True))


def kinds(net: Net) -> list[socket.socket]:
    client, server = net.pair()
    six = net.make(socket.AF_INET6, socket.SOCK_STREAM)
    return [net.tcp(), net.listener(), client, server, net.udp(), net.udp6(), six]


@situation
def what_a_socket_is(net: Net) -> object:
    options = (socket.SO_TYPE, socket.SO_PROTOCOL, socket.SO_DOMAIN, socket.SO_ACCEPTCONN, socket.SO_ERROR)
    return [[sock.getsockopt(SOL, option) for option in options] for sock in kinds(net)]


@situation
def values_that_are_no_plain_numbers(net: Net) -> object:
    tcp, udp, six = net.tcp(), net.udp(), net.make(socket.AF_INET6, socket.SOCK_STREAM)
    values: list[object] = [
        *(5, -1, "x", 3.5, 2**40, memoryview(bytes(3)), memoryview(bytes(8))),
        *("reno", memoryview(b"reno"), memoryview(bytes(16))[::2]),
    ]
    told: list[object] = []
    for sock, level, name in ((udp, IP, socket.IP_ADD_MEMBERSHIP), (tcp, TCP, socket.TCP_CONGESTION)):
        told.append([tell(lambda: sock.setsockopt(level, name, value)) for value in values])  # type: ignore[call-overload] # noqa: B023
    for sock, level, name, value in (
        (tcp, IP, socket.IP_TOS, 255), (udp, IP, socket.IP_TOS, 255), (six, IPV6, socket.IPV6_TCLASS, 255),
        (tcp, SOL, socket.SO_RCVLOWAT, 0), (tcp, SOL, socket.SO_KEEPALIVE, memoryview(b"\1\0\0\0")),
        (tcp, TCP, socket.TCP_SYNCNT, 3),
    ):  # fmt: skip
        sock.setsockopt(level, name, value)
        told.append(sock.getsockopt(level, name))
    told.append([tell(lambda: tcp.connect((host, 1))) for host in ("a\0b", b"a\0b", "127.0.0.1\0")])  # noqa: B023
    return told


def test_the_retransmissions_of_a_syn_are_those_of_the_option() -> None:
    options = Options()
    assert options.tcp().syn_retries is None
    options.set(TCP, socket.TCP_SYNCNT, 3)
    assert options.tcp().syn_retries == 3


@situation
def what_cannot_be_set(net: Net) -> object:
    options = (socket.SO_TYPE, socket.SO_PROTOCOL, socket.SO_DOMAIN, socket.SO_ACCEPTCONN, socket.SO_ERROR)
    told = [[tell(lambda: sock.setsockopt(SOL, option, 1)) for option in options] for sock in kinds(net)]  # noqa: B023
    return told, tell(lambda: net.tcp().setsockopt(TCP, socket.TCP_INFO, 1))


@situation
def what_there_is_not(net: Net) -> object:
    told: list[object] = []
    for sock in kinds(net):
        for level, name in ((SOL, 9999), (TCP, 9999), (IP, 9999), (9999, 1), (socket.IPPROTO_UDP, 9999), (IPV6, 9999)):
            told.append(each(lambda: sock.getsockopt(level, name), lambda: sock.setsockopt(level, name, 1)))  # noqa: B023
    return told


@situation
def defaults(net: Net) -> object:
    told: list[object] = []
    options = [
        *[(SOL, getattr(socket, name)) for name in ("SO_REUSEADDR", "SO_REUSEPORT", "SO_KEEPALIVE", "SO_BROADCAST")],
        *[(SOL, getattr(socket, name)) for name in ("SO_OOBINLINE", "SO_RCVLOWAT", "SO_PRIORITY", "SO_LINGER")],
        *[(TCP, getattr(socket, name)) for name in ("TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")],
        *[(TCP, getattr(socket, name)) for name in ("TCP_USER_TIMEOUT", "TCP_CORK", "TCP_DEFER_ACCEPT", "TCP_SYNCNT")],
        *[(TCP, getattr(socket, name)) for name in ("TCP_LINGER2", "TCP_QUICKACK")],
        *[(IP, getattr(socket, name)) for name in ("IP_TTL", "IP_TOS", "IP_MULTICAST_TTL", "IP_MULTICAST_LOOP")],
        *[(IPV6, getattr(socket, name)) for name in ("IPV6_UNICAST_HOPS", "IPV6_MULTICAST_HOPS", "IPV6_V6ONLY")],
        (IPV6, socket.IPV6_TCLASS),
    ]
    for sock in kinds(net):
        for level, name in options:
            if (level, name) == (TCP, socket.TCP_QUICKACK) and sock.type == socket.SOCK_STREAM:
                continue  # the kernel's own changes with each segment
            if (level, name) == (IP, socket.IP_MULTICAST_TTL) and sock.type == socket.SOCK_STREAM:
                continue  # what a stream never sends; the kernel's changes in accept()
            told.append((sock.family, sock.type, level, name, tell(lambda: sock.getsockopt(level, name))))  # noqa: B023
    return told


@situation
def lengths_of_values(net: Net) -> object:
    sock = net.tcp()
    sock.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 7))
    sock.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
    sock.setsockopt(TCP, socket.TCP_LINGER2, -1)
    sock.setsockopt(TCP, socket.TCP_KEEPIDLE, 258)
    calls: list[Callable[[], object]] = [
        lambda: sock.getsockopt(SOL, socket.SO_LINGER),
        lambda: sock.getsockopt(SOL, socket.SO_LINGER, 8),
        lambda: sock.getsockopt(SOL, socket.SO_LINGER, 100),
        lambda: sock.getsockopt(SOL, socket.SO_LINGER, 4),
        lambda: sock.getsockopt(TCP, socket.TCP_CONGESTION, 16),
        lambda: sock.getsockopt(TCP, socket.TCP_CONGESTION, 3),
        lambda: sock.getsockopt(TCP, socket.TCP_CONGESTION, 100),
        lambda: sock.getsockopt(TCP, socket.TCP_LINGER2),
        lambda: sock.getsockopt(TCP, socket.TCP_LINGER2, 4),
        lambda: sock.getsockopt(TCP, socket.TCP_KEEPIDLE, 4),
        lambda: sock.getsockopt(TCP, socket.TCP_KEEPIDLE, 2),
        lambda: sock.getsockopt(TCP, socket.TCP_KEEPIDLE, 100),
        lambda: sock.getsockopt(TCP, socket.TCP_KEEPIDLE, 1025),
        lambda: sock.getsockopt(TCP, socket.TCP_KEEPIDLE, -1),
        lambda: sock.getsockopt(TCP, socket.TCP_INFO),
        lambda: len(sock.getsockopt(TCP, socket.TCP_INFO, 104)),
        lambda: sock.setsockopt(TCP, socket.TCP_KEEPIDLE, None, 4),
        lambda: sock.setsockopt(TCP, socket.TCP_KEEPIDLE, "5"),  # type: ignore[call-overload]
        lambda: sock.setsockopt(TCP, socket.TCP_KEEPIDLE, bytearray(struct.pack("i", 9))),
        lambda: sock.getsockopt(TCP, socket.TCP_KEEPIDLE),
        lambda: sock.setsockopt(TCP, socket.TCP_KEEPIDLE, 1 << 40),
    ]
    return each(*calls)


@situation
def deferring_accept_is_told_in_seconds_of_the_back_off(net: Net) -> object:
    sock = net.tcp()
    told = []
    for seconds in (0, 1, 2, 3, 4, 7, 8, 30, 60, 100, 200, -5):
        sock.setsockopt(TCP, socket.TCP_DEFER_ACCEPT, seconds)
        told.append(sock.getsockopt(TCP, socket.TCP_DEFER_ACCEPT))
    return told


@situation
def the_largest_segment(net: Net) -> object:
    new, set_before, client = net.tcp(), net.tcp(), net.tcp()
    set_before.setsockopt(TCP, socket.TCP_MAXSEG, 1000)
    client.setsockopt(TCP, socket.TCP_MAXSEG, 1000)
    listener = net.listener()
    client.connect(listener.getsockname())
    server = net.accept(listener)
    net.settle()
    return [sock.getsockopt(TCP, socket.TCP_MAXSEG) for sock in (new, set_before, client, server, listener)]


@situation
def figures_of_tcp(net: Net) -> object:
    new, listener, client = net.tcp(), net.listener(), net.tcp()
    told: list[object] = []
    for sock in (new, listener):
        figures = info(sock)
        told.append({name: figures[name] for name in ("state", "rto", "snd_mss", "unacked", "sacked", "snd_cwnd")})
    client.connect(listener.getsockname())
    net.settle()
    told.append({name: info(listener)[name] for name in ("state", "unacked", "sacked")})
    server = net.accept(listener)
    client.sendall(b"x" * 1000)
    net.settle()
    for sock in (client, server):
        figures = info(sock)
        same = FIELDS[:6] + FIELDS[12:16] + ("ato", "total_retrans")
        told.append({name: figures[name] for name in (*same, "snd_ssthresh")})
        told.append([0 < figures["rtt"] < 1_000_000, 200_000 <= figures["rto"] <= 1_000_000, figures["snd_cwnd"] > 0])
        told.append([figures["snd_mss"] == sock.getsockopt(TCP, socket.TCP_MAXSEG), figures["last_data_sent"] < 60_000])
    server.close()
    net.settle()
    told.append(info(client)["state"])
    client.close()
    first, second = net.pair()
    first.shutdown(socket.SHUT_WR)
    net.settle()
    told.extend((info(first)["state"] in (4, 5), info(second)["state"]))  # its FIN may be acknowledged later
    second.close()
    net.settle()
    told.append(info(first)["state"])
    return told, tell(lambda: net.udp().getsockopt(TCP, socket.TCP_INFO, 104))


@pytest.mark.parametrize("play", SITUATIONS, ids=names(SITUATIONS))
def test_options_are_told_as_by_the_kernel(play: Situation) -> None:
    assert stack(play) == kernel(play)


def test_what_an_ipv6_socket_sets_for_its_packets_takes_the_place_of_ipv4s() -> None:
    options = Options()
    options.set(IP, socket.IP_TTL, 7)
    options.set(IP, socket.IP_TOS, 0x10)
    assert (options.tcp().ttl, options.tcp().dscp) == (7, 4)
    options.set(IPV6, socket.IPV6_UNICAST_HOPS, 9)
    options.set(IPV6, socket.IPV6_TCLASS, 0xB8)
    assert (options.tcp().ttl, options.tcp().dscp) == (9, 46)

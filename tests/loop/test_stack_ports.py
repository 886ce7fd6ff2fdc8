"""Who may share a port with whom, and who of them is given what comes, on the stack's sockets as on the kernel's."""

# ruff: noqa: B023 (what is said in a lambda here is called at once)

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ._both import HOST, Net, Situation, kernel, names, set_on, stack, tell

SITUATIONS: list[Situation] = []
REUSE, SHARE = socket.SO_REUSEADDR, socket.SO_REUSEPORT


def situation(function: Situation) -> Situation:
    SITUATIONS.append(function)
    return function


@situation
def binding_beside_another(net: Net) -> object:
    """All ways of two sockets to want one port: who set what, and who listens."""
    answers: list[object] = []
    for kind in (net.tcp, net.udp):
        for first_options in ((), (REUSE,), (SHARE,), (REUSE, SHARE)):
            for second_options in ((), (REUSE,), (SHARE,), (REUSE, SHARE)):
                for first_host, second_host in (
                    (HOST, HOST),
                    (HOST, "0.0.0.0"),
                    ("0.0.0.0", HOST),
                    (HOST, "127.0.0.2"),
                ):
                    for listens in (False, True) if kind == net.tcp else (False,):
                        first, second = set_on(kind(), *first_options), set_on(kind(), *second_options)
                        first.bind((first_host, net.free_port()))
                        if listens:
                            first.listen()
                        port = first.getsockname()[1]
                        told = [tell(lambda: second.bind((second_host, port)))]
                        if kind == net.tcp and told == [None]:
                            told.append(tell(second.listen))
                            told.append(tell(first.listen))
                        answers.append((first_options, second_options, first_host, second_host, listens, told))
                        first.close()
                        second.close()
    return answers


@situation
def binding_beside_the_other_family(net: Net) -> object:
    answers: list[object] = []
    for only in (0, 1):
        for hosts in (("::", "0.0.0.0"), ("::", HOST), ("::1", "0.0.0.0"), ("::ffff:127.0.0.1", HOST)):
            for mine, theirs in (hosts, hosts[::-1]):
                socks = []
                for host in (mine, theirs):
                    family = socket.AF_INET6 if ":" in host else socket.AF_INET
                    socks.append(net.make(family, socket.SOCK_STREAM))
                    if ":" in host:
                        socks[-1].setsockopt(
                            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(only) and "f" not in host)
                        )
                socks[0].bind((mine, net.free_port()))
                port = socks[0].getsockname()[1]
                answers.append((only, mine, theirs, tell(lambda: socks[1].bind((theirs, port)))))
    return answers


@situation
def binding_beside_a_connection(net: Net) -> object:
    answers: list[object] = []
    for first_options in ((), (REUSE,), (SHARE,)):
        for second_options in ((), (REUSE,), (SHARE,)):
            listener, client = set_on(net.tcp(), *first_options), net.tcp()
            listener.bind((HOST, net.free_port()))
            listener.listen()
            address = listener.getsockname()
            client.connect(address)
            server = net.accept(listener)
            listener.close()
            again = set_on(net.tcp(), *second_options)
            told = [tell(lambda: again.bind(address))]
            server.close()
            net.settle()
            client.close()
            net.settle()
            later = set_on(net.tcp(), *second_options)
            again.close()
            told.append(tell(lambda: later.bind(address)))
            told.append(tell(later.listen))
            answers.append((first_options, second_options, told))
    return answers


def sockets_of_the_machine(port: int) -> int:
    """How many of the kernel's IPv4 sockets have this port on this side."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split(maxsplit=2)[1].endswith(f":{port:04X}") for line in lines)


@situation
def a_port_that_a_client_has(net: Net) -> object:
    listener = net.listener()
    answers: list[object] = []
    for client_options in ((), (REUSE,)):
        for options in ((), (REUSE,)):
            other = set_on(net.tcp(), *options)
            while True:
                client = set_on(net.tcp(), *client_options)
                client.connect(listener.getsockname())
                # One that the kernel chooses may be a stranger's too, to elsewhere, or be waiting after he closed.
                if sockets_of_the_machine(client.getsockname()[1]) <= 1:
                    break
            answers.append(tell(lambda: other.bind(client.getsockname())))
            answers.append(tell(other.listen))
    return answers


@situation
def listeners_that_share_a_port(net: Net) -> object:
    first = set_on(net.tcp(), SHARE)
    first.bind((HOST, net.free_port()))
    first.listen()
    others = [set_on(net.tcp(), SHARE) for _ in range(2)]
    for other in others:
        other.bind(first.getsockname())
        other.listen()
    clients = [net.tcp() for _ in range(60)]
    for client in clients:
        client.connect(first.getsockname())
    shares = []
    for sock in (first, *others):
        sock.setblocking(False)
        share = 0
        while not isinstance(told := tell(lambda: net.accept(sock)), tuple):
            share += 1
            assert isinstance(told, socket.socket)
        shares.append(share)
    first.close()
    late = net.tcp()
    late.connect(others[0].getsockname())
    return sum(shares), all(shares), late.getpeername() == others[1].getsockname()


@situation
def datagram_sockets_that_share_a_port(net: Net) -> object:
    first = set_on(net.udp(), SHARE)
    first.bind((HOST, net.free_port()))
    second = set_on(net.udp(), SHARE)
    second.bind(first.getsockname())
    for _ in range(60):
        net.udp(HOST).sendto(b"x", first.getsockname())
    net.settle()
    shares = []
    for sock in (first, second):
        sock.setblocking(False)
        shares.append(0)
        while tell(lambda: sock.recv(1)) == b"x":
            shares[-1] += 1
    return sum(shares), all(shares)


@situation
def datagram_sockets_that_reuse_an_address(net: Net) -> object:
    first = set_on(net.udp(), REUSE)
    first.bind((HOST, net.free_port()))
    second = set_on(net.udp(), REUSE)
    second.bind(first.getsockname())
    net.udp().sendto(b"to the latest", first.getsockname())
    net.settle()
    first.setblocking(False)
    return second.recv(99), tell(lambda: first.recv(99))


@pytest.mark.parametrize("play", SITUATIONS, ids=names(SITUATIONS))
def test_ports_are_shared_as_by_the_kernel(play: Situation) -> None:
    assert stack(play) == kernel(play)

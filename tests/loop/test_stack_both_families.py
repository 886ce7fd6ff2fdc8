"""Sockets of IPv6 that hear and talk to IPv4 as well, on the stack as on the kernel (ipv6(7), RFC 3493 section 3.7)."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest

from underlay.loop import stack_loop

from ._both import HOST, Net, Situation, each, kernel, names, stack, tell

SITUATIONS: list[Situation] = []
MAPPED = "::ffff:127.0.0.1"


def situation(function: Situation) -> Situation:
    SITUATIONS.append(function)
    return function


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


@situation
def hearing_both(net: Net) -> object:
    there, four, six = net.udp6("::"), net.udp(HOST), net.udp6("::1")
    four.sendto(b"four", (HOST, port_of(there)))
    data, sender = there.recvfrom(9)
    there.sendto(b"back", sender)
    six.sendto(b"six", ("::1", port_of(there)))
    return (
        there.getsockname()[0],
        (data, sender[0], sender[1] == port_of(four), sender[2:]),
        four.recv(9),
        there.recvfrom(9)[1] == six.getsockname(),
    )


@situation
def hearing_ipv6_only(net: Net) -> object:
    there, here = net.udp6("::", only=True), net.udp(HOST)
    here.connect((HOST, port_of(there)))
    here.send(b"four")
    net.settle()
    there.setblocking(False)
    return each(
        lambda: there.recv(9),
        lambda: here.recv(9),
        lambda: there.sendto(b"x", (MAPPED, 9)),
        lambda: there.connect((MAPPED, 9)),
        lambda: net.udp6(only=True).bind((MAPPED, 0)),
        lambda: net.udp6(only=True).sendto(b"x", (MAPPED, 9)),
    )


@situation
def talking_to_mapped_addresses(net: Net) -> object:
    there, here, peer = net.udp(HOST), net.udp6(), net.udp6()
    before = here.getsockname()
    here.sendto(b"four", (MAPPED, port_of(there)))
    heard = there.recvfrom(9)
    after = here.getsockname()
    peer.connect((MAPPED, port_of(there)))
    peer.send(b"connected")
    data, sender = there.recvfrom(99)
    there.sendto(b"answer", sender)
    net.udp(HOST).sendto(b"a stranger", sender)
    return (
        before,
        (heard[0], heard[1] == (HOST, port_of(here))),
        after[0],
        data,
        peer.recvfrom(99)[1] == peer.getpeername(),
        peer.getpeername()[0],
        peer.getsockname()[0],
        tell(lambda: peer.sendto(b"x", ("::1", 9))),
        tell(lambda: net.udp6("::1").sendto(b"x", (MAPPED, 9))),
    )


@situation
def bound_to_a_mapped_address(net: Net) -> object:
    there, here = net.udp6(MAPPED), net.udp(HOST)
    here.sendto(b"four", (HOST, port_of(there)))
    data, sender = there.recvfrom(9)
    there.sendto(b"back", sender)
    return there.getsockname()[0], data, sender[0], here.recv(9), tell(lambda: net.udp().bind((HOST, port_of(there))))


@situation
def connecting_anew_to_the_other_family(net: Net) -> object:
    four, six, here = net.udp(HOST), net.udp6("::1"), net.udp6()
    here.connect((MAPPED, port_of(four)))
    first = here.getsockname()[0]
    again = tell(lambda: here.connect(("::1", port_of(six))))
    other = net.udp6()
    other.connect(("::1", port_of(six)))
    return first, again, here.getsockname()[0], tell(lambda: other.connect((MAPPED, port_of(four))))


@situation
def errors_of_ipv4_to_a_socket_of_ipv6(net: Net) -> object:
    gone, here = net.udp(HOST), net.udp6()
    port = port_of(gone)
    gone.close()
    here.connect((MAPPED, port))
    here.send(b"anybody?")
    net.settle()
    return tell(lambda: here.recv(9))


@situation
def sharing_a_port_of_both_families(net: Net) -> object:
    answers: list[object] = []
    for mine, theirs in (("::", "0.0.0.0"), ("::", HOST), ("::1", "0.0.0.0"), ("::ffff:127.0.0.1", HOST)):
        for hosts in ((mine, theirs), (theirs, mine)):
            for only in (False, True) if "f" not in mine else (False,):
                for reuse in (False, True):
                    made = []
                    for host in hosts:
                        sock = net.udp6(only=only) if ":" in host else net.udp()
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                        made.append(sock)
                    made[0].bind((hosts[0], net.free_port()))
                    told = tell(lambda: made[1].bind((hosts[1], port_of(made[0]))))  # noqa: B023
                    answers.append((hosts, only, reuse, told))
    return answers


@situation
def the_port_is_free_again(net: Net) -> object:
    both = net.udp6("::")
    port = port_of(both)
    both.close()
    four, six = net.udp(), net.udp6(only=True)
    return each(lambda: four.bind((HOST, port)), lambda: six.bind(("::", port)))


@situation
def an_option_that_comes_too_late(net: Net) -> object:
    v6only = socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    answers: list[object] = []
    for sock in (net.udp6("::"), net.listener("::1"), net.udp6(), net.udp(), net.tcp()):
        answers.append(each(lambda: sock.setsockopt(*v6only, 1), lambda: sock.getsockopt(*v6only)))  # noqa: B023
    return answers


@situation
def a_listener_of_both(net: Net) -> object:
    listener, client, mapped = net.listener("::"), net.tcp(), net.make(socket.AF_INET6, socket.SOCK_STREAM)
    client.connect((HOST, port_of(listener)))
    server = net.accept(listener)
    mapped.connect((MAPPED, port_of(listener)))
    other = net.accept(listener)
    return (
        server.family,
        server.getpeername()[0],
        server.getsockname()[0],
        mapped.getpeername()[0],
        mapped.getsockname()[0],
        other.getpeername() == mapped.getsockname(),
    )


@pytest.mark.parametrize("play", SITUATIONS, ids=names(SITUATIONS))
def test_both_families_are_heard_as_by_the_kernel(play: Situation) -> None:
    assert stack(play) == kernel(play)


def test_a_datagram_endpoint_of_ipv6_answers_ipv4() -> None:
    class Mirror(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.DatagramTransport, transport)

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(data[::-1], addr)

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        server, _ = await loop.create_datagram_endpoint(Mirror, local_addr=("::", 5353))
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            await loop.sock_connect(client, (HOST, 5353))
            await loop.sock_sendall(client, b"abc")
            answer = await loop.sock_recv(client, 9)
        server.close()
        return answer

    with asyncio.Runner(loop_factory=lambda: stack_loop("lo")) as runner:
        assert runner.run(main()) == b"cba"

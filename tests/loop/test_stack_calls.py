"""Who may call what when: binding, listening, connecting and ending, on the stack's sockets as on the kernel's."""

# ruff: noqa: B023 (what is said in a lambda here is called at once)

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

import pytest

from ._both import HOST, Net, Situation, each, kernel, names, set_on, stack, tell

SITUATIONS: list[Situation] = []
SOL = socket.SOL_SOCKET
REUSE = socket.SO_REUSEADDR
RESET = b"\x01\0\0\0\0\0\0\0"  # struct linger: at once


def situation(function: Situation) -> Situation:
    SITUATIONS.append(function)
    return function


def error_of(sock: socket.socket) -> int:
    return sock.getsockopt(SOL, socket.SO_ERROR)


# --- connecting -------------------------------------------------------------------------------------------------------


@situation
def connecting_to_port_0(net: Net) -> object:
    tcp, udp = net.tcp(), net.udp()
    return each(
        lambda: tcp.connect((HOST, 0)),
        lambda: tcp.getpeername(),
        lambda: udp.sendto(b"x", (HOST, 0)),
        lambda: udp.connect((HOST, 0)),
        lambda: udp.getpeername(),
        lambda: udp.send(b"x"),
        lambda: (net.settle(), udp.recv(1)),  # type: ignore[func-returns-value]
    )


@situation
def connecting_to_everywhere(net: Net) -> object:
    listener, client, udp = net.listener(), net.tcp(), net.udp()
    port = listener.getsockname()[1]
    client.connect(("0.0.0.0", port))
    there = net.udp(HOST)
    udp.connect(("0.0.0.0", there.getsockname()[1]))
    udp.send(b"x")
    empty = net.tcp()
    empty.connect(("", port))
    return (
        client.getpeername()[0],
        client.getsockname()[0],
        udp.getpeername()[0],
        udp.getsockname()[0],
        there.recv(9),
        empty.getpeername()[0],
    )


@situation
def connecting_to_many(net: Net) -> object:
    return [tell(lambda host=host: net.tcp().connect((host, 9))) for host in ("255.255.255.255", "224.0.0.1")]  # type: ignore[misc]


@situation
def connecting_twice(net: Net) -> object:
    listener, client = net.listener(), net.tcp()
    client.setblocking(False)
    address = listener.getsockname()
    first = tell(lambda: client.connect(address))
    net.settle()
    net.wait(lambda: tell(client.getpeername) == address)
    again = each(lambda: client.connect(address), lambda: client.connect(address), lambda: client.connect_ex(address))
    blocking, _ = net.pair()
    return (
        first,
        again,
        each(lambda: blocking.connect(address), lambda: blocking.listen(), lambda: listener.connect(address)),
    )


@situation
def connecting_to_nobody_without_waiting(net: Net) -> object:
    gone, client = net.listener(), net.tcp()
    address = gone.getsockname()
    gone.close()
    client.setblocking(False)
    first = tell(lambda: client.connect(address))
    net.settle()
    poll = [error_of(client), error_of(client)]
    return first, poll, each(lambda: client.getpeername(), lambda: client.send(b"x"), lambda: client.recv(1))


@situation
def a_refused_connection_is_told_once(net: Net) -> object:
    gone, client, other = net.listener(), net.tcp(), net.tcp()
    address = gone.getsockname()
    gone.close()
    client.setblocking(False)
    client.connect_ex(address)
    net.settle()
    refused = each(
        lambda: client.connect(address),
        lambda: client.recv(1),
        lambda: client.send(b"x"),
        lambda: client.shutdown(socket.SHUT_RDWR),
    )
    return refused, error_of(client), other.connect_ex(address), error_of(other), tell(lambda: other.recv(1))


@situation
def trying_again_after_a_refusal(net: Net) -> object:
    answers: list[object] = []
    for limit_s in (None, 5.0, 0.0):
        listener, client, again = net.listener(), net.tcp(), net.tcp()
        address = listener.getsockname()
        listener.close()
        client.settimeout(limit_s)
        answers.append(tell(lambda: client.connect(address)))
        net.settle()
        again.setsockopt(SOL, socket.SO_REUSEADDR, 1)
        again.bind(address)
        again.listen()
        for _ in range(3):
            answers.append(tell(lambda: client.connect(address)))
            net.settle()
    return answers


@situation
def one_local_port_twice_to_one_peer(net: Net) -> object:
    listener, other = net.listener(), net.listener()
    first, second = set_on(net.tcp(), REUSE), set_on(net.tcp(), REUSE)
    first.bind((HOST, 0))
    second.bind(first.getsockname())
    first.connect(listener.getsockname())
    return each(lambda: second.connect(listener.getsockname()), lambda: second.connect(other.getsockname()))


@situation
def connecting_to_itself(net: Net) -> object:
    client = net.tcp()
    client.bind((HOST, 0))
    address = client.getsockname()
    client.connect(address)
    client.sendall(b"to myself")
    return client.getpeername() == client.getsockname() == address, client.recv(20)


@situation
def connecting_from_a_bound_socket(net: Net) -> object:
    listener, client, other = net.listener(), net.tcp(), net.tcp()
    client.bind(("0.0.0.0", 0))
    port = client.getsockname()[1]
    client.connect(listener.getsockname())
    refused = tell(lambda: other.bind((HOST, port)))
    return client.getsockname() == (HOST, port), refused, tell(lambda: client.bind((HOST, 0)))


@situation
def a_datagram_socket_connects_again(net: Net) -> object:
    first, second, here = net.udp(HOST), net.udp(HOST), net.udp()
    here.connect(first.getsockname())
    bound = here.getsockname()
    here.connect(second.getsockname())
    here.send(b"x")
    first.sendto(b"from the former peer", here.getsockname())
    second.sendto(b"from the peer", here.getsockname())
    here.sendto(b"to another", first.getsockname())
    net.settle()
    refused = each(lambda: here.bind((HOST, 0)), lambda: here.listen(), lambda: here.accept())
    return bound[0] == HOST, here.getsockname() == bound, second.recv(9), here.recv(99), first.recv(99), refused


@situation
def a_datagram_socket_without_a_peer(net: Net) -> object:
    here, bound = net.udp(), net.udp(HOST)
    calls: list[Any] = [lambda sock: sock.send(b"x"), lambda sock: sock.getpeername(), lambda sock: sock.shutdown(2)]
    before = here.getsockname()
    here.sendto(b"x", bound.getsockname())
    return [each(lambda: call(here), lambda: call(bound)) for call in calls], before, here.getsockname()[0]


@situation
def a_datagram_socket_that_was_shut(net: Net) -> object:
    answers: list[object] = []
    for how in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
        there, here = net.udp(HOST), net.udp()
        here.connect(there.getsockname())
        there.sendto(b"waits", here.getsockname())
        net.settle()
        here.shutdown(how)
        there.sendto(b"late", here.getsockname())
        net.settle()
        here.setblocking(False)
        answers.append(
            each(lambda: here.send(b"x"), lambda: here.sendto(b"x", there.getsockname()), *[lambda: here.recv(9)] * 4)
        )
        answers.append(tell(lambda: here.shutdown(9)))
    return answers


# --- before and after -------------------------------------------------------------------------------------------------


@situation
def a_stream_without_a_peer(net: Net) -> object:
    sock = net.tcp()
    calls: list[Callable[[], object]] = [
        lambda: sock.recv(1),
        lambda: sock.recv(0),
        lambda: sock.recvfrom(1),
        lambda: sock.recvmsg(1),
        lambda: sock.recv(1, socket.MSG_PEEK),
        lambda: sock.recv(1, socket.MSG_OOB),
        lambda: sock.send(b"x"),
        lambda: sock.send(b""),
        lambda: sock.sendall(b""),
        lambda: sock.sendto(b"x", (HOST, 9)),
        lambda: sock.sendmsg([b"x"]),
        lambda: sock.getpeername(),
        lambda: sock.getsockname(),
        lambda: sock.accept(),
        lambda: sock.shutdown(socket.SHUT_RD),
        lambda: sock.shutdown(9),
        lambda: error_of(sock),
    ]
    unbound = each(*calls)
    sock.bind((HOST, 0))
    return unbound, each(*calls[:12], *calls[13:])


@situation
def a_listener(net: Net) -> object:
    sock = net.listener()
    address = sock.getsockname()
    sock.setblocking(False)
    return each(
        lambda: sock.recv(1),
        lambda: sock.recv(1, socket.MSG_PEEK),
        lambda: sock.send(b"x"),
        lambda: sock.getpeername(),
        lambda: sock.accept(),
        lambda: sock.connect((HOST, 9)),
        lambda: sock.bind((HOST, 0)),
        lambda: sock.listen(5),
        lambda: sock.shutdown(socket.SHUT_WR),
        lambda: sock.accept(),
        lambda: sock.shutdown(socket.SHUT_RD),
        lambda: sock.accept(),
        lambda: sock.getsockname() == address,
        lambda: sock.listen(5),
        lambda: sock.accept(),
    )


@situation
def listening_without_a_name(net: Net) -> object:
    sock, client = net.tcp(), net.tcp()
    sock.listen()
    host, port = sock.getsockname()
    client.connect((HOST, port))
    return host, port > 0, net.accept(sock).getsockname()[0]


@situation
def listening_at_a_negative_backlog(net: Net) -> object:
    sock, client = net.tcp(), net.tcp()
    sock.listen(-1)
    client.connect((HOST, sock.getsockname()[1]))
    return net.accept(sock).getpeername() == client.getsockname()


@situation
def binding(net: Net) -> object:
    tcp, udp = net.tcp(), net.udp()
    calls: list[Any] = [
        lambda sock: sock.bind(("192.0.2.1", 0)),
        lambda sock: sock.bind((HOST, -1)),
        lambda sock: sock.bind((HOST, 65536)),
        lambda sock: sock.bind((HOST, "80")),
        lambda sock: sock.bind((HOST,)),
        lambda sock: sock.bind((HOST, 0, 0)),
        lambda sock: sock.bind("text"),
        lambda sock: sock.bind(("::1", 0)),
        lambda sock: sock.bind((None, 0)),
        lambda sock: sock.bind((5, 0)),
        lambda sock: sock.bind((HOST, 1.5)),
        lambda sock: sock.bind((b"127.0.0.1", 0)),
        lambda sock: sock.bind((HOST, 0)),
    ]
    return [each(lambda: call(tcp), lambda: call(udp)) for call in calls]


@situation
def names_of_hosts(net: Net) -> object:
    told = []
    for host in ("127.1", "0x7f.1", "2130706433", "127.0.0.01", "localhost", "", b"127.1", "<broadcast>", "127.0.0.1 "):
        sock = net.udp()
        told.append((host, tell(lambda: sock.bind((host, 0))), tell(lambda: sock.getsockname()[0])))
    return told


@situation
def names_of_hosts_of_ipv6(net: Net) -> object:
    told = []
    for address in (("::1", 0), ("::1", 0, 0), ("::1", 0, 0, 0), ("", 0), ("127.0.0.1", 0)):
        sock = net.udp6()
        told.append((address, tell(lambda: sock.bind(address)), tell(lambda: sock.getsockname()[0])))
    sock = net.udp6()
    return told, each(
        lambda: sock.bind(("::1",)),
        lambda: sock.bind(("::1", 0, -1)),
        lambda: sock.bind(("::1", 0, 1 << 20)),
        lambda: sock.bind(("::1", 0, 0, 0, 0)),
        lambda: sock.bind(("::1", 0, "0")),
    )


@situation
def a_closed_socket(net: Net) -> object:
    sock, _ = net.pair()
    sock.close()
    sock.close()
    return each(
        lambda: sock.recv(1),
        lambda: sock.send(b"x"),
        lambda: sock.getsockname(),
        lambda: sock.getpeername(),
        lambda: sock.shutdown(2),
        lambda: sock.fileno(),
        lambda: sock.setblocking(False),
        lambda: sock.settimeout(1),
        lambda: sock.listen(),
        lambda: sock.accept(),
        lambda: sock.connect((HOST, 9)),
        lambda: error_of(sock),
        lambda: sock.detach(),
    )


# --- the end ----------------------------------------------------------------------------------------------------------


@situation
def sending_after_the_end(net: Net) -> object:
    client, server = net.pair()
    client.shutdown(socket.SHUT_WR)
    after = each(
        lambda: client.send(b"x"),
        lambda: client.sendall(b"x"),
        lambda: client.send(b""),
        lambda: client.shutdown(socket.SHUT_WR),
        lambda: server.recv(9),
        lambda: server.recv(9),
        lambda: server.send(b"still open"),
        lambda: client.recv(99),
        lambda: client.shutdown(socket.SHUT_RDWR),
        lambda: client.recv(99),
    )
    server.close()
    net.settle()
    return after, each(lambda: client.shutdown(socket.SHUT_RDWR), lambda: client.getpeername(), lambda: client.recv(9))


@situation
def reading_after_shutting_it(net: Net) -> object:
    client, server = net.pair()
    server.sendall(b"came before")
    net.settle()
    client.shutdown(socket.SHUT_RD)
    before = client.recv(5)
    server.sendall(b"came after")
    net.settle()
    return before, client.recv(99), client.recv(99), client.send(b"x"), server.recv(9)


@situation
def a_peer_that_closed(net: Net) -> object:
    client, server = net.pair()
    server.sendall(b"farewell")
    server.close()
    net.settle()
    first = client.recv(99), client.recv(99), client.send(b"anybody?")
    net.settle()
    return first, each(
        lambda: client.send(b"x"),
        lambda: client.send(b"x"),
        lambda: client.recv(9),
        lambda: client.getpeername(),
        lambda: error_of(client),
        lambda: client.shutdown(2),
    )


@situation
def closing_with_unread_data_resets(net: Net) -> object:
    client, server = net.pair()
    client.sendall(b"never read")
    net.settle()
    server.close()
    net.settle()
    return each(
        lambda: client.recv(9),
        lambda: client.recv(9),
        lambda: client.send(b"x"),
        lambda: client.getpeername(),
        lambda: client.getsockname()[0],
        lambda: error_of(client),
        lambda: client.shutdown(2),
    )


@situation
def a_reset_is_told_once(net: Net) -> object:
    answers: list[object] = []
    for first in ("recv", "send", "option", "peek", "connect"):
        client, server = net.pair()
        server.setsockopt(SOL, socket.SO_LINGER, RESET)
        server.close()
        net.settle()
        calls: dict[str, Callable[[], object]] = {
            "recv": lambda: client.recv(9),
            "send": lambda: client.send(b"x"),
            "option": lambda: error_of(client),
            "peek": lambda: client.recv(9, socket.MSG_PEEK),
            "connect": lambda: client.connect((HOST, 0)),
        }
        answers.append(
            (first, tell(calls[first]), *each(*(calls[name] for name in ("option", "send", "recv", "recv"))))
        )
    return answers


@situation
def what_came_before_a_reset(net: Net) -> object:
    client, server = net.pair()
    server.sendall(b"last words")
    net.settle()
    server.setsockopt(SOL, socket.SO_LINGER, RESET)
    server.close()
    net.settle()
    return each(lambda: client.recv(4), lambda: client.recv(99), lambda: client.recv(9), lambda: client.recv(9))


@situation
def a_connection_reset_before_it_was_accepted(net: Net) -> object:
    listener, client = net.listener(), net.tcp()
    client.connect(listener.getsockname())
    client.setsockopt(SOL, socket.SO_LINGER, RESET)
    client.close()
    net.settle()
    server = net.accept(listener)
    return each(lambda: server.getpeername(), lambda: server.recv(9), lambda: server.recv(9), lambda: server.send(b"x"))


def readiness(net: Net, sock: socket.socket, events: int = select.POLLIN | select.POLLOUT) -> int:
    """poll(2) of it; the stack's by the same bits."""
    net.settle()
    ask = getattr(sock, "readiness", None)
    if ask is not None:
        return int(ask(events))
    poll = select.poll()
    poll.register(sock, events)
    return dict(poll.poll(0)).get(sock.fileno(), 0)


@situation
def readiness_of_each_state(net: Net) -> object:
    seen = {"new": readiness(net, net.tcp()), "datagrams": readiness(net, net.udp())}
    listener = net.listener()
    seen["listener"] = readiness(net, listener)
    client = net.tcp()
    client.connect(listener.getsockname())
    seen["listener that may accept"] = readiness(net, listener)
    server = net.accept(listener)
    seen["connected"] = readiness(net, client)
    server.send(b"x")
    seen["data"] = readiness(net, client)
    client.recv(1)
    server.shutdown(socket.SHUT_WR)
    seen["peer's end"] = readiness(net, client)
    seen["own end"] = readiness(net, server)
    client.shutdown(socket.SHUT_WR)
    seen["both ends"] = readiness(net, client)
    seen["both ends, the other"] = readiness(net, server)
    client, server = net.pair()
    client.shutdown(socket.SHUT_RD)
    seen["reading shut"] = readiness(net, client)
    client, server = net.pair()
    server.setsockopt(SOL, socket.SO_LINGER, RESET)
    server.close()
    seen["reset"] = readiness(net, client)
    error_of(client)
    seen["reset, told"] = readiness(net, client)
    refused, gone = net.tcp(), net.listener()
    address = gone.getsockname()
    gone.close()
    refused.setblocking(False)
    refused.connect_ex(address)
    seen["refused"] = readiness(net, refused)
    error_of(refused)
    seen["refused, told"] = readiness(net, refused)
    return seen


@situation
def closing_behind_an_answer_with_unread_input(net: Net) -> object:
    told = []
    for lingering in (False, True):
        client, server = net.pair()
        if lingering:
            server.setsockopt(SOL, socket.SO_LINGER, RESET)
        client.sendall(b"x" * 10_000)
        net.wait(lambda: bool(server.recv(1, socket.MSG_PEEK)))
        server.send(b"HTTP/1.1 413 Too Large\r\n\r\n")
        server.close()
        net.settle()
        told.append(each(lambda: client.recv(100), lambda: client.recv(100)))
    return told


@situation
def closing_at_once_behind_an_answer(net: Net) -> object:
    client, server = net.pair()
    server.setsockopt(SOL, socket.SO_LINGER, RESET)
    server.send(b"answer")
    server.close()
    net.settle()
    return each(lambda: client.recv(100), lambda: client.recv(100))


@situation
def data_after_both_ways_were_shut(net: Net) -> object:
    told = []
    for ways in ((socket.SHUT_RDWR,), (socket.SHUT_RD, socket.SHUT_WR), (socket.SHUT_RD,), (socket.SHUT_WR,)):
        client, server = net.pair()
        for how in ways:
            server.shutdown(how)
        net.settle()
        client.send(b"data")
        net.settle()
        told.append(each(lambda: server.recv(10)))
        if len(ways) > 1 or ways[0] == socket.SHUT_RDWR:
            told.append(each(lambda: client.recv(10), lambda: client.send(b"x")))
    return told


@pytest.mark.parametrize("play", SITUATIONS, ids=names(SITUATIONS))
def test_calls_are_answered_as_by_the_kernel(play: Situation) -> None:
    assert stack(play) == kernel(play)

"""Sockets that dup() made share a connection, on the stack as on the kernel: dup(2).

It knows what two socket objects of one connection have in common, and when the connection ends.
"""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from underlay.loop import stack_loop

from ._both import HOST, Net, Situation, each, kernel, names, stack


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection, made where a loop runs."""
    with socket.create_server((HOST, 0)) as listener:
        return socket.create_connection(listener.getsockname()), listener.accept()[0]


def both_hear_what_comes_and_speak_for_one(net: Net) -> object:
    client, server = net.pair()
    twin = server.dup()
    client.sendall(b"one")
    heard = [server.recv(10)]
    client.sendall(b"two")
    heard.append(twin.recv(10))
    server.sendall(b"A")
    twin.sendall(b"B")
    net.settle()
    heard.append(client.recv(2, socket.MSG_WAITALL))
    same = twin.getsockname() == server.getsockname(), twin.getpeername() == server.getpeername()
    twin.close()
    return heard, same, (twin.fileno() == server.fileno())


def a_connection_ends_with_the_last_of_its_sockets(net: Net) -> object:
    client, server = net.pair()
    twin, client_twin = server.dup(), client.dup()
    server.close()
    client.close()
    client_twin.setblocking(False)
    net.settle()
    told = each(lambda: client_twin.recv(1), lambda: server.recv(1), lambda: twin.send(b"still here"))
    net.settle()
    told += each(lambda: client_twin.recv(20))
    twin.close()
    net.settle()
    told += each(lambda: client_twin.recv(20))
    client_twin.close()
    return told


def a_shutdown_is_of_the_connection(net: Net) -> object:
    client, server = net.pair()
    twin = client.dup()
    twin.shutdown(socket.SHUT_WR)
    twin.close()
    return each(lambda: server.recv(1), lambda: client.send(b"x"))


def a_listener_accepts_by_either_and_listens_until_both_are_closed(net: Net) -> object:
    listener = net.listener()
    address = listener.getsockname()
    twin = listener.dup()
    twin.settimeout(5)
    listener.close()
    first, second, third = net.tcp(), net.tcp(), net.tcp()
    told = each(lambda: first.connect(address), lambda: twin.accept()[0].close())
    twin.close()
    return told + each(lambda: second.connect(address), lambda: third.bind(address))


def a_port_of_udp_is_free_when_both_are_closed(net: Net) -> object:
    sock, other, late = net.udp(HOST), net.udp(), net.udp()
    address = sock.getsockname()
    twin = sock.dup()
    sock.close()
    told = each(lambda: late.bind(address), lambda: other.sendto(b"x", address), lambda: twin.recv(1))
    twin.close()
    return told + each(lambda: late.bind(address))


def a_time_out_is_taken_along_and_is_its_own_then(net: Net) -> object:
    sock = net.tcp()
    sock.settimeout(7)
    twin = sock.dup()
    taken = twin.gettimeout()
    twin.settimeout(3)
    twin.close()
    return taken, sock.gettimeout(), each(twin.dup, twin.fileno)


SITUATIONS: list[Situation] = [
    both_hear_what_comes_and_speak_for_one,
    a_connection_ends_with_the_last_of_its_sockets,
    a_shutdown_is_of_the_connection,
    a_listener_accepts_by_either_and_listens_until_both_are_closed,
    a_port_of_udp_is_free_when_both_are_closed,
    a_time_out_is_taken_along_and_is_its_own_then,
]


@pytest.mark.parametrize("play", SITUATIONS, ids=names(SITUATIONS))
def test_duplicates_are_as_the_kernels(play: Situation) -> None:
    assert stack(play) == kernel(play)


def test_the_loop_tells_both_of_what_comes_and_the_one_that_is_left() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        told: list[str] = []
        client, server = pair()
        with client:
            twin = server.dup()
            both = asyncio.Event()

            def tell(name: str, sock: socket.socket) -> None:
                loop.remove_reader(sock)
                told.append(name)
                if len(told) > 1:
                    both.set()

            loop.add_reader(server, tell, "server", server)
            loop.add_reader(twin, tell, "twin", twin)
            client.sendall(b"x")
            await both.wait()
            assert server.recv(1) == b"x"
            twin.close()  # the last that the connection was bound to
            server.setblocking(False)
            client.sendall(b"y")
            assert await loop.sock_recv(server, 1) == b"y"
            server.close()
        return sorted(told)

    with asyncio.Runner(loop_factory=lambda: stack_loop("lo")) as runner:
        assert runner.run(main()) == ["server", "twin"]


def test_a_forgotten_duplicate_leaves_the_connection_to_the_other() -> None:
    async def main() -> bytes:
        client, server = pair()
        with client, server:
            server.dup()
            gc.collect()
            client.sendall(b"x")
            return server.recv(1)

    with asyncio.Runner(loop_factory=lambda: stack_loop("lo")) as runner, pytest.warns(ResourceWarning):
        assert runner.run(main()) == b"x"


def test_a_duplicate_is_given_away_as_any_socket_is() -> None:
    async def main() -> bytes:
        client, server = pair()
        with client, socket.socket(fileno=server.dup().detach()) as taken:
            server.close()
            client.sendall(b"x")
            return taken.recv(1)

    with asyncio.Runner(loop_factory=lambda: stack_loop("lo")) as runner:
        assert runner.run(main()) == b"x"

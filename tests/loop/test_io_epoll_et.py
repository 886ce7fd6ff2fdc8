"""Edge-triggered epoll loses nothing, although asyncio reads once per event.

Each test leaves something in a socket that no further edge will tell of, or takes away what an
edge had told. It knows EPOLLET; which callbacks asyncio owes to whom is the contract's.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from underlay.loop._io_epoll_et import EpollEtPoller
from underlay.loop._reactor import READ, WRITE
from underlay.loop._transport import READ_SIZE_BYTES

from ..conformance.contract import Recorder, paired, payload, turns, write_raw
from ._reactors import FEW_TURNS, run, turns_while_idle

EDGE_MODELS = ("epoll_et", "signal")


@pytest.fixture
def poller() -> Iterator[EpollEtPoller]:
    poller = EpollEtPoller()
    yield poller
    poller.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield near, far


Pair = tuple[socket.socket, socket.socket]


# --- the poller ---------------------------------------------------------------------------------------------------


def test_the_kernel_tells_a_change_once() -> None:
    """What all this is about: without a memory, the second wait would wait for ever."""
    poller = EpollEtPoller()
    near, far = socket.socketpair()
    with near, far:
        poller.add(near.fileno(), READ)
        far.send(b"x")
        assert poller._epoll.poll(1) != []
        assert poller._epoll.poll(0) == []
    poller.close()


def test_what_was_not_read_is_told_again_and_without_waiting(poller: EpollEtPoller, pair: Pair) -> None:
    near, far = pair
    poller.add(near.fileno(), READ)
    far.send(b"xy")
    assert poller.wait(None) == [(near.fileno(), READ)]
    for _ in range(3):
        assert poller.wait(None) == [(near.fileno(), READ)]
    assert near.recv(1) == b"x"
    assert poller.wait(None) == [(near.fileno(), READ)]
    assert near.recv(1) == b"y"
    assert poller.wait(0) == []
    assert poller.edges == set()


def test_what_someone_emptied_is_not_asked_about(poller: EpollEtPoller, pair: Pair) -> None:
    near, far = pair
    poller.add(near.fileno(), READ)
    far.send(b"x")
    assert poller.wait(None) == [(near.fileno(), READ)]
    poller.edges.discard(near.fileno())
    assert poller.wait(0) == []  # though it is still there: whoever says so must have read it
    far.send(b"y")
    assert poller.wait(None) == [(near.fileno(), READ)]


def test_data_and_end_together_are_both_told(poller: EpollEtPoller, pair: Pair) -> None:
    near, far = pair
    poller.add(near.fileno(), READ)
    far.send(b"last words")
    far.shutdown(socket.SHUT_WR)
    assert poller.wait(None) == [(near.fileno(), READ)]
    assert near.recv(65536) == b"last words"
    poller.edges.discard(near.fileno())  # a short read: it proves nothing after an end
    assert poller.wait(None) == [(near.fileno(), READ)]
    assert near.recv(65536) == b""


def test_an_end_after_a_short_read_is_told(poller: EpollEtPoller, pair: Pair) -> None:
    near, far = pair
    poller.add(near.fileno(), READ)
    far.send(b"x")
    poller.wait(None)
    assert near.recv(65536) == b"x"
    poller.edges.discard(near.fileno())
    assert poller.wait(0) == []
    far.shutdown(socket.SHUT_WR)
    assert poller.wait(None) == [(near.fileno(), READ)]


def test_a_half_closed_peer_is_no_error_for_the_writer(poller: EpollEtPoller, pair: Pair) -> None:
    near, far = pair
    poller.add(near.fileno(), READ | WRITE)
    far.shutdown(socket.SHUT_WR)
    assert dict(poller.wait(None)) == {near.fileno(): READ | WRITE}  # RDHUP itself must not reach the reactor
    poller.modify(near.fileno(), READ)
    assert dict(poller.wait(None)) == {near.fileno(): READ}


def test_a_change_of_interest_tells_what_is_ready_already(poller: EpollEtPoller, pair: Pair) -> None:
    near, far = pair
    far.send(b"x")
    poller.add(near.fileno(), WRITE)
    assert poller.wait(None) == [(near.fileno(), WRITE)]
    poller.modify(near.fileno(), READ)
    assert poller.wait(None) == [(near.fileno(), READ)]
    poller.remove(near.fileno())
    poller.add(near.fileno(), READ)
    assert poller.wait(None) == [(near.fileno(), READ)]
    poller.remove(near.fileno())
    assert poller.wait(0) == []


def test_a_descriptor_closed_first_though_its_file_lives_on_harms_nobody(poller: EpollEtPoller, pair: Pair) -> None:
    """epoll watches the open file, not the descriptor (epoll(7), question 6): a duplicate keeps it announced."""
    near, far = pair
    with near.dup():
        fd = near.fileno()
        poller.add(fd, READ)
        near.close()
        poller.remove(fd)  # too late: the kernel knows no such descriptor now
        far.send(b"x")
        other, peer = socket.socketpair()
        with other, peer:
            poller.add(peer.fileno(), WRITE)
            for _ in range(3):
                assert dict(poller.wait(None))[peer.fileno()] == WRITE
            assert poller.edges == {peer.fileno()}


# --- beneath asyncio, for both models that announce changes -----------------------------------------------------


@pytest.mark.parametrize("model", EDGE_MODELS)
def test_a_burst_that_one_read_cannot_take_comes_whole(model: str) -> None:
    async def main() -> None:
        async with await paired() as connection:
            await turns(5)
            await write_raw(connection.far, payload(1 << 20))
            await connection.near.until_received(1 << 20)
            assert bytes(connection.near.received) == payload(1 << 20)

    run(model, main())


@pytest.mark.parametrize("model", EDGE_MODELS)
def test_a_reader_that_accepts_one_connection_per_call_accepts_all_fifty(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        listener.setblocking(False)
        accepted: list[socket.socket] = []
        all_here = loop.create_future()

        def accept() -> None:
            accepted.append(listener.accept()[0])
            if len(accepted) == 50:
                all_here.set_result(None)

        loop.add_reader(listener, accept)
        await turns(5)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(50)]  # all within one turn
        await all_here
        loop.remove_reader(listener)
        for sock in (listener, *clients, *accepted):
            sock.close()

    run(model, main())


@pytest.mark.parametrize("model", EDGE_MODELS)
def test_reading_resumed_finds_the_data_and_the_end_that_came_meanwhile(model: str) -> None:
    async def main() -> None:
        async with await paired() as connection:
            await turns(5)
            connection.transport.pause_reading()
            connection.far.send(payload(100_000))
            connection.far.shutdown(socket.SHUT_WR)
            assert await turns_while_idle() < FEW_TURNS  # nobody reads: nothing is asked
            assert connection.near.calls == ["connection_made"]
            connection.transport.resume_reading()
            await connection.near.until_call("connection_lost")
            assert bytes(connection.near.received) == payload(100_000)
            assert connection.near.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]

    run(model, main())


@pytest.mark.parametrize("model", EDGE_MODELS)
def test_pausing_with_something_left_in_the_socket_keeps_it_for_later(model: str) -> None:
    class OneAtATime(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            assert self.transport is not None
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    async def main() -> None:
        async with await paired(OneAtATime()) as connection:
            await write_raw(connection.far, payload(1 << 19))
            connection.far.shutdown(socket.SHUT_WR)
            await connection.near.until_call("connection_lost")
            assert bytes(connection.near.received) == payload(1 << 19)

    run(model, main())


@pytest.mark.parametrize("model", EDGE_MODELS)
def test_a_short_read_spares_the_next_turn_its_question_and_a_full_one_does_not(model: str) -> None:
    class Looking(Recorder):
        def data_received(self, data: bytes) -> None:
            assert self.transport is not None
            edges = asyncio.get_running_loop()._poller.edges  # type: ignore[attr-defined]
            remembered.append((len(data), self.transport.get_extra_info("socket").fileno() in edges))
            super().data_received(data)

    async def main() -> None:
        async with await paired(Looking()) as connection:
            connection.transport.pause_reading()
            connection.far.send(payload(READ_SIZE_BYTES + 1))
            connection.transport.resume_reading()
            await connection.near.until_received(READ_SIZE_BYTES + 1)
            assert await turns_while_idle() < FEW_TURNS

    remembered: list[tuple[int, bool]] = []
    run(model, main())
    assert remembered == [(READ_SIZE_BYTES, True), (1, False)]

    run(model, main())


def test_closing_it_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    poller = EpollEtPoller()
    poller.close()
    assert os.listdir("/proc/self/fd") == before

"""What an edge leaves to be remembered: asked again as long as it is ready, forgotten once it is not.

The memory is driven through random lives of real socket pairs. A model of two sets says what it must
remember, and poll(2) itself what of that is ready. No epoll and no signal takes part.
"""

from __future__ import annotations

import select
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from underlay.loop._edges import Edges, merged
from underlay.loop._reactor import READ, WRITE

ENDED = select.POLLRDHUP | select.POLLHUP | select.POLLERR

READY = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([READ, WRITE, READ | WRITE])), max_size=8)


@given(first=READY, second=READY)
def test_merged_names_each_descriptor_once_with_all_that_either_said(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    unique_first = dict(first)
    for given_first in (unique_first, list(unique_first.items())):
        result = merged(given_first, second)
        assert len({fd for fd, _ in result}) == len(result)
        for fd, mask in result:
            expected = unique_first.get(fd, 0)
            for other, bits in second:
                expected |= bits if other == fd else 0
            assert mask == expected
        assert {fd for fd, _ in result} == set(unique_first) | {fd for fd, _ in second}


def level(fd: int, watched: int) -> int:
    """What poll(2) says of one descriptor, the peer's end included where somebody reads."""
    asker = select.poll()
    asker.register(fd, watched | select.POLLRDHUP if watched & READ else watched)
    answer = asker.poll(0)
    return answer[0][1] if answer else 0


class Lives(RuleBasedStateMachine):
    """Socket pairs come, talk, end and go while the memory is told of edges, and now and then asked."""

    fds = Bundle("fds")

    def __init__(self) -> None:
        super().__init__()
        self.edges = Edges()
        self.pairs: dict[int, tuple[socket.socket, socket.socket]] = {}
        self.remembered: set[int] = set()
        self.kept: set[int] = set()  # until forgotten: their end was announced

    @rule(target=fds, watched=st.sampled_from([READ, WRITE, READ | WRITE]))
    def watch(self, watched: int) -> int:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        fd = near.fileno()
        self.pairs[fd] = near, far
        self.edges.watched[fd] = watched
        return fd

    @rule(fd=fds, watched=st.sampled_from([READ, WRITE, READ | WRITE]))
    def watch_for_other_events(self, fd: int, watched: int) -> None:
        if fd in self.pairs:
            self.edges.watched[fd] = watched

    @rule(fd=fds)
    def announce(self, fd: int) -> None:
        if fd in self.pairs:
            self.edges.add(fd)
            self.remembered.add(fd)

    @rule(fd=fds)
    def announce_the_end(self, fd: int) -> None:
        if fd in self.pairs:
            self.edges.announce_end(fd)
            self.kept.add(fd)

    @rule(fd=fds)
    def show_that_it_is_empty(self, fd: int) -> None:
        self.edges.discard(fd)
        self.remembered.discard(fd)

    @rule(fd=consumes(fds), closed_first=st.booleans())
    def forget(self, fd: int, closed_first: bool) -> None:
        near, far = self.pairs.pop(fd)
        if closed_first:
            near.close()
        self.edges.forget(fd)
        self.remembered.discard(fd)
        self.kept.discard(fd)
        near.close()
        far.close()

    @rule(fd=fds, size=st.sampled_from([1, 100, 300_000]))
    def peer_sends(self, fd: int, size: int) -> None:
        if fd in self.pairs:
            self._try(lambda far: far.send(bytes(size)), self.pairs[fd][1])

    @rule(fd=fds, size=st.sampled_from([1, 300_000]))
    def fill(self, fd: int, size: int) -> None:
        if fd in self.pairs:
            self._try(lambda near: near.send(bytes(size)), self.pairs[fd][0])

    @rule(fd=fds, size=st.sampled_from([1, 65536, 1 << 20]))
    def read(self, fd: int, size: int) -> None:
        if fd in self.pairs:
            self._try(lambda near: near.recv(size), self.pairs[fd][0])

    @rule(fd=fds, how=st.sampled_from(["half-close", "close"]))
    def peer_ends(self, fd: int, how: str) -> None:
        if fd in self.pairs:
            far = self.pairs[fd][1]
            self._try(lambda far: far.shutdown(socket.SHUT_WR) if how == "half-close" else far.close(), far)

    @rule()
    def ask(self) -> None:
        answers = self.edges.still_ready()
        told = dict(answers)
        assert len(told) == len(answers)
        truth = {fd: level(fd, self.edges.watched[fd]) for fd in self.remembered | self.kept}
        assert set(told) == {fd for fd, mask in truth.items() if mask}
        for fd, mask in told.items():
            ended = truth[fd] & ENDED
            assert mask == (truth[fd] & ~select.POLLRDHUP) | (READ if ended else 0)
            if ended:
                self.kept.add(fd)
        self.remembered = set(told)

    @invariant()
    def nothing_else_is_remembered(self) -> None:
        assert self.edges | self.kept == self.remembered | self.kept
        assert self.edges.watched.keys() == self.pairs.keys()

    def teardown(self) -> None:
        for near, far in self.pairs.values():
            near.close()
            far.close()

    @staticmethod
    def _try(act: object, sock: socket.socket) -> None:
        try:
            act(sock)  # type: ignore[operator]
        except OSError:
            pass  # full, empty, ended or closed: the level is asked afterwards anyway


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


def test_a_descriptor_closed_while_remembered_is_dropped_and_the_others_are_told(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    gone = socket.socket()
    edges = Edges()
    for sock in (near, gone):
        edges.watched[sock.fileno()] = READ
        edges.add(sock.fileno())
    far.send(b"x")
    gone_fd = gone.fileno()
    gone.close()
    with near, far:
        assert edges.still_ready() == [(near.fileno(), READ)]
        assert gone_fd not in edges


def test_a_short_read_after_the_end_was_announced_proves_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    with near, far:
        edges = Edges()
        fd = near.fileno()
        edges.watched[fd] = READ
        far.send(b"last words")
        far.shutdown(socket.SHUT_WR)
        edges.add(fd)
        edges.announce_end(fd)
        assert near.recv(65536) == b"last words"
        edges.discard(fd)  # as the transport does after a short read
        assert edges.still_ready() == [(fd, READ)]
        assert near.recv(65536) == b""
        edges.forget(fd)
        assert edges.still_ready() == []


def test_an_end_that_nobody_announced_counts_once_poll_has_seen_it(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    with near, far:
        edges = Edges()
        fd = near.fileno()
        edges.watched[fd] = READ
        far.send(b"last words")
        far.shutdown(socket.SHUT_WR)
        edges.add(fd)
        assert edges.still_ready() == [(fd, READ)]  # a signal says "readable", and no more follows
        assert near.recv(65536) == b"last words"
        edges.discard(fd)
        assert edges.still_ready() == [(fd, READ)]


def test_a_writer_is_not_woken_by_the_end_of_what_it_does_not_read(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    with near, far:
        edges = Edges()
        fd = near.fileno()
        try:
            while True:
                near.send(bytes(65536))
        except BlockingIOError:
            pass
        edges.watched[fd] = WRITE
        edges.add(fd)
        edges.announce_end(fd)
        far.shutdown(socket.SHUT_WR)
        assert edges.still_ready() == []
        while fd not in dict(edges.still_ready()):
            far.recv(65536)
        assert edges.still_ready() == [(fd, WRITE)]

"""Who connected a connection that is over: told where it is certain, and not guessed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest

from underlay.tools.ports import Socket, State
from underlay.tools.ports._connectors import Connectors
from underlay.tools.ports._tracepoint import Transition

from ._place import Place

ESTABLISHED, SYN_SENT, SYN_RECEIVED, CLOSE, LISTEN = 1, 2, 3, 7, 10
ENDED = Socket("tcp", 4, State.BOUND, "127.0.0.1", 40_000, "127.0.0.1", 80, 0, 0)
LOOPBACK = socket.inet_aton("127.0.0.1")
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1")


def step(
    before: int, after: int, *, pid: int = os.getpid(), sock: int = 1, port: int = 40_000, family: int = socket.AF_INET
) -> Transition:
    thread = threading.get_native_id() if pid == os.getpid() else pid
    addresses = (LOOPBACK, LOOPBACK, MAPPED, MAPPED)
    return Transition(0, pid, thread, sock, before, after, socket.IPPROTO_TCP, family, port, 80, addresses)


# At the first step a socket has no port; the second may fall upon any process.
CONNECTS = (step(CLOSE, SYN_SENT, port=0), step(SYN_SENT, ESTABLISHED, pid=1))


def connected_by(*steps: Transition, sock: Socket = ENDED) -> int | None:
    connectors = Connectors()
    connectors.learn(steps)
    found = connectors.of(sock)
    return None if found is None else found.pid


def test_the_process_that_began_to_connect_is_told_with_its_command() -> None:
    assert connected_by(*CONNECTS) == os.getpid()
    connectors = Connectors()
    connectors.learn(CONNECTS)
    found = connectors.of(ENDED)
    assert found is not None and sys.executable.rpartition("/")[2][:6] in found.command and found.uid == os.geteuid()


def test_ipv6_ends_are_told_apart_from_ipv4_ones() -> None:
    steps = (step(CLOSE, SYN_SENT, port=0), step(SYN_SENT, ESTABLISHED, family=socket.AF_INET6))
    assert connected_by(*steps) is None
    mapped = ENDED._replace(family=6, local_address="::ffff:127.0.0.1", peer_address="::ffff:127.0.0.1")
    assert connected_by(*steps, sock=mapped) == os.getpid()


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (CONNECTS[1],),  # how it began was not seen
        (step(CLOSE, SYN_SENT, port=0, sock=2), CONNECTS[1]),  # another one began
        (*CONNECTS, step(LISTEN, SYN_RECEIVED, sock=3)),  # the same ends, by now of one that is accepted
        (step(CLOSE, SYN_SENT, pid=0, port=0), CONNECTS[1]),  # a process of another PID namespace
    ],
)
def test_what_is_not_certain_is_not_told(steps: tuple[Transition, ...]) -> None:
    assert connected_by(*steps) is None


def test_after_a_loss_nothing_that_was_known_is_told() -> None:
    connectors = Connectors()
    connectors.learn(CONNECTS)
    connectors.forget()
    assert connectors.of(ENDED) is None


def test_the_same_ends_in_the_hands_of_another_process_are_neithers(place: Place) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        again = (step(CLOSE, SYN_SENT, pid=other.pid, sock=4, port=0), step(SYN_SENT, ESTABLISHED, sock=4))
        assert connected_by(*again) == other.pid
        assert connected_by(*CONNECTS, *again) is None
        # In another network namespace the same ends are another connection's.
        assert place.do(lambda: connected_by(*again)) is None
        assert other.stdin is not None
        other.stdin.close()

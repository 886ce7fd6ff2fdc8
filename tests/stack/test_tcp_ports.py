"""Who may have which port, and who of several listeners takes a connection.

The whole of Linux's rules is played against the kernel in tests/loop/test_stack_calls.py; here is what needs no socket.
"""

from __future__ import annotations

import errno
import random

import pytest
from tests.stack._tcp_script import Talk

from underlay.stack import TcpConfig
from underlay.stack._tcp_ports import Binding, Ports

HERE, ELSEWHERE, ANY4, ANY6 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), bytes(4), bytes(16)


def ports(first: int = 40_000, last: int = 40_003) -> Ports:
    return Ports(random.Random(7), (first, last), {})


def bound(address: bytes, *, dual: bool = False) -> Binding:
    return Binding(address, 80, dual=dual, reuse_address=False, reuse_port=False)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (bound(HERE), bound(HERE), True),
        (bound(HERE), bound(ELSEWHERE), False),
        (bound(HERE), bound(ANY4), True),
        (bound(HERE), bound(ANY6), False),
        (bound(HERE), bound(ANY6, dual=True), True),
        (bound(ANY4), bound(ANY6, dual=True), True),
        (bound(ANY4), bound(bytes(15) + b"\x01", dual=True), False),
    ],
)
def test_bindings_overlap_where_a_packet_could_be_for_both(one: Binding, other: Binding, overlap: bool) -> None:
    assert one.overlaps(other.address, dual=other.dual) == overlap
    assert other.overlaps(one.address, dual=one.dual) == overlap


def test_a_port_that_is_left_to_us_is_one_that_nobody_has_and_they_run_out() -> None:
    table = ports()
    taken = [table.bind(HERE, 0, reuse_address=True).port for _ in range(4)]
    assert sorted(taken) == [40_000, 40_001, 40_002, 40_003]
    assert table.bind(ELSEWHERE, 0).port in taken  # another address may have the same
    with pytest.raises(OSError) as refused:
        table.bind(HERE, 0)
    assert refused.value.errno == errno.EADDRINUSE


def test_a_port_is_free_again_once_it_is_released() -> None:
    table = ports()
    first = table.bind(HERE, 80)
    table.release(first)
    table.release(first)  # nothing happens
    table.bind(HERE, 80)
    assert table.is_bound(80)


def test_listeners_of_one_port_share_by_sender_and_a_handshake_stays_where_it_began() -> None:
    talk = Talk(TcpConfig())
    first = talk.layer.ports.bind(ANY4, 80, reuse_port=True)
    listeners = [talk.layer.listen(ANY4, 80, talk.now, binding=first)]
    keys = [(HERE, 80, ELSEWHERE, port) for port in range(5000, 5100)]
    assert all(talk.layer.ports.listener(key) is listeners[0] for key in keys)
    listeners[0].requests[keys[0]] = None  # type: ignore[assignment]
    for _ in range(3):
        more = talk.layer.ports.bind(ANY4, 80, reuse_port=True)
        listeners.append(talk.layer.listen(ANY4, 80, talk.now, binding=more))
    shares = [sum(talk.layer.ports.listener(key) is each for key in keys) for each in listeners]
    assert sum(shares) == 100 and min(shares) >= 15
    assert talk.layer.ports.listener(keys[0]) is listeners[0]
    assert talk.layer.statistics().listeners == 4

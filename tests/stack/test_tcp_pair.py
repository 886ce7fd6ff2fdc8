"""Two of our TCPs talk over a wire that behaves, and over wires that do not: every byte arrives, once and in order."""

from __future__ import annotations

import random
from typing import Literal

import pytest

from underlay.stack import Events, State, TcpConfig, TcpOptions
from underlay.wire import FIN

from ._tcp_pair import Packet, Pair, Verdict, states

DATA = random.Random(7).randbytes(300_000)


def test_a_connection_lives_from_syn_to_time_wait() -> None:
    """MUST-13: who closes first stays in TIME_WAIT for 2 MSL."""
    pair = Pair(delay_s=0.01)
    client, server = pair.open()
    assert states(client, server) == (State.ESTABLISHED, State.ESTABLISHED)
    assert pair.a.told(client) == Events.CONNECTED | Events.WRITABLE
    client.send(b"ping", pair.now)
    pair.run(1)
    assert server.receive(100, pair.now) == b"ping"
    server.send(b"pong", pair.now)
    pair.run(1)
    assert client.receive(100, pair.now) == b"pong"
    client.close(pair.now)
    pair.run(1)
    assert states(client, server) == (State.FIN_WAIT_2, State.CLOSE_WAIT)
    assert server.receive(100, pair.now) == b""
    server.close(pair.now)
    pair.run(1)
    assert states(client, server) == (State.TIME_WAIT, State.CLOSED)
    pair.run(58)
    assert states(client) == (State.TIME_WAIT,)
    pair.run(2)
    assert states(client) == (State.CLOSED,)
    assert [line.split(" ", 1)[1] for line in pair.trace] == [
        "a S 0:0",
        "b S. 0:0 ack 1",
        "a . 1:1 ack 1",
        "a P. 1:5 ack 1",
        "b . 1:1 ack 5",
        "b P. 1:5 ack 5",
        "a . 5:5 ack 5",
        "a F. 5:5 ack 5",
        "b . 5:5 ack 6",
        "b F. 5:5 ack 6",
        "a . 6:6 ack 6",
    ]


def test_nothing_is_left_when_both_ends_have_closed() -> None:
    pair = Pair()
    client, server = pair.open()
    pair.transfer(client, server, DATA)
    client.close(pair.now)
    server.close(pair.now)
    pair.run()
    for end in (pair.a, pair.b):
        statistics = end.layer.statistics()
        assert (statistics.connections, statistics.orphans, statistics.time_wait, statistics.syn_requests) == (0,) * 4
        assert end.layer.next_deadline() is None


def test_an_idle_connection_needs_no_wake_up() -> None:
    pair = Pair()
    client, server = pair.open()
    pair.transfer(client, server, b"x")
    pair.run(5)
    assert pair.a.layer.next_deadline() is None
    assert pair.b.layer.next_deadline() is None


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("offload", [False, True])
def test_data_goes_both_ways(ipv6: bool, offload: bool) -> None:
    pair = Pair()
    pair.a.offload = pair.b.offload = offload
    client, server = pair.open(ipv6=ipv6)
    assert pair.transfer(client, server, DATA) == DATA
    assert pair.transfer(server, client, DATA) == DATA
    assert offload == any(packet.segment_bytes > 0 for packet in pair.packets)


CONGESTIONS: tuple[Literal["cubic", "newreno"], ...] = ("cubic", "newreno")


@pytest.mark.parametrize("congestion", CONGESTIONS)
@pytest.mark.parametrize(("sack", "timestamps"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("loss", [0.02, 0.1, 0.3])
def test_every_byte_arrives_over_a_wire_that_loses_doubles_and_reorders(
    congestion: Literal["cubic", "newreno"], sack: bool, timestamps: bool, offload: bool, loss: float
) -> None:
    rng = random.Random(f"{congestion}{sack}{timestamps}{offload}{loss}")

    def script(packet: Packet) -> Verdict:
        if rng.random() < loss:
            return None
        later = rng.random() * 0.02 if rng.random() < 0.1 else 0.0
        return [later, later + 0.003] if rng.random() < 0.05 else later

    config = TcpConfig(sack=sack, timestamps=timestamps, options=TcpOptions(congestion=congestion))
    pair = Pair(config=config, script=script, cut=offload)
    pair.a.offload = pair.b.offload = offload
    client, server = pair.open()
    data = DATA[: 300_000 if loss < 0.1 else 60_000]
    assert pair.transfer(client, server, data) == data
    assert pair.transfer(server, client, data) == data
    client.close(pair.now)
    server.close(pair.now)
    pair.run()
    assert pair.a.layer.statistics().connections == pair.b.layer.statistics().connections == 0


def test_a_half_closed_connection_still_carries_data_the_other_way() -> None:
    pair = Pair()
    client, server = pair.open()
    client.send(b"request", pair.now)
    client.shutdown(1, pair.now)
    pair.run(1)
    assert server.receive(100, pair.now) == b"request"
    assert server.receive(100, pair.now) == b""
    assert states(server) == (State.CLOSE_WAIT,)
    assert pair.transfer(server, client, DATA) == DATA
    server.shutdown(1, pair.now)
    pair.run(1)
    assert client.receive(100, pair.now) == b""
    assert states(client, server) == (State.TIME_WAIT, State.CLOSED)


def test_both_close_at_the_same_time() -> None:
    pair = Pair(delay_s=0.1)
    client, server = pair.open()
    client.shutdown(1, pair.now)
    server.shutdown(1, pair.now)
    pair.run(0.15)
    assert states(client, server) == (State.CLOSING, State.CLOSING)
    pair.run(1)
    assert states(client, server) == (State.TIME_WAIT, State.TIME_WAIT)


def test_a_lost_fin_comes_again() -> None:
    lost: list[int] = []

    def script(packet: Packet) -> Verdict:
        if packet.segment.flags & FIN and packet.sender == "a" and not lost:
            lost.append(packet.number)
            return None
        return 0.0

    pair = Pair(script=script)
    client, server = pair.open()
    client.close(pair.now)
    pair.run(5)
    assert lost
    assert states(server) == (State.CLOSE_WAIT,)

"""Whole lives of connections drawn at random: buffers, options, wires and programs of every kind; nothing may stall.

A life that failed once is kept by its seed.
"""

from __future__ import annotations

import random

import pytest

from underlay.stack import State, TcpConfig, TcpConnection, TcpOptions

from ._tcp_pair import Packet, Pair, Verdict


class Program:
    """One end's program: writes its data in pieces of some size, reads now and then, closes when it has both."""

    def __init__(self, pair: Pair, connection: TcpConnection, seed: str, out: bytes, expected: int) -> None:
        self.rng = random.Random(seed)
        self.pair = pair
        self.connection = connection
        self.out = out
        self.place = 0
        self.got: list[bytes] = []
        self.count = 0
        self.expected = expected
        self.piece = self.rng.choice([1, 10, 100, 1000, 10_000, 200_000])
        self.bite = self.rng.choice([10, 1000, 65536, 1 << 20])
        self.pause_s = self.rng.choice([0.0, 0.0, 0.001, 0.05, 1.0])
        if self.bite == 10:
            self.pause_s = 0.0
        self.reads_at = 0.0
        self.ended = False
        self.shut = False

    def step(self) -> None:
        now = self.pair.now
        connection = self.connection
        writes = 0
        while self.place < len(self.out) and writes < 50:
            writes += 1
            taken = connection.send(self.out[self.place : self.place + self.piece], now)
            self.place += taken
            if not taken:
                break
        if self.place == len(self.out) and not self.shut:
            self.shut = True
            connection.shutdown(1, now)
        if now >= self.reads_at:
            self.reads_at = now + self.pause_s
            chunk = connection.receive(self.bite, now)
            if chunk:
                self.got.append(chunk)
                self.count += len(chunk)
            elif chunk == b"":
                self.ended = True

    @property
    def done(self) -> bool:
        return self.ended and self.shut


def live(seed: int) -> None:
    rng = random.Random(seed)
    loss = rng.choice([0, 0, 0.01, 0.1, 0.25])
    late = rng.choice([0, 0, 0.05, 0.3])
    double = rng.choice([0, 0.05])
    burst = rng.choice([0, 0, 0.002])
    state = {"dead until": 0.0}

    def script(packet: Packet) -> Verdict:
        if rng.random() < burst:
            state["dead until"] = pair.now + rng.random() * 3
        if pair.now < state["dead until"] or rng.random() < loss:
            return None
        later = rng.random() * 0.05 if rng.random() < late else 0.0
        return [later, later + rng.random() * 0.02] if rng.random() < double else later

    def options() -> TcpOptions:
        return TcpOptions(
            nodelay=rng.random() < 0.3,
            congestion=rng.choice(["cubic", "newreno"]),
            send_buffer_bytes=rng.choice([None, None, 1000, 5000, 100_000]),
            receive_buffer_bytes=rng.choice([None, None, 600, 3000, 20_000, 300_000]),
            max_segment_bytes=rng.choice([None, None, 100, 536, 1000]),
            quick_ack=rng.random() < 0.1,
            keepalive=rng.random() < 0.2,
            keepalive_idle_s=2,
        )

    def config() -> TcpConfig:
        return TcpConfig(
            sack=rng.random() < 0.7, timestamps=rng.random() < 0.7, window_scaling=rng.random() < 0.7,
            retries=100, syn_retries=100, syn_ack_retries=100, orphan_retries=100,
        )  # fmt: skip

    pair = Pair(
        delay_s=rng.choice([0.0001, 0.01, 0.1]), script=script, config=config(), config_b=config(), seed=seed,
        rate_bytes_per_s=rng.choice([0.0, 0.0, 100_000.0, 5_000_000.0]), cut=True,
    )  # fmt: skip
    pair.keep = False
    pair.a.offload = rng.random() < 0.4
    pair.b.offload = rng.random() < 0.4
    listener = pair.listen(options=options())
    client = pair.a.layer.connect(bytes([10, 9, 0, 2]), 80, pair.now, options=options())
    assert pair.run(5000, until=lambda: listener.acceptable and client.state is State.ESTABLISHED), seed
    server = listener.accept(pair.now)
    assert server is not None
    there, back = (rng.randbytes(rng.choice([0, 1, 5000, 40_000])) for _ in range(2))
    one = Program(pair, client, f"{seed}a", there, len(back))
    two = Program(pair, server, f"{seed}b", back, len(there))
    for turn in range(60_000):
        one.step()
        two.step()
        if one.done and two.done:
            break
        # Whoever has not finished after a while is looked at more seldom, up to half a day.
        pair.run(0.001 if turn < 20_000 else 1.0)
    assert b"".join(one.got) == back, seed
    assert b"".join(two.got) == there, seed
    assert one.done, seed
    assert two.done, seed
    client.close(pair.now)
    server.close(pair.now)
    pair.run()
    for end in (pair.a, pair.b):
        statistics = end.layer.statistics()
        assert (statistics.connections, statistics.orphans, statistics.time_wait) == (0, 0, 0), seed
        assert end.layer.next_deadline() is None


# 42: a FIN behind a window that was just full made the window -1.
@pytest.mark.parametrize("seed", [*range(40), 42])
def test_a_life_drawn_at_random_moves_every_byte_and_ends(seed: int) -> None:
    live(seed)

"""One bulk transfer between two hosts over a link that misbehaves, in virtual time; and the grid of such links.

This file knows the link, the two programs at its ends and how their bytes are compared. It refuses to know how TCP
does it, and what goodput is good enough: `test_loss_grid.py` holds it to the committed table,
`benchmarks/loss_grid.py` to two Linux kernels.

Chance comes from the seed alone, so that a transfer is the same on each machine. The same loop runs in real time when
``wait`` sleeps.
"""

from __future__ import annotations

import hashlib
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

from underlay.link import Corruption, Delay, Duplication, Impairment, Loss, Rate, Reordering, VirtualWire
from underlay.stack import Events, Host, HostConfig, TcpConnection, TcpListener, TcpOptions
from underlay.wire import parse_ip

LEFT, RIGHT = parse_ip("10.9.0.1"), parse_ip("10.9.0.2")
PORT: Final = 5001  # iperf's

# Slow enough that a transfer of a few MB lasts many round trips, quick enough that loss and not the rate limits from
# 1 % on.
RATE_BITS_PER_S: Final = 50_000_000
# 48 ms at this rate: more than the way's 20 ms, less than its 200.
QUEUE_FRAMES: Final = 200
# Nothing here takes longer, unless it hangs; virtual seconds.
LIMIT_S: Final = 7200.0
_CHUNK_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class Cell:
    """One link and one bulk transfer over it; probabilities hold for each frame, in either direction."""

    loss: float
    rtt_s: float
    congestion: Literal["cubic", "newreno"]
    size_bytes: int
    seeds: int
    """How often it is done, each time with other chances; the median counts."""
    reordering: float = 0.0
    held_s: float = 0.0
    """How long a reordered frame is held."""
    duplication: float = 0.0
    corruption: float = 0.0

    @property
    def link(self) -> str:
        """What the link does, in words."""
        parts = []
        if self.reordering:
            parts.append(f"{self.reordering * 100:g} % held {self.held_s * 1000:g} ms")
        if self.duplication:
            parts.append(f"{self.duplication * 100:g} % doubled")
        if self.corruption:
            parts.append(f"{self.corruption * 100:g} % corrupted")
        if self.loss or not parts:
            parts.insert(0, f"{self.loss * 100:g} % lost")
        return ", ".join(parts)

    @property
    def name(self) -> str:
        """The cell's name in the golden table."""
        return f"{self.link}; {self.rtt_s * 1000:g} ms; {self.congestion}"

    def lane(self, chance: random.Random) -> list[Impairment]:
        """Give the stages of one direction: the queue before the bottleneck first, then the long way."""
        stages: list[Impairment] = [
            Rate(RATE_BITS_PER_S, queue_frames=QUEUE_FRAMES),
            Delay(self.rtt_s / 2),
        ]

        def own() -> random.Random:
            return random.Random(chance.getrandbits(64))

        if self.loss:
            stages.append(Loss(own(), self.loss))
        if self.corruption:
            stages.append(Corruption(own(), self.corruption))
        if self.duplication:
            stages.append(Duplication(own(), self.duplication))
        if self.reordering:
            stages.append(Reordering(own(), self.reordering, self.held_s))
        return stages


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one transfer took; times run from the SYN to the moment when the last byte was read."""

    seconds: float
    goodput_mbit_s: float
    segments_sent: int
    retransmitted_segments: int
    timeouts: int
    frames_lost: int
    """By the link's loss and by its full queue, in both directions."""
    drops: Mapping[str, int]
    """What the receiving host refused, by reason: how corruption was found."""


class Endpoint:
    """The program at one end: it sends all of `outgoing`, then says so, and reads until the other end says so."""

    def __init__(self, outgoing: bytes = b"") -> None:
        self.outgoing = outgoing
        self.connection: TcpConnection | None = None
        self.incoming = hashlib.sha256()
        self.incoming_bytes = 0
        self.ended_at: float | None = None
        self._sent_bytes = 0
        self._shut = False

    def step(self, now: float) -> None:
        """Do what can be done now."""
        connection = self.connection
        assert connection is not None
        while self.ended_at is None and (data := connection.receive(_CHUNK_BYTES, now)) is not None:
            if data:
                self.incoming.update(data)
                self.incoming_bytes += len(data)
            else:
                self.ended_at = now
        outgoing = self.outgoing
        while self._sent_bytes < len(outgoing):
            taken = connection.send(outgoing[self._sent_bytes : self._sent_bytes + _CHUNK_BYTES], now)
            if not taken:
                return
            self._sent_bytes += taken
        if not self._shut:
            self._shut = True
            connection.shutdown(1, now)

    def has_read(self, sent: bytes) -> bool:
        """Tell whether what came is what `sent` is, byte for byte."""
        return self.incoming_bytes == len(sent) and self.incoming.digest() == hashlib.sha256(sent).digest()


def _jump(due: float) -> float:
    return due


class Pair:
    """Two hosts joined by a wire, a program at each, and the time.

    ``wait`` is told when something is due and gives the time at which it woke up: at once, or after sleeping.
    """

    def __init__(
        self,
        chance: random.Random,
        programs: tuple[Endpoint, Endpoint],
        *,
        forward: Sequence[Impairment] = (),
        backward: Sequence[Impairment] = (),
        options: TcpOptions | None = None,
        config: HostConfig | None = None,
        start: float = 1000.0,
        wait: Callable[[float], float] = _jump,
    ) -> None:
        self.now = start
        self.wire = VirtualWire("grid", forward=forward, backward=backward, is_ethernet=False)
        self.hosts = tuple(
            Host(name, rng=random.Random(chance.getrandbits(64)), config=config or HostConfig())
            for name in ("left", "right")
        )
        self.programs = programs
        self.interfaces = tuple(
            host.add_interface([f"10.9.0.{number}/24"], mac=None) for number, host in enumerate(self.hosts, start=1)
        )
        self._options = options
        self._wait = wait
        self._listener: TcpListener | None = None

    def connect(self) -> None:
        """Let the right host listen and the left one connect."""
        self._listener = self.hosts[1].tcp.listen(RIGHT, PORT, self.now, options=self._options)
        self.programs[0].connection = self.hosts[0].tcp.connect(RIGHT, PORT, self.now, options=self._options)

    def run(self, done: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        """Let time pass until `done`; AssertionError if nothing more would happen, or it takes too long."""
        end = self.now + limit_s
        wire, hosts = self.wire, self.hosts
        while True:
            for side in (0, 1):
                self._serve(side)
            if done():
                return
            dues = [wire.next_deadline(), hosts[0].next_deadline(), hosts[1].next_deadline()]
            due = min((each for each in dues if each is not None), default=None)
            assert due is not None, f"nothing is under way and nobody waits: {self.describe()}"
            assert due <= end, f"not done after {limit_s:g} s: {self.describe()}"
            now = self.now = max(self._wait(due), self.now)
            for side, frame in wire.poll_deliveries(now):
                hosts[side].receive_frame(self.interfaces[side], frame.to_bytes(), now)
            for host, when in zip(hosts, dues[1:], strict=True):
                if when is not None and when <= now:
                    host.handle_timers(now)

    def _serve(self, side: int) -> None:
        """Tell the program of a host what happened, and give the wire what the host sends."""
        host, program, now = self.hosts[side], self.programs[side], self.now
        while True:
            for socket, events in host.poll_events():
                if socket is self._listener:
                    accepted = self._listener.accept(now)
                    assert accepted is not None
                    program.connection = accepted
                    program.step(now)
                elif socket is program.connection and not events & Events.CLOSED:
                    program.step(now)
            frames = host.poll_frames(now)
            for _, frame in frames:
                self.wire.send(side, frame, now)
            if not frames:
                return

    def describe(self) -> str:
        """Tell how both connections stand, for who looks for the cause of a failure."""
        ends = [program.connection for program in self.programs]
        return "\n".join(f"{end!r} {end.info() if end is not None else ''}" for end in ends)


def transfer(cell: Cell, seed: int, *, wait: Callable[[float], float] = _jump, start: float = 1000.0) -> Transfer:
    """Send the cell's bytes from left to right; AssertionError unless every byte arrives as it was."""
    # A string is hashed by random.seed() itself, the same way everywhere.
    chance = random.Random(f"{cell.name}; {seed}")
    data = chance.randbytes(cell.size_bytes)
    sender, receiver = Endpoint(data), Endpoint()
    pair = Pair(
        chance,
        (sender, receiver),
        forward=cell.lane(chance),
        backward=cell.lane(chance),
        options=TcpOptions(congestion=cell.congestion),
        start=start,
        wait=wait,
    )
    began = pair.now
    pair.connect()
    pair.run(lambda: receiver.ended_at is not None)
    assert receiver.has_read(data), f"what arrived is not what was sent: {pair.describe()}"
    assert receiver.ended_at is not None and sender.connection is not None
    seconds = receiver.ended_at - began
    info = sender.connection.info()
    lost = [pair.wire.statistics(port).drops for port in (0, 1)]
    return Transfer(
        seconds=seconds,
        goodput_mbit_s=cell.size_bytes * 8 / seconds / 1e6,
        segments_sent=info.segments_out,
        retransmitted_segments=info.retransmitted_segments,
        timeouts=info.timeouts,
        frames_lost=sum(sum(drops.values()) for drops in lost),
        drops=dict(pair.hosts[1].statistics().drops) | dict(pair.hosts[1].tcp.statistics().drops),
    )


@dataclass(frozen=True, slots=True)
class Figure:
    """What a cell reached; ``goodput_mbit_s`` is the median of all its transfers."""

    goodput_mbit_s: float
    least_mbit_s: float
    greatest_mbit_s: float
    retransmitted_percent: float
    """Of all segments that were sent, over all transfers."""
    timeouts: float
    """For each transfer."""

    def as_json(self) -> dict[str, float]:
        """Give it rounded to what is worth keeping."""
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items()}


def measure(cell: Cell) -> Figure:
    """Do all transfers of a cell."""
    done = [transfer(cell, seed) for seed in range(cell.seeds)]
    rates = [each.goodput_mbit_s for each in done]
    segments = sum(each.segments_sent for each in done)
    return Figure(
        goodput_mbit_s=statistics.median(rates),
        least_mbit_s=min(rates),
        greatest_mbit_s=max(rates),
        retransmitted_percent=100 * sum(each.retransmitted_segments for each in done) / segments,
        timeouts=statistics.mean(each.timeouts for each in done),
    )


def _cells() -> Iterator[Cell]:
    kinds: tuple[Literal["cubic", "newreno"], ...] = ("cubic", "newreno")
    # The more is lost, the more chance has to say: where it says most there are many seeds. In virtual time a segment
    # costs the same whatever the path, so that slow cells are no dearer.
    for loss, size_bytes, seeds in [(0.0, 8_000_000, 1), (0.001, 4_000_000, 7), (0.01, 2_000_000, 11)]:
        for rtt_s in (0.001, 0.020, 0.200):
            for kind in kinds:
                # Where the rate limits, and not the losses, chance has little to say.
                yield Cell(loss, rtt_s, kind, size_bytes, 3 if (loss, rtt_s) == (0.001, 0.001) else seeds)
    for loss, size_bytes, seeds in [(0.05, 600_000, 21), (0.2, 300_000, 31)]:
        for rtt_s in (0.001, 0.020, 0.200):
            for kind in kinds:
                yield Cell(loss, rtt_s, kind, size_bytes, seeds)
    for kind in kinds:
        for held_s in (0.003, 0.015):  # less and more than a quarter of the round trip, RFC 8985's first patience
            yield Cell(0.0, 0.020, kind, 4_000_000, 5, reordering=0.02, held_s=held_s)
        yield Cell(0.0, 0.020, kind, 4_000_000, 3, duplication=0.05)
        yield Cell(0.0, 0.020, kind, 2_000_000, 9, corruption=0.01)


CELLS: Final = tuple(_cells())

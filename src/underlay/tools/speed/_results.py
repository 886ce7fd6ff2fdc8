"""What a test found: intervals, streams, both ends' CPU time, and the JSON of it.

It computes only. The JSON's schema is documented in docs/speed.md; a change that would break a reader raises the
number in `SCHEMA`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ._protocol import Json, PeerError
from ._settings import MOST_NUMBER, Direction, Settings, Way

__all__ = ["SCHEMA", "Cpu", "Interval", "PeerResults", "Result", "StreamResult", "Total"]

SCHEMA: Final = "underlay.speed/1"

# iperf3 tells "no figure" of retransmissions as -1, which some of its versions print as an unsigned number.
_NO_FIGURE: Final = 1 << 63
# No machine uses more: Linux has up to 8192 processors (NR_CPUS of arch/x86/Kconfig).
_MOST_PERCENT: Final = 8192 * 100.0
# iperf3's clocks count microseconds (src/iperf_time.c): what lasted, lasted one of them.
_LEAST_S: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Interval:
    """What went one way between two reports, all streams together, as this end saw it.

    Only a sender knows ``retransmissions``, ``rtt_us`` and ``window_bytes`` (the least and the sum of its streams'),
    and only a receiver of UDP ``lost``, ``out_of_order`` and ``jitter_us`` (the mean of its streams').
    """

    way: Way
    start_s: float
    end_s: float
    size_bytes: int
    is_omitted: bool = False
    retransmissions: int | None = None
    rtt_us: int | None = None
    window_bytes: int | None = None
    packets: int | None = None
    lost: int | None = None
    out_of_order: int | None = None
    jitter_us: float | None = None

    @property
    def bits_per_s(self) -> float:
        """The rate, in bits a second."""
        return _rate(self.size_bytes, self.end_s - self.start_s)

    def to_json(self) -> dict[str, object]:
        """Write it for a program."""
        return {
            "way": self.way.value,
            "start_s": round(self.start_s, 6),
            "end_s": round(self.end_s, 6),
            "size_bytes": self.size_bytes,
            "bits_per_s": round(self.bits_per_s, 3),
            "omitted": self.is_omitted,
            "retransmissions": self.retransmissions,
            "rtt_us": self.rtt_us,
            "window_bytes": self.window_bytes,
            "packets": self.packets,
            "lost": self.lost,
            "out_of_order": self.out_of_order,
            "jitter_us": _rounded(self.jitter_us),
        }


@dataclass(frozen=True, slots=True)
class StreamResult:
    """What one stream moved, by both ends' counts; None is what an end did not tell, or cannot know.

    ``sent_bytes`` is what the sender's kernel took, ``received_bytes`` what the receiver's program read: of TCP the
    difference was on its way when the test ended. ``unseen`` counts the datagrams that were sent after the last that
    came: no gap in the numbers tells of them, and they are lost or were on their way when the test ended.
    """

    number: int
    way: Way
    sent_bytes: int | None
    received_bytes: int | None
    sender_s: float | None
    receiver_s: float | None
    retransmissions: int | None = None
    rtt_us: int | None = None
    least_rtt_us: int | None = None
    largest_window_bytes: int | None = None
    window_limited: float | None = None
    buffer_limited: float | None = None
    packets: int | None = None
    lost: int | None = None
    out_of_order: int | None = None
    jitter_us: float | None = None
    unseen: int | None = None

    def to_json(self) -> dict[str, object]:
        """Write it for a program."""
        return {
            "stream": self.number,
            "way": self.way.value,
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
            "sender_s": _rounded(self.sender_s, 6),
            "receiver_s": _rounded(self.receiver_s, 6),
            "retransmissions": self.retransmissions,
            "rtt_us": self.rtt_us,
            "least_rtt_us": self.least_rtt_us,
            "largest_window_bytes": self.largest_window_bytes,
            "window_limited": _rounded(self.window_limited),
            "buffer_limited": _rounded(self.buffer_limited),
            "packets": self.packets,
            "lost": self.lost,
            "out_of_order": self.out_of_order,
            "jitter_us": _rounded(self.jitter_us),
            "unseen": self.unseen,
        }


@dataclass(frozen=True, slots=True)
class Total:
    """What went one way, all streams together. A figure is None where one of the streams has none."""

    way: Way
    sent_bytes: int | None
    received_bytes: int | None
    sent_bits_per_s: float | None
    received_bits_per_s: float | None
    retransmissions: int | None
    packets: int | None
    lost: int | None
    out_of_order: int | None
    jitter_us: float | None
    unseen: int | None

    @property
    def lost_share(self) -> float | None:
        """The share of datagrams that did not arrive, from 0 to 1."""
        return self.lost / self.packets if self.packets and self.lost is not None else None

    def to_json(self) -> dict[str, object]:
        """Write it for a program."""
        return {
            "way": self.way.value,
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
            "sent_bits_per_s": _rounded(self.sent_bits_per_s),
            "received_bits_per_s": _rounded(self.received_bits_per_s),
            "retransmissions": self.retransmissions,
            "packets": self.packets,
            "lost": self.lost,
            "out_of_order": self.out_of_order,
            "jitter_us": _rounded(self.jitter_us),
            "unseen": self.unseen,
        }


@dataclass(frozen=True, slots=True)
class Cpu:
    """How much of one processor an end used, in percent: more than 100 is more than one."""

    user_percent: float
    system_percent: float

    @property
    def percent(self) -> float:
        """Both together."""
        return self.user_percent + self.system_percent

    def to_json(self) -> dict[str, float]:
        """Write it for a program."""
        return {"user_percent": round(self.user_percent, 3), "system_percent": round(self.system_percent, 3)}


@dataclass(frozen=True, slots=True)
class Result:
    """What a test found, at one of its ends.

    ``is_complete`` is False where the test was broken off: then the other end's figures are missing. ``intervals``
    holds the last ones, and ``intervals_dropped`` counts those before that were let go.
    """

    at_client: bool
    peer: str
    settings: Settings
    streams: tuple[StreamResult, ...]
    intervals: tuple[Interval, ...]
    cpu: Cpu
    peer_cpu: Cpu | None = None
    congestion: str = ""
    peer_congestion: str = ""
    is_complete: bool = True
    intervals_dropped: int = 0
    not_ours: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def ways(self) -> tuple[Way, ...]:
        """Which ways data went."""
        if self.settings.direction is Direction.BIDIRECTIONAL:
            return (Way.UP, Way.DOWN)
        return (Way.DOWN,) if self.settings.direction is Direction.REVERSE else (Way.UP,)

    @property
    def totals(self) -> tuple[Total, ...]:
        """What went each way."""
        return tuple(self.total(way) for way in self.ways)

    def sends(self, way: Way) -> bool:
        """Whether this end was the sender of that way."""
        return (way is Way.UP) == self.at_client

    def total(self, way: Way) -> Total:
        """Add up the streams of one way."""
        return _total(way, [stream for stream in self.streams if stream.way is way])

    def unseen_share(self, way: Way) -> float | None:
        """The share of one way's datagrams that were sent after the last that came, from 0 to 1.

        One of each stream is left out: a sender goes on until it hears of the end.
        """
        total = self.total(way)
        if total.packets is None or total.unseen is None or not total.packets + total.unseen:
            return None
        return max(0, total.unseen - self.settings.parallel) / (total.packets + total.unseen)

    def total_of(self, stream: StreamResult) -> Total:
        """Give the same figures of one stream alone."""
        return _total(stream.way, [stream])


@dataclass(frozen=True, slots=True)
class PeerResults:
    """What the other end said of its part, of which nothing is believed before it is looked at."""

    cpu: Cpu
    congestion: str
    streams: Mapping[int, Mapping[str, float]]

    @classmethod
    def read(cls, told: Json, peer: str, numbers: Sequence[int]) -> PeerResults:
        """Read it; raises ``PeerError`` where a figure is missing that the protocol has, or is none."""
        try:
            total, user, system = (
                _figure(told, f"cpu_util_{which}", _MOST_PERCENT) for which in ("total", "user", "system")
            )
            told_streams = told["streams"]
            if not isinstance(told_streams, list) or len(told_streams) > len(numbers):
                raise ValueError
            streams: dict[int, Mapping[str, float]] = {}
            for each in told_streams:
                number = int(_figure(each, "id"))
                if number not in numbers or number in streams:
                    raise ValueError
                wanted = ("bytes", "jitter", "errors", "packets")
                also = ("start_time", "end_time", "omitted_errors", "omitted_packets")
                figures = {name: _figure(each, name) for name in wanted}
                figures |= {name: _figure(each, name) for name in also if name in each}
                lasted_s = figures["end_time"] - figures.get("start_time", 0.0) if "end_time" in figures else 0.0
                if lasted_s < 0 or 0 < lasted_s < _LEAST_S:
                    raise ValueError
                # What is lost is a gap in the numbers, of which the highest is told.
                if max(figures.get("omitted_packets", 0.0), figures["errors"]) > figures["packets"]:
                    raise ValueError
                streams[number] = figures | {"retransmits": _figure_or_none(each, "retransmits")}
        except (KeyError, TypeError, ValueError):
            raise PeerError(f"{peer} sent results that are not those of this test") from None
        congestion = told.get("congestion_used", "")
        # `total` is not their sum where a thread's time is rounded otherwise: it is the one that holds.
        share = user / (user + system) if user + system > 0 else 1.0
        cpu = Cpu(total * share, total * (1 - share))
        name = congestion if isinstance(congestion, str) and congestion.isascii() and congestion.isprintable() else ""
        return cls(cpu, name[:15], streams)


def _total(way: Way, streams: Sequence[StreamResult]) -> Total:
    sent, received = _sum(s.sent_bytes for s in streams), _sum(s.received_bytes for s in streams)
    jitters = [s.jitter_us for s in streams if s.jitter_us is not None]
    return Total(
        way=way,
        sent_bytes=sent,
        received_bytes=received,
        sent_bits_per_s=_rate_of(sent, [s.sender_s for s in streams]),
        received_bits_per_s=_rate_of(received, [s.receiver_s for s in streams]),
        retransmissions=_sum(s.retransmissions for s in streams),
        packets=_sum(s.packets for s in streams),
        lost=_sum(s.lost for s in streams),
        out_of_order=_sum(s.out_of_order for s in streams),
        jitter_us=sum(jitters) / len(jitters) if jitters else None,
        unseen=_sum(s.unseen for s in streams),
    )


def _figure(told: Mapping[str, object], name: str, most: float = MOST_NUMBER) -> float:
    value = told[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:  # NaN is not either
        raise ValueError
    return value


def _figure_or_none(told: Mapping[str, object], name: str) -> float:
    value = told[name]
    if isinstance(value, int | float) and (value == -1 or value >= _NO_FIGURE):
        return -1
    return _figure(told, name)


def _sum(figures: Iterable[int | None]) -> int | None:
    total = 0
    for figure in figures:
        if figure is None:
            return None
        total += figure
    return total


def _rate_of(size_bytes: int | None, seconds: Sequence[float | None]) -> float | None:
    known = [each for each in seconds if each is not None and each > 0]
    return _rate(size_bytes, max(known)) if size_bytes is not None and known else None


def _rate(size_bytes: int, seconds: float) -> float:
    return size_bytes * 8 / seconds if seconds > 0 else 0.0


def _rounded(figure: float | None, digits: int = 3) -> float | None:
    return None if figure is None else round(figure, digits)

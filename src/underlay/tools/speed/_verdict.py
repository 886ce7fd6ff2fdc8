"""What held a test, in one word, where its figures carry one; else none.

It computes only, from a `Result`. Each verdict has the figure that carries it in its reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ._results import Result, StreamResult
from ._settings import LEAST_INTERVAL_S, Way

__all__ = ["Verdict", "verdicts"]

# A rate that was asked for counts as reached from here; iperf3 and we are within 1 % on an idle machine.
_REACHED: Final = 0.95
# A single thread that has this much of a processor has no time for more.
_BUSY_PERCENT: Final = 90.0
# The kernel's own clock of what held a sender (tcpi_rwnd_limited, tcpi_sndbuf_limited): the larger part of the time.
_LARGER_PART: Final = 0.5
# RFC 3649, 3: at a loss of one in a hundred standard TCP keeps a window of 12 segments, too few for most ways.
_LOSSY: Final = 0.01
# Of fewer datagrams than this one in a hundred may be lost and none be missed.
_ENOUGH_DATAGRAMS: Final = round(1 / _LOSSY)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One word for one way, and the figure that carries it."""

    way: Way
    word: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """Write it for a program."""
        return {"way": self.way.value, "word": self.word, "reason": self.reason}


def verdicts(result: Result) -> tuple[Verdict, ...]:
    """Judge each way, where there is something to say.

    The words: ``paced`` (the rate that was asked for was reached), ``window`` (the receiver's window held the sender),
    ``buffer`` (the sender's own buffer did), ``cpu`` (an end had no processor time left), and of UDP ``lossy`` (one
    datagram in a hundred or more was lost) and ``clean`` (none of a hundred or more was). A test that was broken off,
    or shorter than the shortest interval of iperf3, 0.1 s, gets none.
    """
    if not result.is_complete or _took_s(result) < LEAST_INTERVAL_S:
        return ()
    judged = (_udp(result, way) if result.settings.is_udp else _tcp(result, way) for way in result.ways)
    return tuple(verdict for verdict in judged if verdict is not None)


def _udp(result: Result, way: Way) -> Verdict | None:
    total = result.total(way)
    share = total.lost_share
    if share is not None and share >= _LOSSY:
        return Verdict(way, "lossy", f"{share * 100:.1f} % of the datagrams were lost")
    if (busy := _cpu(result, way)) is not None and not _is_paced(result, way):
        return busy
    # What was sent after the last that came may all be lost, and is in no gap.
    unseen = result.unseen_share(way)
    if total.lost == 0 and (total.packets or 0) >= _ENOUGH_DATAGRAMS and unseen is not None and unseen < _LOSSY:
        return Verdict(way, "clean", f"none of {total.packets:,} datagrams was lost")
    return None


def _tcp(result: Result, way: Way) -> Verdict | None:
    if _is_paced(result, way):
        return Verdict(way, "paced", "it reached the rate that was asked for")
    streams = [stream for stream in result.streams if stream.way is way]
    if (share := _mean(streams, "window_limited")) >= _LARGER_PART:
        return Verdict(way, "window", f"the receiver's window held the sender for {share * 100:.0f} % of the time")
    if (share := _mean(streams, "buffer_limited")) >= _LARGER_PART:
        return Verdict(way, "buffer", f"the sender's buffer held it for {share * 100:.0f} % of the time")
    return _cpu(result, way)


def _is_paced(result: Result, way: Way) -> bool:
    wanted = result.settings.rate_bits_per_s * result.settings.parallel
    sent = result.total(way).sent_bits_per_s
    return bool(wanted) and sent is not None and sent >= _REACHED * wanted


def _cpu(result: Result, way: Way) -> Verdict | None:
    # With several streams an end may use several processors, or, as iperf3 before 3.16, only one: then it is not known
    # how much is all of it.
    if len(result.streams) != 1 or result.peer_cpu is None:
        return None
    for cpu, here in ((result.cpu, True), (result.peer_cpu, False)):
        if cpu.percent >= _BUSY_PERCENT:
            which = "sender" if result.sends(way) == here else "receiver"
            return Verdict(way, "cpu", f"the {which} used {cpu.percent:.0f} % of a processor")
    return None


def _took_s(result: Result) -> float:
    """How long the test lasted, by either end's clock: of a moment shares and percents say nothing."""
    return max((s for each in result.streams for s in (each.sender_s, each.receiver_s) if s is not None), default=0.0)


def _mean(streams: list[StreamResult], name: str) -> float:
    shares = [share for stream in streams if (share := getattr(stream, name)) is not None]
    return sum(shares) / len(streams) if streams and len(shares) == len(streams) else 0.0

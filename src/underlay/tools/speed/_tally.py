"""Counters of streams, and what is made of them: intervals, iperf3's results, ours.

A stream's thread only ever adds to its counters. This file keeps what they were at the moments that matter, the last
report and the end of what is omitted, and gives differences. It refuses to know when those moments are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .._tcp_info import TcpInfo
from ._results import Cpu, Interval, PeerResults, Result, StreamResult
from ._settings import Settings, Way
from ._sockets import congestion_of, tcp_info, window_note
from ._streams import Stream

__all__ = ["MOST_INTERVALS", "Tally"]

MOST_INTERVALS: Final = 10_000
"""Intervals that a result keeps, the last ones: nearly three hours of seconds."""


@dataclass(slots=True)
class _Counters:
    """A stream's counters at one moment."""

    bytes: int = 0
    packets: int = 0
    lost: int = 0
    out_of_order: int = 0
    retransmissions: int | None = None

    @classmethod
    def of(cls, stream: Stream) -> _Counters:
        return cls(stream.bytes, stream.packets, stream.lost, stream.out_of_order, stream.retransmissions)

    def since(self, before: _Counters) -> _Counters:
        again = self.retransmissions
        return _Counters(
            self.bytes - before.bytes,
            self.packets - before.packets,
            self.lost - before.lost,  # less than none where one that was missed before came after all
            self.out_of_order - before.out_of_order,
            None if again is None else again - (before.retransmissions or 0),
        )


@dataclass(slots=True)
class _Path:
    """What the kernel told of a sender's connection in the course of the test."""

    rtt_sum_us: int = 0
    samples: int = 0
    least_rtt_us: int | None = None
    largest_window_bytes: int = 0
    window_limited: float | None = None
    buffer_limited: float | None = None
    clocks_before: tuple[int, int, int] = (0, 0, 0)
    """The kernel's clocks of the connection when this began: they go on from its first byte."""


class _Account:
    """One stream's moments."""

    def __init__(self) -> None:
        self.omitted = _Counters()
        self.reported = _Counters()
        self.final: _Counters | None = None
        self.jitter_s = 0.0
        self.end_s = 0.0
        self.path = _Path()


class Tally:
    """The account of all streams of one test, at one end."""

    def __init__(self, settings: Settings, streams: Sequence[Stream], *, at_client: bool) -> None:
        self._settings = settings
        self._streams = streams
        self._at_client = at_client
        self._accounts = {stream: _Account() for stream in streams}
        self._intervals: deque[Interval] = deque(maxlen=MOST_INTERVALS)
        self._dropped = 0
        self._congestion = "" if settings.is_udp else congestion_of(streams[0].sock)
        self._notes = {note for stream in streams if (note := window_note(stream.sock, settings))}
        self.cpu = Cpu(0.0, 0.0)

    def moved_bytes(self, *, sent: bool) -> int:
        """What counts of the bytes that were sent, or received, until now."""
        return sum(s.bytes - self._accounts[s].omitted.bytes for s in self._streams if s.is_sender is sent)

    def omit(self) -> None:
        """Let all that was moved until now not count."""
        for stream, account in self._accounts.items():
            stream.jitter_s = 0.0
            # The next interval begins here too, so that those that count add up to the whole.
            account.omitted = account.reported = _Counters.of(stream)
            account.path = _Path(clocks_before=self._clocks(stream))

    def report(self, start_s: float, end_s: float, *, is_omitted: bool) -> list[Interval]:
        """Give the interval since the last report, one for each way; after `finish` the last."""
        made = []
        for sends in (True, False):
            if streams := [stream for stream in self._streams if stream.is_sender is sends]:
                made.append(self._interval(streams, start_s, end_s, is_omitted))
        for interval in made:
            self._dropped += len(self._intervals) == MOST_INTERVALS
            self._intervals.append(interval)
        return made

    def finish(self, stream: Stream, end_s: float) -> None:
        """Take a stream's last figures: what it moves from now on does not count."""
        account = self._accounts[stream]
        self._look(stream)
        account.final = _Counters.of(stream)
        account.jitter_s = stream.jitter_s
        account.end_s = end_s

    def to_results(self) -> dict[str, object]:
        """Write our part as iperf3 tells it to the other end."""
        sends = any(stream.is_sender for stream in self._streams)
        told: dict[str, object] = {
            "cpu_util_total": self.cpu.percent,
            "cpu_util_user": self.cpu.user_percent,
            "cpu_util_system": self.cpu.system_percent,
            "sender_has_retransmits": int(not self._settings.is_udp) if sends else -1,
        }
        if self._congestion:
            told["congestion_used"] = self._congestion
        told["streams"] = [self._told(stream) for stream in self._streams]
        return told

    def result(self, name: str, peer: PeerResults | None, notes: Sequence[str]) -> Result:
        """Give what was found; without the part of the peer, ``name``, where that was not told."""
        return Result(
            at_client=self._at_client,
            peer=name,
            settings=self._settings,
            streams=tuple(self._stream_result(s, peer.streams.get(s.number) if peer else None) for s in self._streams),
            intervals=tuple(self._intervals),
            cpu=self.cpu,
            peer_cpu=peer.cpu if peer is not None else None,
            congestion=self._congestion,
            peer_congestion=peer.congestion if peer is not None else "",
            is_complete=peer is not None,
            intervals_dropped=self._dropped,
            not_ours=sum(stream.not_ours for stream in self._streams),
            notes=(*sorted(self._notes), *notes),
        )

    def _interval(self, streams: Sequence[Stream], start_s: float, end_s: float, is_omitted: bool) -> Interval:
        parts: list[_Counters] = []
        seen: list[tuple[int, int]] = []
        for stream in streams:
            account = self._accounts[stream]
            now = account.final or _Counters.of(stream)
            parts.append(now.since(account.reported))
            account.reported = now
            if (looked := self._look(stream)) is not None:
                seen.append(looked)
        again = [part.retransmissions for part in parts if part.retransmissions is not None]
        is_udp, counts_losses = self._settings.is_udp, self._settings.is_udp and not streams[0].is_sender
        return Interval(
            way=self._way(streams[0]),
            start_s=start_s,
            end_s=end_s,
            size_bytes=sum(part.bytes for part in parts),
            is_omitted=is_omitted,
            retransmissions=sum(again) if again else None,
            rtt_us=min(rtt for rtt, _ in seen) if seen else None,
            window_bytes=sum(window for _, window in seen) if seen else None,
            packets=sum(part.packets for part in parts) if is_udp else None,
            lost=sum(part.lost for part in parts) if counts_losses else None,
            out_of_order=sum(part.out_of_order for part in parts) if counts_losses else None,
            jitter_us=sum(s.jitter_s for s in streams) / len(streams) * 1e6 if counts_losses else None,
        )

    def _look(self, stream: Stream) -> tuple[int, int] | None:
        """Ask the kernel for a sender's round trip and window, and keep what is kept of them."""
        if not stream.is_sender or self._settings.is_udp or (info := tcp_info(stream.sock)) is None:
            return None
        path = self._accounts[stream].path
        path.rtt_sum_us += info.rtt_us
        path.samples += 1
        path.least_rtt_us = info.min_rtt_us
        path.largest_window_bytes = max(path.largest_window_bytes, info.window_bytes)
        busy, by_window, by_buffer = (
            now - before for now, before in zip(_clocks(info), path.clocks_before, strict=True)
        )
        if busy > 0:
            path.window_limited, path.buffer_limited = by_window / busy, by_buffer / busy
        return info.rtt_us, info.window_bytes

    def _clocks(self, stream: Stream) -> tuple[int, int, int]:
        info = tcp_info(stream.sock) if stream.is_sender and not self._settings.is_udp else None
        return (0, 0, 0) if info is None else _clocks(info)

    def _way(self, stream: Stream) -> Way:
        return Way.UP if stream.is_sender == self._at_client else Way.DOWN

    def _told(self, stream: Stream) -> dict[str, object]:
        account = self._accounts[stream]
        final = account.final or _Counters.of(stream)
        counted = final.since(account.omitted)
        told: dict[str, object] = {
            "id": stream.number,
            "bytes": counted.bytes,
            "retransmits": -1 if counted.retransmissions is None else counted.retransmissions,
            "jitter": account.jitter_s,
            "errors": final.lost,
            "packets": final.packets,
            "start_time": 0,
            "end_time": account.end_s,
        }
        if self._settings.is_udp:
            # iperf3 takes these off since 3.13; those before tell what was omitted with the rest.
            told |= {"omitted_errors": account.omitted.lost, "omitted_packets": account.omitted.packets}
        return told

    def _stream_result(self, stream: Stream, told: Mapping[str, float] | None) -> StreamResult:
        account, sends = self._accounts[stream], stream.is_sender
        ours, path = (account.final or _Counters.of(stream)).since(account.omitted), account.path
        their_bytes = their_s = their_again = None
        if told is not None:
            their_bytes = int(told["bytes"])
            their_again = int(told["retransmits"]) if told["retransmits"] >= 0 and not self._settings.is_udp else None
            their_s = told["end_time"] - told.get("start_time", 0.0) if "end_time" in told else account.end_s
        packets = lost = overtaken = jitter_us = unseen = None
        if self._settings.is_udp and not sends:
            packets, lost, overtaken = ours.packets, max(0, ours.lost), ours.out_of_order
            jitter_us = account.jitter_s * 1e6
        elif self._settings.is_udp:
            packets = ours.packets
            if told is not None:
                # One that does not tell what was omitted may have seen less of it than we sent.
                packets = max(0, int(told["packets"] - told.get("omitted_packets", account.omitted.packets)))
                lost = max(0, int(told["errors"] - told.get("omitted_errors", 0)))
                jitter_us = told["jitter"] * 1e6
        if packets is not None and told is not None:
            # Each datagram has the same length, so the sender's bytes tell how many it sent.
            unseen = max(0, (ours.bytes if sends else int(told["bytes"])) // self._settings.length_bytes - packets)
        return StreamResult(
            number=stream.number,
            way=self._way(stream),
            sent_bytes=ours.bytes if sends else their_bytes,
            received_bytes=their_bytes if sends else ours.bytes,
            sender_s=account.end_s if sends else their_s,
            receiver_s=their_s if sends else account.end_s,
            retransmissions=ours.retransmissions if sends else their_again,
            rtt_us=path.rtt_sum_us // path.samples if path.samples else None,
            least_rtt_us=path.least_rtt_us,
            largest_window_bytes=path.largest_window_bytes if path.samples else None,
            window_limited=path.window_limited,
            buffer_limited=path.buffer_limited,
            packets=packets,
            lost=lost,
            out_of_order=overtaken,
            jitter_us=jitter_us,
            unseen=unseen,
        )


def _clocks(info: TcpInfo) -> tuple[int, int, int]:
    """How long there was something to send, and how much of it the peer's window and our own buffer held it."""
    return info.busy_us or 0, info.window_limited_us or 0, info.buffer_limited_us or 0

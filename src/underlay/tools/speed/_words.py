"""How a test looks as plain text: lines of 80 columns, numbers right-aligned, units in the headings.

It turns settings, intervals and results into lines. It refuses to know where they go.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from ._results import Interval, Result, StreamResult, Total
from ._settings import Direction, Settings, Way
from ._verdict import verdicts

__all__ = ["WIDTH", "describe", "headings", "interval_line", "number", "result_lines", "sparkline"]

WIDTH: Final = 80
_NONE: Final = "-"
# Of the datagrams sent, the share that may be on its way at the end without a word about it: one in a hundred, which is
# the round trip of a way of 100 ms in a test of 10 s, and less than `_verdict.py` calls lossy.
_WORTH_A_SENTENCE: Final = 0.01
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
# For a terminal that cannot show them (LANG=C).
_ASCII_BLOCKS: Final = "_.-=+*#@"


def describe(peer: str, settings: Settings, *, at_client: bool) -> str:
    """Tell in one line what is tested.

    >>> describe("the server at [::1]:5201", Settings(length_bytes=131072), at_client=True)
    'the server at [::1]:5201 by TCP, 1 stream, blocks of 131,072 bytes, 10 s: we send'
    """
    parts = [f"{peer} by {settings.protocol.upper()}"]
    streams = settings.parallel * (2 if settings.direction is Direction.BIDIRECTIONAL else 1)
    parts.append(f"{streams} stream{'s' if streams > 1 else ''}")
    parts.append(f"{'datagrams' if settings.is_udp else 'blocks'} of {settings.length_bytes:,} bytes")
    if settings.rate_bits_per_s:
        parts.append(f"{number(settings.rate_bits_per_s / 1e6, 12)} Mbit/s each")
    if settings.size_bytes:
        parts.append(f"{settings.size_bytes:,} bytes in all")
    elif settings.blocks:
        parts.append(f"{settings.blocks:,} in all")
    else:
        parts.append(f"{settings.time_s:g} s" + (f" after {settings.omit_s} s" if settings.omit_s else ""))
    sends = settings.is_sender(at_client=at_client)
    who = "both ways" if len(set(sends)) > 1 else "we send" if sends[0] else "we receive"
    return ", ".join(parts) + f": {who}"


def headings(settings: Settings) -> str:
    """Give the line above the intervals."""
    first = f"{'way':<5}{'time s':>15}{'MB':>11}{'Mbit/s':>10}"
    if settings.is_udp:
        return first + f"{'datagrams':>10}{'lost':>9}{'lost %':>8}{'jitter µs':>11}"
    return first + f"{'resent':>9}{'rtt µs':>9}{'window KiB':>12}"


def interval_line(interval: Interval) -> str:
    """Give the line of one interval; a star marks one that is omitted."""
    time = f"{interval.start_s:.1f}-{interval.end_s:.1f}"
    way = interval.way.value + "*" * interval.is_omitted
    line = f"{way:<5}{time:>15}{_megabytes(interval.size_bytes, 10)}{_megabits(interval.bits_per_s, 9)}"
    if interval.packets is None:
        window = None if interval.window_bytes is None else interval.window_bytes / 1024
        return line + f" {_count(interval.retransmissions, 8)} {_count(interval.rtt_us, 8)} {_count(window, 11)}"
    share = 100 * interval.lost / interval.packets if interval.lost is not None and interval.packets > 0 else None
    lost = f" {_count(interval.packets, 9)} {_count(interval.lost, 8)} {_count(share, 7, 2)}"
    return line + lost + f" {_count(interval.jitter_us, 10, 1)}"


def result_lines(result: Result) -> list[str]:
    """Give the table of the whole test, and what there is to say about it."""
    lines = [_udp_headings() if result.settings.is_udp else _tcp_headings()]
    line = _udp_line if result.settings.is_udp else _tcp_line
    if result.settings.parallel > 1:
        lines += [line(result.total_of(stream), str(stream.number)) for stream in result.streams]
    lines += [line(total, "all" if result.settings.parallel > 1 else "") for total in result.totals]
    for sentence in _sentences(result):
        lines += textwrap.wrap(sentence, WIDTH)
    return lines


def sparkline(values: Sequence[float], width: int, *, ascii_only: bool = False) -> str:
    """Draw the last ``width`` values as one line, from zero to the greatest of them.

    >>> sparkline([0, 1, 2, 4], 10), sparkline([1, 2, 3], 2, ascii_only=True)
    ('▁▃▅█', '*@')
    """
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0.0)
    if top <= 0:
        return blocks[0] * len(shown)
    return "".join(blocks[min(len(blocks) - 1, int(value / top * (len(blocks) - 1) + 0.5))] for value in shown)


def number(value: float, width: int, decimals: int | None = None) -> str:
    """Write a number in at most ``width`` columns: with fewer digits first, then with an exponent.

    >>> number(14321.56, 10), number(0.25, 10), number(123456789.0, 8), number(7, 3, 0)
    ('14,321.6', '0.25', '1.23e+08', '7')
    """
    places = decimals if decimals is not None else 2 if abs(value) < 100 else 1
    for text in (f"{value:,.{places}f}", f"{value:,.0f}", f"{value:.0f}"):
        if len(text) <= width:
            return text
    return f"{value:.2e}"


def _megabytes(size_bytes: int | None, width: int) -> str:
    return f" {_count(None if size_bytes is None else size_bytes / 1e6, width, None)}"


def _megabits(bits_per_s: float | None, width: int) -> str:
    return f" {_count(None if bits_per_s is None else bits_per_s / 1e6, width, None)}"


def _count(value: float | None, width: int, decimals: int | None = 0) -> str:
    return f"{_NONE if value is None else number(value, width, decimals):>{width}}"


def _tcp_headings() -> str:
    return f"{'way':<5}{'stream':>6}{'sent MB':>14}{'Mbit/s':>11}{'received MB':>14}{'Mbit/s':>11}{'resent':>9}"


def _tcp_line(total: Total, stream: str) -> str:
    sent = _megabytes(total.sent_bytes, 13) + _megabits(total.sent_bits_per_s, 10)
    received = _megabytes(total.received_bytes, 13) + _megabits(total.received_bits_per_s, 10)
    return f"{total.way.value:<5}{stream:>6}{sent}{received} {_count(total.retransmissions, 8)}"


def _udp_headings() -> str:
    first = f"{'way':<5}{'stream':>6}{'sent MB':>11}{'received MB':>12}{'Mbit/s':>10}"
    return first + f"{'datagrams':>10}{'lost':>9}{'lost %':>7}{'jitter µs':>10}"


def _udp_line(total: Total, stream: str) -> str:
    share = None if total.lost_share is None else 100 * total.lost_share
    moved = _megabytes(total.sent_bytes, 10) + _megabytes(total.received_bytes, 11)
    counted = f" {_count(total.packets, 9)} {_count(total.lost, 8)} {_count(share, 6, 2)}"
    line = f"{total.way.value:<5}{stream:>6}{moved}{_megabits(total.received_bits_per_s, 9)}"
    return line + counted + f" {_count(total.jitter_us, 9, 1)}"


def _sentences(result: Result) -> list[str]:
    said: list[str] = []
    if any(interval.is_omitted for interval in result.intervals):
        said.append("* omitted: it counts for nothing below its line.")
    here = f"{result.cpu.percent:.0f} % here (user {result.cpu.user_percent:.0f})"
    there = ""
    if result.peer_cpu is not None:
        there = f", {result.peer_cpu.percent:.0f} % there (user {result.peer_cpu.user_percent:.0f})"
    said.append(f"CPU, of one processor: {here}{there}.")
    if result.congestion or result.peer_congestion:
        said.append(_congestion(result))
    for way in result.ways:
        if path := _path([stream for stream in result.streams if stream.way is way]):
            said.append(path)
    several = len(result.ways) > 1
    for verdict in verdicts(result):
        said.append(f"Verdict{f' {verdict.way.value}' if several else ''}: {verdict.word}. {_capital(verdict.reason)}.")
    for total in result.totals:
        if (share := result.unseen_share(total.way)) is not None and total.unseen and share >= _WORTH_A_SENTENCE:
            said.append(_unseen(total.way if several else None, total.unseen, (total.packets or 0) + total.unseen))
    overtaken = sum(total.out_of_order or 0 for total in result.totals)
    if overtaken:
        said.append(f"Datagrams that came out of order: {overtaken:,}.")
    if result.not_ours:
        said.append(f"Datagrams that came and were too short to be of this test: {result.not_ours:,}.")
    if result.intervals_dropped:
        said.append(f"The first {result.intervals_dropped:,} intervals were not kept.")
    said += [_capital(note) + "." for note in result.notes]
    if not result.is_complete:
        said.append("The test was broken off: the other end's figures are missing.")
    return said


def _unseen(way: Way | None, unseen: int, sent: int) -> str:
    """Tell what no gap in the numbers tells."""
    which = f" {way.value}" if way is not None else ""
    if unseen == sent:
        return f"None of the {sent:,} datagrams sent{which} came."
    return f"The last {unseen:,} of the {sent:,} datagrams sent{which} did not come before the test's end."


def _congestion(result: Result) -> str:
    if result.peer_congestion in ("", result.congestion):
        return f"Congestion control: {result.congestion or result.peer_congestion}."
    return f"Congestion control: {result.congestion or 'unknown'} here, {result.peer_congestion} there."


def _path(streams: Sequence[StreamResult]) -> str:
    """What the kernel of the sender, where that is us, knows of the way."""
    rtts = [stream.rtt_us for stream in streams if stream.rtt_us is not None]
    if not rtts:
        return ""
    least = min((s.least_rtt_us for s in streams if s.least_rtt_us is not None), default=None)
    window = max(stream.largest_window_bytes or 0 for stream in streams)
    text = f"Round trip {sum(rtts) / len(rtts):,.0f} µs"
    text += f" (least {least:,} µs)" if least is not None else ""
    whose = "" if len(streams) == 1 else " of one stream"
    return text + f", congestion window{whose} up to {window / 1024:,.0f} KiB."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

"""What is printed fits 80 columns, whatever the figures are, and says what there is to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from underlay.tools.speed import Cpu, Direction, Interval, Result, Settings, StreamResult, Way
from underlay.tools.speed._words import describe, headings, interval_line, number, result_lines, sparkline

# A terabit a second for a day, and the longest of everything.
HUGE = 10**16
TCP = Interval(Way.DOWN, 86_399.0, 86_400.0, HUGE, retransmissions=10**9, rtt_us=10**8, window_bytes=1 << 32)
UDP = Interval(
    Way.DOWN, 86_399.0, 86_400.0, HUGE, packets=1 << 32, lost=1 << 31, out_of_order=9, jitter_us=12_345_678.9
)


@pytest.mark.parametrize("interval", [TCP, UDP, replace(TCP, is_omitted=True)], ids=["tcp", "udp", "omitted"])
def test_a_line_has_at_most_80_columns_for_the_largest_figures(interval: Interval) -> None:
    assert len(interval_line(interval)) <= 80


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_headings_stand_right_above_their_columns(protocol: str) -> None:
    settings = Settings(protocol=protocol)  # type: ignore[arg-type]
    line = interval_line(Interval(Way.UP, 0.0, 1.0, 10, packets=1 if settings.is_udp else None))
    assert len(headings(settings)) == len(line) <= 80


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("parallel", [1, 3])
def test_the_table_of_a_result_fits_too(protocol: str, parallel: int) -> None:
    is_udp = protocol == "udp"
    stream = StreamResult(
        1,
        Way.UP,
        HUGE,
        HUGE,
        86_400.0,
        86_400.0,
        retransmissions=None if is_udp else 10**9,
        rtt_us=None if is_udp else 10**7,
        packets=1 << 40 if is_udp else None,
        lost=1 << 39 if is_udp else None,
        jitter_us=1e7 if is_udp else None,
    )
    settings = Settings(protocol=protocol, parallel=parallel, direction=Direction.BIDIRECTIONAL)  # type: ignore[arg-type]
    streams = tuple(replace(stream, number=n) for n in range(parallel))
    found = Result(True, "x" * 60, settings, streams, (), Cpu(1, 2), Cpu(1e9, 1e9), notes=("a note " * 30,))
    lines = result_lines(found)
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if line.startswith("up ")]) == (parallel + 1 if parallel > 1 else 1)


def test_what_no_end_knows_is_a_dash_and_not_a_zero() -> None:
    stream = StreamResult(1, Way.UP, 10, None, 1.0, None)
    found = Result(True, "it", Settings(), (stream,), (), Cpu(1, 2), None, is_complete=False)
    lines = result_lines(found)
    assert lines[1].split() == ["up", "0.00", "0.00", "-", "-", "-"]
    assert "The test was broken off: the other end's figures are missing." in lines


@pytest.mark.parametrize(
    ("packets", "unseen", "sentence"),
    [
        (990, 10, ""),
        (989, 11, "The last 11 of the 1,000 datagrams sent did not come before the test's end."),
        (0, 1000, "None of the 1,000 datagrams sent came."),
    ],
)
def test_what_no_gap_in_the_numbers_tells_is_said(packets: int, unseen: int, sentence: str) -> None:
    stream = StreamResult(1, Way.UP, 10, 10, 1.0, 1.0, packets=packets, lost=0, unseen=unseen)
    lines = result_lines(Result(True, "it", Settings(protocol="udp"), (stream,), (), Cpu(1, 2), Cpu(1, 2)))
    assert [line for line in lines if "sent" in line][1:] == ([sentence] if sentence else [])


def test_a_description_tells_the_end_of_the_test_and_who_sends() -> None:
    udp = Settings(protocol="udp", direction=Direction.REVERSE, blocks=100, length_bytes=1000, rate_bits_per_s=10**6)
    told = describe("the server at x:1", udp, at_client=True)
    assert (
        told == "the server at x:1 by UDP, 1 stream, datagrams of 1,000 bytes, 1.00 Mbit/s each, 100 in all: we receive"
    )
    assert describe("x", replace(udp, direction=Direction.BIDIRECTIONAL), at_client=False).endswith("both ways")


def test_a_sparkline_goes_from_zero_to_the_greatest_and_keeps_the_last() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([0, 0], 10) == "▁▁"
    assert sparkline(range(8), 10) == "▁▂▃▄▅▆▇█"
    assert sparkline([9, 1, 1], 2) == "██"
    assert sparkline([1, 2], 0) == ""


@pytest.mark.parametrize("value", [0.0, 0.004, 99.994, 1e5, 123_456.7, 1e12, 1.5e300])
def test_a_number_keeps_its_width(value: float) -> None:
    assert len(number(value, 9)) <= 9

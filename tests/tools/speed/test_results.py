"""What a peer says of its part, what is made of it, and the one word where the figures carry one."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.tools.speed import Cpu, Direction, Interval, PeerError, Result, Settings, StreamResult, Way, verdicts
from underlay.tools.speed._results import PeerResults
from underlay.tools.speed._show import result_json
from underlay.tools.speed._streams import make_stream
from underlay.tools.speed._tally import Tally

STREAM = {"id": 1, "bytes": 1000, "retransmits": 2, "jitter": 0.001, "errors": 3, "packets": 100}
TOLD = {
    "cpu_util_total": 20.0,
    "cpu_util_user": 5.0,
    "cpu_util_system": 15.0,
    "sender_has_retransmits": 1,
    "congestion_used": "cubic",
    "streams": [STREAM | {"start_time": 0, "end_time": 1.5}],
}


def result(**changes: object) -> Result:
    stream = StreamResult(1, Way.UP, 1000, 900, 1.0, 1.0)
    plain = Result(True, "the server", Settings(length_bytes=1000), (stream,), (), Cpu(1, 2), Cpu(3, 4))
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_the_results_of_a_stock_iperf3_are_read() -> None:
    read = PeerResults.read(TOLD, "the server", [1])
    assert (read.cpu.user_percent, read.cpu.system_percent, read.congestion) == (5.0, 15.0, "cubic")
    assert read.streams[1]["bytes"] == 1000
    assert read.streams[1]["end_time"] == 1.5


def test_iperf3s_unsigned_minus_one_is_no_figure() -> None:
    told = TOLD | {"streams": [STREAM | {"retransmits": 18446744073709551615}]}
    assert PeerResults.read(told, "the server", [1]).streams[1]["retransmits"] == -1
    told = TOLD | {"streams": [STREAM | {"retransmits": 1.8446744073709552e19}]}
    assert PeerResults.read(told, "the server", [1]).streams[1]["retransmits"] == -1


@pytest.mark.parametrize(
    "wrong",
    [
        {"streams": None},
        {"streams": [STREAM, STREAM]},
        {"streams": [STREAM | {"id": 9}]},
        {"streams": [STREAM | {"bytes": "many"}]},
        {"streams": [STREAM | {"bytes": float("nan")}]},
        {"streams": [STREAM | {"bytes": -2}]},
        {"streams": [STREAM | {"bytes": -1}]},
        {"streams": [STREAM | {"bytes": 1 << 54}]},
        {"streams": [STREAM | {"packets": -1}]},
        {"streams": [STREAM | {"jitter": -1}]},
        {"streams": [STREAM | {"retransmits": -2}]},
        {"streams": [STREAM | {"start_time": 0, "end_time": 1e-300}]},
        {"streams": [STREAM | {"end_time": None}]},
        {"streams": [STREAM | {"start_time": 2, "end_time": 1.5}]},
        {"streams": [STREAM | {"omitted_packets": 101}]},
        {"streams": [STREAM | {"errors": 101}]},
        {"streams": [{}]},
        {"streams": [7]},
        {"cpu_util_total": "20"},
        {"cpu_util_total": True},
        {"cpu_util_total": 1e18},
        {"cpu_util_total": 1.0, "cpu_util_user": -1, "cpu_util_system": 1.000_000_1},
    ],
    ids=str,
)
def test_results_that_are_not_of_this_test_are_one_sentence(wrong: dict[str, object]) -> None:
    with pytest.raises(PeerError) as caught:
        PeerResults.read(TOLD | wrong, "the server at x:1", [1])
    assert str(caught.value) == "the server at x:1 sent results that are not those of this test"


def test_a_congestion_control_that_would_write_to_the_terminal_is_not_shown() -> None:
    assert PeerResults.read(TOLD | {"congestion_used": "\x1b[2J"}, "the server", [1]).congestion == ""
    assert PeerResults.read(TOLD | {"congestion_used": 7}, "the server", [1]).congestion == ""


@pytest.mark.parametrize(
    "parts", [(5e-324, 0.0), (5e-324, 5e-324), (0.0, 5e-324), (0.0, 0.0), (1e-300, 8192e2)], ids=str
)
def test_the_parts_of_a_peers_processor_time_add_up_to_its_whole_however_small_they_are(
    parts: tuple[float, float],
) -> None:
    user, system = parts
    cpu = PeerResults.read(TOLD | {"cpu_util_user": user, "cpu_util_system": system}, "the server", [1]).cpu
    assert (cpu.percent, min(cpu.user_percent, cpu.system_percent) >= 0) == (20.0, True)


ANYTHING = st.none() | st.integers() | st.floats() | st.lists(st.none())
A_FIGURE = ANYTHING | st.integers(0, 200) | st.floats(0, 200)


@given(
    st.dictionaries(st.sampled_from(list(TOLD)), A_FIGURE),
    st.dictionaries(
        st.sampled_from([*STREAM, "start_time", "end_time", "omitted_errors", "omitted_packets"]), A_FIGURE
    ),
)
def test_whatever_a_peer_says_is_results_or_one_sentence(
    changes: dict[str, object], of_stream: dict[str, object]
) -> None:
    settings = Settings(protocol="udp", length_bytes=100)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        tally = Tally(settings, [stream := make_stream(1, ours, settings, is_sender=True)], at_client=True)
        tally.finish(stream, 1.0)
        told = TOLD | {"streams": [STREAM | of_stream]} | changes
        try:
            found = tally.result("the server", PeerResults.read(told, "the server", [1, 3]), ())
        except PeerError:
            return
    json.dumps(result_json(found), allow_nan=False)
    assert not [figure for figure in _figures(result_json(found)["streams"]) if figure < 0]


def _figures(told: object) -> Iterator[float]:
    if isinstance(told, dict):
        told = list(told.values())
    if isinstance(told, list):
        for each in told:
            yield from _figures(each)
    elif isinstance(told, int | float):
        yield told


def test_streams_add_up_and_a_figure_that_one_lacks_is_none() -> None:
    one = StreamResult(1, Way.UP, 1000, 900, 1.0, 2.0, retransmissions=3)
    two = replace(one, number=3, retransmissions=None)
    total = result(streams=(one, two)).total(Way.UP)
    assert (total.sent_bytes, total.received_bytes, total.retransmissions) == (2000, 1800, None)
    assert (total.sent_bits_per_s, total.received_bits_per_s) == (16_000, 7200)


def test_the_ways_are_those_of_the_direction() -> None:
    ways = {d: result(settings=Settings(direction=d)).ways for d in Direction}
    assert ways == {
        Direction.NORMAL: (Way.UP,),
        Direction.REVERSE: (Way.DOWN,),
        Direction.BIDIRECTIONAL: (Way.UP, Way.DOWN),
    }


def one_word(found: Result) -> list[str]:
    return [verdict.word for verdict in verdicts(found)]


def stream(**changes: object) -> tuple[StreamResult, ...]:
    return (replace(StreamResult(1, Way.UP, 1000, 1000, 1.0, 1.0), **changes),)  # type: ignore[arg-type]


def test_figures_that_carry_no_verdict_get_none() -> None:
    assert one_word(result()) == []
    assert one_word(result(streams=stream(window_limited=0.49, buffer_limited=0.4))) == []


def test_what_the_kernels_own_clock_says_held_the_sender_is_the_verdict() -> None:
    assert one_word(result(streams=stream(window_limited=0.5))) == ["window"]
    assert one_word(result(streams=stream(window_limited=0.0, buffer_limited=0.9))) == ["buffer"]


def test_a_rate_that_was_reached_is_paced_and_one_that_was_not_is_not() -> None:
    assert one_word(result(settings=Settings(rate_bits_per_s=8000))) == ["paced"]
    assert one_word(result(settings=Settings(rate_bits_per_s=9000))) == []


def test_an_end_without_processor_time_is_named_only_where_one_stream_had_one_processor() -> None:
    busy = result(peer_cpu=Cpu(10, 85))
    assert one_word(busy) == ["cpu"]
    assert "receiver used 95 %" in verdicts(busy)[0].reason
    assert "sender used 95 %" in verdicts(result(cpu=Cpu(10, 85)))[0].reason
    assert one_word(result(peer_cpu=Cpu(10, 85), streams=stream() + stream(number=3))) == []


def test_datagrams_are_lossy_from_one_in_a_hundred_and_clean_without_any() -> None:
    udp = Settings(protocol="udp", rate_bits_per_s=8000)
    assert one_word(result(settings=udp, streams=stream(packets=100, lost=1))) == ["lossy"]
    assert one_word(result(settings=udp, streams=stream(packets=101, lost=1))) == []
    assert one_word(result(settings=udp, streams=stream(packets=100, lost=0, unseen=0))) == ["clean"]
    assert one_word(result(settings=udp, streams=stream(packets=99, lost=0, unseen=0))) == []
    assert one_word(result(settings=udp, streams=stream(packets=100, lost=None))) == []


def test_datagrams_after_the_last_that_came_are_in_no_gap_and_yet_not_clean() -> None:
    udp = Settings(protocol="udp", rate_bits_per_s=8000)
    assert one_word(result(settings=udp, streams=stream(packets=990, lost=0, unseen=10))) == ["clean"]
    assert one_word(result(settings=udp, streams=stream(packets=989, lost=0, unseen=11))) == []
    assert one_word(result(settings=udp, streams=stream(packets=990, lost=0, unseen=None))) == []
    assert one_word(result(settings=udp, streams=stream(packets=0, lost=0, unseen=1000))) == []


def test_a_test_of_a_moment_gets_no_verdict() -> None:
    busy = result(peer_cpu=Cpu(10, 85))
    assert one_word(replace(busy, streams=stream(sender_s=0.1, receiver_s=0.1))) == ["cpu"]
    assert one_word(replace(busy, streams=stream(sender_s=0.09, receiver_s=None))) == []


def test_a_test_that_was_broken_off_gets_no_verdict() -> None:
    assert one_word(result(streams=stream(window_limited=1.0), is_complete=False, peer_cpu=None)) == []


def test_the_json_has_each_field_of_the_result_and_nothing_that_json_lacks() -> None:
    found = result(intervals=(Interval(Way.UP, 0.0, 1.0, 125),), streams=stream(packets=3, lost=1, jitter_us=1.23456))
    told = json.loads(json.dumps(result_json(found), allow_nan=False))
    assert next(iter(told)) == "schema"
    assert told["schema"] == "underlay.speed/1"
    assert told["intervals"][0]["bits_per_s"] == 1000
    renamed = {"number": "stream"}
    for kind, shown in ((StreamResult, told["streams"][0]),):
        assert {renamed.get(field.name, field.name) for field in fields(kind)} == set(shown)
    assert told["streams"][0]["jitter_us"] == 1.235

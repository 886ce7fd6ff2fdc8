"""What a test is: iperf3's words for it, and its limits, at both ends."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.errors import UsageError
from underlay.tools.speed import Direction, Server, Settings, measure
from underlay.tools.speed._protocol import Refusal
from underlay.tools.speed._settings import RefusedSettings

# What the client of iperf3 3.12 sends for `-u -b 5M --bidir -P 2 -t 1`, as its --debug shows it.
STOCK_UDP = {
    "udp": True,
    "omit": 0,
    "time": 1,
    "num": 0,
    "blockcount": 0,
    "parallel": 2,
    "bidirectional": True,
    "len": 32768,
    "bandwidth": 5000000,
    "pacing_timer": 1000,
    "client_version": "3.12",
}


def test_the_parameters_of_a_stock_client_are_read_and_written_alike() -> None:
    settings = Settings.from_parameters(STOCK_UDP)
    assert settings == Settings(
        protocol="udp",
        direction=Direction.BIDIRECTIONAL,
        time_s=1,
        parallel=2,
        length_bytes=32768,
        rate_bits_per_s=5_000_000,
    )
    assert settings.to_parameters() == STOCK_UDP


def test_a_part_of_a_second_is_told_as_a_whole_one_since_iperf3_knows_no_other() -> None:
    assert Settings(time_s=0.5).to_parameters()["time"] == 1
    assert Settings(size_bytes=10).to_parameters()["time"] == 0


def test_each_option_survives_the_way_to_a_server() -> None:
    settings = Settings(
        direction=Direction.REVERSE,
        parallel=3,
        time_s=7,
        omit_s=2,
        length_bytes=4096,
        rate_bits_per_s=10**10,
        window_bytes=65536,
        mss_bytes=1000,
        no_delay=True,
        congestion="reno",
        tos=16,
    )
    assert Settings.from_parameters(settings.to_parameters()) == settings
    counted = Settings(protocol="udp", blocks=5, udp_counters_64bit=True, length_bytes=100)
    assert Settings.from_parameters(counted.to_parameters()) == replace(counted, time_s=0)


def test_numbers_that_iperf3_writes_as_floating_ones_are_read() -> None:
    assert Settings.from_parameters({"tcp": True, "time": 0, "num": 1e10}).size_bytes == 10_000_000_000


def test_a_stream_sends_at_one_end_and_receives_at_the_other() -> None:
    for direction in Direction:
        settings = Settings(direction=direction, parallel=2)
        client, server = settings.is_sender(at_client=True), settings.is_sender(at_client=False)
        assert [not sends for sends in client] == list(server)
    assert Settings(direction=Direction.BIDIRECTIONAL, parallel=2).is_sender(at_client=True) == (
        True,
        True,
        False,
        False,
    )


def test_a_datagram_has_the_mss_of_the_control_connection_or_what_ethernet_carries() -> None:
    udp = Settings(protocol="udp")
    assert udp.with_length(32741).length_bytes == 32741
    assert udp.with_length(0).length_bytes == udp.with_length(10**6).length_bytes == 1460
    assert Settings().with_length(1460).length_bytes == 131072
    assert Settings(size_bytes=131073).with_length(1460).length_bytes == 131072
    assert Settings(size_bytes=1000).with_length(1460).length_bytes == 1000
    assert Settings(length_bytes=100).with_length(1460).length_bytes == 100


WRONG = [
    ({"parallel": 0}, Refusal.STREAMS),
    ({"parallel": 129}, Refusal.STREAMS),
    ({"time": 86_401}, Refusal.DURATION),
    ({"omit": 61}, Refusal.OMIT),
    ({"len": (1 << 20) + 1}, Refusal.BLOCK_SIZE),
    ({"udp": True, "len": 15}, Refusal.UDP_BLOCK_SIZE),
    ({"udp": True, "len": 65_508}, Refusal.UDP_BLOCK_SIZE),
    ({"window": (512 << 20) + 1}, Refusal.WINDOW),
    ({"MSS": 9217}, Refusal.MSS),
    ({"TOS": 256}, Refusal.TOS),
    ({"sctp": True}, Refusal.UNSUPPORTED),
    ({"num": 1, "blockcount": 1}, Refusal.UNSUPPORTED),
    ({"congestion": "a b"}, Refusal.PARAMETERS),
    ({"congestion": 7}, Refusal.PARAMETERS),
    ({"congestion": "x" * 16}, Refusal.PARAMETERS),
    ({"parallel": "3"}, Refusal.PARAMETERS),
    ({"parallel": None}, Refusal.PARAMETERS),
    ({"num": -1}, Refusal.PARAMETERS),
    ({"num": float("nan")}, Refusal.PARAMETERS),
    ({"num": float("inf")}, Refusal.PARAMETERS),
    ({"num": 10**400}, Refusal.PARAMETERS),
    ({"time": [1]}, Refusal.PARAMETERS),
]


@pytest.mark.parametrize(("told", "refusal"), WRONG, ids=[str(told)[:40] for told, _ in WRONG])
def test_a_client_that_asks_for_too_much_is_told_iperf3s_own_number(told: dict[str, object], refusal: Refusal) -> None:
    with pytest.raises(RefusedSettings) as caught:
        Settings.from_parameters({"tcp": True, "time": 1, **told})
    assert caught.value.refusal is refusal


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"parallel": 129}, "129 parallel streams are not possible; a test has 1 to 128"),
        ({"time_s": 0.0}, "a test cannot last 0 s; it lasts up to 86400 s, a day"),
        ({"time_s": float("nan")}, "a test cannot last nan s; it lasts up to 86400 s, a day"),
        ({"protocol": "udp", "length_bytes": 8}, "a datagram of 8 bytes is not possible; it has 16 to 65507"),
        ({"size_bytes": -1}, "fewer bytes or blocks than none are not possible; leave that out"),
        ({"size_bytes": 1 << 54}, "no test moves so much, or so fast; sizes and rates are up to 9,007,199,254,740,992"),
        ({"rate_bits_per_s": -1}, "a rate is not negative; 0 is no limit"),
        ({"congestion": "Ü"}, "'Ü' is no name of a congestion control; cubic and bbr are"),
    ],
)
def test_a_person_who_asks_for_too_much_is_told_in_one_sentence(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings(**wrong)  # type: ignore[arg-type]
    assert str(caught.value) == sentence


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(
    [*STOCK_UDP, "tcp", "sctp", "reverse", "window", "MSS", "TOS", "congestion", "nodelay", "fqrate"]
)


@settings(max_examples=50)
@given(st.dictionaries(NAMES, JSON))
def test_whatever_a_client_says_is_a_test_within_the_limits_or_is_refused(told: dict[str, object]) -> None:
    try:
        settings = Settings.from_parameters(told)
    except RefusedSettings:
        return
    assert 1 <= settings.parallel <= 128
    assert settings.ends_by_size or 0 < settings.time_s <= 86_400
    assert 0 < settings.length_bytes <= 1 << 20


@pytest.mark.parametrize("interval_s", [-1.0, 1e-9, 0.09, 61.0, math.nan, math.inf])
def test_neither_end_takes_an_interval_that_is_none(interval_s: float) -> None:
    sentence = "s cannot lie between two reports; an interval is 0, or 0.1 to 60 s"
    with pytest.raises(UsageError, match=sentence):
        Server("127.0.0.1", 0, interval_s=interval_s)
    with pytest.raises(UsageError, match=sentence):
        measure("127.0.0.1", port=1, interval_s=interval_s)

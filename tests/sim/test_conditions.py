"""Conditions of a way, the schedule and clocks: what they say, and in which order what is due comes.

It knows one object at a time. How packets fare is in `test_internet.py`.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.errors import UsageError
from underlay.sim import Conditions
from underlay.sim._clock import BOOTED_S, EPOCH_S, HostClock
from underlay.sim._quantities import seconds, size_bytes
from underlay.sim._schedule import Schedule

WORDS = {
    "delay": "20ms",
    "jitter": "5ms",
    "rate": "10mbit",
    "queue": 50,
    "loss": "1%",
    "duplicate": 0.02,
    "reorder": 0.03,
    "reorder_by": "7ms",
    "corrupt": 0.04,
    "mtu": 1400,
}


def test_every_word_of_a_link_is_read() -> None:
    assert Conditions().changed(**WORDS) == Conditions(
        delay_s=0.02,
        jitter_s=0.005,
        rate_bits_per_s=1e7,
        queue_frames=50,
        loss=0.01,
        duplicate=0.02,
        reorder=0.03,
        reorder_by_s=0.007,
        corrupt=0.04,
        mtu_bytes=1400,
    )


def test_every_condition_but_a_delay_makes_a_stage() -> None:
    names = [stage.name for stage in Conditions().changed(**WORDS).stages(Random(1))]
    assert names == ["mtu", "queue", "loss", "corruption", "duplication", "jitter", "reordering"]
    assert not Conditions(delay_s=1.0).stages(Random(1))


def test_none_takes_a_condition_away() -> None:
    assert Conditions(rate_bits_per_s=1e6, mtu_bytes=1000).changed(rate=None, mtu=None) == Conditions()


def test_what_is_new_is_what_was_not_so_before() -> None:
    before = Conditions(loss=0.1, delay_s=1.0)
    after = Conditions(loss=0.1, duplicate=0.2, delay_s=2.0, rate_bits_per_s=1e6)
    assert after.since(before) == Conditions(duplicate=0.2)
    assert after.since(after) == Conditions()


@pytest.mark.parametrize(
    "words", [{"loss": 2}, {"loss": "101%"}, {"mtu": 20}, {"queue": 0}, {"delay": "5 parsecs"}, {"delay": -1}]
)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_word(words: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(words))):
        Conditions().changed(**words)


@given(st.integers(0, 10**6))
def test_a_text_with_a_unit_says_the_same_as_its_number(value: int) -> None:
    assert seconds(f"{value}us") == pytest.approx(value * 1e-6)
    assert seconds(value) == seconds(f"{value}s") == value
    assert size_bytes(f"{value}kib") == value * 1024


# --- the schedule ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 100), st.lists(st.sampled_from([0.0, 1.0, 2.0]), max_size=30))
def test_moments_come_in_the_order_of_time_and_all_of_them(seed: int, whens: list[float]) -> None:
    schedule = Schedule(Random(seed))
    came: list[tuple[float, int]] = []
    for number, when in enumerate(whens):
        schedule.at(when, came.append, (when, number))
    while schedule.step():
        pass
    assert [when for when, _ in came] == sorted(whens)
    assert sorted(number for _, number in came) == list(range(len(whens)))


@given(st.integers(0, 100), st.lists(st.sampled_from([0.0, 1.0]), max_size=30))
def test_moments_of_one_tie_are_first_in_first_out(seed: int, whens: list[float]) -> None:
    schedule = Schedule(Random(seed))
    tie, came = schedule.tie(), list[tuple[float, int]]()
    for number, when in enumerate(whens):
        schedule.behind(when, tie, came.append, (when, number))
    while schedule.step():
        pass
    assert came == sorted(came)


@given(st.integers(0, 100), st.sets(st.integers(0, 29)))
def test_what_is_withdrawn_does_not_come_and_the_rest_comes_as_before(seed: int, unwanted: set[int]) -> None:
    orders = []
    for withdraws in (False, True):
        schedule, came = Schedule(Random(seed)), list[int]()
        for number in range(30):
            schedule.at(number % 3, came.append, number)
        if withdraws:
            gone = schedule.withdraw(lambda moment: moment[4] in unwanted)
            assert sorted(moment[4] for moment in gone) == sorted(unwanted)
        while schedule.step():
            pass
        orders.append([number for number in came if number not in unwanted])
        assert withdraws is False or not unwanted & set(came)
    assert orders[0] == orders[1]


# --- the clock of a host ---------------------------------------------------------------------------------------------


def test_a_clock_drifts_from_when_it_is_told_to_and_never_jumps_by_that() -> None:
    schedule = Schedule(Random(1))
    clock = HostClock(schedule)
    schedule.now = 100.0
    before_s = clock.time()
    clock.drift = 0.5
    assert clock.time() == before_s == BOOTED_S + 100
    schedule.now = 110.0
    assert clock.time() == BOOTED_S + 115
    clock.drift = -0.5
    schedule.now = 130.0
    assert clock.time() == BOOTED_S + 125


def test_an_offset_is_of_the_time_of_day_alone() -> None:
    schedule = Schedule(Random(1))
    clock = HostClock(schedule)
    clock.offset_s = -3600.0
    schedule.now = 5.0
    assert clock.time() == BOOTED_S + 5
    assert clock.time_of_day() == EPOCH_S + 5 - 3600


@given(
    st.floats(-0.5, 0.5),
    st.lists(st.tuples(st.floats(0, 1000), st.floats(-0.5, 0.5)), max_size=8),
    st.floats(0, 1000),
)
def test_the_world_knows_when_a_clock_will_show_a_time(
    drift: float, changes: list[tuple[float, float]], later_s: float
) -> None:
    schedule = Schedule(Random(1))
    clock = HostClock(schedule)
    clock.drift = drift
    for wait_s, new in changes:
        schedule.now += wait_s
        clock.drift = new
    host_s = clock.time() + later_s
    schedule.now = clock.world_s(host_s)
    assert clock.time() == pytest.approx(host_s)

"""Loss is called loss, and a limit a limit: by Fisher's exact test, and by the beat of the answers."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.tools.path._verdict import CHANCE, chance_of_fewer, even_beat, path_loss


def exact(answered: int, of: int, answered_there: int, of_there: int) -> Fraction:
    """The lower tail of the hypergeometric distribution, by whole numbers."""
    successes = answered + answered_there
    ways = sum(math.comb(of, here) * math.comb(of_there, successes - here) for here in range(answered + 1))
    return Fraction(ways, math.comb(of + of_there, successes))


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_the_chance_is_that_of_fishers_exact_test(of: int, of_there: int, data: st.DataObject) -> None:
    answered, answered_there = data.draw(st.integers(0, of)), data.draw(st.integers(0, of_there))
    expected = float(exact(answered, of, answered_there, of_there))
    assert chance_of_fewer(answered, of, answered_there, of_there) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_missing_answer_of_ten_proves_nothing() -> None:
    assert chance_of_fewer(9, 10, 10, 10) > CHANCE


def test_no_probe_proves_nothing() -> None:
    assert chance_of_fewer(0, 0, 10, 10) == chance_of_fewer(0, 10, 0, 0) == 1


def test_millions_of_probes_are_no_trouble() -> None:
    assert chance_of_fewer(900_000, 1_000_000, 990_000, 1_000_000) < CHANCE
    assert 0.001 < chance_of_fewer(899_000, 1_000_000, 900_000, 1_000_000) < 0.02


def test_the_loss_of_a_long_path_is_not_made_small_by_the_luck_of_one_hop() -> None:
    # A fifth is lost before the first of twelve hops: the smallest of their losses would be 4 points too low.
    chance = random.Random(1)
    estimates = []
    for _ in range(300):
        hops = [(ttl, 200, sum(chance.random() < 0.8 for _ in range(200))) for ttl in range(12)]
        estimate = path_loss(hops[0], hops[1:])
        assert estimate is not None
        estimates.append(estimate)
    assert sum(estimates) / len(estimates) == pytest.approx(0.2, abs=0.02)
    assert sum(abs(estimate - 0.2) > 0.05 for estimate in estimates) < 0.05 * len(estimates)


def test_loss_that_begins_later_is_not_that_of_hops_before_it() -> None:
    assert path_loss((1, 100, 99), [(2, 100, 99), (3, 100, 50), (4, 100, 50)]) == 0.01
    assert path_loss((3, 100, 50), [(4, 100, 50)]) == 0.5


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("probes", [30, 200, 1000])
def test_answers_lost_by_chance_have_no_beat(share: float, probes: int) -> None:
    chance = random.Random(f"{share} {probes}")
    runs = 500
    wrong = sum(
        even_beat([(at * 0.05, chance.random() < share) for at in range(probes)]) is not None for _ in range(runs)
    )
    # Less than one in 2,000 is expected; four of 500 would be there by chance once in 7,000 such tests.
    assert wrong < 4


@pytest.mark.parametrize("every", [3, 4, 10, 25])
@pytest.mark.parametrize("burst", [0, 6])
def test_a_token_bucket_has_one(every: int, burst: int) -> None:
    # A token each `every` probes, the clocks a little off each other.
    tokens, answers = float(burst), []
    for _ in range(400):
        tokens = min(tokens + 1 / (every + 0.03), max(burst, 2.0))
        answers.append(tokens >= 1)
        tokens -= answers[-1]
    beat = even_beat([(at, answered) for at, answered in enumerate(answers)])
    assert beat == pytest.approx(every, rel=0.05)


def limited(probes: int, *, per_probe: float, lost: float = 0.0, seed: int = 0) -> list[tuple[float, bool]]:
    """Probes, ten a second, of which some are lost before a bucket that begins with six tokens, as Linux's does."""
    chance, tokens, answers = random.Random(seed), 6.0, []
    for _ in range(probes):
        tokens = min(tokens + per_probe, 6.0)
        answers.append(tokens >= 1 and chance.random() >= lost)
        tokens -= answers[-1]
    return [(at * 0.1, answered) for at, answered in enumerate(answers)]


def test_a_limit_of_one_a_second_is_seen_in_the_first_six_seconds_of_ten_probes_each() -> None:
    # The clocks are never quite equal: an answer comes a little more often than each tenth probe.
    probes = limited(60, per_probe=0.1004)
    assert sum(answered for _, answered in probes) == 11
    assert even_beat(probes) == pytest.approx(1.0, rel=0.05)


def test_loss_before_a_limit_hides_its_beat_not_even_in_its_first_burst() -> None:
    found = [even_beat(limited(150, per_probe=0.1, lost=0.3, seed=seed)) for seed in range(20)]
    assert all(beat is not None and 0.9 < beat < 1.2 for beat in found)


def test_a_machine_that_sends_unevenly_sees_the_limit_all_the_same() -> None:
    # One answer each tenth of a second; probes each hundredth, but now and then the machine has other things to do.
    chance, now, token, probes = random.Random(3), 0.0, 0.0, []
    for _ in range(200):
        now += 0.01 if chance.random() < 0.95 else 0.06
        probes.append((now, now >= token))
        if now >= token:
            token = max(token, now - 0.05) + 0.1
    assert even_beat(probes) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("answers", [[], [True] * 100, [False] * 100, [True, False] * 100, [False, True, True] * 50])
def test_what_a_dead_link_of_two_or_none_makes_is_no_limit(answers: list[bool]) -> None:
    assert even_beat(list(enumerate(answers))) is None

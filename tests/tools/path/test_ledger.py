"""What became of each probe is counted once, and sums of times are those of the times."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.tools.path._ledger import HISTORY, Answer, AnswerKind, Ledger, Times


def answer(at_ns: int, address: str = "192.0.2.1") -> Answer:
    return Answer(AnswerKind.PASSING, address, at_ns)


def test_an_answer_counts_once_and_again_as_a_duplicate() -> None:
    ledger = Ledger(1)
    probe = ledger.new_probe(0, 3, 1000, 5000)
    assert ledger.answer(probe, answer(1500))
    assert not ledger.answer(probe, answer(1600))
    cell = ledger.cell(0, 3)
    assert (cell.settled, cell.answered, cell.duplicates, cell.late) == (1, 1, 1, 0)
    assert ledger.expire(10_000) == []
    assert cell.times.last_ns == 500


def test_a_probe_is_lost_at_its_deadline_and_late_once_after_it() -> None:
    ledger = Ledger(1)
    probe = ledger.new_probe(0, 1, 1000, 5000)
    assert ledger.next_deadline_ns() == 5000
    assert ledger.expire(4999) == []
    assert ledger.expire(5000) == [probe]
    assert ledger.next_deadline_ns() is None
    assert not ledger.answer(probe, answer(6000))
    assert not ledger.answer(probe, answer(6001))
    cell = ledger.cell(0, 1)
    assert (cell.settled, cell.answered, cell.late, cell.duplicates) == (1, 0, 1, 1)


def test_a_late_answer_tells_who_is_there_until_one_comes_in_time() -> None:
    ledger = Ledger(1)
    first, second = (ledger.new_probe(0, 3, 1000 * number, 5000 + 1000 * number) for number in range(2))
    ledger.expire(5000)
    ledger.answer(first, answer(6000, "192.0.2.9"))
    cell = ledger.cell(0, 3)
    assert (cell.address, cell.answered, cell.late) == ("192.0.2.9", 0, 1)
    ledger.answer(second, answer(5500))
    assert cell.address == "192.0.2.1"


def test_a_late_answer_that_the_way_ends_does_not_tell_who_is_where_its_probe_was_to_go() -> None:
    ledger = Ledger(1)
    probe = ledger.new_probe(0, 7, 1000, 5000)
    ledger.expire(5000)
    ledger.answer(probe, Answer(AnswerKind.UNREACHABLE, "192.0.2.9", 6000, "host unreachable"))
    assert (ledger.cell(0, 7).address, ledger.cell(0, 7).late) == (None, 1)


@pytest.mark.parametrize(
    ("answers", "end"),
    [
        ([], 7),  # who says so is not known otherwise
        ([(1, "10.0.0.1"), (2, "10.0.0.2")], 3),
        ([(1, "10.0.0.1"), (2, "10.0.0.2"), (3, "10.0.0.2")], 4),
        ([(2, "10.0.0.2"), (4, "10.0.0.9"), (6, "10.0.0.2")], 7),  # packets go round
        ([(2, "10.0.0.2"), (8, "10.0.0.2")], 3),
        ([(2, "10.0.0.2"), (3, "10.0.0.3")], 7),  # and yet it has sent others on
    ],
)
def test_a_path_ends_behind_the_router_that_says_so_however_far_the_probe_was_to_go(
    answers: list[tuple[int, str]], end: int
) -> None:
    ledger = Ledger(1)
    for ttl, address in answers:
        ledger.answer(ledger.new_probe(0, ttl, 0, 1000), answer(1, address))
    probe = ledger.new_probe(0, 7, 0, 1000)
    said = Answer(AnswerKind.UNREACHABLE, "10.0.0.2", 5, "host unreachable")
    assert ledger.end_of(probe, said, source="10.0.0.77") == end


def test_a_path_ends_at_its_beginning_where_this_machine_says_so_and_nobody_else_has_answered() -> None:
    ledger = Ledger(1)
    said = Answer(AnswerKind.UNREACHABLE, "10.0.0.77", 5, "host unreachable")
    probe = ledger.new_probe(0, 4, 0, 1000)
    assert ledger.end_of(probe, said, source="10.0.0.77") == 1
    ledger.answer(ledger.new_probe(0, 1, 0, 1000), answer(1, "10.0.0.1"))
    assert ledger.end_of(probe, said, source="10.0.0.77") == 4


def test_a_probe_that_was_not_sent_never_was() -> None:
    ledger = Ledger(1)
    ledger.not_sent(ledger.new_probe(0, 1, 1000, 5000))
    assert not ledger.is_busy(0)
    assert not ledger.cell(0, 1).history
    assert ledger.expire(10_000) == []


def test_flows_are_kept_apart() -> None:
    ledger = Ledger(2)
    first, second = ledger.new_probe(0, 1, 0, 10), ledger.new_probe(1, 1, 0, 10)
    ledger.answer(second, answer(5))
    assert ledger.on_their_way(0) == [first]
    assert not ledger.is_busy(1)
    assert (ledger.cell(0, 1).answered, ledger.cell(1, 1).answered) == (0, 1)


def test_an_answer_before_its_probe_takes_no_time_rather_than_less() -> None:
    ledger = Ledger(1)
    probe = ledger.new_probe(0, 1, 1000, 5000)
    ledger.answer(probe, answer(900))
    assert ledger.cell(0, 1).times.worst_ns == 0


def test_what_is_kept_is_bounded_and_the_counts_are_not() -> None:
    ledger = Ledger(1)
    for number in range(2 * HISTORY):
        ledger.answer(ledger.new_probe(0, 1, 0, 10), answer(5, f"10.0.{number >> 8}.{number & 255}"))
    cell = ledger.cell(0, 1)
    assert cell.answered == 2 * HISTORY
    assert len(cell.history) == HISTORY
    assert len(cell.addresses) == 16


times = st.lists(st.integers(0, 10**10), max_size=40)


@given(st.lists(times, min_size=1, max_size=4))
def test_sums_of_several_flows_are_those_of_all_times(flows: list[list[int]]) -> None:
    parts = []
    for rtts in flows:
        part = Times()
        for number, rtt in enumerate(rtts):
            part.add(rtt, number)
        parts.append(part)
    whole, everything = Times.of(parts), [rtt for rtts in flows for rtt in rtts]
    assert whole.count == len(everything)
    if everything:
        assert (whole.best_ns, whole.worst_ns) == (min(everything), max(everything))
        assert whole.mean_ns == pytest.approx(statistics.fmean(everything), rel=1e-9, abs=1e-6)
    if len(everything) > 1:
        assert whole.stdev_ns == pytest.approx(statistics.stdev(everything), rel=1e-6, abs=1e-3)
    steps = [abs(after - before) for rtts in flows for before, after in itertools.pairwise(rtts)]
    if steps:
        assert whole.jitter_ns == pytest.approx(statistics.fmean(steps), rel=1e-9, abs=1e-6)

"""A flow finds the path, measures it for its rounds, and ends, on paths of every kind, in simulated time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.tools.path._ledger import Answer, AnswerKind, Ledger
from underlay.tools.path._model import Ending
from underlay.tools.path._schedule import Schedule

MS = 1_000_000
TIMEOUT_NS = 500 * MS
SECOND = 1000 * MS


class Path:
    """A path of simulated hops: who answers, and after how long. None never answers."""

    def __init__(self, hops: list[int | None], *, end: AnswerKind | None = AnswerKind.REACHED) -> None:
        self.hops, self.end = hops, end
        self.sent: Counter[int] = Counter()
        self.when: list[tuple[int, int]] = []

    def answer_after_ns(self, ttl: int) -> int | None:
        if ttl > len(self.hops):
            return None if self.end is None else self.hops[-1]
        return self.hops[ttl - 1]

    def kind(self, ttl: int) -> AnswerKind:
        return self.end if self.end is not None and ttl >= len(self.hops) else AnswerKind.PASSING


def run(path: Path, schedule: Schedule, *, single_file: bool = False, until_ns: int = 3600 * SECOND) -> int:
    """Let the schedule have its way in simulated time; give when it ended."""
    ledger, coming, now = Ledger(1), [], 0
    for _ in range(100_000):
        is_waiting = ledger.is_busy(0)
        if schedule.is_done and not is_waiting:
            return now
        if not (single_file and is_waiting):
            ttl = schedule.take(now, is_waiting=is_waiting)
            if ttl is not None:
                path.sent[ttl] += 1
                path.when.append((now, ttl))
                probe = ledger.new_probe(0, ttl, now, now + TIMEOUT_NS)
                after = path.answer_after_ns(ttl)
                if after is not None:
                    coming.append((now + after, probe))
        wakes = [at for at, _ in coming]
        if (deadline := ledger.next_deadline_ns()) is not None:
            wakes.append(deadline)
        if not (single_file and ledger.is_busy(0)) and (wake := schedule.wake_ns()) is not None:
            wakes.append(wake)
        now = max(now, min(wakes, default=now))
        assert now <= until_ns
        for at, probe in sorted(coming, key=lambda each: each[0]):
            if at <= now:
                coming.remove((at, probe))
                kind = path.kind(probe.ttl)
                if ledger.answer(probe, Answer(kind, f"hop {probe.ttl}", now)):
                    schedule.answered(probe.ttl, kind, now)
        ledger.expire(now)
    raise AssertionError("it does not end")


def plan(rounds: int | None = 3, *, max_hops: int = 30, silent_hops: int = 8, interval_ns: int = SECOND) -> Schedule:
    return Schedule(rounds=rounds, interval_ns=interval_ns, start_ns=0, max_hops=max_hops, silent_hops=silent_hops)


hop_delays = st.lists(st.one_of(st.integers(0, 400 * MS), st.none()), min_size=1, max_size=20)


@given(hop_delays, st.booleans(), st.integers(1, 4))
def test_every_hop_of_a_path_that_ends_gets_every_round(hops: list[int | None], single_file: bool, rounds: int) -> None:
    hops[-1] = hops[-1] or 0  # the host answers
    path, schedule = Path(hops), plan(rounds, silent_hops=20)
    run(path, schedule, single_file=single_file)
    assert (schedule.ending, schedule.end_ttl) == (Ending.REACHED, len(hops))
    assert [path.sent[ttl] for ttl in range(1, len(hops) + 1)] == [rounds] * len(hops)


@given(hop_delays, st.booleans(), st.integers(1, 9))
def test_a_black_hole_ends_the_search(hops: list[int | None], single_file: bool, silent_hops: int) -> None:
    path, schedule = Path(hops, end=None), plan(4, silent_hops=silent_hops)
    run(path, schedule, single_file=single_file)
    assert schedule.ending is Ending.SILENT
    assert sum(path.sent.values()) <= 4 * len(hops) + silent_hops + 3
    assert max(path.sent) <= schedule.farthest_answer + silent_hops


def test_answers_that_come_at_once_let_no_probe_overshoot() -> None:
    path = Path([1 * MS] * 5)
    run(path, plan(1))
    assert dict(path.sent) == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}


def test_a_round_is_spread_over_its_interval() -> None:
    path = Path([1 * MS] * 4)
    run(path, plan(2))
    assert path.when[4:] == [(SECOND + quarter * SECOND // 4, quarter + 1) for quarter in range(4)]


def test_a_host_that_refuses_is_the_end() -> None:
    path, schedule = Path([1, 1, 1], end=AnswerKind.UNREACHABLE), plan()
    run(path, schedule)
    assert (schedule.ending, schedule.last_ttl) == (Ending.UNREACHABLE, 3)


@pytest.mark.parametrize("rounds_before", [1, 5])
@pytest.mark.parametrize(("said_of", "is_elsewhere"), [(3, True), (3, False), (2, True)])
def test_a_router_that_says_once_that_the_way_ends_hides_no_hop_and_no_host(
    rounds_before: int, said_of: int, is_elsewhere: bool
) -> None:
    path, schedule = Path([1 * MS, 1 * MS, None, 1 * MS, 1 * MS]), plan(20)
    said: list[int] = []
    begin = schedule._begin_round

    def say(now_ns: int) -> None:
        if schedule.rounds_sent == rounds_before and not said:
            said.append(said_of)
            schedule.answered(said_of, AnswerKind.UNREACHABLE, now_ns, is_elsewhere=is_elsewhere)
        begin(now_ns)

    schedule._begin_round = say  # type: ignore[method-assign]
    run(path, schedule)
    assert (said, schedule.ending, schedule.end_ttl) == ([said_of], Ending.REACHED, 5)
    assert path.sent[4] == path.sent[5] == 20


def test_a_dead_end_that_is_said_again_is_asked_no_farther() -> None:
    path, schedule = Path([1 * MS] * 3, end=AnswerKind.UNREACHABLE), plan(20)
    run(path, schedule)
    assert dict(path.sent) == {1: 20, 2: 20, 3: 20}


def test_a_way_that_opens_behind_a_dead_end_is_found_though_the_next_hop_is_silent() -> None:
    path, schedule = Path([1 * MS, 1 * MS, 1 * MS], end=AnswerKind.UNREACHABLE), plan(40)
    begin = schedule._begin_round

    def open_it(now_ns: int) -> None:
        if schedule.rounds_sent == 10:
            assert schedule.ending is Ending.UNREACHABLE
            path.hops, path.end = [1 * MS, 1 * MS, None, None, 1 * MS], AnswerKind.REACHED
        begin(now_ns)

    schedule._begin_round = open_it  # type: ignore[method-assign]
    run(path, schedule)
    assert (schedule.ending, schedule.end_ttl) == (Ending.REACHED, 5)


def test_the_greatest_distance_is_kept() -> None:
    path, schedule = Path([1] * 20), plan(max_hops=7)
    run(path, schedule)
    assert schedule.ending is Ending.TOO_LONG
    assert max(path.sent) == 7


@pytest.mark.parametrize(("before", "after"), [(3, 6), (6, 3)])
def test_a_path_that_changes_its_length_is_found_anew(before: int, after: int) -> None:
    path, schedule = Path([1] * before), plan(20)
    answered = schedule.answered

    def change(ttl: int, kind: AnswerKind, now_ns: int, *, is_elsewhere: bool = False) -> None:
        if schedule.rounds_sent == 5:
            path.hops = [1] * after
        answered(ttl, path.kind(ttl), now_ns)

    schedule.answered = change  # type: ignore[method-assign]
    run(path, schedule)
    assert (schedule.ending, schedule.end_ttl) == (Ending.REACHED, after)


def test_a_host_that_falls_behind_does_not_catch_up_in_a_burst() -> None:
    schedule = plan(None)
    for ttl, kind in ((1, AnswerKind.PASSING), (2, AnswerKind.PASSING), (3, AnswerKind.REACHED)):
        assert schedule.take(0, is_waiting=False) == ttl
        schedule.answered(ttl, kind, 0)
    schedule.take(0, is_waiting=False)  # the search is over
    late_ns = 100 * SECOND
    assert [schedule.take(late_ns, is_waiting=False) for _ in range(3)] == [1, 2, None]
    assert schedule.wake_ns() == late_ns + SECOND // 3

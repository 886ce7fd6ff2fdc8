"""Delta debugging: the smallest set that still fails, within limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from underlay.sim._shrink import shrink


@given(st.integers(0, 30).flatmap(lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size), max_size=4))))
def test_what_is_needed_is_found_and_no_more(case: tuple[int, set[int]]) -> None:
    size, needed = case
    shrunk = shrink(range(size + 1), lambda some: needed <= set(some), most_runs=10_000)
    assert shrunk.is_minimal and set(shrunk.needed) == needed


def test_none_is_needed_where_it_fails_without_any() -> None:
    assert shrink(range(20), lambda some: True).needed == ()
    assert shrink((), lambda some: True).runs == 0


def test_one_of_twenty_is_found_in_a_few_runs() -> None:
    for number in range(20):
        shrunk = shrink(range(20), lambda some, number=number: number in some)  # type: ignore[misc]
        assert shrunk.needed == (number,) and shrunk.runs <= 12


def test_no_question_is_asked_twice() -> None:
    asked: list[tuple[int, ...]] = []

    def fails(some: tuple[int, ...]) -> bool:
        asked.append(some)
        return {3, 11, 17} <= set(some)

    shrunk = shrink(range(20), fails)
    assert len(set(asked)) == len(asked) == shrunk.runs


def test_it_stops_when_it_has_run_often_enough_or_for_long_enough() -> None:
    stopped = shrink(range(64), lambda some: 5 in some, most_runs=4)
    assert (stopped.runs, stopped.is_minimal) == (4, False) and 5 in stopped.needed
    late = shrink(range(64), lambda some: 5 in some, may_go_on=lambda: False)
    assert (late.runs, late.needed, late.is_minimal) == (0, tuple(range(64)), False)

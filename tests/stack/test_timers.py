"""Deadlines come due in their order, each once, and those taken back never."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from underlay.stack._timers import Timers


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 20))), max_size=300))
def test_timers_behave_as_a_dictionary_of_deadlines(steps: list[tuple[int, int | None]]) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, float] = {}
    for key, deadline in steps:
        if deadline is None:
            timers.cancel(key)
            model.pop(key, None)
        else:
            timers.schedule(key, float(deadline))
            model[key] = float(deadline)
        assert timers.next_deadline() == min(model.values(), default=None)
        assert len(timers) == len(model)
    due = timers.due(10.0)
    assert sorted(due) == sorted(key for key, when in model.items() if when <= 10.0)
    assert [model[key] for key in due] == sorted(model[key] for key in due)
    assert timers.due(10.0) == []
    assert timers.next_deadline() == min((when for when in model.values() if when > 10.0), default=None)


def test_a_deadline_moved_a_million_times_does_not_fill_the_memory() -> None:
    timers: Timers[str] = Timers()
    for moved in range(10_000):
        timers.schedule("rto", float(moved))
    assert len(timers.heap) < 200
    assert timers.due(1e9) == ["rto"]

"""The life of a job as a table: no threads, no files, no clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.errors import UsageError
from underlay.workers import TRANSITIONS, Backoff, JobEvent, JobState
from underlay.workers._job_states import after_failure, after_loss, move


def test_nothing_leads_out_of_done() -> None:
    assert not [event for state, event in TRANSITIONS if state is JobState.DONE]


def test_every_event_but_the_submission_is_a_way_and_every_state_can_be_reached() -> None:
    assert {event for _, event in TRANSITIONS} == set(JobEvent) - {JobEvent.SUBMITTED}
    assert {JobState.WAITING, *TRANSITIONS.values()} == set(JobState)


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("event", JobEvent)
def test_what_is_not_in_the_table_cannot_happen(state: JobState, event: JobEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert move(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(ValueError, match=f"a job that is {state} cannot be {event}"):
            move(state, event)


@given(
    failures=st.integers(1, 10_000),
    chance=st.floats(0, 1),
    first_s=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    most_s=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
def test_a_wait_lies_between_its_whole_and_what_jitter_leaves_of_it(
    failures: int, chance: float, first_s: float, factor: float, most_s: float, jitter: float
) -> None:
    backoff = Backoff(first_s, factor, most_s, jitter)
    whole = Backoff(first_s, factor, most_s, 0).delay_s(failures, chance)
    assert 0 <= whole <= most_s
    assert whole * (1 - jitter) <= backoff.delay_s(failures, chance) <= whole


@pytest.mark.parametrize("wrong", [{"first_s": -1}, {"factor": 0.5}, {"jitter": 2}, {"most_s": float("nan")}])
def test_a_back_off_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Backoff(**wrong)


def test_a_job_is_tried_once_and_as_often_again_as_its_retries_say() -> None:
    def state(failures: int) -> JobState:
        return after_failure(failures=failures, retries=2, final=False, backoff=Backoff(), now=0, chance=0).state

    assert [state(failures) for failures in (1, 2, 3)] == [JobState.WAITING, JobState.WAITING, JobState.DEAD]


def test_a_job_that_gives_up_is_not_tried_again() -> None:
    moved = after_failure(failures=1, retries=9, final=True, backoff=Backoff(), now=0, chance=0)
    assert (moved.event, moved.state) == (JobEvent.GAVE_UP, JobState.DEAD)


def test_a_lost_job_is_due_at_once_until_it_was_lost_too_often() -> None:
    moved = after_loss(losses=3, most_losses=3, now=7.0)
    assert (moved.event, moved.state, moved.due) == (JobEvent.LOST, JobState.WAITING, 7.0)
    assert after_loss(losses=4, most_losses=3, now=7.0).event is JobEvent.ABANDONED


def test_the_page_shows_the_table_of_transitions(root: Path) -> None:
    page = (root / "docs" / "jobs.md").read_text()
    rows = "".join(f"| {state} | {event} | {to} |\n" for (state, event), to in TRANSITIONS.items())
    assert f"| from | what happens | to |\n|---|---|---|\n{rows}\n" in page

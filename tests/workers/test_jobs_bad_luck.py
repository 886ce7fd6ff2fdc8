"""Jobs in bad luck: what ends at the wrong moment, a clock that is put forward, a program that goes elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from underlay.errors import UsageError
from underlay.workers import JobEvent, Jobs, JobState, NoSuchJob

from .conftest import Day

PATIENCE_S = 30


def test_a_job_that_ends_while_its_worker_does_is_recorded(jobs: Jobs) -> None:
    awaited, asked, go_on, stop = (threading.Event() for _ in range(4))

    class SlowToTell(Future[Any]):
        """A future whose result, as the worker asks for it, takes time to bring over."""

        def result(self, timeout: float | None = None) -> Any:
            asked.set()
            go_on.wait(PATIENCE_S)
            return super().result(timeout)

        def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
            super().add_done_callback(fn)
            awaited.set()

    class Elsewhere(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future = SlowToTell()

            def run() -> None:
                awaited.wait(PATIENCE_S)  # else its end is told in the worker's own thread
                future.set_result(fn(*args, **kwargs))

            threading.Thread(target=run).start()
            return future

    receipt = jobs.submit("abs", -5)
    thread = threading.Thread(target=lambda: jobs.work(executor=Elsewhere(), stop=stop))
    thread.start()
    assert asked.wait(PATIENCE_S)
    stop.set()
    threading.Timer(0.3, go_on.set).start()  # by then a worker that looks at the wrong moment has ended
    thread.join()
    assert receipt.state is JobState.DONE


def test_a_job_that_ends_each_worker_by_what_it_raises_is_given_up(jobs: Jobs) -> None:
    @jobs.task(losses=1)
    def interrupt() -> None:
        raise KeyboardInterrupt

    receipt, other = jobs.submit(interrupt), jobs.submit("abs", -1)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            jobs.work(executor="inline", at_once=2, until_idle=True)
    assert str(receipt.job.error) == "WorkerLost: KeyboardInterrupt: it ended its worker; it was lost 2 times"
    jobs.work(executor="inline", until_idle=True)
    assert other.result(0) == 1
    assert other.job.losses == 0  # it was not begun


def test_a_clock_that_is_put_forward_does_not_have_a_worker_lose_its_own_job(tmp_path: Path, day: Day) -> None:
    again = threading.Event()
    runs = []
    with Jobs(tmp_path / "jobs.db", now=day) as jobs:

        @jobs.task
        def slow() -> int:
            runs.append(1)
            if len(runs) > 1:
                again.set()
            day.now += 1_000_000
            again.wait(0.3)  # a second try would begin in a millisecond
            return len(runs)

        receipt = jobs.submit(slow)
        done = jobs.work(at_once=2, until_idle=True)
        assert (done.succeeded, done.discarded, receipt.job.losses) == (1, 0, 0)
        assert receipt.result(0) == 1


@pytest.mark.parametrize("lease_s", [0, -1, 1e-9, float("nan"), float("inf")])
def test_a_lease_that_cannot_be_prolonged_in_time_is_refused(jobs: Jobs, lease_s: float) -> None:
    with pytest.raises(UsageError, match=r"lease_s is seconds, 0\.1 or more, not"):
        jobs.work(lease_s=lease_s, until_idle=True)


def test_a_database_stays_where_it_is_when_the_program_goes_to_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with Jobs("jobs.db") as jobs:
        jobs.task(abs)
        receipt = jobs.submit("abs", -6)
        monkeypatch.chdir(tmp_path / "there")
        with jobs.working():
            assert [event.event for event in receipt.events()][-1] is JobEvent.SUCCEEDED  # by a connection of its own
        jobs.store.database._close_connection()  # as before a fork, after which another one is made
        assert receipt.result(0) == 6
        with pytest.raises(NoSuchJob, match=r"^jobs\.db has no job 2"):
            jobs.job(2)
    assert list((tmp_path / "there").iterdir()) == []

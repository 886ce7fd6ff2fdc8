"""Durable jobs as a program meets them: submitting, waiting, failing, keys, leases, events."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import pytest

from underlay.errors import UsageError
from underlay.workers import (
    Backoff,
    GiveUp,
    JobCancelled,
    JobError,
    JobEvent,
    JobFailed,
    Jobs,
    JobState,
    KeyConflict,
    Limits,
    NoSuchJob,
    QueueFull,
    Receipt,
    current_job,
)
from underlay.workers._job_records import Ending, Outcome

from .conftest import Day

PATIENCE_S = 30
AT_ONCE = Backoff(first_s=0)


def process_of(word: str) -> list[object]:
    """A task that says where it runs."""
    return [word, os.getpid()]


def end_its_process(flag: str) -> str:
    """A task that kills its process the first time."""
    if not Path(flag).exists():
        Path(flag).touch()
        os._exit(1)
    return "survived"


def processes() -> Executor:
    return ProcessPoolExecutor(1, get_context("spawn"))


class Inline(Executor):
    """Runs a call where it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_a_job_outlives_who_submitted_it(tmp_path: Path) -> None:
    with Jobs(tmp_path / "jobs.db") as first:
        first.task(abs)
        number = first.submit("abs", -3).id
    with Jobs(tmp_path / "jobs.db") as second:
        second.task(abs)
        assert second.receipt(number).state is JobState.WAITING
        second.work(until_idle=True)
        assert second.receipt(number).result(0) == 3


def test_arguments_come_by_position_and_by_name_and_a_coroutine_is_run_to_its_end(jobs: Jobs) -> None:
    @jobs.task
    async def tell(*words: str, key: str) -> dict[str, object]:
        return {key: list(words)}

    receipt = jobs.submit(tell, "a", "b", kwargs={"key": "heard"})
    jobs.work(until_idle=True)
    assert receipt.result() == {"heard": ["a", "b"]}


@pytest.mark.parametrize(
    "make", [lambda: ThreadPoolExecutor(2), processes, Inline], ids=["thread", "process", "inline"]
)
def test_any_executor_runs_jobs(jobs: Jobs, make: Callable[[], Executor]) -> None:
    jobs.task(process_of)
    receipts = jobs.submit_many(process_of, [("one",), ("two",)])
    assert jobs.work(executor=make, at_once=2, until_idle=True).succeeded == 2
    for word, receipt in zip(("one", "two"), receipts, strict=True):
        said, process = cast("tuple[str, int]", receipt.result())
        assert said == word
        assert (process != os.getpid()) == (make is processes)


def test_an_executor_that_breaks_costs_its_job_a_loss_and_is_replaced(jobs: Jobs, tmp_path: Path) -> None:
    jobs.task(end_its_process)
    receipt = jobs.submit(end_its_process, str(tmp_path / "flag"))
    assert jobs.work(executor=processes, until_idle=True).lost == 1
    assert receipt.result() == "survived"
    assert (receipt.job.losses, receipt.job.failures) == (1, 0)


def test_somebody_elses_executor_is_left_running_and_its_breaking_is_told(jobs: Jobs, tmp_path: Path) -> None:
    jobs.task(end_its_process)
    with processes() as pool:
        jobs.submit("abs", -1)
        jobs.work(executor=pool, until_idle=True)
        assert pool.submit(abs, -2).result() == 2
        receipt = jobs.submit(end_its_process, str(tmp_path / "flag"))
        with pytest.raises(RuntimeError, match="terminated abruptly"):
            jobs.work(executor=pool, until_idle=True)
    assert receipt.state is JobState.WAITING  # it went back at once, not when its lease ran out


def test_a_job_that_raises_is_tried_again_and_then_is_a_dead_letter_with_its_error(jobs: Jobs) -> None:
    @jobs.task(retries=2, backoff=AT_ONCE)
    def fail(word: str) -> None:
        raise ConnectionError(f"no {word}")

    receipt = jobs.submit(fail, "route")
    assert jobs.work(until_idle=True).failed == 3
    with pytest.raises(JobFailed, match=r"job 1 \(fail\) is dead: ConnectionError: no route") as caught:
        receipt.result()
    assert caught.value.error.type == "ConnectionError"
    assert 'raise ConnectionError(f"no {word}")' in "".join(caught.value.__notes__)
    told = [event.event for event in receipt.events()]
    assert told == ["submitted", *["claimed", "failed"] * 2, "claimed", "gave up"]


def test_a_dead_letter_that_is_retried_begins_anew(jobs: Jobs) -> None:
    failures = [OSError("once")]

    @jobs.task(retries=0)
    def work() -> int:
        if failures:
            raise failures.pop()
        return 5

    receipt = jobs.submit(work)
    jobs.work(until_idle=True)
    assert receipt.state is JobState.DEAD
    jobs.retry(receipt.id)
    assert (receipt.state, receipt.job.failures) == (JobState.WAITING, 0)
    jobs.work(until_idle=True)
    assert receipt.result() == 5
    with pytest.raises(UsageError, match="job 1 is done; only a dead or cancelled job"):
        jobs.retry(receipt.id)


def test_a_task_that_gives_up_is_dead_at_once(jobs: Jobs) -> None:
    @jobs.task(retries=9)
    def work() -> None:
        raise GiveUp("the account is closed")

    receipt = jobs.submit(work)
    assert jobs.work(until_idle=True).failed == 1
    with pytest.raises(JobFailed, match="the account is closed"):
        receipt.result()


def test_a_failed_job_waits_for_its_back_off(tmp_path: Path, day: Day) -> None:
    with Jobs(tmp_path / "jobs.db", now=day, chance=lambda: 1.0) as jobs:

        @jobs.task(backoff=Backoff(first_s=10, jitter=0.5))
        def fail() -> None:
            raise OSError

        receipt = jobs.submit(fail, delay_s=60)
        assert receipt.job.due_at == day.now + 60
        assert not jobs.store.has_work(["fail"], day.now + 59)
        assert jobs.store.has_work(["fail"], day.now + 60)
        with jobs.store.transaction() as connection:
            (claim,) = jobs.store.claim(connection, "w", ["fail"], 5, day.now + 60, lease_s=30)
            error = Outcome(Ending.ERROR, error=JobError("OSError", ""))
            jobs.store.record(connection, claim, error, day.now + 61, chance=1.0)
        assert receipt.job.due_at == day.now + 61 + 5


def test_the_same_key_is_the_same_job(jobs: Jobs) -> None:
    first = jobs.submit("abs", -1, key="order-17")
    assert jobs.submit("abs", -1, key="order-17") == first
    jobs.work(until_idle=True)
    assert jobs.submit("abs", -1, key="order-17").result(0) == 1
    assert jobs.statistics().done == 1
    with pytest.raises(KeyConflict, match=r"the key 'order-17' belongs to job 1 \(abs\)"):
        jobs.submit("abs", -2, key="order-17")


def test_a_task_knows_its_job_so_that_it_can_tell_the_world_who_acts(jobs: Jobs) -> None:
    @jobs.task
    def who() -> list[object]:
        job = current_job()
        return [job.id, job.claim, job.key]

    receipt = jobs.submit(who, key="k")
    jobs.work(until_idle=True)
    assert receipt.result() == [receipt.id, 1, "k"]
    with pytest.raises(UsageError, match="no job runs here"):
        current_job()


def test_a_silent_workers_job_goes_to_another_and_only_the_newest_claim_counts(tmp_path: Path, day: Day) -> None:
    with Jobs(tmp_path / "jobs.db", now=day) as jobs:
        jobs.task(abs)
        receipt = jobs.submit("abs", -1)
        store = jobs.store
        with store.transaction() as connection:
            (old,) = store.claim(connection, "old", ["abs"], 5, day.now, lease_s=30)
            assert store.expire(connection, day.now + 30) == 0
            assert store.renew(connection, [old], day.now + 30, lease_s=30) == []
            assert store.expire(connection, day.now + 60) == 0
            assert store.expire(connection, day.now + 61) == 1
            (new,) = store.claim(connection, "new", ["abs"], 5, day.now + 61, lease_s=30)
            assert store.renew(connection, [old, new], day.now + 62, lease_s=30) == [old]
            assert not store.record(connection, old, Outcome(Ending.RESULT, b'"old"'), day.now + 62, chance=0)
            assert store.record(connection, new, Outcome(Ending.RESULT, b'"new"'), day.now + 63, chance=0)
            assert not store.record(connection, new, Outcome(Ending.RESULT, b'"twice"'), day.now + 64, chance=0)
        assert receipt.result(0) == "new"
        assert receipt.job.losses == 1


def test_a_result_that_is_recorded_cannot_be_changed_by_any_statement(jobs: Jobs) -> None:
    jobs.submit("abs", -1)
    jobs.work(until_idle=True)
    with pytest.raises(sqlite3.IntegrityError, match="a job has one result"), jobs.store.transaction() as connection:
        connection.execute("UPDATE jobs SET result = '2'")


def test_a_lease_is_prolonged_while_its_job_runs(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    with Jobs(tmp_path / "jobs.db") as jobs, Jobs(tmp_path / "jobs.db") as other:

        @jobs.task
        def slow() -> str:
            begun.set()
            go_on.wait(PATIENCE_S)
            return "done"

        other.task(slow)
        receipt = jobs.submit(slow)
        with jobs.working(lease_s=0.3), other.working(lease_s=0.3):
            assert begun.wait(PATIENCE_S)
            first = jobs.store.database
            with first.reading() as connection:
                before = connection.execute("SELECT lease_until FROM jobs").fetchone()[0]
            for _ in range(200):  # until it was prolonged, well beyond its first length
                with first.reading() as connection:
                    after = connection.execute("SELECT lease_until FROM jobs").fetchone()[0]
                if after > before + 0.6:
                    break
                threading.Event().wait(0.05)
            go_on.set()
            assert receipt.result(PATIENCE_S) == "done"
        assert after > before + 0.6
        assert receipt.job.claims == 1


def test_a_worker_that_is_stopped_gives_back_what_does_not_end_in_time(jobs: Jobs) -> None:
    begun, go_on, stop = threading.Event(), threading.Event(), threading.Event()

    @jobs.task
    def slow() -> None:
        begun.set()
        go_on.wait(PATIENCE_S)

    receipt = jobs.submit(slow)
    told = []
    thread = threading.Thread(target=lambda: told.append(jobs.work(stop=stop, drain_s=0.05)))
    thread.start()
    assert begun.wait(PATIENCE_S)
    stop.set()
    thread.join()
    go_on.set()
    assert told[0].released == 1
    assert receipt.state is JobState.WAITING
    assert (receipt.job.losses, receipt.job.failures) == (0, 0)


def test_a_result_is_waited_for_polled_or_brought_by_a_callback(jobs: Jobs) -> None:
    called: list[Receipt] = []
    heard = threading.Event()
    receipt = jobs.submit("abs", -8)
    with pytest.raises(TimeoutError, match=r"job 1 \(abs\) is waiting after 0 s"):
        receipt.result(timeout_s=0)

    def callback(receipt: Receipt) -> None:
        called.append(receipt)
        heard.set()

    receipt.add_done_callback(callback)
    with jobs.working():
        assert receipt.result(PATIENCE_S) == 8
    assert heard.wait(PATIENCE_S)
    receipt.add_done_callback(called.append)
    assert called == [receipt, receipt]


def test_a_callback_that_raises_is_logged_and_harms_no_other(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    heard, logged = threading.Event(), threading.Event()

    def note(_: logging.LogRecord) -> bool:
        logged.set()
        return True

    one, two = jobs.submit_many("abs", [(1,), (2,)])
    one.add_done_callback(lambda receipt: 1 / 0)
    two.add_done_callback(lambda receipt: heard.set())
    caplog.handler.addFilter(note)
    jobs.work(until_idle=True)
    assert heard.wait(PATIENCE_S) and logged.wait(PATIENCE_S)
    while not caplog.text:
        time.sleep(0.01)  # it is between the filter and the text
    assert "a callback of job 1 raised" in caplog.text


def test_a_stream_of_events_goes_on_after_the_last_one_that_was_seen(jobs: Jobs) -> None:
    receipt = jobs.submit("abs", -1)
    stream = receipt.events()
    first = next(stream)
    assert first.event is JobEvent.SUBMITTED
    jobs.work(until_idle=True)
    rest = [event.event for event in receipt.events(after=first.id)]
    assert rest == [JobEvent.CLAIMED, JobEvent.SUCCEEDED]
    assert [event.event for event in stream] == rest
    assert [event.state for event in receipt.events(after=10**6)] == []


def test_a_stream_of_all_jobs_tells_what_happens_from_now_on(jobs: Jobs) -> None:
    jobs.submit("abs", -1)
    stream = jobs.events(timeout_s=PATIENCE_S)
    heard: list[int] = []
    ready = threading.Event()

    def listen() -> None:
        ready.set()
        for event in stream:
            heard.append(event.job)
            if event.state.is_final:
                return

    last = jobs.store.last_event()
    stream = jobs.events(after=last, timeout_s=PATIENCE_S)
    thread = threading.Thread(target=listen)
    thread.start()
    assert ready.wait(PATIENCE_S)
    jobs.work(until_idle=True)
    thread.join()
    assert heard == [1, 1]


def test_events_beyond_the_limit_are_dropped_and_counted(tmp_path: Path) -> None:
    with Jobs(tmp_path / "jobs.db", limits=Limits(events=4)) as jobs:
        jobs.task(abs)
        jobs.submit_many("abs", [(1,), (2,), (3,)])
        jobs.work(until_idle=True)
        told = jobs.statistics()
        assert (told.events_kept, told.events_dropped) == (4, 5)


def test_a_waiting_job_can_be_taken_back_and_tried_again(jobs: Jobs) -> None:
    receipt = jobs.submit("abs", -1)
    assert receipt.cancel()
    assert not receipt.cancel()
    with pytest.raises(JobCancelled, match="was cancelled"):
        receipt.result()
    assert jobs.work(until_idle=True).succeeded == 0
    jobs.retry(receipt.id)
    jobs.work(until_idle=True)
    assert receipt.result() == 1


def test_a_full_queue_refuses_and_keys_that_are_known_are_no_new_jobs(tmp_path: Path) -> None:
    with Jobs(tmp_path / "jobs.db", limits=Limits(waiting=2)) as jobs:
        jobs.task(abs)
        first = jobs.submit("abs", 1, key="one")
        jobs.submit("abs", 2)
        with pytest.raises(QueueFull, match=r"2 jobs wait in .* already"):
            jobs.submit("abs", 3)
        assert jobs.submit("abs", 1, key="one") == first


def test_a_purged_job_is_gone_and_its_number_is_never_used_again(jobs: Jobs) -> None:
    receipt = jobs.submit("abs", -1, key="k")
    jobs.work(until_idle=True)
    assert jobs.purge(older_than_s=3600) == 0
    assert jobs.purge(older_than_s=-1) == 1
    with pytest.raises(NoSuchJob, match="has no job 1"):
        receipt.result()
    assert jobs.submit("abs", -1, key="k").id == 2


def test_workers_remove_jobs_that_were_done_long_ago(tmp_path: Path, day: Day) -> None:
    with Jobs(tmp_path / "jobs.db", now=day, limits=Limits(keep_s=100)) as jobs:
        jobs.task(abs)
        jobs.submit("abs", 1)
        jobs.work(until_idle=True)
        day.now += 99
        jobs.work(until_idle=True)
        assert jobs.statistics().done == 1
        day.now += 2
        jobs.work(until_idle=True)
        assert jobs.statistics().done == 0


def test_jobs_of_another_program_wait_for_it_and_a_worker_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Jobs(tmp_path / "jobs.db") as jobs, Jobs(tmp_path / "jobs.db") as other:
        jobs.task(abs)
        other.task(len)
        receipt = jobs.submit("abs", -1)
        assert other.work(until_idle=True).succeeded == 0
        assert "wait for the task 'abs', which this worker has not registered" in caplog.text
        assert receipt.state is JobState.WAITING


def test_jobs_are_begun_in_the_order_in_which_they_are_due(jobs: Jobs) -> None:
    seen = []
    jobs.task(name="a")(lambda number: seen.append(number))
    jobs.task(name="b")(lambda number: seen.append(number))
    for number in range(10):
        jobs.submit("ab"[number % 2], number)
    jobs.work(until_idle=True)
    assert seen == list(range(10))


def _submit_in_a_child(jobs: Jobs, number: int) -> None:
    os._exit(0 if jobs.submit("abs", -number, key=f"child {number}").result(PATIENCE_S) == number else 1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_uses_the_jobs_of_its_parent_whatever_the_parent_was_writing(jobs: Jobs) -> None:
    """A child that is forked inside a transaction of another thread waited for its own lock."""
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            jobs.submit("abs", -1)

    writer = threading.Thread(target=write)
    writer.start()
    with jobs.working(at_once=4):
        children = [get_context("fork").Process(target=_submit_in_a_child, args=(jobs, number)) for number in range(8)]
        for child in children:
            child.start()
        for child in children:
            child.join(PATIENCE_S)
        stop.set()
        writer.join()
        assert [child.exitcode for child in children] == [0] * len(children)
    assert jobs.submit("abs", -5, key="child 5").result() == 5


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_what_a_forked_child_submits_stays_when_its_parent_closes(jobs: Jobs) -> None:
    """SQLite's last connection removes the log: a child without a lock of its own would write into a removed one."""
    jobs.submit("abs", -1)
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        jobs.submit("abs", -2, key="before")
        os.read(hear, 1)
        jobs.submit("abs", -3, key="after")
        os._exit(0)
    while jobs.statistics().waiting < 2:
        threading.Event().wait(0.01)
    jobs.close()
    os.write(say, b"x")
    os.close(say)
    assert os.waitpid(child, 0)[1] == 0
    os.close(hear)
    with Jobs(jobs.path) as again:
        assert [job.key for job in again.newest()] == ["after", "before", None]


def test_many_who_make_the_database_at_once_all_get_it(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"

    def submit(number: int) -> int:
        with Jobs(path) as jobs:
            jobs.task(abs)
            return jobs.submit("abs", number).id

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(submit, range(24))) == list(range(1, 25))


def test_who_waits_when_the_jobs_are_closed_is_told(jobs: Jobs) -> None:
    receipt = jobs.submit("abs", -1)
    failures: list[Exception] = []

    def wait() -> None:
        try:
            receipt.result()
        except UsageError as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not jobs.watch._bells:
        threading.Event().wait(0.01)
    jobs.close()
    thread.join(PATIENCE_S)
    assert "are closed" in str(failures[0])


def test_the_order_of_named_arguments_makes_no_other_request(jobs: Jobs) -> None:
    jobs.task(name="take")(lambda **named: sorted(named))
    first = jobs.submit("take", kwargs={"a": 1, "b": 2}, key="k")
    assert jobs.submit("take", kwargs={"b": 2, "a": 1}, key="k") == first

"""Jobs from asyncio, on more than one loop: nothing blocks the loop, and what many submit is written together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import uvloop

import underlay
from underlay.errors import UnderlayError, UsageError
from underlay.workers import JobCancelled, JobFailed, Jobs, JobState, KeyConflict
from underlay.workers._job_records import NewJob

PATIENCE_S = 30

loops = pytest.mark.parametrize(
    "loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop, underlay.loop.epoll], ids=["asyncio", "uvloop", "epoll"]
)


def run(loop: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], object]) -> object:
    async def bounded() -> object:
        async with asyncio.timeout(PATIENCE_S):
            return await main()  # type: ignore[misc]

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(bounded())


@loops
def test_results_are_awaited(jobs: Jobs, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> list[object]:
        receipts = await asyncio.gather(*(jobs.aio.submit("abs", -number) for number in range(50)))
        return await asyncio.gather(*(receipt.aio.result() for receipt in receipts))

    with jobs.working(at_once=4):
        assert run(loop, main) == list(range(50))


@loops
def test_a_stream_tells_what_happened_and_what_happens(
    jobs: Jobs, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> list[str]:
        receipt = await jobs.aio.submit("abs", -1)
        told = []
        with jobs.working():
            async for event in receipt.aio.events():
                told.append(str(event.event))
        assert [str(event.event) async for event in receipt.aio.events(after=1)] == told[1:]
        return told

    assert run(loop, main) == ["submitted", "claimed", "succeeded"]


def test_closed_jobs_are_refused_in_one_sentence_also_to_who_waits(jobs: Jobs) -> None:
    async def main() -> None:
        receipt = await jobs.aio.submit("abs", -1)
        waiting = asyncio.ensure_future(receipt.aio.result())
        await receipt.aio.state()  # by then it is listening: the thread is asked in turn
        jobs.close()
        for asked in (waiting, jobs.aio.submit("abs", -2), receipt.aio.cancel(), jobs.aio.receipt(1)):
            with pytest.raises(UsageError, match=r"the jobs of .* are closed"):
                await asked

    run(asyncio.SelectorEventLoop, main)


def test_a_stream_that_is_left_leaves_nothing_behind(jobs: Jobs) -> None:
    async def main() -> None:
        receipt = await jobs.aio.submit("abs", -1)
        stream = receipt.aio.events(after=10)

        async def listen() -> None:
            async for _ in stream:
                pass

        listening = asyncio.create_task(listen())
        while not jobs.watch._bells:
            await asyncio.sleep(0.01)
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        assert not jobs.watch._bells

    run(asyncio.SelectorEventLoop, main)


def test_a_waiting_task_that_is_cancelled_leaves_the_job_alone(jobs: Jobs) -> None:
    async def main() -> None:
        receipt = await jobs.aio.submit("abs", -1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await receipt.aio.result()
        assert await receipt.aio.state() is JobState.WAITING
        assert not jobs.watch._bells

    run(asyncio.SelectorEventLoop, main)


def test_refusals_come_to_who_asked_and_to_no_other(jobs: Jobs) -> None:
    async def main() -> None:
        told = await asyncio.gather(
            *(jobs.aio.submit("abs", number, key="one") for number in (1, 1, 2)), return_exceptions=True
        )
        assert told[0] == told[1]
        assert isinstance(told[2], KeyConflict)
        with pytest.raises(UsageError, match="no task is called"):
            await jobs.aio.submit("sba")

    run(asyncio.SelectorEventLoop, main)


def test_how_a_job_ended_is_raised(jobs: Jobs) -> None:
    @jobs.task(retries=0)
    def fail() -> None:
        raise OSError("no")

    async def main() -> None:
        failing, waiting = await jobs.aio.submit(fail), await jobs.aio.submit("abs", 1, delay_s=1000)
        with jobs.working(), pytest.raises(JobFailed, match="OSError: no"):
            await failing.aio.result()
        assert await waiting.aio.cancel()
        with pytest.raises(JobCancelled):
            await waiting.aio.result()

    run(asyncio.SelectorEventLoop, main)


def test_what_many_submit_at_once_takes_few_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Jobs(tmp_path / "jobs.db") as jobs:
        jobs.task(abs)
        writes = []
        submit = jobs.store.submit

        def counted(new: Sequence[NewJob], now: float) -> list[int | UnderlayError]:
            writes.append(len(new))
            return submit(new, now)

        monkeypatch.setattr(jobs.store, "submit", counted)

        async def main() -> None:
            await asyncio.gather(*(jobs.aio.submit("abs", number) for number in range(200)))

        run(asyncio.SelectorEventLoop, main)
        assert sum(writes) == 200
        assert len(writes) < 100

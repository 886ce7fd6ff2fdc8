"""Back-pressure: whoever submits more than there is room for waits, in a thread or in a coroutine."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from tests.conformance.executor_subjects import PATIENCE_S

from underlay import workers
from underlay.errors import UsageError


class Counted(ThreadPoolExecutor):
    """A pool that knows how many calls were pending at most."""

    pending = 0
    most = 0

    def submit(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        future = super().submit(*args, **kwargs)
        with self._shutdown_lock:
            self.pending += 1
            self.most = max(self.most, self.pending)
        future.add_done_callback(self._one_less)
        return future

    def _one_less(self, done: object) -> None:
        with self._shutdown_lock:
            self.pending -= 1


@pytest.fixture
def pool() -> Counted:
    return Counted(2)


def test_no_more_calls_are_pending_than_the_limit_says(pool: Counted) -> None:
    with workers.bounded(pool, limit=3) as bounded:
        assert list(bounded.map(abs, range(-200, 0))) == list(range(200, 0, -1))
    assert pool.most <= 3


def test_submit_waits_for_room(pool: Counted) -> None:
    gate = threading.Event()
    with workers.bounded(pool, limit=1) as bounded:
        first = bounded.submit(gate.wait, PATIENCE_S)
        submitted = threading.Event()

        def second() -> None:
            bounded.submit(abs, -1)
            submitted.set()

        thread = threading.Thread(target=second)
        thread.start()
        assert not submitted.wait(0.05)
        gate.set()
        assert first.result(PATIENCE_S)
        thread.join(PATIENCE_S)
        assert submitted.is_set()


def test_a_coroutine_waits_for_room_and_its_loop_goes_on(pool: Counted) -> None:
    async def main() -> list[int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counter = asyncio.create_task(count())
        futures = [await bounded.aio_submit(abs, -number) for number in range(20)]
        counter.cancel()
        assert turns > 0
        return [await each for each in futures]

    with workers.bounded(pool, limit=2) as bounded:
        assert asyncio.run(main()) == list(range(20))
    assert pool.most <= 2


def test_a_coroutine_that_stops_waiting_takes_no_room(pool: Counted) -> None:
    gate = threading.Event()

    async def main() -> int:
        first = await bounded.aio_submit(gate.wait, PATIENCE_S)
        waiting = [asyncio.create_task(bounded.aio_submit(abs, -1)) for _ in range(3)]
        await asyncio.sleep(0.01)
        for each in waiting[:2]:
            each.cancel()
        gate.set()
        assert await first
        result = await (await waiting[2])
        await asyncio.gather(*waiting, return_exceptions=True)
        return result + await (await bounded.aio_submit(abs, -2))

    with workers.bounded(pool, limit=1) as bounded:
        assert asyncio.run(main()) == 3


def test_a_cancelled_call_gives_its_room_back(pool: Counted) -> None:
    gate = threading.Event()
    with workers.bounded(pool, limit=3) as bounded:
        futures = [bounded.submit(gate.wait, PATIENCE_S) for _ in range(3)]
        assert futures[2].cancel()
        last = bounded.submit(abs, -1)
        gate.set()
        assert last.result(PATIENCE_S) == 1


def test_who_waits_for_room_when_the_executor_is_shut_down_is_refused(pool: Counted) -> None:
    gate = threading.Event()
    bounded = workers.bounded(pool, limit=1)
    bounded.submit(gate.wait, PATIENCE_S)
    errors: list[BaseException] = []

    def submit() -> None:
        try:
            bounded.submit(abs, -1)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    bounded.shutdown(wait=False)
    gate.set()
    thread.join(PATIENCE_S)
    assert [str(each) for each in errors] == ["cannot schedule new futures after shutdown"]


def test_a_call_that_is_refused_gives_its_room_back(pool: Counted) -> None:
    bounded = workers.bounded(pool, limit=1)
    bounded.shutdown()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="after shutdown"):
            bounded.submit(abs, -1)


def test_a_limit_below_one_is_refused(pool: Executor) -> None:
    with pytest.raises(UsageError, match="room for 0 calls"):
        workers.bounded(pool, 0)


@pytest.mark.parametrize("limit", [1.5, float("nan"), float("inf"), "2", None])
def test_a_limit_that_is_no_whole_number_is_refused(pool: Executor, limit: Any) -> None:
    with pytest.raises(UsageError, match="has room for a number of calls, not"):
        workers.bounded(pool, limit)


def test_calls_elsewhere_are_bounded_too() -> None:
    pytest.importorskip("cloudpickle", reason="cloudpickle is not installed; remedy: pip install 'underlay[workers]'")
    with workers.bounded(workers.executor("process", max_workers=1), limit=2) as bounded:
        assert [each.result(PATIENCE_S) for each in [bounded.submit(abs, -number) for number in range(10)]] == [
            *range(10)
        ]

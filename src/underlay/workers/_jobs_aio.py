"""The asyncio face of jobs: the same calls, awaited, on any event loop.

The database is asked in a thread of its own, one call at a time, since a write waits for the disk. What many tasks
submit meanwhile is written together. This file knows that thread and the loop's futures. It refuses to know SQL.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import UnderlayError, UsageError
from ._job_records import Job, NewJob, StoredEvent
from ._job_states import Backoff, JobState
from ._receipt import LOOK_AGAIN_S, Receipt

if TYPE_CHECKING:
    from ._jobs import Jobs

__all__ = ["AsyncJobs", "AsyncReceipt"]

_T = TypeVar("_T")


class AsyncJobs:
    """What `Jobs` does, awaited.

    >>> import asyncio, tempfile
    >>> from underlay import workers
    >>> async def main(path):
    ...     with workers.Jobs(path) as jobs:
    ...         jobs.task(abs)
    ...         with jobs.working():
    ...             receipt = await jobs.aio.submit("abs", -7)
    ...             return await receipt.aio.result()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     asyncio.run(main(f"{folder}/jobs.db"))
    7
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._thread = ThreadPoolExecutor(1, "underlay-jobs-aio")
        self._lock = threading.Lock()
        self._closed = False
        self._submitted: deque[tuple[NewJob, Future[int]]] = deque()

    async def submit(
        self,
        task: Callable[..., Any] | str,
        /,
        *arguments: object,
        kwargs: Mapping[str, object] | None = None,
        key: str | None = None,
        delay_s: float = 0.0,
        retries: int | None = None,
        backoff: Backoff | None = None,
    ) -> Receipt:
        """Keep a job and give its receipt, as `Jobs.submit`; a call that is cancelled may have kept it."""
        new = self._jobs.new_job(
            task, arguments, kwargs=kwargs, key=key, delay_s=delay_s, retries=retries, backoff=backoff
        )
        kept: Future[int] = Future()
        with self._lock:
            if self._closed:
                raise self._is_closed()
            self._submitted.append((new, kept))
            self._thread.submit(self._write)
        return Receipt(self._jobs, await asyncio.wrap_future(kept))

    def _write(self) -> None:
        """Write all that was submitted by now; those whose write comes later find nothing left."""
        with self._lock:
            batch = list(self._submitted)
            self._submitted.clear()
        # A future that is running can't be cancelled, so each can be told.
        batch = [(new, kept) for new, kept in batch if kept.set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            told = self._jobs.store.submit([new for new, _ in batch], self._jobs.now())
        except BaseException as error:
            for _, kept in batch:
                kept.set_exception(error)
            return
        for (_, kept), each in zip(batch, told, strict=True):
            if isinstance(each, UnderlayError):
                kept.set_exception(each)
            else:
                kept.set_result(each)

    async def receipt(self, job: int) -> Receipt:
        """Give the receipt of a job once more; raises ``NoSuchJob``."""
        return await self.ask(lambda: self._jobs.receipt(job))

    async def events(self, *, after: int | None = None, job: int | None = None) -> AsyncIterator[StoredEvent]:
        """Tell what happens to all jobs, or to one, as it happens, as `Jobs.events`."""
        if after is None:
            after = await self.ask(self._jobs.store.last_event)
        async with self._listening(job) as bell:
            while True:
                bell.clear()
                events, ended = await self.ask(partial(self._jobs.news, after, job))
                for event in events:
                    yield event
                    after = event.id
                if ended:
                    return
                if not events:
                    await bell.wait(LOOK_AGAIN_S)

    async def wait(self, job: int) -> Job:
        """Wait until a job is done, dead or cancelled, and tell how it stands."""
        async with self._listening(job) as bell:
            while True:
                bell.clear()
                standing = await self.ask(lambda: self._jobs.store.job(job))
                if standing.state.is_final:
                    return standing
                await bell.wait(LOOK_AGAIN_S)
                if (failure := self._jobs.watch.failure) is not None:
                    raise failure

    async def ask(self, question: Callable[[], _T]) -> _T:
        """Call ``question`` in the thread that asks the database."""
        with self._lock:
            if self._closed:
                raise self._is_closed()
            asked = self._thread.submit(question)
        return await asyncio.wrap_future(asked)

    def _is_closed(self) -> UsageError:
        return UsageError(f"the jobs of {self._jobs.path} are closed")

    @asynccontextmanager
    async def _listening(self, job: int | None) -> AsyncIterator[_Bell]:
        bell = _Bell()
        watch = self._jobs.watch
        await self.ask(lambda: watch.subscribe(job, bell.ring))  # which may look into the database
        try:
            yield bell
        finally:
            watch.unsubscribe(job, bell.ring)

    def close(self) -> None:
        """End the thread; what was submitted is still written, or told that it isn't."""
        with self._lock:
            self._closed = True
        self._thread.shutdown()


class _Bell:
    """An event of the loop that another thread may set."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def ring(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            pass  # the loop was closed under a stream that was never ended

    def clear(self) -> None:
        self._event.clear()

    async def wait(self, most_s: float) -> None:
        try:
            async with asyncio.timeout(most_s):
                await self._event.wait()
        except TimeoutError:
            pass


class AsyncReceipt:
    """What `Receipt` does, awaited; time-outs are asyncio's own."""

    def __init__(self, jobs: Jobs, receipt: Receipt) -> None:
        self._jobs = jobs
        self.id = receipt.id

    async def job(self) -> Job:
        """How the job stands now; raises ``NoSuchJob``."""
        return await self._jobs.aio.ask(lambda: self._jobs.store.job(self.id))

    async def state(self) -> JobState:
        """The job's state now."""
        return (await self.job()).state

    async def wait(self) -> Job:
        """Wait until the job is done, dead or cancelled, and tell how it stands."""
        return await self._jobs.aio.wait(self.id)

    async def result(self) -> object:
        """Wait for the result and give it; raises as `Receipt.result` does."""
        standing = await self.wait()
        return await self._jobs.aio.ask(lambda: self._jobs.final_result(standing))

    async def cancel(self) -> bool:
        """Take the job back if it waits; False where it runs or has ended."""
        return await self._jobs.aio.ask(lambda: self._jobs.store.cancel(self.id, self._jobs.now()))

    def events(self, *, after: int = 0) -> AsyncIterator[StoredEvent]:
        """Tell what happened to the job and what happens, until it ends."""
        return self._jobs.aio.events(after=after, job=self.id)

"""The receipt of a job: what its submitter holds, to ask, to wait or to be called.

This file knows how one job is waited for. It refuses to know how it is stored or run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from ._job_records import Job, StoredEvent
from ._job_states import JobState

if TYPE_CHECKING:
    from ._jobs import Jobs
    from ._jobs_aio import AsyncReceipt

__all__ = ["Receipt"]

_log = logging.getLogger("underlay.workers.jobs")

# A job that is purged tells nobody: whoever waits looks again after this long.
LOOK_AGAIN_S: Final = 5.0


class Receipt:
    """Stands for one job, in any process: ``id`` is all there is to it. See `Jobs.submit` and `Jobs.receipt`."""

    __slots__ = ("_jobs", "id")

    def __init__(self, jobs: Jobs, number: int) -> None:
        self._jobs = jobs
        self.id = number

    @property
    def job(self) -> Job:
        """How the job stands now; raises ``NoSuchJob`` if it was purged, as all that follow do."""
        return self._jobs.store.job(self.id)

    @property
    def state(self) -> JobState:
        """The job's state now."""
        return self.job.state

    def result(self, timeout_s: float | None = None) -> object:
        """Wait for the result and give it; ``timeout_s=0`` only asks.

        Raises ``TimeoutError`` when it is not there in time, ``JobFailed`` when the job is a dead letter, and
        ``JobCancelled`` when it was taken back.
        """
        return self._jobs.final_result(self.wait(timeout_s))

    def wait(self, timeout_s: float | None = None) -> Job:
        """Wait until the job is done, dead or cancelled, and tell how it stands; raises ``TimeoutError``."""
        job = self.job
        if job.state.is_final:
            return job
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._jobs.listening(self.id) as bell:
            while True:
                bell.clear()
                job = self.job
                if job.state.is_final:
                    return job
                left = LOOK_AGAIN_S if deadline is None else min(LOOK_AGAIN_S, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError(f"job {self.id} ({job.task}) is {job.state} after {timeout_s} s")
                bell.wait(left)
                if (failure := self._jobs.watch.failure) is not None:
                    raise failure

    def cancel(self) -> bool:
        """Take the job back if it waits; False where it runs or has ended."""
        return self._jobs.store.cancel(self.id, self._jobs.now())

    def events(self, *, after: int = 0, timeout_s: float | None = None) -> Iterator[StoredEvent]:
        """Tell what happened to the job and what happens, until it is done, dead or cancelled. See `Jobs.events`."""
        return self._jobs.events(after=after, job=self.id, timeout_s=timeout_s)

    def add_done_callback(self, function: Callable[[Receipt], object]) -> None:
        """Call ``function`` with this receipt, once, when the job is done, dead or cancelled.

        It is called in a thread that waits for all jobs, or here and now if the job ended already; what it raises is
        logged. The wish is not stored: a process that ends takes it along, and asks anew by `Jobs.receipt`.
        """
        once = threading.Lock()

        def look() -> None:
            if self.state.is_final and once.acquire(blocking=False):
                self._jobs.watch.unsubscribe(self.id, ring)
                try:
                    function(self)
                except Exception:
                    _log.exception("a callback of job %d raised", self.id)

        def ring() -> None:
            try:
                look()
            except Exception:
                # The database is closed, or the job purged: there is nothing left to be called for.
                self._jobs.watch.unsubscribe(self.id, ring)
                _log.debug("job %d is not waited for any more", self.id, exc_info=True)

        self._jobs.watch.subscribe(self.id, ring)
        look()

    @property
    def aio(self) -> AsyncReceipt:
        """The same calls for asyncio, awaited."""
        from ._jobs_aio import AsyncReceipt

        return AsyncReceipt(self._jobs, self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Receipt) and (self.id, self._jobs.path) == (other.id, other._jobs.path)

    def __hash__(self) -> int:
        return hash((self.id, self._jobs.path))

    def __repr__(self) -> str:
        return f"<Receipt of job {self.id} in {self._jobs.path}>"

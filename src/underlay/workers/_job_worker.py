"""One worker: it claims jobs, has an executor run them, prolongs its leases, and records what came of them.

All that it writes in one turn is one transaction, so that the disk is waited for once. This file knows the turn.
It refuses to know SQL and what a task does.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import UsageError
from ..probe import Probe
from ._job_call import Call, CurrentJob, call
from ._job_errors import JobError, JobsBusy
from ._job_records import Claim, Ending, Outcome
from ._job_watch import Pace
from ._kinds import executor

if TYPE_CHECKING:
    from ._jobs import Jobs

__all__ = ["LEAST_LEASE_S", "Worker", "WorkerStatistics", "worker_name"]

_log = logging.getLogger("underlay.workers.jobs")

TRIED: Probe[[int, str, str]] = Probe("jobs.tried", "a worker recorded a try: job, task, how it ended")

# Two chances to prolong a lease before it runs out.
_RENEWALS: Final = 3
# A third of it is longer than the sleep between two looks (20 ms, see _job_watch.py) and a slow disk's write (5 ms): of
# a shorter one a worker would do nothing but prolong it.
LEAST_LEASE_S: Final = 0.1
# At the end, how soon a job that ended is seen without its bell.
_LOOK_S: Final = 0.02
# How often a worker looks for old jobs to remove, and for jobs that it has no function for.
_HOUSEKEEPING_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What a worker did: tries by how they ended. ``discarded`` are those whose job had gone to another worker."""

    succeeded: int = 0
    failed: int = 0
    lost: int = 0
    released: int = 0
    discarded: int = 0


def worker_name() -> str:
    """A name that no other worker has: host, process and a random part.

    >>> worker_name() != worker_name()
    True
    """
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


class Worker:
    """Runs the jobs of one database in one process, up to ``at_once`` at a time. See `Jobs.work`."""

    def __init__(
        self,
        jobs: Jobs,
        *,
        executor: Executor | Callable[[], Executor] | str | None,
        at_once: int,
        lease_s: float,
        drain_s: float,
        name: str | None = None,
    ) -> None:
        if at_once < 1:
            raise UsageError(f"at_once is a count of 1 or more, not {at_once}")
        if not LEAST_LEASE_S <= lease_s < float("inf"):
            raise UsageError(f"lease_s is seconds, {LEAST_LEASE_S} or more, not {lease_s}")
        self.name = name or worker_name()
        self._jobs = jobs
        self._store = jobs.store
        self._at_once = at_once
        self._lease_s = lease_s
        self._drain_s = drain_s
        self._given = executor
        self._executor: Executor | None = None
        self._running: dict[Future[Outcome], Claim] = {}
        self._ended: deque[tuple[Claim, Outcome]] = deque()
        self._leased_until = 0.0  # by the time of day: when the first lease of those that run ends
        self._bell = threading.Event()
        self._counts = dict.fromkeys(WorkerStatistics.__slots__, 0)
        self._warned: set[str] = set()

    # The turn.

    def run(self, stop: threading.Event, *, until_idle: bool) -> WorkerStatistics:
        """Work until ``stop`` is set, or until no job is left; then end what runs, or give it back."""
        self._executor = self._new_executor()
        renewal = time.monotonic() + self._lease_s / _RENEWALS
        housekeeping = time.monotonic()
        drained = False
        pace = Pace()
        try:
            while not stop.is_set():
                now = time.monotonic()
                if self._ended or now >= renewal or self._may_claim():
                    if self._turn(renew=now >= renewal, claim=True) and now >= renewal:
                        renewal = now + self._lease_s / _RENEWALS
                    pace.hasten()
                    continue
                if now >= housekeeping:
                    housekeeping = now + _HOUSEKEEPING_S
                    self._housekeep()
                if until_idle and not self._running and self._store.is_idle(self._jobs.tasks):
                    break
                self._bell.wait(pace.next_s())
                self._bell.clear()
            self._drain()
            drained = True
        finally:
            if not drained:
                self._give_back()
            # Threads that still run can't be ended; they must not keep an error from being told.
            self._executor.shutdown(wait=drained and not self._running, cancel_futures=True)
        return WorkerStatistics(**self._counts)

    def _may_claim(self) -> bool:
        room = len(self._running) < self._at_once
        return room and self._store.has_work(self._jobs.tasks, self._jobs.now())

    def _turn(self, *, renew: bool, claim: bool) -> bool:
        """Write all that there is to write, and begin new jobs; False where the database is busy, for later."""
        ended = list(self._ended)
        recorded: list[bool] = []
        claims: list[Claim] = []
        jobs, now = self._jobs, self._jobs.now()
        # One that ended a moment ago may still be among those that run.
        running = [each for each in list(self._running.values()) if all(each is not known for known, _ in ended)]
        room = self._at_once - len(self._running)
        # A clock that was put forward ends our leases, too: what runs here is not to be taken for lost by ourselves.
        renew = renew or (bool(running) and now > self._leased_until)
        try:
            with self._store.transaction() as connection:
                for claimed, outcome in ended:
                    recorded.append(self._store.record(connection, claimed, outcome, now, jobs.chance()))
                if renew:
                    for claimed in self._store.renew(connection, running, now, self._lease_s):
                        _log.warning("job %d (%s) went to another worker meanwhile", claimed.job, claimed.task)
                if claim:
                    self._store.expire(connection, now)
                    claims = self._store.claim(connection, self.name, jobs.tasks, room, now, self._lease_s)
                self._store.end_transaction(connection)
        except JobsBusy as error:
            _log.warning("%s; trying again", error)
            return False
        if renew or not running:
            self._leased_until = now + self._lease_s
        for (claimed, outcome), kept in zip(ended, recorded, strict=True):
            self._ended.popleft()
            self._count(claimed, outcome, kept)
        for index, claimed in enumerate(claims):
            try:
                self._begin(claimed)
            except BaseException as error:
                self._ended.append((claimed, _unbegun(error)))
                self._ended.extend((left, Outcome(Ending.RELEASED)) for left in claims[index + 1 :])
                raise
        return True

    def _count(self, claim: Claim, outcome: Outcome, kept: bool) -> None:
        match outcome.ending:
            case Ending.RESULT:
                name = "succeeded"
            case Ending.ERROR | Ending.FINAL_ERROR:
                name = "failed"
            case Ending.LOST:
                name = "lost"
            case Ending.RELEASED:
                name = "released"
        if not kept:
            name = "discarded"
            _log.warning("job %d (%s) went to another worker, this try of it is discarded", claim.job, claim.task)
        self._counts[name] += 1
        if TRIED.listeners:
            TRIED(claim.job, claim.task, name)

    # The executor.

    def _new_executor(self) -> Executor:
        given = self._given
        if given is None:
            given = "thread"
        if isinstance(given, Executor):
            return _Lent(given)
        if isinstance(given, str):
            return _of_kind(given, self._at_once)
        return given()

    def _begin(self, claim: Claim) -> None:
        jobs = self._jobs
        what = Call(
            jobs.tasks[claim.task].function,
            claim.arguments,
            CurrentJob(claim.job, claim.number, claim.key, claim.submitted_at),
            jobs.serialiser,
            jobs.limits.result_bytes,
            jobs.limits.error_bytes,
        )
        assert self._executor is not None
        try:
            future = self._executor.submit(call, what)
        except BrokenExecutor as error:
            self._mend(error)
            self._ended.append((claim, Outcome(Ending.RELEASED)))  # it was not begun
            return
        self._running[future] = claim
        future.add_done_callback(self._end)

    def _end(self, future: Future[Outcome]) -> None:
        """Take what came of a try, in whatever thread the executor says so."""
        # In this order: a worker that drains, and found it in neither, would end without what came of it.
        self._ended.append((self._running[future], self._outcome(future)))
        del self._running[future]
        self._bell.set()

    def _outcome(self, future: Future[Outcome]) -> Outcome:
        try:
            return future.result()
        except CancelledError:
            return Outcome(Ending.RELEASED)
        except BrokenExecutor:
            return Outcome(Ending.LOST)
        except BaseException as error:
            # A function that cannot be sent to where it would run, for example.
            told = JobError(type(error).__qualname__, str(error)[: self._jobs.limits.error_bytes // 4])
            return Outcome(Ending.ERROR, error=told)

    def _mend(self, error: BaseException) -> None:
        """Put a new executor in the place of one that broke, or raise where it was made by somebody else."""
        assert self._executor is not None
        if isinstance(self._executor, _Lent):
            raise error
        _log.warning("the executor broke (%s), a new one takes over", error)
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = self._new_executor()

    # The end, and what is done now and then.

    def _drain(self) -> None:
        """Let what runs end within ``drain_s``, record it, and give the rest back."""
        for future in list(self._running):
            future.cancel()
        deadline = time.monotonic() + self._drain_s
        renewal = time.monotonic()
        while self._running and time.monotonic() < deadline:
            if self._ended or time.monotonic() >= renewal:
                renewal = time.monotonic() + self._lease_s / _RENEWALS
                self._turn(renew=True, claim=False)
            self._bell.wait(_LOOK_S)
            self._bell.clear()
        while not self._release():
            pass

    def _release(self) -> bool:
        """Record what ended, and give back what still runs; False where the database is busy."""
        ended = {claim.job for claim, _ in self._ended}
        self._ended.extend(
            (claim, Outcome(Ending.RELEASED)) for claim in list(self._running.values()) if claim.job not in ended
        )
        return not self._ended or self._turn(renew=False, claim=False)

    def _give_back(self) -> None:
        """Spare the others the wait for our leases, if the database lets us: an error is on its way already."""
        try:
            self._release()
        except Exception as error:
            _log.warning("what ran here stays claimed until its lease runs out: %s", error)

    def _housekeep(self) -> None:
        try:
            self._store.prune(self._jobs.now())
            for task in self._store.waiting_tasks():
                if task not in self._jobs.tasks and task not in self._warned:
                    self._warned.add(task)
                    _log.warning(
                        "jobs of %s wait for the task %r, which this worker has not registered", self._jobs.path, task
                    )
        except JobsBusy as error:
            _log.warning("%s; trying again", error)


def _unbegun(error: BaseException) -> Outcome:
    """What came of a job whose executor raised an error instead of taking it."""
    if isinstance(error, Exception):
        return Outcome(Ending.RELEASED)
    # It came out of the job, which ran here and now: Ctrl-C, or something that the job raises each time, and that would
    # end one worker after the other if it didn't count.
    return Outcome(Ending.LOST, error=JobError(type(error).__qualname__, "it ended its worker"))


def _of_kind(kind: str, at_once: int) -> Executor:
    """Make an executor by its name."""
    return executor(kind) if kind == "inline" else executor(kind, max_workers=at_once)


class _Lent(Executor):
    """Somebody else's executor, which is not shut down at the end."""

    def __init__(self, executor: Executor) -> None:
        self.submit = executor.submit  # type: ignore[method-assign]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave it as it is."""

"""Durable jobs: `submit` gives a receipt at once, and the result arrives later, whoever is killed meanwhile.

This file knows tasks by name, receipts, and how a result is waited for. It refuses to know SQL, and how a worker works.
"""

from __future__ import annotations

import inspect
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from ..errors import UnderlayError, UsageError, nearest
from ._job_database import Database
from ._job_errors import JobCancelled, JobFailed, NotSerialisable
from ._job_records import Chance, Job, JobsStatistics, Limits, NewJob, Now, StoredEvent
from ._job_serialise import JobSerialiser, JsonSerialiser, dumps, loads
from ._job_states import Backoff, JobState
from ._job_store import Store
from ._job_watch import Watch
from ._receipt import Receipt

if TYPE_CHECKING:
    from ._job_worker import WorkerStatistics
    from ._jobs_aio import AsyncJobs

__all__ = ["Jobs", "Task"]

_F = TypeVar("_F", bound=Callable[..., Any])

# Stripe's and IETF draft-ietf-httpapi-idempotency-key-header's keys are UUIDs or shorter than 255 characters.
_LONGEST_KEY: Final = 255
_LONGEST_NAME: Final = 255
# Three more tries, as Celery's default; ten lost workers are chance, eleven are the job's own doing.
_RETRIES: Final = 3
_LOSSES: Final = 10


@dataclass(frozen=True, slots=True)
class Task:
    """A function that jobs are made of, and how often and when a job of it is tried again."""

    name: str
    function: Callable[..., Any]
    retries: int
    losses: int
    backoff: Backoff
    signature: inspect.Signature | None


class Jobs:
    """The jobs in one database, which any number of processes share.

    A job is run at least once, and its result is recorded exactly once. ``path`` is the SQLite file, made if it is not
    there; ``executor`` is where `work` runs jobs (see there). ``busy_s`` is how long to wait while another process has
    the database locked. ``now`` gives the time of day and ``chance`` numbers from 0 to 1; tests bring their own.

    Raises ``UsageError`` for a file that is no database of jobs or is of a newer version, and ``JobsUnavailable`` for
    one that cannot be opened, made or written, such as on a full disk. All methods may be called from any thread.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> jobs = Jobs(f"{folder.name}/jobs.db")
    >>> @jobs.task
    ... def double(number):
    ...     return 2 * number
    >>> receipt = jobs.submit(double, 21)
    >>> receipt.state
    <JobState.WAITING: 'waiting'>
    >>> with jobs.working():
    ...     receipt.result(timeout_s=10)
    42
    >>> jobs.close(); folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        executor: Executor | Callable[[], Executor] | str | None = None,
        limits: Limits | None = None,
        serialiser: JobSerialiser | None = None,
        busy_s: float = 10.0,
        now: Now = time.time,
        chance: Chance = random.random,
    ) -> None:
        self.path = os.fspath(path)
        if self.path in ("", ":memory:") or "\0" in self.path:
            raise UsageError(f"{self.path!r} is no file, so jobs would not outlive this process", remedy="name a file")
        self.limits = limits or Limits()
        self.executor = executor
        self.serialiser: JobSerialiser = serialiser or JsonSerialiser()
        self.now = now
        self.chance = chance
        self.tasks: dict[str, Task] = {}
        self._names: dict[Callable[..., Any], str] = {}
        self.store = Store(Database(self.path, busy_s=busy_s), self.limits)
        self._watch = Watch(self.store.database)
        self._process = os.getpid()
        self._aio: AsyncJobs | None = None

    @overload
    def task(self, function: _F, /) -> _F: ...

    @overload
    def task(
        self,
        /,
        *,
        name: str | None = ...,
        retries: int = ...,
        losses: int = ...,
        backoff: Backoff | None = ...,
    ) -> Callable[[_F], _F]: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        retries: int = _RETRIES,
        losses: int = _LOSSES,
        backoff: Backoff | None = None,
    ) -> Callable[..., Any]:
        """Register a function, plain or ``async``, as a task; it is given back as it is.

        The database keeps its ``name`` (default: the function's own), never its code. A job whose function raises is
        tried ``retries`` times more, after the waits of ``backoff``; one whose worker died, ``losses`` times more.
        Raises ``UsageError`` for a name that is taken.
        """

        def register(function: _F) -> _F:
            called = name if name is not None else getattr(function, "__qualname__", "")
            called = called.rpartition("<locals>.")[2]
            if not 0 < len(called) <= _LONGEST_NAME or not called.isprintable():
                raise UsageError(f"{called!r:.80} is no name for a task", remedy="give it a short name=…")
            if called in self.tasks:
                raise UsageError(f"two tasks are called {called!r}", remedy="give one of them another name=…")
            for word, count in (("retries", retries), ("losses", losses)):
                # SQLite's integers have 64 bits; 32 are as good as without end.
                if not 0 <= count < 1 << 32:
                    raise UsageError(f"{word} is a count of 0 or more, not {count}")
            self.tasks[called] = Task(called, function, retries, losses, backoff or Backoff(), _signature(function))
            self._names[function] = called
            return function

        return register if function is None else register(function)

    # Whoever submits.

    def submit(
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
        """Keep a job and give its receipt; when this returns the job is on the disk.

        ``task`` is a registered function or its name, called with ``arguments`` and ``kwargs``. A job with the same
        ``key`` is not made twice: the receipt is the first one's. ``delay_s`` is how long to wait before the first try;
        ``retries`` and ``backoff`` stand in for the task's.

        Raises ``UsageError`` for an unknown task and for arguments with which the function here cannot be called,
        ``NotSerialisable`` for arguments that the serialiser refuses or that
        are too long, ``KeyConflict``, ``QueueFull``, and ``JobsUnavailable`` where nothing could be recorded.
        """
        new = self.new_job(task, arguments, kwargs=kwargs, key=key, delay_s=delay_s, retries=retries, backoff=backoff)
        return self.receipts(self.store.submit([new], self.now()))[0]

    def submit_many(
        self, task: Callable[..., Any] | str, /, arguments: Iterable[Sequence[object]], *, delay_s: float = 0.0
    ) -> list[Receipt]:
        """Keep a job for each tuple of arguments, all in one write to the disk, and give their receipts in order.

        Raises as `submit` does; where one cannot be kept, none is, except beyond ``Limits.waiting``.
        """
        new = [self.new_job(task, tuple(each), delay_s=delay_s) for each in arguments]
        return self.receipts(self.store.submit(new, self.now()))

    def new_job(
        self,
        task: Callable[..., Any] | str,
        arguments: Sequence[object],
        *,
        kwargs: Mapping[str, object] | None = None,
        key: str | None = None,
        delay_s: float = 0.0,
        retries: int | None = None,
        backoff: Backoff | None = None,
    ) -> NewJob:
        """Check what is to be submitted; for the faces that store it."""
        known = self._task(task)
        if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isprintable()):
            raise UsageError(f"{key!r:.80} is no key", remedy=f"a key has 1 to {_LONGEST_KEY} printable characters")
        if not 0 <= delay_s < float("inf"):
            raise UsageError(f"delay_s is seconds, 0 or more, not {delay_s}")
        if retries is not None and not 0 <= retries < 1 << 32:
            raise UsageError(f"retries is a count of 0 or more, not {retries}")
        _check_call(known, arguments, kwargs or {})
        data = self._serialised(known.name, arguments, kwargs or {})
        return NewJob(
            known.name,
            data,
            key,
            delay_s,
            known.retries if retries is None else retries,
            known.losses,
            backoff or known.backoff,
        )

    def _serialised(self, task: str, arguments: Sequence[object], kwargs: Mapping[str, object]) -> bytes:
        most_bytes = self.limits.arguments_bytes
        # The order in which a call names its arguments makes no other job of it, where a key is given.
        ordered = {name: kwargs[name] for name in sorted(kwargs)}
        try:
            return dumps(self.serialiser, [list(arguments), ordered], f"the arguments of {task}", most_bytes)
        except NotSerialisable:
            # Once more, one by one, to say which it is.
            named = {**{str(place): each for place, each in enumerate(arguments, 1)}, **kwargs}
            for name, each in named.items():
                dumps(self.serialiser, each, f"argument {name} of {task}", most_bytes)
            raise

    def receipts(self, told: Iterable[int | UnderlayError]) -> list[Receipt]:
        """Make receipts of what the store said, or raise the first refusal."""
        numbers = []
        for each in told:
            if isinstance(each, UnderlayError):
                raise each
            numbers.append(each)
        return [Receipt(self, number) for number in numbers]

    def receipt(self, job: int) -> Receipt:
        """Give the receipt of a job once more, in another process for example; raises ``NoSuchJob``."""
        self.store.job(job)
        return Receipt(self, job)

    def _task(self, task: Callable[..., Any] | str) -> Task:
        name = task if isinstance(task, str) else self._names.get(task)
        if name is None:
            called = getattr(task, "__qualname__", repr(task))
            raise UsageError(f"the function {called} is not registered as a task", remedy="put @jobs.task before it")
        if name not in self.tasks:
            remedy = nearest(name, self.tasks) if self.tasks else "register functions with @jobs.task"
            raise UsageError(f"no task is called {name!r}", remedy=remedy)
        return self.tasks[name]

    # Whoever waits.

    def events(
        self, *, after: int | None = None, job: int | None = None, timeout_s: float | None = None
    ) -> Iterator[StoredEvent]:
        """Tell what happens to all jobs, or to one, as it happens.

        ``after`` is the last event's ``id`` that was seen: 0 for all that are kept, None for those from now on. Of the
        events of the past ``Limits.events`` are kept. A stream of one job ends when the job is done, dead or cancelled;
        that of all doesn't end. Raises ``TimeoutError`` when nothing happens for ``timeout_s``.
        """
        if after is None:
            after = self.store.last_event()
        while True:
            with self.listening(job) as bell:
                events, ended = self.news(after, job)
                if not events and not ended and not bell.wait(timeout_s):
                    raise TimeoutError(f"nothing happened for {timeout_s} s")
            yield from events
            if ended:
                return
            if events:
                after = events[-1].id

    def news(self, after: int, job: int | None) -> tuple[list[StoredEvent], bool]:
        """Give the next events after one, at most 1,000, and whether the stream of this job ends with them."""
        if self._watch.failure is not None:
            raise self._watch.failure
        # The state is read first: what happens in between comes with the events.
        state = self.store.job(job).state if job is not None else JobState.WAITING
        # 1,000 of them are 100 KiB, and a reader that is slow holds no more.
        events = self.store.events(after, job, 1000)
        return events, state.is_final and len(events) < 1000

    @contextmanager
    def listening(self, job: int | None) -> Iterator[threading.Event]:
        """Lend an event that is set when something happens to the job, or to any."""
        bell = threading.Event()
        watch = self.watch
        watch.subscribe(job, bell.set)
        try:
            yield bell
        finally:
            watch.unsubscribe(job, bell.set)

    @property
    def watch(self) -> Watch:
        """Who looks for changes; a forked child has its own."""
        if os.getpid() != self._process:
            self._process = os.getpid()
            self._watch = Watch(self.store.database)
            self._aio = None
        return self._watch

    def final_result(self, job: Job) -> object:
        """Give the result of a job that ended, or raise how it ended."""
        if job.state is JobState.DONE:
            return loads(self.serialiser, self.store.result(job.id), f"the result of job {job.id}")
        if job.state is JobState.CANCELLED:
            raise JobCancelled(f"job {job.id} ({job.task}) was cancelled")
        assert job.error is not None
        raise JobFailed(job.id, job.task, job.error, self.path)

    @property
    def aio(self) -> AsyncJobs:
        """The same calls for asyncio, awaited."""
        self.watch  # noqa: B018 - notices a fork
        if self._aio is None:
            from ._jobs_aio import AsyncJobs

            self._aio = AsyncJobs(self)
        return self._aio

    # Workers.

    def work(
        self,
        *,
        executor: Executor | Callable[[], Executor] | str | None = None,
        at_once: int = 1,
        until_idle: bool = False,
        stop: threading.Event | None = None,
        lease_s: float = 30.0,
        drain_s: float = 30.0,
        name: str | None = None,
    ) -> WorkerStatistics:
        """Run jobs in this process until ``stop`` is set, or with ``until_idle`` until none is left to run.

        ``executor`` is any ``concurrent.futures.Executor``, a function that makes one (a broken one is then replaced),
        ``"thread"`` or ``"process"``; default is the one of these Jobs, else threads. ``at_once`` is
        how many jobs run at a time. Another worker takes a job whose lease, of ``lease_s``, was not prolonged. At the
        end, jobs that still run are given ``drain_s`` and then go back to the others.
        """
        from ._job_worker import Worker

        worker = Worker(
            self,
            executor=executor if executor is not None else self.executor,
            at_once=at_once,
            lease_s=lease_s,
            drain_s=drain_s,
            name=name,
        )
        return worker.run(stop or threading.Event(), until_idle=until_idle)

    @contextmanager
    def working(
        self,
        *,
        executor: Executor | Callable[[], Executor] | str | None = None,
        at_once: int = 1,
        lease_s: float = 30.0,
        drain_s: float = 30.0,
    ) -> Iterator[None]:
        """Run jobs in a thread for the length of a ``with`` block; its errors are raised at the block's end."""
        stop = threading.Event()
        failures: list[BaseException] = []

        def run() -> None:
            try:
                self.work(executor=executor, at_once=at_once, stop=stop, lease_s=lease_s, drain_s=drain_s)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="underlay-jobs-worker")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if failures:
            raise failures[0]

    # People.

    def job(self, number: int) -> Job:
        """Tell how a job stands; raises ``NoSuchJob``."""
        return self.store.job(number)

    def newest(self, *states: JobState, task: str | None = None, limit: int = 100) -> list[Job]:
        """Tell of the newest jobs in these states, or in any, and of this task, or of any; the newest first."""
        return self.store.jobs(states or tuple(JobState), limit, task)

    def retry(self, job: int) -> None:
        """Let a dead or cancelled job be tried again; ``UsageError`` for one that is neither."""
        try:
            self.store.retry(job, self.now())
        except ValueError:
            state = self.store.job(job).state
            raise UsageError(f"job {job} is {state}", remedy="only a dead or cancelled job is tried again") from None

    def retry_dead(self) -> int:
        """Let all dead letters be tried again, and give their number."""
        return self.store.retry_dead(self.now())

    def purge(self, *states: JobState, older_than_s: float = 0.0) -> int:
        """Remove jobs that ended ``older_than_s`` ago (default: that are done), with their keys; give their number."""
        for state in states:
            if not state.is_final:
                raise UsageError(f"jobs that are {state} are not purged", remedy="cancel those that wait")
        return self.store.purge(states or (JobState.DONE,), self.now() - older_than_s)

    def statistics(self) -> JobsStatistics:
        """Count the jobs in each state."""
        return self.store.statistics()

    def close(self) -> None:
        """Close the database; whoever still waits for a result gets a ``UsageError``. Jobs stay as they are."""
        self.store.database.close()
        self.watch.close()
        if self._aio is not None:
            self._aio.close()

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Jobs {self.path}, {len(self.tasks)} tasks>"


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """What the function takes; None where nobody says, as for some that are written in C."""
    try:
        # A wrapper may give what it wraps more than it is given (functools.wraps): it is the wrapper that is called.
        return inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None


def _check_call(task: Task, arguments: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Raise ``UsageError`` for arguments that the function cannot be called with: each try would fail by them."""
    if task.signature is None:
        return
    try:
        task.signature.bind(*arguments, **kwargs)
    except TypeError as error:
        takes = ", ".join(_as_written(each) for each in task.signature.parameters.values())
        # 200: it is one sentence on a terminal.
        raise UsageError(
            f"{task.name} cannot be called with these arguments: {error}", remedy=f"it takes ({takes:.200})"
        ) from None


def _as_written(parameter: inspect.Parameter) -> str:
    stars = "*" * (parameter.kind is parameter.VAR_POSITIONAL) + "**" * (parameter.kind is parameter.VAR_KEYWORD)
    return f"{stars}{parameter.name}{'' if parameter.default is parameter.empty else '=…'}"

"""Jobs in their database: each method is one transaction, or a part of one, and keeps the table of transitions.

This file knows the tables and which rows a move changes. The time and chance are arguments. It refuses to know
functions, executors and who waits for a result.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple
from typing import Final

from ..errors import UnderlayError, plural
from ._job_database import Database
from ._job_errors import JobError, KeyConflict, NoSuchJob, QueueFull
from ._job_records import Claim, Ending, Job, JobsStatistics, Limits, NewJob, Outcome, StoredEvent
from ._job_states import Backoff, JobEvent, JobState, Move, after_failure, after_loss, move

__all__ = ["Store"]

_JOB: Final = (
    "SELECT id, task, state, key, submitted, due, finished, claims, failures, losses, retries, worker, error FROM jobs"
)
_EVENT: Final = "SELECT id, job, at, event, state, detail FROM events"

# An index and a row: (id, state, claims, failures, losses, retries, most_losses, backoff)
_Standing = tuple[int, str, int, int, int, int, int, str]
_STANDING: Final = "SELECT id, state, claims, failures, losses, retries, most_losses, backoff FROM jobs"

# SQLite's integers have 64 bits (sqlite.org/datatype3.html): no job or event has a higher number.
_HIGHEST: Final = (1 << 63) - 1

# Rows that one transaction of a purge or a retry of all takes, so that it holds up no worker: some 20 ms.
_AT_ONCE: Final = 1000


class Store:
    """The jobs in one database."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self.database = database
        self.path = database.path
        self._limits = limits

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """Begin a transaction for the methods that take a connection."""
        return self.database.writing()

    # Whoever submits.

    def submit(self, new: Sequence[NewJob], now: float) -> list[int | UnderlayError]:
        """Store jobs in one transaction; give each one's number, that of the job with its key, or why it is refused."""
        told: list[int | UnderlayError] = []
        with self.transaction() as connection:
            waiting = connection.execute("SELECT jobs FROM counts WHERE state = 'waiting'").fetchone()[0]
            for job in new:
                known = self._with_key(connection, job)
                if known is not None:
                    told.append(known)
                elif waiting >= self._limits.waiting:
                    told.append(
                        QueueFull(
                            f"{waiting:,} jobs wait in {self.path} already, which is the limit",
                            remedy="let workers catch up, or allow more with Limits(waiting=…)",
                        )
                    )
                else:
                    waiting += 1
                    told.append(self._insert(connection, job, now))
            self._trim_events(connection)
        return told

    def _with_key(self, connection: sqlite3.Connection, job: NewJob) -> int | UnderlayError | None:
        if job.key is None:
            return None
        row = connection.execute("SELECT id, task, arguments FROM jobs WHERE key = ?", (job.key,)).fetchone()
        if row is None:
            return None
        number, task, arguments = row
        if (task, arguments) != (job.task, job.arguments):
            return KeyConflict(
                f"the key {job.key!r} belongs to job {number} ({task}), which has another task or other arguments",
                remedy="a key stands for one request; give this one its own",
            )
        return int(number)

    def _insert(self, connection: sqlite3.Connection, job: NewJob, now: float) -> int:
        cursor = connection.execute(
            "INSERT INTO jobs (task, arguments, key, state, submitted, due, retries, most_losses, backoff)"
            " VALUES (?, ?, ?, 'waiting', ?, ?, ?, ?, ?)",
            (
                job.task, job.arguments, job.key, now, now + job.delay_s,
                job.retries, job.most_losses, json.dumps(astuple(job.backoff)),
            ),
        )  # fmt: skip
        number = cursor.lastrowid
        assert number is not None
        self._tell(connection, number, now, JobEvent.SUBMITTED, JobState.WAITING, job.task)
        return number

    def cancel(self, job: int, now: float) -> bool:
        """Take a waiting job back; False where it is running or ended already."""
        with self.transaction() as connection:
            standing = self._standing(connection, job)
            if standing[1] != JobState.WAITING:
                return False
            self._move(connection, standing, Move(JobEvent.CANCEL, JobState.CANCELLED, now), now)
            self._trim_events(connection)
            return True

    # Workers.

    def has_work(self, tasks: Collection[str], now: float) -> bool:
        """Whether a claim would find something, or a lease ran out; it takes no lock."""
        with self.database.reading() as connection:
            if connection.execute(
                "SELECT 1 FROM jobs WHERE state = 'running' AND lease_until < ? LIMIT 1", (now,)
            ).fetchone():
                return True
            due = "SELECT 1 FROM jobs WHERE state = 'waiting' AND task = ? AND due <= ? LIMIT 1"
            return any(connection.execute(due, (task, now)).fetchone() for task in tasks)

    def claim(
        self,
        connection: sqlite3.Connection,
        worker: str,
        tasks: Collection[str],
        limit: int,
        now: float,
        lease_s: float,
    ) -> list[Claim]:
        """Begin up to ``limit`` jobs that are due, those that have been due for longest first."""
        due: list[tuple[float, int]] = []
        for task in tasks:  # each by the index; over all tasks at once it would be a scan and a sort
            due += connection.execute(
                "SELECT due, id FROM jobs WHERE state = 'waiting' AND task = ? AND due <= ? ORDER BY due, id LIMIT ?",
                (task, now, limit),
            ).fetchall()
        claims = []
        for _, number in sorted(due)[:limit]:
            standing = self._standing(connection, number)
            self._move(
                connection,
                standing,
                Move(JobEvent.CLAIMED, JobState.RUNNING, now),
                now,
                detail=worker,
                claims=standing[2] + 1,
                worker=worker,
                lease_until=now + lease_s,
            )
            row = connection.execute(
                "SELECT claims, task, arguments, key, submitted FROM jobs WHERE id = ?", (number,)
            ).fetchone()
            claims.append(Claim(number, *row))
        return claims

    def record(self, connection: sqlite3.Connection, claim: Claim, outcome: Outcome, now: float, chance: float) -> bool:
        """Record what came of a claim; False where the claim no longer counts, and then nothing is recorded."""
        row = connection.execute(
            f"{_STANDING} WHERE id = ? AND state = 'running' AND claims = ?", (claim.job, claim.number)
        ).fetchone()
        if row is None:
            return False
        standing: _Standing = row
        match outcome.ending:
            case Ending.RESULT:
                moved = Move(JobEvent.SUCCEEDED, move(JobState.RUNNING, JobEvent.SUCCEEDED), now)
                self._move(connection, standing, moved, now, result=outcome.result, error=None)
            case Ending.ERROR | Ending.FINAL_ERROR:
                assert outcome.error is not None
                failures = standing[3] + 1
                moved = after_failure(
                    failures=failures,
                    retries=standing[5],
                    final=outcome.ending is Ending.FINAL_ERROR,
                    backoff=Backoff(*json.loads(standing[7])),
                    now=now,
                    chance=chance,
                )
                error = json.dumps(astuple(outcome.error))
                self._move(
                    connection, standing, moved, now, detail=str(outcome.error)[:200], failures=failures, error=error
                )
            case Ending.LOST:
                self._lose(connection, standing, now, str(outcome.error or "its executor broke"))
            case Ending.RELEASED:
                moved = Move(JobEvent.RELEASED, move(JobState.RUNNING, JobEvent.RELEASED), now)
                self._move(connection, standing, moved, now)
        return True

    def renew(self, connection: sqlite3.Connection, claims: Iterable[Claim], now: float, lease_s: float) -> list[Claim]:
        """Prolong the leases of claims, and give those that no longer count."""
        statement = "UPDATE jobs SET lease_until = ? WHERE id = ? AND state = 'running' AND claims = ?"
        return [
            claim
            for claim in claims
            if not connection.execute(statement, (now + lease_s, claim.job, claim.number)).rowcount
        ]

    def expire(self, connection: sqlite3.Connection, now: float) -> int:
        """Take back the jobs whose lease ran out; give their number."""
        rows: list[_Standing] = connection.execute(
            f"{_STANDING} WHERE state = 'running' AND lease_until < ? LIMIT {_AT_ONCE}", (now,)
        ).fetchall()
        for standing in rows:
            self._lose(connection, standing, now, "the lease ran out")
        return len(rows)

    def lose_worker(self, worker: str, now: float) -> int:
        """Take back at once what a worker that is known to be dead was running; give the number of jobs."""
        with self.transaction() as connection:
            rows: list[_Standing] = connection.execute(
                f"{_STANDING} WHERE state = 'running' AND worker = ?", (worker,)
            ).fetchall()
            for standing in rows:
                self._lose(connection, standing, now, "its worker died")
            self._trim_events(connection)
        return len(rows)

    def end_transaction(self, connection: sqlite3.Connection) -> None:
        """Keep the limit of events; said by who wrote some in a transaction of his own."""
        self._trim_events(connection)

    def prune(self, now: float) -> int:
        """Remove some of the jobs that were done or cancelled longer ago than ``Limits.keep_s``."""
        return self._purge_some((JobState.DONE, JobState.CANCELLED), now - self._limits.keep_s)

    def is_idle(self, tasks: Collection[str]) -> bool:
        """Whether none of these tasks' jobs waits, now or for later, and none at all runs."""
        with self.database.reading() as connection:
            if connection.execute("SELECT 1 FROM jobs WHERE state = 'running' LIMIT 1").fetchone():
                return False
            waiting = "SELECT 1 FROM jobs WHERE state = 'waiting' AND task = ? LIMIT 1"
            return not any(connection.execute(waiting, (task,)).fetchone() for task in tasks)

    def waiting_tasks(self) -> list[str]:
        """Name the tasks of the jobs that wait, by one step in the index for each, however many jobs there are."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "WITH RECURSIVE names (task) AS ("
                " SELECT min(task) FROM jobs WHERE state = 'waiting'"
                " UNION ALL SELECT (SELECT min(task) FROM jobs WHERE state = 'waiting' AND task > names.task)"
                " FROM names WHERE task IS NOT NULL"
                ") SELECT task FROM names WHERE task IS NOT NULL"
            ).fetchall()
        return [task for (task,) in rows]

    # People.

    def retry(self, job: int, now: float) -> None:
        """Let a dead or cancelled job be tried again from the beginning; ``ValueError`` for any other."""
        with self.transaction() as connection:
            self._retry(connection, self._standing(connection, job), now)
            self._trim_events(connection)

    def retry_dead(self, now: float) -> int:
        """Let all dead letters be tried again; give their number."""
        count = 0
        while True:
            with self.transaction() as connection:
                rows: list[_Standing] = connection.execute(
                    f"{_STANDING} WHERE state = 'dead' AND finished IS NOT NULL LIMIT {_AT_ONCE}"
                ).fetchall()
                for standing in rows:
                    self._retry(connection, standing, now)
                self._trim_events(connection)
            count += len(rows)
            if len(rows) < _AT_ONCE:
                return count

    def purge(self, states: Collection[JobState], before: float) -> int:
        """Remove the jobs in these final states that ended before a time; give their number."""
        count = 0
        while True:
            removed = self._purge_some(states, before)
            count += removed
            if removed < _AT_ONCE:
                return count

    def _purge_some(self, states: Collection[JobState], before: float) -> int:
        assert all(state.is_final for state in states)
        marks = ", ".join("?" * len(states))
        wanted = f"SELECT id FROM jobs WHERE finished < ? AND state IN ({marks}) LIMIT {_AT_ONCE}"
        with self.database.reading() as connection:
            if connection.execute(wanted, (before, *states)).fetchone() is None:
                return 0
        with self.transaction() as connection:
            return connection.execute(f"DELETE FROM jobs WHERE id IN ({wanted})", (before, *states)).rowcount

    # Whoever asks.

    def job(self, number: int) -> Job:
        """Tell how a job stands."""
        if not -_HIGHEST <= number <= _HIGHEST:
            raise self._no_such_job(number)
        with self.database.reading() as connection:
            row = connection.execute(f"{_JOB} WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise self._no_such_job(number)
        return _job(row)

    def result(self, number: int) -> bytes:
        """Give the recorded result of a job that is done."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT result FROM jobs WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise self._no_such_job(number)
        assert row[0] is not None, "asked for before it was done"
        return bytes(row[0])

    def data(self, number: int) -> tuple[bytes, bytes | None]:
        """Give a job's arguments and its result, if it has one, as they are stored."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT arguments, result FROM jobs WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise self._no_such_job(number)
        arguments, result = row
        return bytes(arguments), None if result is None else bytes(result)

    def jobs(self, states: Collection[JobState], limit: int, task: str | None = None) -> list[Job]:
        """Tell of the newest jobs in these states, of a task or of any, the newest first."""
        marks = ", ".join("?" * len(states))
        with self.database.reading() as connection:
            rows = connection.execute(
                f"{_JOB} WHERE state IN ({marks}) AND task = coalesce(?, task) ORDER BY id DESC LIMIT ?",
                (*states, task, limit),
            ).fetchall()
        return [_job(row) for row in rows]

    def statistics(self) -> JobsStatistics:
        """Count the jobs in each state; it takes no longer for many."""
        with self.database.reading() as connection:
            counts = dict(connection.execute("SELECT state, jobs FROM counts").fetchall())
            oldest, newest = connection.execute(
                "SELECT (SELECT min(id) FROM events), (SELECT max(id) FROM events)"
            ).fetchone()
        if oldest is None:
            return JobsStatistics(**counts, events_kept=0, events_dropped=0)
        return JobsStatistics(**counts, events_kept=newest - oldest + 1, events_dropped=oldest - 1)

    def events(self, after: int, job: int | None, limit: int) -> list[StoredEvent]:
        """Give the events after one, of a job or of all; those that were dropped are not among them."""
        after = max(-1, min(after, _HIGHEST))
        with self.database.reading() as connection:
            if job is None:
                rows = connection.execute(f"{_EVENT} WHERE id > ? ORDER BY id LIMIT ?", (after, limit)).fetchall()
            else:
                rows = connection.execute(
                    f"{_EVENT} WHERE job = ? AND id > ? ORDER BY id LIMIT ?", (job, after, limit)
                ).fetchall()
        return [
            StoredEvent(number, of, at, JobEvent(event), JobState(state), detail)
            for number, of, at, event, state, detail in rows
        ]

    def last_event(self) -> int:
        """The number of the newest event, 0 before the first."""
        with self.database.reading() as connection:
            return int(connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0])

    # What moves are made of.

    def _no_such_job(self, number: int) -> NoSuchJob:
        return NoSuchJob(f"{self.path} has no job {number}", remedy="it never had, or the job was purged")

    def _standing(self, connection: sqlite3.Connection, number: int) -> _Standing:
        if not -_HIGHEST <= number <= _HIGHEST:
            raise self._no_such_job(number)
        row = connection.execute(f"{_STANDING} WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise self._no_such_job(number)
        standing: _Standing = row
        return standing

    def _lose(self, connection: sqlite3.Connection, standing: _Standing, now: float, why: str) -> None:
        losses = standing[4] + 1
        moved = after_loss(losses=losses, most_losses=standing[6], now=now)
        changed: dict[str, object] = {"losses": losses}
        if moved.event is JobEvent.ABANDONED:
            error = JobError("WorkerLost", f"{why}; it was lost {plural(losses, 'time')}")
            changed["error"] = json.dumps(astuple(error))
        self._move(connection, standing, moved, now, detail=why, **changed)

    def _retry(self, connection: sqlite3.Connection, standing: _Standing, now: float) -> None:
        state = move(JobState(standing[1]), JobEvent.RETRIED)
        self._move(connection, standing, Move(JobEvent.RETRIED, state, now), now, failures=0, losses=0)

    def _move(
        self,
        connection: sqlite3.Connection,
        standing: _Standing,
        moved: Move,
        now: float,
        *,
        detail: str = "",
        **changed: object,
    ) -> None:
        """Change the row of a job, which this transaction has read, and tell of it."""
        assert move(JobState(standing[1]), moved.event) is moved.state
        values: dict[str, object] = {"state": moved.state, "due": moved.due, **changed}
        if moved.state is not JobState.RUNNING:
            values.update(lease_until=None, worker=None)
        values["finished"] = now if moved.state.is_final else None
        words = ", ".join(f"{column} = ?" for column in values)
        connection.execute(f"UPDATE jobs SET {words} WHERE id = ?", (*values.values(), standing[0]))
        self._tell(connection, standing[0], now, moved.event, moved.state, detail)

    def _tell(
        self,
        connection: sqlite3.Connection,
        job: int,
        now: float,
        event: JobEvent,
        state: JobState,
        detail: str,
    ) -> None:
        connection.execute(
            "INSERT INTO events (job, at, event, state, detail) VALUES (?, ?, ?, ?, ?)",
            (job, now, event, state, _sayable(detail)),
        )

    def _trim_events(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (self._limits.events,))


def _sayable(text: str) -> str:
    """A text without the lone surrogates that UTF-8 has no bytes for."""
    return text.encode("utf-8", "replace").decode()


_Row = tuple[int, str, str, str | None, float, float, float | None, int, int, int, int, str | None, str | None]


def _job(row: _Row) -> Job:
    number, task, state, key, submitted, due, finished, claims, failures, losses, retries, worker, error = row
    told = JobError(*json.loads(error)) if error is not None else None
    return Job(
        number, task, JobState(state), key, submitted, due, finished, claims, failures, losses, retries, worker, told
    )

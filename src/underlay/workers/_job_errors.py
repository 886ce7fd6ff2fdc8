"""What can go wrong with jobs, each as one sentence; and what a database's complaint means.

This file knows SQLite's result codes (sqlite.org/rescode.html). It refuses to know what is stored.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass

from ..errors import UnderlayError, UsageError

__all__ = [
    "GiveUp",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobsBusy",
    "JobsUnavailable",
    "KeyConflict",
    "NoSuchJob",
    "NotSerialisable",
    "QueueFull",
    "explained",
]


class JobsUnavailable(UnderlayError):
    """The database of jobs cannot be read or written: a full disk, a wrong file, no permission."""


class JobsBusy(JobsUnavailable):
    """Another process has kept the database locked for longer than ``busy_s``."""


class QueueFull(UnderlayError):
    """As many jobs wait already as ``Limits.waiting`` allows; nothing was submitted."""


class KeyConflict(UsageError):
    """The idempotency key belongs to a job with another task or other arguments."""


class NoSuchJob(UsageError):
    """No job has this number: it never had, or the job was purged."""


class NotSerialisable(UsageError):
    """An argument or a result cannot be put into words by the serialiser, or is too long."""


class JobCancelled(UnderlayError):
    """A job's result is asked for, and the job was taken back before it ran.

    It is no ``CancelledError`` of the standard library, which asyncio would take for the waiting task's own.
    """


class GiveUp(Exception):
    """Raised by a task to say that another try is of no use: its job becomes a dead letter at once.

    >>> raise GiveUp("the account is closed")
    Traceback (most recent call last):
    underlay.workers._job_errors.GiveUp: the account is closed
    """


@dataclass(frozen=True, slots=True)
class JobError:
    """How a job failed last: the exception's type and message, and its traceback where the job ran."""

    type: str
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class JobFailed(UnderlayError):
    """A job's result is asked for, and the job is a dead letter; ``error`` says how it failed last."""

    def __init__(self, job: int, task: str, error: JobError, path: str) -> None:
        super().__init__(
            f"job {job} ({task}) is dead: {error}",
            remedy=f"`underlay jobs retry {path} {job}` has it tried again",
        )
        self.args = (job, task, error, path)
        self.job = job
        self.task = task
        self.error = error
        if error.traceback:
            self.add_note(f"Where the job ran:\n{error.traceback}")


def explained(error: sqlite3.Error, path: str, folder: str) -> UnderlayError | None:
    """Say what SQLite's error means for the person who asked, or None where it is a bug.

    ``path`` is what the person called the database, and ``folder`` where it is.
    """
    name: str = getattr(error, "sqlite_errorname", "") or ""

    def is_(*codes: str) -> bool:
        return name.startswith(tuple(f"SQLITE_{code}" for code in codes))

    if is_("BUSY", "LOCKED"):
        return JobsBusy(f"another process keeps {path} locked", remedy="end it, or wait longer with busy_s")
    if is_("FULL"):
        return JobsUnavailable(f"the disk of {path} is full, nothing was recorded", remedy="make room and try again")
    if is_("IOERR"):
        # EFBIG comes as SQLITE_IOERR_WRITE; a shared-memory file that finds no room as SQLITE_IOERR_SHMSIZE.
        return JobsUnavailable(
            f"the system refused to read or write {path} ({name}), nothing was recorded",
            remedy="make room on the disk, or raise the limit of a file's size (`ulimit -f`)",
        )
    if is_("NOTADB"):
        return UsageError(f"{path} is no database", remedy="name another file; jobs makes one that is not there")
    if is_("CORRUPT"):
        return JobsUnavailable(
            f"the database {path} is damaged", remedy=f"save what `sqlite3 {path} .recover` finds into a new file"
        )
    if is_("READONLY") or (is_("CANTOPEN") and not os.access(folder, os.W_OK)):
        return JobsUnavailable(f"{path} is in a place that can only be read", remedy="put it where this user may write")
    if is_("CANTOPEN", "PERM", "AUTH"):
        return JobsUnavailable(
            f"the database {path} cannot be opened", remedy="name a file in a folder where this user may write"
        )
    return None

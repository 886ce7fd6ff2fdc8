"""What is told about jobs: the values that the store gives out, and the limits that it keeps.

This file knows shapes alone. It refuses to know where they are stored.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from ._job_errors import JobError
from ._job_states import Backoff, JobEvent, JobState

__all__ = ["Claim", "Ending", "Job", "JobsStatistics", "Limits", "NewJob", "Outcome", "StoredEvent"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a database of jobs holds; what goes beyond is refused, or for events and errors, dropped.

    ``arguments_bytes`` and ``result_bytes`` bound one job's, as serialised; ``error_bytes`` an error's message and its
    traceback, each, whose middle is left out. ``waiting`` bounds how many jobs wait. ``events`` is how many of the last
    events are kept for streams. Workers remove jobs that were done or cancelled ``keep_s`` ago, and their keys;
    dead letters stay.
    """

    # A queue is for references to what is large: SQLite reads rows beyond a page in chains of pages.
    arguments_bytes: int = 1 << 20
    result_bytes: int = 1 << 20
    error_bytes: int = 16 << 10
    # About 300 MB of short jobs.
    waiting: int = 1_000_000
    # Some 10 MB; at three events a job, the last 30,000 jobs.
    events: int = 100_000
    keep_s: float = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that is to be stored."""

    task: str
    arguments: bytes
    key: str | None
    delay_s: float
    retries: int
    most_losses: int
    backoff: Backoff


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stood when it was asked for. Times are of the day, in seconds since 1970 (``time.time()``)."""

    id: int
    task: str
    state: JobState
    key: str | None
    submitted_at: float
    due_at: float
    """The earliest time of its next try."""
    finished_at: float | None
    claims: int
    """How often a worker began it."""
    failures: int
    losses: int
    """How often its worker died, or let the lease run out."""
    retries: int
    worker: str | None
    error: JobError | None
    """How it failed last, if it did."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """Something that happened to a job. ``id`` grows; a stream that broke off goes on after the last one it saw."""

    id: int
    job: int
    at: float
    event: JobEvent
    state: JobState
    detail: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's hold of a job: ``number`` is how many claims of it there were, and only the newest counts."""

    job: int
    number: int
    task: str
    arguments: bytes = field(repr=False)
    key: str | None
    submitted_at: float


class Ending(enum.Enum):
    """How a try of a job ended."""

    RESULT = enum.auto()
    ERROR = enum.auto()
    FINAL_ERROR = enum.auto()  # which no other try would mend
    LOST = enum.auto()  # its executor broke
    RELEASED = enum.auto()  # it was not begun, or left because its worker ends


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a try."""

    ending: Ending
    result: bytes = b""
    error: JobError | None = None


@dataclass(frozen=True, slots=True)
class JobsStatistics:
    """How many jobs are in each state, of the whole database at one moment, and the events that are kept."""

    waiting: int
    running: int
    done: int
    dead: int
    cancelled: int
    events_kept: int
    events_dropped: int


# The time of day, and chance from 0 to 1.
Now = Callable[[], float]
Chance = Callable[[], float]

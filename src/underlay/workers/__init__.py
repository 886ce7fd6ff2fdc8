"""Where work runs, and jobs that outlive whoever asked for them.

::

    _jobs.py          durable jobs: tasks, submitting, waiting
    _receipt.py       what a submitter holds; _jobs_aio.py: the same for asyncio
    _job_worker.py    claims jobs and has an executor run them; _job_call.py: one try, where it runs
    _job_states.py    the life of a job as a table, and when it is tried again; only computes
    _job_store.py     the transactions; _job_database.py: the file; _job_watch.py: who waits hears of changes
    _job_serialise.py, _job_records.py, _job_errors.py
    _jobs_cli.py      `underlay jobs`; _job_processes.py: the workers that it keeps running

This room knows threads, processes and the files that they share. It refuses to know event loops, beyond that results
are awaited on them, and what the work means.
"""

from ._job_call import CurrentJob, current_job
from ._job_errors import (
    GiveUp,
    JobCancelled,
    JobError,
    JobFailed,
    JobsBusy,
    JobsUnavailable,
    KeyConflict,
    NoSuchJob,
    NotSerialisable,
    QueueFull,
)
from ._job_records import Job, JobsStatistics, Limits, StoredEvent
from ._job_serialise import JobSerialiser, JsonSerialiser
from ._job_states import TRANSITIONS, Backoff, JobEvent, JobState
from ._job_worker import WorkerStatistics
from ._jobs import Jobs
from ._receipt import Receipt

__all__ = [
    "TRANSITIONS",
    "Backoff",
    "CurrentJob",
    "GiveUp",
    "Job",
    "JobCancelled",
    "JobError",
    "JobEvent",
    "JobFailed",
    "JobSerialiser",
    "JobState",
    "Jobs",
    "JobsBusy",
    "JobsStatistics",
    "JobsUnavailable",
    "JsonSerialiser",
    "KeyConflict",
    "Limits",
    "NoSuchJob",
    "NotSerialisable",
    "QueueFull",
    "Receipt",
    "StoredEvent",
    "WorkerStatistics",
    "current_job",
]

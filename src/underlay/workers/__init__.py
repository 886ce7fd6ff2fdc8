"""Workers: calls run wherever there is room, and jobs outlive whoever asked for them.

Executors, behind the standard library's `concurrent.futures.Executor`::

    _kinds.py     which kinds there are; each is in a file of its own:
    _inline.py, _thread.py, _process.py, _interpreter.py, _celery.py, _dask.py
    _contract.py  what a kind offers, and the errors
    _bounded.py   back-pressure over any executor
    _default.py   an executor in the place of event loops' own threads; _context.py: context variables go along
    _pool.py      the executor of all workers outside of this process: futures, order, the end
    _letters.py   calls on their way to workers elsewhere
    _pickling.py  calls and answers as bytes; _signed.py: bytes that only a friend can have written
    _worker_process.py  a process that ends when we do; what such a process does:
    _process_worker.py, _celery_worker.py with _celery_task.py and _celery_folder.py, _dask_worker.py
    _packages.py  packages that only some kinds need

and jobs::

    _jobs.py          durable jobs: tasks, submitting, waiting
    _receipt.py       what a submitter holds; _jobs_aio.py: the same for asyncio
    _job_worker.py    claims jobs and has an executor run them; _job_call.py: one try, where it runs
    _job_states.py    the life of a job as a table, and when it is tried again; only computes
    _job_store.py     the transactions; _job_database.py: the file; _job_watch.py: who waits hears of changes
    _job_serialise.py, _job_records.py, _job_errors.py
    _jobs_cli.py      `underlay jobs`: its options; _jobs_cli_people.py: what a person sees and does
    _jobs_cli_work.py workers; _job_processes.py: keeps them running; _job_ends.py: tells how their jobs end
    _serve/           `underlay serve`: one unmodified server in several workers, under supervision

This room knows threads, processes, engines and the files that they share. It refuses to know event loops, beyond that
results are awaited on them and that they hand calls to executors, and what the work means.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._bounded import BoundedExecutor, bounded
    from ._celery_task import serve_celery
    from ._contract import EngineUnavailable, Kind, NotPicklable, RemoteFailure, RemoteTraceback
    from ._default import install, install_words, redirect_uvloop
    from ._inline import InlineExecutor
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
    from ._kinds import KINDS, executor
    from ._pool import PoolExecutor
    from ._receipt import Receipt

__all__ = [
    "KINDS",
    "TRANSITIONS",
    "Backoff",
    "BoundedExecutor",
    "CurrentJob",
    "EngineUnavailable",
    "GiveUp",
    "InlineExecutor",
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
    "Kind",
    "Limits",
    "NoSuchJob",
    "NotPicklable",
    "NotSerialisable",
    "PoolExecutor",
    "QueueFull",
    "Receipt",
    "RemoteFailure",
    "RemoteTraceback",
    "StoredEvent",
    "WorkerStatistics",
    "bounded",
    "current_job",
    "executor",
    "install",
    "install_words",
    "redirect_uvloop",
    "serve_celery",
]

# A worker of `underlay serve` passes here and wants neither executors nor a database: each file is opened at the first
# mention of a name of it (PEP 562), which takes 0.15 s less of each start.
_HOMES: Final = {
    "_bounded": "BoundedExecutor bounded",
    "_celery_task": "serve_celery",
    "_contract": "EngineUnavailable Kind NotPicklable RemoteFailure RemoteTraceback",
    "_default": "install install_words redirect_uvloop",
    "_inline": "InlineExecutor",
    "_job_call": "CurrentJob current_job",
    "_job_errors": "GiveUp JobCancelled JobError JobFailed JobsBusy JobsUnavailable KeyConflict NoSuchJob"
    " NotSerialisable QueueFull",
    "_job_records": "Job JobsStatistics Limits StoredEvent",
    "_job_serialise": "JobSerialiser JsonSerialiser",
    "_job_states": "TRANSITIONS Backoff JobEvent JobState",
    "_job_worker": "WorkerStatistics",
    "_jobs": "Jobs",
    "_kinds": "KINDS executor",
    "_pool": "PoolExecutor",
    "_receipt": "Receipt",
}
_HOME: Final = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

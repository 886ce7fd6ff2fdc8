"""The command `underlay jobs`: runs workers, and shows, retries and purges jobs.

This file knows the options and what is printed. It refuses to know how jobs are stored and run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import math
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from ..errors import UsageError

if TYPE_CHECKING:
    from ._job_records import Job
    from ._jobs import Jobs

__all__ = ["configure", "main"]

_EXAMPLES: Final = """
examples:
  underlay jobs work app:jobs --workers 4  run the tasks of `jobs` in app.py
  underlay jobs status jobs.db             how many wait, run or are dead
  underlay jobs status jobs.db 17          one job, its events and its error
  underlay jobs retry jobs.db 17 18        try dead letters again; or --all
  underlay jobs purge jobs.db --older-than 7d

`underlay jobs ACTION --help` tells more."""

# The longest unit is a day: weeks and months are counted in days by whoever says them.
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WIDTH: Final = 80


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    parser.usage = "underlay jobs {work,status,retry,purge} ..."
    parser.epilog = _EXAMPLES
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name,
            prog=f"underlay jobs {name}",
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )

    work = action("work", "run workers as processes until Ctrl-C or SIGTERM")
    work.add_argument("target", metavar="MODULE:NAME", help="where the program's Jobs are, like app:jobs")
    work.add_argument("--workers", type=_count, metavar="N", help="how many processes (default: one per processor)")
    work.add_argument("--at-once", type=_count, default=1, metavar="N", help="jobs at a time in each (default: 1)")
    work.add_argument(
        "--executor", metavar="KIND", help="where each runs its jobs (default: what the Jobs say, threads)"
    )
    work.add_argument(
        "--lease", type=_seconds, default=30.0, metavar="T", help="when a silent worker is given up (30s)"
    )
    work.add_argument(
        "--drain", type=_seconds, default=30.0, metavar="T", help="what running jobs get at the end (30s)"
    )
    work.add_argument("--until-idle", action="store_true", help="end when no job is left to run")
    work.add_argument("--worker", help=argparse.SUPPRESS)

    status = action("status", "show how many jobs wait, run, are done or dead, and the newest that are not done")
    status.add_argument("database", metavar="FILE")
    status.add_argument("job", metavar="JOB", type=int, nargs="?", help="show this one, its events and its error")
    status.add_argument("--limit", type=_count, default=20, metavar="N", help="how many jobs to list (default: 20)")
    status.add_argument("--json", action="store_true", help="print the same as one JSON object")

    retry = action("retry", "let dead or cancelled jobs be tried again")
    retry.add_argument("database", metavar="FILE")
    retry.add_argument("job", metavar="JOB", type=int, nargs="*")
    retry.add_argument("--all", action="store_true", help="all dead letters")
    retry.add_argument("--json", action="store_true", help="print what was done as one JSON object")

    purge = action("purge", "remove jobs that are done (or cancelled, or dead), and their idempotency keys")
    purge.add_argument("database", metavar="FILE")
    purge.add_argument("--dead", action="store_true", help="remove dead letters instead")
    purge.add_argument("--older-than", type=_seconds, default=0.0, metavar="T", help="ended so long ago: 90s, 12h, 7d")
    purge.add_argument("--json", action="store_true", help="print what was done as one JSON object")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; it takes a number from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS_S else (text, "s")
    try:
        value = float(number) * _UNITS_S[unit]
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90s, 5m, 12h or 7d")
    return value


def main(args: argparse.Namespace) -> int:
    """Do what the action says."""
    match args.action:
        case "work":
            return _work(args)
        case "status":
            return _status(args)
        case "retry":
            return _retry(args)
        case _:
            return _purge(args)


# Workers.


def _work(args: argparse.Namespace) -> int:
    from ._job_processes import WorkerProcesses, ending_with_parent, stopping_on_signals
    from ._job_worker import LEAST_LEASE_S

    if args.lease < LEAST_LEASE_S:
        raise UsageError(
            f"work: a lease of {args.lease:g} s ends before it can be prolonged",
            remedy=f"the least is {LEAST_LEASE_S} s; leave out --lease",
        )
    jobs = _load(args.target)
    if not jobs.tasks:
        raise UsageError(f"{args.target} has no task", remedy="register functions with @jobs.task")
    _tell_warnings()
    with jobs, stopping_on_signals() as stop:
        if args.worker is None:
            count = args.workers or len(os.sched_getaffinity(0))
            processes = WorkerProcesses(
                jobs.store,
                [sys.executable, "-m", "underlay", "jobs", "work", args.target, *_passed_on(args)],
                count,
                lease_s=args.lease,
                drain_s=args.drain,
                now=jobs.now,
                chance=jobs.chance,
                say=lambda text: print(f"underlay: {text}", file=sys.stderr, flush=True),
            )
            print(f"{count} worker{'s'[: count != 1]} for {jobs.path}: {', '.join(sorted(jobs.tasks))}", flush=True)
            return processes.run(stop, until_idle=args.until_idle)
        ending_with_parent(stop)
        done = jobs.work(
            executor=args.executor,
            at_once=args.at_once,
            until_idle=args.until_idle,
            stop=stop,
            lease_s=args.lease,
            drain_s=args.drain,
            name=args.worker,
        )
    if done.released:
        # Threads whose jobs went back may still run; Python would wait for them (threading._shutdown).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _tell_warnings() -> None:
    """Print our own warnings as we print all else, unless the program logs; what others log is theirs."""
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("underlay: %(message)s"))
    ours = logging.getLogger("underlay")
    ours.addHandler(handler)
    ours.propagate = False  # logging.warning() in a task would give the root a handler too


def _passed_on(args: argparse.Namespace) -> list[str]:
    words = ["--at-once", str(args.at_once), "--lease", f"{args.lease}s", "--drain", f"{args.drain}s"]
    if args.executor is not None:
        words += ["--executor", args.executor]
    return [*words, "--until-idle"] if args.until_idle else words


def _load(target: str) -> Jobs:
    """Import the program's Jobs, or say in one sentence what is not there."""
    from ._jobs import Jobs

    module, colon, name = target.partition(":")
    if not colon or not module or module.startswith(".") or not name:
        raise UsageError(f"{target!r} names no Jobs", remedy="write MODULE:NAME, like app:jobs")
    sys.path.insert(0, os.getcwd())
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"{module} imports {error.name}, which is not installed") from error
        raise UsageError(
            f"there is no module {module} here", remedy="name one in this folder or one that is installed"
        ) from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Jobs):
        what = "has no such name" if found is None else f"is of the type {type(found).__name__}"
        raise UsageError(f"{target} {what}", remedy=f"make it in {module}: {name} = workers.Jobs('jobs.db')")
    return found


# People.


def _open(path: str) -> Jobs:
    from ._jobs import Jobs

    if not os.path.exists(path):  # to look at it must not make it
        raise UsageError(f"there is no file {path}", remedy="name the file that the program's Jobs were given")
    return Jobs(path)


def _status(args: argparse.Namespace) -> int:
    from ._job_states import JobState

    with _open(args.database) as jobs:
        if args.job is not None:
            return _one(jobs, args.job, as_json=args.json)
        counted = asdict(jobs.statistics())
        listed = jobs.newest(JobState.WAITING, JobState.RUNNING, JobState.DEAD, limit=args.limit)
    if args.json:
        told = {"schema": "underlay.jobs/1", **counted, "jobs": [_as_json(job) for job in listed]}
        print(json.dumps(told, indent=2))
        return 0
    print("   ".join(f"{state} {counted[state]:,}" for state in JobState))
    open_jobs = sum(counted[state] for state in (JobState.WAITING, JobState.RUNNING, JobState.DEAD))
    if listed:
        print(f"\n{'job':>8} {'state':<9} {'tries':>5} {'age':>6} task")
    for job in listed:
        print(_clip(f"{job.id:>8} {job.state:<9} {job.claims:>5} {_age(time.time() - job.submitted_at):>6} {job.task}"))
        if job.error is not None:
            print(_clip(f"{'':>8} {job.error}"))
    if open_jobs > len(listed):
        print(f"{'':>8} and {open_jobs - len(listed):,} more; --limit shows more of them")
    return 0


def _one(jobs: Jobs, number: int, *, as_json: bool) -> int:
    job = jobs.job(number)
    # More than fits a screen is for --json's reader; each try is two events.
    events = jobs.store.events(0, number, 1000)
    if as_json:
        told = [{"id": each.id, "at": each.at, "event": each.event, "detail": each.detail} for each in events]
        print(json.dumps({"schema": "underlay.job/1", **_as_json(job), "events": told}, indent=2))
        return 0
    key = f", key {job.key!r}" if job.key is not None else ""
    print(_clip(f"job {job.id}: {job.task}, {job.state}{key}"))
    print(f"begun {job.claims} times, failed {job.failures} (of {job.retries} retries), worker lost {job.losses} times")
    for each in events:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.at))
        print(_clip(f"  {when}  {each.event:<10} {each.detail}"))
    if job.error is not None:
        print(f"\n{_plain(job.error.traceback.rstrip() or str(job.error))}")
    return 0


def _retry(args: argparse.Namespace) -> int:
    if bool(args.job) == args.all:
        raise UsageError("retry: which jobs?", remedy="give their numbers, or --all for all dead letters")
    with _open(args.database) as jobs:
        if args.all:
            count = jobs.retry_dead()
        else:
            for number in args.job:
                jobs.retry(number)
            count = len(args.job)
    print(json.dumps({"schema": "underlay.jobs.retry/1", "retried": count}) if args.json else f"{count} wait again")
    return 0


def _purge(args: argparse.Namespace) -> int:
    from ._job_states import JobState

    states = [JobState.DEAD] if args.dead else [JobState.DONE, JobState.CANCELLED]
    with _open(args.database) as jobs:
        count = jobs.purge(*states, older_than_s=args.older_than)
    print(json.dumps({"schema": "underlay.jobs.purge/1", "purged": count}) if args.json else f"{count} removed")
    return 0


def _as_json(job: Job) -> dict[str, object]:
    return asdict(job)


def _clip(line: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in line)
    return printable if len(printable) <= _WIDTH else f"{printable[: _WIDTH - 1]}…"


def _plain(text: str) -> str:
    """A text of the job's without what a terminal would obey, or cannot be given.

    >>> print(_plain("a red " + chr(27) + "[31m, half of " + chr(0xD83D)))
    a red \\x1b[31m, half of \\ud83d
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def _age(seconds: float) -> str:
    """How long ago, in the largest unit that gives a whole number.

    >>> _age(5), _age(600), _age(90000)
    ('5s', '10m', '25h')
    """
    for unit, length, most in (("s", 1, 120), ("m", 60, 120), ("h", 3600, 72)):
        if seconds < most * length:
            return f"{max(0, seconds) // length:.0f}{unit}"
    return f"{seconds // 86400:.0f}d"

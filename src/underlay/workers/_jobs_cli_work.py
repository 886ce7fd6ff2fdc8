"""`underlay jobs work`: finds the program's Jobs, and runs workers for them as processes, or is one of these.

This file knows what is checked before and printed. It refuses to know how workers are kept running, and how they run.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING

from ..errors import UsageError, plural
from ._say import say

if TYPE_CHECKING:
    from ._jobs import Jobs

__all__ = ["work"]


def work(args: argparse.Namespace) -> int:
    """Run workers until they are asked to end, or are idle; give the exit status."""
    from ._job_ends import Ends
    from ._job_processes import WorkerProcesses, ending_with_parent, stopping_on_signals
    from ._job_worker import LEAST_LEASE_S

    if args.lease < LEAST_LEASE_S:
        raise UsageError(
            f"jobs work: a lease of {args.lease:g} s ends before it can be prolonged",
            remedy=f"the least is {LEAST_LEASE_S} s; leave out --lease",
        )
    jobs = _load(args.target)
    if not jobs.tasks:
        raise UsageError(f"{args.target} has no task", remedy="register functions with @jobs.task")
    _check_executor(args.executor if args.executor is not None else jobs.executor)
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
                say=say,
            )
            ends = Ends(jobs.store, processes.name, dead=say, done=_print if args.verbose else None)
            _print(f"{plural(count, 'worker')} for {jobs.path}: {', '.join(sorted(jobs.tasks))}")
            status = processes.run(stop, until_idle=args.until_idle, look=ends.look)
            ends.last_look()
            if args.until_idle and not status:
                _print(f"{ends.done} done, {ends.dead} dead")
                return 1 if ends.dead else 0
            return status
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


def _print(line: str) -> None:
    print(line, flush=True)


def _check_executor(executor: object) -> None:
    """Say once what each worker would say: that there is no such kind of executor, or that its package is missing."""
    if isinstance(executor, str):
        from ._kinds import require

        require(executor)


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

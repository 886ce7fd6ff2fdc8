"""The command `underlay jobs`: runs workers, and shows, lists, retries, cancels and purges jobs.

This file knows the actions and their options. It refuses to know what they do: `work` is in _jobs_cli_work.py, all
others in _jobs_cli_people.py.
"""

from __future__ import annotations

import argparse
import math
from typing import Final

from ._job_states import JobState

__all__ = ["configure", "main"]

_EXAMPLES: Final = """
examples:
  underlay jobs work app:jobs --workers 4  run the tasks of `jobs` in app.py
  underlay jobs status jobs.db             how many wait, run or are dead
  underlay jobs status jobs.db 17          one job: arguments, events, result
  underlay jobs list jobs.db --state done  the newest that are done
  underlay jobs retry jobs.db 17 18        try dead letters again; or --all
  underlay jobs cancel jobs.db 19          take back what waits
  underlay jobs purge jobs.db --older-than 7d

`underlay jobs ACTION --help` tells more."""

# The longest unit is a day: weeks and months are counted in days by whoever says them.
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    parser.usage = "underlay jobs {work,status,list,retry,cancel,purge} ..."
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
    work.add_argument(
        "--until-idle", action="store_true", help="end when no job is left to run, with status 1 if one of them is dead"
    )
    work.add_argument("-v", "--verbose", action="store_true", help="print a line for each job that is done")
    work.add_argument("--worker", help=argparse.SUPPRESS)

    status = action("status", "show how many jobs wait, run, are done or dead, and the newest that are not done")
    status.add_argument("database", metavar="FILE")
    status.add_argument(
        "job", metavar="JOB", type=int, nargs="?", help="show this one, with its arguments and its result"
    )
    status.add_argument("--limit", type=_count, default=20, metavar="N", help="how many jobs to list (default: 20)")
    status.add_argument("--json", action="store_true", help="print the same as one JSON object")

    listed = action("list", "list the newest jobs, of any state or of those that are named")
    listed.add_argument("database", metavar="FILE")
    listed.add_argument(
        "--state",
        action="append",
        choices=[str(state) for state in JobState],
        metavar="STATE",
        help="waiting, running, done, dead or cancelled; once for each",
    )
    listed.add_argument("--task", metavar="NAME", help="only those of this task")
    listed.add_argument("--limit", type=_count, default=20, metavar="N", help="how many jobs to list (default: 20)")
    listed.add_argument("--json", action="store_true", help="print the same as one JSON object")

    retry = action("retry", "let dead or cancelled jobs be tried again")
    retry.add_argument("database", metavar="FILE")
    retry.add_argument("job", metavar="JOB", type=int, nargs="*")
    retry.add_argument("--all", action="store_true", help="all dead letters")
    retry.add_argument("--json", action="store_true", help="print what was done as one JSON object")

    cancel = action("cancel", "take back jobs that wait")
    cancel.add_argument("database", metavar="FILE")
    cancel.add_argument("job", metavar="JOB", type=int, nargs="+")
    cancel.add_argument("--json", action="store_true", help="print what was done as one JSON object")

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
    if args.action == "work":
        from ._jobs_cli_work import work

        return work(args)
    from ._jobs_cli_people import ACTIONS

    return ACTIONS[args.action](args)

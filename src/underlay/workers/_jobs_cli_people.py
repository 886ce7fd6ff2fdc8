"""`underlay jobs status`, `list`, `retry`, `cancel` and `purge`: what a person sees of jobs, and does with them.

This file knows what is printed. It refuses to know the program: it has the database alone, and so neither tasks nor a
serialiser.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, NoReturn

from ..errors import UsageError, plural

if TYPE_CHECKING:
    from ._job_records import Job
    from ._jobs import Jobs

__all__ = ["ACTIONS"]

_WIDTH: Final = 80


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
        told = {"schema": "underlay.jobs/1", **counted, "jobs": [asdict(job) for job in listed]}
        print(json.dumps(told, indent=2))
        return 0
    print("   ".join(f"{state} {counted[state]:,}" for state in JobState))
    open_jobs = sum(counted[state] for state in (JobState.WAITING, JobState.RUNNING, JobState.DEAD))
    if listed:
        print()
        _print_table(listed)
    if open_jobs > len(listed):
        print(f"{'':>8} and {open_jobs - len(listed):,} more; --limit shows more of them")
    return 0


def _list(args: argparse.Namespace) -> int:
    from ._job_states import JobState

    states = [JobState(state) for state in args.state or ()]
    with _open(args.database) as jobs:
        listed = jobs.newest(*states, task=args.task, limit=args.limit + 1)
    listed, more = listed[: args.limit], len(listed) > args.limit
    if args.json:
        told = {"schema": "underlay.jobs.list/1", "jobs": [asdict(job) for job in listed], "more": more}
        print(json.dumps(told, indent=2))
        return 0
    _print_table(listed)
    if more:
        print(f"{'':>8} and more; --limit shows them")
    return 0


def _print_table(listed: list[Job]) -> None:
    print(f"{'job':>8} {'state':<9} {'tries':>5} {'age':>6} task")
    for job in listed:
        print(_clip(f"{job.id:>8} {job.state:<9} {job.claims:>5} {_age(time.time() - job.submitted_at):>6} {job.task}"))
        if job.error is not None:
            print(_clip(f"{'':>8} {job.error}"))


def _one(jobs: Jobs, number: int, *, as_json: bool) -> int:
    job = jobs.job(number)
    # More than fits a screen is for --json's reader; each try is two events.
    events = jobs.store.events(0, number, 1000)
    arguments, result = jobs.store.data(number)
    if as_json:
        told = [{"id": each.id, "at": each.at, "event": each.event, "detail": each.detail} for each in events]
        known = {**asdict(job), "arguments": _json_of(arguments), "result": _json_of(result)}
        sizes = {"arguments_size_bytes": len(arguments), "result_size_bytes": None if result is None else len(result)}
        print(json.dumps({"schema": "underlay.job/1", **known, **sizes, "events": told}, indent=2))
        return 0
    key = f", key {job.key!r}" if job.key is not None else ""
    print(_clip(f"job {job.id}: {job.task}, {job.state}{key}"))
    print(_clip(f"arguments: {_call(arguments)}"))
    failed, lost = plural(job.failures, "time"), plural(job.losses, "time")
    print(f"begun {plural(job.claims, 'time')}, failed {failed} (dead at {job.retries + 1}), worker lost {lost}")
    for each in events:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.at))
        print(_clip(f"  {when}  {each.event:<10} {each.detail}"))
    if result is not None:
        print(_clip(f"result: {_value(result)}"))
    if job.error is not None:
        print(f"\n{_plain(job.error.traceback.rstrip() or str(job.error))}")
    return 0


def _retry(args: argparse.Namespace) -> int:
    if bool(args.job) == args.all:
        raise UsageError("jobs retry: no job is named", remedy="give their numbers, or --all for all dead letters")
    with _open(args.database) as jobs:
        if args.all:
            count = jobs.retry_dead()
        else:
            for number in args.job:
                jobs.retry(number)
            count = len(args.job)
    print(json.dumps({"schema": "underlay.jobs.retry/1", "retried": count}) if args.json else _wait_again(count))
    return 0


def _wait_again(count: int) -> str:
    return "1 waits again" if count == 1 else f"{count} wait again"


def _cancel(args: argparse.Namespace) -> int:
    with _open(args.database) as jobs:
        receipts = [jobs.receipt(number) for number in dict.fromkeys(args.job)]  # one that is not there stops all
        refused = [receipt for receipt in receipts if not receipt.cancel()]
        stand = ", ".join(f"{receipt.id} is {receipt.state}" for receipt in refused)
    count = len(receipts) - len(refused)
    print(json.dumps({"schema": "underlay.jobs.cancel/1", "cancelled": count}) if args.json else f"{count} cancelled")
    if refused:
        raise UsageError(f"job {stand}", remedy="only a job that waits is taken back")
    return 0


def _purge(args: argparse.Namespace) -> int:
    from ._job_states import JobState

    states = [JobState.DEAD] if args.dead else [JobState.DONE, JobState.CANCELLED]
    with _open(args.database) as jobs:
        count = jobs.purge(*states, older_than_s=args.older_than)
    print(json.dumps({"schema": "underlay.jobs.purge/1", "purged": count}) if args.json else f"{count} removed")
    return 0


def _json_of(data: bytes | None) -> object:
    """The value of what is JSON; None where it is something else, of a serialiser of the program's own."""
    if data is None:
        return None
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"JSON has no {word}")  # though json.loads() takes NaN


def _call(data: bytes) -> str:
    """The arguments as in a call, where they are JSON.

    >>> _call(b'[["cat.png", [1]], {"width": 64}]'), _call(b"{"), _call(b"[[], {}]")
    ('"cat.png", [1], width=64', '1 byte that is no JSON', 'none')
    """
    match _json_of(data):
        case [[*positional], {**named}]:
            words = [json.dumps(each, ensure_ascii=False) for each in positional]
            words += [f"{name}={json.dumps(each, ensure_ascii=False)}" for name, each in named.items()]
            return ", ".join(words) or "none"
        case _:
            return _value(data)


def _value(data: bytes) -> str:
    """A stored value as a text for a person."""
    if (value := _json_of(data)) is None and data != b"null":
        return f"{plural(len(data), 'byte')} that {'is' if len(data) == 1 else 'are'} no JSON"
    return json.dumps(value, ensure_ascii=False)


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


ACTIONS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {
    "status": _status,
    "list": _list,
    "retry": _retry,
    "cancel": _cancel,
    "purge": _purge,
}
"""What a person does with jobs, by the action's name; each gives the exit status."""

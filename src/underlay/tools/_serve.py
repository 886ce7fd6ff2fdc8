"""The command `underlay serve`: its options, and the words by which a running group is asked or told something.

It reads the command line into the group's ``Options``, and puts the I/O model that
``--io`` names beneath the workers in the way of `underlay run`: by what their
interpreters read at their start. The group itself knows no model.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import cast

from ..errors import UsageError, nearest
from ..loop import chosen_by_auto, resolve
from ..loop._run import check_executor, check_module, environment, watch_variable
from ..workers._serve import SHARES, WORDS, Group, Options, Policy, Program, Status, as_json, as_table, parse, request

__all__ = ["configure", "main"]

_USAGE = """underlay serve [options] PROGRAM [options] [-- ARGUMENT ...]
       underlay serve [options] -m MODULE [ARGUMENT ...]
       underlay serve --control PATH WORD [--json] [--timeout S]
where WORD is status, restart, more, fewer or stop"""

_DESCRIPTION = """\
Run an unmodified asyncio server several times, on one address, under
supervision. PROGRAM is module:function (a coroutine function, or any function
that serves until SIGTERM), or a script; -m runs a module as `python -m` does."""

_EPILOG = """\
Signals: SIGHUP restarts the workers one after the other, the new one first;
SIGTERM lets the connections end and then stops; SIGINT stops at once;
SIGTTIN and SIGTTOU mean one worker more and one fewer.

Exit status: 0 after a stop; 1 when none of the first workers ever listened, and
when a restart failed; 2 when PROGRAM or its address cannot be had.

examples:
  underlay serve app:main --workers 4
  underlay serve --workers 4 --control serve.sock app.py -- --port 8000
  underlay serve --workers 4 -m uvicorn asgi:app --port 8000
  underlay serve --control serve.sock status"""

# Models that cannot share one listening socket, and why.
_UNSHAREABLE = {
    "signal": "has the kernel signal one process per listening socket",
    "blocking": "can only leave a listening socket by ending it for all",
}
# A thousand processes of one program are a mistake in typing.
_MOST_WORKERS = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `underlay serve`."""
    policy = Policy()
    parser.usage = _USAGE
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("--workers", type=int, metavar="N", help="how many (default: one for each processor it may use)")
    add("--by", choices=("process", "thread"), default="process", help="what a worker is (default: process)")
    add(
        "--share",
        choices=SHARES,
        default="inherit",
        help="one listening socket for all, or SO_REUSEPORT (default: inherit)",
    )
    add("--io", metavar="MODEL", help="the I/O model beneath the workers, as in `underlay run`")
    add(
        "--watch",
        metavar="[=raise]",
        help="report each call that holds a worker's loop, as in `underlay run`",
    )
    add("--watch-threshold", metavar="TIME", help="how long a call may hold one, as in `underlay run`")
    add("--executor", metavar="KIND", help="where to_thread and the like run their calls, as in `underlay run`")
    add("--control", metavar="PATH", help="the control socket to make, or to ask at")
    add("--json", action="store_true", help="answer as one JSON object")
    _add_seconds(parser, "--timeout", 0.0, "for the answer of a running group; 0: no limit")
    _add_seconds(parser, "--drain", policy.drain_s, "for connections to end before a worker is asked to stop")
    _add_seconds(parser, "--kill-after", policy.kill_after_s, "for a worker that was asked to stop")
    _add_seconds(parser, "--start-timeout", policy.start_s, "for a new worker to listen; 0: no limit")
    _add_seconds(parser, "--health", policy.health_s, "replace a worker whose loop is blocked so long; 0: don't look")
    _add_seconds(parser, "--backoff", policy.backoff_first_s, "before a start after a crash; doubles")
    _add_seconds(parser, "--backoff-most", policy.backoff_most_s, "the longest such pause")
    # Here for the page of help; what follows it is taken off before argparse looks.
    add("-m", metavar="MODULE", help="run a module, as `python -m` does; all that follows is its own")
    add("program", metavar="PROGRAM", nargs="?", help="module:function, or a script")
    parse_ours = parser.parse_known_args

    def parse_known_args(
        arguments: Sequence[str], namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        # argparse treats what follows "--" differently from version to version.
        given = list(arguments)
        at = given.index("--") if "--" in given else len(given)
        at = next((at for at, word in enumerate(given[:at]) if word[:2] == "-m"), at)
        # As for `run`, a word after --watch is not its value: that is joined on.
        ours = ["--watch=report" if word == "--watch" else word for word in given[:at]]
        known, unknown = parse_ours(ours, namespace)
        if unknown and known.program is None:
            return known, unknown  # it is none of the program's, and argparse says what it is
        if unknown:
            raise UsageError(
                f"serve has no use for {' '.join(unknown)}", remedy="what is the program's own comes after --"
            )
        known.arguments = given[at + 1 :]
        if given[at : at + 1] not in ([], ["--"]):
            if joined := given[at][2:]:  # -mhttp.server
                known.arguments.insert(0, joined)
            if not known.arguments:
                raise UsageError("-m needs the name of a module", remedy="an example: -m uvicorn asgi:app")
            known.m = known.arguments.pop(0)
        return known, []

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign,assignment]


def _add_seconds(parser: argparse.ArgumentParser, name: str, default_s: float, why: str) -> None:
    parser.add_argument(name, type=_seconds, default=default_s, metavar="S", help=f"seconds {why} ({default_s:g})")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return value


def main(args: argparse.Namespace) -> int:
    """Ask a group, or be one until it is told to stop; the exit status."""
    word = args.program
    if args.m is not None:
        if word is not None:
            raise UsageError(
                f"serve runs one program, and not both {word} and -m {args.m}", remedy="leave one of them out"
            )
        check_module(args.m)
        return _serve(Program(args.m, tuple(args.arguments), is_module=True), args)
    if word is None:
        raise UsageError(
            "serve needs a program", remedy="say module:function, as in app:main, a script, or -m with a module"
        )
    if ":" not in word and not os.path.exists(word):
        if word in WORDS:
            return _ask(args.control, word, args.json, args.timeout)
        if not word.endswith(".py") and nearest(word, WORDS).startswith("did"):
            raise UsageError(f"{word!r} names no program, and no word for a running group", remedy=nearest(word, WORDS))
    return _serve(parse(word, args.arguments), args)


def _serve(program: Program, args: argparse.Namespace) -> int:
    """Be a group until it is told to stop; the exit status."""
    if args.json:
        raise UsageError("--json is for the answer of a running group", remedy="say it with status")
    if args.timeout:
        raise UsageError("--timeout is for the answer of a running group", remedy="say it with restart")
    count = len(os.sched_getaffinity(0)) if args.workers is None else args.workers
    if not 1 <= count <= _MOST_WORKERS:
        raise UsageError(f"--workers is {count}", remedy=f"say a number from 1 to {_MOST_WORKERS}")
    check_executor(args.executor)
    if sys.flags.ignore_environment and (args.io or args.watch):
        raise UsageError(
            "python's -I and -E keep underlay from putting a model beneath a program", remedy="leave it out"
        )
    policy = Policy(
        workers=count if args.by == "process" else 1,
        drain_s=args.drain,
        kill_after_s=args.kill_after,
        start_s=args.start_timeout,
        health_s=args.health,
        backoff_first_s=args.backoff,
        backoff_most_s=args.backoff_most,
    )
    options = Options(
        program=program,
        workers=count,
        by=args.by,
        share=args.share,
        control=args.control or "",
        executor=args.executor or "",
        policy=policy,
    )
    watch = watch_variable(args.watch, args.watch_threshold)
    # To be watched, a loop need not be one of ours.
    model = args.io or ("asyncio" if watch else None)
    return Group(options, {**_environment(model, args.share), **watch}).run()


def _environment(model: str | None, share: str) -> dict[str, str]:
    """The workers' environment: with the model, which must be one that this machine has and that can share."""
    if model is None:
        return dict(os.environ)
    resolve(model)
    name = chosen_by_auto()[0].name if model == "auto" else model
    if share == "inherit" and name in _UNSHAREABLE:
        raise UsageError(
            f"the model {name} {_UNSHAREABLE[name]}, so that its workers cannot share one",
            remedy="say --share reuse_port, or choose another model",
        )
    return environment(model, os.environ)


def _ask(control: str | None, word: str, is_json: bool, timeout_s: float) -> int:
    """Ask the group and print its answer."""
    if not control:
        raise UsageError(f"{word} needs the control socket of a running group", remedy="say --control PATH")
    status = cast("Status", request(control, word, timeout_s))
    print(as_json(status) if is_json else as_table(status))
    return 0

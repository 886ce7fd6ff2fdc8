"""The command `underlay compare`: its options, its progress, its exit status.

It reads the command line into a `Plan`, lets `_compare.py` carry it out, and hands the report to the terminal, the
page and the JSON file. It does not measure. Exit status: 0 when at least one model carried the load, 1 when none
did, 2 for a mistake in the asking, 130 when interrupted (what was measured by then is still shown).
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from ..errors import UsageError, nearest
from ..loop import MODELS, chosen_by_auto, model
from ._compare import Plan, compare, describe_machine, prove
from ._compare_page import write_page
from ._compare_progress import Interruption, Progress
from ._compare_report import Report
from ._compare_server import Program
from ._load import KINDS
from ._load_dialogue import MAX_DATAGRAM_BYTES

if TYPE_CHECKING:
    from rich.console import Console

REFERENCES = ("asyncio", "uvloop")

_DESCRIPTION = """\
Run a server program, unmodified, on each I/O model, put the same load on it, and
compare: requests per second, latency, CPU time, system calls and context switches
per request, memory per connection."""

_EPILOG = """\
examples:
  underlay compare examples/echo.py
  underlay compare --io epoll,uring,uvloop --connections 1000 examples/echo_streams.py
  underlay compare --load http:/count --html report.html examples/http_aiohttp.py
  underlay compare server.py --rounds 5 -- --port 8888     (the script's own options)"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `underlay compare`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.usage = "underlay compare [options] SCRIPT|-m MODULE [options] [-- ARGUMENT ...]"
    _add_options(parser)
    # All that follows the script is read by `_read_rest`, so that options may stand on both sides.
    parser.add_argument("program", metavar="SCRIPT", nargs=argparse.REMAINDER, help="the server")


def _add_options(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    def default(value: object) -> object:
        return argparse.SUPPRESS if again else value

    add = parser.add_argument
    add("-m", dest="module", metavar="MODULE", default=default(None), help="compare a module")
    add(
        "--io",
        metavar="MODELS",
        default=default("all"),
        help="all (default), or names with commas; asyncio and uvloop count as names",
    )
    add(
        "--load",
        metavar="KIND",
        default=default("tcp-echo"),
        help="tcp-echo (default), udp-echo, tls-echo, each also with :PORT; http:/path, https:/path or a URL",
    )
    add("--connections", metavar="N", type=int, default=default(100), help="default 100")
    add("--size", metavar="B", type=_size, default=default(1024), help="bytes per request: 1024, 64KiB")
    add("--duration", metavar="S", type=float, default=default(1.0), help="seconds per window, default 1")
    add("--rounds", metavar="R", type=int, default=default(3), help="default 3")
    add("--json", metavar="FILE", type=Path, default=default(None), help="write all figures")
    add("--html", metavar="FILE", type=Path, default=default(None), help="write a page with pictures")


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(|B|KiB|MiB|k|K|M)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 1024, 64KiB or 1MiB")
    return int(match[1]) << {"": 0, "B": 0, "K": 10, "k": 10, "KiB": 10, "M": 20, "MiB": 20}[match[2]]


def main(args: argparse.Namespace) -> int:
    """Compare, print and write what was found."""
    plan = read_plan(args)
    for path in (args.json, args.html):
        if path is not None:
            _must_be_writable(path)
    from rich.console import Console

    console = Console(width=80, highlight=False)
    report = Report(
        title=" ".join([plan.program.name, *plan.program.arguments]),
        command=shlex.join(["underlay", *sys.argv[1:]]),
        made=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=describe_machine(),
        load=plan.shape(),
    )
    interruption = Interruption()
    progress = Progress(plan.rounds, interruption.check)
    try:
        with interruption:
            progress.say(f"proving {plan.program.name} on asyncio")
            prove(plan)
            compare(plan, report, progress)
    except KeyboardInterrupt:
        report.interrupted = True
        for outcome in report.outcomes:
            if not outcome.samples and not outcome.failure:
                outcome.failure = "not measured before the interruption"
    finally:
        progress.clear()
    _tell(report, console, args)
    if report.interrupted:
        return 130
    return 0 if report.measured else 1


def _tell(report: Report, console: Console, args: argparse.Namespace) -> None:
    from ._compare_table import print_report

    if report.outcomes:
        print_report(report, console)
    if args.json is not None:
        text = json.dumps(report.as_json(), indent=1, ensure_ascii=False)
        args.json.write_text(text + "\n", encoding="utf-8")
    if args.html is not None:
        args.html.write_text(write_page(report), encoding="utf-8")


def read_plan(args: argparse.Namespace) -> Plan:
    """Turn the command line into a plan; UsageError says in one sentence what is wrong with it."""
    program = _read_program(args)
    models, unavailable = read_models(args.io)
    kind, port, path = read_load(args.load)
    if args.connections < 1 or args.rounds < 1 or args.duration <= 0 or args.size < 1:
        raise UsageError("--connections, --rounds, --duration and --size must be greater than 0")
    if kind == "udp-echo" and args.size > MAX_DATAGRAM_BYTES:
        raise UsageError(f"a UDP datagram holds at most {MAX_DATAGRAM_BYTES} bytes; choose a smaller --size")
    return Plan(
        program=program,
        models=models,
        unavailable=unavailable,
        kind=kind,
        path=path,
        port=port,
        connections=args.connections,
        size_bytes=args.size,
        duration_s=args.duration,
        rounds=args.rounds,
    )


def read_models(text: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Give the models' names, and for those that can't run here the reason.

    >>> read_models("epoll,asyncio")
    (('epoll', 'asyncio'), {})
    """
    everything = [*MODELS, *REFERENCES]
    uvloop = importlib.util.find_spec("uvloop") is not None
    if text == "all":
        names = [*MODELS, "asyncio"] + ["uvloop"] * uvloop
    else:
        names = []
        for word in text.split(","):
            name = word.strip().replace("-", "_").lower()
            name = chosen_by_auto()[0].name if name == "auto" else name
            if name not in everything:
                raise UsageError(
                    f"there is no I/O model {word.strip()!r}",
                    remedy=nearest(name, [known.replace("_", "-") for known in everything]),
                )
            if name not in names:
                names.append(name)
    unavailable: dict[str, str] = {}
    for name in names:
        if name in MODELS:
            row = model(name)
            if not row.available:
                unavailable[name] = "; ".join(filter(None, [row.reason, row.remedy]))
        elif name == "uvloop" and not uvloop:
            unavailable[name] = "it is not installed; pip install uvloop"
    return tuple(names), unavailable


def read_load(text: str) -> tuple[str, int | None, str]:
    """Give a load's kind, port (None: whatever the script opens) and path.

    >>> read_load("tls-echo:8443")
    ('tls-echo', 8443, '/')
    >>> read_load("http:/count?n=3")
    ('http', None, '/count?n=3')
    """
    if text.startswith("/"):
        return "http", None, text
    kind, _, rest = text.partition(":")
    if kind in ("http", "https"):
        url = urlsplit(text)
        try:
            port = int(rest) if rest.isdigit() else url.port
        except ValueError:
            raise UsageError(f"--load {text} has no valid port; write it as http://127.0.0.1:8000/") from None
        if url.hostname not in (None, "localhost", "127.0.0.1", "::1"):
            raise UsageError(
                f"compare loads the script that it runs on this machine, not {url.hostname}; "
                "leave the host out, as in --load http:/path"
            )
        path = "/" if rest.isdigit() or not rest else url.path or "/"
        return kind, port, path + (f"?{url.query}" if url.query else "")
    if kind not in KINDS:
        raise UsageError(f"there is no load {kind!r}", remedy=nearest(kind, KINDS))
    if rest and not (rest.isdigit() and 0 < int(rest) < 65536):
        raise UsageError(f"{rest!r} in --load {text} is no port; write {kind}:8000, or {kind} alone")
    return kind, int(rest) if rest else None, "/"


class _RestParser(argparse.ArgumentParser):
    """Reads what follows the script; its complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(
            f"compare: {message}", remedy="the script's own options go after `--`, as in app.py -- --port 8000"
        )


def _read_program(args: argparse.Namespace) -> Program:
    """Read the script and its arguments; options of ours may stand before and after it."""
    rest: list[str] = list(args.program)
    own: list[str] = []
    if "--" in rest:
        at = rest.index("--")
        rest, own = rest[:at], rest[at + 1 :]
    parser = _RestParser(prog="underlay compare", add_help=False, allow_abbrev=False)
    _add_options(parser, again=True)
    parser.add_argument("words", nargs="*")
    parser.parse_intermixed_args(rest, namespace=args)
    words: list[str] = args.words
    if args.module is not None:
        return Program(args.module, (*words, *own), is_module=True)
    if not words:
        if not own:
            raise UsageError("compare needs a script; try `underlay compare examples/echo.py`")
        words, own = own[:1], own[1:]
    script = Path(words[0])
    if not script.exists():
        raise UsageError(f"there is no file {words[0]!r}", remedy=_similar(script))
    if script.is_dir() and not (script / "__main__.py").exists():
        raise UsageError(f"{words[0]!r} is a directory without __main__.py; name a script in it")
    return Program(words[0], (*words[1:], *own))


def _similar(script: Path) -> str:
    try:
        names = [path.name for path in script.parent.iterdir() if path.suffix == ".py"]
    except OSError:
        names = []
    known = nearest(script.name, names) if names else ""
    return known if known.startswith("did you mean") else f"looked in {script.parent.resolve()}"


def _must_be_writable(path: Path) -> None:
    """Refuse at once what would fail only after minutes of measuring."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent}; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{path} can't be written; choose another place")

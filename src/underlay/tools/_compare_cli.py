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
import resource
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote, urlsplit

from ..errors import UnderlayError, UsageError, nearest
from ..loop import MODELS, chosen_by_auto, model
from ._compare import Plan, compare, describe_machine, prove
from ._compare_page import write_page
from ._compare_progress import Interruption, Progress
from ._compare_report import Report
from ._compare_server import Program
from ._leftovers import Guard
from ._load import KINDS
from ._load_dialogue import MAX_DATAGRAM_BYTES
from ._port_ranges import lent_ports

if TYPE_CHECKING:
    from rich.console import Console

REFERENCES = ("asyncio", "uvloop")

# A day: the longest window whose milliseconds poll(2) can wait for is 24 of them.
MAX_DURATION_S = 86_400

# What a process has open beside its connections: its streams, its loop's own, its listening socket.
OWN_DESCRIPTORS = 16

# What a path and a query may hold as it is (RFC 3986, 3.3 and 3.4); % is there of what is encoded already.
_SAFE_IN_PATH = "/%:@!$&'()*+,;=?~-._"

_DESCRIPTION = """\
Run a server program, unmodified, on each I/O model, put the same load on it,
and compare: requests per second, latency, CPU time, system calls and context
switches per request, memory per connection."""

_EPILOG = """\
examples:
  underlay compare examples/echo.py
  underlay compare --io epoll,uring,uvloop --connections 1000 examples/echo.py
  underlay compare --load http:/count --html page.html examples/http_aiohttp.py
  underlay compare server.py --rounds 5 -- --port 8888   (its own options)"""


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
        with Guard(), interruption:
            progress.say(f"proving {plan.program.name} on asyncio")
            prove(plan)
            compare(plan, report, progress)
    except KeyboardInterrupt:
        report.interrupted = True
        for outcome in report.outcomes:
            if not outcome.samples and not outcome.failure:
                outcome.failure = "not measured before the interruption"
    except BlockingIOError:  # EAGAIN of fork(2)
        raise UnderlayError(
            "no further process could be started", remedy="raise their limit (`ulimit -u`), or end some"
        ) from None
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
        _write(args.json, text + "\n")
    if args.html is not None:
        _write(args.html, write_page(report))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UnderlayError(f"{path} was not written: {error.strerror}", remedy="choose another place") from None


def read_plan(args: argparse.Namespace) -> Plan:
    """Turn the command line into a plan; UsageError says in one sentence what is wrong with it."""
    program = _read_program(args)
    models, unavailable = read_models(args.io)
    kind, port, path = read_load(args.load)
    _must_be_possible(kind, args.connections, args.size, args.duration, args.rounds)
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


def _must_be_possible(kind: str, connections: int, size_bytes: int, duration_s: float, rounds: int) -> None:
    """Refuse at once a load that no server could be put under from here."""
    if connections < 1 or rounds < 1 or size_bytes < 1 or not duration_s > 0:  # NaN is not greater than 0
        raise UsageError("--connections, --rounds, --duration and --size must be greater than 0")
    if duration_s > MAX_DURATION_S:
        raise UsageError(f"a window of --duration lasts at most {MAX_DURATION_S} s, a day; choose more --rounds")
    if kind == "udp-echo" and size_bytes > MAX_DATAGRAM_BYTES:
        raise UsageError(f"a UDP datagram holds at most {MAX_DATAGRAM_BYTES} bytes; choose a smaller --size")
    files = _open_files_allowed()
    if connections > files:
        raise UsageError(
            f"{connections} connections need more open files than a process may have here",
            remedy=f"choose at most {files}, or raise the hard limit (`ulimit -Hn`)",
        )
    first, last = lent_ports()  # as many connections can a client have to one server
    if connections > (ports := last - first + 1):
        raise UsageError(
            f"{connections} connections to one server need as many ports, and net.ipv4.ip_local_port_range has {ports}",
            remedy="choose fewer, or widen it with sysctl",
        )
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # The last exchange is verified on all connections at once: what is sent, what came, and a copy to compare.
    if 3 * connections * size_bytes > memory_bytes // 2:
        raise UsageError(
            f"{connections} connections of {size_bytes} bytes each do not fit into this machine's memory",
            remedy="choose a smaller --size or fewer --connections",
        )


def _open_files_allowed() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else max(1, hard - OWN_DESCRIPTORS)


def read_models(text: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Give the models' names, and for those that can't run here the reason.

    >>> read_models("epoll,asyncio")
    (('epoll', 'asyncio'), {})
    """
    everything = [*MODELS, *REFERENCES]
    uvloop = importlib.util.find_spec("uvloop") is not None
    names: list[str] = []
    for word in text.split(","):
        name = word.strip().replace("-", "_").lower()
        name = chosen_by_auto()[0].name if name == "auto" else name
        if name != "all" and name not in everything:
            raise UsageError(
                f"there is no I/O model {word.strip()!r}",
                remedy=nearest(name, ["all", *(known.replace("_", "-") for known in everything)]),
            )
        some = [*MODELS, "asyncio", *["uvloop"] * uvloop] if name == "all" else [name]
        names += [each for each in some if each not in names]
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
    kind, _, rest = ("http", ":", text) if text.startswith("/") else text.partition(":")
    if kind in ("http", "https"):
        try:
            url = urlsplit(f"{kind}:{rest}")
            port = int(rest) if rest.isdecimal() else url.port
            if port is not None and not 0 < port < 65536:
                raise ValueError
        except ValueError:
            raise UsageError(f"--load {text} has no valid port; write it as http://127.0.0.1:8000/") from None
        if url.hostname not in (None, "localhost", "127.0.0.1", "::1"):
            raise UsageError(
                f"compare loads the script that it runs on this machine, not {url.hostname}; "
                "leave the host out, as in --load http:/path"
            )
        path = "" if rest.isdecimal() else url.path.removeprefix("/") + (f"?{url.query}" if url.query else "")
        return kind, port, "/" + quote(path, safe=_SAFE_IN_PATH)
    if kind not in KINDS:
        raise UsageError(f"there is no load {kind!r}", remedy=nearest(kind, KINDS))
    if rest and not (rest.isdecimal() and 0 < int(rest) < 65536):
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
    return known if known.startswith("did you mean") else f"looked in {os.path.join(_here(), script.parent)}"


def _here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "a current directory that was removed"


def _must_be_writable(path: Path) -> None:
    """Refuse at once what would fail only after minutes of measuring."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent}; make it first")
    there = path.exists()
    if there and not path.is_file():
        return  # a pipe or a device: to open it may already mean something
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        if not there:
            path.unlink()
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}; choose another place") from None

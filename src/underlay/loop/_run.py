"""The command `underlay run`: a program, exactly as `python` runs it, with a model underneath.

The program is not run here but by the interpreter itself: this process becomes,
by exec(3), the same ``python`` with the same flags, told to run the program, and
``_site/sitecustomize.py`` puts the model beneath it before it begins. So what a
program could notice is right by construction: ``sys.argv``, ``sys.path``,
``__main__`` (and with it pickling and multiprocessing), ``-m``, ``-c``, a script
on stdin, zip files, tracebacks and stacks without a frame of ours, warnings,
signals, the exit status, the process id. Running it inside this process, by
``runpy``, was the other way: it saves an interpreter's start (about 10 ms), but
leaves our frames in each ``traceback.print_stack()`` and in asyncio's debug
messages, and loses the model whenever a program starts itself again, as
auto-reloaders do.

This file knows what python's command line can name and what is wrong with it
before anything starts. It refuses to import asyncio or any model: what a model
needs is asked in the process that will run on it, once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from typing import NoReturn

from ..errors import UsageError, nearest
from ._net_spec import EXAMPLE, parse_network
from ._site.sitecustomize import (
    CAPTURE_VARIABLE,
    EXECUTOR_VARIABLE,
    INTERRUPT_WAITS,
    MODEL_VARIABLE,
    NET_VARIABLE,
    PROGRAM_VARIABLE,
    WATCH_VARIABLE,
)

__all__ = ["check_executor", "check_module", "configure", "environment", "main", "watch_variable"]

# The directory that holds nothing but our sitecustomize.
_SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_site")
_DEFAULT_MODEL = "auto"
# As loop.watchdog(), which this file doesn't import: it would import asyncio.
_THRESHOLD = "50ms"
_WITH_VALUE = {"--io", "--net", "--capture", "--executor", "--watch-threshold"}

_HINT = "name a script, or a module with -m: see `underlay run --help`"
_NEEDS = {"-m": "the name of a module", "-c": "the code to run"}

_USAGE = """underlay run [--io MODEL] [--executor KIND] PROGRAM [ARGUMENT ...]
       underlay run --net NETWORK [--capture FILE] PROGRAM [ARGUMENT ...]
       underlay run --watch[=raise] [--watch-threshold TIME] PROGRAM ...
where PROGRAM is SCRIPT, -m MODULE or -c CODE"""

_EPILOG = f"""\
MODEL is one that `underlay models` lists, auto for the best that this machine
offers, or, to compare with, asyncio (the standard loop) or uvloop. Without --io
it is the value of the variable {MODEL_VARIABLE}, else {_DEFAULT_MODEL}.

Python processes that the program starts run on the same model; a program that
does not want that sets {MODEL_VARIABLE}=asyncio in their environment.

NETWORK puts the program on a TCP/IP stack of its own, in its own process:
{EXAMPLE} is a TAP device on which the stack is
10.9.0.2 and the kernel 10.9.0.1 (tun: the same without Ethernet; lo: no device,
the program alone with itself). Further words: ip= another address, gw= the
gateway, mtu= bytes, dns= a name server, dev= the device's name, peer= the
kernel's address, offload=no, busy_poll= microseconds to look for the next frame
before sleeping. Processes that the program starts are on the kernel's network.

KIND is inline, thread, process, interpreter, celery or dask; options follow it,
as in process,max_workers=4."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``run``: ours, and then python's own way to name a program."""
    parser.usage = _USAGE
    parser.description = "Run a program, unmodified, on an I/O model, exactly as `python` would run it."
    parser.epilog = _EPILOG
    parser.add_argument(
        "--io",
        metavar="MODEL",
        help=f"the I/O model to put underneath (default: {_default_model()})".replace("%", "%%"),
    )
    parser.add_argument("--net", metavar="NETWORK", help="a user-space TCP/IP stack to put underneath")
    parser.add_argument("--capture", metavar="FILE", help="write what its device carries to FILE, as pcapng")
    parser.add_argument(
        "--watch",
        nargs="?",
        const="report",
        metavar="=raise",
        help="report each call that holds an event loop, with its stack; =raise also refuses calls known to block",
    )
    parser.add_argument(
        "--watch-threshold", metavar="TIME", help=f"how long a call may hold one (default: {_THRESHOLD})"
    )
    parser.add_argument(
        "--executor", metavar="KIND", help="where run_in_executor(None, …) and to_thread run their calls"
    )
    # Here for the page of help; _part() has taken them off before argparse looks.
    parser.add_argument("-m", metavar="MODULE", help="run a module, as `python -m` does")
    parser.add_argument("-c", metavar="CODE", help="run CODE, as `python -c` does")
    parser.add_argument("program", metavar="SCRIPT", nargs="*", help="a file, a directory, a zip file or -")
    parse_ours = parser.parse_known_args

    def parse_known_args(
        arguments: Sequence[str], namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        ours, program = _part(arguments)
        known, unknown = parse_ours(ours, namespace)
        known.program = program
        return known, unknown

    # argparse has REMAINDER for this, but takes the program's options for ours
    # after "-mMODULE", and its treatment of "--" differs between Python versions.
    parser.parse_known_args = parse_known_args  # type: ignore[method-assign,assignment]


def _part(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part what is said to `run` from the program: the first word that is no option of ours begins it.

    >>> _part(["--io", "epoll", "app.py", "--io", "x"])
    (['--io', 'epoll'], ['app.py', '--io', 'x'])
    """
    at = 0
    while at < len(arguments):
        if arguments[at] in _WITH_VALUE:
            at += 2
        elif arguments[at] in ("-h", "--help", "--watch") or arguments[at].partition("=")[0] in _WITH_VALUE | {
            "--watch"
        }:
            at += 1
        else:
            break
    return list(arguments[:at]), list(arguments[at:])


def main(args: argparse.Namespace) -> int:
    """Become the program. Returns only by an error: ``UsageError`` for what cannot be run."""
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise UsageError(
            "python's -I, -E and -S keep underlay from putting a model beneath a program",
            remedy="leave them out",
        )
    if args.io is not None and not args.io.strip():
        raise UsageError("--io needs the name of a model", remedy="`underlay models` lists them")
    # With --net it is only for Python processes that the program starts.
    env = environment(args.io or _default_model(), os.environ, pid=os.getpid())
    if args.net is not None:
        parse_network(args.net)  # only for its complaint, before the program starts
        if args.io is not None:
            raise UsageError(
                "--io and --net exclude each other", remedy="leave one out: a network of its own waits by epoll"
            )
        env[NET_VARIABLE] = args.net
    if args.capture is not None:
        _check_capture(args.capture, args.net)
        env[CAPTURE_VARIABLE] = args.capture
    env.update(watch_variable(args.watch, args.watch_threshold))
    check_executor(args.executor)
    if args.executor is not None:
        env[EXECUTOR_VARIABLE] = args.executor
    _become(_program_arguments(args.program), env)


def watch_variable(watch: str | None, threshold: str | None) -> dict[str, str]:
    """What the environment of a process says, so that its loops are watched; empty without ``watch``.

    >>> watch_variable("report", None), watch_variable(None, None)
    ({'UNDERLAY_WATCH': '50ms report'}, {})
    """
    if watch is None:
        if threshold is not None:
            raise UsageError("--watch-threshold is for --watch, which isn't there", remedy="say --watch too")
        return {}
    from ._watch_words import variable_for

    return {WATCH_VARIABLE: variable_for(watch, _THRESHOLD if threshold is None else threshold)}


def check_executor(words: str | None) -> None:
    """Raise ``UsageError`` for an `--executor` that says nothing; what it says is checked where it is installed."""
    if words == "":
        raise UsageError("--executor needs a kind", remedy="an example: --executor process,max_workers=4")


def _check_capture(file: str, net: str | None) -> None:
    """Refuse a capture without a device, or without a name."""
    if not file:
        raise UsageError("--capture needs the name of a file", remedy="an example: --capture out.pcapng")
    if net is None:
        remedy = f"say --net too, as in --net {EXAMPLE}; for the kernel's network there is tcpdump"
        raise UsageError("--capture is of a network of the program's own, and there is none", remedy=remedy)
    if parse_network(net).kind == "lo":
        raise UsageError(
            "--capture writes what a device carries, and the network lo has none", remedy=f"say --net {EXAMPLE}"
        )


def _default_model() -> str:
    """The model where --io is left out."""
    return os.environ.get(MODEL_VARIABLE) or _DEFAULT_MODEL


def environment(model: str, inherited: Mapping[str, str], *, pid: int | None = None) -> dict[str, str]:
    """The environment in which a Python process runs on ``model``: ``inherited`` and three changes.

    ``pid`` is that of the process in which a model that cannot run is to end the
    program; without it the process would keep the standard loop and say so.

    >>> new = environment("epoll", {"PYTHONPATH": "/lib"})
    >>> new["UNDERLAY_IO"], new["PYTHONPATH"].endswith("_site:/lib")
    ('epoll', True)
    """
    changed = dict(inherited)
    paths = [path for path in changed.get("PYTHONPATH", "").split(os.pathsep) if path != _SITE]
    changed["PYTHONPATH"] = os.pathsep.join([_SITE, *filter(None, paths)])
    changed[MODEL_VARIABLE] = model
    if pid is not None:
        changed[PROGRAM_VARIABLE] = str(pid)
    return changed


def _become(arguments: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Replace this process by python with ``arguments``."""
    # The function by which multiprocessing, too, hands an interpreter's flags on.
    # It knows all but -u, which leaves no flag, only a stdout that writes through.
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    flags = [*_args_from_interpreter_flags()]
    if getattr(sys.stdout, "write_through", False):
        flags.append("-u")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None where the shell closed it (`>&-`)
            stream.flush()
    # From here to the program's beginning the process is ours, and Ctrl-C must end it without a traceback of ours. The
    # new interpreter would set its handler first of all; so the signal waits until `sitecustomize` is asked.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    if signal.SIGINT not in blocked:
        env = {**env, PROGRAM_VARIABLE: env[PROGRAM_VARIABLE] + INTERRUPT_WAITS}
    try:
        os.execve(sys.executable, [sys.executable, *flags, *arguments], env)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _program_arguments(program: list[str]) -> list[str]:
    """What follows ``python`` on the command line, once it is sure to name something."""
    if not program:
        raise UsageError("no program to run", remedy=_HINT)
    first, *rest = program
    kind, value = first[:2], first[2:]
    if kind in ("-m", "-c"):  # the value may be joined on: -mhttp.server
        if not value and not rest:
            raise UsageError(f"{kind} needs {_NEEDS[kind]}", remedy=_HINT)
        if kind == "-m":
            check_module(value or rest[0])
    elif first != "-":
        _check_script(first)
    return program


def _check_script(script: str) -> None:
    """Raise ``UsageError`` for a script that python could not begin to run."""
    if script.startswith("-"):
        raise UsageError(f"no option {script} here", remedy=_HINT)
    if not os.path.exists(script):
        raise UsageError(f"there is no script {script}", remedy=_remedy_for(script))
    if not os.access(script, os.R_OK):
        raise UsageError(f"the script {script} may not be read", remedy="`chmod +r` would allow it")
    if _is_archive(script) and _find("__main__", [script]) is None:
        kind = "directory" if os.path.isdir(script) else "zip file"
        raise UsageError(f"{script} is a {kind} without a __main__.py", remedy="name a script in it")


def _remedy_for(script: str) -> str:
    """What was probably meant by a script that does not exist."""
    directory, name = os.path.split(script)
    if not name.endswith(".py") and not directory and _find(name, _module_path()) is not None:
        return f"for the module of that name say -m {name}"
    try:
        scripts = [entry for entry in os.listdir(directory or ".") if entry.endswith(".py")]
    except OSError:
        return f"there is no directory {directory} either"
    # The nearest name, where there is one; not a list of a whole directory.
    guess = nearest(name, scripts) if scripts else ""
    if guess.startswith("did"):
        return guess
    return "check the path"


def _is_archive(script: str) -> bool:
    """Whether python would look for a __main__ inside ``script``, as it does in what can hold modules."""
    if os.path.isdir(script):
        return True
    if not os.path.isfile(script):
        return False  # a pipe would lose what zipimport reads of it
    import zipimport

    try:
        zipimport.zipimporter(script)
    except zipimport.ZipImportError:
        return False
    return True


def check_module(name: str) -> None:
    """Raise ``UsageError`` for a module that `python -m` cannot find, without importing any.

    A package's own code may add to where its modules are found. So only a clear
    absence counts; what is unclear is left to python.
    """
    path: Iterable[str] | None = _module_path()
    parts = name.split(".")
    found: ModuleSpec | None = None
    for depth in range(1, len(parts) + 1):
        dotted = ".".join(parts[:depth])
        try:
            found = _find(dotted, path)
        except Exception:
            return  # a finder that needs the parent imported
        if found is None:
            remedy = f"is it installed for {sys.executable}?"
            if name.endswith(".py"):
                remedy = f"a script is named without -m, a module without .py: -m {name[:-3]}"
            raise UsageError(f"there is no module {dotted}", remedy=remedy)
        path = found.submodule_search_locations
        if path is None and depth < len(parts):
            raise UsageError(
                f"{dotted} is a module, not a package, and holds no {parts[depth]}",
                remedy=f"-m {dotted} runs it"
                if parts[depth] != "py"
                else f"a script is named without -m, a module without .py: -m {dotted}",
            )
    if path is not None and _find(f"{name}.__main__", path) is None:
        raise UsageError(f"{name} is a package without a __main__.py", remedy="name one of its modules")


def _module_path() -> list[str]:
    """Where `python -m` looks: as this process does, but first of all in the current directory."""
    if sys.flags.safe_path:
        return list(sys.path)
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it was removed; python looks nowhere then
        return sys.path[1:]
    return [here, *sys.path[1:]]


def _find(name: str, path: Iterable[str] | None) -> ModuleSpec | None:
    """Ask the finders for a module's spec, as an import would, with ``path`` in sys.path's place."""
    from importlib.machinery import PathFinder

    locations = None if path is None else list(path)
    for finder in sys.meta_path:
        if finder is PathFinder:
            spec = PathFinder.find_spec(name, locations)
        else:
            spec = finder.find_spec(name, locations if "." in name else None)
        if spec is not None:
            return spec
    return None

"""The command ``underlay``: which commands there are, and how an error leaves the program.

This file knows the commands' names, their one-line help and the module behind
each; a module is imported only when its command is chosen, so that one that is
broken or missing harms no other. It refuses to know what any command does. Each
command module offers::

    def configure(parser: argparse.ArgumentParser) -> None   # its options
    def main(args: argparse.Namespace) -> int                # its work; the exit status
    INTERMIXED = True                                        # if options may stand between its words
"""

from __future__ import annotations

# `signal` itself takes milliseconds to import; this is the part of it that is compiled in.
import _signal  # type: ignore[import-not-found]
import sys

_had_default_interrupt = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler


# Ctrl-C while Python imports what follows would show a traceback of ours. Until a command begins, nothing is made that
# it could leave behind, so meanwhile the signal ends the process as it ends any program that does not know of it.
def _let_interrupts_end(quietly: bool) -> None:
    """Let Ctrl-C end this process without a word, or raise KeyboardInterrupt again; not where it was ignored."""
    if _had_default_interrupt:
        try:
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL if quietly else _signal.default_int_handler)
        except ValueError:
            pass  # not the main thread, whose matter it is


_let_interrupts_end(quietly=True)

import argparse
import contextlib
import errno
import importlib
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from . import __version__
from .errors import UnderlayError, UsageError, nearest

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

__all__ = ["COMMANDS", "GROUPS", "entry", "main"]

# {heading: {command: (module below this package, one-line help)}}. A line of
# help has 62 columns: 80, less the indent of 2, the names' 10 and their gap.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Swap the layer beneath a program": {
        "models": (
            ".loop._models_cli",
            "list the I/O models, and which of them this machine can run",
        ),
        "run": (".loop._run", "run a program, unmodified, on one of them"),
        "compare": (".tools._compare_cli", "run a program on each of them under load, and compare"),
    },
    "Run it several times": {
        "serve": (".tools._serve", "run a server in several workers, and restart them without a pause"),
    },
    "Give it a network of its own": {
        "net": (".tools._net", "make a TAP or TUN device with an address, and remove it again"),
    },
    "Break the network beneath it": {
        "sim": (".sim._cli", "run a scenario on a simulated internet, from a seed"),
    },
    "Join processes on one machine": {
        "ipc": (".ipc._kinds_cli", "list the kinds of channel, what each can do, and the names in use"),
        "jobs": (".workers._jobs_cli", "run durable jobs; show, retry, cancel and purge them"),
    },
    "Ask the machine": {
        "ports": (".tools.ports._cli", "list sockets and who holds them; why a port cannot be bound"),
        "speed": (".tools.speed._cli", "measure throughput, loss and jitter, with iperf3 or itself"),
        "capture": (".tools.capture._cli", "show the packets on the wire, and who sends them; write pcapng"),
        "stat": (".tools.stat._cli", "show what the machine is busy with, as rows or live"),
        "path": (".tools.path._cli", "show each hop on the way to a host, its delay and loss"),
    },
    "Talk to a program by hand": {
        "connect": (".tools._connect", "open a connection and join it to this terminal"),
        "listen": (".tools._listen", "wait for a connection and join it to this terminal"),
    },
}

COMMANDS: dict[str, tuple[str, str]] = {name: entry for group in GROUPS.values() for name, entry in group.items()}

_EXAMPLES = (
    ("underlay models", "what can this machine do?"),
    ("underlay run --io epoll-et app.py", "run app.py, edge-triggered"),
    ("underlay run --io uring -m uvicorn app:app", "the same for a module"),
    ("underlay run --net tap:10.9.0.2/24 app.py", "on a TCP/IP stack of its own"),
    ("underlay compare examples/echo.py", "which model suits it best?"),
    ("underlay serve app:main --workers 4", "one address, four processes"),
    ("underlay sim scenario.py --seed 7", "a bad network, replayed"),
    ("underlay connect localhost:8888", "talk to it yourself"),
)

# 128 + SIGINT and 128 + SIGPIPE: what a shell reports for a program that the
# signal ended (POSIX.1-2017, Shell Command Language, 2.8.2).
_INTERRUPTED = 130
_BROKEN_PIPE = 141

# What a machine runs out of, and what mends it: errno(3). Other failed calls are told by the command, or are bugs.
_SHORTAGES = {
    errno.ENOSPC: "make room on the disk, or send the output elsewhere",
    errno.EDQUOT: "make room on the disk, or send the output elsewhere",
    errno.EFBIG: "raise the limit of a file's size (`ulimit -f`), or send the output elsewhere",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENFILE: "end programs that hold many files open",
    errno.ENOMEM: "end other programs, or raise the limits of memory (`ulimit -v`, `ulimit -l`)",
}


# How argparse complains of a word that int() or float() does not take: by the function's name.
_NO_NUMBER = re.compile("invalid (int|float) value: (.*)", re.DOTALL)
_NUMBERS = {"int": "whole number", "float": "number"}


class Command(Protocol):
    """What a command's module offers."""

    def configure(self, parser: argparse.ArgumentParser, /) -> None:
        """Add the command's arguments to ``parser``."""

    def main(self, args: argparse.Namespace, /) -> int:
        """Do the command's work and return the exit status."""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help of at most 80 columns: it wraps one long line, and keeps text that has lines of its own."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(_columns(), 80) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text.strip():
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


def _columns() -> int:
    """The terminal's columns as `shutil.get_terminal_size` finds them, without the archives that it imports: 5 ms."""
    try:
        columns = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(1).columns
        except OSError:  # no terminal
            columns = 0
    return columns or 80


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence, raised instead of printed, and whose help fails where it cannot be."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if file is not None:  # there is none where the shell closed stdout
            file.write(message)

    def error(self, message: str) -> NoReturn:
        message = _NO_NUMBER.sub(lambda found: f"{found[2]} is no {_NUMBERS[found[1]]}", message)
        # What begins with a dash argparse takes for an option, a negative number too where `-4` is one.
        message = message.replace("expected one argument", "it takes a word behind it, and none that begins with -")
        raise UsageError(
            f"{self.prog.removeprefix('underlay ')}: {message}",
            remedy=f"`{self.prog} --help` tells how it is used",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names and return its exit status.

    Without ``argv`` it is the process's own. The status is the command's own; 2
    for a mistake in the asking, told in one line on stderr; 130 when interrupted;
    141 when the reader of our output left.

    >>> main(["--version"])
    underlay ...
    0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
        _flush()  # so that a broken pipe or a full disk shows here and not at exit
        return status
    except UnderlayError as error:
        _complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # some other pipe or socket: that one is a bug, and shows
        return _BROKEN_PIPE
    except OSError as error:
        if (remedy := _SHORTAGES.get(error.errno or 0)) is None:
            raise
        _silence_stdout()  # which may be what refused, and would again at exit
        return _refused(os.strerror(error.errno or 0), remedy)
    except MemoryError:
        return _refused(os.strerror(errno.ENOMEM), _SHORTAGES[errno.ENOMEM])


def entry() -> NoReturn:
    """Run the command and end the process with its exit status: the console script."""
    _let_interrupts_end(quietly=True)
    _keep_stdout_whole()
    status = main()
    _let_interrupts_end(quietly=True)  # nothing is left to be cleared away but by Python itself
    sys.exit(status)


def _keep_stdout_whole() -> None:
    """Put another in the place of a stdout that would lose output, which most are not."""
    try:
        if sys.stdout is None or (os.get_blocking(sys.stdout.fileno()) and hasattr(sys.stdout.buffer, "raw")):
            return
    except (AttributeError, OSError, ValueError):  # it is no file, or closed, which shows when something is written
        return
    from .tools._whole_stdout import whole

    sys.stdout = whole(sys.stdout)


def _refused(what: str, remedy: str) -> int:
    _complain(f"this machine refused what the command needs: {what}; {remedy}")
    return UnderlayError.exit_status


def _dispatch(arguments: list[str]) -> int:
    """Answer --help and --version, or hand over to the command."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "help"):
        if rest and not rest[0].startswith("-"):
            return _run_command(rest[0], ["--help"])
        print(_help_page())
        return 0
    if name in ("-V", "--version"):
        print(f"underlay {__version__}")
        return 0
    if name.startswith("-"):
        raise UsageError(f"no option {name} here", remedy="a command comes first: see `underlay --help`")
    return _run_command(name, rest)


def _run_command(name: str, arguments: list[str]) -> int:
    """Import the command's module, let it read its arguments, and let it work."""
    command = _load(name)
    help_line = COMMANDS[name][1]
    parser = _Parser(
        prog=f"underlay {name}",
        description=help_line[0].upper() + help_line[1:] + ".",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    command.configure(parser)
    try:
        intermixed = getattr(command, "INTERMIXED", False)
        args = parser.parse_intermixed_args(arguments) if intermixed else parser.parse_args(arguments)
    except SystemExit as stop:  # --help has printed its page
        return int(stop.code or 0)
    _let_interrupts_end(quietly=False)  # from here on a command may have things to clear away
    return command.main(args)


def _load(name: str) -> Command:
    """Import the module behind a command, or say in one sentence why there is none."""
    if name not in COMMANDS:
        raise UsageError(f"no command is called {name!r}", remedy=nearest(name, COMMANDS))
    module = COMMANDS[name][0]
    absolute = importlib.util.resolve_name(module, __package__)
    try:
        return cast("Command", importlib.import_module(absolute))
    except ModuleNotFoundError as error:
        # Ours is absent: this build lacks the command. A missing library of
        # someone else's keeps its own message and traceback.
        if error.name is None or not absolute.startswith(error.name):
            raise
        raise UsageError(
            f"this build of underlay {__version__} has no command {name!r}",
            remedy="installing underlay again would bring it",
        ) from error


def _help_page() -> str:
    """Write the page of `underlay --help`: what it is, the commands in groups, examples."""
    lines = [
        "Choose, see and break what lies under your asyncio program.",
        "",
        "usage: underlay COMMAND [options]",
    ]
    for heading, commands in GROUPS.items():
        lines += ["", f"{heading}:"]
        lines += [f"  {name:<10}  {text}" for name, (_, text) in commands.items()]
    lines += ["", "Examples:"]
    lines += [f"  {line:<44}  {why}" for line, why in _EXAMPLES]
    lines += ["", "`underlay COMMAND --help` tells more; `underlay --version` gives the version."]
    return "\n".join(lines)


def _complain(sentence: str) -> None:
    from .tools._say import say  # only a mistake needs it

    say(sentence)


def _flush() -> None:
    # It is None where the shell closed it (`>&-`), whatever typeshed says.
    if sys.stdout is not None:
        sys.stdout.flush()


def _reader_is_gone() -> bool:
    """Tell whether it was our stdout that broke, and if so silence it for good."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    try:
        import select

        watch = select.poll()
    except (ImportError, AttributeError):  # no poll(2) here: believe it
        broken = True
    else:
        watch.register(descriptor, 0)
        broken = any(events & select.POLLERR for _, events in watch.poll(0))
    if broken:
        _silence_stdout()
    return broken


def _silence_stdout() -> None:
    """Give what the interpreter flushes once more as it ends somewhere to go.

    Source: docs.python.org/3/library/signal.html#note-on-sigpipe.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no stdout, none with a descriptor, none to spare
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


if not sys.argv[:1] or not sys.argv[0].endswith(("/underlay", "/underlay/__main__.py")):
    _let_interrupts_end(quietly=False)  # it is imported by another program, which keeps what it had

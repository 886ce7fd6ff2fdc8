"""The command ``underlay ports``: lists sockets, watches them, says why a bind fails, and ends one.

This file knows options, exit statuses and where text goes. It refuses to know what is in a row.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ...errors import UsageError
from .._say import say
from ._filter import Filter

if TYPE_CHECKING:
    from ._list import Snapshot
    from ._socket import Socket
    from ._table import Line
    from ._watch import Change, Watch

__all__ = ["INTERMIXED", "configure", "main"]

INTERMIXED: Final = True
"""Options may stand between the words: ``why --udp 53``."""

_EXAMPLES: Final = """\
filters (words of one kind widen, words of different kinds narrow):
  80  8000-8010  http          a port at either end, exactly
  127.0.0.1  10.0.0.0/8        an address or a network at either end
  127.0.0.1:80  [::1]:80       both of them
  local:80  peer:10.0.0.0/8    the same at one end
  state:time-wait  proto:udp6  user:www-data  pid:4711  program:nginx
  inode:12345  unix:/run/app.sock

examples:
  underlay ports                       every socket, and who holds it
  underlay ports 8080                  who has port 8080, at either end
  underlay ports state:listen          who listens
  underlay ports --info peer:10.0.0.0/8  rtt, window and losses to them
  underlay ports --count               how many are in which state
  underlay ports --watch proto:tcp     what opens and closes, as it happens
  underlay ports why 8080              why it cannot be bound, and what mends it
  underlay ports why --udp 127.0.0.1:53
  underlay ports close local:127.0.0.1:8080 state:time-wait

exit status:
  0  done; `why`: it can be bound
  1  nothing matches, or nothing was closed; `why`: it cannot be bound
  2  wrong use, or a right that is missing"""

_NARROWEST: Final = 40


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``underlay ports``."""
    parser.usage = (
        "underlay ports [option ...] [FILTER ...]\n"
        "       underlay ports why [--udp] [HOST:]PORT\n"
        "       underlay ports close [--yes] FILTER ..."
    )
    parser.description = "List the sockets of this machine, say why an address cannot be bound, or end a socket."
    parser.epilog = _EXAMPLES
    parser.add_argument("words", metavar="FILTER", nargs="*", help="which sockets; all without any")
    parser.add_argument("--info", action="store_true", help="add timers and what TCP knows: rtt, window, losses")
    parser.add_argument("--no-owners", action="store_true", help="leave out the processes, which is quicker")
    parser.add_argument("--count", action="store_true", help="count them by state instead")
    parser.add_argument("--watch", action="store_true", help="show what opens, changes and closes, until Ctrl-C")
    parser.add_argument("--interval", type=_seconds, metavar="S", help="watch: look at least so often (1)")
    parser.add_argument("--udp", action="store_true", help="why: of a UDP port")
    parser.add_argument("--yes", action="store_true", help="close: do not ask")
    parser.add_argument("--json", action="store_true", help="print JSON; while watching, an object a line")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.01 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no time between 0.01 and 3600 seconds")
    return value


def main(args: argparse.Namespace) -> int:
    """Do what the words and options say."""
    action, words = (args.words[0], args.words[1:]) if args.words[:1] in (["why"], ["close"]) else ("list", args.words)
    _check(args, action)
    match action:
        case "why":
            return _why(args, words)
        case "close":
            return _close(args, words)
        case _:
            return _watch(args, words) if args.watch else _list(args, words)


def _check(args: argparse.Namespace, action: str) -> None:
    """Refuse options that mean nothing where they stand."""
    of_lists = ("info", "no_owners", "count", "watch", "interval")
    senseless = {"list": ("udp", "yes"), "why": (*of_lists, "yes"), "close": (*of_lists, "udp")}
    if action == "list" and args.watch:
        senseless["list"] += ("info", "no_owners", "count")
    else:
        senseless["list"] += ("interval", "info") if args.count else ("interval",)
    for name in senseless[action]:
        if getattr(args, name):
            option = f"--{name.replace('_', '-')}"
            where = {"list": "in a watch" if args.watch else "in a list"}.get(action, f"with {action}")
            raise UsageError(f"ports: {option} means nothing {where}", remedy="leave it out")


# --- list ------------------------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace, words: list[str]) -> int:
    from ._list import take_snapshot, without_collector
    from ._table import count_lines, list_lines

    only = Filter(words)
    owners = not (args.no_owners or args.count)
    with without_collector():
        snapshot = take_snapshot(only, owners=owners, info=args.info)
        if args.json:
            _print_list_as_json(args, snapshot)
        elif args.count:
            _print(count_lines(snapshot.sockets))
        elif snapshot.sockets or only.is_empty:
            hidden = snapshot.hidden_processes > 0
            _print(list_lines(snapshot.sockets, _width(), info=args.info, owners=owners, hidden=hidden))
    _remark(snapshot, owners=owners)
    if not snapshot.sockets and not only.is_empty:
        if not args.json:
            say("no socket matches")
        return 1
    return 0


def _print_list_as_json(args: argparse.Namespace, snapshot: Snapshot) -> None:
    from ._records import SCHEMA, count_records, list_as_json, socket_record

    told: dict[str, object] = {
        "schema": SCHEMA,
        "hidden_processes": snapshot.hidden_processes,
        "unlisted": snapshot.unlisted,
    }
    if args.count:
        _write(list_as_json(told, "counts", count_records(snapshot.sockets)))
    else:
        _write(list_as_json(told, "sockets", map(socket_record, snapshot.sockets)))


def _remark(snapshot: Snapshot, *, owners: bool) -> None:
    for protocol in snapshot.unlisted:
        say(f"this kernel cannot list {protocol} sockets (it has no {protocol}_diag)")
    if owners and snapshot.hidden_processes and any(not sock.owners and sock.inode for sock in snapshot.sockets):
        count = snapshot.hidden_processes
        what = "1 process is" if count == 1 else f"{count} processes are"
        root = "" if os.geteuid() == 0 else "; root sees more"
        say(f"{what} hidden from this user; a socket without a process shows its user only{root}")


# --- watch -----------------------------------------------------------------------------------------------------------


def _watch(args: argparse.Namespace, words: list[str]) -> int:
    from ._watch import Watch

    tell = _tell_change_as_json if args.json else _tell_change
    told: dict[str, int] = dict.fromkeys(("opened", "changed", "closed", "passed"), 0)
    watch: Watch | None = None
    try:
        with Watch(Filter(words), interval_s=args.interval or 1.0) as watch:
            say(_sources(watch))
            for change in watch:
                told[change.kind] += 1
                tell(change)
                sys.stdout.flush()
    except KeyboardInterrupt:
        pass  # the usual end of a watch
    lost = 0 if watch is None else watch.lost_messages
    if args.json:
        import json

        from ._records import SCHEMA

        _write(json.dumps({"schema": SCHEMA, "summary": told, "lost_messages": lost}))
    else:
        _write(
            f"{told['opened']} opened, {told['changed']} changed, {told['closed']} closed,"
            f" {told['passed']} came and went between two looks"
        )
        if lost:
            _write(f"{lost} times the kernel had no room for its messages; what ended then was found by looking")
    return 0


def _tell_change(change: Change) -> None:
    from ._table import change_line

    _print([change_line(change, _width())])


def _tell_change_as_json(change: Change) -> None:
    import json

    from ._records import change_record

    _write(json.dumps(change_record(change)))


def _sources(watch: Watch) -> str:
    """What the changes are known by, in a sentence."""
    heard = []
    if watch.tracepoint is not None:
        heard.append("TCP's states by a tracepoint")
    if watch.hears_deaths:
        heard.append("the ends of TCP and UDP sockets by the kernel's messages")
    rest = f"{'the rest' if heard else 'everything'} by looking every {watch.interval_s:g} s"
    text = f"watching {', '.join([*heard, rest])}"
    if watch.why_no_tracepoint:
        text += f" (no tracepoint: {watch.why_no_tracepoint})"
    return f"{text}; Ctrl-C ends it"


# --- why -------------------------------------------------------------------------------------------------------------


def _why(args: argparse.Namespace, words: list[str]) -> int:
    from .._address import UnixPath, parse
    from ._why import explain_bind

    if not 1 <= len(words) <= 2:
        raise UsageError("ports: why takes one address", remedy="write it like 8080, 127.0.0.1:8080 or [::1]:8080")
    address = parse(words, udp=args.udp, listening=True)
    if isinstance(address, UnixPath):
        raise UsageError("ports: why knows ports only", remedy=f"`underlay ports {address}` shows who has that path")
    verdict = explain_bind(address.port, address.host, protocol="udp" if args.udp else "tcp")
    if args.json:
        import json

        from ._records import verdict_record

        _write(json.dumps(verdict_record(verdict), indent=2))
    else:
        import textwrap

        width = _width()
        for line in verdict.sentences:
            indent = "  " if line.startswith("- ") else ""
            folded = [line] if width is None else textwrap.wrap(line, width, subsequent_indent=indent) or [""]
            _write("\n".join(folded))
    return 0 if verdict.is_free else 1


# --- close -----------------------------------------------------------------------------------------------------------


def _close(args: argparse.Namespace, words: list[str]) -> int:
    from ._close import check_closable, close_socket, what_is_left
    from ._list import take_snapshot
    from ._table import list_lines

    if not words:
        raise UsageError("ports: close needs to know which socket", remedy="`underlay ports --help` lists the filters")
    # stdin is None where the shell closed it (`<&-`), whatever typeshed says.
    if not args.yes and (args.json or sys.stdin is None or not sys.stdin.isatty()):
        raise UsageError("ports: close asks before it ends a socket, and nobody is there to answer", remedy="add --yes")
    found = take_snapshot(Filter(words)).sockets
    if not found:
        say("no socket matches")
        return 1
    if len(found) > 1:
        if not args.json:
            _print(list_lines(found, _width()))
        remedy = "name both ends, like local:HOST:PORT peer:HOST:PORT"
        raise UsageError(f"{len(found)} sockets match, and close ends one", remedy=remedy)
    [sock] = found
    check_closable(sock)  # before anybody is asked
    if not args.yes and not _agrees(sock):
        say("nothing was closed")
        return 1
    closed = close_socket(sock)
    if args.json:
        import json

        from ._records import SCHEMA, socket_record

        _write(json.dumps({"schema": SCHEMA, "closed": closed, "socket": socket_record(sock)}, indent=2))
    elif closed:
        _write(f"closed {sock.protocol} {sock.local} {sock.peer} ({sock.state.value})")
        if what_is_left(sock) is not None:
            say("its process still has the port, until it closes it or ends")
    else:
        say("it was gone already")
    return 0 if closed else 1


def _agrees(sock: Socket) -> bool:
    """Show the socket, say what ending it does, and ask."""
    from ._close import effect
    from ._table import list_lines

    _print(list_lines([sock], _width()))
    _write(effect(sock))
    sys.stdout.flush()
    print("End it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# --- output ----------------------------------------------------------------------------------------------------------


def _width() -> int | None:
    """The terminal's columns; None where stdout is none, and nothing is to be cut."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    import shutil

    return max(_NARROWEST, shutil.get_terminal_size().columns)


_RICH_STYLES: Final = {
    "heading": "bold",
    "listen": "bold",
    "passing": "dim",
    "detail": "cyan",
    "opened": "green",
    "changed": "yellow",
    "closed": "red",
}


def _print(lines: Iterable[Line]) -> None:
    """Print with colours on a terminal, and as plain text elsewhere."""
    if _width() is None:
        _write("\n".join(line.text for line in lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        console.print(Text(_encodable(line.text), _RICH_STYLES.get(line.style, "")), soft_wrap=True)


def _write(text: str) -> None:
    print(_encodable(text))


# For an encoding that lacks them (LANG=C).
_ASCII: Final = str.maketrans({"…": "~", "×": "x", "±": "+", "µ": "u"})


def _encodable(text: str) -> str:
    """The text as stdout can take it, whatever its encoding: what that lacks is replaced or escaped."""
    if text.isascii():
        return text
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text

"""The command `underlay stat`: its options, the rows, and the live view.

This file knows the order of things and the terminal. It refuses to know counters.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final

from ...errors import UsageError
from .._sparkline import is_utf8
from ._live import History
from ._view import COLUMNS, WIDE_COLUMNS, as_json, heads, process_rows, row
from ._watch import Period, Watch

__all__ = ["configure", "main"]

_EXAMPLES: Final = """
examples:
  underlay stat                    the averages since boot
  underlay stat 2                  a row every 2 s, until Ctrl-C
  underlay stat 1 10 --wide        ten rows of all columns
  underlay stat 1 --top 5          and the five busiest processes
  underlay stat 1 --live           with sparklines
  underlay stat 1 60 --json | jq .cpu.user

The row that ends in `*` is the average since boot; after Ctrl-C one that ends
in `=` is the average of what was shown. Numbers: 1k is 1000. No right is
needed; disk figures of other users' processes take root. Exit status: 0; 1
where /proc does not tell; 2 for wrong use."""

# As many as vmstat prints below a heading on a terminal of 24 lines.
_ROWS_A_HEAD: Final = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the interval, the count and the options."""
    parser.usage = "underlay stat [options] [INTERVAL [COUNT]]"
    parser.epilog = _EXAMPLES
    parser.add_argument("interval", nargs="?", type=float, metavar="INTERVAL", help="seconds from row to row")
    parser.add_argument("count", nargs="?", type=int, metavar="COUNT", help="rows in all (default: until Ctrl-C)")
    parser.add_argument("--pid", type=int, action="append", default=[], metavar="N", help="tell of process N too")
    parser.add_argument("--top", type=int, metavar="N", help="tell of the N busiest processes too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--wide", action="store_true", help="all columns: some 160 of the terminal's")
    form.add_argument("--live", action="store_true", help="a view that changes in place, with sparklines")
    form.add_argument("--json", action="store_true", help="print a JSON object a line, one a row")


def main(args: argparse.Namespace) -> int:
    """Show readings until the count is reached or Ctrl-C; 0."""
    if args.live and args.interval is None:
        args.interval = 1.0
    if args.live and (sys.stdout is None or not sys.stdout.isatty()):
        raise UsageError("--live takes a terminal", remedy="leave it out, or choose --json")
    if args.top == 0:
        raise UsageError("the 0 busiest processes", remedy="give 1 or more")
    watch = Watch(args.interval, args.count, pids=args.pid, top=args.top or 0)
    try:
        if args.live:
            _show(watch)
        else:
            _print(watch, args)
    except KeyboardInterrupt:
        if (average := watch.average()) is not None:
            columns = WIDE_COLUMNS if args.wide else COLUMNS
            print(json.dumps(as_json(average)) if args.json else "\n".join([*heads(columns), row(average, columns)]))
    return 0


def _print(watch: Watch, args: argparse.Namespace) -> None:
    columns = WIDE_COLUMNS if args.wide else COLUMNS
    for number, reading in enumerate(watch.readings()):
        if args.json:
            print(json.dumps(as_json(reading)), flush=True)
            continue
        processes = process_rows(reading.processes)
        if processes or number % _ROWS_A_HEAD == 0:
            print("\n".join(heads(columns)))
        print("\n".join([row(reading, columns), *processes]), flush=True)


def _show(watch: Watch) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    history = History(plain=not is_utf8(console.encoding))
    with Live(console=console, auto_refresh=False) as live:
        # Hidden, the cursor would be so in the shell too, after a signal that ends or stops this program (Ctrl-Z).
        console.show_cursor(True)
        for reading in watch.readings():
            if reading.period is not Period.BOOT:  # an average is no point of a line
                history.add(reading)
                lines = history.lines(console.width, console.height - 1)
                live.update(Text("\n".join(lines), no_wrap=True), refresh=True)

"""The command `underlay path`: its options, and the live view.

This file knows the order of things and the terminal. It refuses to know probes.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final, Literal

from ...errors import UsageError
from .._port_ranges import first_unprivileged_port
from .._privileges import give_up_root
from ._model import Report
from ._trace import DEFAULT_PORTS, ProbeKind, Trace
from ._view import Line, as_json, fitting, lines

__all__ = ["configure", "main"]

_EXAMPLES: Final = """
examples:
  underlay path example.org                    until Ctrl-C, in a live view
  underlay path --report -c 60 example.org     a minute, then one table
  underlay path --tcp --port 443 example.org   as a browser's packets go
  underlay path --flows 8 example.org          do equal ways differ?
  underlay path --json -c 5 -i 0.2 example.org | jq '.hops[].path_loss'

No right is needed, but for --icmp where the system lets no user ping. In a pipe
there is no live view: --report is meant. Exit status: 0 the host answers, or
the live view was ended by Ctrl-C; 1 it doesn't; 2 wrong use, or a right that is
missing; 130 a report was ended by Ctrl-C, and printed what was known."""

_ROUNDS: Final = 10
_REFRESH_S: Final = 0.5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the host and the options."""
    parser.usage = "underlay path [options] HOST"
    parser.epilog = _EXAMPLES
    parser.add_argument("host", metavar="HOST", help="a name or an address")
    kind = parser.add_mutually_exclusive_group()
    for name, text in (("udp", "probe by UDP (the default)"), ("icmp", "by ICMP echo"), ("tcp", "by TCP connections")):
        kind.add_argument(f"--{name}", action="store_const", const=name, dest="protocol", help=text)
    ports = ", ".join(f"{name.upper()} {port}" for name, port in DEFAULT_PORTS.items())
    parser.add_argument("--port", type=int, metavar="N", help=f"the port that probes go to (default: {ports})")
    family = parser.add_mutually_exclusive_group()
    family.add_argument("-4", action="store_const", const=4, dest="family", help="by IPv4 only")
    family.add_argument("-6", action="store_const", const=6, dest="family", help="by IPv6 only")
    parser.add_argument("--flows", type=int, default=1, metavar="N", help="so many flows side by side (default: 1)")
    parser.add_argument("-c", "--count", type=int, metavar="N", help=f"rounds (default: {_ROUNDS}; live: no end)")
    parser.add_argument(
        "-i", "--interval", type=float, default=1.0, metavar="S", help="round to round (default: 1, least: 0.01)"
    )
    parser.add_argument("--timeout", type=float, default=2.0, metavar="S", help="an answer is late then (default: 2)")
    parser.add_argument("--max-hops", type=int, default=30, metavar="N", help="go no farther (default: 30)")
    parser.add_argument(
        "--silent-hops", type=int, default=8, metavar="N", help="give up after so many in a row (default: 8)"
    )
    parser.add_argument("--source", metavar="ADDRESS", help="send from this address")
    parser.add_argument("--source-port", type=int, default=0, metavar="N", help="of the first flow; others follow")
    parser.add_argument("-n", "--numeric", action="store_true", help="look up no names")
    parser.add_argument("-r", "--report", action="store_true", help="no live view: one table at the end")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.add_argument("--live", action="store_true", help="with --json: an object a line, each round")


def main(args: argparse.Namespace) -> int:
    """Measure and show; 0 where the host answers, 1 where it does not."""
    if args.live and not args.json:
        raise UsageError("--live is for --json", remedy="leave it out: on a terminal the view is live anyway")
    is_live = args.live if args.json else not args.report and sys.stdout is not None and sys.stdout.isatty()
    protocol: ProbeKind = args.protocol or "udp"
    family: Literal[4, 6] | None = args.family
    with Trace(
        args.host,
        protocol=protocol,
        port=args.port,
        family=family,
        flows=args.flows,
        rounds=args.count if args.count is not None or is_live else _ROUNDS,
        interval_s=args.interval,
        timeout_s=args.timeout,
        max_hops=args.max_hops,
        silent_hops=args.silent_hops,
        source=args.source,
        source_port=args.source_port,
        names=not args.numeric,
    ) as measurement:
        # A flow of TCP binds to its port for each probe.
        if protocol != "tcp" or not 0 < args.source_port < first_unprivileged_port():
            give_up_root()  # its sockets are open; what strangers answer is read by the user who called sudo
        interrupted = False
        try:
            if not is_live:
                *_, report = measurement.run()
            elif args.json:
                report = _stream(measurement, args.interval)
            else:
                report = _watch(measurement)
        except KeyboardInterrupt:
            interrupted, report = True, measurement.report()
        if args.json:
            print(json.dumps(as_json(report, interrupted=interrupted), indent=None if is_live else 2))
        else:
            _print(lines(report, interrupted=interrupted and not is_live))
    if interrupted:
        return 0 if is_live else 130
    return 0 if report.reached else 1


def _stream(measurement: Trace, every_s: float) -> Report:
    """Print a JSON object each round but the last, which is given."""
    last: Report | None = None
    for report in measurement.run(every_s):
        if last is not None:
            print(json.dumps(as_json(last)), flush=True)
        last = report
    assert last is not None  # run() gives one at the end
    return last


def _watch(measurement: Trace) -> Report:
    """Show the table while it changes; what stays on the screen is the last report, printed by who called."""
    from rich.live import Live
    from rich.text import Text

    report = measurement.report()
    with Live(auto_refresh=False, transient=True) as live:
        # Hidden, the cursor would be so in the shell too, after a signal that ends or stops this program (Ctrl-Z).
        live.console.show_cursor(True)
        for report in measurement.run(_REFRESH_S):
            size = live.console.size
            shown = fitting(lines(report), size.width, size.height - 1)  # the cursor has the last row
            live.update(Text("\n").join(Text.assemble(*line) for line in shown), refresh=True)
    return report


def _print(found: list[Line]) -> None:
    """Print lines, coloured where this is a terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        for line in found:
            print("".join(text for text, _ in line).rstrip())
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for line in found:
        console.print(Text.assemble(*line), soft_wrap=True, highlight=False)

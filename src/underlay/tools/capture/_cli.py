"""The command `underlay capture`: its options, what it prints and how it ends.

This file knows the command line and the order of a running capture. How packets come stands in ``_live.py``, how files
are read in ``_read_cli.py``, and where packets go in ``_output.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import time
from typing import Final

from ...errors import UnderlayError, UsageError
from ...trace import SNAP_BYTES
from .._printable import escaped
from .._say import say
from ._interfaces import interfaces
from ._link_types import ETHERNET, RAW_IP
from ._live import MOST_RING_BYTES, RING_BYTES, Live, LiveStatistics
from ._output import Names, Output, Stopped, Written, file_words
from ._packet import SCHEMA
from ._read_cli import read
from ._signals import ended_at_once, ended_by_signals
from ._summary import as_keys, tell_file, tell_forgotten

__all__ = ["INTERMIXED", "configure", "main"]

# `capture tcp -i lo port 80`: options may stand between the words of the filter.
INTERMIXED: Final = True

_EPILOG: Final = """\
examples:
  sudo underlay capture                        all interfaces, a line a packet
  sudo underlay capture -i eth0 tcp port 443   a filter, as tcpdump has them
  sudo underlay capture -i lo -w out.pcapng    for Wireshark, tshark, tcpdump
  underlay capture -r out.pcapng tcp           read it again
  sudo underlay capture --follow 1234          of this process and its children
  sudo underlay capture --json -c 10 udp port 53

Ctrl-C ends it. How many packets the kernel dropped is always told at the end.

exit status: 0 done; 1 ended early: the interface went away, the disk is full,
the file is not whole; 2 wrong use, or a right that is missing; 130 a second
Ctrl-C; 141 whoever read stdout has left."""

_DAY_S: Final = 86_400.0
_LINKS: Final = {ETHERNET: "Ethernet", RAW_IP: "IP"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options and the filter."""
    parser.usage = "underlay capture [options] [FILTER ...]"
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("filter", nargs="*", metavar="FILTER", help="which packets: 'tcp port 80', as in pcap-filter(7)")
    add("-i", "--interface", action="append", default=[], metavar="NAME", help="one, several, or any (the default)")
    add("-r", "--read", metavar="FILE", help="read a pcapng or pcap file instead; - is stdin")
    add("-w", "--write", metavar="FILE", help="write pcapng; - is stdout. No lines then, unless --print")
    add("--print", action="store_true", help="lines as well as a file")
    add("--json", action="store_true", help="JSON Lines instead of lines, and a summary as the last")
    add("-X", "--bytes", action="store_true", help="each packet's bytes too, but for its link header")
    add("-c", "--count", type=int, metavar="N", help="end after N packets")
    add("--duration", type=float, metavar="S", help="end after S seconds")
    add("-s", "--snap-length", type=int, default=SNAP_BYTES, metavar="B", help="bytes of each packet to keep")
    add(
        "--ring-size",
        type=int,
        metavar="MiB",
        help=f"memory in which packets wait for us (default {RING_BYTES >> 20})",
    )
    add("--direction", choices=("in", "out"), help="only what comes in, or goes out")
    add("-p", "--no-promiscuous", action="store_true", help="not what is for other machines")
    add("--follow", type=int, metavar="PID", help="only this process's and its children's packets")
    add("--no-owners", action="store_true", help="do not look for the processes that talk")
    add("-D", "--list", action="store_true", help="list the interfaces")


def main(args: argparse.Namespace) -> int:
    """Capture or read until the end, and print the summary; the exit status is told in ``--help``."""
    _must_make_sense(args)
    _fill_standard_descriptors()
    if args.list:
        return _list(args.json)
    if args.read is not None:
        return read(args, _output)
    return _capture(args)


def _must_make_sense(args: argparse.Namespace) -> None:
    if "" in (args.read, args.write):
        raise UsageError("-r and -w name a file, and an empty word is no name", remedy="- is stdin, or stdout")
    if args.count is not None and args.count < 1:
        raise UsageError("--count must be at least 1")
    if args.duration is not None and not 0 < args.duration <= _DAY_S * 366:  # NaN is not greater than 0
        raise UsageError("--duration is in seconds, more than 0 and at most a year")
    if not 1 <= args.snap_length <= SNAP_BYTES:
        raise UsageError(f"--snap-length is in bytes, 1 to {SNAP_BYTES}")
    if args.ring_size is not None and not 1 <= args.ring_size <= MOST_RING_BYTES >> 20:
        raise UsageError(f"--ring-size is in MiB, 1 to {MOST_RING_BYTES >> 20}")
    if args.write == "-" and (args.print or args.json):
        raise UsageError("stdout cannot take the packets and lines as well", remedy="name a file after -w")
    if args.write == "-" and sys.stdout is None:  # the shell closed it: another file may have its number
        raise UsageError("there is no stdout to write to", remedy="name a file after -w")
    if args.write == "-" and os.isatty(1):
        raise UsageError("packets are not for a terminal", remedy="put a pipe behind it, as `-w - | tshark -r -`")
    if args.bytes and args.write is not None and not (args.print or args.json):
        raise UsageError("-X is about lines, and -w prints none", remedy="add --print")
    if args.follow is not None and args.no_owners:
        raise UsageError("--follow looks for owners, so --no-owners cannot be")
    if args.read is not None:
        live = {
            "-i": args.interface, "--follow": args.follow, "--duration": args.duration, "--direction": args.direction,
        }  # fmt: skip
        for option, value in live.items():
            if value:
                raise UsageError(f"{option} is about a running capture, and -r reads a file", remedy="leave one out")
        if args.write is not None and _same(args.read, args.write):
            raise UsageError(
                f"{file_words(args.write)} cannot be read and written at once", remedy="write another file"
            )


def _fill_standard_descriptors() -> None:
    """Open /dev/null as those of 0, 1 and 2 that the shell closed: no socket of ours is to have such a number."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        pass
    os.close(fd)


def _same(read: str, written: str) -> bool:
    """Whether they are one regular file, one of them perhaps as stdin or stdout."""
    try:
        one, other = (os.fstat(number) if path == "-" else os.stat(path) for path, number in ((read, 0), (written, 1)))
    except OSError:
        return False
    return stat.S_ISREG(one.st_mode) and os.path.samestat(one, other)


def _list(as_json: bool) -> int:
    found = [
        (each.name, "up" if each.is_up else "down", _LINKS.get(each.link_type, "cooked"), each.index)
        for each in interfaces()
    ]
    if as_json:
        named = [dict(zip(("name", "state", "link", "number"), row, strict=True)) for row in found]
        print(json.dumps({"schema": SCHEMA, "type": "interfaces", "interfaces": named}))
        return 0
    rows = [("name", "state", "link", "number"), *((escaped(row[0]), *row[1:3], str(row[3])) for row in found)]
    rows.append(("any", "up", "cooked", "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _output(args: argparse.Namespace, path: str | None) -> Output:
    lines = (args.write is None or args.print) and not args.json
    return Output(
        path,
        lines=lines,
        as_json=args.json,
        with_bytes=args.bytes,
        snap_bytes=args.snap_length,
        filter_text=" ".join(args.filter),
    )


# --- a running capture --------------------------------------------------------------------------------


def _capture(args: argparse.Namespace) -> int:
    with ended_at_once():
        live = Live(
            args.interface,
            " ".join(args.filter),
            snap_bytes=args.snap_length,
            ring_bytes=None if args.ring_size is None else args.ring_size << 20,
            direction=args.direction or "",
            promiscuous=not args.no_promiscuous,
            owners=not args.no_owners,
            follow=args.follow,
            count=args.count,
            duration_s=args.duration,
            note=say,
            keep_root=False,
        )
    with live:
        output = _output(args, args.write)
        failure: UnderlayError | None = None
        left: BrokenPipeError | None = None
        try:
            try:
                with ended_by_signals(live):
                    failure = _run(live, output)
            except BrokenPipeError as error:  # as `| head` does; stderr is still there, and perhaps a file
                left = error
            statistics = live.statistics()
            captured, dropped = statistics.captured_packets, statistics.dropped_packets
            written = output.finish(captured, live.received_packets(), dropped)
        finally:
            output.close()
    _tell(args, output, statistics, written, as_json=args.json and left is None)
    if left is not None:
        raise left
    if failure is None and live.gone:
        failure = UnderlayError(f"{live.gone} went away, and with it the capture")
    if failure is not None:
        say(escaped(str(failure)))
        return 1
    return 1 if written is not None and written.failure else 0


def _run(live: Live, output: Output) -> UnderlayError | None:
    live.begin()
    say(f"capturing on {live.source.name}; Ctrl-C ends it")
    progress = _Progress(live)
    link_type, names, take = live.source.link_type, Names(), output.take
    try:
        for rows in live.batches():
            for packet, flow, is_first in rows:
                time_ns, index, direction, data, size_bytes = packet
                owner = str(flow) if is_first and flow is not None else ""
                take(link_type, data, size_bytes, time_ns, names.get(index) or names.find(index), direction, owner)
            output.flush()
            progress.tick()
    except Stopped as stopped:
        return stopped
    except MemoryError:
        return UnderlayError("there is no memory for more packets", remedy="raise `ulimit -v`, or say -w or -s 128")
    return None


class _Progress:
    """Tells once a second, where somebody looks, how many packets were dropped by then."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._next_s = time.monotonic() + 1
        self._dropped = 0

    def tick(self) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + 1
        dropped = self._live.statistics().dropped_packets
        if dropped > self._dropped:
            say(f"{dropped} packets were dropped so far; a filter, -w, or a larger --ring-size helps")
        self._dropped = dropped


def _tell(
    args: argparse.Namespace, output: Output, told: LiveStatistics, written: Written | None, *, as_json: bool
) -> None:
    connections = output.describer.tracker_statistics()
    say(
        f"{told.captured_packets} packets captured in {told.duration_s:.1f} s,"
        f" {told.dropped_packets} dropped by the kernel for want of room in the ring"
    )
    if args.follow is not None:
        say(
            f"{told.not_followed_packets} packets left out as not of process {args.follow} and its children;"
            f" of {told.undecided_packets} of these an end had no owner that could be found"
        )
    if told.unasked_owners:
        say(
            f"of {told.unasked_owners} ends of flows no owner could be asked for:"
            " they were too many at once, or whoever looks for them had ended"
        )
    if told.forgotten_flows:
        say(f"{told.forgotten_flows} flows were forgotten on the way, for want of room, and asked about anew")
    tell_forgotten(connections)
    tell_file(args.write, written)
    if as_json:  # the last, for whoever reads it may have left
        summary = {
            "type": "summary",
            "captured_packets": told.captured_packets,
            "dropped_packets": told.dropped_packets,
            "not_followed_packets": told.not_followed_packets,
            "undecided_packets": told.undecided_packets,
            "unasked_owners": told.unasked_owners,
            "forgotten_flows": told.forgotten_flows,
            "duration_s": round(told.duration_s, 3),
        }
        output.print_json(summary | as_keys(connections, written))

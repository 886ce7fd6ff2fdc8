"""The command `underlay capture`: its options, what it prints and how it ends.

This file knows the command line and the signals that end a capture. How packets come stands in ``_live.py`` and
``_read.py``, where they go in ``_output.py``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Final

from ...errors import UnderlayError, UsageError, plural
from ...trace import SNAP_BYTES, CaptureFormatError, CaptureReader, ReadPacket
from .._printable import escaped
from .._privileges import give_up_root
from .._say import say
from ._interfaces import interfaces
from ._link_types import ETHERNET, RAW_IP
from ._live import MOST_RING_BYTES, RING_BYTES, Live, LiveStatistics
from ._output import Names, Output, Stopped, Written, file_words
from ._packet import SCHEMA
from ._read import check_filter, patient, read_packets
from ._tcp_tracker import TrackerStatistics

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
        return _read(args)
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


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process while libpcap compiles a filter: for one of thousands of words it takes minutes.

    Nothing is open yet that would have to be closed, and a handler of Python's would have to wait.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
    with _ended_at_once():
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
                with _ended_by_signals(live):
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
    return 0


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


@contextmanager
def _ended_by_signals(live: Live) -> Iterator[None]:
    """Let Ctrl-C, and the signals by which others ask us to end, end the capture in order; twice: at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if live.is_stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        if live.is_stopping:  # and does not come to it: nobody reads our output, for instance
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        live.stop()

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup`, or the background of a shell
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(
    args: argparse.Namespace, output: Output, told: LiveStatistics, written: Written | None, *, as_json: bool
) -> None:
    connections = output.describer.tracker_statistics()
    if as_json:
        output.print_json(
            {
                "type": "summary",
                "captured_packets": told.captured_packets,
                "dropped_packets": told.dropped_packets,
                "not_followed_packets": told.not_followed_packets,
                "undecided_packets": told.undecided_packets,
                "unasked_owners": told.unasked_owners,
                "forgotten_flows": told.forgotten_flows,
                "duration_s": round(told.duration_s, 3),
                "connections": connections.flows,
                "connections_let_go": connections.flows_let_go,
                "stretches_let_go": connections.stretches_let_go,
                "written_packets": written.packets if written else None,
                "unwritten_packets": written.unwritten_packets if written else None,
                "moved_times": written.moved_times if written else None,
            }
        )
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
    _tell_forgotten(connections)
    _tell_file(args.write, written)


def _tell_forgotten(told: TrackerStatistics) -> None:
    """Tell what was not remembered of the connections, on which the notes rest."""
    if told.flows_let_go:
        say(f"{told.flows_let_go} of {told.flows} connections were forgotten on the way, for want of room")
    if told.stretches_let_go:
        say(
            f"{told.stretches_let_go} stretches between gaps were forgotten on the way, for want of room:"
            " what was sent again in them may be called out of order"
        )


def _tell_file(path: str | None, written: Written | None, *, unread: str = "") -> None:
    """Tell what was written; ``unread`` names a file that was not read to its end for it."""
    if written is None:
        return
    name = escaped(file_words(path or "-"))
    missing = f"; {written.unwritten_packets} are not in it" if written.unwritten_packets else ""
    rest = f", nor is the rest of {escaped(file_words(unread, 'stdin'))}" if unread else ""
    say(f"{name}: {written.packets} packets, {written.bytes} bytes{missing}{rest}")
    if written.moved_times:
        say(f"{name}: {plural(written.moved_times, 'packet')} with the nearest time that a file can say, 1970 to 2554")


# --- a file -------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        if sys.stdin is None:
            raise UsageError("there is no stdin to read", remedy="name a file after -r")
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise UsageError(f"{Path(path)} cannot be read: {reason}", remedy="check its name") from error
    with file:
        yield file


def _broken(path: str, error: CaptureFormatError) -> str:
    path = file_words(path, "stdin")
    if error.offset_bytes <= 4:
        return f"{path} is no capture: {error.reason}"
    return f"{path} is not whole: {error}"


def _read(args: argparse.Namespace) -> int:
    status = packets = 0
    text = " ".join(args.filter)
    with _opened(args.read) as file:
        give_up_root()  # what strangers sent is read by the user who called sudo
        if text:
            with _ended_at_once():
                check_filter(text)
        outputs: list[Output] = []

        def show() -> None:
            for each in outputs:
                each.flush()

        # A file that stands where -w points is lost only to one that can be read.
        reader: CaptureReader | None = None
        found: Iterator[ReadPacket] = iter(())
        nothing: CaptureFormatError | None = None
        try:
            reader = CaptureReader(patient(file, show))
            found = read_packets(reader, text)
            found = itertools.chain([next(found)], found)
        except StopIteration:
            found = iter(())
        except CaptureFormatError as error:
            nothing = error
        output = _output(args, None if nothing else args.write)
        outputs.append(output)
        written = None
        unread = ""
        failures: list[str] = []
        try:
            try:
                if nothing is not None:
                    raise nothing
                for packet in found:
                    packets += 1
                    interface = packet.interface
                    data = packet.data[: args.snap_length]
                    output.take(
                        interface.link_type,
                        data,
                        packet.size_bytes,
                        packet.time_ns,
                        interface.name or "-",
                        packet.direction,
                        packet.comment,
                    )
                    if packets == args.count:
                        break
            except CaptureFormatError as error:
                failures.append(_broken(args.read, error))
            except Stopped as stopped:
                failures.append(str(stopped))
                unread = args.read
            try:
                output.flush()
            except Stopped as stopped:
                failures.append(str(stopped))
            for each in dict.fromkeys(failures):
                say(escaped(each))
                status = 1
            dropped = None if reader is None else reader.dropped_packets
            written = output.finish(packets, packets + (dropped or 0), dropped)
        finally:
            output.close()
    if dropped:
        name = escaped(file_words(args.read, "stdin"))
        say(f"{name}: {dropped} packets more were dropped when it was captured, as it says")
    if args.json:
        connections = output.describer.tracker_statistics()
        output.print_json(
            {
                "type": "summary",
                "captured_packets": packets,
                "dropped_packets": dropped,
                "connections": connections.flows,
                "connections_let_go": connections.flows_let_go,
                "stretches_let_go": connections.stretches_let_go,
                "written_packets": written.packets if written else None,
                "unwritten_packets": written.unwritten_packets if written else None,
                "moved_times": written.moved_times if written else None,
            }
        )
    _tell_forgotten(output.describer.tracker_statistics())
    _tell_file(args.write, written, unread=unread)
    return status

"""What `underlay capture -r` does: a file's packets as lines, or into another file.

This file knows how reading ends: at the file's end, where it is not whole or cannot be read, where the output takes no
more. It refuses to know formats.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from ...errors import UsageError
from ...trace import CaptureFormatError, CaptureReader, ReadPacket
from .._printable import escaped
from .._privileges import give_up_root
from .._say import say
from ._output import Output, Stopped, file_words
from ._read import UnreadableError, check_filter, patient, read_packets
from ._summary import as_keys, tell_file, tell_forgotten

__all__ = ["read"]


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


def _broken(path: str, error: CaptureFormatError | UnreadableError) -> str:
    path = file_words(path, "stdin")
    if isinstance(error, UnreadableError):
        return f"{path} cannot be read to its end: {error}"
    if error.offset_bytes <= 4:
        return f"{path} is no capture: {error.reason}"
    return f"{path} is not whole: {error}"


def read(
    args: argparse.Namespace,
    make_output: Callable[[argparse.Namespace, str | None], Output],
    ended_at_once: Callable[[], AbstractContextManager[None]],
) -> int:
    """Read ``args.read`` into the output that is made when it is known to be readable; the exit status.

    While ``ended_at_once`` lasts nothing is open that has to be closed.
    """
    text = " ".join(args.filter)
    with _opened(args.read) as file:
        give_up_root()  # what strangers sent is read by the user who called sudo
        if text:
            with ended_at_once():
                check_filter(text)
        outputs: list[Output] = []

        def show() -> None:
            for each in outputs:
                each.flush()

        # A file that stands where -w points is lost only to one that can be read.
        reader: CaptureReader | None = None
        found: Iterator[ReadPacket] = iter(())
        nothing: CaptureFormatError | UnreadableError | None = None
        try:
            reader = CaptureReader(patient(file, show))
            found = read_packets(reader, text)
            found = itertools.chain([next(found)], found)
        except StopIteration:
            found = iter(())
        except (CaptureFormatError, UnreadableError) as error:
            nothing = error
        output = make_output(args, None if nothing else args.write)
        outputs.append(output)
        packets = 0
        unread = ""
        left: BrokenPipeError | None = None
        failures: list[str] = []
        try:
            try:
                if nothing is not None:
                    raise nothing
                for packet in found:
                    packets += 1
                    interface = packet.interface
                    output.take(
                        interface.link_type,
                        packet.data[: args.snap_length],
                        packet.size_bytes,
                        packet.time_ns,
                        interface.name or "-",
                        packet.direction,
                        packet.comment,
                    )
                    if packets == args.count:
                        break
            except (CaptureFormatError, UnreadableError) as error:
                failures.append(_broken(args.read, error))
            except (Stopped, BrokenPipeError) as stopped:
                unread = args.read
                if isinstance(stopped, BrokenPipeError):  # as `| head` does; stderr is still there, and perhaps a file
                    left = stopped
                else:
                    failures.append(str(stopped))
            try:
                output.flush()
            except BrokenPipeError as error:
                left = error
            except Stopped as stopped:
                failures.append(str(stopped))
            for each in dict.fromkeys(failures):
                say(escaped(each))
            dropped = None if reader is None else reader.dropped_packets
            written = output.finish(packets, packets + (dropped or 0), dropped)
        finally:
            output.close()
    if dropped:
        name = escaped(file_words(args.read, "stdin"))
        say(f"{name}: {dropped} packets more were dropped when it was captured, as it says")
    connections = output.describer.tracker_statistics()
    tell_forgotten(connections)
    tell_file(args.write, written, unread=unread)
    if left is not None:
        raise left
    if args.json:
        summary = {"type": "summary", "captured_packets": packets, "dropped_packets": dropped}
        output.print_json(summary | as_keys(connections, written))
    return 1 if failures else 0

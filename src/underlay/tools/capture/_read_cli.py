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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ...errors import UsageError
from ...trace import CaptureFormatError, CaptureReader, ReadPacket
from .._printable import escaped
from .._privileges import give_up_root
from .._say import say
from ._output import Output, Stopped, file_words
from ._patient_file import PatientFile, StoppedReading, UnreadableError
from ._read import check_filter, read_packets
from ._signals import ended_at_once, ended_by_signals
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


@dataclass(slots=True)
class _Course:
    """How the reading went."""

    packets: int = 0
    failures: list[str] = field(default_factory=list)
    is_broken_off: bool = False
    """By us, before the file's end, and not where ``--count`` says so."""
    left: BrokenPipeError | None = None
    """Whoever read our output has left, as `| head` does; stderr is still there, and perhaps a file."""


def read(args: argparse.Namespace, make_output: Callable[[argparse.Namespace, str | None], Output]) -> int:
    """Read ``args.read`` into the output that is made when it is known to be readable; the exit status."""
    text = " ".join(args.filter)
    outputs: list[Output] = []

    def show() -> None:
        for each in outputs:
            each.flush()

    with _opened(args.read) as file, PatientFile(file.fileno(), show) as patient:
        give_up_root()  # what strangers sent is read by the user who called sudo
        if text:
            with ended_at_once():
                check_filter(text)
        with ended_by_signals(patient):
            course, reader, found = _begin(args.read, patient, text)
        # A file that stands where -w points is lost only to one that can be read. Whoever waits here for the reader of
        # a FIFO has nothing to end in order.
        output = make_output(args, None if found is None else args.write)
        outputs.append(output)
        with ended_by_signals(patient):
            try:
                if found is not None:
                    _pass_on(args, course, patient, found, output)
                try:
                    output.flush()
                except BrokenPipeError as error:
                    course.left = error
                except Stopped as stopped:
                    course.failures.append(str(stopped))
                for each in dict.fromkeys(course.failures):
                    say(escaped(each))
                dropped = None if reader is None else reader.dropped_packets
                written = output.finish(course.packets, course.packets + (dropped or 0), dropped)
            finally:
                output.close()
    if dropped:
        name = escaped(file_words(args.read, "stdin"))
        say(f"{name}: {dropped} packets were dropped when it was captured, as it says")
    connections = output.describer.tracker_statistics()
    tell_forgotten(connections)
    if written is not None:
        tell_file(args.write, written, unread=args.read if course.is_broken_off else "")
    elif course.is_broken_off:
        say(f"{course.packets} packets were read; {escaped(file_words(args.read, 'stdin'))} may have more")
    if course.left is not None:
        raise course.left
    if args.json:
        summary = {"type": "summary", "captured_packets": course.packets, "dropped_packets": dropped}
        output.print_json(summary | as_keys(connections, written))
    return 1 if course.failures or (written is not None and written.failure) else 0


def _begin(
    path: str, patient: PatientFile, text: str
) -> tuple[_Course, CaptureReader | None, Iterator[ReadPacket] | None]:
    """Read as far as the first packet; without packets where there is nothing to write of the file."""
    course = _Course()
    reader = None
    try:
        reader = CaptureReader(patient.file)
        found = read_packets(reader, text)
        return course, reader, itertools.chain([next(found)], found)
    except StopIteration:
        return course, reader, iter(())
    except (CaptureFormatError, UnreadableError) as error:
        course.failures.append(_broken(path, error))
    except StoppedReading:
        course.is_broken_off = True
    return course, reader, None


def _pass_on(
    args: argparse.Namespace, course: _Course, patient: PatientFile, found: Iterator[ReadPacket], output: Output
) -> None:
    try:
        for packet in found:
            course.packets += 1
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
            if course.packets == args.count:
                return
            if patient.is_stopping:
                break
    except (CaptureFormatError, UnreadableError) as error:
        course.failures.append(_broken(args.read, error))
    except StoppedReading:
        course.is_broken_off = True
    except BrokenPipeError as error:
        course.left = error
        course.is_broken_off = patient.has_more()
    except Stopped as stopped:
        course.failures.append(str(stopped))
        course.is_broken_off = patient.has_more()
    else:
        course.is_broken_off = patient.is_stopping and patient.has_more()

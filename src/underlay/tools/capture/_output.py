"""Where captured packets go: lines or JSON Lines on stdout, a file of packets, or both.

This file knows how output is gathered, so that a burst costs one write(2), and what is said at the end. It refuses to
know where packets come from.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import UnderlayError, UsageError
from ...trace import PacketFile
from ._dump import dump, link_header_bytes
from ._link_types import ETHERNET
from ._packet import SCHEMA, Describer

__all__ = ["Names", "Output", "Stopped", "Written", "file_words"]

_STDOUT: Final = 1


class Stopped(UnderlayError):
    """The output takes no more: the capture ends, and what was counted is told."""


class Names(dict[int, str]):
    """The names of interfaces by their numbers; one that is gone keeps the name it had."""

    def find(self, index: int) -> str:
        """Ask for a name; for an interface that was gone before anybody asked, its number."""
        try:
            name = socket.if_indextoname(index)
        except OSError:
            name = f"if{index}"
        self[index] = name
        return name


@dataclass(frozen=True, slots=True)
class Written:
    """What is in the file."""

    packets: int
    bytes: int
    unwritten_packets: int
    """Of those that were captured, or read."""
    moved_times: int
    """Packets of a time that a file cannot say."""
    failure: str = ""
    """Why the end of it could not be written, where nothing before had failed."""


class Output:
    """Takes packets one by one; `flush` hands on what was gathered. ``path`` is a file or ``-`` for stdout.

    ``with_bytes`` adds each packet's bytes, from its network header on: rows below its line, or digits in its object.
    """

    def __init__(
        self,
        path: str | None,
        *,
        lines: bool,
        as_json: bool,
        with_bytes: bool = False,
        snap_bytes: int,
        filter_text: str = "",
    ) -> None:
        self._path = path
        self._filter_text = filter_text
        self._fd = -1
        self._file: PacketFile | None = None
        self._interfaces: dict[tuple[str, int], int] = {}
        self._lines: list[str] | None = [] if lines or as_json else None
        self._as_json = as_json
        self._with_bytes = with_bytes
        self.describer = Describer()
        if self._lines is not None and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a process's name may be more than a terminal has
        if path is not None:
            self._fd = _STDOUT if path == "-" else _open(path)
            self._file = PacketFile(self._fd, snap_bytes=snap_bytes)

    def take(
        self,
        link_type: int,
        data: bytes,
        size_bytes: int,
        time_ns: int,
        interface: str,
        direction: str,
        owner: str,
    ) -> None:
        """Gather one packet."""
        if self._file is not None:
            number = self._interfaces.get((interface, link_type))
            if number is None:
                number = self._file.add_interface(interface, link_type, self._filter_text)
                self._interfaces[(interface, link_type)] = number
            try:
                self._file.add(number, time_ns, data, size_bytes, direction, owner)
            except OSError as error:
                raise self._stopped(error) from error
        if self._lines is not None:
            packet = self.describer.describe(link_type, data, size_bytes, time_ns, interface, direction, owner)
            shown = data[link_header_bytes(link_type, data) :] if self._with_bytes else None
            if self._as_json:
                added = {} if shown is None else {"bytes": shown.hex()}
                self._lines.append(json.dumps(packet.as_json() | added))
            else:
                self._lines.append(packet.line)
                self._lines += () if shown is None else dump(shown)

    def flush(self) -> None:
        """Write what was gathered; lines also where the file takes no more."""
        try:
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            raise self._stopped(error) from error
        finally:
            if self._lines:
                text = "\n".join(self._lines) + "\n"
                self._lines.clear()
                self._print(text)

    def _stopped(self, error: OSError, path: str | None = None) -> BaseException:
        if isinstance(error, BrokenPipeError) and (path is not None or self._path == "-"):
            return error  # whoever read stdout has left, which is told by an exit status of its own
        reason = os.strerror(error.errno or 0).lower()
        remedy = "make room, or write elsewhere" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return Stopped(f"{path or file_words(self._path or '-')} takes no more: {reason}", remedy=remedy)

    def _print(self, text: str) -> None:
        if sys.stdout is None:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            stopped = self._stopped(error, "stdout")
            if isinstance(stopped, Stopped):
                # The interpreter flushes once more as it ends, and would fail again.
                with open(os.devnull, "wb") as nowhere, contextlib.suppress(OSError, ValueError):
                    os.dup2(nowhere.fileno(), sys.stdout.fileno())
            raise stopped from error

    def print_json(self, found: dict[str, object]) -> None:
        """Write one more object."""
        self._print(json.dumps({"schema": SCHEMA, **found}) + "\n")

    def finish(self, captured: int, received: int, dropped: int | None) -> Written | None:
        """Write the kernel's counts at the end of the file, if they are known, and tell what of ``captured`` is in it.

        Where it took no more, some may never have come to `take`.
        """
        if self._file is None:
            return None
        if not self._interfaces and not self._file.unwritten_packets:
            # A file without an interface is whole, but tools ask what it would have held.
            self._interfaces[("any", ETHERNET)] = self._file.add_interface("any", ETHERNET, self._filter_text)
        counts: dict[int, tuple[int, int]] = {}
        if self._interfaces and dropped is not None:
            counts = {min(self._interfaces.values()): (received, dropped)}
        file, failure = self._file, ""
        try:
            file.close(counts)
        except BrokenPipeError:
            pass  # its reader has left before there was anything to read
        except OSError as error:
            failure = str(self._stopped(error))
        written = file.written_packets
        return Written(written, file.written_bytes, captured - written, file.moved_times, failure)

    def close(self) -> None:
        """Close the file."""
        if self._fd > _STDOUT:
            os.close(self._fd)
            self._fd = -1


def file_words(path: str, stream: str = "stdout") -> str:
    """Name a file as a person knows it: ``-`` is a stream."""
    return stream if path == "-" else path


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        remedy = {
            errno.ENOENT: "make its directory first",
            errno.EISDIR: "name a file in it",
            errno.ENOTDIR: "name a file in a directory",
        }.get(error.errno or 0, "choose a file that you may write")
        if error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0 and os.environ.get("SUDO_UID"):
            remedy = "it is written by the user who called sudo: choose a place of theirs"
        reason = os.strerror(error.errno or 0).lower()
        raise UsageError(f"{Path(path)} cannot be written: {reason}", remedy=remedy) from error

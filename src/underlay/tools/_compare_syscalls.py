"""Knows how to count the system calls of a process tree, with the least disturbance that is allowed here.

Two ways, the better one first: a counter of perf_event_open(2) on the tracepoint raw_syscalls:sys_enter,
which costs each call some 0.1 µs and needs root (or perf_event_paranoid −1); else `strace -c`, which stops
the process at each call and is therefore given a short window of its own. Neither is on while CPU time is
measured. It does not know what the calls are for, nor which they are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from typing import BinaryIO, Protocol

from ._load_process import end_group, spawn
from ._tracepoints import INHERIT, contents, open_event, open_folder

_TRACEPOINT = "raw_syscalls/sys_enter"

# strace writes its summary when it is interrupted; a server of 1,000 threads takes it a while.
_SUMMARY_S = 5.0


class CannotCount(Exception):
    """System calls can't be counted here; the message says why and what would mend it."""


class Counter(Protocol):
    """Counts from its making until `stop`, which gives the number of calls."""

    def stop(self) -> int:
        """End counting and give how many calls there were."""


class PerfCounter:
    """Counts by the kernel's own counters, one for each thread that lives now, inherited by later ones."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._counters: list[int] = []
        try:
            number = _tracepoint_number()
            for thread in _threads(pids):
                with contextlib.suppress(ProcessLookupError):  # that thread has just ended
                    self._counters.append(open_event(number, pid=thread, flags=INHERIT))
        except OSError as error:
            self.stop()
            raise CannotCount(f"perf_event_open: {error.strerror}") from error

    def stop(self) -> int:
        """Read and close the counters."""
        total = 0
        for fd in self._counters:
            total += int.from_bytes(os.read(fd, 8), "little")
            os.close(fd)
        self._counters.clear()
        return total


class StraceCounter:
    """Counts by `strace -c`, attached to every thread; slows the server down to a fraction."""

    def __init__(self, pids: Sequence[int]) -> None:
        program = shutil.which("strace")
        if program is None:
            raise CannotCount("no right to use perf's counters, and no strace; run as root")
        targets = [word for pid in pids for word in ("-p", str(pid))]
        self._summary: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (closed in _finish)
        self._process = spawn(
            [program, "-f", "-c", "-U", "calls,name", "-o", "/dev/stdout", *targets],
            environment=os.environ,
            stdout=self._summary,
            stderr=subprocess.PIPE,
        )
        if not self._attached():
            self._finish()
            raise CannotCount("strace may not attach (ptrace_scope, a container); run as root")

    def _attached(self) -> bool:
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        return b"attached" in line

    def stop(self) -> int:
        """Detach and add the calls of strace's summary up."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_SUMMARY_S)
        except subprocess.TimeoutExpired:
            pass
        self._summary.seek(0)
        lines = self._summary.read().decode(errors="replace").splitlines()
        self._finish()
        rows = (line.split() for line in lines)
        return sum(int(row[0]) for row in rows if row and row[0].isdigit() and row[-1] != "total")

    def _finish(self) -> None:
        end_group(self._process, grace_s=0)
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._summary.close()


def count_system_calls(pids: Sequence[int]) -> Counter:
    """Begin to count the system calls of these processes; CannotCount tells why that isn't possible."""
    try:
        return PerfCounter(pids)
    except CannotCount:
        return StraceCounter(pids)


def _tracepoint_number() -> int:
    folder = open_folder(_TRACEPOINT)
    try:
        return int(contents("id", folder))
    finally:
        os.close(folder)


def _threads(pids: Iterable[int]) -> list[int]:
    threads: list[int] = []
    for pid in pids:
        try:
            threads += [int(name) for name in os.listdir(f"/proc/{pid}/task")]
        except OSError:
            continue
    return threads

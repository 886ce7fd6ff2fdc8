"""Runs pieces of test code, each in a forked child of its own, and tells how each ended.

It knows processes: forking, time limits, what a child printed, how it died. It does not
know what a child runs, and it knows nothing of event loops.

The calling process must have one thread only: fork copies the calling thread and leaves
every lock that another thread held locked for good.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Status = Literal["passed", "failed", "skipped", "hung", "died"]

# A child past its limit is asked for the stacks of its threads; it gets this long to write.
STACKS_GRACE_S = 0.5

# The tail of what a child printed that is kept; a loop that logs in a spin can write megabytes.
OUTPUT_KEPT_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Report:
    """What a child says of its own test, before the parent adds how the process ended."""

    status: Literal["passed", "failed", "skipped"]
    detail: str = ""
    facts: dict[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended, seen from outside.

    `status` is `hung` for a child that outlived its limit and `died` for one that ended
    without a report (a segfault, `os._exit`). `output` is the tail of stdout and stderr.
    """

    status: Status
    detail: str
    output: str
    seconds: float
    facts: dict[str, int | str]

    def explain(self) -> str:
        """Gives the failure as text for a person: detail first, then what was printed."""
        said = f"\n---- printed by the child ----\n{self.output}" if self.output.strip() else ""
        return f"{self.status} after {self.seconds:.1f} s\n{self.detail}{said}"


@dataclass(slots=True)
class _Child:
    name: str
    pid: int
    pidfd: int
    started_s: float
    deadline_s: float
    home: Path


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of test code: `work` runs in the child and returns its report."""

    name: str
    work: Callable[[], Report]
    limit_s: float


def run_jobs(jobs: Iterable[Job], parallel: int) -> Iterator[tuple[str, Outcome]]:
    """Runs each job in a forked child, `parallel` at a time, and yields outcomes as they end.

    Each child leads a session of its own, stands in an empty directory of its own and reads
    /dev/null; when it ends, whatever it started and left behind in its group is killed.
    """
    queue = iter(jobs)
    running: dict[int, _Child] = {}
    poller = select.poll()
    scratch = Path(tempfile.mkdtemp(prefix="conformance-"))
    number = 0
    # Objects made before the forks are never freed, so that collecting garbage in a child
    # does not copy every page of what the children share.
    thawed = not gc.get_freeze_count()
    if thawed:
        gc.collect()
        gc.freeze()
    exhausted = False
    try:
        while running or not exhausted:
            while not exhausted and len(running) < parallel:
                job = next(queue, None)
                if job is None:
                    exhausted = True
                    break
                number += 1
                child = _start(job, scratch / str(number))
                running[child.pidfd] = child
                poller.register(child.pidfd, select.POLLIN)
            if not running:
                continue
            next_deadline_s = min(child.deadline_s for child in running.values())
            wait_ms = max(0.0, next_deadline_s - time.monotonic()) * 1000
            ended = {pidfd for pidfd, _ in poller.poll(wait_ms + 1)}
            now_s = time.monotonic()
            for pidfd, child in list(running.items()):
                hung = pidfd not in ended and now_s >= child.deadline_s
                if pidfd in ended or hung:
                    poller.unregister(pidfd)
                    del running[pidfd]
                    yield child.name, _finish(child, hung)
    finally:
        for child in running.values():
            _finish(child, hung=True)
        shutil.rmtree(scratch, ignore_errors=True)
        if thawed:
            gc.unfreeze()


def _start(job: Job, home: Path) -> _Child:
    (home / "cwd").mkdir(parents=True)
    sys.stdout.flush()
    sys.stderr.flush()
    started_s = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_the_child(job, home)
    return _Child(job.name, pid, os.pidfd_open(pid), started_s, started_s + job.limit_s, home)


def _be_the_child(job: Job, home: Path) -> None:
    """Runs the job and leaves the process; never returns."""
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        output = os.open(home / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(null)
        os.close(output)
        os.chdir(home / "cwd")
        _forget_the_test_runner()
        # SIGQUIT because no test of asyncio uses it. The handler is C code, so that it
        # answers also while the interpreter is stuck in a system call.
        faulthandler.enable(2)
        faulthandler.register(signal.SIGQUIT, 2, all_threads=True, chain=False)
        try:
            report = job.work()
        except BaseException:
            report = Report("failed", traceback.format_exc())
        sys.stdout.flush()
        sys.stderr.flush()
        (home / "report.new").write_text(json.dumps(asdict(report)))
        os.rename(home / "report.new", home / "report")
    finally:
        # Not sys.exit: the parent's finally blocks and atexit hooks are not this process's,
        # and a thread that a failed test left behind must not hold it up.
        os._exit(0)


def _forget_the_test_runner() -> None:
    """Undoes what a test runner caught in the calling process: in the child nobody would read it.

    pytest keeps each log record and each exception that ended a thread, and with them the loops and transports in
    their arguments and frames, which a job that looks for leavings would find.
    """
    logging.getLogger().handlers.clear()
    threading.excepthook = threading.__excepthook__
    sys.unraisablehook = sys.__unraisablehook__
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def _finish(child: _Child, hung: bool) -> Outcome:
    if hung:
        try:
            signal.pidfd_send_signal(child.pidfd, signal.SIGQUIT)
            time.sleep(STACKS_GRACE_S)
        except ProcessLookupError:
            pass
    # Before the child is reaped, while its process id still names its group for certain.
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # The child was so early that it does not lead a group yet.
        os.kill(child.pid, signal.SIGKILL)
    _, wait_status = os.waitpid(child.pid, 0)
    os.close(child.pidfd)
    seconds = time.monotonic() - child.started_s
    output = _tail(child.home / "output")
    try:
        told = json.loads((child.home / "report").read_text())
    except FileNotFoundError:
        told = None
    shutil.rmtree(child.home, ignore_errors=True)
    if hung:
        limit_s = child.deadline_s - child.started_s
        detail = f"still running at its limit of {limit_s:g} s; its stacks are in the output"
        return Outcome("hung", detail, output, seconds, {})
    if told is None:
        return Outcome("died", _how_it_died(wait_status), output, seconds, {})
    return Outcome(told["status"], told["detail"], output, seconds, told["facts"])


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - OUTPUT_KEPT_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _how_it_died(wait_status: int) -> str:
    if os.WIFSIGNALED(wait_status):
        return f"killed by {signal.Signals(os.WTERMSIG(wait_status)).name} before it could report"
    return f"left with exit status {os.waitstatus_to_exitcode(wait_status)} without a report"

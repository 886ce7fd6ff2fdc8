"""Workers as processes: keeps so many of them running, and takes back at once what a dead one was running.

Each is `python -m underlay jobs work … --worker NAME`, whose standard input is a pipe from here: when this process is
killed, it ends, and the workers see that. This file knows processes, signals and when to start one again. It refuses to
know what a worker does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ._job_errors import JobsUnavailable
from ._job_states import Backoff
from ._job_worker import worker_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._job_store import Store

__all__ = ["WorkerProcesses", "ending_with_parent", "stopping_on_signals"]

# A worker that lived this long was a good one: systemd's "too often" is measured over 10 s as well
# (DefaultStartLimitIntervalSec, systemd-system.conf(5)).
_GOOD_LIFE_S: Final = 10.0
# A worker that dies at once is started at most twice a minute.
_RESTARTS: Final = Backoff(first_s=0.1, factor=2.0, most_s=30.0, jitter=0.5)
_LOOK_S: Final = 0.02
# Soon for a person who reads what is told: Nielsen's limit of what feels instantaneous, "Usability Engineering", 5.5.
_TELL_S: Final = 0.1
# After its drain a worker only records; one that takes longer hangs.
_PATIENCE_S: Final = 5.0


@dataclass
class _Place:
    """Where one worker after the other runs."""

    process: subprocess.Popen[bytes] | None = None
    name: str = ""
    began: float = 0.0
    deaths: int = 0
    due: float = 0.0
    stopped_at: float | None = None


class WorkerProcesses:
    """``count`` workers, started as ``command`` and started again when they die."""

    def __init__(
        self,
        store: Store,
        command: Sequence[str],
        count: int,
        *,
        lease_s: float,
        drain_s: float,
        now: Callable[[], float],
        chance: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self.name = worker_name()
        """How the names of all workers begin; a dot and a number follow."""
        self._started = 0
        self._store = store
        self._command = command
        self._places = [_Place() for _ in range(count)]
        self._lease_s = lease_s
        self._drain_s = drain_s
        self._now = now
        self._chance = chance
        self._say = say

    def run(self, stop: threading.Event, *, until_idle: bool, look: Callable[[], None]) -> int:
        """Keep them running until ``stop`` is set; give the exit status. ``until_idle`` lets each end by itself.

        ``look()`` is called in between, some ten times a second.
        """
        status = 0
        look_due = 0.0
        try:
            while not stop.is_set():
                for place in self._places:
                    if place.process is None and not (until_idle and place.due == float("inf")):
                        if time.monotonic() >= place.due:
                            self._start(place)
                    elif place.process is not None and (code := place.process.poll()) is not None:
                        status = self._ended(place, code, until_idle) or status
                        if status == 2:
                            return status
                    elif place.process is not None:
                        self._look_whether_stopped(place, place.process)
                if all(place.due == float("inf") for place in self._places):
                    return status
                if time.monotonic() >= look_due:
                    look()
                    look_due = time.monotonic() + _TELL_S
                stop.wait(_LOOK_S)
        finally:
            self._end_all()
        return status

    def _start(self, place: _Place) -> None:
        self._started += 1
        place.name = f"{self.name}.{self._started}"
        place.began = time.monotonic()
        place.stopped_at = None
        place.process = subprocess.Popen(
            [*self._command, "--worker", place.name],
            stdin=subprocess.PIPE,
            # Ctrl-C goes to the terminal's foreground group: a worker is told by us, once.
            process_group=0,
        )

    def _look_whether_stopped(self, place: _Place, process: subprocess.Popen[bytes]) -> None:
        """Kill a worker that is stopped (SIGSTOP) for as long as its lease: its jobs go on, in its place too."""
        # To be told of a stop takes nothing from Popen, which waits for ends alone: waitid(2).
        try:
            changed = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
        except ChildProcessError:  # SIGCHLD is ignored here, and it has just ended
            return
        if changed is not None:
            place.stopped_at = time.monotonic() if changed.si_code == os.CLD_STOPPED else None
        if place.stopped_at is not None and time.monotonic() - place.stopped_at >= self._lease_s:
            place.stopped_at = None
            stopped = f"has been stopped for {self._lease_s:g} s, as long as its lease"
            self._say(f"worker {place.name} {stopped}, and is killed")
            process.kill()

    def _ended(self, place: _Place, code: int, until_idle: bool) -> int:
        assert place.process is not None and place.process.stdin is not None
        place.process.stdin.close()
        place.process = None
        lost = self._take_back(place.name)
        # Both are a worker's own only where it ran nothing: a job, too, can end the process with any status.
        if code == 0 and until_idle and not lost:
            place.due = float("inf")
            return 0
        if code == 2 and not lost:  # a mistake that the worker has told, and that each new one would repeat
            return code
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        good = time.monotonic() - place.began >= _GOOD_LIFE_S
        # A kill says nothing about the program; a life that was too short does.
        place.deaths = 0 if good or code < 0 else place.deaths + 1
        wait_s = _RESTARTS.delay_s(place.deaths, self._chance()) if place.deaths else 0.0
        place.due = time.monotonic() + wait_s
        back = "1 job goes back" if lost == 1 else f"{lost} jobs go back"
        again = f"in {wait_s:.1f} s" if wait_s else "at once"
        self._say(f"worker {place.name} {how}; {back}, another starts {again}")
        return 0

    def _take_back(self, name: str) -> int:
        try:
            return self._store.lose_worker(name, self._now())
        except JobsUnavailable as error:
            self._say(f"{error}; its jobs go back when their leases run out")
            return 0

    def _end_all(self) -> None:
        """Ask all to end, wait for their drain, kill what is left."""
        left = [place for place in self._places if place.process is not None]
        for place in left:
            assert place.process is not None
            place.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self._drain_s + _PATIENCE_S
        for place in left:
            assert place.process is not None and place.process.stdin is not None
            try:
                place.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                place.process.kill()
                place.process.wait()
            place.process.stdin.close()
            if place.process.returncode != 0:
                self._take_back(place.name)


@contextmanager
def stopping_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second one ends the process as if nobody had listened."""
    stop = threading.Event()
    before = {}

    def heard(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, heard)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ending_with_parent(stop: threading.Event) -> None:
    """Set ``stop`` when the process at the other end of our standard input is gone."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        stop.set()

    threading.Thread(target=wait, name="underlay-jobs-parent", daemon=True).start()

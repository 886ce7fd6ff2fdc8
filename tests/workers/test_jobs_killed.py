"""Workers are killed at random moments, and the submitter once: no job is lost, and each has exactly one result."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from underlay.workers import JobEvent, Jobs, JobState

PATIENCE_S = 100
WORKERS = 3

APP = """
import os, random, sys, time
from underlay import workers

jobs = workers.Jobs("jobs.db", busy_s=60)

@jobs.task(losses=1000)
def work(number):
    # Whoever ran it, and how often, stands in a file that no kill can tear: one short write at its end.
    with open("runs", "ab", buffering=0) as runs:
        runs.write(b"%d\\n" % number)
    time.sleep(random.random() * 0.08)  # so that a kill comes in time
    return number * number

if sys.argv[1] == "submit":
    for number in range(int(sys.argv[2])):
        print(number, jobs.submit(work, number, key=f"job-{number}").id, flush=True)
else:
    jobs.work(at_once=4, lease_s=1.0)
"""


class _Killing:
    """Keeps workers running, and kills one after the other."""

    def __init__(self, start: Callable[[], subprocess.Popen[str]], chance: random.Random) -> None:
        self._start = start
        self._chance = chance
        self.workers = [start() for _ in range(WORKERS)]
        self.kills = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        # A worker takes 0.2 s to begin, and must get something done.
        while not self._stopped.wait(0.2 + self._chance.random() * 0.3):
            place = self._chance.randrange(WORKERS)
            self.workers[place].send_signal(signal.SIGKILL)
            self.workers[place].wait()
            self.workers[place] = self._start()
            self.kills += 1

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def _numbers(said: str) -> dict[int, int]:
    """Read which job each number became; a line that a kill tore is none."""
    pairs = (line.split() for line in said.splitlines(keepends=True) if line.endswith("\n"))
    return {int(number): int(job) for number, job in pairs}


def _survives(folder: Path, environment: dict[str, str], count: int, seed: int) -> None:
    chance = random.Random(seed)
    (folder / "app.py").write_text(APP)

    def start(*words: str, stdout: int | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "app.py", *words], cwd=folder, env=environment, stdout=stdout, text=True
        )

    receipts: dict[int, int] = {}
    submitter = start("submit", str(count), stdout=subprocess.PIPE)
    killing = _Killing(lambda: start("work"), chance)
    try:
        # The submitter is killed in the middle of its work, between or inside two submissions.
        assert submitter.stdout is not None
        for line in submitter.stdout:
            number, job = map(int, line.split())
            receipts[number] = job
            if number == count // 2:
                break
        time.sleep(chance.random() * 0.005)
        submitter.kill()
        receipts.update(_numbers(submitter.stdout.read()))
        submitter.wait()
        assert len(receipts) < count
        second = start("submit", str(count), stdout=subprocess.PIPE)
        said, _ = second.communicate(timeout=PATIENCE_S)
        again = _numbers(said)
        # What a submitter was told before it died holds: the same jobs, under the same numbers.
        assert receipts.items() <= again.items()
        assert len(again) == count

        with Jobs(folder / "jobs.db", busy_s=60) as jobs:
            deadline = time.monotonic() + PATIENCE_S
            while jobs.statistics().done < count:
                assert time.monotonic() < deadline, jobs.statistics()
                time.sleep(0.02)
            told = jobs.statistics()
            assert (told.done, told.waiting, told.running, told.dead) == (count, 0, 0, 0)
            for number, job in again.items():
                receipt = jobs.receipt(job)
                assert receipt.state is JobState.DONE
                assert receipt.result(0) == number * number
            recorded = Counter(
                event.job
                for start_of in range(0, jobs.store.last_event(), 1000)
                for event in jobs.store.events(start_of, None, 1000)
                if event.event is JobEvent.SUCCEEDED
            )
            assert recorded == dict.fromkeys(again.values(), 1)
    finally:
        killing.stop()
        for process in (submitter, *killing.workers):
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    runs = Counter(map(int, (folder / "runs").read_text().split()))
    assert set(runs) == set(range(count))
    assert killing.kills > 0
    print(f"{count} jobs, {killing.kills} workers killed, {runs.total() - count} runs were repeated")


@pytest.mark.parametrize("seed", [1, 2])
def test_no_job_is_lost_and_none_has_two_results_when_processes_are_killed(
    tmp_path: Path, child_environment: dict[str, str], seed: int
) -> None:
    _survives(tmp_path, child_environment, 200, seed)


@pytest.mark.timeout(300)
def test_a_thousand_jobs_survive(tmp_path: Path, child_environment: dict[str, str]) -> None:
    _survives(tmp_path, child_environment, 1000, seed=int(os.environ.get("UNDERLAY_SEED", "3")))

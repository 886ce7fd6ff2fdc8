"""How many durable jobs a second: kept, run and awaited, beside what the disk and SQLite alone can do.

    python benchmarks/jobs.py                                          # a table
    python benchmarks/jobs.py --markdown docs/figures/jobs.md

Each job is on the disk when `submit` returns (synchronous=FULL), so the disk is measured in the same run: plain fsync,
and one INSERT per transaction of a bare SQLite in the same mode. Rows are interleaved over the rounds; the middle of
the rounds is shown. What is measured is real time, since waiting for the disk is the point; on a machine that does
other work, trust ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from underlay.workers import Jobs  # noqa: E402

# What two worker processes run; they import it by this name.
_APP: Final = """
from underlay.workers import Jobs
jobs = Jobs("jobs.db", busy_s=60)
jobs.task(abs)
"""


def fsyncs(folder: Path, count: int) -> None:
    """Append 4 KiB, a page of SQLite, and have the disk keep it."""
    file = os.open(folder / "plain", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for _ in range(count):
        os.write(file, b"x" * 4096)
        os.fdatasync(file)
    os.close(file)


def inserts(folder: Path, count: int) -> None:
    """Insert rows into a bare SQLite, a transaction each."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, data BLOB)")
    for _ in range(count):
        connection.execute("INSERT INTO rows (data) VALUES (x'00')")
    connection.close()


def _jobs(folder: Path) -> Jobs:
    jobs = Jobs(folder / "jobs.db")
    jobs.task(abs)
    return jobs


def submit_one_by_one(folder: Path, count: int) -> None:
    """Submit jobs, a transaction each."""
    with _jobs(folder) as jobs:
        for number in range(count):
            jobs.submit("abs", number)


def submit_from_tasks(folder: Path, count: int) -> None:
    """Submit from 100 tasks of one event loop."""

    async def some(jobs: Jobs, numbers: range) -> None:
        for number in numbers:
            await jobs.aio.submit("abs", number)

    async def main(jobs: Jobs) -> None:
        async with asyncio.TaskGroup() as group:
            for first in range(100):
                group.create_task(some(jobs, range(first, count, 100)))

    with _jobs(folder) as jobs:
        asyncio.run(main(jobs))


def submit_many(folder: Path, count: int) -> None:
    """Submit jobs, all in one transaction."""
    with _jobs(folder) as jobs:
        jobs.submit_many("abs", [(number,) for number in range(count)])


def run(folder: Path, at_once: int) -> None:
    """Run all that waits, in this process."""
    with _jobs(folder) as jobs:
        jobs.work(at_once=at_once, until_idle=True)


def run_in_processes(folder: Path, at_once: int) -> float:
    """Run in two processes; seconds from the first claim to the last result, without their start."""
    (folder / "app.py").write_text(_APP)
    words = ["--workers", "2", "--at-once", str(at_once), "--until-idle"]
    subprocess.run(
        [sys.executable, "-m", "underlay", "jobs", "work", "app:jobs", *words],
        cwd=folder, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    with _jobs(folder) as jobs, jobs.store.database.reading() as connection:
        first, last = connection.execute(
            "SELECT min(at), max(at) FROM events WHERE event IN ('claimed', 'succeeded')"
        ).fetchone()
    return float(last - first)


def to_and_fro(folder: Path, count: int) -> None:
    """Submit one job, wait for its result, and so on; a worker waits in another thread's connection."""
    stop = threading.Event()
    with _jobs(folder) as jobs, _jobs(folder) as other:
        worker = threading.Thread(target=lambda: other.work(stop=stop))
        worker.start()
        for number in range(count):
            jobs.submit("abs", number).result()
        stop.set()
        worker.join()


def measure(folder: Path, count: int) -> dict[str, float]:
    """One round: what is done, and how often a second."""
    rates: dict[str, float] = {}

    def rate(name: str, work: Callable[[Path], object], times: int, *, keep: bool = False) -> None:
        where = folder if keep else Path(tempfile.mkdtemp(dir=folder))
        began = time.perf_counter()
        told = work(where)
        took_s = told if isinstance(told, float) else time.perf_counter() - began
        rates[name] = times / took_s

    def filled() -> Path:
        where = Path(tempfile.mkdtemp(dir=folder))
        submit_many(where, count)
        return where

    rate("fdatasync of 4 KiB, alone", lambda where: fsyncs(where, count), count)
    rate("INSERT and COMMIT, bare SQLite", lambda where: inserts(where, count), count)
    rate("`submit`, one after the other", lambda where: submit_one_by_one(where, count), count)
    rate("`aio.submit`, from 100 tasks", lambda where: submit_from_tasks(where, count), count)
    rate("`submit_many`", lambda where: submit_many(where, count), count)
    for at_once in (1, 16):
        where = filled()
        rate(f"run, one worker, {at_once} at once", lambda _, w=where, a=at_once: run(w, a), count)  # type: ignore[misc]
    for at_once in (1, 16):
        where = filled()
        rate(f"run, two processes, {at_once} at once", lambda _, w=where, a=at_once: run_in_processes(w, a), count)  # type: ignore[misc]
    rate("`submit` and `result`, to and fro", lambda where: to_and_fro(where, count // 10), count // 10)
    return rates


def main() -> int:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description="durable jobs a second")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1000, help="jobs in each measurement")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk that is to be measured")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    options = parser.parse_args()
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rounds.append(measure(Path(folder), options.count))
    lines = ["| | a second | from | to |", "|---|--:|--:|--:|"]
    for name in rounds[0]:
        seen = [rates[name] for rates in rounds]
        lines.append(f"| {name} | {statistics.median(seen):,.0f} | {min(seen):,.0f} | {max(seen):,.0f} |")
    lines += [
        "",
        f"{options.count:,} jobs each, {options.rounds} rounds, the middle one and the range; "
        f"{len(os.sched_getaffinity(0))} cores, Linux {platform.release()}, CPython {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}.",
    ]
    text = "\n".join(lines) + "\n"
    if options.markdown is not None:
        options.markdown.write_text(text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What a unit of concurrency costs: to make one, to switch to one, and the memory that one takes while it waits.

    python benchmarks/costs.py
    python benchmarks/costs.py --only "asyncio task" thread
    python benchmarks/costs.py --rounds 9 --markdown docs/figures/switches.md --svg docs/figures/switches.svg

A process, a thread, an asyncio task, a greenlet and a bare coroutine, in turns, round by round, each in a process of
its own. *Make* is from nothing until the last of many has ended, for each. *Switch* is half of there and back between
two that do nothing but wake each other, on one core: by a byte in a pipe (process, thread), by a turn of the loop
(task), by `switch()` and `send()`. *Memory* is what the process's memory (Pss: shared pages by their share) grows by
for each of many that wait; a thread's stack is reserved by the MiB and taken by the page. Besides the time stands
the CPU time, which other programs on the machine hardly lengthen. greenlet is passed over where it is not installed.

It knows nothing of underlay's own rooms but how the machine is described.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.costs_svg import picture  # noqa: E402

from underlay.tools._compare import describe_machine  # noqa: E402

# One that takes longer hangs.
PATIENCE_S: Final = 120


@dataclass(frozen=True)
class Figures:
    """What one unit cost in one round: µs of time and of CPU, and KiB."""

    make_us: float
    make_cpu_us: float
    switch_us: float
    switch_cpu_us: float
    memory_kib: float


@dataclass(frozen=True)
class Unit:
    """A kind of unit: its functions make, switch and hold so many; ``said`` is what people quote of it."""

    name: str
    make: Callable[[int], None]
    switch: Callable[[int], None]
    hold: Callable[[int], int]
    makes: int
    switches: int
    holds: int
    says: str
    said_switch_us: tuple[float, float] | None = None
    said_memory_kib: float | None = None


# --- memory ---


def pss_kib(processes: Sequence[int] = ()) -> int:
    """What these processes, or this one, have of the machine's memory: proc_pid_smaps_rollup(5)."""
    total = 0
    for process in processes or [os.getpid()]:
        with open(f"/proc/{process}/smaps_rollup") as rollup:
            total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    return total


# --- processes ---


def make_processes(count: int) -> None:
    """Fork children that end at once."""
    for _ in range(count):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)


def _play(mine: int, others: int, count: int) -> None:
    read, write = os.read, os.write
    for _ in range(count):
        write(others, b"x")
        read(mine, 1)


def _answer(mine: int, others: int, count: int) -> None:
    read, write = os.read, os.write
    for _ in range(count):
        read(mine, 1)
        write(others, b"x")


def switch_processes(count: int) -> None:
    """A byte to a child and one back."""
    here, to_here = os.pipe()
    there, to_there = os.pipe()
    pid = os.fork()
    if not pid:
        _answer(there, to_here, count // 2)
        os._exit(0)
    _play(here, to_there, count // 2)
    os.waitpid(pid, 0)


def hold_processes(count: int) -> int:
    """Children that wait in a read; none has touched more than it must."""
    gate, opening = os.pipe()
    before = pss_kib()
    children = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            os.close(opening)
            os.read(gate, 1)
            os._exit(0)
        children.append(pid)
    time.sleep(0.2)
    after = pss_kib([os.getpid(), *children])
    os.close(opening)
    for pid in children:
        os.waitpid(pid, 0)
    return after - before


# --- threads ---


def make_threads(count: int) -> None:
    """Threads that end at once."""
    for _ in range(count):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()


def switch_threads(count: int) -> None:
    """A byte to a thread and one back."""
    here, to_here = os.pipe()
    there, to_there = os.pipe()
    thread = threading.Thread(target=_answer, args=(there, to_here, count // 2))
    thread.start()
    _play(here, to_there, count // 2)
    thread.join()


def hold_threads(count: int) -> int:
    """Threads that wait in a read."""
    gate, opening = os.pipe()
    before = pss_kib()
    threads = [threading.Thread(target=os.read, args=(gate, 1)) for _ in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    after = pss_kib()
    os.close(opening)
    for thread in threads:
        thread.join()
    return after - before


# --- asyncio tasks ---


async def _nothing() -> None:
    pass


def make_tasks(count: int) -> None:
    """Tasks that end at once."""

    async def main() -> None:
        for _ in range(count):
            await asyncio.create_task(_nothing())

    asyncio.run(main())


def switch_tasks(count: int) -> None:
    """Two tasks that take turns."""

    async def turns() -> None:
        for _ in range(count // 2):
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(turns(), turns())

    asyncio.run(main())


def hold_tasks(count: int) -> int:
    """Tasks that wait for a future each."""

    async def main() -> int:
        loop = asyncio.get_running_loop()

        async def wait(future: asyncio.Future[None]) -> None:
            await future

        gc.collect()
        before = pss_kib()
        futures: list[asyncio.Future[None]] = [loop.create_future() for _ in range(count)]
        tasks = [asyncio.create_task(wait(future)) for future in futures]
        await asyncio.sleep(0)
        after = pss_kib()
        for future in futures:
            future.set_result(None)
        await asyncio.gather(*tasks)
        return after - before

    return asyncio.run(main())


# --- greenlets ---


def _greenlet() -> Any:
    return importlib.import_module("greenlet").greenlet


def make_greenlets(count: int) -> None:
    """Greenlets that end at once."""
    greenlet = _greenlet()
    for _ in range(count):
        greenlet(int).switch()


def switch_greenlets(count: int) -> None:
    """There and back again."""
    greenlet = _greenlet()
    back = greenlet.getcurrent().switch

    def turns() -> None:
        while True:
            back()

    there = greenlet(turns).switch
    for _ in range(count // 2):
        there()


def hold_greenlets(count: int) -> int:
    """Greenlets that have begun and wait."""
    greenlet = _greenlet()
    back = greenlet.getcurrent().switch
    gc.collect()
    before = pss_kib()
    waiting = [greenlet(lambda: back()) for _ in range(count)]
    for each in waiting:
        each.switch()
    after = pss_kib()
    for each in waiting:
        each.switch()
    return after - before


# --- bare coroutines ---


class _Turn:
    def __await__(self) -> Generator[None, None, None]:
        yield


def make_coroutines(count: int) -> None:
    """Coroutines that end at once."""
    for _ in range(count):
        try:
            _nothing().send(None)
        except StopIteration:
            pass


def switch_coroutines(count: int) -> None:
    """Into one and out again."""

    async def turns() -> None:
        turn = _Turn()
        while True:
            await turn

    coroutine = turns()
    send = coroutine.send
    for _ in range(count // 2):
        send(None)
    coroutine.close()


def hold_coroutines(count: int) -> int:
    """Coroutines that have begun and wait."""

    async def wait(turn: _Turn) -> None:
        await turn

    gc.collect()
    before = pss_kib()
    turn = _Turn()
    waiting = [wait(turn) for _ in range(count)]
    for each in waiting:
        each.send(None)
    after = pss_kib()
    for each in waiting:
        each.close()
    return after - before


# What is quoted again and again, measured in C and Go: zhuanlan.zhihu.com/p/80037638.
_SAID_SWITCH_US = (3.0, 5.0)
_SAID_COROUTINE_US = (0.12, 0.12)
_SAID_COROUTINE_KIB = 2.0
UNITS: Final = {
    unit.name: unit
    for unit in (
        Unit("process", make_processes, switch_processes, hold_processes, 200, 20_000, 50,
             "os.fork", _SAID_SWITCH_US),
        Unit("thread", make_threads, switch_threads, hold_threads, 2_000, 20_000, 200,
             "threading.Thread", _SAID_SWITCH_US),
        Unit("asyncio task", make_tasks, switch_tasks, hold_tasks, 20_000, 100_000, 20_000,
             "asyncio.create_task"),
        Unit("greenlet", make_greenlets, switch_greenlets, hold_greenlets, 50_000, 500_000, 20_000,
             "greenlet.greenlet"),
        Unit("bare coroutine", make_coroutines, switch_coroutines, hold_coroutines, 100_000, 1_000_000, 50_000,
             "coroutine.send", _SAID_COROUTINE_US, _SAID_COROUTINE_KIB),
    )
}  # fmt: skip


# --- measuring ---


def _cpu_s() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in both)


def _timed(work: Callable[[int], None], count: int) -> tuple[float, float]:
    """µs of time and of CPU for each, children included."""
    work(max(2, count // 10))
    gc.collect()
    gc.disable()
    started_s, used_s = time.perf_counter(), _cpu_s()
    work(count)
    elapsed_s, used_s = time.perf_counter() - started_s, _cpu_s() - used_s
    gc.enable()
    return elapsed_s / count * 1e6, used_s / count * 1e6


def measure_here(unit: Unit) -> Figures:
    """The figures of one unit, in this process."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    make, switch = _timed(unit.make, unit.makes), _timed(unit.switch, unit.switches)
    return Figures(*make, *switch, unit.hold(unit.holds) / unit.holds)


def measure(name: str) -> Figures:
    """The figures of one unit, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--here", name], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    if done.returncode:
        raise RuntimeError(f"{name} could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return Figures(**json.loads(done.stdout))


def median(samples: Sequence[Figures], field: str) -> float:
    """The median of one figure."""
    return float(statistics.median(getattr(each, field) for each in samples))


def quantity(value: float, unit: str) -> str:
    """A number of three digits or so, with its unit.

    >>> quantity(0.1234, "µs"), quantity(1234.5, "µs"), quantity(17.26, "KiB")
    ('0.123 µs', '1,234 µs', '17.3 KiB')
    """
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f} {unit}"


def said(unit: Unit) -> str:
    """What is quoted of a unit."""
    words = []
    if unit.said_switch_us is not None:
        low, high = unit.said_switch_us
        words.append(f"switch {low * 1000:g} ns" if high < 1 else f"switch {low:g}–{high:g} µs")
    if unit.said_memory_kib is not None:
        words.append(f"{unit.said_memory_kib:g} KB")
    return ", ".join(words)


def rows(results: dict[str, list[Figures]]) -> list[tuple[str, ...]]:
    """The table: unit, made by, make, switch, memory, what is quoted."""
    table = []
    for name, samples in results.items():
        cells = [name, f"`{UNITS[name].says}`"]
        for field in ("make", "switch"):
            wall, cpu = median(samples, f"{field}_us"), median(samples, f"{field}_cpu_us")
            cells.append(f"{quantity(wall, 'µs')} ({quantity(cpu, 'µs')})")
        table.append((*cells, quantity(median(samples, "memory_kib"), "KiB"), said(UNITS[name])))
    return table


HEADINGS: Final = ("unit", "made by", "make (CPU)", "switch (CPU)", "memory of one that waits", "as it is quoted")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--only", nargs="+", choices=UNITS, metavar="UNIT", help=f"of {', '.join(UNITS)}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table for the docs")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="draw them")
    parser.add_argument("--here", choices=UNITS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.here:
        print(json.dumps(vars(measure_here(UNITS[arguments.here]))))
        return 0
    names = list(arguments.only or UNITS)
    if "greenlet" in names and importlib.util.find_spec("greenlet") is None:
        print("greenlet is passed over: it is not installed (pip install underlay[bench])", file=sys.stderr)
        names.remove("greenlet")
    results: dict[str, list[Figures]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name in names:
            if sys.stderr.isatty():
                print(f"\r\033[Kround {number + 1}: {name}", end="", file=sys.stderr, flush=True)
            results[name].append(measure(name))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    table = rows(results)
    widths = [max(len(row[column]) for row in (HEADINGS, *table)) for column in range(len(HEADINGS))]
    for row in (HEADINGS, *table):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    machine = describe_machine()
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['kernel']}, {machine['python']}"
    when = time.strftime("%Y-%m-%d")
    if arguments.json:
        figures = {name: [vars(each) for each in samples] for name, samples in results.items()}
        arguments.json.write_text(json.dumps({"machine": machine, "date": when, "figures": figures}, indent=1) + "\n")
    if arguments.markdown:
        lines = [
            f"Measured by `python benchmarks/costs.py --rounds {arguments.rounds}` on {when}: {where}; medians.",
            "",
            f"| {' | '.join(HEADINGS)} |",
            "|---|---|---:|---:|---:|---|",
            *(f"| {' | '.join(row)} |" for row in table),
        ]
        arguments.markdown.write_text("\n".join(lines) + "\n")
    if arguments.svg:
        bars = {
            name: (
                [median(samples, field) for field in ("make_us", "switch_us", "memory_kib")],
                [None, UNITS[name].said_switch_us, UNITS[name].said_memory_kib],
            )
            for name, samples in results.items()
        }
        arguments.svg.write_text(picture(bars, f"{where}, {when}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

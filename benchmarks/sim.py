"""How fast simulated hosts are, beside stock asyncio on the kernel's loopback and beside simloop (PyPI).

    python benchmarks/sim.py
    python benchmarks/sim.py --rounds 5 --markdown docs/figures/sim.md
    python benchmarks/sim.py --only 1x64B,100x64B

Each measurement is a process of its own that runs the programs of `sim_programs.py` once for nothing and once for the
figure, in seconds of the processor. In each round every subject does the same, one after the other; ratios are taken
within a round, and their median and range shown. stock asyncio has client and server on one loop, as a world has them
in one process. simloop, which delivers whole messages and has no TCP inside, is measured where it is installed (it
needs Python 3.12).

It knows which figures to take. It refuses to know how any subject works.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from underlay.errors import UnderlayError  # noqa: E402
from underlay.tools._compare import describe_machine  # noqa: E402
from underlay.wire import _tcp  # noqa: E402

PROGRAMS = ROOT / "benchmarks" / "sim_programs.py"
# A process that takes longer hangs.
PATIENCE_S = 300


@dataclass(frozen=True)
class Cell:
    """One figure: its kind, how many, what it is of, and whom it can be compared with."""

    kind: str
    count: int
    says: str
    unit: str
    others: tuple[str, ...] = ("asyncio", "simloop")


CELLS = (
    Cell("1x64B", 5_000, "64 B there and back, 1 connection", "µs each"),
    Cell("100x64B", 20_000, "64 B there and back, 100 connections", "µs each"),
    Cell("1x64KiB", 2_000, "64 KiB there and back, 1 connection", "µs each", ("asyncio",)),
    Cell("heartbeats", 1_000, "1,000 hosts, a heartbeat each second, 60 s", "ms a host", ("simloop",)),
    Cell("hosts500", 500, "500 hosts, a heartbeat each second, 10 s", "ms a host", ("simloop",)),
    Cell("hosts4000", 4_000, "4,000 hosts, a heartbeat each second, 10 s", "ms a host", ("simloop",)),
    Cell("churn", 100_000, "a connection opened, used once and closed", "µs each"),
    Cell("seeds", 200, "a seed of 3 hosts and 50 calls, 1 % loss", "µs each", ()),
)


@dataclass(frozen=True)
class Sample:
    """One process: seconds of the processor for ``count`` of what the cell is of, and MiB that it took at most."""

    round: int
    cell: Cell
    subject: str
    seconds: float
    peak_mib: float

    @property
    def each(self) -> float:
        """In the cell's unit."""
        return self.seconds / self.cell.count * (1e3 if self.cell.unit.startswith("ms") else 1e6)


def measure(number: int, cell: Cell, subject: str) -> Sample:
    """Run one process."""
    command = [sys.executable, str(PROGRAMS), subject, cell.kind, str(cell.count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    if done.returncode:
        raise UnderlayError(f"{subject} {cell.kind} failed: {done.stderr.strip().splitlines()[-1:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    return Sample(number, cell, subject, told["seconds"], told["peak_mib"])


def rows(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """The table: what, ours, each reference with its ratio, memory."""
    table = []
    for cell in dict.fromkeys(sample.cell for sample in samples):
        ours = {s.round: s for s in samples if s.cell == cell and s.subject == "underlay"}
        row = [cell.says, f"{statistics.median(s.each for s in ours.values()):,.1f} {cell.unit}"]
        for other in ("asyncio", "simloop"):
            theirs = {s.round: s for s in samples if s.cell == cell and s.subject == other}
            ratios = [ours[number].seconds / theirs[number].seconds for number in theirs]
            row.append(
                f"{statistics.median(s.each for s in theirs.values()):,.1f}, {statistics.median(ratios):.2f} × "
                f"({min(ratios):.2f}–{max(ratios):.2f})"
                if theirs
                else ""
            )
        row.append(f"{max(s.peak_mib for s in ours.values()):,.0f} MiB")
        table.append(tuple(row))
    return table


def growth(samples: Sequence[Sample]) -> list[str]:
    """What a host costs among many, of what it costs among few; of each subject that was measured so."""
    few, many = (next(cell for cell in CELLS if cell.kind == kind) for kind in ("hosts500", "hosts4000"))
    told = []
    for subject in dict.fromkeys(sample.subject for sample in samples):
        each = {(s.round, s.cell): s.each for s in samples if s.subject == subject}
        ratios = [each[number, many] / each[number, few] for number, cell in each if cell == few]
        if ratios:
            told.append(f"{subject} {statistics.median(ratios):.2f} ×")
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help=f"cells, of {', '.join(cell.kind for cell in CELLS)}")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table for the docs")
    arguments = parser.parse_args(argv)
    words = arguments.only.split(",") if arguments.only else []
    cells = [cell for cell in CELLS if not words or cell.kind in words]
    has_simloop = importlib.util.find_spec("simloop") is not None
    samples: list[Sample] = []
    try:
        for number in range(arguments.rounds):
            for cell in cells:
                for subject in ("underlay", *cell.others):
                    if subject == "simloop" and not has_simloop:
                        continue
                    samples.append(measure(number, cell, subject))
                    if sys.stderr.isatty():
                        print(f"\r\033[Kround {number + 1}: {cell.kind} {subject}", end="", file=sys.stderr, flush=True)
    except UnderlayError as error:
        print(f"sim.py: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    table = rows(samples)
    form = "compiled by mypyc" if (_tcp.__file__ or "").endswith(".so") else "plain Python"
    for what, ours, stock, simloop, memory in table:
        print(f"{what:<46} {ours:>16} {memory:>8}")
        for name, told in (("asyncio", stock), ("simloop", simloop)):
            if told:
                print(f"    {name:<42} {told}")
    grown = growth(samples) if {"hosts500", "hosts4000"} <= {cell.kind for cell in cells} else []
    if grown:
        print(f"a host among 4,000, of one among 500: {', '.join(grown)}")
    print(f"wire and stack: {form}")
    if arguments.markdown:
        machine = describe_machine()
        lines = [
            f"Measured by `python benchmarks/sim.py --rounds {arguments.rounds}` on {time.strftime('%Y-%m-%d')}: "
            f"{machine['processor']}, {machine['cores']} cores, {machine['kernel']}, {machine['python']}; "
            f"`wire` and `stack` {form}. Times are the processor's.",
            "",
            "| what | a world | stock asyncio, ratio | simloop, ratio | memory |",
            "|---|---:|---:|---:|---:|",
            *(f"| {' | '.join(row)} |" for row in table),
            *(["", f"A host among 4,000 costs, of one among 500: {', '.join(grown)}."] if grown else []),
        ]
        arguments.markdown.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

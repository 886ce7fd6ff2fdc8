"""Server CPU µs per request of every I/O model, beside uvloop and the standard loop.

    python benchmarks/loops.py --io epoll,uvloop --cells 100x1KiB:protocol --quick
    python benchmarks/loops.py --rounds 7 --json loops.json --markdown loops.md

A cell is CONNECTIONSxSIZE:PROGRAM[:spin]. In each round every loop serves each cell once, in turn, in a
fresh process, so that a noisy minute hurts all alike; ratios to uvloop are taken within a round,
and their median and range are shown. One connection (`1x64B:protocol`) is judged by round trips per
second instead. Behind `:spin` the generator asks for the answer without sleeping, so that its own
waking up, which is most of such a round trip, is left out.

It uses the generator and the clocks of `underlay compare`; it knows nothing of how the loops work.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from underlay.tools._compare import describe_machine  # noqa: E402
from underlay.tools._compare_measure import cpu_s, machine_busy_s  # noqa: E402
from underlay.tools._load import Load, LoadError, Target  # noqa: E402
from underlay.tools._load_process import end_group, spawn  # noqa: E402

MODELS = ["epoll", "epoll_et", "uring", "signal", "poll", "select", "nonblocking", "blocking"]
REFERENCES = ["uvloop", "asyncio", "asyncio+malloc"]

# glibc gives a block of 128 KiB or more its own mapping; asyncio's receive buffer is 256 KiB. With
# these the standard loop no longer maps and unmaps memory on each read, which is most of its cost.
# Source: mallopt(3).
MALLOC_TUNED = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "8388608"}

CELLS = [
    f"{connections}x{size}:{program}"
    for connections in (100, 1000)
    for size in ("1KiB", "64KiB")
    for program in ("protocol", "streams")
] + ["1x64B:protocol", "1x64B:protocol:spin"]

UNITS = {"B": 1, "KiB": 1024, "MiB": 1 << 20}


@dataclass(frozen=True)
class Cell:
    """One kind of load: how many connections, bytes per request, which of the two servers, how the client waits."""

    name: str
    connections: int
    size_bytes: int
    program: str
    spin: bool = False

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read `100x1KiB:protocol` or `1x64B:protocol:spin`."""
        match = re.fullmatch(r"(\d+)x(\d+)(B|KiB|MiB):(protocol|streams)(:spin)?", text)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is no cell; write CONNECTIONSxSIZE:PROGRAM as 100x1KiB:streams")
        return cls(text, int(match[1]), int(match[2]) * UNITS[match[3]], match[4], bool(match[5]))


@dataclass(frozen=True)
class Sample:
    """What one loop did in one cell in one round."""

    round: int
    cell: str
    loop: str
    cpu_us: float
    requests_per_s: float
    p50_us: float
    p99_us: float
    generator_busy: float
    server_busy: float
    errors: int
    failure: str = ""
    others_busy: float = 0.0


def start_server(loop: str, program: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server on a loop and give its process and port.

    RuntimeError tells why it didn't start.
    """
    name, _, tuned = loop.partition("+")
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    process = spawn(
        [sys.executable, str(ROOT / "benchmarks" / "servers.py"), name, program],
        environment={**os.environ, "PYTHONPATH": path, **(MALLOC_TUNED if tuned else {})},
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    poller = select.poll()
    poller.register(process.stdout, select.POLLIN)
    line = process.stdout.readline() if poller.poll(10_000) else b""
    if line.strip().isdigit():
        return process, int(line)
    end_group(process, grace_s=0)
    lines = process.stderr.read().decode(errors="replace").strip().splitlines()
    stop_server(process)
    raise RuntimeError(lines[-1] if lines else "the server didn't start within 10 s")


def stop_server(process: subprocess.Popen[bytes]) -> None:
    """End a server."""
    end_group(process, grace_s=0)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def measure(number: int, cell: Cell, loop: str, seconds: float) -> Sample:
    """Load one loop with one cell once."""
    nan = float("nan")
    try:
        process, port = start_server(loop, cell.program)
    except RuntimeError as error:
        return Sample(number, cell.name, loop, nan, nan, nan, nan, nan, nan, 0, str(error))
    try:
        with Load(Target("tcp-echo", "127.0.0.1", port, cell.size_bytes)) as load:
            load.connect(cell.connections)
            load.run(min(0.3, seconds / 2), spin=cell.spin)
            busy = machine_busy_s()
            before = cpu_s([process.pid])
            window = load.run(seconds, spin=cell.spin)
            used = cpu_s([process.pid]) - before
            busy = machine_busy_s() - busy
            load.check()
    except LoadError as error:
        return Sample(number, cell.name, loop, nan, nan, nan, nan, nan, nan, 0, str(error))
    finally:
        stop_server(process)
    return Sample(
        round=number,
        cell=cell.name,
        loop=loop,
        cpu_us=used / window.requests * 1e6,
        requests_per_s=window.requests / window.seconds,
        p50_us=window.latency.percentile_us(50),
        p99_us=window.latency.percentile_us(99),
        generator_busy=window.busy,
        server_busy=used / window.seconds,
        errors=sum(window.errors.values()),
        others_busy=max(0.0, busy - used - window.cpu_s) / window.seconds,
    )


@dataclass(frozen=True)
class Row:
    """One loop in one cell over all rounds: least, median, and the ratios to uvloop."""

    cell: str
    loop: str
    minimum: float
    median: float
    ratios: tuple[float, float, float] | None  # least, median, greatest
    requests_per_s: float
    generator_busy: float
    errors: int
    failure: str


def summarise(samples: Sequence[Sample], cell: Cell, loop: str) -> Row:
    """Put the rounds of one loop in one cell together.

    For one connection the figure is round trips per second.
    """
    mine = [s for s in samples if (s.cell, s.loop) == (cell.name, loop)]
    good = [s for s in mine if not s.failure]
    failure = next((s.failure for s in mine if s.failure), "")
    if not good:
        nan = float("nan")
        return Row(cell.name, loop, nan, nan, None, nan, nan, 0, failure)
    rivals = [s for s in samples if (s.cell, s.loop) == (cell.name, "uvloop") and not s.failure]
    base = {s.round: figure(s, cell) for s in rivals}
    ratios = [figure(s, cell) / base[s.round] for s in good if s.round in base]
    figures = [figure(s, cell) for s in good]
    return Row(
        cell.name,
        loop,
        min(figures),
        statistics.median(figures),
        (min(ratios), statistics.median(ratios), max(ratios)) if ratios else None,
        statistics.median(s.requests_per_s for s in good),
        statistics.median(s.generator_busy for s in good),
        sum(s.errors for s in good),
        failure,
    )


def figure(sample: Sample, cell: Cell) -> float:
    """Give what a cell is judged by."""
    return sample.requests_per_s if cell.connections == 1 else sample.cpu_us


def table(rows: Sequence[Row], cell: Cell) -> str:
    """Write one cell's rows for a terminal."""
    one = cell.connections == 1
    unit = "round trips/s" if one else "CPU µs/request"
    lines = [
        f"{cell.name}   {unit}; ratio to uvloop within each round",
        f"  {'loop':<24}{'min':>9}{'median':>9}   {'ratio':>5} {'(range)':<13}{'req/s':>9}{'gen busy':>9}",
    ]
    for row in rows:
        if row.median != row.median:  # NaN: nothing was measured
            lines.append(f"  {row.loop:<24}— {row.failure}")
            continue
        ratio = f"{'—':>5} {'':<13}" if row.ratios is None else "{1:>5.2f} ({0:.2f}–{2:.2f})  ".format(*row.ratios)
        digits = 0 if one else 2
        notes = f"  {row.errors} errors" * bool(row.errors) + f"  {row.failure}" * bool(row.failure)
        lines.append(
            f"  {row.loop:<24}{row.minimum:>9.{digits}f}{row.median:>9.{digits}f}   {ratio}"
            f"{row.requests_per_s:>9.0f}{row.generator_busy:>8.0%}{notes}"
        )
    return "\n".join(lines)


def crowd(samples: Sequence[Sample], cell: Cell) -> list[str]:
    """Give a warning if other programs took more than a fifth of a core: a desktop takes less."""
    others = [s.others_busy for s in samples if s.cell == cell.name and not s.failure]
    if not others or statistics.median(others) < 0.2:
        return []
    return [f"  Other programs took {statistics.median(others):.1f} cores meanwhile: trust ratios only."]


def markdown(rows: Sequence[Row], cells: Sequence[Cell], loops: Sequence[str]) -> str:
    """Write Markdown tables, one for each number of connections: a row for each loop, a column for each cell.

    An entry is the median, and in brackets the median ratio to uvloop with its range over the rounds.
    """
    by_key = {(row.cell, row.loop): row for row in rows}
    out: list[str] = []
    for connections in dict.fromkeys(cell.connections for cell in cells):
        some = [cell for cell in cells if cell.connections == connections]
        unit = "round trips per second" if connections == 1 else "server CPU µs per request"
        plural = "connection" if connections == 1 else "connections"
        out += [f"**{connections:,} {plural}**, {unit} (× uvloop, least–greatest):", ""]
        out += ["| loop | " + " | ".join(cell.name.partition("x")[2] for cell in some) + " |"]
        out += ["|---|" + "---:|" * len(some)]
        for loop in loops:
            entries = []
            for cell in some:
                row = by_key[cell.name, loop]
                if row.median != row.median:
                    entries.append("—")
                    continue
                value = f"{row.median:,.0f}/s" if connections == 1 else f"{row.median:.2f}"
                entries.append(
                    value + ("" if row.ratios is None else " ({1:.2f}×, {0:.2f}–{2:.2f})".format(*row.ratios))
                )
            out.append(f"| `{loop}` | " + " | ".join(entries) + " |")
        out.append("")
    return "\n".join(out)


def caption(arguments: argparse.Namespace) -> str:
    """Say which command measured, when and on what."""
    machine = describe_machine()
    command = f"python benchmarks/loops.py --rounds {arguments.rounds} --seconds {arguments.seconds:g}"
    return (
        f"Measured by `{command}` on {time.strftime('%Y-%m-%d')}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['kernel']}, {machine['python']}.\n"
    )


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--io", default=",".join(MODELS + REFERENCES), help="loops, by name or module:factory")
    parser.add_argument("--cells", default=",".join(CELLS), help="cells, as 100x1KiB:protocol,1000x64KiB:streams")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="the measured window of each loop in each round")
    parser.add_argument("--quick", action="store_true", help="5 rounds of 0.5 s: a hint while tuning, not a result")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table of medians for the docs")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rounds, arguments.seconds = 5, 0.5
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print each cell as it gets done, write what was asked for."""
    arguments = parse_arguments(argv)
    loops = arguments.io.split(",")
    cells = [Cell.parse(text) for text in arguments.cells.split(",")]
    samples: list[Sample] = []
    rows: list[Row] = []
    try:
        for cell in cells:
            for number in range(arguments.rounds):
                # Each round begins with another loop, so that no one always follows the same
                # neighbour.
                for at in range(len(loops)):
                    loop = loops[(at + number) % len(loops)]
                    samples.append(measure(number, cell, loop, arguments.seconds))
                    if sys.stderr.isatty():
                        print(
                            f"\r\033[K{cell.name} round {number + 1}: {loop}",
                            end="",
                            file=sys.stderr,
                            flush=True,
                        )
            if sys.stderr.isatty():
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            cell_rows = [summarise(samples, cell, loop) for loop in loops]
            rows += cell_rows
            print(table(cell_rows, cell), *crowd(samples, cell), "", sep="\n", flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if arguments.json:
        report = {"machine": describe_machine(), "samples": [asdict(sample) for sample in samples]}
        arguments.json.write_text(json.dumps(report, indent=1))
    if arguments.markdown:
        crowded = [line.strip() for cell in cells for line in crowd(samples, cell)]
        warning = f"{crowded[0]}\n" if crowded else ""
        text = markdown(rows, cells, loops)
        arguments.markdown.write_text(f"{caption(arguments)}{warning}\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

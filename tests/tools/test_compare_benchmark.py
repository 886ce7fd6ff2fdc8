"""`benchmarks/loops.py`: its arithmetic on made-up samples, and one short run of the real thing."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "benchmarks" / "loops.py"


@pytest.fixture(scope="module")
def loops() -> ModuleType:
    spec = importlib.util.spec_from_file_location("underlay_benchmark_loops", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def sample(loops: ModuleType, number: int, loop: str, cpu_us: float, failure: str = "") -> object:
    rate = 1e6 / cpu_us
    return loops.Sample(number, "100x1KiB:protocol", loop, cpu_us, rate, 1.0, 2.0, 0.9, 0.9, 0, failure)


def test_a_cell_is_read_from_its_name(loops: ModuleType) -> None:
    cell = loops.Cell.parse("1000x64KiB:streams")
    assert (cell.connections, cell.size_bytes, cell.program) == (1000, 65536, "streams")


@pytest.mark.parametrize("text", ["", "100", "100x1KiB", "100x1KB:protocol", "x1KiB:protocol"])
def test_what_is_no_cell_is_refused_with_an_example(loops: ModuleType, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="100x1KiB:streams"):
        loops.Cell.parse(text)


def test_ratios_are_taken_within_a_round_so_a_slow_round_hurts_both(loops: ModuleType) -> None:
    samples = [
        *(sample(loops, 0, "uvloop", 5.0), sample(loops, 0, "epoll", 5.5)),
        *(sample(loops, 1, "uvloop", 50.0), sample(loops, 1, "epoll", 55.0)),
        *(sample(loops, 2, "uvloop", 6.0), sample(loops, 2, "epoll", 6.6)),
    ]
    cell = loops.Cell.parse("100x1KiB:protocol")
    row = loops.summarise(samples, cell, "epoll")
    assert row.ratios == pytest.approx((1.1, 1.1, 1.1))
    assert (row.minimum, row.median) == (5.5, 6.6)


def test_a_loop_that_failed_has_its_reason_and_no_figure(loops: ModuleType) -> None:
    cell = loops.Cell.parse("100x1KiB:protocol")
    row = loops.summarise([sample(loops, 0, "ours", math.nan, "it broke")], cell, "ours")
    assert row.ratios is None and math.isnan(row.median)
    assert "it broke" in loops.table([row], cell)
    assert loops.markdown([row], [cell], ["ours"]).splitlines()[-1] == "| `ours` | — |"


def test_one_connection_is_judged_by_round_trips(loops: ModuleType) -> None:
    cell = loops.Cell.parse("1x64B:protocol")
    one = loops.Sample(0, cell.name, "uvloop", 20.0, 30_000.0, 1.0, 2.0, 1.0, 1.0, 0)
    row = loops.summarise([one], cell, "uvloop")
    assert row.median == 30_000.0
    assert "30,000/s (1.00×, 1.00–1.00)" in loops.markdown([row], [cell], ["uvloop"])


def test_a_short_run_writes_a_table_samples_and_markdown(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(PROGRAM), "--io", "asyncio,asyncio+malloc,epoll,no.such:loop"),
            *("--cells", "3x1KiB:streams,1x64B:protocol", "--rounds", "2", "--seconds", "0.1"),
            *("--json", "samples.json", "--markdown", "table.md"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ModuleNotFoundError" in done.stdout  # of the loop that there isn't, in its row
    report = json.loads((tmp_path / "samples.json").read_text())
    measured = [sample for sample in report["samples"] if not sample["failure"]]
    assert len(measured) == 2 * 2 * 3
    assert all(sample["cpu_us"] > 0 and sample["errors"] == 0 for sample in measured)
    table = (tmp_path / "table.md").read_text()
    assert table.startswith("Measured by `python benchmarks/loops.py --rounds 2 --seconds 0.1` on ")
    assert "**3 connections**, server CPU µs per request" in table
    assert "**1 connection**, round trips per second" in table

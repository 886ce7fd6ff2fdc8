"""Rows keep their columns whatever stands in them, and the JSON has the keys that docs/stat.md explains."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.tools.stat import CpuShares, Period, ProcessUsage, Reading, Usage, read_sample, since_boot
from underlay.tools.stat._live import History
from underlay.tools.stat._view import COLUMNS, WIDE_COLUMNS, as_json, heads, process_rows, row, short

ROOT = Path(__file__).resolve().parents[3]
USAGE = since_boot(read_sample())
PROCESS = ProcessUsage(4_194_303, "name", "R", 6400.0, 6400.0, 6400.0, 9999, 1 << 40, 0, 0, None, 1e12)


@given(st.floats(0, 9.9e20))
def test_a_number_has_at_most_four_letters(value: float) -> None:
    assert len(short(value)) <= 4


@given(st.floats(10, 9e20))
def test_a_number_is_off_by_five_percent_at_most(value: float) -> None:
    text = short(value)
    factor = 1000 ** (1 + "kMGTPE".index(text[-1])) if text[-1].isalpha() else 1
    assert float(text.rstrip("kMGTPE")) * factor == pytest.approx(value, rel=0.051)


@pytest.mark.parametrize("columns", [COLUMNS, WIDE_COLUMNS])
def test_heads_and_rows_are_of_one_width_even_when_full(columns: tuple[object, ...]) -> None:
    full = CpuShares(100, 100, 100, 100, 100, 100, 100)
    numbers = {
        field.name: 999e18 if field.type in ("float", "int") or "float | None" in str(field.type) else None
        for field in fields(Usage)
        if str(field.type) in ("int", "float", "float | None", "int | None")
    }
    usage = replace(USAGE, cpu=full, **{**numbers, "running": 99, "blocked": 99})  # type: ignore[arg-type]
    lines = [*heads(columns), row(Reading(Period.INTERVAL, usage), columns)]  # type: ignore[arg-type]
    assert len({len(line) for line in lines}) == 1


def test_the_table_fits_80_columns_with_its_mark() -> None:
    assert len(row(Reading(Period.BOOT, USAGE), COLUMNS)) <= 80
    assert all(len(line) <= 80 for line in process_rows([PROCESS]))


def test_hundreds_of_threads_that_wait_stay_apart() -> None:
    many = replace(USAGE, running=150, blocked=1234)
    assert row(Reading(Period.BOOT, many), COLUMNS).split()[:2] == ["150", "1234"]
    assert len(row(Reading(Period.BOOT, many), COLUMNS)) <= 80


def test_what_is_unknown_is_a_dash() -> None:
    bare = replace(USAGE, pressure_percent=None, received_bytes_per_s=None, sockets=None)
    assert row(Reading(Period.INTERVAL, bare), COLUMNS).split()[-1] == "-"


def test_the_live_view_fits_80_columns_and_is_bounded() -> None:
    history = History(plain=True)
    for _ in range(200):
        history.add(Reading(Period.INTERVAL, USAGE, (PROCESS,)))
    lines = history.lines()
    assert max(map(len, lines)) <= 80
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_live_view_shows_the_newest_readings_whatever_the_width(width: int) -> None:
    history = History()
    for busy in [0] * 300 + [100]:
        usage = replace(USAGE, cpu=replace(USAGE.cpu, user=busy))
        history.add(Reading(Period.INTERVAL, usage))
    line = history.lines(width)[0]
    assert len(line) == width
    assert line.endswith("▁█")


def test_the_live_view_keeps_the_processes_that_were_asked_for_where_there_is_little_height() -> None:
    history = History()
    history.add(Reading(Period.INTERVAL, USAGE, (PROCESS,) * 5))
    lines = history.lines(80, 24)
    assert len(lines) == 24
    assert lines[-6:] == process_rows((PROCESS,) * 5)


def test_the_json_has_the_keys_that_the_page_explains_and_no_other() -> None:
    whole = json.loads(json.dumps(as_json(Reading(Period.BOOT, USAGE, (PROCESS,)))))
    assert next(iter(whole)) == "schema"
    assert set(whole) == {"schema", "period", "processes"} | {field.name for field in fields(Usage)} - {"is_since_boot"}
    page = (ROOT / "docs" / "stat.md").read_text()
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page, flags=re.MULTILINE)
    explained = {key.strip("` ") for row in rows for key in row.split(",")}
    interface = set(next(iter(whole["interfaces"].values())))
    assert explained == set(whole) | set(whole["cpu"]) | set(whole["processes"][0]) | interface

"""A report is lines of at most 80 columns that lose nothing, and JSON of the keys that docs/path.md gives."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from underlay.tools.path import Ending, Hop, Report, Verdict
from underlay.tools.path._view import as_json, fitting, lines, milliseconds

ROOT = Path(__file__).resolve().parents[3]

HOP = Hop(
    1, "192.0.2.1", None, (1,), 10, 10, 0, 0, 1200.0, 1100.0, 900.0, 1500.0, 100.0, 80.0, 0.0, Verdict.OK, "",
)  # fmt: skip
REPORT = Report(
    "example.org", "198.51.100.7", "udp", 33434, "192.0.2.9", (50000,), 10, 1.0, 2.0,
    Ending.REACHED, "198.51.100.7 is 1 hop away", (HOP,),
)  # fmt: skip


def text(report: Report) -> list[str]:
    return ["".join(part for part, _ in line) for line in lines(report)]


def test_a_long_name_stands_below_its_row_and_is_whole() -> None:
    name = "a-very-long-name-of-a-router." * 6
    found = text(replace(REPORT, hops=(replace(HOP, name=name),)))
    assert any(f"{name} (192.0.2.1)" in line for line in found)
    assert all(len(line) <= 80 for line in found if name not in line)


def test_a_limit_is_called_that_and_its_loss_is_that_of_what_is_behind() -> None:
    limited = replace(
        HOP, answered=2, path_loss=0.0, verdict=Verdict.RATE_LIMITED, evidence="it answered 2 of 10 probes, and …"
    )
    found = "\n".join(text(replace(REPORT, hops=(limited,))))
    assert "rate-limited: it answered 2 of 10 probes" in found
    assert "80.0" not in found
    assert "lost" not in found


def test_loss_that_nothing_tells_is_a_question_mark() -> None:
    limited = replace(HOP, answered=2, path_loss=None, verdict=Verdict.RATE_LIMITED, evidence="…")
    assert text(replace(REPORT, hops=(limited,)))[4].split()[1] == "?"


def test_hops_at_the_end_that_say_nothing_are_one_line() -> None:
    silent = replace(HOP, address=None, answered=0, path_loss=1.0, verdict=Verdict.NO_ANSWER)
    report = replace(REPORT, hops=(HOP, *(replace(silent, ttl=ttl) for ttl in range(2, 10))), ending=Ending.SILENT)
    assert "    hops 2 to 9: no answer to 80 probes" in text(report)


def test_answers_that_came_late_are_told_wherever_their_hops_are() -> None:
    silent = replace(HOP, address=None, answered=0, path_loss=1.0, verdict=Verdict.NO_ANSWER, late=3)
    report = replace(REPORT, hops=(HOP, *(replace(silent, ttl=ttl) for ttl in range(2, 10))), ending=Ending.SILENT)
    found = " ".join(text(report))
    assert "24 answers came after the time-out of 2 s; a longer --timeout would count them." in found
    assert "late" not in "".join(text(REPORT)) and "time-out" not in "".join(text(REPORT))


def test_a_dead_end_whose_answers_came_late_has_its_row_and_is_no_loss() -> None:
    late = replace(HOP, ttl=2, address="192.0.2.1", answered=0, late=9, path_loss=1.0, note="host unreachable")
    for end in (
        replace(late, verdict=Verdict.NO_ANSWER),
        replace(late, answered=4, late=5, path_loss=0.6, verdict=Verdict.LOSS),
    ):
        found = text(replace(REPORT, hops=(HOP, end), ending=Ending.UNREACHABLE, ending_says="it is not reached"))
        assert [line.split()[0] for line in found[4:7:2]] == ["1", "host"]
        assert f"    host unreachable; {end.late} late" in found
        assert not [line for line in found if "lost" in line or "no answer" in line]


def test_a_screen_that_is_too_small_shows_the_heading_and_the_end() -> None:
    report = replace(REPORT, hops=tuple(replace(HOP, ttl=ttl) for ttl in range(1, 31)))
    found = lines(report)
    assert fitting(found, 80, len(found)) is found
    for columns, rows in ((80, 24), (80, 12), (60, 24), (80, 6), (80, 1)):
        shown = fitting(found, columns, rows)
        assert sum(-(-max(len("".join(part for part, _ in line)), 1) // columns) for line in shown) <= rows
        heading = ["path to example.org (198.51.100.7)"] if rows > 8 else []
        assert ["".join(part for part, _ in line) for line in shown][: len(heading)] == heading
        assert (shown[-1] == found[-1]) == (rows > 1)


@pytest.mark.parametrize(
    ("ttl", "interval_s", "may_be"), [(1, 0.2, True), (1, 1.0, True), (1, 3.0, False), (2, 0.2, False)]
)
def test_loss_from_the_first_hop_on_of_quick_probes_may_be_a_limit(ttl: int, interval_s: float, may_be: bool) -> None:
    lossy = replace(HOP, ttl=ttl, answered=5, path_loss=0.5, verdict=Verdict.LOSS)
    found = " ".join(text(replace(REPORT, interval_s=interval_s, hops=(lossy,))))
    assert f"Packets are lost from hop {ttl} on: 50.0 %" in found
    assert ("Or hops limit their answers" in found) == may_be


def test_one_of_a_kind_is_no_plural() -> None:
    silent = replace(HOP, ttl=2, address=None, sent=1, answered=0, path_loss=1.0, verdict=Verdict.NO_ANSWER)
    found = text(replace(REPORT, rounds=1, hops=(replace(HOP, sent=1, answered=1), silent), ending=Ending.SILENT))
    assert "UDP port 33434 from 192.0.2.9, 1 flow, 1 round, 1 s apart" in found
    assert "    hop 2: no answer to 1 probe" in found


def test_what_is_odd_is_said() -> None:
    hop = replace(HOP, late=2, duplicates=3, note="answers by UDP", others=("192.0.2.2",), mpls=(24001, 100))
    report = replace(REPORT, hops=(hop,), strays=4, unassigned=5, send_errors={"Operation not permitted": 6})
    found = " ".join(" ".join(text(report)).split())
    for words in (
        "answers by UDP; MPLS 24001 100; 2 late; 3 duplicate; also 192.0.2.2",
        "4 answers belong to none of these probes",
        "5 answers quote too little",
        "6 probes were not sent: Operation not permitted.",
    ):
        assert words in found


def test_flows_are_told_where_there_are_several() -> None:
    report = replace(REPORT, flow_ids=(1, 2, 3, 4), hops=(replace(HOP, flows=(1, 2, 4)),))
    assert "    flows 1-2 4" in text(report)


@pytest.mark.parametrize("value_us", [0.0, 0.4, 999.4, 9_999.0, 123_456.7, 99_999_999.0])
def test_a_time_fits_its_column(value_us: float) -> None:
    assert len(milliseconds(value_us)) < 7


def test_the_json_has_the_keys_that_the_page_explains_and_no_other() -> None:
    whole = json.loads(json.dumps(as_json(REPORT)))
    assert next(iter(whole)) == "schema"
    assert set(whole) == {"schema", "reached", "interrupted"} | {field.name for field in fields(Report)}
    (hop,) = whole["hops"]
    assert set(hop) == {"loss"} | {field.name for field in fields(Hop)}
    page = (ROOT / "docs" / "path.md").read_text()
    keys = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page, flags=re.MULTILINE)
    assert {key.strip("` ") for row in keys for key in row.split(",")} == set(whole) | set(hop)

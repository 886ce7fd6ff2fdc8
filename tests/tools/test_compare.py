"""What compare makes of a command line, and how it shows a report; nothing is measured here.

Reports are made up, so that the widest numbers and the oddest failures meet the table and the page.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from underlay.errors import UnderlayError, UsageError
from underlay.loop import MODELS
from underlay.tools import _compare_cli
from underlay.tools._chart import Bar, Ridge, draw_bars, draw_ridges, linear_ticks, log_ticks
from underlay.tools._compare_cli import _tell, configure, main, read_load, read_models, read_plan
from underlay.tools._compare_page import write_page
from underlay.tools._compare_report import (
    FIGURES,
    LoadShape,
    Outcome,
    Report,
    Sample,
    Spread,
    condensed,
)
from underlay.tools._compare_server import Program
from underlay.tools._compare_table import print_report
from underlay.tools._load import Histogram

ROOT = Path(__file__).resolve().parents[2]


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    configure(parser)
    return parser.parse_args(words)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text("")
    return "app.py"


@pytest.mark.parametrize(
    "words",
    [
        ["--io", "epoll", "--rounds", "5", "app.py"],
        ["app.py", "--io", "epoll", "--rounds", "5"],
        ["--rounds", "5", "app.py", "--io", "epoll"],
        ["--rounds=5", "app.py", "--io=epoll"],
    ],
)
def test_options_may_stand_on_both_sides_of_the_script(script: str, words: list[str]) -> None:
    plan = read_plan(parse(*words))
    assert plan.program == Program("app.py")
    assert plan.models == ("epoll",)
    assert plan.rounds == 5


def test_what_follows_two_dashes_is_the_scripts_own(script: str) -> None:
    plan = read_plan(parse("app.py", "one", "--rounds", "5", "--", "--rounds", "9", "--port", "1"))
    assert plan.program == Program("app.py", ("one", "--rounds", "9", "--port", "1"))
    assert plan.rounds == 5


def test_a_module_is_run_as_python_would(script: str) -> None:
    plan = read_plan(parse("-m", "http.server", "--rounds", "1", "--", "0", "-b", "127.0.0.1"))
    assert plan.program == Program("http.server", ("0", "-b", "127.0.0.1"), is_module=True)
    assert plan.program.command("epoll")[3:] == [*("run", "--io", "epoll", "-m", "http.server", "0", "-b", "127.0.0.1")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs a script"),
        (["ap.py"], "did you mean 'app.py'?"),
        (["."], "without __main__.py"),
        (["app.py", "--io", "epol"], "no I/O model 'epol'; did you mean 'epoll'?"),
        (["app.py", "--io", ""], "no I/O model ''; choose one of"),
        (["app.py", "--load", "tcpecho"], "no load 'tcpecho'; did you mean 'tcp-echo'?"),
        (["app.py", "--load", "tcp-echo:x"], "no port"),
        (["app.py", "--load", "http://127.0.0.1:99999/"], "no valid port"),
        (["app.py", "--load", "http://example.com/"], "not example.com"),
        (["app.py", "--load", "http://["], "no valid port"),
        (["app.py", "--load", "http:99999"], "no valid port"),
        (["app.py", "--load", "tcp-echo:²"], "no port"),
        (["app.py", "--io", "all,foo"], "no I/O model 'foo'"),
        (["app.py", "--duration", "nan"], "greater than 0"),
        (["app.py", "--duration", "inf"], "at most 86400 s"),
        (["app.py", "--connections", "1000000000"], "connections need"),
        (["app.py", "--size", "999999999MiB"], "memory"),
        (["app.py", "--load", "udp-echo", "--size", "64KiB"], "at most 65507"),
        (["app.py", "--rounds", "0"], "greater than 0"),
        (["app.py", "--connections", "-1"], "greater than 0"),
        (["app.py", "--port", "80"], "go after `--`"),
        (["app.py", "--size", "big"], "no size"),
    ],
)
def test_a_mistake_is_one_sentence_with_a_remedy(script: str, words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_plan(parse(*words))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_models_are_ours_the_standard_loop_and_uvloop_where_it_is_installed() -> None:
    names, _ = read_models("all")
    assert [name for name in names if name != "uvloop"] == [*MODELS, "asyncio"]


def test_all_may_stand_among_other_names() -> None:
    names, _ = read_models("epoll,all")
    assert names[0] == "epoll"
    assert sorted(names) == sorted(read_models("all")[0])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this file system of the kernel's own is Linux's")
def test_a_place_that_takes_no_file_is_refused_before_anything_runs(script: str) -> None:
    with pytest.raises(UsageError, match=r"/proc/report\.html can't be written"):
        main(parse("app.py", "--html", "/proc/report.html"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_one_sentence() -> None:
    args = argparse.Namespace(json=Path("/dev/full"), html=None)
    with pytest.raises(UnderlayError, match="/dev/full was not written: No space left on device"):
        _tell(report(), Console(file=io.StringIO()), args)


def test_a_user_who_may_start_no_process_is_told_so(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(plan: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(_compare_cli, "prove", refused)
    with pytest.raises(UnderlayError, match="no further process could be started; raise their limit"):
        main(parse("app.py"))


def test_a_model_may_be_written_with_a_dash_and_twice() -> None:
    assert read_models("epoll-et,epoll_et, EPOLL")[0] == ("epoll_et", "epoll")


@pytest.mark.parametrize(
    ("text", "kind", "port", "path"),
    [
        ("tcp-echo", "tcp-echo", None, "/"),
        ("udp-echo:53", "udp-echo", 53, "/"),
        ("http", "http", None, "/"),
        ("http:8000", "http", 8000, "/"),
        ("/deep?x=1", "http", None, "/deep?x=1"),
        ("http:/deep?x=1", "http", None, "/deep?x=1"),
        ("http://localhost:8000/deep", "http", 8000, "/deep"),
        ("https://[::1]:8443", "https", 8443, "/"),
        ("http:deep", "http", None, "/deep"),
        ("/straße und?x=ö%20", "http", None, "/stra%C3%9Fe%20und?x=%C3%B6%20"),
        ("http:/a b", "http", None, "/a%20b"),
    ],
)
def test_a_load_names_a_kind_a_port_and_a_path(text: str, kind: str, port: int | None, path: str) -> None:
    assert read_load(text) == (kind, port, path)


def sample(number: int = 1, cpu_s: float = 0.5, **changes: object) -> Sample:
    figures: dict[str, object] = {
        "round": number,
        "requests": 100_000,
        "seconds": 1.0,
        "cpu_s": cpu_s,
        "generator_cpu_s": 0.5,
        "others_cpu_s": 0.0,
        "latency": Histogram({40: 90_000, 4000: 9_000, 250_000: 1_000}, {}),
        "voluntary_switches": 500,
        "involuntary_switches": 20,
        "syscalls_per_request": 2.02,
        "memory_bytes": 20 << 20,
        "memory_per_connection_bytes": 1900.0,
        **changes,
    }
    return Sample(**figures)  # type: ignore[arg-type]


def report(*outcomes: Outcome) -> Report:
    return Report(
        title="app.py <b>",
        command="underlay compare 'app.py <b>'",
        made="2026-01-01T00:00:00+00:00",
        machine={
            "processor": "A Processor",
            "cores": 2,
            "memory_mib": 4096,
            "kernel": "Linux 6.18",
            "python": "CPython 3.11",
        },
        load=LoadShape("tcp-echo", "/", 100, 1024, 1.0, 3),
        outcomes=list(outcomes),
    )


def usual() -> Report:
    return report(
        Outcome("epoll", [sample(1, 0.6), sample(2, 0.5), sample(3, 0.7)]),
        Outcome("select", failure="select() can't watch descriptor 1056; use poll or epoll " * 3),
        Outcome("asyncio", [sample(1, 2.4, errors={"connection reset by peer": 3})]),
        Outcome("nonblocking", [sample(1, 0.9)], failure="it ended in round 2"),
    )


def extreme() -> Report:
    slow = Histogram({}, {10_000: 3})
    giant = sample(requests=3, cpu_s=900.0, seconds=0.001, latency=slow, memory_per_connection_bytes=9e9)
    giant2 = sample(requests=9_999_999, cpu_s=1e-6, errors={"x": 123_456}, syscalls_per_request=None)
    return report(Outcome("nonblocking", [giant, giant2]), Outcome("blocking", [giant]))


def show(what: Report, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_report(what, Console(file=stream, width=80, highlight=False))
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("what", [usual(), extreme(), report()], ids=["usual", "extreme", "empty"])
def test_no_line_is_wider_than_80_columns(what: Report) -> None:
    assert [line for line in show(what).splitlines() if cell_len(line) > 80] == []


def test_a_pipe_gets_plain_text() -> None:
    assert "\x1b" not in show(usual())


def test_a_terminal_without_unicode_gets_ascii() -> None:
    assert show(usual(), encoding="ascii").isascii()


def test_a_model_that_failed_tells_the_reason_in_its_row() -> None:
    text = show(usual())
    assert re.search(r"^select +— select\(\) can't watch descriptor 1056", text, re.MULTILINE)
    assert "it ended in round 2" in text


def test_the_verdict_leaves_out_models_with_errors_and_names_the_references() -> None:
    text = " ".join(show(usual()).split())
    assert "epoll used the least CPU: 6.00 µs per request, 0.25 × asyncio’s." in text
    assert "asyncio: 3 errors: connection reset by peer." in text


def test_one_round_has_no_spread_to_show() -> None:
    assert "±0%" not in show(report(Outcome("epoll", [sample()]))).replace(" ", "")


def test_a_bottleneck_of_the_generator_is_told() -> None:
    busy = sample(cpu_s=0.5, generator_cpu_s=0.97)
    both_full = sample(cpu_s=0.99, generator_cpu_s=0.97)
    text = show(report(Outcome("epoll", [busy]), Outcome("poll", [both_full])))
    assert "The load generator was the bottleneck for epoll:" in text


def test_a_crowded_machine_is_told() -> None:
    text = " ".join(show(report(Outcome("epoll", [sample(others_cpu_s=0.8)]))).split())
    assert "Other programs took 0.8 of the 2 cores meanwhile" in text
    assert "Other programs" not in show(usual())


def test_figures_are_per_request_in_the_units_of_their_names() -> None:
    outcome = Outcome("epoll", [sample(1, 0.6), sample(2, 0.5), sample(3, 0.7)])
    assert outcome.figure("cpu_us_per_request") == Spread(6.0, 5.0, 7.0, 3)
    assert outcome.figure("requests_per_s") == Spread(100_000.0, 100_000.0, 100_000.0, 3)
    switches = outcome.figure("context_switches_per_request")
    assert switches is not None and switches.median == pytest.approx(0.0052)
    p50, p99, p99_9 = (outcome.figure(f"latency_p{p}_us") for p in ("50", "99", "99_9"))
    assert p50 is not None and p99 is not None and p99_9 is not None
    assert p50.median == pytest.approx(40.5 * 0.256)
    assert p99.median == pytest.approx(4000.5 * 0.256)
    assert p99_9.median == pytest.approx(250_000.5 * 0.256)


def test_a_condensed_histogram_loses_no_request() -> None:
    histogram = sample().latency
    assert sum(count for _, count in condensed(histogram)) == histogram.total


def test_the_json_is_what_the_page_of_the_docs_says() -> None:
    data = json.loads(json.dumps(usual().as_json(), allow_nan=False))
    documented = (ROOT / "docs" / "compare.md").read_text()
    names: set[str] = set()

    def collect(value: object, inside: str = "") -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if inside != "errors":  # its keys are reasons
                    names.add(key)
                collect(inner, key)
        elif isinstance(value, list):
            for inner in value:
                collect(inner, inside)

    collect(data)
    assert set(FIGURES) < names
    assert {name for name in names if f"`{name}`" not in documented} == set()
    assert f"`{data['schema']}`" in documented


class Page(HTMLParser):
    """Collects what a page refers to and whether its tags are balanced."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.data = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.data += data


@pytest.mark.parametrize("what", [usual(), extreme(), report()], ids=["usual", "extreme", "empty"])
def test_the_page_is_whole_needs_nothing_else_and_carries_its_data(what: Report) -> None:
    text = write_page(what)
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.references == []
    assert "url(" not in text and "@import" not in text
    assert json.loads(page.data) == json.loads(json.dumps(what.as_json()))
    assert "<b>" not in text  # of the script's name
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(svg)


def test_the_page_shows_bars_a_distribution_and_the_reason_of_a_failure() -> None:
    text = write_page(usual())
    assert text.count("<svg") == 3
    assert "prefers-color-scheme: dark" in text
    assert "server CPU, µs per request" in text
    assert "requests per second" in text
    assert "latency of a request, µs" in text
    assert "descriptor 1056" in text
    assert "A Processor" in text


def test_a_chart_of_nothing_is_nothing() -> None:
    assert draw_bars([], "x") == ""
    assert draw_ridges([Ridge("a", [], [])], "x") == ""


def test_bars_are_as_long_as_their_values() -> None:
    svg = ET.fromstring(draw_bars([Bar("a", 2, 2, 2), Bar("b", 4, 4, 4, True)], "x"))
    widths = [float(r.get("width", "")) for r in svg.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.1)


@pytest.mark.parametrize("greatest", [0.0, 1e-9, 0.3, 1.0, 7.7, 99.0, 1e9])
def test_linear_ticks_begin_at_zero_and_reach_the_greatest(greatest: float) -> None:
    ticks = linear_ticks(greatest)
    assert ticks[0] == 0
    assert ticks[-1] >= greatest
    assert 2 <= len(ticks) <= 8


@pytest.mark.parametrize(("low", "high"), [(1, 2), (3, 4), (8, 130), (1, 1e7), (900, 1100)])
def test_logarithmic_ticks_lie_within_the_range(low: float, high: float) -> None:
    assert all(low <= tick <= high for tick in log_ticks(low, high))

"""The benchmark of costs measures each unit whose package is there, and shows what it measured."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from benchmarks import costs, costs_svg

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("name", costs.UNITS)
def test_each_unit_is_made_switched_to_and_held(name: str) -> None:
    if name == "greenlet" and importlib.util.find_spec("greenlet") is None:
        pytest.skip("greenlet is not installed; remedy: pip install greenlet")
    unit = costs.UNITS[name]
    unit.make(3)
    unit.switch(10)
    assert isinstance(unit.hold(3), int)


def test_the_command_writes_what_it_measured(tmp_path: Path) -> None:
    names = ["bare coroutine", "asyncio task"]
    files = [tmp_path / "c.json", tmp_path / "c.md", tmp_path / "c.svg"]
    options = [
        word for file in files for word in (f"--{ {'md': 'markdown'}.get(file.suffix[1:], file.suffix[1:]) }", file)
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "costs.py", "--rounds", "1", "--only", *names, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(files[0].read_text())
    assert list(told["figures"]) == names
    for name in names:
        assert told["figures"][name][0]["switch_us"] > 0
        assert f"| {name} | " in files[1].read_text()
        assert name in done.stdout
    assert "switch 120 ns, 2 KB" in files[1].read_text()
    assert ElementTree.fromstring(files[2].read_text()).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_greenlet_that_is_missing_is_passed_over_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert costs.main(["--rounds", "0", "--only", "greenlet"]) == 0
    assert capsys.readouterr().err == "greenlet is passed over: it is not installed (pip install underlay[bench])\n"


def test_a_figure_too_small_to_measure_still_has_a_place_in_the_picture() -> None:
    svg = costs_svg.picture({"unit <1>": ([1.0, 0.0, -4.0], [None, (3.0, 5.0), 2.0])}, "here & now")
    text = "".join(ElementTree.fromstring(svg).itertext())
    assert "unit <1>" in text and "quoted: 3.0 µs–5.0 µs" in text and "here & now" in text

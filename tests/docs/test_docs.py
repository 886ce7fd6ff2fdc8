"""The pages build without a warning, and every snippet in them does what it shows.

Which blocks run, and how a page marks one that is special, is told in `snippets.py`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest
from tests._background import Command, background

from . import snippets as snippets_module
from .conftest import outcomes
from .snippets import ROOT, SKIP, Snippet, all_snippets, run, same, script, snippets


# The first snippet waits for all of them, which have limits of their own.
@pytest.mark.timeout(900)
@pytest.mark.background
@pytest.mark.parametrize("snippet", all_snippets(), ids=str)
def test_a_snippet_does_what_its_page_shows(snippet: Snippet) -> None:
    if (skip := SKIP.fullmatch(snippet.marker)) is not None:
        assert (ROOT / skip["where"]).exists(), f"{skip['where']} does not exist"
        pytest.skip(skip["why"])
    found = re.fullmatch(r"(?:then ?)?(?:exit (?P<status>\d+) ?)?(?P<output>output)?", snippet.marker)
    assert found is not None or snippet.file, f"no marker says {snippet.marker!r}"
    wanted_status = int(found["status"] or 0) if found is not None else 0
    status, said = outcomes()[str(snippet)]
    assert status == wanted_status, said
    if snippet.kind == "console" and found is not None and found["output"]:
        wanted_output = script(snippet.text)[1]
        assert same(wanted_output, said), f"the page shows\n{wanted_output}\nbut it prints\n{said}"


DOCTREES, HTML = background().folder / "doctrees", background().folder / "html"
OPTIONS = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(DOCTREES)]
SPHINX = Command(
    [sys.executable, "-m", "sphinx", *OPTIONS, str(ROOT / "docs"), str(HTML)],
    # Sphinx's own use of deprecated names is not ours to mend.
    {**os.environ, "PYTHONWARNINGS": "default"},
)


@pytest.mark.timeout(300)
@pytest.mark.background("sphinx", SPHINX)
def test_the_pages_build_without_a_warning() -> None:
    for module in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed; remedy: pip install -e '.[docs]'")
    done = background().result("sphinx")
    assert done.returncode == 0, done.stderr
    for page in (ROOT / "docs").glob("*.md"):
        assert (HTML / f"{page.stem}.html").exists()


def test_a_marker_is_read_from_the_line_before_its_block() -> None:
    text = "a\n<!-- snippet: exit 2 -->\n```console\n$ false\n```\n\n```python\nx\n```\n"
    first, second = snippets("page.md", text)
    assert (first.kind, first.marker, first.line) == ("console", "exit 2", 3)
    assert (second.kind, second.marker, second.line) == ("python", "", 7)


def test_a_console_block_parts_into_commands_and_what_they_print() -> None:
    assert script("$ echo a \\\n>   b\na b\n$ true\n") == ("echo a \\\n  b\ntrue\n", "a b\n")


def test_three_dots_in_a_page_stand_for_anything() -> None:
    assert same("took ... µs\n", "took 7.2 µs\n")
    assert not same("took ... ms\n", "took 7.2 µs\n")


def test_what_follows_in_a_story_finds_the_files_of_what_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = [
        Snippet("page.md", 1, "python", "told = 1\n", "file told.py"),
        Snippet("page.md", 2, "console", "$ cat told.py; echo > more; exit 3\n", "then exit 3 output"),
        Snippet("page.md", 3, "console", "$ ls\n", "then output"),
        Snippet("page.md", 4, "console", "$ ls\n", "output"),
    ]
    monkeypatch.setattr(snippets_module, "all_snippets", lambda: story)
    snippets_module.main(tmp_path / "results", {"page.md:3", "page.md:4"})
    told = json.loads((tmp_path / "results").read_text())
    assert told["page.md:2"] == [3, "told = 1\n"]
    assert told["page.md:3"] == [0, "more\ntold.py\n"]
    assert told["page.md:4"] == [0, "examples\n"]


def test_a_snippet_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snippets_module, "SNIPPET_LIMIT_S", 1)
    status, said = run(["sh", "-c", "echo begun; sleep 1000"], tmp_path, dict(os.environ))
    assert status == -1
    assert said.startswith("begun")

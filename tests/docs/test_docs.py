"""The pages build without a warning, and every snippet in them does what it shows.

A ```` ```python ```` block runs as a program of its own, a ```` ```pycon ````
block as a doctest. A ```` ```console ```` block runs as one shell script: its
lines that begin with ``$ `` are the commands, those with ``> `` continue them,
the rest is what they print. Both run in a scratch directory that holds
``examples/``, and names of channels in it are its own. A comment on the line before a block may say otherwise::

    <!-- snippet: exit 2 -->              the script ends with this status
    <!-- snippet: output -->              what it prints is compared; ... stands for anything
    <!-- snippet: skip (WHY); tested by PATH -->    not run here; PATH must exist
"""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# A snippet that runs longer hangs, or is not for a page that a person follows.
SNIPPET_LIMIT_S = 60

_FENCE = re.compile(
    r"^(?:<!-- snippet: (?P<marker>.*?) -->\n+)?"
    r"^(?P<ticks>```+)(?P<kind>python|pycon|console)\n(?P<text>.*?)^(?P=ticks)$",
    flags=re.MULTILINE | re.DOTALL,
)
_SKIP = re.compile(r"skip \((?P<why>.+)\); tested by (?P<where>\S+)")


@dataclass(frozen=True)
class Snippet:
    """One block of one page, and what its marker says."""

    page: str
    line: int
    kind: str
    text: str
    marker: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(page: str, text: str) -> Iterator[Snippet]:
    """Find every block that runs."""
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("ticks")) + 1
        yield Snippet(page, line, found["kind"], found["text"], found["marker"] or "")


def script(console: str) -> tuple[str, str]:
    """Part a console block into the shell script and what it prints."""
    commands: list[str] = []
    printed: list[str] = []
    for line in console.splitlines():
        if line.startswith("$ "):
            commands.append(line.removeprefix("$ "))
        elif (line == ">" or line.startswith("> ")) and not printed:
            commands.append(line[2:])
        else:
            printed.append(line)
    return "\n".join(commands) + "\n", "\n".join(printed) + "\n"


def _same(wanted: str, seen: str) -> bool:
    return doctest.OutputChecker().check_output(wanted, seen, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)


def _run(arguments: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a snippet in a session of its own, so that what it leaves behind can be ended."""
    with open(folder / ".output", "w+") as output:
        child = subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = child.wait(SNIPPET_LIMIT_S)
        except subprocess.TimeoutExpired:
            status = -1
        finally:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()
        output.seek(0)
        said = output.read()
    if status == -1:
        said += f"\n(ended after {SNIPPET_LIMIT_S} s)"
    return status, said


ALL = [
    snippet for page in PAGES if page.exists() for snippet in snippets(str(page.relative_to(ROOT)), page.read_text())
]


@pytest.mark.parametrize("snippet", ALL, ids=str)
def test_a_snippet_does_what_its_page_shows(
    snippet: Snippet, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    if (skip := _SKIP.fullmatch(snippet.marker)) is not None:
        assert (ROOT / skip["where"]).exists(), f"{skip['where']} does not exist"
        pytest.skip(skip["why"])
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    wanted_status, wanted_output = 0, None
    if snippet.kind == "python":
        (tmp_path / "snippet.py").write_text(snippet.text)
        arguments = [sys.executable, "snippet.py"]
    elif snippet.kind == "pycon":
        (tmp_path / "snippet.txt").write_text(snippet.text)
        arguments = [sys.executable, "-m", "doctest", "-o", "ELLIPSIS", "snippet.txt"]
    else:
        commands, printed = script(snippet.text)
        arguments = ["sh", "-e", "-c", commands]
        if snippet.marker == "output":
            wanted_output = printed
    if snippet.marker.startswith("exit "):
        wanted_status = int(snippet.marker.removeprefix("exit "))
    else:
        assert snippet.marker in ("", "output"), f"no marker says {snippet.marker!r}"
    # pytest-asyncio, which the reader may not have, warns where no file configures it, and here warnings are errors.
    environment = {**child_environment, "PYTEST_ADDOPTS": "-p no:asyncio"}
    # A Unix socket's path is short, and pytest's own folders are long.
    with tempfile.TemporaryDirectory(prefix="docs-") as names_folder:
        status, said = _run(arguments, tmp_path, {**environment, "XDG_RUNTIME_DIR": names_folder})
    assert status == wanted_status, said
    if wanted_output is not None:
        assert _same(wanted_output, said), f"the page shows\n{wanted_output}\nbut it prints\n{said}"


@pytest.mark.timeout(300)
def test_the_pages_build_without_a_warning(tmp_path: Path, child_environment: dict[str, str]) -> None:
    for module in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed; remedy: pip install -e '.[docs]'")
    # Sphinx's own use of deprecated names is not ours to mend.
    environment = {**child_environment, "PYTHONWARNINGS": "default"}
    options = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "doctrees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(tmp_path / "html")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for page in (ROOT / "docs").glob("*.md"):
        assert (tmp_path / "html" / f"{page.stem}.html").exists()


def test_a_marker_is_read_from_the_line_before_its_block() -> None:
    text = "a\n<!-- snippet: exit 2 -->\n```console\n$ false\n```\n\n```python\nx\n```\n"
    first, second = snippets("page.md", text)
    assert (first.kind, first.marker, first.line) == ("console", "exit 2", 3)
    assert (second.kind, second.marker, second.line) == ("python", "", 7)


def test_a_console_block_parts_into_commands_and_what_they_print() -> None:
    assert script("$ echo a \\\n>   b\na b\n$ true\n") == ("echo a \\\n  b\ntrue\n", "a b\n")


def test_three_dots_in_a_page_stand_for_anything() -> None:
    assert _same("took ... µs\n", "took 7.2 µs\n")
    assert not _same("took ... ms\n", "took 7.2 µs\n")


def test_a_snippet_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SNIPPET_LIMIT_S", 1)
    status, said = _run(["sh", "-c", "echo begun; sleep 1000"], tmp_path, dict(os.environ))
    assert status == -1
    assert said.startswith("begun")

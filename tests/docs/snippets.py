"""Finds the snippets of the pages and runs them, one after another, as a reader would.

A ```` ```python ```` block runs as a program of its own, a ```` ```pycon ````
block as a doctest. A ```` ```console ```` block runs as one shell script: its
lines that begin with ``$ `` are the commands, those with ``> `` continue them,
the rest is what they print. Both run in a scratch directory that holds
``examples/``, and names of channels in it are its own. A comment on the line before a block may say otherwise::

    <!-- snippet: exit 2 -->              the script ends with this status
    <!-- snippet: output -->              what it prints is compared; ... stands for anything
    <!-- snippet: skip (WHY); tested by PATH -->    not run here; PATH must exist
    <!-- snippet: file NAME -->           not run: it is that file for what the page runs next, and …
    <!-- snippet: then exit 1 output -->  … this is run in its folder, after all before it; any of the words may miss

It knows pages and processes, and judges nothing: `python -m tests.docs.snippets RESULTS SNIPPET...` writes how each
of these ended, and what it printed, to a JSON file.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# A snippet that runs longer hangs, or is not for a page that a person follows.
SNIPPET_LIMIT_S = 60

_FENCE = re.compile(
    r"^(?:<!-- snippet: (?P<marker>.*?) -->\n+)?"
    r"^(?P<ticks>```+)(?P<kind>python|pycon|console)\n(?P<text>.*?)^(?P=ticks)$",
    flags=re.MULTILINE | re.DOTALL,
)
SKIP = re.compile(r"skip \((?P<why>.+)\); tested by (?P<where>\S+)")


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

    @property
    def file(self) -> str:
        """The file that it is for what follows, or nothing."""
        return self.marker.removeprefix("file ") if self.marker.startswith("file ") else ""

    @property
    def is_of_a_story(self) -> bool:
        """Whether it and others of its page share a folder."""
        return bool(self.file) or self.marker.partition(" ")[0] == "then"


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


def same(wanted: str, seen: str) -> bool:
    return doctest.OutputChecker().check_output(wanted, seen, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)


def run(arguments: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
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


def all_snippets() -> list[Snippet]:
    """Every snippet of every page."""
    return [
        snippet
        for page in PAGES
        if page.exists()
        for snippet in snippets(str(page.relative_to(ROOT)), page.read_text())
    ]


def run_snippet(snippet: Snippet, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a snippet in an empty folder, or that of its story; give its status and all that it printed."""
    if snippet.file:
        (folder / snippet.file).write_text(snippet.text)
        return 0, ""
    if not snippet.is_of_a_story:
        (folder / "examples").symlink_to(ROOT / "examples")
    if snippet.kind == "python":
        (folder / "snippet.py").write_text(snippet.text)
        arguments = [sys.executable, "snippet.py"]
    elif snippet.kind == "pycon":
        (folder / "snippet.txt").write_text(snippet.text)
        arguments = [sys.executable, "-m", "doctest", "-o", "ELLIPSIS", "snippet.txt"]
    else:
        arguments = ["sh", "-e", "-c", script(snippet.text)[0]]
    with tempfile.TemporaryDirectory(prefix="names-") as names_folder:  # a socket's path is short
        return run(arguments, folder, {**environment, "XDG_RUNTIME_DIR": names_folder})


def main(results: Path, names: set[str]) -> None:
    """Run the named snippets in this process's environment and write what came of them."""
    # pytest-asyncio, which the reader may not have, warns where no file configures it, and here warnings are errors.
    environment = {**os.environ, "PYTEST_ADDOPTS": "-p no:asyncio"}
    told: dict[str, tuple[int, str]] = {}
    every = all_snippets()
    # Who wants one of a story gets those before it too.
    stories = {each.page for each in every if each.is_of_a_story and str(each) in names}
    with tempfile.TemporaryDirectory() as shared:
        for snippet in every:
            if snippet.is_of_a_story and snippet.page in stories:
                folder = Path(shared, Path(snippet.page).stem)
                folder.mkdir(exist_ok=True)
                told[str(snippet)] = run_snippet(snippet, folder, environment)
            elif str(snippet) in names:
                with tempfile.TemporaryDirectory() as own:
                    told[str(snippet)] = run_snippet(snippet, Path(own), environment)
    results.write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), set(sys.argv[2:]))

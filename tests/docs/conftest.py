"""Has the chosen snippets run as one command in the background, and deals out what came of them."""

from __future__ import annotations

import functools
import json
import sys

import pytest
from tests._background import Command, background
from tests.conftest import environment_of_children

from .snippets import SKIP, Snippet


def pytest_collection_finish(session: pytest.Session) -> None:
    """Lets exactly those snippets run that this pytest session has chosen."""
    snippets = [
        item.callspec.params.get("snippet")
        for item in session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
    chosen = [str(each) for each in snippets if isinstance(each, Snippet) and not SKIP.fullmatch(each.marker)]
    if chosen and not session.config.option.collectonly:
        results = str(background().folder / "snippets.json")
        command = [sys.executable, "-m", "tests.docs.snippets", results, *chosen]
        background().add("snippets", Command(command, environment_of_children()))


@functools.cache
def outcomes() -> dict[str, tuple[int, str]]:
    """The status and the output of each chosen snippet, by its name."""
    done = background().result("snippets")
    assert done.returncode == 0, done.stderr
    told: dict[str, tuple[int, str]] = json.loads((background().folder / "snippets.json").read_text())
    return told

"""`underlay ipc` answers a person in 80 columns of plain text, a machine in JSON, and the docs in Markdown."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from underlay import ipc
from underlay.ipc import _kinds_cli
from underlay.ipc._barrier import AsyncBarrier
from underlay.ipc._condition import AsyncCondition
from underlay.ipc._event import AsyncEvent
from underlay.ipc._mutex import AsyncMutex
from underlay.ipc._rwlock import AsyncReadWriteLock
from underlay.ipc._semaphore import AsyncSemaphore

ROOT = Path(__file__).resolve().parents[2]
Underlay = Callable[..., subprocess.CompletedProcess[str]]


def test_the_table_has_a_row_for_each_kind_and_fits_80_columns_without_colours(underlay: Underlay) -> None:
    done = underlay("ipc")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    assert [line for line in done.stdout.splitlines() if line != line.rstrip()] == []
    first_words = [line.split()[0] for line in done.stdout.splitlines() if line and line[0] != " "]
    assert [word for word in first_words if word in ipc.KINDS] == list(ipc.KINDS)


def test_a_limit_that_is_this_machines_is_shown_and_named(underlay: Underlay) -> None:
    shown = " ".join(underlay("ipc").stdout.split())
    for kind in ipc.KINDS.values():
        assert _kinds_cli.in_units(kind.max_message_bytes) in shown
        if kind.limited_by:
            assert f"{kind.name}: this machine's limit is {kind.limited_by} (sysctl)." in shown


@pytest.mark.parametrize("kind", [kind for kind in ipc.KINDS.values() if kind.limited_by], ids=lambda kind: kind.name)
def test_what_is_named_as_the_limit_is_one_of_this_kernels(kind: ipc.Kind) -> None:
    path = Path("/proc/sys", *kind.limited_by.split("."))
    if not path.exists():
        pytest.skip(f"{path} is not shown in this container")
    assert int(path.read_text()) > 0


def test_json_has_all_that_a_kind_says_of_itself(underlay: Underlay) -> None:
    done = underlay("ipc", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["schema"], told["kernel"]) == ("underlay.ipc/1", platform.release())
    assert told["kinds"] == json.loads(json.dumps([dataclasses.asdict(kind) for kind in ipc.KINDS.values()]))


def test_the_docs_show_the_table_that_the_command_writes(underlay: Underlay) -> None:
    written = (ROOT / "docs" / "figures" / "ipc-kinds.md").read_text()
    assert underlay("ipc", "--markdown").stdout == written, "write it anew with `make docs-ipc`"


def test_a_table_in_two_forms_at_once_is_a_mistake(underlay: Underlay) -> None:
    done = underlay("ipc", "--json", "--markdown")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("columns", "width"), [(0, 80), (5, 60), (72, 72), (300, 100)])
def test_a_terminal_of_any_width_gets_a_table(monkeypatch: pytest.MonkeyPatch, columns: int, width: int) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd=1: os.terminal_size((columns, 0)))
    assert _kinds_cli._width() == width


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "ipc-reference.md").read_text()
    assert [name for name in ipc.__all__ if not re.search(rf"\b{name}\b", page)] == []


@pytest.mark.parametrize(
    "face",
    [AsyncMutex, AsyncSemaphore, AsyncEvent, AsyncCondition, AsyncBarrier, AsyncReadWriteLock],
    ids=lambda face: face.__name__,
)
def test_the_reference_has_every_call_of_the_faces_for_asyncio(face: type) -> None:
    page = (ROOT / "docs" / "ipc-reference.md").read_text()
    shown = re.search(rf"autoclass:: {face.__module__}\.{face.__name__}\(\)\n   :members: (.*)", page)
    assert shown is not None
    assert set(shown[1].split(", ")) == {name for name in dir(face) if not name.startswith("_")}

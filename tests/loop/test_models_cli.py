"""`underlay models` answers a person in 80 columns of plain text, and a machine in JSON.

A kernel that lacks something is played as in test_models.py. The tests know the table's words and the
JSON's keys, not how either is made.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from underlay.cli import main
from underlay.loop import MODELS, _models, _models_cli, chosen_by_auto

Underlay = Callable[..., "subprocess.CompletedProcess[str]"]

ROW_KEYS = {"name": str, "model": int, "how": str, "available": bool, "reason": str, "remedy": str}


@pytest.fixture
def lack(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Let the model named be unavailable for this reason, with this remedy."""

    def lack(name: str, reason: str, remedy: str) -> None:
        entry = dataclasses.replace(_models._ENTRIES[name], check=lambda: (False, reason, remedy))
        monkeypatch.setitem(_models._ENTRIES, name, entry)

    return lack


def test_the_table_has_a_row_for_each_model_and_fits_80_columns_without_colours(underlay: Underlay) -> None:
    done = underlay("models")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout
    first_words = [line.split()[0] for line in lines if line.strip()]
    for name in MODELS:
        assert name.replace("_", "-") in first_words
    assert re.search(r"^auto takes (uring|epoll) on this machine \(kernel [^)]+\)\.$", done.stdout, re.MULTILINE)


def test_a_long_reason_is_folded_not_cut(
    lack: Callable[[str, str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "a very long reason " * 8 + "to its last word"
    lack("uring", reason, "sysctl kernel.io_uring_disabled=0")
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80
    letters = "".join(table.split())  # below a row's first line only the folded column has words
    assert reason.replace(" ", "")[-40:] + ";sysctlkernel.io_uring_disabled=0" in letters


def test_brackets_in_a_reason_are_shown_as_they_are(
    lack: Callable[[str, str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    lack("uring", "see [bold] and [/x]", "edit [a]")
    lack("epoll", "not in [this] box", "leave")
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    for words in ("[bold]", "[/x]", "[a]", "It would have taken epoll, but not in [this] box."):
        assert words in shown


def test_what_auto_passed_over_is_told_with_the_reason(
    lack: Callable[[str, str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    lack("uring", "this kernel has none", "another kernel")
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "auto takes epoll on this machine" in shown
    assert "It would have taken uring, but this kernel has none." in shown


def test_json_has_the_same_for_machines(underlay: Underlay) -> None:
    done = underlay("models", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert list(told) == ["schema", "kernel", "auto", "models"]
    assert (told["schema"], told["kernel"]) == ("underlay.models/1", platform.release())
    assert told["auto"] == chosen_by_auto()[0].name
    assert [row["name"] for row in told["models"]] == list(MODELS)
    for row in told["models"]:
        assert {key: type(value) for key, value in row.items()} == ROW_KEYS
        assert row["available"] == (row["reason"] == "")


def test_json_tells_what_is_missing_and_what_mends_it(
    lack: Callable[[str, str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    lack("uring", "why", "what")
    assert main(["models", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    row = next(row for row in told["models"] if row["name"] == "uring")
    assert (row["available"], row["reason"], row["remedy"]) == (False, "why", "what")
    assert told["auto"] == "epoll"


@pytest.mark.parametrize(("columns", "width"), [(0, 80), (5, 40), (72, 72), (300, 100)])
def test_a_terminal_of_any_width_gets_a_table(monkeypatch: pytest.MonkeyPatch, columns: int, width: int) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd=1: os.terminal_size((columns, 0)))
    assert _models_cli._width() == width


def test_an_option_that_it_does_not_know_is_one_sentence_and_status_2(underlay: Underlay) -> None:
    done = underlay("models", "--jsn")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"underlay: .*--jsn.*; .*--help.*\n", done.stderr)


def test_its_help_says_what_it_lists() -> None:
    parser = argparse.ArgumentParser()
    _models_cli.configure(parser)
    assert parser.description == (
        "List the I/O models, which of them this machine can run, and what would mend the others."
    )
    assert parser.parse_args([]).json is False

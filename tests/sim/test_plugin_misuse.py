"""The pytest plugin where something is wrong: the configuration, the place for folders, what a test says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_plugin import HEAD, PLUGIN, Run, run

__all__ = ["run"]

pytest_plugins = ["pytester"]

FAILS = (
    HEAD
    + """
@sim.test(seeds=3)
async def test_it(world):
    async with world.host("a"):
        await asyncio.sleep(1)
    assert world.seed != 1, TEXT
"""
)


def test_what_is_no_text_in_an_error_is_written_with_its_number(run: Run, pytester: pytest.Pytester) -> None:
    result = run(FAILS.replace("TEXT", r"'half \ud800 a pair, \x00 and ☃'"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["replay   pytest test_it.py::test_it --underlay-seed 1"])
    result.stdout.no_fnmatch_line("*UnicodeEncodeError*")
    report = (pytester.path / ".underlay" / "test_it-seed-1" / "report.md").read_text(encoding="utf-8")
    assert r"half \ud800 a pair" in report


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    """A place where not even root makes a folder."""
    place = tmp_path / "a-file"
    place.write_text("")
    yield place / "folders"
    assert stat.S_ISREG(os.stat(place).st_mode)


def test_where_nobody_may_write_the_folder_is_among_temporary_files(
    run: Run, unwritable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    result = run(FAILS.replace("TEXT", "'bad'"), f"--underlay-dir={unwritable}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*AssertionError: bad*",
            "note * cannot be written; --underlay-dir names another place",
            "folder *",
            " *report.md*",
        ]
    )
    assert [each.name for each in temporary.glob("*/test_it-seed-1/report.md")] == ["report.md"]


def test_a_test_that_passes_on_replay_leaves_nothing_among_temporary_files(
    run: Run, unwritable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(FAILS.replace("TEXT", "'bad'"), f"--underlay-dir={unwritable}", "--underlay-seed=0").assert_outcomes(passed=1)
    assert not list(tmp_path.glob("underlay-*"))


@pytest.mark.parametrize("said", ["jobs=0", "jobs=x", "keep=0", "capture_limit=x", "shrink_runs=-1", "shrink_time=x"])
def test_what_is_wrong_in_the_configuration_is_said_once_and_before_any_test(
    pytester: pytest.Pytester, said: str
) -> None:
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest_subprocess(*PLUGIN, "-o", f"underlay_{said}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    name = said.partition("=")[0]
    assert f"ERROR: underlay_{name} in the configuration:" in result.stderr.str()
    assert "Traceback" not in result.stderr.str()


def test_a_test_of_unittest_is_replayed_and_leaves_its_folder_as_any_other(run: Run, pytester: pytest.Pytester) -> None:
    text = (
        HEAD
        + """
import unittest

class TestIt(unittest.TestCase):
    def setUp(self):
        self.text = "bad"

    @sim.test(seeds=5)
    async def test_it(self, world):
        note("seeds", f"{world.seed} ")
        async with world.host("a"):
            await asyncio.sleep(1)
        self.assertNotEqual(world.seed, 3, self.text)
"""
    )
    result = run(text)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E*AssertionError: 3 == 3 : bad", "replay   pytest test_it.py::TestIt::test_it --underlay-seed 3", "folder *"]
    )
    assert (pytester.path / ".underlay" / "test_it-seed-3" / "capture.pcapng").exists()
    (pytester.path / "seeds").unlink()
    run(text, "--underlay-seed=2").assert_outcomes(passed=1)
    assert (pytester.path / "seeds").read_text() == "2 "

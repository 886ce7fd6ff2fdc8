"""What a test shows in a pytest beside this one is told here as it was: nothing that fails there passes here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[1]

CONFTEST = """
from pathlib import Path
from tests import _background, _beside

_background.ROOT = Path(__file__).parent
_beside.GROUPS = {"one": ("beside/",), "other": ("beyond/", "below/")}
_beside.FEWEST = 1

def pytest_configure(config):
    config.pluginmanager.register(_beside.plugin(config))

def pytest_unconfigure(config):
    _background.background().end()
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project whose tests in ``beside`` run in a second pytest."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    pytester.makeini("[pytest]\ntestpaths = .")
    pytester.makeconftest(CONFTEST)
    pytester.mkdir("beside")
    return pytester


def result_of(run: pytest.Pytester, tests: str) -> pytest.RunResult:
    (run.path / "beside" / "test_it.py").write_text(f"import os, pytest\n{tests}")
    return run.runpytest_subprocess("-rA", "-p", "no:cacheprovider")


def test_each_outcome_is_told_as_it_was(run: pytest.Pytester) -> None:
    result = result_of(
        run,
        """
def test_passes(): print("said there")
def test_fails(): assert "this" == "that"
@pytest.mark.skip(reason="no right to")
def test_is_skipped(): pass
@pytest.mark.xfail(reason="known", strict=True)
def test_is_expected_to_fail(): assert False
@pytest.mark.xfail(reason="known", strict=True)
def test_passes_unexpectedly(): pass
@pytest.fixture
def breaks():
    yield
    raise OSError("at its end")
def test_breaks_at_its_end(breaks): pass
""",
    )
    result.assert_outcomes(passed=2, failed=2, skipped=1, xfailed=1, errors=1)
    result.stdout.fnmatch_lines(["*said there*"])
    result.stdout.fnmatch_lines(["SKIPPED*no right to"])
    result.stdout.fnmatch_lines(["FAILED beside/test_it.py::test_fails - *this*that*"])
    result.stdout.fnmatch_lines(["ERROR beside/test_it.py::test_breaks_at_its_end - OSError: at its end"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_each_group_runs_in_a_process_of_its_own(run: pytest.Pytester) -> None:
    for folder in ("beyond", "below", "beside"):
        run.path.joinpath(folder).mkdir(exist_ok=True)
        told = run.path.joinpath(f"{folder}.pid")
        run.path.joinpath(folder, f"test_{folder}.py").write_text(
            f"import os, pathlib\ndef test_tells(): pathlib.Path({str(told)!r}).write_text(str(os.getpid()))"
        )
    result = run.runpytest_subprocess("-rA", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=3)
    beyond, below, beside = (run.path.joinpath(f"{name}.pid").read_text() for name in ("beyond", "below", "beside"))
    assert beyond == below != beside


def test_they_run_in_another_process_that_this_one_started(run: pytest.Pytester) -> None:
    run.makepyfile(test_here="import os\ndef test_here(): print('here', os.getpid())")
    result = result_of(run, "def test_where(): print('there', os.getpid(), os.getppid())")
    result.assert_outcomes(passed=2)
    told = dict(line.split(" ", 1) for line in result.outlines if line.startswith(("here ", "there ")))
    there, parent = told["there"].split()
    assert parent == told["here"] != there


def test_one_that_ends_its_pytest_and_those_after_it_are_run_here(run: pytest.Pytester) -> None:
    result = result_of(
        run,
        """
def test_before(): pass
def test_ends_it():
    try:
        os.mkdir("was-here")
    except FileExistsError:
        assert False, "and fails here"
    os._exit(0)
def test_after(): pass
""",
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["FAILED beside/test_it.py::test_ends_it - *and fails here*"])

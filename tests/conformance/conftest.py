"""Runs the conformance tests of a subject as one batch, and deals its outcomes to pytest's items.

It knows pytest and the runner's command line. The batch runs in a process of its own,
because forking wants a process with one thread, and CPython's test modules want one that
nobody else configures.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from .children import Outcome
from .exclusions import exclusion
from .subjects import MODEL_NAMES, STOCK, SUBJECTS, Subject

ROOT = Path(__file__).parents[2]


def _run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.conformance.run", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@functools.cache
def listed_tests() -> Mapping[str, str]:
    """All tests of this interpreter by id, with their groups."""
    listing = _run("--list")
    if listing.returncode != 0:
        raise RuntimeError(f"the conformance tests cannot be listed:\n{listing.stderr}")
    rows = (line.split() for line in listing.stdout.splitlines())
    return {test: group for group, test in rows}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test that wants them a pair of subject and test id for each such pair."""
    if "subject" not in metafunc.fixturenames:
        return
    ours = "contract_test" in metafunc.fixturenames
    tests = [test for test, group in listed_tests().items() if (group == "contract") == ours]
    metafunc.parametrize(
        ("subject", "contract_test" if ours else "cpython_test"),
        [
            pytest.param(subject, test, id=f"{subject.name}-{test.removeprefix('contract.')}")
            for subject in SUBJECTS
            for test in tests
        ],
    )


class Batches:
    """The outcomes of all subjects; each subject's chosen tests run when the first is asked for."""

    def __init__(self, chosen: Mapping[str, list[str]], scratch: Path) -> None:
        self._chosen = chosen
        self._scratch = scratch
        self._outcomes: dict[str, dict[str, Outcome]] = {}

    def outcome(self, subject: Subject, test: str) -> Outcome:
        """How the test ended on the subject."""
        known = self._outcomes.get(subject.name)
        if known is None:
            known = self._outcomes[subject.name] = self._run(subject, self._chosen[subject.name])
        if test not in known:
            known.update(self._run(subject, [test]))
        return known[test]

    def _run(self, subject: Subject, tests: list[str]) -> dict[str, Outcome]:
        ids = self._scratch / f"{subject.name}.ids"
        results = self._scratch / f"{subject.name}.json"
        results.unlink(missing_ok=True)
        ids.write_text("\n".join(tests))
        run = _run("--subject", subject.spelling, "--ids", str(ids), "--json", str(results), "-q")
        if not results.exists():
            failed = Outcome("died", "the batch ended without results", run.stderr, 0.0, {})
            return dict.fromkeys(tests, failed)
        return {name: Outcome(**told) for name, told in json.loads(results.read_text()).items()}


@pytest.fixture(scope="session")
def batches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Batches:
    """The outcomes of exactly those tests that this pytest session has chosen."""
    chosen: dict[str, list[str]] = {subject.name: [] for subject in SUBJECTS}
    for item in request.session.items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        subject = params.get("subject")
        test = params.get("cpython_test", params.get("contract_test"))
        if isinstance(subject, Subject) and isinstance(test, str):
            chosen[subject.name].append(test)
    return Batches(chosen, tmp_path_factory.mktemp("conformance"))


@functools.cache
def why_missing(name: str) -> str | None:
    """The reason for which this machine cannot run the model, or None.

    Only `underlay.loop` itself may give one: a model that fails to import, or to make its
    loop, is a failure and never a skip.
    """
    if name not in MODEL_NAMES:
        return None
    row = importlib.import_module("underlay.loop").model(name)
    return None if row.available else f"{name}: {row.reason} ({row.remedy})"


def judge(batches: Batches, subject: Subject, test: str) -> None:
    """Passes, fails, skips or xfails the running pytest item by the test's outcome."""
    if reason := why_missing(subject.name):
        pytest.skip(reason)
    outcome = batches.outcome(subject, test)
    excused = exclusion(subject.name, test)
    if excused is not None and not (excused.by_chance and outcome.status == "passed"):
        if outcome.status == "passed":
            pytest.fail(f"{test} passes on {subject.name}: take it out of exclusions.py")
        pytest.xfail(excused.reason)
    if outcome.status == "skipped":
        # A skip is only CPython's own word on this machine, never the subject's.
        if subject != STOCK and batches.outcome(STOCK, test).status != "skipped":
            pytest.fail(f"skipped on {subject.name} but not on the stock loop: {outcome.detail}")
        pytest.skip(outcome.detail)
    if outcome.status != "passed":
        pytest.fail(
            f"{test} on {subject.name} {outcome.explain()}\n\nAgain by itself: "
            f"python -m tests.conformance.run --subject {subject.spelling} -k {test}",
            pytrace=False,
        )

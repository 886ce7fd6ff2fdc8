"""Runs the tests of a subject, and the robustness cases of a model, as one batch each, and deals out their outcomes.

It knows pytest and the runners' command lines. A batch runs in a process of its own, in the background,
because forking wants a process with one thread and few objects, and CPython's test modules want one that
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
from tests._background import Command, background

from .children import Outcome
from .exclusions import exclusion
from .robustness_cases import Case
from .subjects import MODEL_NAMES, STOCK, SUBJECTS, Subject

ROOT = Path(__file__).parents[2]

RUNNER = "tests.conformance.run"
ROBUSTNESS_RUNNER = "tests.conformance.run_robustness"


def _run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", RUNNER, *args],
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
    """The outcomes of all subjects and models; each one's chosen tests run as one command in the background."""

    def __init__(self) -> None:
        self._chosen: dict[str, list[str]] = {}
        self._outcomes: dict[str, dict[str, Outcome]] = {}

    def choose(self, batch: str, module: str, *options: str, tests: list[str]) -> None:
        """Have `module`, a runner with the options --ids and --json, run the tests, as the batch of that name."""
        arguments = [sys.executable, "-m", module, *options]
        arguments += ["--ids", str(self._file(batch, "ids")), "--json", str(self._file(batch, "json")), "-q"]
        self._file(batch, "ids").write_text("\n".join(tests))
        self._chosen[batch] = tests
        background().add(batch, Command(arguments))

    def outcome(self, subject: Subject, test: str) -> Outcome:
        """How one of the conformance tests ended on the subject."""
        batch = f"conformance-{subject.name}"
        if test not in self._chosen.get(batch, ()):  # the stock loop's word on it, when others only were chosen
            batch = f"{batch}-{test}"
            self.choose(batch, RUNNER, "--subject", subject.spelling, tests=[test])
        return self.outcome_in(batch, test)

    def outcome_in(self, batch: str, test: str) -> Outcome:
        """How a test of the batch ended."""
        known = self._outcomes.get(batch)
        if known is None:
            known = self._outcomes[batch] = self._outcomes_of(batch)
        return known[test]

    def _outcomes_of(self, batch: str) -> dict[str, Outcome]:
        done = background().result(batch)
        results = self._file(batch, "json")
        if not results.exists():
            failed = Outcome("died", "the batch ended without results", done.stderr, 0.0, {})
            return dict.fromkeys(self._chosen[batch], failed)
        return {name: Outcome(**told) for name, told in json.loads(results.read_text()).items()}

    def _file(self, batch: str, kind: str) -> Path:
        return background().folder / f"{batch}.{kind}"


BATCHES = Batches()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Chooses for the batches exactly those tests that this pytest session has chosen."""
    if session.config.option.collectonly:
        return
    conformance: dict[Subject, list[str]] = {}
    robustness: dict[str, list[str]] = {}
    for item in session.items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        subject = params.get("subject")
        test = params.get("cpython_test", params.get("contract_test"))
        case = params.get("case")
        if isinstance(subject, Subject) and isinstance(test, str):
            conformance.setdefault(subject, []).append(test)
        elif isinstance(case, Case) and not case.long:
            robustness.setdefault(case.model, []).append(case.id)
    for subject, tests in conformance.items():
        if not why_missing(subject.name):
            BATCHES.choose(f"conformance-{subject.name}", RUNNER, "--subject", subject.spelling, tests=tests)
    for model, tests in robustness.items():
        BATCHES.choose(f"robustness-{model}", ROBUSTNESS_RUNNER, tests=tests)


@pytest.fixture(scope="session")
def batches() -> Batches:
    """The outcomes of the chosen tests."""
    return BATCHES


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

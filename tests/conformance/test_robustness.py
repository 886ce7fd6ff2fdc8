"""Every model survives what networks, clients and full tables do to it, each case in a process of its own.

The cases are in robustness_*.py; here each becomes a test. `python -m tests.conformance.run_robustness` runs
them from the command line.
"""

from __future__ import annotations

import functools

import pytest

from underlay.errors import ModelUnavailable

from .conftest import Batches
from .robustness_cases import Case, robustness_cases
from .run_robustness import factory_for, outcome_of


def _parameters() -> list[object]:
    # The first case of a model waits for the whole batch, whose cases have limits of their own; a long one runs alone.
    limit = pytest.mark.timeout(900)
    return [
        pytest.param(case, id=case.id, marks=[limit, pytest.mark.long if case.long else pytest.mark.background])
        for case in robustness_cases()
    ]


@functools.cache
def _why_unavailable(model: str) -> str | None:
    try:
        factory_for(model)().close()
    except ModelUnavailable as exc:
        return str(exc)
    return None


@pytest.mark.parametrize("case", _parameters())
def test_survives(case: Case, batches: Batches) -> None:
    if reason := _why_unavailable(case.model):
        pytest.skip(reason)
    outcome = outcome_of(case) if case.long else batches.outcome_in(f"robustness-{case.model}", case.id)
    if outcome.status == "skipped":
        pytest.skip(outcome.detail)
    assert outcome.status == "passed", outcome.explain()

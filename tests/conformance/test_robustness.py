"""Every model survives what networks, clients and full tables do to it, each case in a process of its own.

The cases are in robustness_*.py; here each becomes a test. `python -m tests.conformance.test_robustness` runs
them from the command line: a pattern after it chooses by name, and ``--long`` the long variants.
"""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase

import pytest

from underlay.errors import ModelUnavailable

from .children import Outcome, run_jobs
from .robustness_cases import Case, robustness_cases
from .subjects import MODELS, factory_of

SPELLINGS = {subject.name: subject.spelling for subject in MODELS} | {"stock": "asyncio:SelectorEventLoop"}


def _parameters() -> list[object]:
    return [
        pytest.param(case, id=case.id, marks=[pytest.mark.long, pytest.mark.timeout(900)] if case.long else [])
        for case in robustness_cases()
    ]


@pytest.mark.parametrize("case", _parameters())
def test_survives(case: Case) -> None:
    make = factory_of(SPELLINGS[case.model])
    try:
        make().close()
    except ModelUnavailable as exc:
        pytest.skip(str(exc))
    outcome = _run(case)
    if outcome.status == "skipped":
        pytest.skip(outcome.detail)
    assert outcome.status == "passed", outcome.explain()


def _run(case: Case) -> Outcome:
    [(_, outcome)] = run_jobs([case.job(factory_of(SPELLINGS[case.model]))], parallel=1)
    return outcome


def main(arguments: list[str]) -> int:
    """Runs the cases that match and prints a line for each; exit status 1 if any failed."""
    long = "--long" in arguments
    patterns = [argument for argument in arguments if not argument.startswith("--")]
    failed = 0
    for case in robustness_cases():
        if case.long != long or not all(p in case.id or fnmatchcase(case.id, p) for p in patterns):
            continue
        outcome = _run(case)
        facts = ", ".join(f"{name} {value}" for name, value in outcome.facts.items())
        print(f"{outcome.status:7} {outcome.seconds:6.1f} s  {case.id}  {facts}", flush=True)
        if outcome.status not in ("passed", "skipped"):
            failed += 1
            print(outcome.explain())
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

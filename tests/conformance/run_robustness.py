"""Runs robustness cases from the command line, one after another, and prints a line for each.

    python -m tests.conformance.run_robustness
    python -m tests.conformance.run_robustness signal descriptors
    python -m tests.conformance.run_robustness --long uring

Run it in the repository's root. A case runs if all the words are part of its name or match it as patterns; the exit
status is 1 if any failed. It knows the command line; the cases are in robustness_*.py, the processes are `children`'s.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

from .children import Outcome, run_jobs
from .robustness_cases import Case, robustness_cases
from .subjects import MODELS, LoopFactory, factory_of

SPELLINGS = {subject.name: subject.spelling for subject in MODELS} | {"stock": "asyncio:SelectorEventLoop"}


def factory_for(model: str) -> LoopFactory:
    """What makes the loops of a case's model."""
    return factory_of(SPELLINGS[model])


def outcome_of(case: Case) -> Outcome:
    """Runs the case in a process of its own."""
    [(_, outcome)] = run_jobs([case.job(factory_for(case.model))], parallel=1)
    return outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cases that match; exit status 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.run_robustness")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="only cases whose name contains or matches each")
    parser.add_argument("--long", action="store_true", help="the long variants")
    parser.add_argument("--ids", metavar="FILE", help="only the case ids in FILE, one a line")
    parser.add_argument("--json", metavar="FILE", help="write all outcomes to FILE")
    parser.add_argument("-q", action="store_true", help="print nothing")
    args = parser.parse_args(argv)
    ids = set(Path(args.ids).read_text().split("\n")) if args.ids else None
    outcomes: dict[str, Outcome] = {}
    for case in robustness_cases():
        if case.long != args.long or not all(p in case.id or fnmatchcase(case.id, p) for p in args.patterns):
            continue
        if ids is not None and case.id not in ids:
            continue
        outcome = outcomes[case.id] = outcome_of(case)
        if args.q:
            continue
        facts = ", ".join(f"{name} {value}" for name, value in outcome.facts.items())
        print(f"{outcome.status:7} {outcome.seconds:6.1f} s  {case.id}  {facts}", flush=True)
        if outcome.status not in ("passed", "skipped"):
            print(outcome.explain())
    if args.json:
        Path(args.json).write_text(json.dumps({name: asdict(outcome) for name, outcome in outcomes.items()}))
    return int(any(outcome.status not in ("passed", "skipped") for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())

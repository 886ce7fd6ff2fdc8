"""Runs CPython's own asyncio tests, and our contract, on one event loop from the command line.

    python -m tests.conformance.run --subject underlay.loop:epoll
    python -m tests.conformance.run --subject underlay.loop._io_uring:UringLoop -k sendfile
    python -m tests.conformance.run --subject underlay.loop:uring --group contract -q
    python -m tests.conformance.run --subject asyncio:SelectorEventLoop --json /tmp/stock.json

Run it in the repository's root. It prints the counts of each group and every failure;
the exit status is 0 when all passed. It knows the command line and what a person wants to
read; the tests are the catalogue's and the contract's, the processes `children`'s.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from .catalogue import cpython_tests
from .children import Job, Outcome, run_jobs
from .contract import contract_tests, wait_for_threads
from .subjects import LoopFactory, factory_of
from .testcase import GROUPS, ConformanceTest

# CPython's slowest of these tests takes 5 s alone; a busy machine multiplies that.
LIMIT_S = 30.0

# Most of the time goes in waiting (sleeps in tests, handshakes), so more children than cores.
PARALLEL = 4


def run_tests(
    tests: Sequence[ConformanceTest],
    factory: LoopFactory,
    limit_s: float = LIMIT_S,
    parallel: int = PARALLEL,
    progress: bool = False,
) -> dict[str, Outcome]:
    """Runs the tests with loops made by `factory`; gives outcomes by test id."""
    _warm(factory)
    jobs = [Job(test.id, partial(test.work, factory), limit_s) for test in tests]
    outcomes: dict[str, Outcome] = {}
    for name, outcome in run_jobs(jobs, parallel):
        outcomes[name] = outcome
        if progress:
            mark = {"passed": ".", "skipped": "s", "failed": "F", "hung": "H", "died": "D"}
            print(mark[outcome.status], end="", file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)
    return outcomes


def _warm(factory: LoopFactory) -> None:
    """Makes one loop and closes it, so that children need not import the subject's modules.

    That also does what a process does once: it is no leak of the test's (libuv keeps a pipe
    for signals), and modules derive from the real asyncio.SelectorEventLoop before a hook
    puts the subject there. A factory that raises is left to the children, who tell of it.
    """
    try:
        factory().close()
    except Exception:
        return
    gc.collect()
    wait_for_threads()
    if threading.active_count() > 1:
        raise RuntimeError(f"threads left behind by a closed loop: {threading.enumerate()}")


def _chosen(tests: Sequence[ConformanceTest], args: argparse.Namespace) -> list[ConformanceTest]:
    wanted: list[ConformanceTest] = []
    ids = set(Path(args.ids).read_text().split()) if args.ids else None
    for test in tests:
        if ids is not None and test.id not in ids:
            continue
        if args.group and test.group not in args.group:
            continue
        if args.k and not any(pattern in test.id or fnmatchcase(test.id, pattern) for pattern in args.k):
            continue
        wanted.append(test)
    return wanted


def _print_summary(tests: Sequence[ConformanceTest], outcomes: dict[str, Outcome], quiet: bool) -> None:
    bad = [test for test in tests if outcomes[test.id].status not in ("passed", "skipped")]
    for test in bad:
        outcome = outcomes[test.id]
        if quiet:
            last = outcome.detail.strip().splitlines()[-1:]
            print(f"{outcome.status.upper():6} {test.id}: {''.join(last)[:160]}")
        else:
            print(f"==== {outcome.status.upper()} {test.id}\n{outcome.explain()}\n")
    for group in GROUPS:
        counts = Counter(outcomes[test.id].status for test in tests if test.group == group)
        if not counts:
            continue
        own = sum(
            outcomes[test.id].facts.get("loops", 0) not in (0, "")
            for test in tests
            if test.group == group and outcomes[test.id].status == "passed"
        )
        parts = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
        print(f"{group:8} {sum(counts.values()):4} tests: {parts} ({own} passed on the subject)")


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line, runs the tests and prints what failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.run",
        description="Run CPython's own asyncio tests with a loop of yours as subject.",
    )
    parser.add_argument("--subject", metavar="MODULE:ATTR", help="the loop factory")
    parser.add_argument(
        "-k",
        action="append",
        metavar="PATTERN",
        help="only tests whose id contains or matches PATTERN (may be repeated)",
    )
    parser.add_argument(
        "--group",
        action="append",
        choices=GROUPS,
        help="only this group (may be repeated)",
    )
    parser.add_argument("--ids", metavar="FILE", help="only the test ids in FILE, one a line")
    parser.add_argument("--json", metavar="FILE", help="write all outcomes to FILE")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run each test N times (flaky ones)")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for each test")
    parser.add_argument("-j", type=int, default=PARALLEL, help="children at a time")
    parser.add_argument("-q", action="store_true", help="one line for each failure")
    parser.add_argument("--list", action="store_true", help="print the test ids, run nothing")
    args = parser.parse_args(argv)
    tests = _chosen([*cpython_tests(), *contract_tests()], args)
    if args.list:
        for test in tests:
            print(test.group, test.id)
        return 0
    if args.repeat > 1:
        tests = [replace(test, id=f"{test.id}#{number}") for test in tests for number in range(1, args.repeat + 1)]
    if not args.subject:
        parser.error("--subject is needed, like --subject asyncio:SelectorEventLoop")
    if not tests:
        parser.error("no test matches; --list shows their ids")
    progress = sys.stderr.isatty()
    outcomes = run_tests(tests, factory_of(args.subject), args.limit, args.j, progress)
    if args.json:
        Path(args.json).write_text(json.dumps({k: asdict(v) for k, v in outcomes.items()}))
    _print_summary(tests, outcomes, args.q)
    return int(any(o.status not in ("passed", "skipped") for o in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())

"""Every model passes CPython's own tests of event loops and of what is built on them.

The tests are those of `test.test_asyncio`, as installed with the interpreter; which and how
is told in `catalogue.py`, what a model need not pass in `exclusions.py`. Each runs in a
forked child with its own limit.
"""

from __future__ import annotations

import platform
import sys
from collections import Counter

import pytest

from .conftest import ROOT, Batches, judge, listed_tests
from .exclusions import EXCLUSIONS
from .subjects import SUBJECTS, Subject
from .testcase import GROUPS


# The first item of a subject waits for the whole batch, whose tests have limits of their own.
@pytest.mark.timeout(900)
@pytest.mark.background
def test_model_passes_cpythons_test(subject: Subject, cpython_test: str, batches: Batches) -> None:
    judge(batches, subject, cpython_test)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the counts are those of 3.11")
def test_as_many_tests_are_borrowed_as_others_count() -> None:
    counts = Counter(listed_tests().values())
    assert (counts["loop"], counts["library"]) == (161, 306)


def test_every_exclusion_names_a_subject_and_a_test_that_exist() -> None:
    assert set(EXCLUSIONS) <= {subject.name for subject in SUBJECTS}
    for name, entries in EXCLUSIONS.items():
        tests = [entry.test for entry in entries if entry.applies and not entry.came_late]
        assert len(tests) == len(set(tests)), f"{name} excludes a test twice"
        unknown = [test for test in tests if test not in listed_tests()]
        assert not unknown, f"{name} excludes what is no test here: {unknown}"
        assert all(entry.reason for entry in entries)


def test_the_page_of_the_stack_says_how_many_pass() -> None:
    page = (ROOT / "docs" / "stack.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    head = next(number for number, row in enumerate(rows) if row[0] == "Tests")
    if platform.python_version() not in rows[head]:
        pytest.skip("the page has no column for this version")
    column = rows[head].index(platform.python_version())
    listed = listed_tests()
    all_tests = Counter(listed.values())
    excluded = Counter(listed[entry.test] for entry in EXCLUSIONS["stack"] if entry.applies and entry.test in listed)
    expected = [f"{all_tests[group] - excluded[group]} of {all_tests[group]}" for group in GROUPS]
    assert [row[column] for row in rows[head + 2 : head + 2 + len(GROUPS)]] == expected

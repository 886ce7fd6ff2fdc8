"""docs/rfc9293.md is whole: 69 rows, each with tests that exist; and what a row says can be removed, they miss."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.stack.ledger import NAMES, PAGE, ROOT, SOURCE, Break, named_tests, names_anywhere, page, requirements

REQUIREMENTS = requirements()


def test_the_ledger_has_one_row_for_each_must_of_the_rfc() -> None:
    assert [each.name for each in REQUIREMENTS] == NAMES
    assert len(NAMES) == 69
    for each in REQUIREMENTS:
        assert each.section[0] == "3", each.name  # all of them stand in section 3
        assert each.says.endswith("."), each.name
        assert "|" not in each.says + each.differs, each.name


def test_every_must_has_a_test_and_no_test_names_one_that_the_rfc_lacks() -> None:
    tests = named_tests()
    assert sorted(set(NAMES) - set(tests)) == []
    assert sorted(set(tests) - set(NAMES)) == []
    assert names_anywhere() <= set(NAMES)


def test_every_row_names_files_that_exist_and_a_way_to_break_it() -> None:
    for each in REQUIREMENTS:
        assert each.done, each.name
        assert each.breaks, each.name
        for file in each.done:
            assert (SOURCE / file).is_file(), (each.name, file)
        assert {broken.file for broken in each.breaks} <= {str(f.relative_to(SOURCE)) for f in SOURCE.rglob("*.py")}


def test_what_is_taken_out_stands_in_the_code() -> None:
    for each in REQUIREMENTS:
        for number, one in enumerate(each.breaks, 1):
            assert one.old in (SOURCE / one.file).read_text(), f"break {number} of {each.name}"


def test_the_page_is_what_the_data_and_the_docstrings_make() -> None:
    assert PAGE.read_text() == page(), "run `make docs-ledger`"


# --- taking each behaviour out (make test-long) ---


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code that may be broken."""
    place = tmp_path_factory.mktemp("broken") / "src"
    shutil.copytree(SOURCE, place / "underlay", ignore=shutil.ignore_patterns("__pycache__"))
    return place


@pytest.fixture
def broken(copy: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The copy with one behaviour taken out, for the time of one test."""
    what: Break = request.param
    file = copy / "underlay" / what.file
    text = file.read_text()
    assert what.old in text, f"{what.file} has changed: rfc9293.toml is to say anew how to break it"
    file.write_text(text.replace(what.old, what.new))
    yield copy
    file.write_text(text)


def run(source: Path, nodes: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", "--timeout", "20",
         *nodes],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


@pytest.mark.long
def test_nothing_fails_while_nothing_is_broken(copy: Path) -> None:
    nodes = sorted({test.node for tests in named_tests().values() for test in tests})
    done = run(copy, nodes)
    assert done.returncode == 0, done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "broken"),
    [
        pytest.param(each.name, one, id=f"{each.name}-{index}")
        for each in REQUIREMENTS
        for index, one in enumerate(each.breaks, 1)
    ],
    indirect=["broken"],
)
def test_a_behaviour_that_is_removed_is_missed(name: str, broken: Path) -> None:
    done = run(broken, [test.node for test in named_tests()[name]])
    # 1: tests ran, and some failed. Anything else (2: the code is no code any more) shows nothing.
    assert done.returncode == 1, done.stdout

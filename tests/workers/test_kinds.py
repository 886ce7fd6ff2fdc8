"""The table of kinds, what each needs, and what is said to who asks for what cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from underlay import workers
from underlay.errors import UsageError


def test_the_table_knows_every_kind_by_its_name() -> None:
    assert list(workers.KINDS) == ["inline", "thread", "process", "interpreter", "celery", "dask"]
    assert all(kind.name == name for name, kind in workers.KINDS.items())
    with pytest.raises(KeyError):
        workers.KINDS["proces"]


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("proces", {}, "there is no kind of executor 'proces'; did you mean 'process'?"),
        ("process", {"workers": 2}, "the executor process has no option 'workers'; did you mean 'max_workers'?"),
        ("inline", {"max_workers": 2}, "the executor inline has no option 'max_workers'; it has none at all"),
        ("thread", {"max_workers": 0}, "there cannot be 0 workers; max_workers is a number from 1 on"),
        ("dask", {"max_workers": "two"}, "there cannot be 'two' workers; max_workers is a number from 1 on"),
    ],
)
def test_what_cannot_be_is_one_sentence(kind: str, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        workers.executor(kind, **options)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("kind", "missing"), [("process", "cloudpickle"), ("celery", "celery"), ("dask", "distributed")]
)
def test_a_package_that_is_missing_is_named_with_the_extra(
    kind: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError) as caught:
        workers.executor(kind)
    assert str(caught.value) == (
        f"the executor {kind} needs the package {missing}, which is not installed; "
        "`pip install 'underlay[workers]'` brings it"
    )


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python has interpreters")
def test_a_python_without_interpreters_says_so() -> None:
    with pytest.raises(UsageError, match=r"has no interpreters to run calls in, they came with 3\.14; the"):
        workers.executor("interpreter")


def test_the_page_shows_the_table_of_kinds() -> None:
    def yes(value: bool) -> str:
        return "yes" if value else "–"

    rows = [
        f"| `{kind.name}` | {kind.runs_in} | {yes(kind.parallel)} | {yes(kind.crosses_machines)} | {yes(kind.pickles)} "
        f"| {yes(kind.cancels_waiting)} | {yes(kind.sees_death)} | {kind.needs or '–'} |"
        for kind in workers.KINDS.values()
    ]
    page = (Path(__file__).parents[2] / "docs" / "workers.md").read_text()
    assert "\n".join(rows) in page, "docs/workers.md should have these rows:\n" + "\n".join(rows)

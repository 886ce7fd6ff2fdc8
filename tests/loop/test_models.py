"""The table of models: each name finds its loop, and what this machine lacks is said with what mends it.

A missing kernel feature is played by a row whose check fails, so that the tests hold wherever they run.
They know names and sentences; no model's inside.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import sys
from collections.abc import Callable
from functools import partial

import pytest

from underlay.errors import ModelUnavailable, UsageError
from underlay.loop import MODELS, _models, chosen_by_auto, model, models, resolve
from underlay.loop._models import canonical, new_loop

Lacking = Callable[..., None]


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> Lacking:
    """Let the models named be unavailable, each for a reason of its own."""

    def answer(name: str) -> tuple[bool, str, str]:
        return False, f"{name} is forbidden", f"allow {name}"

    def lack(*names: str) -> None:
        for name in names:
            entry = dataclasses.replace(_models._ENTRIES[name], check=partial(answer, name))
            monkeypatch.setitem(_models._ENTRIES, name, entry)

    return lack


def test_the_models_come_in_the_order_of_the_five_with_numbers_to_match() -> None:
    assert MODELS == ("blocking", "nonblocking", "select", "poll", "epoll", "epoll_et", "signal", "uring")
    assert [row.number for row in models()] == [1, 2, 3, 3, 3, 3, 4, 5]
    assert [row.name for row in models()] == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_row_says_either_that_it_is_available_or_why_not_and_what_mends_it(name: str) -> None:
    row = model(name)
    assert row.how
    if row.available:
        assert (row.reason, row.remedy) == ("", "")
    else:
        assert row.reason and row.remedy


@pytest.mark.parametrize("written", ["epoll-et", "epoll_et", "EPOLL-ET", "Epoll_ET"])
def test_a_name_is_taken_with_either_dash_and_in_any_case(written: str) -> None:
    assert canonical(written) == "epoll_et"
    assert model(written).command_name == "epoll-et"
    new = resolve(written)()
    assert type(new).__name__ == "EpollEtLoop"
    new.close()


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ("epol", "did you mean 'epoll'?"),
        ("epoll-edge", "did you mean 'epoll-et'?"),
        ("io_uring", "did you mean 'uring'?"),
        ("epol_et", "did you mean 'epoll-et'?"),
    ],
)
@pytest.mark.parametrize("ask", [model, resolve, new_loop, canonical])
def test_an_unknown_name_is_one_sentence_with_the_nearest_that_is_known(
    ask: Callable[[str], object], wrong: str, remedy: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        ask(wrong)
    assert str(refusal.value) == f"there is no I/O model {wrong!r}; {remedy}"
    assert refusal.value.exit_status == 2


@pytest.mark.parametrize(("ask", "others"), [(model, ""), (canonical, ""), (resolve, ", auto, asyncio, uvloop")])
def test_a_name_that_resembles_none_is_answered_by_all_that_the_asker_takes(
    ask: Callable[[str], object], others: str
) -> None:
    every = "blocking, nonblocking, select, poll, epoll, epoll-et, signal, uring" + others
    with pytest.raises(UsageError, match=f"'kqueue'; choose one of {every}$"):
        ask("kqueue")


def test_a_mistyped_name_is_held_against_loops_that_are_no_models_too() -> None:
    with pytest.raises(UsageError, match="did you mean 'uvloop'"):
        resolve("uvlop")


@pytest.mark.parametrize("name", ["epoll", "epoll-et", "signal", "select"])
def test_a_model_that_this_machine_lacks_is_refused_before_any_loop_is_made(
    name: str, lacking: Lacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(canonical(name))

    def no_import(module: str, package: str | None = None) -> None:
        pytest.fail(f"imported {module} of {package}")

    monkeypatch.setattr(_models.importlib, "import_module", no_import)  # type: ignore[attr-defined]
    with pytest.raises(ModelUnavailable) as refusal:
        resolve(name)
    known = canonical(name)
    assert str(refusal.value) == f"the model {name} is not available here: {known} is forbidden; allow {known}"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the model is absent for another reason")
def test_a_user_who_may_not_lock_a_rings_memory_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from underlay.loop import _ring

    def refused() -> None:
        raise OSError(errno.ENOMEM, "io_uring_setup: Cannot allocate memory")

    monkeypatch.setattr(_ring, "probe", refused)
    row = model("uring")
    assert (row.available, row.reason) == (False, "this user may not lock the memory that a ring needs")
    assert "`ulimit -l`" in row.remedy


@pytest.mark.parametrize("no_name", [None, 5, asyncio.SelectorEventLoop])
def test_what_is_no_name_is_refused_in_the_same_way(no_name: object) -> None:
    with pytest.raises(UsageError, match="called by its name, not by"):
        resolve(no_name)  # type: ignore[arg-type]


def test_auto_takes_the_first_of_its_preference() -> None:
    best, its_loop = ("uring", "UringLoop") if model("uring").available else ("epoll", "EpollLoop")
    row, passed_over = chosen_by_auto()
    assert row.name == best
    assert [better.name for better in passed_over] == ["uring"] * (best != "uring")
    loop = resolve("auto")()
    assert type(loop).__name__ == its_loop
    loop.close()


def test_auto_passes_over_what_is_unavailable_and_says_why(lacking: Lacking) -> None:
    lacking("uring")
    row, passed_over = chosen_by_auto()
    assert row.name == "epoll"
    assert [(better.name, better.reason) for better in passed_over] == [("uring", "uring is forbidden")]
    lacking("epoll", "poll")
    row, passed_over = chosen_by_auto()
    assert row.name == "select"
    assert [better.name for better in passed_over] == ["uring", "epoll", "poll"]
    loop = new_loop("auto")
    assert type(loop).__name__ == "SelectLoop"
    loop.close()


def test_auto_without_any_model_names_what_is_left(lacking: Lacking) -> None:
    lacking(*MODELS)
    with pytest.raises(ModelUnavailable, match=r"none of the models; use asyncio's own loop"):
        resolve("auto")


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_than_on_linux_select_remains(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    rows = {row.name: row for row in models()}
    assert [name for name, row in rows.items() if row.available] == ["select"]
    assert all(platform in row.reason and row.remedy for row in rows.values() if not row.available)
    assert chosen_by_auto()[0].name == "select"


def test_asyncio_is_the_standard_loop() -> None:
    assert resolve("asyncio") is asyncio.SelectorEventLoop


def test_uvloop_is_found_where_it_is_installed() -> None:
    uvloop = pytest.importorskip("uvloop")
    assert resolve("uvloop") is uvloop.new_event_loop


def test_uvloop_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)  # what makes an import fail
    with pytest.raises(ModelUnavailable) as refusal:
        resolve("uvloop")
    assert str(refusal.value) == "the model uvloop is not available here: it isn't installed; pip install uvloop"

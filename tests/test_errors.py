"""The errors say one sentence each, survive pickling, and keep asyncio's own types."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay import errors
from underlay.errors import ModelUnavailable, UnderlayError, UsageError, nearest

SAMPLES = [
    UnderlayError("it broke"),
    UnderlayError("it broke", remedy="mend it"),
    UsageError("no such file: a.py", remedy="check the path"),
    ModelUnavailable("uring", "the kernel is 4.19", remedy="use epoll"),
]


@pytest.mark.parametrize("error", SAMPLES, ids=str)
def test_an_error_survives_pickling_and_copying(error: UnderlayError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


@given(st.sampled_from([UnderlayError, UsageError]), st.text(), st.text())
def test_whatever_an_error_says_survives_pickling(kind: type[UnderlayError], what: str, remedy: str) -> None:
    error = kind(what, remedy=remedy)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@given(st.text(), st.lists(st.text(min_size=1), min_size=1, unique=True))
def test_a_remedy_names_one_known_name_or_all_of_them(wrong: str, known: list[str]) -> None:
    remedy = nearest(wrong, known)
    assert remedy.startswith("did you mean ") or all(name in remedy for name in known)


def test_the_remedy_follows_what_was_tried() -> None:
    assert str(UnderlayError("it broke", remedy="mend it")) == "it broke; mend it"


def test_an_error_without_a_remedy_is_just_what_was_tried() -> None:
    assert str(UnderlayError("it broke")) == "it broke"


def test_mistakes_in_the_asking_end_with_status_2_and_all_others_with_1() -> None:
    status = {
        error.__name__: error.exit_status
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, UnderlayError)
    }
    assert status == {
        "UnderlayError": 1,
        "UsageError": 2,
        "ModelUnavailable": 2,
    }


def test_the_remedy_for_a_slip_is_the_name_that_was_meant() -> None:
    assert nearest("epoll_te", ["select", "epoll_et"]) == "did you mean 'epoll_et'?"


def test_the_remedy_for_a_strange_name_is_the_whole_list() -> None:
    assert nearest("kqueue", ["select", "poll"]) == "choose one of select, poll"

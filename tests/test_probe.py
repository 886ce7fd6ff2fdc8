"""Probe points: heard by those who listen, harmless to those who are watched."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from underlay import probe as room
from underlay.probe import Probe, probes

_numbers = itertools.count()


@pytest.fixture
def probe() -> Iterator[Probe[[int]]]:
    """A probe of the test's own, forgotten when the test ends."""
    fresh: Probe[[int]] = Probe(f"test.{next(_numbers)}", "a number")
    yield fresh
    del room._known[fresh.name]


def test_a_listener_hears_what_is_reported_while_it_listens(probe: Probe[[int]]) -> None:
    heard: list[int] = []
    probe(1)
    probe.listen(heard.append)
    probe(2)
    probe.drop(heard.append)
    probe(3)
    assert heard == [2]


def test_listeners_hear_in_the_order_they_came(probe: Probe[[int]]) -> None:
    order: list[str] = []
    probe.listen(lambda _: order.append("first"))
    probe.listen(lambda _: order.append("second"))
    probe(0)
    assert order == ["first", "second"]


def test_with_no_listener_the_guard_is_false(probe: Probe[[int]]) -> None:
    assert not probe.listeners
    with probe.listening(lambda _: None):
        assert probe.listeners
    assert not probe.listeners


def test_a_listener_leaves_when_its_block_raises(probe: Probe[[int]]) -> None:
    with pytest.raises(KeyError), probe.listening(lambda _: None):
        raise KeyError
    assert probe.listeners == ()


def test_a_listener_that_raises_is_dropped_and_counted_and_the_others_still_hear(
    probe: Probe[[int]],
) -> None:
    def faulty(_: int) -> None:
        raise ValueError("my own fault")

    heard: list[int] = []
    probe.listen(faulty)
    probe.listen(heard.append)
    probe(1)
    probe(2)
    assert heard == [1, 2]
    assert probe.failures == 1
    assert str(probe.last_failure) == "my own fault"


def test_a_listener_may_attach_another_while_the_probe_fires(probe: Probe[[int]]) -> None:
    late: list[int] = []
    probe.listen(lambda _: probe.listen(late.append))
    probe(1)
    assert late == []
    probe(2)
    assert late == [2]


def test_dropping_one_that_does_not_listen_is_passed_over(probe: Probe[[int]]) -> None:
    probe.drop(print)
    assert probe.listeners == ()


def test_a_name_belongs_to_one_probe(probe: Probe[[int]]) -> None:
    with pytest.raises(ValueError, match=f"already called '{probe.name}'"):
        Probe(probe.name)


def test_a_probe_is_found_by_name_in_a_view_that_cannot_be_written(probe: Probe[[int]]) -> None:
    assert probes()[probe.name] is probe
    with pytest.raises(TypeError):
        probes()["other"] = probe  # type: ignore[index]


def test_a_probe_says_its_name_and_how_many_listen(probe: Probe[[int]]) -> None:
    probe.listen(print)
    assert repr(probe) == f"<Probe {probe.name}, 1 listening>"

"""Names come when they come, each is asked for once, and what is no host name is none."""

from __future__ import annotations

import threading

import pytest

from underlay.tools.path._names import Names, system_name


def test_nobody_waits_for_a_name_and_it_is_asked_for_once() -> None:
    go, asked = threading.Event(), []

    def resolve(address: str) -> str:
        asked.append(address)
        go.wait()
        return "router.example"

    names = Names(resolve)
    assert names("192.0.2.1") is None
    assert names("192.0.2.1") is None
    go.set()
    names.wait(60)
    assert names("192.0.2.1") == "router.example"
    assert asked == ["192.0.2.1"]


def test_a_name_server_that_keeps_silent_holds_nothing_up() -> None:
    go = threading.Event()

    def resolve(address: str) -> None:
        go.wait()

    names = Names(resolve)
    for number in range(20):
        assert names(f"192.0.2.{number}") is None
    names.wait(0)
    go.set()


def test_no_thread_is_left_when_all_is_known() -> None:
    names = Names(lambda address: "x.example")
    for number in range(20):
        names(f"192.0.2.{number}")
    names.wait(60)
    for thread in threading.enumerate():
        if thread.name == "underlay-names":
            thread.join(60)
    assert "underlay-names" not in [thread.name for thread in threading.enumerate()]
    names("192.0.2.99")
    names.wait(60)
    assert names("192.0.2.99") == "x.example"


@pytest.mark.parametrize(
    "name", ["\x1b[2Jx", "a b", "", "-x.example", "a\nb", "a" * 300, "x.example)", "né.example", "a\u202eb", None]
)
def test_what_is_no_host_name_is_none(name: str | None) -> None:
    names = Names(lambda address: name)
    names("192.0.2.1")
    names.wait(60)
    assert names("192.0.2.1") is None


def test_look_ups_are_bounded_and_those_left_out_are_counted() -> None:
    names = Names(lambda address: "x.example")
    for number in range(300):
        names(f"10.0.{number >> 8}.{number & 255}")
    assert names.skipped == 44


def test_the_system_knows_its_own_name_or_none_and_raises_nothing() -> None:
    assert system_name("127.0.0.1") in (None, *_hosts())
    assert system_name("no address") is None


def _hosts() -> set[str]:
    with open("/etc/hosts") as file:
        return {word for line in file for word in line.partition("#")[0].split()[1:]}


def test_a_resolver_that_fails_costs_its_name_only() -> None:
    def resolve(address: str) -> str:
        if address == "192.0.2.1":
            raise RuntimeError("no")
        return "x.example"

    names = Names(resolve)
    names("192.0.2.1")
    for number in range(2, 12):
        names(f"192.0.2.{number}")
    names.wait(60)
    assert names("192.0.2.1") is None
    assert names("192.0.2.11") == "x.example"


def test_where_no_thread_may_be_started_there_are_no_names_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def never(seconds: float) -> None:
        raise AssertionError("it waits for nobody")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr("underlay.tools.path._names.time.sleep", never)
    names = Names(lambda address: "a.example")
    assert names("192.0.2.1") is None
    names.wait(60)
    assert names("192.0.2.1") is None

"""What is no kind, name, number or word is refused with a sentence that says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from underlay import ipc
from underlay.errors import UsageError

_KINDS = [name for name in ipc.KINDS if name != "tcp"]


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("number", [1.5, "5", float("nan"), b"5"])
def test_a_number_of_bytes_is_a_whole_one(kind: str, number: Any) -> None:
    with pytest.raises(UsageError, match=r"capacity=.* is no whole number; give one"):
        ipc.pair(kind, capacity=number)
    with pytest.raises(UsageError, match=r"max_message_bytes=.* is no whole number; give one"):
        ipc.pair(kind, max_message_bytes=number)


@pytest.mark.parametrize("kind", _KINDS)
def test_a_capacity_that_no_kernel_has_is_refused(kind: str) -> None:
    for capacity in (-1, 2**31, 10**30):
        with pytest.raises(UsageError, match="cannot have room for"):
            ipc.pair(kind, capacity=capacity)


@pytest.mark.parametrize("wakeup", ["eventfd", "futex", "spin"])
@pytest.mark.parametrize("kind", ipc.KINDS)
def test_a_way_to_be_woken_is_only_for_what_lies_in_shared_memory(kind: str, wakeup: str) -> None:
    if ipc.KINDS[kind].wakeups:
        for each in ipc.pair(kind, wakeup=wakeup):
            assert each.terms.wakeup == wakeup
            each.close()
        return
    says = f"the kind {kind} has no wake-ups to choose from; leave wakeup out, or take ring, ring-many or slots"
    for call in (
        lambda: ipc.pair(kind, wakeup=wakeup),
        lambda: ipc.create(kind, "example", wakeup=wakeup),
        lambda: ipc.listen(kind, "example", wakeup=wakeup),
    ):
        with pytest.raises(UsageError, match=says):
            call()


def test_more_slots_than_there_can_be_are_refused() -> None:
    with pytest.raises(UsageError, match="the kind slots cannot have room for 4,097; capacity is from 1 to 4,096; 0"):
        ipc.pair("slots", capacity=4097)


@pytest.mark.parametrize("kind", [name for name, kind in ipc.KINDS.items() if not kind.priorities])
def test_a_priority_is_only_for_kinds_that_have_some(kind: str) -> None:
    receiver, sender = ipc.pair(kind)
    with receiver, sender, pytest.raises(UsageError, match=f"the {kind} channel has no priorities"):
        sender.send(b"on", priority=1)


@pytest.mark.parametrize("what", [None, 5, b"pipe", ["pipe"]])
def test_what_is_no_string_names_nothing(what: Any) -> None:
    with pytest.raises(UsageError, match="there is no kind of channel"):
        ipc.pair(what)
    if what is not None:
        with pytest.raises(UsageError, match="nobody is woken by"):
            ipc.pair("ring", wakeup=what)
    for call in (lambda: ipc.create("pipe", what), lambda: ipc.open(what), lambda: ipc.remove(what)):
        with pytest.raises(UsageError, match="cannot be the name of a channel"):
            call()
    if what is not None:
        with pytest.raises(UsageError, match="there is no role"):
            ipc.open("example", role=what)


@pytest.mark.parametrize("word", [None, 5, b"x", "", "[" * 100_000, "{}", '{"terms":5}'])
def test_a_word_that_names_no_end_is_refused(word: Any) -> None:
    with pytest.raises(UsageError, match="names no end of a channel"):
        ipc.inherit(word)
    with pytest.raises(UsageError, match="names no Mutex"):
        ipc.inherit(word, ipc.Mutex)


def test_a_link_in_a_circle_hides_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with ipc.create("pipe", "orders"):
        os.symlink("circle", tmp_path / "underlay" / "ipc" / "circle")
        assert [known.name for known in ipc.names()] == ["orders"]

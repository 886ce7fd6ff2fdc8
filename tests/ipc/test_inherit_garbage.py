"""A word that is well formed and lies, about numbers, what they are, or sizes: it costs an error and no more."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from underlay import ipc
from underlay.errors import UsageError
from underlay.ipc import _descriptors

PATIENCE_S = 20.0
_CLASSES: dict[str, Callable[[], Any]] = {
    "mutex": ipc.Mutex,
    "semaphore": ipc.Semaphore,
    "event": ipc.Event,
    "condition": ipc.Condition,
    "barrier": lambda: ipc.Barrier(2),
    "read-write-lock": ipc.ReadWriteLock,
}
# What no descriptor is numbered with.
_NO_NUMBERS = [1_000_000, -1, 2**31, 10**30, 1.5, True, "3", None, [3], {}]


@pytest.fixture
def wrong(tmp_path: Path) -> Iterator[dict[str, int]]:
    """Descriptors of things that no channel is made of, or not like this."""
    reader, writer = os.pipe()
    sockets = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    (tmp_path / "file").write_bytes(bytes(1 << 21))
    found = {
        "a folder": os.open(tmp_path, os.O_RDONLY),
        "a device": os.open("/dev/null", os.O_RDWR),
        "a file": os.open(tmp_path / "file", os.O_RDWR),
        "an empty file": os.open(tmp_path / "empty", os.O_RDWR | os.O_CREAT),
        "a pipe that waits": reader,
        "the other end of a pipe that waits": writer,
        "a socket of datagrams": sockets[0].detach(),
        "another one": sockets[1].detach(),
        "an eventfd that waits": os.eventfd(0),
        "a pidfd": os.pidfd_open(os.getpid()),
        "memory that is not sealed": os.memfd_create("test", os.MFD_ALLOW_SEALING),
        "memory that is too short": os.memfd_create("test", os.MFD_ALLOW_SEALING),
        "memory that cannot be sealed": os.memfd_create("test"),
    }
    os.ftruncate(found["memory that is not sealed"], 1 << 24)
    os.ftruncate(found["memory that cannot be sealed"], 1 << 24)
    os.ftruncate(found["memory that is too short"], 100)
    fcntl.fcntl(found["memory that is too short"], fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    yield found
    for each in found.values():
        os.close(each)


def refused(word: str, what: Any, why: str = "") -> None:
    """One sentence; and each descriptor is as it was."""
    before = _open_descriptors()
    with pytest.raises(UsageError) as met:
        ipc.inherit(word, what)
    says = str(met.value)
    assert says.count("\n") == 0
    assert "names no" in says or "did not come along" in says
    assert why in says
    assert _open_descriptors() == before


def _open_descriptors() -> dict[str, tuple[str, bool]]:
    found = {}
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[each] = os.readlink(f"/proc/self/fd/{each}"), os.get_inheritable(int(each))
    del found[max(found, key=int)]  # that of the folder that was just listed
    return found


@contextlib.contextmanager
def _ends(kind: str, **options: Any) -> Iterator[tuple[ipc.Channel, ipc.Channel]]:
    receiver, sender = ipc.pair(kind, **options)
    with receiver, sender:
        yield receiver, sender
        # They are as they were.
        sender.send(b"on", timeout_s=PATIENCE_S)
        assert receiver.receive(timeout_s=PATIENCE_S) == b"on"


def _places(said: dict[str, Any]) -> Iterator[Callable[[Any], str]]:
    """For each descriptor of a word, the same word with something else in its place."""
    for way in ("ways_in", "ways_out"):
        for at, _ in enumerate(said[way] or ()):
            yield functools.partial(_with_way, said, way, at)
    if said["life"] is not None:
        yield lambda number: json.dumps({**said, "life": number})


def _with_way(said: dict[str, Any], way: str, at: int, number: Any) -> str:
    return json.dumps({**said, way: [number if place == at else each for place, each in enumerate(said[way])]})


@pytest.mark.parametrize("kind", ipc.KINDS)
def test_a_number_that_is_no_descriptor_is_refused(kind: str) -> None:
    with _ends(kind) as ends:
        for end in ends:
            for put in _places(json.loads(end.argument())):
                for number in _NO_NUMBERS:
                    # An end of a queue that outlives its processes knows of no other side's life.
                    if not (kind == "mqueue" and '"life": null' in put(number)):
                        refused(put(number), ipc.Channel)


@pytest.mark.parametrize("kind", ipc.KINDS)
def test_a_descriptor_of_something_else_is_refused(kind: str, wrong: dict[str, int]) -> None:
    with _ends(kind) as ends:
        for end in ends:
            for put in _places(json.loads(end.argument())):
                for number in wrong.values():
                    refused(put(number), ipc.Channel, f"descriptor {number} is ")


@pytest.mark.parametrize("kind", ipc.KINDS)
def test_too_many_too_few_and_the_same_twice_are_refused(kind: str) -> None:
    with _ends(kind) as (receiver, sender):
        for end, way in (receiver, "ways_in"), (sender, "ways_out"):
            said = json.loads(end.argument())
            garbage: list[Any] = [[], said[way][:-1], [*said[way], *said[way]], None, 5, "34", {}, [[]]]
            for ways in garbage:
                refused(json.dumps({**said, way: ways}), ipc.Channel)
            refused(json.dumps({**said, "ways_in": said[way], "ways_out": said[way]}), ipc.Channel)
            for key in said:
                refused(json.dumps({name: part for name, part in said.items() if name != key}), ipc.Channel)


@pytest.mark.parametrize("kind", ipc.KINDS)
def test_terms_that_no_channel_has_are_refused(kind: str) -> None:
    with _ends(kind) as (receiver, _):
        said = json.loads(receiver.argument())
        lies: dict[str, list[Any]] = {
            "max_message_bytes": [0, -1, 10**12, 10**30, "8", 1.5, True, None, []],
            "capacity": [-1, 10**30, "8", 1.5, True, None, []],
            "wakeup": ["bell", "", 5, None, []],
            "kind": ["", "nothing", 5, None, ["pipe"]],
            "more": [1],
        }
        for key, values in lies.items():
            for lie in values:
                refused(json.dumps({**said, "terms": {**said["terms"], key: lie}}), ipc.Channel)
        garbage: list[Any] = [None, 5, [], {}, {"kind": kind}]
        for terms in garbage:
            refused(json.dumps({**said, "terms": terms}), ipc.Channel)


@pytest.mark.parametrize("kind", ["ring", "ring-many", "slots", "mqueue"])
def test_memory_and_queues_of_another_size_than_the_terms_say_are_refused(kind: str) -> None:
    with _ends(kind, max_message_bytes=1000, capacity=8) as ends:
        for end in ends:
            said = json.loads(end.argument())
            for lie in (100_000, 10_000_000):
                word = json.dumps({**said, "terms": {**said["terms"], "max_message_bytes": lie}})
                refused(word, ipc.Channel, "descriptor ")


@pytest.mark.parametrize("kind", ["ring", "ring-many", "slots"])
def test_a_way_to_be_woken_that_the_descriptors_do_not_fit_is_refused(kind: str) -> None:
    for made, said_to_be in ("eventfd", "spin"), ("futex", "eventfd"):
        with _ends(kind, wakeup=made) as ends:
            for end in ends:
                said = json.loads(end.argument())
                refused(json.dumps({**said, "terms": {**said["terms"], "wakeup": said_to_be}}), ipc.Channel)


def test_an_end_of_one_kind_is_none_of_another() -> None:
    with contextlib.ExitStack() as made:
        words = {kind: made.enter_context(_ends(kind))[0].argument() for kind in ipc.KINDS}
        for kind, word in words.items():
            said = json.loads(word)
            for other in words:
                alike = {kind, other} in ({"pipe", "fifo"}, {"ring", "ring-many"})  # they are the same to the kernel
                if other != kind and not alike:
                    refused(json.dumps({**said, "terms": {**said["terms"], "kind": other}}), ipc.Channel)


@pytest.mark.parametrize("name", _CLASSES)
def test_memory_of_something_else_is_no_synchronisation(name: str, wrong: dict[str, int]) -> None:
    thing = _CLASSES[name]()
    said = json.loads(thing.argument())
    for number in [*_NO_NUMBERS, *wrong.values()]:
        refused(json.dumps({**said, "memory": number}), type(thing))
    thing.close()


def test_what_a_host_hands_over_that_is_no_end_is_refused_and_given_back(
    names_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ipc.listen("pipe", "orders") as listener:
        real = ipc._listen.make_ends  # type: ignore[attr-defined]

        def make_ends(terms: ipc.Terms, both_ways: bool) -> Any:
            here, there = real(terms, both_ways)
            os.dup2(lie, there.descriptors[0], inheritable=False)
            return here, there

        lie = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        monkeypatch.setattr(ipc._listen, "make_ends", make_ends)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ipc.HandshakeFailed, match="handed over what is no end of a channel"):
            ipc.open("orders", timeout_s=PATIENCE_S)
        monkeypatch.undo()
        listener.accept(timeout_s=PATIENCE_S).close()
        os.close(lie)
        assert len(os.listdir("/proc/self/fd")) == before - 1


def test_a_socket_that_is_looked_at_waits_as_before_whatever_the_default_time_out() -> None:
    here, there = socket.socketpair()
    with here, there:
        default_s = socket.getdefaulttimeout()
        socket.setdefaulttimeout(5)
        try:
            _descriptors.check_socket(here.fileno(), (socket.AF_UNIX,), socket.SOCK_STREAM)
        finally:
            socket.setdefaulttimeout(default_s)
        assert os.get_blocking(here.fileno())

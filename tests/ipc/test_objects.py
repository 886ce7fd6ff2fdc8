"""What each serialiser takes, gives back, and refuses in one sentence."""

from __future__ import annotations

import asyncio
import enum
import importlib.util
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest

from underlay import ipc
from underlay.errors import UnderlayError, UsageError

needs_msgpack = pytest.mark.skipif(
    importlib.util.find_spec("msgpack") is None, reason="msgpack is not installed; remedy: pip install msgpack"
)
ALL = [
    pytest.param(ipc.Json, id="json"),
    pytest.param(ipc.MessagePack, id="msgpack", marks=needs_msgpack),
    pytest.param(ipc.Pickle, id="pickle"),
]
Make = Callable[[], ipc.Serialiser]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("thing", [None, True, -1, 2**40, 0.5, "ü", [], {"a": [1, {"b": None}]}])
def test_what_json_can_say_comes_back_from_each(make: Make, thing: object) -> None:
    assert make().loads(make().dumps(thing)) == thing


@pytest.mark.parametrize("make", ALL[1:])
def test_bytes_come_back_where_json_has_none(make: Make) -> None:
    assert make().loads(make().dumps(b"\0\xff")) == b"\0\xff"
    with pytest.raises(UsageError, match="JSON cannot say this"):
        ipc.Json().dumps(b"\0\xff")


@pytest.mark.parametrize("make", ALL[:2])
@pytest.mark.parametrize("thing", [{1: 2}, [{"a": ({None: 0},)}], {"a": {True: 1}}, {2.5: 1}])
def test_a_key_that_would_come_back_as_another_is_refused(make: Make, thing: object) -> None:
    with pytest.raises(UsageError, match=r"a key is .*; make it a string"):
        make().dumps(thing)
    assert ipc.Pickle().loads(ipc.Pickle().dumps(thing)) == thing


def test_a_key_that_is_a_string_by_another_name_is_one() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    assert ipc.Json().loads(ipc.Json().dumps({Colour.RED: 1})) == {"red": 1}


@needs_msgpack
def test_bytes_are_keys_where_they_come_back_as_such() -> None:
    assert ipc.MessagePack().loads(ipc.MessagePack().dumps({b"a": 1})) == {b"a": 1}


@pytest.mark.parametrize("what", [ipc.Json, ipc.Pickle, "json", None, object()])
def test_what_is_no_serialiser_is_refused_at_once(what: Any) -> None:
    receiver, sender = ipc.pair("pipe")
    with receiver, sender, pytest.raises(UsageError, match="is no serialiser"):
        sender.objects(what)


@pytest.mark.parametrize("make", ALL)
def test_what_none_can_say_is_refused_before_anything_is_sent(make: Make) -> None:
    receiver, sender = ipc.pair("pipe")
    with receiver, sender:
        with pytest.raises(UsageError):
            sender.objects(make()).send(lambda: None)
        sender.send(b"whole")
        assert receiver.receive(timeout_s=5) == b"whole"


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("rubbish", [b"", b"\xc1", b"\0\0\0\1", b"\xff\xff\xff\xff", b'{"a"', b"\x91"])
def test_rubbish_is_not_understood_and_that_message_alone_is_lost(make: Make, rubbish: bytes) -> None:
    receiver, sender = ipc.pair("pipe")
    with receiver, sender:
        sender.send(rubbish)
        sender.objects(make()).send([1])
        things = receiver.objects(make())
        with pytest.raises(ipc.NotUnderstood):
            things.receive(timeout_s=5)
        assert things.receive(timeout_s=5) == [1]


def test_large_buffers_are_not_part_of_a_pickle_and_not_copied_on_the_way_in() -> None:
    block = bytearray(b"x" * 100_000)
    message = ipc.Pickle().dumps([pickle.PickleBuffer(block), "text"])
    assert len(message) < 100_200
    before = sys.getrefcount(message)
    thing = ipc.Pickle().loads(message)
    assert isinstance(thing, list)
    assert (bytes(thing[0]), thing[1]) == (bytes(block), "text")
    assert sys.getrefcount(message) > before  # the view is of the message


@pytest.mark.parametrize("make", ALL)
def test_objects_are_awaited_and_end_with_the_channel(make: Make) -> None:
    async def main() -> list[object]:
        receiver, sender = ipc.pair("unix")
        with receiver:
            with sender:
                for number in range(3):
                    await sender.objects(make()).aio.send({"number": number})
            return [thing async for thing in receiver.objects(make()).aio]

    assert asyncio.run(main()) == [{"number": number} for number in range(3)]


def test_a_package_that_is_missing_is_one_sentence_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(UnderlayError, match=r"^msgpack is not installed; pip install 'underlay\[msgpack\]'$"):
        ipc.MessagePack()

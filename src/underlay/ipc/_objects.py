"""Objects over a channel: a serialiser of the caller's choice turns them into bytes and back.

This file knows serialisers and what each may be trusted with. It refuses to know how bytes are carried.

Pickle runs whatever the bytes say: it is for the two ends of one program, and never chosen for anybody.
"""

from __future__ import annotations

import importlib
import json
import pickle
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol, cast

from ..errors import UnderlayError, UsageError
from ._errors import EndOfMessages

if TYPE_CHECKING:
    from ._channel import Channel

_COUNT: Final = struct.Struct("!I")
# What has no keys inside, by far the most of what there is.
_PLAIN: Final = frozenset({str, int, float, bool, type(None), bytes})


class NotUnderstood(UnderlayError, ValueError):
    """A message is none that this serialiser wrote."""


class Serialiser(Protocol):
    """Turns an object into a message and back."""

    def dumps(self, thing: object) -> bytes:
        """The message for an object. Raises ``UsageError`` for what it cannot say."""

    def loads(self, message: bytes) -> object:
        """The object of a message. Raises `NotUnderstood`."""


def _check_serialiser(what: object) -> None:
    """Raise ``UsageError`` for what is none, its class among that."""
    if isinstance(what, type) or not all(callable(getattr(what, each, None)) for each in ("dumps", "loads")):
        said = what.__name__ if isinstance(what, type) else repr(what)[:80]
        raise UsageError(
            f"{said} is no serialiser, which is an object with dumps() and loads()",
            remedy=f"make one of the class: {said}()" if isinstance(what, type) else "give ipc.Json(), for instance",
        )


def _check_keys(thing: object, may_be: tuple[type, ...], who: str) -> None:
    """Raise ``UsageError`` where a dictionary has a key that would come back as another, or not at all."""
    inside = [thing]
    while inside:
        each = inside.pop()
        if each.__class__ in _PLAIN:
            continue
        if isinstance(each, dict):
            for key in each:
                if not isinstance(key, may_be):
                    raise UsageError(
                        f"{who} cannot say this: a key is {key!r:.60}", remedy="make it a string, or use Pickle()"
                    )
            inside.extend(each.values())
        elif isinstance(each, (list, tuple)):
            inside.extend(each)


class Json:
    """RFC 8259: numbers, text, lists, dictionaries, true, false and null; nothing that could do harm.

    Keys are strings: others would come back as strings, and are refused. A tuple comes back as a list.

    >>> Json().loads(Json().dumps({"a": [1, None]}))
    {'a': [1, None]}
    """

    def dumps(self, thing: object) -> bytes:
        """The message for an object. Raises ``UsageError`` for what JSON cannot say."""
        try:
            message = json.dumps(thing, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"JSON cannot say this: {error}", remedy="make it of lists, dictionaries and text"
            ) from error
        _check_keys(thing, (str,), "JSON")  # afterwards: by now it is known that nothing in it contains itself
        return message

    def loads(self, message: bytes) -> object:
        """The object of a message. Raises `NotUnderstood`."""
        try:
            return cast(object, json.loads(message))
        except (ValueError, RecursionError) as error:
            raise NotUnderstood(f"a message is no JSON: {error}", remedy="have both ends use the same") from error


class MessagePack:
    """MessagePack, through its package ``msgpack``: JSON's types and bytes; nothing that could do harm.

    Keys are strings or bytes, and others are refused. A tuple comes back as a list.
    """

    def __init__(self) -> None:
        try:
            package = importlib.import_module("msgpack")
        except ImportError:
            raise UnderlayError("msgpack is not installed", remedy="pip install 'underlay[msgpack]'") from None
        self._pack = cast(Callable[[object], bytes], package.packb)
        self._unpack = cast(Callable[[bytes], object], package.unpackb)

    def dumps(self, thing: object) -> bytes:
        """The message for an object. Raises ``UsageError`` for what MessagePack cannot say."""
        try:
            message = self._pack(thing)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"MessagePack cannot say this: {error}", remedy="make it of what it knows") from error
        _check_keys(thing, (str, bytes), "MessagePack")
        return message

    def loads(self, message: bytes) -> object:
        """The object of a message. Raises `NotUnderstood`."""
        try:
            return self._unpack(message)
        except Exception as error:  # the package has a dozen of its own, all of them for rubbish
            raise NotUnderstood(
                f"a message is no MessagePack: {error}", remedy="have both ends use the same"
            ) from error


class Pickle:
    """Pickle, protocol 5: nearly any object, large buffers out of band. Whoever can send can run code here.

    So it is for processes of one program; a channel that others can open should have another.

    >>> Pickle().loads(Pickle().dumps({1, 2}))
    {1, 2}
    """

    def dumps(self, thing: object) -> bytes:
        """The message for an object: the count and sizes of its buffers, the pickle, the buffers."""
        buffers: list[pickle.PickleBuffer] = []
        try:
            pickled = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
            raw = [buffer.raw() for buffer in buffers]
        except Exception as error:  # each type refuses with an error of its own
            raise UsageError(f"this cannot be pickled: {error}", remedy="send what it is made of") from error
        parts: list[bytes | memoryview] = [_COUNT.pack(len(raw)), *(struct.pack("!Q", each.nbytes) for each in raw)]
        return b"".join([*parts, _COUNT.pack(len(pickled)), pickled, *raw])

    def loads(self, message: bytes) -> object:
        """The object of a message. Raises `NotUnderstood`. Buffers are views of the message, not copies."""
        whole = memoryview(message)
        try:
            (count,) = _COUNT.unpack_from(whole)
            if 4 + 8 * count > len(whole):
                raise ValueError("it says that it has more buffers than it has bytes for")
            sizes = struct.unpack_from(f"!{count}Q", whole, 4)
            at = 4 + 8 * count
            (size,) = _COUNT.unpack_from(whole, at)
            at += 4
            if at + size + sum(sizes) != len(whole):
                raise ValueError("its parts are not as long as it says")
            pickled = whole[at : at + size]
            at += size
            buffers = []
            for each in sizes:
                buffers.append(whole[at : at + each])
                at += each
            return cast(object, pickle.loads(pickled, buffers=buffers))
        except Exception as error:  # what is pickled may raise what it likes
            raise NotUnderstood(
                f"a message cannot be unpickled: {error}", remedy="have both ends use the same"
            ) from error


class ObjectChannel:
    """An end that sends and receives objects; made by `Channel.objects`.

    >>> from underlay import ipc
    >>> receiver, sender = ipc.pair("pipe")
    >>> with receiver, sender:
    ...     sender.objects(ipc.Json()).send({"answer": 42})
    ...     receiver.objects(ipc.Json()).receive()
    {'answer': 42}
    """

    def __init__(self, channel: Channel, serialiser: Serialiser) -> None:
        _check_serialiser(serialiser)
        self._channel = channel
        self._serialiser = serialiser

    @property
    def aio(self) -> AsyncObjectChannel:
        """The same for asyncio."""
        return AsyncObjectChannel(self._channel, self._serialiser)

    def send(self, thing: object, *, priority: int = 0, timeout_s: float | None = None) -> None:
        """Send one object. Raises as `Channel.send` and the serialiser do."""
        self._channel.send(self._serialiser.dumps(thing), priority=priority, timeout_s=timeout_s)

    def receive(self, *, timeout_s: float | None = None) -> object:
        """The next object. Raises as `Channel.receive` does, and `NotUnderstood`; then that message is gone."""
        return self._serialiser.loads(self._channel.receive(timeout_s=timeout_s))

    def __iter__(self) -> Iterator[object]:
        return map(self._serialiser.loads, self._channel)


class AsyncObjectChannel:
    """An end that sends and receives objects, awaited."""

    def __init__(self, channel: Channel, serialiser: Serialiser) -> None:
        self._channel = channel
        self._serialiser = serialiser

    async def send(self, thing: object, *, priority: int = 0) -> None:
        """Send one object. Raises as `Channel.send` and the serialiser do."""
        await self._channel.aio.send(self._serialiser.dumps(thing), priority=priority)

    async def receive(self) -> object:
        """The next object. Raises as `Channel.receive` does, and `NotUnderstood`; then that message is gone."""
        return self._serialiser.loads(await self._channel.aio.receive())

    async def __aiter__(self) -> AsyncIterator[object]:
        try:
            while True:
                yield await self.receive()
        except EndOfMessages:
            return

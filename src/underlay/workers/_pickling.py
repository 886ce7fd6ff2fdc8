"""A call as bytes, and what came of it as bytes.

This file knows cloudpickle, which takes lambdas, closures and what is defined in ``__main__`` along by value. It
refuses to know who carries the bytes. Whoever opens them runs what is in them: they must come from a friend.
"""

from __future__ import annotations

import contextvars
import functools
import io
import pickle
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsIndex, cast

from ._context import found_again, name_of
from ._contract import NotPicklable, RemoteFailure, RemoteTraceback
from ._packages import package

__all__ = ["open_answer", "pack_call", "perform"]

Answer = tuple[bool, object, str]
"""Whether the call returned, what it returned or raised, and the traceback."""


def _dumps(value: object) -> bytes:
    with io.BytesIO() as file:
        _pickler()(file).dump(value)
        return file.getvalue()


@functools.cache
def _pickler() -> Any:
    """cloudpickle's, for functions whose globals are context variables: it takes functions of the script by value."""
    base: Any = package("cloudpickle", "an executor outside of this process").Pickler

    class Pickler(base):  # type: ignore[misc]
        def reducer_override(self, thing: object) -> object:
            if type(thing) is contextvars.ContextVar and (found := found_again(thing)) is not None:
                return found
            return super().reducer_override(thing)

    return Pickler


def pack_call(fn: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> bytes:
    """Make bytes of a call, as things are now: later changes to its arguments are not seen.

    Raises ``NotPicklable`` where a part of it cannot leave this process.
    """
    try:
        return _dumps((fn, tuple(args), dict(kwargs)))
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise NotPicklable(
            f"the call of {name_of(fn)} cannot be brought to another process: {error}",
            remedy="pass what can be pickled, and open files, locks and connections in the function",
        ) from error


def perform(packed: bytes) -> bytes:
    """Run a packed call here, and make bytes of what came of it. It never raises.

    >>> open_answer(perform(pack_call(divmod, (7, 2), {})))
    (3, 1)
    """
    called = "a call"
    try:
        fn, args, kwargs = pickle.loads(packed)
        called = name_of(fn)
        result = fn(*args, **kwargs)
    except BaseException as error:  # SystemExit too: it is the caller who may want to end
        return _pack_failure(called, error)
    try:
        return _dumps((True, result, ""))
    except BaseException as error:
        refusal = NotPicklable(
            f"{called} returned a {type(result).__qualname__}, which cannot be brought back: {error}",
            remedy="return what can be pickled",
        )
        return _dumps((False, refusal, "".join(traceback.format_exception(error))))


class _AsItself:
    """An exception, pickled as it says itself: tblib, which Dask brings, loses SystemExit's code."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        return self._error.__reduce_ex__(protocol)


def _pack_failure(called: str, error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(error))
    try:
        packed = _dumps((False, _AsItself(error), text))
        pickle.loads(packed)  # an exception whose __init__ wants more than its args has would fail where it arrives
        return packed
    except BaseException:
        failure = RemoteFailure(
            f"{called} raised {type(error).__qualname__}, which cannot be brought back: {str(error)[:1000]}"
        )
        return _dumps((False, failure, text))


def open_answer(packed: bytes) -> object:
    """Return what a call returned, or raise what it raised, with the traceback from there as its cause."""
    try:
        returned, value, text = cast(Answer, pickle.loads(packed))
    except BaseException as error:
        raise NotPicklable(f"what a call returned cannot be understood here: {error}") from error
    if returned:
        return value
    raised = cast(BaseException, value)
    raised.__cause__ = RemoteTraceback(text)
    raise raised

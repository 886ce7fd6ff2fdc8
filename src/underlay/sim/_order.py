"""The order of what Python leaves open: of objects in a set, and of when garbage is collected.

This file knows which of asyncio's objects programs keep in sets, and makes them hash by a number. It refuses to know
what a program does with them. Tasks and futures have their numbers from the loop (``_loop.py``).

An object's hash is its address unless its class says otherwise, and addresses differ between processes: a chat server
that tells ``for writer in writers`` tells each run in another order. What this cannot reach: sets of a program's own
objects, sets of texts (PYTHONHASHSEED), and bare ``asyncio.Future()``; ``loop.create_future()`` is numbered.

Garbage in cycles is collected when so many objects were made, which differs with what else the process has done, and
what is collected may close a socket. While a world runs, it is collected after so many moments of the schedule.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from asyncio import tasks
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from . import _turn
from ._loop import SimLoop, next_number
from ._stand_ins import at_begin_and_end

if TYPE_CHECKING:
    from collections.abc import Hashable

_NUMBERED: Final[tuple[type, ...]] = (
    asyncio.BaseProtocol,
    asyncio.BaseTransport,
    asyncio.StreamReader,
    asyncio.StreamWriter,
    asyncio.Queue,
    asyncio.Event,
    asyncio.Lock,
    asyncio.Condition,
    asyncio.Semaphore,
    tasks._GatheringFuture,  # type: ignore[attr-defined]
)


def _hash(self: Hashable) -> int:
    """The object's number, given when it is first asked for; its address where it has no room for one."""
    try:
        return object.__getattribute__(self, "_underlay_number")  # type: ignore[no-any-return]
    except AttributeError:
        pass
    number = next_number()
    try:
        object.__setattr__(self, "_underlay_number", number)
    except AttributeError:
        return object.__hash__(self)
    return number


def _number(on: bool) -> None:
    for each in _NUMBERED:
        if on:
            each.__hash__ = _hash  # type: ignore[method-assign, assignment]
        else:
            del each.__hash__


at_begin_and_end(_number)


# --- asynchronous generators -----------------------------------------------------------------------------------------
# A loop's `run_forever` hooks them for its thread; here loops take turns, so that one hook asks whose turn it is.


class InOrder(WeakValueDictionary[int, AsyncGenerator[Any, Any]]):
    """A set as asyncio keeps for its generators, weak too, but in the order in which they began."""

    def add(self, each: AsyncGenerator[Any, Any]) -> None:
        """Have it."""
        self[id(each)] = each

    def discard(self, each: AsyncGenerator[Any, Any]) -> None:
        """Have it no more."""
        self.pop(id(each), None)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.values()))


_loops: Final[dict[int, SimLoop]] = {}
_hooks: list[Any] = []


def _begins(generator: AsyncGenerator[Any, Any]) -> None:
    loop = asyncio._get_running_loop()
    if isinstance(loop, SimLoop):
        _loops[id(generator)] = loop
        if type(loop._asyncgens) is not InOrder:
            loop._asyncgens = InOrder()
        loop.note_generator(generator)


def _is_left(generator: AsyncGenerator[Any, Any]) -> None:
    """Nobody goes on with it: its `finally` blocks run on the loop where it began, unless that is a dead process's."""
    loop = _loops.pop(id(generator), None)
    if loop is not None and not loop.is_closed():
        loop.close_generator(generator)


def _hook_generators(on: bool) -> None:
    if on:
        _hooks.append(sys.get_asyncgen_hooks())
        sys.set_asyncgen_hooks(_begins, _is_left)
    else:
        sys.set_asyncgen_hooks(*_hooks.pop())
        _loops.clear()


at_begin_and_end(_hook_generators)


# --- garbage ---------------------------------------------------------------------------------------------------------

# Young objects are looked at so often (some 50 ms of work), all of the world's whenever it is twice as old: what lives
# is looked at few times, and garbage is never more than what a run as long has made.
COLLECT_EVERY: Final = 1 << 12
_was_enabled = False


def collect(moments: int) -> None:
    """Collect the garbage of the world, after so many moments of its schedule."""
    with _turn.of(None):
        gc.collect(2 if moments & (moments - 1) == 0 else 1)


def _own_collection(on: bool) -> None:
    global _was_enabled
    if on:
        _was_enabled = gc.isenabled()
        gc.disable()
        gc.freeze()  # what others left is theirs to close, after the world
    else:
        gc.unfreeze()
        if _was_enabled:
            gc.enable()


at_begin_and_end(_own_collection)

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
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from . import _turn
from ._loop import InOrder, SimLoop, next_number
from ._stand_ins import at_begin_and_end, replace

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from ._host import Host

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
    asyncio.Barrier,
    asyncio.TaskGroup,
    asyncio.AbstractServer,
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


# --- as_completed -----------------------------------------------------------------------------------------------------
# It makes a set of what it is given and tasks of that: coroutines, which have no number, would begin in the order of
# their addresses. Given tasks, it keeps their order.


def _tasks_of(fs: Any) -> Any:
    if asyncio.isfuture(fs) or asyncio.iscoroutine(fs):
        return fs  # asyncio has a TypeError for it
    return [asyncio.ensure_future(each) for each in dict.fromkeys(fs)]


def _as_completed(host: Host, fs: Any, *, timeout: float | None = None) -> Iterator[Any]:
    if sys.version_info >= (3, 13):
        return _real_as_completed(_tasks_of(fs), timeout=timeout)

    def when_asked() -> Iterator[Any]:  # a generator as asyncio's: nothing begins before
        yield from _real_as_completed(_tasks_of(fs), timeout=timeout)

    return when_asked()


_real_as_completed: Final = asyncio.as_completed
replace(_real_as_completed, _as_completed)

# --- tasks ------------------------------------------------------------------------------------------------------------
# asyncio has one set for all tasks of the process, which is too long to be searched whenever one of a thousand programs
# ends. Whatever makes a task enters it there: aiohttp's eager ones too, that know nothing of a loop's task factory, by
# asyncio's C code too. From Python 3.14 on that keeps a list which nobody else sees: `SimLoop.tasks` asks it.

_all_tasks: Final[WeakSet[asyncio.Task[Any]]] = getattr(
    tasks, "_scheduled_tasks" if sys.version_info >= (3, 12) else "_all_tasks"
)


def _begins_task(task: asyncio.Task[Any]) -> None:
    WeakSet.add(_all_tasks, task)
    loop = task.get_loop()
    if isinstance(loop, SimLoop):
        loop.note_task(task)


def _note_tasks(on: bool) -> None:
    if on:
        _all_tasks.add = _begins_task  # type: ignore[method-assign, assignment]
    else:
        del _all_tasks.add


at_begin_and_end(_note_tasks)


# --- asynchronous generators -----------------------------------------------------------------------------------------
# A loop's `run_forever` hooks them for its thread; here loops take turns, so that one hook asks whose turn it is.


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

# Young objects are looked at so often (some 100 ms of work), all of the world's whenever it is four times as old: what
# lives is looked at few times, and old garbage is never more than what the run has made since it was a quarter as old.
COLLECT_EVERY: Final = 1 << 12
# In a world of many hosts a look at all that lives takes the longer the more there are, so it pays after so many more
# moments. Where connections come and go a moment makes some 300 bytes of garbage in cycles, where they stay none; so
# it is less than what a host needs to be there (64 KiB).
COLLECT_EVERY_A_HOST: Final = 128
_ALL_AT: Final = frozenset(4**power for power in range(20))


class Garbage:
    """When the garbage of a world is collected: ``due_at`` counts moments of its schedule."""

    __slots__ = ("_at", "_times", "due_at")

    def __init__(self) -> None:
        self._at = self._times = 0
        self.due_at = COLLECT_EVERY

    def collect(self, moments: int, hosts: int) -> None:
        """Collect it, unless so many hosts allow for more."""
        pause = max(COLLECT_EVERY, COLLECT_EVERY_A_HOST * hosts)
        if moments - self._at < pause:
            self.due_at = self._at + pause
            return
        self._at, self.due_at = moments, moments + pause
        self._times += 1
        with _turn.of(None):
            gc.collect(2 if self._times in _ALL_AT else 1)


_was_enabled = False


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

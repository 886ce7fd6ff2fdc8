"""Back-pressure: an executor that takes no more calls than it has room for.

This file knows how to wait for room, in a thread and in a coroutine. It refuses to know what the executor is.
"""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

from ..errors import UsageError

__all__ = ["BoundedExecutor", "bounded"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Room:
    """Room for so many calls; who finds none waits for their turn. First come, first served."""

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._free = limit
        self._queue: collections.deque[Future[None]] = collections.deque()

    def ask(self) -> Future[None]:
        """Ask for room for one call: it is there when the future has its result."""
        turn: Future[None] = Future()
        with self._lock:
            if self._free == 0:
                self._queue.append(turn)
                return turn
            self._free -= 1
        turn.set_result(None)
        return turn

    def give_back(self, done: object = None) -> None:
        """A call is over."""
        with self._lock:
            while self._queue:
                turn = self._queue.popleft()
                if turn.set_running_or_notify_cancel():  # one that was cancelled waits for none
                    turn.set_result(None)
                    return
            self._free += 1

    def withdraw(self, turn: Future[None]) -> None:
        """Whoever asked goes away: either never gets room, or gives it back."""
        if turn.cancel():
            return
        with self._lock:  # a turn that is being given is given, afterwards
            was_given = not turn.cancelled()
        if was_given:
            self.give_back()


class BoundedExecutor(Executor):
    """An executor of which at most ``limit`` calls are pending, those that run included; see `bounded`."""

    def __init__(self, executor: Executor, limit: int) -> None:
        if not isinstance(limit, int):  # room is counted in whole calls: of 1.5 or NaN there would be no end
            raise UsageError(f"an executor has room for a number of calls, not {limit!r:.40}", remedy="say an integer")
        if limit < 1:
            raise UsageError(f"an executor with room for {limit} calls takes none", remedy="the limit is from 1 on")
        self.below = executor
        self._room = _Room(limit)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Submit a call as soon as there is room; until then this thread waits. In a coroutine say `aio_submit`."""
        turn = self._room.ask()
        try:
            turn.result()
        except BaseException:  # Ctrl-C
            self._room.withdraw(turn)
            raise
        return self._submit(fn, *args, **kwargs)

    async def aio_submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> asyncio.Future[_T]:
        """Submit a call as soon as there is room; the loop goes on meanwhile. The result is awaited in its turn."""
        turn = self._room.ask()
        try:
            await asyncio.wrap_future(turn)
        except BaseException:
            self._room.withdraw(turn)
            raise
        return asyncio.wrap_future(self._submit(fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the executor below down; who waits for room is then refused by it."""
        self.below.shutdown(wait, cancel_futures=cancel_futures)

    def _submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        try:
            future = self.below.submit(fn, *args, **kwargs)
        except BaseException:
            self._room.give_back()
            raise
        future.add_done_callback(self._room.give_back)  # of the room alone: a future keeps no executor alive
        return future


def bounded(executor: Executor, limit: int) -> BoundedExecutor:
    """Bound an executor: at most ``limit`` calls are pending, and who submits more waits.

    Raises ``UsageError`` for a limit below one.

    >>> from underlay import workers
    >>> with workers.bounded(workers.executor("thread"), limit=4) as pool:
    ...     sum(pool.map(abs, range(-100, 0)))
    5050
    """
    return BoundedExecutor(executor, limit)

"""This process's stdin and stdout as something to await, whatever they are.

asyncio can watch pipes and terminals, but not files, and to do so it makes them
non-blocking, for every process that shares them, the shell included. So one
thread waits in read(2) and another in write(2) instead, as a program without
asyncio would. They are daemons: a terminal at which nobody types must not keep
the program from ending.

This file knows descriptors. It refuses to know where the bytes come from or go.
"""

from __future__ import annotations

import asyncio
import os
import queue
import select
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ._whole_stdout import write_all

__all__ = ["READ_BYTES", "Input", "Output", "OutputGone"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

# As much as a pipe holds (pipe(7)), so that a read empties it.
READ_BYTES = 65_536


class OutputGone(Exception):
    """Whoever read our stdout has left."""


class Input:
    """A descriptor to read from, by default stdin."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._hand: _Hand | None = None
        try:
            self.is_terminal = os.isatty(descriptor)
        except OSError:
            self.is_terminal = False

    async def read(self, limit: int = READ_BYTES) -> bytes:
        """The next bytes, at most ``limit``; ``b""`` at the end. One reader at a time."""
        if self._hand is None:
            self._hand = _Hand("stdin")
        return await self._hand.call(_read, self._descriptor, limit)


class Output:
    """A descriptor to write to, by default stdout."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._hand: _Hand | None = None
        self._turn = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """Write all of ``data``, and come back when it is written; no other writer's bytes fall between.

        Raises ``OutputGone`` when nobody reads any more.
        """
        async with self._turn:
            if self._hand is None:
                self._hand = _Hand("stdout")
            try:
                await self._hand.call(write_all, self._descriptor, data)
            except BrokenPipeError:
                raise OutputGone from None


class _Hand:
    """A thread that makes one blocking call after another for an event loop."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call the function in the thread and return, or raise, what comes of it."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[_T] = loop.create_future()

        def settle(result: _T | None, error: BaseException | None) -> None:
            if outcome.cancelled():
                return
            if error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result, problem = None, None
            try:
                result = function(*args, **kwargs)
            except Exception as error:
                problem = error
            try:
                loop.call_soon_threadsafe(settle, result, problem)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

        self._calls.put(work)
        return await outcome

    def _work(self) -> None:
        while True:
            self._calls.get()()


def _read(descriptor: int, limit: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, limit)
        except BlockingIOError:  # somebody else made it non-blocking
            select.select([descriptor], [], [])

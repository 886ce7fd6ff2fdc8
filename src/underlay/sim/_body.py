"""A test's own coroutine, which may walk from host to host.

This file knows how one coroutine is run by several event loops, one after another: each stretch between two moves is
a task of the loop of the host where it stands. It refuses to know what a host is, but that it has a loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, Generic, Protocol, TypeVar

from ._loop import SimLoop, SimTask

_T = TypeVar("_T")


class Place(Protocol):
    """Where a stretch can run."""

    @property
    def loop(self) -> SimLoop: ...


class Move:
    """Awaited by the body: run what follows there."""

    __slots__ = ("place",)

    def __init__(self, place: Place) -> None:
        self.place = place

    def __await__(self) -> Generator[Move, None, None]:
        yield self


class Stretch(SimTask):
    """A task that lasts as long as its body: a time limit or a task group may be begun on one host, and end another."""

    body: Body[Any]

    def done(self) -> bool:
        """Whether the body has ended, or this stretch of it where another goes on."""
        return super().done() and (self.body.task is self or self.body.is_done)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel what the body does now, wherever it is."""
        now = self.body.task
        return super().cancel(msg) if now is None or now is self or not super().done() else now.cancel(msg)


class Body(Generic[_T]):
    """The coroutine, and what came of it; ``ended`` is called when it has returned or raised."""

    def __init__(self, coroutine: Coroutine[Any, Any, _T], ended: Callable[[], None]) -> None:
        self.coroutine = coroutine
        self._ended = ended
        self._context: Context = copy_context()
        self.is_done = False
        self.result: _T | None = None
        self.error: BaseException | None = None
        self.place: Place | None = None
        self.task: Stretch | None = None

    def run_on(self, place: Place) -> None:
        """Let the next stretch run there."""
        self.place = place
        task = Stretch(self._stretch(), loop=place.loop, context=self._context)
        task.body = self
        self.task = task

    @property
    def is_current(self) -> bool:
        """Whether it is what runs now."""
        return self.task is not None and asyncio.current_task() is self.task

    async def _stretch(self) -> None:
        place, here = self.place, self.task
        await _Steps(self)
        assert place is not None and here is not None
        place.loop.forget_task(here)

    def _finish(self, result: _T | None, error: BaseException | None) -> None:
        self.is_done, self.result, self.error = True, result, error
        self._ended()

    def close(self) -> None:
        """Let go of a coroutine that did not come to its end."""
        if not self.is_done:
            self.coroutine.close()


class _Steps:
    """What a stretch awaits: the body's own steps, up to the next move."""

    def __init__(self, body: Body[Any]) -> None:
        self._body = body

    def __await__(self) -> Generator[Any, Any, None]:
        body = self._body
        coroutine = body.coroutine
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                awaited = coroutine.send(value) if error is None else coroutine.throw(error)
            except StopIteration as stop:
                body._finish(stop.value, None)
                return
            except BaseException as failure:
                body._finish(None, failure)
                return
            if type(awaited) is Move:
                body.run_on(awaited.place)
                return
            value = error = None
            try:
                value = yield awaited
            except GeneratorExit:
                raise
            except BaseException as thrown:
                __tracebackhide__ = True  # nobody who reads a failure looks for this line
                error = thrown

"""A program that begins as a plain function, as most do: ``def main(): asyncio.run(serve())``.

This file knows how such a function is run beside the world: in a thread of its own that has its turn only while the
world waits for it. It refuses to know what a loop does in a turn (``_loop.py``).

``asyncio.run``, a ``Runner`` or ``loop.run_until_complete`` asks a loop to run. Here that is the host's, whichever loop
the function makes, and the world runs it: the function's thread sleeps until somebody stops the loop. So coroutines run
where those of other hosts do, and only what stands before and behind is the thread's.
"""

from __future__ import annotations

import _thread
import asyncio
import threading
from asyncio import events, selector_events
from collections.abc import Callable
from contextvars import copy_context
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from . import _turn
from ._refusals import refusal
from ._stand_ins import replace, replace_method, when_imported

if TYPE_CHECKING:
    from ._host import Host
    from ._loop import SimLoop


def _taken_lock() -> _thread.LockType:
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock


class Dead(BaseException):
    """Raised in the thread of a process that is no more, to let go of what it holds."""


# By the number of its thread.
_here: Final[dict[int, Entry]] = {}


class Entry:
    """The main function of one process."""

    def __init__(self, host: Host, loop: SimLoop, start: Callable[[], object]) -> None:
        self._host = host
        self.loop = loop
        self._start = start
        self._context = copy_context()
        with _turn.of(None):
            self._thread = threading.Thread(target=self._run, name=f"main of {host.name}", daemon=True)
        self._may_run: Final = _taken_lock()
        self._has_run: Final = _taken_lock()
        self._has_begun = self._is_dead = False
        self.is_over = False
        self.result: object = None
        self.error: BaseException | None = None

    @property
    def is_here(self) -> bool:
        """Whether it is this function, outside of its loop, that is calling."""
        return _here.get(_thread.get_ident()) is self

    @property
    def _is_due(self) -> bool:
        return not self.is_over and (not self._has_begun or self.loop.is_stopped)

    def turn(self) -> float | None:
        """A turn of the function, of its loop, of the function, …; what it gives is what `SimLoop.turn` does."""
        host, loop = self._host, self.loop
        while True:
            if self._is_due:
                self._go_on()
                if self.is_over:
                    host.leave(self, loop)
                if host.is_busy:
                    return None
            sleeps_s = loop.turn()
            if host.is_busy or not self._is_due:
                return sleeps_s

    def _go_on(self) -> None:
        """Let it run, as far as it goes without its loop."""
        outer = _turn.thread
        self.loop.is_stopped = False
        if not self._has_begun:
            self._has_begun = True
            with _turn.of(None):
                self._thread.start()
        assert self._thread.ident is not None
        _turn.thread = self._thread.ident
        try:
            _hand_over(self._may_run, self._has_run)
        finally:
            _turn.thread = outer
        if self.is_over:
            with _turn.of(None):
                self._thread.join()

    def wait_for_loop(self) -> None:
        """Called by the function: return when its loop has been stopped."""
        self.check_alive()
        _hand_over(self._has_run, self._may_run)
        self.check_alive()

    def check_alive(self) -> None:
        """Raise `Dead` where its process is no more."""
        if self._is_dead:
            raise Dead

    def bury(self) -> None:
        """Let go of a function that will never go on."""
        if self._has_begun and not self.is_over:
            self._is_dead = True
            self._go_on()

    def _run(self) -> None:
        self._may_run.acquire()
        _here[_thread.get_ident()] = self
        try:
            asyncio.set_event_loop(self.loop)  # as that of a main thread is made when it is asked for
            self.result = self._context.run(self._start)
        except BaseException as error:
            self.error = error
        finally:
            self.is_over = True
            asyncio.set_event_loop(None)
            del _here[_thread.get_ident()]
            self._has_run.release()


def _hand_over(to: _thread.LockType, until: _thread.LockType) -> None:
    to.release()
    until.acquire()


# --- the loop that such a function makes -----------------------------------------------------------------------------


class _Alias(asyncio.SelectorEventLoop):
    """A loop that the function made of asyncio's class; all that it has is the host's loop's."""

    def __getattribute__(self, name: str) -> Any:
        return getattr(_aliases[id(self)], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_aliases[id(self)], name, value)

    def __del__(self) -> None:
        _aliases.pop(id(self), None)


_aliases: Final[dict[int, SimLoop]] = {}


def _made(host: Host, original: object, self: Any, *args: object, **kwargs: object) -> None:
    self._closed = True  # its destructor asks
    _aliases[id(self)] = _loop_of(host)
    self.__class__ = _Alias


def _runner(host: Host, original: Callable[..., None], self: asyncio.Runner, **words: Any) -> None:
    if _thread.get_ident() in _here:
        words["loop_factory"] = lambda: _loop_of(host)  # also where it would be one in C, such as uvloop's
    original(self, **words)


def _loop_of(host: Host) -> SimLoop:
    entry = _here.get(_thread.get_ident())
    if entry is None:
        raise refusal(f"another event loop was made on the simulated host {host.name}", "a host has one, and it runs")
    entry.check_alive()
    return entry.loop


replace_method(asyncio.Runner, "__init__", _runner)
replace(events.new_event_loop, _loop_of)
replace_method(selector_events.BaseSelectorEventLoop, "__init__", _made)


def _replace_uvloop(module: ModuleType) -> None:
    replace(module.new_event_loop, _loop_of)


when_imported("uvloop", _replace_uvloop)

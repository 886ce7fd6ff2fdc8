"""Tells which call holds an event loop, with its stack while it holds it; in any asyncio loop, whatever it is made of.

A watched loop has a beat: a timer of its own each quarter of the threshold. Each beat puts off an alarm of the
kernel's, which falls due when the next beat is late by the threshold, and then has the stack of the loop's thread
written down (``_watch_sampler.py``) without asking Python. The beat that comes in the end reads what was written,
finds the call in it (``_watch_stack.py``), counts it and reports it (``_watch_ledger.py``). Of a call that does not
come back, a thread tells (``_watch_overdue.py``) what was written down until then.

So a call is noticed from when it makes the loop late by more than the threshold: always where it lasts 1.25
thresholds, never below one. A turn of many short calls holds a loop as well, and is reported with the one that ran
when the alarm went off, or most of the times if it went off several times.

A beat needs nothing but ``loop.call_later``, which uvloop has as well. The other ways to see where a turn begins and
ends cost in each turn (a callback by ``call_soon``, a selector that is wrapped), or can't be had (libuv's prepare and
check handles aren't reachable through uvloop); a beat costs the same, whatever the load.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import sys
import weakref
from collections import Counter, deque
from collections.abc import Callable
from threading import get_ident as _get_ident
from time import monotonic
from types import FrameType, TracebackType
from typing import Final

from ..errors import UsageError
from ..probe import Probe
from . import _watch_overdue
from ._watch_ledger import Block, Ledger, WatchStatistics, still_held
from ._watch_raise import forbid
from ._watch_sampler import Sampler
from ._watch_stack import Base, Frame, base_of, callers_own, held_by, read_stack
from ._watch_words import LEAST_THRESHOLD_S, MOST_THRESHOLD_S

__all__ = ["BLOCKED", "DEFAULT_THRESHOLD_S", "Watchdog", "watchdog"]

BLOCKED: Probe[[Block]] = Probe("loop.blocked", "what held a watched loop")

# Half of asyncio's own slow_callback_duration: the delay of a key that people begin to notice is 50 to 100 ms.
DEFAULT_THRESHOLD_S: Final = 0.05
# Beats in a threshold. More would tell the length more exactly, at 20 wake-ups more a second for each at 50 ms.
_BEATS: Final = 4
# Thresholds between one sample of a block and the next. Each may end a waiting call of a C library early (EINTR), and
# the room for them is bounded: 256 KiB hold the first 20 s at 50 ms, with stacks of thirty frames.
_REPEAT: Final = 4
# A call that holds a loop so long may never end: it is told meanwhile. Two thresholds at least, for its first sample.
_OVERDUE_S: Final = 1.0

# Ways to run one loop that are remembered, for loops in C: asyncio.run() alone has four.
_MOST_BASES: Final = 8

_logger: Final = logging.getLogger("underlay.watchdog")
_dogs: Final[weakref.WeakSet[Watchdog]] = weakref.WeakSet()
_forgotten_at_fork = False


def watchdog(
    threshold_s: float = DEFAULT_THRESHOLD_S,
    *,
    report: Callable[[Block], object] | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
    raise_at_blocking_calls: bool = False,
) -> Watchdog:
    """`underlay.loop.watchdog`, which tells what it does."""
    if loop is None:
        loop = asyncio._get_running_loop()
    if loop is None:
        raise UsageError(
            "no event loop is running here that a watchdog could watch", remedy="start it in a coroutine, or say loop="
        )
    return Watchdog(loop, threshold_s, report, Ledger(), raise_at_blocking_calls=raise_at_blocking_calls)


class Watchdog:
    """What `watchdog` gives: it watches from ``start()`` to ``stop()``, which are what ``with`` calls."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        threshold_s: float,
        report: Callable[[Block], object] | None,
        ledger: Ledger,
        *,
        raise_at_blocking_calls: bool = False,
    ) -> None:
        if not LEAST_THRESHOLD_S <= threshold_s <= MOST_THRESHOLD_S:  # so that NaN is refused too
            raise UsageError(
                f"a watchdog can't tell blocks of {threshold_s!r:.40} s",
                remedy=f"the threshold is from {LEAST_THRESHOLD_S} to {MOST_THRESHOLD_S:g} s",
            )
        self._loop = loop
        self._threshold_s = threshold_s
        self._beat_s = threshold_s / _BEATS
        self._report = report if report is not None else _log
        self._ledger = ledger
        self._raises = raise_at_blocking_calls
        self._allow: Callable[[], None] | None = None
        self._bases: deque[Base] = deque(maxlen=_MOST_BASES)
        self._sampler: Sampler | None = None
        self._handle: asyncio.Handle | None = None
        self._due_s = 0.0
        self._told_due_s = 0.0  # the beat whose delay was told as overdue
        # The beat belongs to no task: with a context of its own it keeps no program's variables alive.
        self._context = contextvars.Context()

    def __enter__(self) -> Watchdog:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to watch; from another thread, once the loop runs its next turn."""
        if self._sampler is not None:
            raise UsageError("this watchdog is watching already", remedy="make another one for another loop")
        _forget_at_fork()
        sampler = Sampler()
        self._sampler = sampler
        self._alarm = sampler.specification(self._threshold_s + self._beat_s, _REPEAT * self._threshold_s)
        _dogs.add(self)
        try:
            if asyncio._get_running_loop() is self._loop:
                # A loop in Python is known by the caller's stack; one in C is from its first beat on.
                if (base := base_of(sys._getframe(1))).runs:
                    self._bases.append(base)
                self._begin()
            else:
                self._loop.call_soon_threadsafe(self._begin, context=self._context)
        except BaseException:
            self._end()
            raise
        _watch_overdue.watch(self)
        if self._raises:
            self._allow = forbid(self._loop)

    def stop(self) -> None:
        """Watch no more and give everything back; from another thread, once the loop runs its next turn."""
        if asyncio._get_running_loop() is not self._loop and self._loop.is_running():
            try:
                self._loop.call_soon_threadsafe(self._end, context=self._context)
                return
            except RuntimeError:
                pass  # closed meanwhile
        self._end()

    def know_below(self, frame: FrameType | None) -> None:
        """Take note of what lies below the callbacks of the loop: ``frame``, and those that called it."""
        base = base_of(frame)
        if not self._bases or base != self._bases[-1]:
            if base in self._bases:
                self._bases.remove(base)
            self._bases.append(base)

    def statistics(self) -> WatchStatistics:
        """What has held the loop until now; also after the end."""
        return self._ledger.statistics()

    def _begin(self) -> None:
        """In the loop's thread."""
        if self._sampler is None:
            return  # stopped before
        keep_home = getattr(self._loop, "_keep_home", None)
        if keep_home is not None:
            keep_home(True)
        self._put_off(monotonic())
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_soon(self._beat, context=self._context)  # to see what lies below a callback

    def _beat(self) -> None:
        now_s = monotonic()
        sampler = self._sampler
        if sampler is None:
            return  # stopped, by fork(2) too
        late_s = now_s - self._due_s
        self.know_below(sys._getframe(1))
        self._put_off(now_s)
        if late_s > self._threshold_s:
            self._tell(sampler, late_s)

    def _put_off(self, now_s: float) -> None:
        """Put off the alarm until the next beat is too late."""
        sampler = self._sampler
        assert sampler is not None
        if sampler.thread_ident != _get_ident():
            sampler.adopt_thread()
        # The clock was read before the alarm is set: so a beat that comes after the alarm always finds itself late.
        sampler.arm(self._alarm)
        self._due_s = now_s + self._beat_s
        self._handle = self._loop.call_later(self._beat_s, self._beat, context=self._context)

    def tell_if_overdue(self) -> None:
        """In another thread: tell, once, of a call that still holds the loop; a loop that merely waits is not held."""
        sampler, due_s = self._sampler, self._due_s
        late_s = monotonic() - due_s
        if sampler is None or due_s in (0.0, self._told_due_s) or late_s < max(_OVERDUE_S, 2 * self._threshold_s):
            return
        stack = self._stack_in(sampler.peek())
        if stack and due_s == self._due_s:
            self._told_due_s = due_s
            _logger.warning("%s", still_held(stack, late_s, sampler.thread_ident))

    def _stack_in(self, texts: list[str]) -> tuple[Frame, ...]:
        """The stack of the call that held the loop in most of the samples; empty where none did."""
        stacks: list[tuple[Frame, ...]] = []
        for text in texts:
            frames, is_whole = read_stack(text)
            if frames and frames[0].file != __file__:  # else it is of an alarm that a beat was about to put off
                stacks.append(tuple(held_by(frames, is_whole, reversed(self._bases))))
        stacks = [stack for stack in stacks if stack]
        if not stacks:
            return ()
        # The line of the program that was there most often; of several, Counter gives the first that came.
        at = Counter(map(callers_own, stacks)).most_common(1)[0][0]
        return next(stack for stack in stacks if callers_own(stack) == at)

    def _tell(self, sampler: Sampler, late_s: float) -> None:
        stack = self._stack_in(sampler.take())
        if not stack:
            self._ledger.add_unplaced()
            return
        block = self._ledger.add(stack, late_s, self._threshold_s)
        if BLOCKED.listeners:
            BLOCKED(block)
        self._report(block)

    def _end(self) -> None:
        sampler, self._sampler = self._sampler, None
        if sampler is None:
            return
        _dogs.discard(self)
        _watch_overdue.forget(self)
        if self._handle is not None:
            self._handle.cancel()
        if self._allow is not None:
            self._allow()
        sampler.disarm()
        late_s = monotonic() - self._due_s
        try:
            # Whoever blocks and then stops is told of the same.
            if self._due_s and sampler.thread_ident == _get_ident() and late_s > self._threshold_s:
                self._tell(sampler, late_s)
        except Exception as error:
            # As where the loop itself calls the report: it is no matter of the code that is watched.
            self._loop.call_exception_handler({"message": "the report of a watchdog failed", "exception": error})
        finally:
            sampler.close()
            keep_home = getattr(self._loop, "_keep_home", None)
            if keep_home is not None:
                keep_home(False)

    def _forget(self) -> None:
        """In a forked child, whose loop isn't the one that was watched."""
        sampler, self._sampler = self._sampler, None
        if sampler is not None:
            sampler.close_in_child()


def _log(block: Block) -> None:
    _logger.warning("%s", block if block.times == 1 else block.summary)


def _forget_at_fork() -> None:
    global _forgotten_at_fork
    if not _forgotten_at_fork:
        _forgotten_at_fork = True
        os.register_at_fork(after_in_child=_forget_all)


def _forget_all() -> None:
    for dog in list(_dogs):
        dog._forget()
    _dogs.clear()

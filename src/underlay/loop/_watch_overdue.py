"""Tells of a call that holds a loop and does not come back, from a thread of its own: nobody else is left to tell.

What a watchdog reports, it reports from the loop's thread, when the call is over. A deadlock is never over. So one
thread for all watched loops of the process looks from time to time, and has nothing to do but that. It can't be seen
from the outside: it blocks all signals, which so find the threads they would have found without it; and it is not there
while the process forks, as a forked process is warned of threads that it loses (os.fork(), from CPython 3.12 on).

This file knows that thread and its pauses. It refuses to know what is told, and whether there is something to tell. A
call that never gives up the interpreter lock can't be told of by a thread either: see docs/watchdog.md.
"""

from __future__ import annotations

import os
import signal
import threading
import weakref
from typing import Final, Protocol

__all__ = ["LOOK_EVERY_S", "NAME", "Watched", "forget", "watch"]

NAME: Final = "underlay-watchdog"
# A person who waits for a program to answer is not served better by less, and an idle one isn't woken in vain more.
LOOK_EVERY_S: Final = 0.5
# How long a fork waits for the thread's end. It is there at once, but for a log that somebody keeps it from writing.
_PATIENCE_S: Final = 1.0


class Watched(Protocol):
    """What may have something to tell."""

    def tell_if_overdue(self) -> None:
        """Tell, in this thread, if a call has held the loop for too long; once for each call."""


class _Looker:
    """The thread, while there is something to watch."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew; in a forked child, where the thread is not."""
        self._lock = threading.RLock()  # a signal's handler may fork in the midst of `watch`
        self._watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._enough = threading.Event()

    def watch(self, watched: Watched) -> None:
        with self._lock:
            self._watched.add(watched)
            self._begin()

    def forget(self, watched: Watched) -> None:
        with self._lock:
            self._watched.discard(watched)
            if not self._watched:
                self._end()

    def before_fork(self) -> None:
        self._lock.acquire()
        thread = self._thread
        self._end()
        if thread is not None and thread is not threading.current_thread():
            self._lock.release()  # which it may wait for
            thread.join(_PATIENCE_S)
            self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        if self._watched:
            self._begin()
        self._lock.release()

    def _begin(self) -> None:
        if self._thread is not None:
            return
        self._enough = threading.Event()
        thread = threading.Thread(target=self._look, args=(self._enough,), name=NAME, daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # it begins with these
        try:
            thread.start()
        except RuntimeError:
            return  # Python ends, or the machine has no more threads: the loops are watched all the same
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._thread = thread

    def _end(self) -> None:
        # Not waited for: it may be telling, by a handler of the program's that waits for the thread that asks.
        self._thread = None
        self._enough.set()

    def _look(self, enough: threading.Event) -> None:
        while not enough.wait(LOOK_EVERY_S):
            with self._lock:
                watched = list(self._watched)
            for each in watched:
                each.tell_if_overdue()


_looker: Final = _Looker()
watch: Final = _looker.watch
forget: Final = _looker.forget
os.register_at_fork(
    before=_looker.before_fork,
    after_in_parent=_looker.after_fork_in_parent,
    after_in_child=_looker.renew,
)

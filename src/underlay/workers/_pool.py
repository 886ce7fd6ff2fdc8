"""The `Executor` of all workers outside of this process: a queue of calls, and lanes that carry one call at a time.

A lane is a thread here and a worker somewhere. What is in the queue has not
started, so `cancel` takes it back for certain; what is on a lane runs. When a worker dies,
what ran and what waited raises ``BrokenExecutor``, and so does whoever submits
later, as with the standard library's process pool.

This file knows futures, order and the end. It refuses to know where workers are: that is an `Engine`.
"""

from __future__ import annotations

import collections

# Imported for the order in which the interpreter's end is told, from the last who registered to the first: it is to be
# told to pools of threads after `_finish_all`. Dask's client has one, and a call would wait for it for ever.
import concurrent.futures.thread  # noqa: F401
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import ParamSpec, Protocol, TypeVar, cast

from ._contract import NotPicklable
from ._pickling import open_answer, pack_call
from ._say import say

__all__ = ["Engine", "Lane", "PoolExecutor", "WorkerDied"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class WorkerDied(Exception):
    """A worker, or the way to it, is gone; the text says how, as the end of a sentence."""


class Lane(Protocol):
    """A way to one worker, used by one thread."""

    def call(self, packed: bytes) -> bytes:
        """Let the worker perform a call and return its answer. Raises ``WorkerDied``."""

    def close(self) -> None:
        """Let the worker go, at once."""


class Engine(Protocol):
    """What has workers."""

    def open_lane(self) -> Lane:
        """A way to a worker that nobody uses. Raises ``WorkerDied``, or what prevents it."""

    def close(self) -> None:
        """Let all workers go; no lane is open any more."""


class _Call:
    __slots__ = ("future", "packed")

    def __init__(self, future: Future[object], packed: bytes) -> None:
        self.future = future
        self.packed = packed


class _Pool:
    """What the lanes' threads share. It does not know the executor, which may be forgotten while they work."""

    def __init__(self, engine: Engine, most_lanes: int, name: str) -> None:
        self._engine = engine
        self._most_lanes = most_lanes
        self._name = name
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: collections.deque[_Call] = collections.deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._alive = 0
        self._closing = False
        self._broken = ""
        self._engine_closed = False
        self._ends = False
        self._lost = 0

    def put(self, call: _Call) -> None:
        with self._lock:
            self._refuse()
            self._waiting.append(call)
            if self._idle:
                self._idle -= 1  # that thread is on its way
                self._changed.notify()
            elif len(self._threads) < self._most_lanes:
                self._alive += 1
                number = len(self._threads)
                thread = threading.Thread(target=self._serve, name=f"{self._name}-{number}", daemon=True)
                self._threads.append(thread)
                try:
                    thread.start()
                except BaseException:
                    self._alive -= 1
                    self._threads.pop()
                    self._waiting.pop()
                    raise

    def refuse(self) -> None:
        """Raise where no call is taken any more."""
        with self._lock:
            self._refuse()

    def _refuse(self) -> None:
        if self._broken:
            raise BrokenExecutor(f"this executor takes no call any more: {self._broken}")
        if self._closing:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def close(self, cancel: bool = False) -> None:
        """Take no call any more; what waits is still done, or cancelled."""
        taken: list[_Call] = []
        with self._lock:
            self._closing = True
            if cancel:
                taken = list(self._waiting)
                self._waiting.clear()
            self._changed.notify_all()
            nobody = self._alive == 0
        for call in taken:
            if call.future.cancel():
                call.future.set_running_or_notify_cancel()  # who waits for it by `wait` is told now
        if nobody:
            self._close_engine()

    def finish(self) -> None:
        """The program ends: as `close`, and from now on what has no result is counted, as nobody may ask for it."""
        self._ends = True
        self.close()

    def what_was_lost(self) -> str:
        """After `finish` and `join`: how many calls have no result, and why; empty where all have."""
        if not self._lost:
            return ""
        calls = "1 call has" if self._lost == 1 else f"{self._lost} calls have"
        return f"{calls} no result, and the program ends: {self._broken}"

    def join(self) -> None:
        for thread in list(self._threads):
            if thread is not threading.current_thread():  # a done callback may shut down
                thread.join()

    def _serve(self) -> None:
        """Be one lane, until the end."""
        lane: Lane | None = None
        try:
            while (call := self._next()) is not None:
                if not call.future.set_running_or_notify_cancel():
                    continue
                try:
                    lane = lane or self._engine.open_lane()
                    answer = lane.call(call.packed)
                except WorkerDied as death:
                    self._break(str(death), call)
                except BaseException as error:  # no worker could be had: the machine, or an option, is at fault
                    self._break(f"no worker could be started: {error}", call, error)
                else:
                    _settle(call.future, answer)
                del call  # an idle lane keeps nobody's result alive
        finally:
            if lane is not None:
                lane.close()
            with self._lock:
                self._alive -= 1
                last = self._alive == 0
            if last:
                self._close_engine()

    def _next(self) -> _Call | None:
        with self._lock:
            while not self._waiting:
                if self._closing:
                    return None
                self._idle += 1
                self._changed.wait()
                # Off the idle ones it was taken by `put`, which woke it; who is woken for the end is counted no more.
            return self._waiting.popleft()

    def _break(self, how: str, call: _Call, cause: BaseException | None = None) -> None:
        with self._lock:
            self._broken = self._broken or how
            self._closing = True
            waiting = list(self._waiting)
            self._waiting.clear()
            if self._ends:
                self._lost += 1 + len(waiting)
            self._changed.notify_all()
        _fail(call.future, f"while it ran, {how}", cause)
        for each in waiting:
            if each.future.set_running_or_notify_cancel():
                _fail(each.future, f"before it could run, {how}", cause)

    def _close_engine(self) -> None:
        with self._lock:
            if self._engine_closed:
                return
            self._engine_closed = True
        self._engine.close()


def _settle(future: Future[object], answer: bytes) -> None:
    try:
        result = open_answer(answer)
    except BaseException as error:
        future.set_exception(error)
        del future  # the exception's traceback has this frame: no circle through it
    else:
        future.set_result(result)


def _fail(future: Future[object], how: str, cause: BaseException | None) -> None:
    error = BrokenExecutor(f"the call has no result: {how}")
    error.__cause__ = cause
    future.set_exception(error)


_pools: weakref.WeakSet[_Pool] = weakref.WeakSet()


def _finish_all() -> None:
    """What was submitted is done before the interpreter ends, as with the standard library's executors."""
    pools = list(_pools)
    for pool in pools:
        pool.finish()
    for pool in pools:
        pool.join()
        lost = pool.what_was_lost()
        if lost:
            say(f"{lost}; remedy: end the executor before the program, by `with` or shutdown()")


# The way that concurrent.futures itself takes: atexit comes too late, threads can't be started there any more. CPython
# 3.12.0 to 3.12.2 refuse them here as well (python/cpython#113964), so that workers which were not there yet never are.
threading._register_atexit(_finish_all)  # type: ignore[attr-defined]


class PoolExecutor(Executor):
    """An executor whose workers are outside of this process; `workers.executor` makes it.

    Functions, arguments, results and exceptions are copied by cloudpickle when the call is
    submitted, so lambdas and closures go along. ``submit`` raises ``RuntimeError`` after
    ``shutdown`` and ``BrokenExecutor`` after a worker's death.
    """

    def __init__(self, kind: str, engine: Engine, lanes: int) -> None:
        self.kind = kind
        self._lanes = lanes
        self._pool = _Pool(engine, lanes, f"underlay-{kind}")
        _pools.add(self._pool)
        weakref.finalize(self, self._pool.close).atexit = False  # forgotten: done when all that waits is done

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have ``fn(*args, **kwargs)`` called by a worker; what cannot be pickled is the future's exception."""
        self._pool.refuse()
        future: Future[_T] = Future()
        try:
            packed = pack_call(fn, args, kwargs)
        except NotPicklable as error:
            future.set_running_or_notify_cancel()
            future.set_exception(error)
            return future
        self._pool.put(_Call(cast("Future[object]", future), packed))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no call any more, and let the workers go when all is done."""
        self._pool.close(cancel_futures)
        if wait:
            self._pool.join()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind}, {self._lanes} at a time>"

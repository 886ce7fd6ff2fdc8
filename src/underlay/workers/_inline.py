"""The kind ``inline``: a call runs at once, in the thread that submits it.

For tests and for looking closely: tracebacks, debuggers and profilers see the call where it was made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

from ._contract import Kind

__all__ = ["KIND", "InlineExecutor", "make", "require"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

KIND = Kind(
    "inline",
    runs_in="the thread that submits",
    parallel=False,
    crosses_machines=False,
    pickles=False,
    cancels_waiting=False,  # nothing waits
    sees_death=False,
)


class InlineExecutor(Executor):
    """An executor that is done when ``submit`` returns."""

    kind = "inline"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Call ``fn`` now; the future has its result, or its exception, already."""
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except KeyboardInterrupt:  # it is meant for this thread
            raise
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no call any more."""
        with self._lock:
            self._closed = True


def require() -> None:
    """Nothing can be missing."""


def make() -> InlineExecutor:
    """Make one; there is nothing to choose."""
    return InlineExecutor()

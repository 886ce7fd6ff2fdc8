"""Calls that a program hands to a pool of threads: made here and now, their result told when a thread had it.

This file knows ``ThreadPoolExecutor`` and anyio's workers. It refuses to know the loop's own ``run_in_executor``
(``_loop.py``), which does the same, and how a host's clock tells what a call took (`Host.thread`).

The call runs to its end at the moment it is handed over, so that it never runs beside other code; its outcome comes
after what two switches of threads cost and what it slept.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import _turn
from ._loop import Numbered
from ._stand_ins import replace, replace_method, when_imported

if TYPE_CHECKING:
    from ._host import Host


_real_wait, _real_as_completed = concurrent.futures.wait, concurrent.futures.as_completed


class ThreadFuture(Numbered, Future[Any]):
    """The future of a call that was made, and whose outcome is due at a time of the host's."""

    def __init__(self, due_s: float, result: object, error: BaseException | None) -> None:
        super().__init__()
        self.due_s = due_s
        self._outcome = result, error
        self.set_running_or_notify_cancel()

    def tell(self) -> None:
        """Now it is due."""
        if not self.done():
            result, error = self._outcome
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(result)

    def wait_in(self, host: Host | None, timeout: float | None) -> None:
        """Let the code of the host wait for it, as long as it may."""
        if self.done():
            return
        if host is not None:
            left_s = max(0.0, self.due_s - host.clock.time())
            if timeout is not None and timeout < left_s:
                host.take(timeout)
                return
            host.take(left_s)
        self.tell()

    def result(self, timeout: float | None = None) -> Any:
        """As ever; a host that waits is busy meanwhile."""
        self.wait_in(_turn.here(), timeout)
        return super().result(0 if timeout is not None else None)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As ever; a host that waits is busy meanwhile."""
        self.wait_in(_turn.here(), timeout)
        return super().exception(0 if timeout is not None else None)


def _submit(
    host: Host, original: object, pool: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future[Any]:
    if pool._shutdown:
        raise RuntimeError("cannot schedule new futures after shutdown")
    result: object = None
    failure: BaseException | None = None
    with host.busy.thread() as took_s:
        try:
            result = fn(*args, **kwargs)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            failure = error
    delay_s = host.thread_cost_s + took_s()
    future = ThreadFuture(host.clock.time() + delay_s, result, failure)
    host.loop.call_later(delay_s, future.tell)
    return future


def _wait_for(
    host: Host, fs: Iterable[Future[Any]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> Any:
    futures = list(fs)
    _wait_for_due(host, futures, timeout, return_when)
    return _real_wait(futures, None if timeout is None else 0, return_when)


def _as_completed(host: Host, fs: Iterable[Future[Any]], timeout: float | None = None) -> Iterator[Future[Any]]:
    futures = list(fs)
    _wait_for_due(host, futures, timeout, ALL_COMPLETED)
    return _real_as_completed(futures, None if timeout is None else 0)


def _wait_for_due(host: Host, futures: list[Future[Any]], timeout: float | None, return_when: str) -> None:
    end_s = None if timeout is None else host.clock.time() + timeout
    waited = [each for each in futures if isinstance(each, ThreadFuture)]
    for each in sorted(waited, key=lambda each: each.due_s):
        if return_when == FIRST_COMPLETED and any(each.done() for each in futures):
            return
        each.wait_in(host, None if end_s is None else max(0.0, end_s - host.clock.time()))
        if return_when == FIRST_EXCEPTION and each.done() and each.exception() is not None:
            return


def _register_anyio(module: ModuleType) -> None:
    """Its workers are threads of its own; Starlette, say, hands all that is no coroutine to them."""

    async def run_sync(host: Host, func: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        return await host.loop.run_in_executor(None, contextvars.copy_context().run, func, *args)

    def inside(host: Host, func: Callable[..., Any], /, *args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        return run_sync(host, func, *args, **options)

    replace(module.run_sync, inside)


replace_method(ThreadPoolExecutor, "submit", _submit)
replace(_real_wait, _wait_for)
replace(_real_as_completed, _as_completed)
when_imported("anyio.to_thread", _register_anyio)

"""A call that waits for other processes, awaited: a thread for each, which ends when the task is cancelled.

This file knows threads and cancellation. It refuses to know what is awaited.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final, TypeVar

Result = TypeVar("Result")
# How long a task that is cancelled waits for its thread.
SLICE_S: Final = 0.05


async def awaited(attempt: Callable[[float], Result | None], undo: Callable[[Result], object] | None = None) -> Result:
    """What ``attempt(timeout_s)`` gives in the end; None says that it must be called again.

    It is called here, without waiting, and then in a thread. If the task is cancelled, the thread has ended when this
    raises, and what it got meanwhile is undone.
    """
    first = attempt(0)
    if first is not None:
        return first
    stopped = threading.Event()
    got: list[Result] = []
    failed: list[BaseException] = []
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def work() -> None:
        try:
            while not stopped.is_set():
                result = attempt(SLICE_S)
                if result is not None:
                    got.append(result)
                    return
        except BaseException as error:
            failed.append(error)
        finally:
            loop.call_soon_threadsafe(ended.set_result, None)

    thread = threading.Thread(target=work, name="underlay.ipc", daemon=True)
    thread.start()
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError as error:
            cancelled = error
            stopped.set()
    thread.join()
    if cancelled is not None:
        if got and undo is not None:
            undo(got[0])
        raise cancelled
    if failed:
        raise failed[0]
    return got[0]

"""A call in steps, which says what it waits for: a thread sleeps until then, or an event loop does other things.

This file knows the two ways to wait. It refuses to know what a call does between two waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, cast

from ._deadline import for_epoll_s, for_poll_ms


@dataclass(frozen=True, slots=True)
class Wait:
    """Until one of these descriptors can be read, or written, or so much time is over; it may end early."""

    left_s: float
    readable: tuple[int, ...] = ()
    writable: tuple[int, ...] = ()


Result = TypeVar("Result")
Steps: TypeAlias = Generator[Wait, frozenset[int], Result]
"""Is sent which of the descriptors are ready."""


def slept_through(steps: Steps[Result]) -> Result:
    """What a call gives in the end; this thread sleeps through its waits."""
    with contextlib.closing(steps):
        try:
            wait = next(steps)
            while True:
                wait = steps.send(_sleep(wait))
        except StopIteration as end:
            return cast(Result, end.value)


def _sleep(wait: Wait) -> frozenset[int]:
    if not wait.readable and not wait.writable:
        time.sleep(for_epoll_s(wait.left_s))
        return frozenset()
    poller = select.poll()
    for each in wait.readable:
        poller.register(each, select.POLLIN)
    for each in wait.writable:
        poller.register(each, select.POLLOUT)
    return frozenset(descriptor for descriptor, _ in poller.poll(for_poll_ms(wait.left_s)))


async def awaited_through(steps: Steps[Result]) -> Result:
    """What a call gives in the end; the event loop goes on through its waits. It ends where it is cancelled."""
    with contextlib.closing(steps):
        try:
            wait = next(steps)
            while True:
                wait = steps.send(await _news(wait))
        except StopIteration as end:
            return cast(Result, end.value)


async def _news(wait: Wait) -> frozenset[int]:
    loop = asyncio.get_running_loop()
    came = loop.create_future()
    ready: set[int] = set()

    def note(descriptor: int) -> None:
        ready.add(descriptor)
        if not came.done():
            came.set_result(None)

    try:
        for each in wait.readable:
            loop.add_reader(each, note, each)
        for each in wait.writable:
            loop.add_writer(each, note, each)
        await asyncio.wait({came}, timeout=for_epoll_s(wait.left_s))
    finally:
        for each in wait.readable:
            loop.remove_reader(each)
        for each in wait.writable:
            loop.remove_writer(each)
    return frozenset(ready)

"""Event loops with one fault each, to show that the contract notices it.

Each is the stock loop, spoilt. They know a little of its private parts, as faults do.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import select
import selectors
import threading
from typing import Any


class LeaksADescriptor(asyncio.SelectorEventLoop):
    """Opens a descriptor that nobody closes."""

    def __init__(self) -> None:
        super().__init__()
        self.leaked = os.open(os.devnull, os.O_RDONLY)


class LeavesAThread(asyncio.SelectorEventLoop):
    """Starts a thread that does not end with the loop."""

    def __init__(self) -> None:
        super().__init__()
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class SleepsOnThroughThreads(asyncio.SelectorEventLoop):
    """Takes callbacks from other threads without waking up for them."""

    def _write_to_self(self) -> None:
        pass


class ForgetsContexts(asyncio.SelectorEventLoop):
    """Watches descriptors in an empty context instead of the caller's."""

    def _add_reader(self, *args: Any) -> Any:
        return contextvars.Context().run(super()._add_reader, *args)  # type: ignore[misc]


class RunsTheLastCallFirst(asyncio.SelectorEventLoop):
    """Runs what was scheduled last before what was scheduled earlier."""

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        self._ready.rotate(1)  # type: ignore[attr-defined]
        return handle


class _Edges(selectors.EpollSelector):
    def register(self, fileobj: Any, events: Any, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        self._edge(key)
        return key

    def modify(self, fileobj: Any, events: Any, data: Any = None) -> selectors.SelectorKey:
        key = super().modify(fileobj, events, data)
        self._edge(key)
        return key

    def _edge(self, key: selectors.SelectorKey) -> None:
        wanted = select.EPOLLIN if key.events & selectors.EVENT_READ else 0
        wanted |= select.EPOLLOUT if key.events & selectors.EVENT_WRITE else 0
        self._selector.modify(key.fd, wanted | select.EPOLLET)  # type: ignore[attr-defined]


class NaivelyEdgeTriggered(asyncio.SelectorEventLoop):
    """Is told once per change, and reads once per telling, as asyncio does."""

    def __init__(self) -> None:
        super().__init__(_Edges())

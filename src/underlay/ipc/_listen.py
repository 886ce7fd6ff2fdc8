"""A name that many processes open, with a channel for each.

This file knows who waits for visitors, in either face, and what becomes of those that came before anybody waited. It
refuses to know how a visitor gets its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Final

from ..errors import UsageError
from . import _door, _life
from ._channel import Channel, announced, channel_of
from ._contract import Terms
from ._deadline import deadline, for_poll_ms
from ._end import End
from ._errors import ChannelClosed
from ._kinds import Reception, make_ends, module_of, network_module_of
from ._meeting import Meeting
from ._not_awaited import NotAwaited


class _LocalReception:
    """Makes a channel for each visitor, and hands it one end."""

    address = None

    def __init__(self, terms: Terms, name: str, *, both_ways: bool, replace: bool) -> None:
        self._terms = terms
        self._both_ways = both_ways
        self._here: Channel | None = None
        self._meeting = Meeting(name, self._hand_out, many=True, replace=replace)

    def _hand_out(self) -> End:
        self._forget()
        here, there = make_ends(self._terms, self._both_ways)
        # It is said before the visitor has its end: should this process be killed then, it is known that it was.
        try:
            self._here = announced(channel_of(here, self._meeting.name))
        except BaseException:
            there.close()
            raise
        return there

    def _forget(self) -> None:
        if self._here is not None:  # a visitor had gone before it could be given the other end
            self._here.close()
            self._here = None

    def waits(self) -> tuple[int, ...]:
        return self._meeting.waits()

    def admit(self) -> Channel | None:
        there = self._meeting.answer()
        if there is None:
            self._forget()
            return None
        there.close()
        here, self._here = self._here, None
        return here

    def close(self) -> None:
        self._meeting.close()


class _NetworkReception:
    """Makes a channel of each connection."""

    def __init__(self, reception: Reception, name: str) -> None:
        self._reception = reception
        self._name = name
        self.address = reception.address
        self.waits = reception.waits
        self.close = reception.close

    def admit(self) -> Channel | None:
        end = self._reception.admit()
        if end is None:
            return None
        return announced(channel_of(end, self._name))


class Listener(NotAwaited):
    """A name, and the processes that open it; made by `listen`. ``for channel in listener`` accepts for ever.

    Visitors are let in by `accept` alone; who opens the name waits until then.
    """

    def __init__(self, terms: Terms, name: str, *, both_ways: bool, replace: bool = False) -> None:
        self.terms: Final = terms
        self.name: Final = name
        network = network_module_of(terms.kind)
        if network is None and not module_of(terms.kind).KIND.unrelated_processes:
            raise UsageError(f"the kind {terms.kind} cannot have a name", remedy="make both ends with ipc.pair()")
        self._reception = (
            _LocalReception(terms, name, both_ways=both_ways, replace=replace)
            if network is None
            else _NetworkReception(network.reception(terms, name, both_ways), name)
        )
        self._came: deque[Channel] = deque()
        self._closed = False
        self._wake: Callable[[], None] | None = None
        self.aio: Final = AsyncListener(self)
        """The same for asyncio: ``await listener.aio.accept()``, on any event loop."""
        _door.answers_here(self, self._let_in)
        _life.close_at_exit(self)

    @property
    def address(self) -> str | None:
        """Where it is in a network, as ``host:port``; with the port that was given to it where it was made with 0."""
        return self._reception.address

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def _let_in(self) -> None:
        while (channel := self._reception.admit()) is not None:
            self._came.append(channel)

    def _next(self) -> Channel | None:
        if self._closed:
            raise ChannelClosed(f"{self} is closed", remedy="it was closed here, by this process")
        try:
            self._let_in()
        except OSError:
            if not self._came:  # one that was let in before it is of use all the same
                raise
        return self._came.popleft() if self._came else None

    def accept(self, *, timeout_s: float | None = None) -> Channel:
        """A channel to the next process that opens the name; wait while there is none.

        Raises ``TimeoutError``; `ChannelClosed`.
        """
        deadline_s = None if timeout_s is None else deadline(timeout_s)
        while (channel := self._next()) is None:
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise TimeoutError(f"nobody opened {self} within {timeout_s:g} s")
            poller = select.poll()
            for descriptor in self._reception.waits():
                poller.register(descriptor, select.POLLIN)
            poller.poll(for_poll_ms(left_s))
        return channel

    async def _accept(self) -> Channel:
        while (channel := self._next()) is None:
            if self._wake is not None:
                raise UsageError(
                    f"another task accepts from {self} already",
                    remedy="let one task do it, and pass on by asyncio.Queue",
                )
            await self._news()
        return channel

    async def _news(self) -> None:
        loop = asyncio.get_running_loop()
        came: asyncio.Future[None] = loop.create_future()
        watched = self._reception.waits()

        def wake() -> None:
            # Whoever may close a descriptor has it no longer watched by then.
            if self._wake is wake:
                self._wake = None
                for each in watched:
                    loop.remove_reader(each)
                if not came.done():
                    came.set_result(None)

        self._wake = wake
        for descriptor in watched:
            loop.add_reader(descriptor, wake)
        try:
            await came
        finally:
            wake()

    def __iter__(self) -> Iterator[Channel]:
        while True:
            yield self.accept()

    def close(self) -> None:
        """Give the name back. Channels that were accepted stay; who was let in and not accepted finds it closed."""
        if self._closed:
            return
        self._closed = True
        if self._wake is not None:
            self._wake()
        _door.answers_no_more(self)
        with contextlib.ExitStack() as closing:
            while self._came:
                closing.callback(self._came.popleft().close)
            closing.callback(self._reception.close)

    def say_closed(self) -> None:
        """This process ends."""
        self.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return f"the {self.terms.kind} listener {self.name!r}"

    def __repr__(self) -> str:
        return f"<Listener {self.terms.kind} {self.name!r}{' closed' if self._closed else ''}>"


class AsyncListener:
    """A listener whose `accept` is awaited; ``async for channel in listener.aio`` accepts for ever."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    async def accept(self) -> Channel:
        """A channel to the next process that opens the name; wait while there is none. Raises `ChannelClosed`."""
        return await self._listener._accept()

    async def __aiter__(self) -> AsyncIterator[Channel]:
        while True:
            yield await self.accept()

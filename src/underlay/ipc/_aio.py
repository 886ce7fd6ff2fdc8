"""The asyncio face of an end: the same calls, awaited, on any event loop that can watch a descriptor.

This file knows futures, readers and writers of a loop. It refuses to know how a message is carried, and shares with the
synchronous face all that does not wait.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..errors import UsageError
from ._channel import SLICE_S
from ._contract import Incoming, Outgoing
from ._errors import EndOfMessages
from ._wakeup import drain

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ._channel import Channel
    from ._life import Life


class AsyncChannel:
    """An end whose `send` and `receive` are awaited; ``async for`` ends when the other side closes.

    A call that is cancelled has taken no message from the channel. One task at a time may send and one may receive;
    time-outs are asyncio's own.

    >>> import asyncio
    >>> from underlay import ipc
    >>> async def main():
    ...     receiver, sender = ipc.pair("pipe")
    ...     with receiver, sender:
    ...         async with asyncio.timeout(1):
    ...             await sender.aio.send(b"hello")
    ...             return await receiver.aio.receive()
    >>> asyncio.run(main())
    b'hello'
    """

    def __init__(self, channel: Channel, life: Life) -> None:
        self._channel = channel
        self._life = life
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[Outgoing | Incoming, asyncio.Future[None]] = {}
        self._watched: dict[Outgoing | Incoming, tuple[int, int]] = {}  # the descriptor and the event of poll(2)
        self._watched_life: set[int] = set()
        self._threads: ThreadPoolExecutor | None = None

    async def send(self, message: Buffer, *, priority: int = 0) -> None:
        """Send one message, whole; wait while there is no room. Raises as `Channel.send` does."""
        channel = self._channel
        outgoing, what = channel.begin_send(message)
        number = 0 if priority == 0 else channel.check_priority(priority)
        taken = channel.try_send(outgoing, what, number)
        while not taken or not channel.try_flush(outgoing):
            await self.wait_for(outgoing)
            channel.look_before_send()
            taken = taken or channel.try_send(outgoing, what, number)
        channel.count_sent(len(what))

    async def receive(self) -> bytes:
        """The next message; wait while there is none. Raises as `Channel.receive` does."""
        channel = self._channel
        incoming = channel.begin_receive()
        if incoming.hungry:
            incoming.hungry -= 1
        message = channel.try_receive(incoming)
        while message is None:
            over = channel.look()
            message = channel.try_receive(incoming)
            if message is None:
                if over:
                    raise channel.end()
                await self.wait_for(incoming)
        channel.count_received(len(message))
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield await self.receive()
        except EndOfMessages:
            return

    # --- waiting ---

    # What is watched stays watched until it reports to nobody: a reader that is put in and taken out for each message
    # costs two system calls a message.

    async def wait_for(self, way: Outgoing | Incoming) -> None:
        """Wait until the way or the other side's life has news."""
        loop = asyncio.get_running_loop()
        self._channel.count_wait(way)
        if way in self._waiting:
            verb = "receives" if isinstance(way, Incoming) else "sends"
            raise UsageError(
                f"another task {verb} on {self._channel} already",
                remedy="let one task do it, and pass on by asyncio.Queue",
            )
        if way.ready is None:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(2, thread_name_prefix="underlay.ipc")
            blocked = loop.run_in_executor(self._threads, way.block, SLICE_S)
            self._waiting[way] = blocked
            try:
                await blocked
            finally:
                del self._waiting[way]
            self._channel.check_open()
            return
        if loop is not self._loop:
            self.forget()
            self._loop = loop
        if self._watched.get(way) != way.ready:
            self._unwatch(way)
            self._watched[way] = descriptor, event = way.ready
            watch = loop.add_reader if event == select.POLLIN else loop.add_writer
            watch(descriptor, self._ready, way)
        for each in self._life.waits():
            if each not in self._watched_life:
                self._watched_life.add(each)
                loop.add_reader(each, self._other_side)
        future = self._waiting[way] = loop.create_future()
        try:
            await future
        finally:
            del self._waiting[way]
        self._channel.check_open()  # its descriptors may be somebody else's by now

    def _ready(self, way: Outgoing | Incoming) -> None:
        future = self._waiting.get(way)
        if future is None or future.done():
            self._unwatch(way)
        else:
            if way.is_rung and way.ready is not None:
                drain(way.ready[0])  # a loop watches levels
            future.set_result(None)

    def _other_side(self) -> None:
        self._life.look()
        if self._life.over is not None:
            self._unwatch_life(self._watched_life)
        for way, future in self._waiting.items():
            if way.ready is not None and not future.done():
                future.set_result(None)

    def _unwatch(self, way: Outgoing | Incoming) -> None:
        watched = self._watched.pop(way, None)
        if watched is not None and self._loop is not None and not self._loop.is_closed():
            descriptor, event = watched
            (self._loop.remove_reader if event == select.POLLIN else self._loop.remove_writer)(descriptor)

    def _unwatch_life(self, descriptors: Iterable[int]) -> None:
        for each in list(descriptors):
            self._watched_life.discard(each)
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(each)

    def before_close(self, pidfd: int) -> None:
        """A pidfd of the other side is about to be given back."""
        if pidfd in self._watched_life:
            self._unwatch_life([pidfd])

    def forget(self) -> None:
        """Watch nothing any more; whoever waits is woken."""
        for way in list(self._watched):
            self._unwatch(way)
        self._unwatch_life(self._watched_life)
        for way, future in self._waiting.items():
            if way.ready is not None and not future.done() and not future.get_loop().is_closed():
                future.set_result(None)
        if self._threads is not None:
            self._threads.shutdown()  # a slice of waiting at most; then nothing looks at what is to be closed
            self._threads = None

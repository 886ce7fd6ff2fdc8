"""Messages over a pair of asyncio's streams.

This file knows asyncio's streams. It refuses to know how messages are told apart: that is a `Framing`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Final

from ._errors import EndOfMessages

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from typing_extensions import Buffer

    from ._framing import Framing

# asyncio's StreamReader stops reading from its socket at twice its limit, which is 64 KiB unless told otherwise.
_READ_BYTES: Final = 131072


class FramedStream:
    """Sends and receives messages over a reader and a writer; made by `Framing.over`.

    It reads ahead: nobody else may read from the reader. A `receive` that is cancelled has lost nothing. ``async for``
    ends where the stream does.
    """

    def __init__(self, framing: Framing, reader: StreamReader, writer: StreamWriter) -> None:
        self._framing = framing
        self._decoder = framing.decoder()
        self._reader = reader
        self._writer = writer
        self._messages: deque[bytes] = deque()

    async def send(self, message: Buffer) -> None:
        """Write one message; wait while the other side does not read. Raises as `Framing.encode` and the writer do."""
        self._writer.write(self._framing.encode(message))
        await self._writer.drain()

    async def receive(self) -> bytes:
        """The next message.

        Raises `EndOfMessages` where the stream ends between messages, `TornMessage` within one, `MessageTooLong` and
        `NotFramed`.
        """
        while not self._messages:
            if self._decoder.fault is not None:
                raise self._decoder.fault
            data = await self._reader.read(_READ_BYTES)
            if not data:
                self._decoder.eof()
                raise EndOfMessages("the stream ended, and all its messages are received")
            self._messages += self._decoder.feed(data)
        return self._messages.popleft()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield await self.receive()
        except EndOfMessages:
            return

    async def aclose(self) -> None:
        """Close the writer; what was written goes out first."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            pass  # the other side did not wait for it

    async def __aenter__(self) -> FramedStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

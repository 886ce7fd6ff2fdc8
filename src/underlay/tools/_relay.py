"""Joins a connection to stdin and stdout, both ways at once, until both have ended.

This file knows back-pressure (nothing is read that the other end has not taken),
half-closes, and how long to wait for whom. It is plain asyncio: it refuses to
know which I/O model it runs on, and how the connection came about.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass

from ..errors import UnderlayError
from ._terminal import READ_BYTES, Input, Output

__all__ = ["Patience", "Traffic", "both", "echo", "join"]

# When the peer has ended and our input gives nothing for this long, we end too:
# the peer may have closed altogether, and TCP tells only one who sends. socat
# waits as long for its second channel (socat(1), -t).
_WAIT_FOR_INPUT_S = 0.5
# When our input has ended and the peer cannot be told so (TLS by asyncio and UDP
# have no half-close), this much silence counts as the end of its answer.
_WAIT_FOR_UNTOLD_PEER_S = 1.0


@dataclass(slots=True)
class Traffic:
    """Bytes moved so far."""

    sent_bytes: int = 0
    received_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.sent_bytes} B sent, {self.received_bytes} B received"


class Patience:
    """Ends a block of work when no byte has moved for too long.

    While both sides go on, ``timeout_s`` of silence raises an error; once one has
    ended, a silence of ``wait_s``, or of a default by case, ends the block. None
    stands for no limit. Time that we spend waiting for the reader of our stdout is
    no silence, and a peer that takes its time over our last bytes has not ended.
    """

    def __init__(self, peer: str, timeout_s: float | None, wait_s: float | None) -> None:
        self._peer = peer
        self._timeout_s = timeout_s
        self._wait_s = wait_s
        self._ending_s: float | None = None
        self._ends_well = False
        self._delivering = self._sending = 0
        self._alarm = asyncio.timeout(None)

    def moved(self) -> None:
        """A byte has moved: the silence begins anew."""
        limit_s = None if self._delivering else self._timeout_s
        ending_s = None if self._delivering or self._sending else self._ending_s
        self._ends_well = ending_s is not None and (limit_s is None or ending_s <= limit_s)
        if self._ends_well:
            limit_s = ending_s
        now = asyncio.get_running_loop().time()
        self._alarm.reschedule(None if limit_s is None else now + limit_s)

    def ended(self, default_s: float | None) -> None:
        """One side has ended: wait for the other for ``--wait``, or else for ``default_s``."""
        self._ending_s = default_s if self._wait_s is None else self._wait_s
        self.moved()

    @contextlib.contextmanager
    def delivering(self) -> Iterator[None]:
        """In this block we wait for whoever reads our stdout."""
        self._delivering += 1
        self.moved()
        try:
            yield
        finally:
            self._delivering -= 1
            self.moved()

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """In this block we wait for the peer to take what we send."""
        self._sending += 1
        self.moved()
        try:
            yield
        finally:
            self._sending -= 1
            self.moved()

    @contextlib.asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Run the block under this patience. Raises ``UnderlayError`` for a time-out."""
        try:
            async with self._alarm:
                self.moved()
                yield
        except TimeoutError:
            if not self._alarm.expired():
                raise  # the kernel's: the connection timed out
            if not self._ends_well:
                raise UnderlayError(
                    f"time-out: no byte moved between {self._peer} and us for {self._timeout_s:g} s;"
                    " the connection was still up, and we closed it"
                ) from None


async def join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    source: Input,
    sink: Output,
    patience: Patience,
    traffic: Traffic,
) -> None:
    """Copy ``source`` to the connection and the connection to ``sink`` until both have ended."""

    async def upward() -> None:
        while data := await source.read():
            writer.write(data)
            with patience.sending():
                await writer.drain()
            traffic.sent_bytes += len(data)
        if writer.can_write_eof():
            writer.write_eof()
            patience.ended(None)
        else:
            patience.ended(_WAIT_FOR_UNTOLD_PEER_S)

    async def downward() -> None:
        while data := await reader.read(READ_BYTES):
            traffic.received_bytes += len(data)
            with patience.delivering():
                await sink.write(data)
        # Nobody who types should have to press Enter once more to get away.
        patience.ended(0 if source.is_terminal else _WAIT_FOR_INPUT_S)

    async with patience.watch():
        await both(upward(), downward())


async def echo(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: Patience, traffic: Traffic
) -> None:
    """Send back all that comes, and then the end."""
    async with patience.watch():
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
            traffic.received_bytes += len(data)
            traffic.sent_bytes += len(data)
            patience.moved()
        if writer.can_write_eof():
            writer.write_eof()


async def both(*works: Coroutine[object, object, None]) -> None:
    """Wait for all; when one fails, cancel the others and raise what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

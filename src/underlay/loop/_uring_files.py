"""File operations that complete in the ring: when the kernel says that it has read, the buffer is full.

This file knows how a file operation becomes a submission and a future, and whose memory the kernel writes to
meanwhile.  It does not know positions or modes (`aio.py`).
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from . import _ring
from ._io_uring import DONE, KIND_BITS, RingPoller, UringLoop

_AT_FDCWD: Final = -100  # openat(2): a relative path begins at the working directory
_U64: Final = (1 << 64) - 1


class FileOperation:
    """One operation under way.

    What is under way cannot always be stopped, and the kernel writes to its memory until it completes.  So that
    memory is kept here, never the caller's own, and this is kept by the poller, whatever becomes of the caller.
    """

    def __init__(
        self, poller: RingPoller, loop: asyncio.AbstractEventLoop, memory: bytes | bytearray, opens: bool = False
    ) -> None:
        self.memory = memory
        self.future: asyncio.Future[int] = loop.create_future()
        self._poller = poller
        self._opens = opens
        self._id = poller.new_id()
        self.mark = self._id << KIND_BITS | DONE
        poller.operations[self._id] = self
        self.future.add_done_callback(self._cancel_if_unwanted)

    def _cancel_if_unwanted(self, future: asyncio.Future[int]) -> None:
        if future.cancelled() and self._id in self._poller.operations:
            self._poller.cancel(self.mark)

    def done(self, result: int) -> None:
        """Take the completion."""
        future = self.future
        if future.done() or future.get_loop().is_closed():
            if self._opens and result >= 0:
                os.close(result)
        elif result < 0:
            future.set_exception(OSError(-result, os.strerror(-result)))
        else:
            future.set_result(result)


class RingFiles:
    """Files by the ring of the running loop."""

    def __init__(self, loop: UringLoop) -> None:
        self._loop = loop
        self._poller = loop._ring_poller

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> RingFiles | None:
        """The files of `loop`, None where it isn't the uring loop."""
        return RingFiles(loop) if isinstance(loop, UringLoop) else None

    def _submit(
        self,
        opcode: int,
        fd: int,
        memory: bytes | bytearray = b"",
        *,
        nbytes: int = 0,
        flags: int = 0,
        offset: int = 0,
        opens: bool = False,
    ) -> FileOperation:
        self._poller.adopt()  # a child of fork(2) may come here before its loop has turned once
        operation = FileOperation(self._poller, self._loop, memory, opens)
        address = _ring.address_of(memory) if memory else 0
        self._poller.push(_ring.head(opcode, fd), offset & _U64, address, nbytes | flags << 32, operation.mark)
        return operation

    async def open(self, path: bytes, flags: int, permissions: int) -> int:
        """openat(2)"""
        operation = self._submit(_ring.OPENAT, _AT_FDCWD, path, nbytes=permissions, flags=flags, opens=True)
        return await operation.future

    async def read(self, fd: int, nbytes: int, offset: int) -> bytes:
        """pread(2), or read(2) where the offset is -1"""
        if not nbytes:
            return b""
        memory = bytearray(nbytes)
        operation = self._submit(_ring.READ, fd, memory, nbytes=nbytes, offset=offset)
        got = await operation.future
        return bytes(memoryview(memory)[:got])

    async def write(self, fd: int, data: bytes, offset: int) -> int:
        """pwrite(2), or write(2) where the offset is -1"""
        return await self._submit(_ring.WRITE, fd, data, nbytes=len(data), offset=offset).future

    async def sync(self, fd: int) -> None:
        """fsync(2)"""
        await self._submit(_ring.FSYNC, fd).future

    async def close(self, fd: int) -> None:
        """close(2)"""
        await self._submit(_ring.CLOSE, fd).future

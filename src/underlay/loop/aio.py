"""Files as awaitables: on the uring loop the kernel reads and writes them, elsewhere a thread of the executor does.

This file knows what a file is to a program: modes, a position, bytes.  It does not know the ring; the loop's
poller takes operations and says when they are done.

Readiness has nothing to say about files: to select, poll and epoll a file on a disk is always ready, and reading it
blocks all the same.  Only completion does: on the uring loop, when the ``await`` returns, the bytes are in the buffer.
"""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from collections.abc import Awaitable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

if sys.platform == "linux":
    from ._uring_files import RingFiles

if TYPE_CHECKING:
    from _typeshed import StrOrBytesPath

__all__ = ["File", "open"]

# As the built-in open(): the umask takes away from it.
_PERMISSIONS: Final = 0o666
# read() without a size reads so much at a time, what a pipe holds (pipe(7)), doubled up to...
_CHUNK_BYTES: Final = 65536
# ...this.
_CHUNK_AT_MOST_BYTES: Final = 1 << 20
# read(2) and write(2) move at most 0x7ffff000 bytes at once, whatever they are asked.
_LONGEST_BYTES: Final = 1 << 30
_HERE: Final = -1  # instead of an offset: where the kernel stands, for what has no positions

_FLAGS: Final = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}


class Files(Protocol):
    """What can be done with files; each raises OSError as the system call of its name."""

    async def open(self, path: bytes, flags: int, permissions: int, /) -> int: ...
    async def read(self, fd: int, nbytes: int, offset: int, /) -> bytes: ...
    async def write(self, fd: int, data: bytes, offset: int, /) -> int: ...
    async def sync(self, fd: int, /) -> None: ...
    async def close(self, fd: int, /) -> None: ...


class ExecutorFiles:
    """Files by blocking calls in the loop's default executor, as every loop but uring has to."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def open(self, path: bytes, flags: int, permissions: int) -> int:
        """Open a file; a caller who is cancelled meanwhile leaves no descriptor behind."""
        opening = self._loop.run_in_executor(None, os.open, path, flags, permissions)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise

    async def read(self, fd: int, nbytes: int, offset: int) -> bytes:
        """Read at `offset`, or where the descriptor stands."""
        if offset == _HERE:
            return await self._loop.run_in_executor(None, os.read, fd, nbytes)
        return await self._loop.run_in_executor(None, os.pread, fd, nbytes, offset)

    async def write(self, fd: int, data: bytes, offset: int) -> int:
        """Write at `offset`, or where the descriptor stands."""
        if offset == _HERE:
            return await self._loop.run_in_executor(None, os.write, fd, data)
        return await self._loop.run_in_executor(None, os.pwrite, fd, data, offset)

    async def sync(self, fd: int) -> None:
        """Have what was written reach the disk."""
        await self._loop.run_in_executor(None, os.fsync, fd)

    async def close(self, fd: int) -> None:
        """Close the descriptor."""
        await self._loop.run_in_executor(None, os.close, fd)


def _close_unwanted(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


def _files(loop: asyncio.AbstractEventLoop) -> Files:
    if sys.platform == "linux":
        by_ring = RingFiles.of(loop)
        if by_ring is not None:
            return by_ring
    return ExecutorFiles(loop)


class File:
    """An open file whose reads and writes are awaited; it belongs to the loop in which it was opened.

    Positions are counted in bytes from the start, and kept here: two reads under way at once would both
    read the same place, so await one before the next, as with any file.
    """

    _fd = -1  # __del__ looks at it

    def __init__(self, files: Files, fd: int, name: StrOrBytesPath, mode: str) -> None:
        self._files = files
        self._fd = fd
        self.name = name
        self.mode = mode
        self._position = 0
        self._appends = mode.startswith("a")
        try:
            os.lseek(fd, 0, os.SEEK_CUR)
            self._seekable = True
        except OSError:  # ESPIPE: a pipe, a terminal
            self._seekable = False

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._fd < 0

    def fileno(self) -> int:
        """The descriptor; ValueError once the file is closed."""
        if self._fd < 0:
            raise ValueError("I/O operation on closed file")
        return self._fd

    def _offset(self) -> int:
        return self._position if self._seekable else _HERE

    async def read(self, nbytes: int = -1) -> bytes:
        """Read up to `nbytes`, or to the end of the file; fewer only at the end, and none past it."""
        fd = self.fileno()
        if 0 <= nbytes <= _CHUNK_AT_MOST_BYTES:
            return await self._read_once(fd, nbytes)
        chunks: list[bytes] = []
        chunk_bytes = _CHUNK_BYTES
        left = nbytes if nbytes >= 0 else sys.maxsize
        while left:
            chunk = await self._read_once(fd, min(chunk_bytes, left))
            if not chunk:
                break
            chunks.append(chunk)
            left -= len(chunk)
            chunk_bytes = min(chunk_bytes * 2, _CHUNK_AT_MOST_BYTES)
        return b"".join(chunks)

    async def _read_once(self, fd: int, nbytes: int) -> bytes:
        data = await self._files.read(fd, nbytes, self._offset())
        self._position += len(data)
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of `data` and give its length in bytes."""
        fd = self.fileno()
        rest = bytes(data)
        nbytes = len(rest)
        while rest:
            offset = _HERE if self._appends else self._offset()
            written = await self._files.write(fd, rest[:_LONGEST_BYTES], offset)
            self._position += written
            rest = rest[written:]
        if self._appends and self._seekable:
            self._position = os.lseek(fd, 0, os.SEEK_CUR)  # another writer may have appended too
        return nbytes

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to another position and give it; the file is not touched, so nothing is awaited.

        Raises OSError (ESPIPE) for what has no positions.
        """
        fd = self.fileno()
        if whence == os.SEEK_CUR and self._seekable:
            offset, whence = self._position + offset, os.SEEK_SET
        self._position = os.lseek(fd, offset, whence)
        return self._position

    def tell(self) -> int:
        """The position, in bytes from the start."""
        self.fileno()
        return self._position

    async def sync(self) -> None:
        """Have what was written reach the disk (fsync(2))."""
        await self._files.sync(self.fileno())

    async def close(self) -> None:
        """Close the file; a second time does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            await self._files.close(fd)

    async def __aenter__(self) -> File:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> File:
        return self

    async def __anext__(self) -> bytes:
        """The next 64 KiB, so that ``async for`` goes through a file of any size."""
        chunk = await self.read(_CHUNK_BYTES)
        if not chunk:
            raise StopAsyncIteration
        return chunk

    def __del__(self) -> None:
        if self._fd >= 0:
            warnings.warn(f"unclosed file {self!r}", ResourceWarning, source=self, stacklevel=1)
            os.close(self._fd)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd={self._fd}"
        return f"<{type(self).__name__} {os.fspath(self.name)!r} {self.mode} {state}>"


class _Opening(Awaitable[File]):
    """What `open` gives: to be awaited, or entered with ``async with``."""

    def __init__(self, path: StrOrBytesPath, mode: str, flags: int, permissions: int) -> None:
        self._path, self._mode, self._flags, self._permissions = path, mode, flags, permissions
        self._file: File | None = None

    async def _open(self) -> File:
        files = _files(asyncio.get_running_loop())
        path = os.fsencode(self._path)
        if b"\0" in path:
            raise ValueError("embedded null byte")
        try:
            fd = await files.open(path, self._flags | os.O_CLOEXEC, self._permissions)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from None
        return File(files, fd, self._path, self._mode)

    def __await__(self) -> Generator[object, None, File]:
        return self._open().__await__()

    async def __aenter__(self) -> File:
        self._file = await self._open()
        return self._file

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            await self._file.close()


def open(path: StrOrBytesPath, mode: str = "rb", *, permissions: int = _PERMISSIONS) -> _Opening:
    """Open a file in one of the binary modes of the built-in ``open``: ``rb wb xb ab``, each also with ``+``.

    Await it, or enter it with ``async with``.  `permissions` are those of a file that is made, less the umask.
    Raises ValueError for a mode that isn't binary, OSError as open(2).

    >>> import tempfile
    >>> async def main(path: str) -> bytes:
    ...     async with open(path, "w+b") as file:
    ...         await file.write(b"to the disk")
    ...         file.seek(3)
    ...         return await file.read(3)
    >>> with tempfile.NamedTemporaryFile() as temporary:
    ...     asyncio.run(main(temporary.name))
    b'the'
    """
    kind, rest = mode[:1], set(mode[1:])
    if kind not in _FLAGS or "b" not in rest or not rest <= {"b", "+"} or len(mode) != 1 + len(rest):
        raise ValueError(f"mode {mode!r} is none of rb, wb, xb, ab and these with +; for text, decode the bytes")
    flags = _FLAGS[kind]
    if "+" in rest:
        flags = flags & ~os.O_WRONLY | os.O_RDWR
    return _Opening(path, mode, flags, permissions)

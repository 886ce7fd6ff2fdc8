"""An open file on a host's disk: Python's own buffers and texts over it, as ``open()`` builds them.

This file knows modes, flags, offsets and layers. It refuses to know what a crash keeps: that is `Disk`'s.
"""

from __future__ import annotations

import errno
import io
import os
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from ._disk import Disk, Inode


class DiskFile(io.RawIOBase):
    """The raw layer; it may outlive its process, and then takes what buffers still flush into it for nothing."""

    inode: Inode
    name: str
    mode: str

    def __init__(self, flags: int) -> None:
        super().__init__()
        self.flags = flags
        access = flags & os.O_ACCMODE
        self._reads = access in (os.O_RDONLY, os.O_RDWR)
        self._writes = access in (os.O_WRONLY, os.O_RDWR)
        self._appends = bool(flags & os.O_APPEND)
        self._is_synced = bool(flags & os.O_DSYNC)  # O_SYNC has its bit, too
        self._at = 0
        self._disk: Disk | None = None
        self._number = -1

    def attach(self, disk: Disk, inode: Inode, path: str, number: int) -> None:
        """Be open from now on."""
        self._disk, self.inode, self.name, self._number = disk, inode, path, number
        self.mode = {os.O_RDONLY: "rb", os.O_WRONLY: "wb"}.get(self.flags & os.O_ACCMODE, "rb+")
        if self._appends:
            self._at = len(inode.content)

    def die(self) -> None:
        """The process is gone."""
        self._disk = None

    def readable(self) -> bool:
        """Whether its mode lets it be read."""
        return self._reads

    def writable(self) -> bool:
        """Whether its mode lets it be written."""
        return self._writes

    def seekable(self) -> bool:
        """A file always is."""
        return True

    def fileno(self) -> int:
        """A number that `Disk.fsync` knows; the real kernel does not."""
        self._check()
        return self._number

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read at the offset."""
        self._check()
        if not self._reads:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self.inode.is_directory:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        with memoryview(buffer).cast("B") as view:
            data = self.inode.content[self._at : self._at + len(view)]
            view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def write(self, data: ReadableBuffer, /) -> int:
        """Write at the offset, or at the end."""
        self._check()
        copy = bytes(data)
        if self._disk is None:
            return len(copy)  # a buffer is flushed that a dead process left behind: its bytes were never written
        if not self._writes:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._appends:
            self._at = len(self.inode.content)
        if copy:
            self._disk.change(self.inode, self._at, copy)
            if self._is_synced:
                self._disk.fsync(self._number)
        self._at += len(copy)
        return len(copy)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move the offset."""
        self._check()
        start = {0: 0, 1: self._at, 2: len(self.inode.content)}.get(whence)
        if start is None or start + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = start + offset
        return self._at

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or stretch the file; to the offset, unless told otherwise."""
        self._check()
        if not self._writes:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        size = self._at if size is None else size
        if self._disk is not None:
            self._disk.change(self.inode, size, None)
        return size

    def sync(self) -> None:
        """Bring it to the disk."""
        self._check()
        if self._disk is not None:
            self._disk.fsync(self._number)

    def close(self) -> None:
        """Close it; nothing is brought to the disk by that."""
        if not self.closed and self._disk is not None:
            self._disk.forget(self._number)
        super().close()

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")


# Never a number of the real machine's (Linux: fs.nr_open is a million), nor of a host's socket.
FIRST_FILE: Final = 1 << 29

_FLAGS: Final = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}


def flags_of(mode: str) -> int:
    """The flags of a mode such as "rb" or "a+", as open(2) has them; ValueError for one that is none."""
    base = [letter for letter in mode if letter in _FLAGS]
    if len(base) != 1 or len(set(mode)) != len(mode) or set(mode) - set("rwaxbt+") or {"b", "t"} <= set(mode):
        raise ValueError(f"invalid mode: {mode!r}")
    flags = _FLAGS[base[0]]
    return flags & ~os.O_ACCMODE | os.O_RDWR if "+" in mode else flags


def opened(
    raw: DiskFile, letters: str, buffering: int, encoding: str | None, errors: str | None, newline: str | None
) -> IO[Any]:
    """The layers over a raw file that ``open()`` would give."""
    binary = "b" in letters
    if binary and (encoding is not None or errors is not None or newline is not None):
        raise ValueError("binary mode doesn't take an encoding, errors or newline argument")
    if buffering == 0:
        if not binary:
            raise ValueError("can't have unbuffered text I/O")
        return raw  # type: ignore[return-value]
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    buffer: io.BufferedIOBase
    if raw.readable() and raw.writable():
        buffer = io.BufferedRandom(raw, size)
    elif raw.writable():
        buffer = io.BufferedWriter(raw, size)
    else:
        buffer = io.BufferedReader(raw, size)
    if binary:
        return buffer
    text = io.TextIOWrapper(buffer, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
    text.mode = letters  # type: ignore[misc]
    return text

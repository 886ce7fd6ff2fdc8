"""The disk of one host: a small POSIX file system, and what is left of it after the power failed.

This file knows names, contents, and which of them a crash may take. It refuses to know which program writes, and when
a crash comes.

**What a crash takes** (write(2), fsync(2), rename(2)). What was written lies in memory until ``fsync``, or until the
kernel wrote it of its own accord, `WRITEBACK_S` later. Of each write that does not, a crash keeps all, nothing, or
some of its sectors of `SECTOR_BYTES`, as the seed draws it; a hole before what was kept reads as zeros, and a file is
no longer than what was kept. Names (of creating, renaming, removing) go through a journal: a crash keeps the first
few of those that are not on the disk yet, none of them half. ``fsync`` of a directory, or of a file, writes the
journal, as ext4 does; with ``strict`` only that of a directory does, which is all that POSIX promises. The journal is
also written every `COMMIT_S`. A rename does not wait for the data of what it renames (ext4 often does, XFS does not):
so a file that was renamed before its ``fsync`` may be empty afterwards.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections import deque
from collections.abc import Callable, Iterator
from random import Random
from typing import IO, Any, Final, NamedTuple

from ._disk_file import FIRST_FILE, DiskFile, flags_of, opened

SECTOR_BYTES: Final = 512
"""What a disk writes whole or not at all."""
WRITEBACK_S: Final = 30.0
"""How old data become before the kernel writes them unasked (Linux: vm.dirty_expire_centisecs)."""
COMMIT_S: Final = 5.0
"""How old names become before the journal is written unasked (ext4: commit=5)."""
SIZE_BYTES: Final = 64 << 20
"""How much a disk holds, unless told otherwise; then ENOSPC."""
LIMIT_FILES: Final = 10_000
"""How many files and directories it holds; then ENOSPC."""
LIMIT_WRITES: Final = 4096
"""How many writes to one file wait for the disk; the oldest is then written, as by a kernel short of memory."""

ROOT: Final = "/"
# What a shell begins with: others may read, and not write.
_UMASK: Final = 0o022


class Write(NamedTuple):
    """Bytes that are not on the disk yet; no data: the file was cut to `offset`."""

    at_s: float
    offset: int
    data: bytes | None


class Inode:
    """A file's content, as programs see it and as it is on the disk. A directory has none."""

    __slots__ = ("changed_s", "content", "is_directory", "number", "permissions", "stored", "waiting")

    def __init__(self, number: int, changed_s: float, permissions: int, *, is_directory: bool = False) -> None:
        self.number = number
        self.changed_s = changed_s
        self.permissions = permissions
        self.is_directory = is_directory
        self.content = bytearray()
        self.stored = bytearray()
        self.waiting: deque[Write] = deque()

    def change(self, write: Write) -> None:
        """Write, or cut, in memory."""
        _put(self.content, write.offset, write.data)
        self.waiting.append(write)
        if len(self.waiting) > LIMIT_WRITES:
            self.store(1)

    def store(self, writes: int) -> None:
        """Bring the oldest so many to the disk."""
        for _ in range(writes):
            write = self.waiting.popleft()
            _put(self.stored, write.offset, write.data)

    def crash(self, rng: Random, now: float) -> None:
        """Keep what the disk has, and what the seed says of the rest."""
        self.store(sum(1 for write in self.waiting if now - write.at_s >= WRITEBACK_S))
        for write in self.waiting:
            fate = rng.random()
            if fate < 1 / 3:
                continue
            if fate < 2 / 3 or write.data is None:
                _put(self.stored, write.offset, write.data)
                continue
            for offset, piece in _sectors(write.offset, write.data):
                if rng.random() < 0.5:
                    _put(self.stored, offset, piece)
        self.waiting.clear()
        self.content = bytearray(self.stored)


class Change(NamedTuple):
    """A change of names: `path` is now `inode`, or nobody; and `source` is nobody any more."""

    at_s: float
    path: str
    inode: Inode | None
    source: str | None = None


class Disk:
    """Files of one host, by absolute paths; calls are named as in ``os``, and raise its errors.

    >>> disk = Disk(lambda: 0.0, lambda: Random(1))
    >>> with disk.open("/ledger", "w") as file:
    ...     _ = file.write("1 crown")
    ...     file.flush()
    ...     disk.fsync(file)
    >>> with disk.open("/ledger", "a") as file:
    ...     _ = file.write(", 2 crowns")
    >>> disk.crash()
    >>> disk.read_bytes("/ledger")
    b'1 crown'
    """

    def __init__(
        self,
        now: Callable[[], float],
        rng: Callable[[], Random],
        *,
        size_bytes: int = SIZE_BYTES,
        time_of_day: Callable[[], float] | None = None,
    ) -> None:
        self._now = now
        self.time_of_day = time_of_day or now
        self._rng = rng
        self.size_bytes = size_bytes
        self.limit_files = LIMIT_FILES
        self.strict = False
        self.crashes = 0
        self._inodes = 0
        self._names: dict[str, Inode] = {ROOT: self._new_inode(0o755, is_directory=True)}
        self._stored: dict[str, Inode] = dict(self._names)
        self._journal: deque[Change] = deque()
        self._files: dict[int, DiskFile] = {}
        self._next_number = FIRST_FILE
        self._used_bytes = 0

    # --- files ----------------------------------------------------------------------------------------------

    def open(
        self,
        path: str,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open a file as ``open()`` does. What its buffers hold is not even written: ``flush()``, then `fsync`."""
        raw = self.open_raw(path, flags_of(mode))
        return opened(raw, mode, buffering, encoding, errors, newline)

    def open_raw(self, path: str, flags: int, permissions: int = 0o666) -> DiskFile:
        """Open a file, or a directory for its `fsync`, as open(2) does."""
        raw = DiskFile(flags)
        path = self._path(path)
        inode = self._names.get(path)
        if inode is None:
            if not flags & os.O_CREAT:
                self._inode(path)  # raises what is amiss
            inode = self._create(path, self._new_inode(permissions & ~_UMASK))
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise _error(errno.EEXIST, path)
        elif inode.is_directory:
            if raw.writable() or flags & os.O_CREAT:
                raise _error(errno.EISDIR, path)
        elif flags & os.O_DIRECTORY:
            raise _error(errno.ENOTDIR, path)
        elif flags & os.O_TRUNC and inode.content:
            self.change(inode, 0, None)
        raw.attach(self, inode, path, self._next_number)
        self._files[self._next_number] = raw
        self._next_number += 1
        return raw

    def file(self, number: int) -> DiskFile:
        """The open file of that number; EBADF where there is none."""
        raw = self._files.get(number)
        if raw is None:
            raise _error(errno.EBADF)
        return raw

    def forget(self, number: int) -> None:
        """A file was closed."""
        self._files.pop(number, None)

    def change(self, inode: Inode, offset: int, data: bytes | None) -> None:
        """Write at an offset, or without data cut (or stretch) the file to it."""
        before = len(inode.content)
        after = offset if data is None else max(before, offset + len(data))
        if after > before and self._used_bytes + after - before > self.size_bytes:
            raise _error(errno.ENOSPC)
        self._used_bytes += after - before
        inode.changed_s = self.time_of_day()
        inode.change(Write(self._now(), offset, data))

    def fsync(self, file: IO[Any] | int | str) -> None:
        """Bring a file's data, and the journal, to the disk; a directory is named by its path. EBADF, ENOENT."""
        if isinstance(file, str):
            inode = self._inode(self._path(file))
        else:
            inode = self.file(file if isinstance(file, int) else file.fileno()).inode
        inode.store(len(inode.waiting))
        if inode.is_directory or not self.strict:
            self._commit(len(self._journal))

    def sync(self) -> None:
        """Bring everything to the disk."""
        self._commit(len(self._journal))
        for inode in self._names.values():
            inode.store(len(inode.waiting))

    def read_bytes(self, path: str) -> bytes:
        """A file's content, as programs see it."""
        inode = self._inode(self._path(path))
        if inode.is_directory:
            raise _error(errno.EISDIR, path)
        return bytes(inode.content)

    def truncate(self, path: str, size_bytes: int) -> None:
        """Cut or stretch a file."""
        inode = self._inode(self._path(path))
        if inode.is_directory:
            raise _error(errno.EISDIR, path)
        self.change(inode, size_bytes, None)

    # --- names ----------------------------------------------------------------------------------------------

    def rename(self, source: str, target: str) -> None:
        """Give a file another name, at once and as a whole; what had that name before is gone (rename(2))."""
        source, target = self._path(source), self._path(target)
        inode = self._inode(source)
        self._directory_of(target)
        there = self._names.get(target)
        if there is inode:
            return
        if inode.is_directory and (target + "/").startswith(source + "/"):
            raise _error(errno.EINVAL, target)
        if there is not None and there.is_directory != inode.is_directory:
            raise _error(errno.EISDIR if there.is_directory else errno.ENOTDIR, target)
        if there is not None and there.is_directory and any(self._below(target)):
            raise _error(errno.ENOTEMPTY, target)
        self._release(there)
        self._note(target, inode, source)

    replace = rename

    def unlink(self, path: str) -> None:
        """Remove a file's name; who has it open goes on with it."""
        path = self._path(path)
        inode = self._inode(path)
        if inode.is_directory:
            raise _error(errno.EISDIR, path)
        self._release(inode)
        self._note(path, None)

    remove = unlink

    def mkdir(self, path: str, permissions: int = 0o777) -> None:
        """Make a directory."""
        path = self._path(path)
        if path in self._names:
            raise _error(errno.EEXIST, path)
        self._create(path, self._new_inode(permissions & ~_UMASK, is_directory=True))

    def make_root(self, path: str) -> None:
        """Make a directory and those above it, which were always there."""
        for at in range(1, len(path)):
            if path[at] == "/":
                self.mkdir(path[:at])
        self.mkdir(path)
        self.sync()

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        path = self._path(path)
        if not self._inode(path).is_directory:
            raise _error(errno.ENOTDIR, path)
        if path == ROOT:
            raise _error(errno.EBUSY, path)
        if any(self._below(path)):
            raise _error(errno.ENOTEMPTY, path)
        self._note(path, None)

    def listdir(self, path: str = ROOT) -> list[str]:
        """The names in a directory, sorted, as no program may rely on and a repeated run must."""
        path = self._path(path)
        if not self._inode(path).is_directory:
            raise _error(errno.ENOTDIR, path)
        start = len(path.rstrip("/")) + 1
        return sorted(name[start:] for name in self._below(path) if "/" not in name[start:])

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""
        return self._path(path) in self._names

    def inode(self, path: str) -> Inode:
        """What has that name; ENOENT, ENOTDIR."""
        return self._inode(self._path(path))

    def getsize(self, path: str) -> int:
        """A file's bytes."""
        return len(self._inode(self._path(path)).content)

    # --- accidents ------------------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """What its files have in all."""
        return self._used_bytes

    def drop_files(self) -> None:
        """The program has died: what its files hold in buffers is lost, and what it wrote is the kernel's."""
        for file in self._files.values():
            file.die()
        self._files.clear()

    def crash(self) -> None:
        """The power has failed."""
        self.drop_files()
        self.crashes += 1
        rng, now = self._rng(), self._now()
        old = sum(1 for change in self._journal if now - change.at_s >= COMMIT_S)
        self._commit(old + int(rng.random() * (len(self._journal) - old + 1)))
        self._journal.clear()
        self._names = dict(self._stored)
        seen: dict[int, Inode] = {id(inode): inode for inode in self._names.values()}
        for inode in seen.values():
            inode.crash(rng, now)
        self._used_bytes = sum(len(inode.content) for inode in seen.values())

    # --- inside ---------------------------------------------------------------------------------------------

    def _path(self, path: str) -> str:
        path = os.fspath(path)
        if not path:
            raise _error(errno.ENOENT, path)
        return posixpath.normpath("/" + path.lstrip("/"))

    def _inode(self, path: str) -> Inode:
        inode = self._names.get(path)
        if inode is None:
            self._directory_of(path)  # which may be what is amiss
            raise _error(errno.ENOENT, path)
        return inode

    def _directory_of(self, path: str) -> None:
        parent = self._names.get(posixpath.dirname(path))
        if parent is None:
            raise _error(errno.ENOENT, path)
        if not parent.is_directory:
            raise _error(errno.ENOTDIR, path)

    def _new_inode(self, permissions: int, *, is_directory: bool = False) -> Inode:
        self._inodes += 1
        return Inode(self._inodes, self.time_of_day(), permissions, is_directory=is_directory)

    def _create(self, path: str, inode: Inode) -> Inode:
        self._directory_of(path)
        if len(self._names) >= self.limit_files:
            raise _error(errno.ENOSPC, path)
        self._note(path, inode)
        return inode

    def _below(self, path: str) -> Iterator[str]:
        prefix = path.rstrip("/") + "/"
        return (name for name in self._names if name.startswith(prefix) and name != path)

    def _release(self, inode: Inode | None) -> None:
        if inode is not None:
            self._used_bytes -= len(inode.content)

    def _note(self, path: str, inode: Inode | None, source: str | None = None) -> None:
        change = Change(self._now(), path, inode, source)
        _rename(self._names, change)
        self._journal.append(change)
        if len(self._journal) > LIMIT_WRITES:
            self._commit(1)

    def _commit(self, changes: int) -> None:
        for _ in range(changes):
            _rename(self._stored, self._journal.popleft())


def _rename(names: dict[str, Inode], change: Change) -> None:
    """Change names, those in a renamed directory too."""
    _, path, inode, source = change
    if source is not None:
        names.pop(source, None)
        for name in [each for each in names if each.startswith(source + "/")]:
            names[path + name[len(source) :]] = names.pop(name)
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode


def _put(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        data = b""
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _sectors(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    done = 0
    while done < len(data):
        size = SECTOR_BYTES - (offset + done) % SECTOR_BYTES
        yield offset + done, data[done : done + size]
        done += size


def _error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path) if path is not None else OSError(number, os.strerror(number))

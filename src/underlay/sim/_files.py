"""The files of a program on a host with a disk: ``open``, ``os`` and ``pathlib`` reach it below one directory.

This file knows which calls take a path or a descriptor, and which paths are on the disk. It refuses to know what the
disk keeps when the power fails (``_disk.py``).

Everywhere else, and on a host that was made without ``disk=``, files are the real machine's. Not carried: links (EPERM,
as on FAT), ``mmap``, ``os.dup``, and code in C that opens files itself, such as ``io.FileIO`` and that of ``ssl`` for
certificates. Of that, ``sqlite3`` is refused by file and line; to others the disk's directory is what the real machine
has there, and its descriptors are none (EBADF).
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
from collections.abc import Callable, Iterator
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from ..errors import UsageError
from ..loop._bridge import FIRST_NUMBER
from ._disk_file import FIRST_FILE, DiskFile, flags_of, opened
from ._refusals import refusal
from ._stand_ins import replace, when_imported

if TYPE_CHECKING:
    from ._disk import Disk, Inode
    from ._host import Host

# A device that is none of the real machine's, and the unit in which a disk counts what a file takes (stat(2)).
_DEVICE: Final = 1 << 40
_UNIT_BYTES: Final = 512
_BLOCK_BYTES: Final = 4096
# ext4's.
_NAME_BYTES: Final = 255


def error(number: int, *paths: object) -> OSError:
    """As the kernel says it."""
    return OSError(number, os.strerror(number), *paths)


def disk_at(directory: str | os.PathLike[str] | None) -> str | None:
    """The absolute path below which a host's files are on its disk. Raises ``UsageError`` for one that cannot be."""
    if directory is None:
        return None
    path = os.fspath(directory)
    if not path.startswith("/") or not os.path.normpath(path).strip("/"):
        raise UsageError(f"disk={path!r} cannot be", remedy='name a directory of its own, such as "/var/lib/db"')
    return "/" + os.path.normpath(path).strip("/")


def on_disk(host: Host, path: Any, dir_fd: Any = None) -> str | None:
    """The absolute path, where it is on the host's disk; None where it is the real machine's, or no path."""
    root = host.disk_at
    if root is None or not isinstance(path, str | bytes | os.PathLike):
        return None
    path = os.fsdecode(path)
    if not path:
        return None
    if not path.startswith("/"):
        if dir_fd is not None and not _is_ours(dir_fd):
            return None
        path = os.path.join(os.getcwd() if dir_fd is None else host.disk.file(dir_fd).name, path)
    path = os.path.normpath(path)
    return path if path == root or path.startswith(root + "/") else None


def _is_ours(number: object) -> bool:
    return type(number) is int and FIRST_FILE <= number < FIRST_NUMBER


# --- calls that take one path ----------------------------------------------------------------------------------------


def _by_path(
    original: Callable[..., Any], inside: Callable[..., Any], by_number: Callable[..., Any] | None = None
) -> None:
    """Let ``inside(disk, path, …)`` stand for a call whose first argument is a path that is on the disk.

    ``by_number(disk, number, …)`` where it is a descriptor of the disk's.
    """

    def call(host: Host, path: Any = ".", /, *args: Any, **words: Any) -> Any:
        if by_number is not None and _is_ours(path):
            return by_number(host.disk, path, *args, **words)
        at = on_disk(host, path, words.get("dir_fd"))
        if at is None:
            return original(path, *args, **words)
        words.pop("dir_fd", None)
        try:
            return inside(host.disk, at, *args, **words)
        except OSError as failure:
            if failure.filename is not None:
                failure.filename = path
            raise

    def named(host: Host, *args: Any, **words: Any) -> Any:
        return call(host, *((words.pop("path"),) if not args and "path" in words else args), **words)

    replace(original, named)


def _stat_of(disk: Disk, inode: Inode) -> os.stat_result:
    kind, size = (stat.S_IFDIR, _BLOCK_BYTES) if inode.is_directory else (stat.S_IFREG, len(inode.content))
    seconds, ns = inode.changed_s, round(inode.changed_s * 1e9)
    whole = int(seconds)
    units = -(-size // _UNIT_BYTES)
    return os.stat_result(
        (kind | inode.permissions, inode.number, _DEVICE, 1, os.getuid(), os.getgid(), size)
        + (whole,) * 3
        + (seconds,) * 3
        + (ns,) * 3
        + (_BLOCK_BYTES, units, 0)
    )  # fmt: skip


def _stat(disk: Disk, path: str, *, follow_symlinks: bool = True) -> os.stat_result:
    return _stat_of(disk, disk.inode(path))


def _fstat(disk: Disk, number: int, *, follow_symlinks: bool = True) -> os.stat_result:
    return _stat_of(disk, disk.file(number).inode)


def _access(disk: Disk, path: str, mode: int, **words: Any) -> bool:
    return disk.exists(path) and (not mode & os.X_OK or bool(disk.inode(path).is_directory))


def _chmod(disk: Disk, path: str, mode: int, **words: Any) -> None:
    disk.inode(path).permissions = stat.S_IMODE(mode)


def _fchmod(disk: Disk, number: int, mode: int, **words: Any) -> None:
    disk.file(number).inode.permissions = stat.S_IMODE(mode)


def _set_time(inode: Inode, times: tuple[float, float] | None, ns: tuple[int, int] | None, now_s: float) -> None:
    inode.changed_s = ns[1] / 1e9 if ns is not None else times[1] if times is not None else now_s


def _utime(disk: Disk, path: str, times: Any = None, *, ns: Any = None, follow_symlinks: bool = True) -> None:
    _set_time(disk.inode(path), times, ns, disk.time_of_day())


def _futime(disk: Disk, number: int, times: Any = None, *, ns: Any = None) -> None:
    _set_time(disk.file(number).inode, times, ns, disk.time_of_day())


def _statvfs(disk: Disk, path: str) -> os.statvfs_result:
    blocks = disk.size_bytes // _BLOCK_BYTES
    free = (disk.size_bytes - disk.used_bytes) // _BLOCK_BYTES
    files = disk.limit_files
    return os.statvfs_result(
        (_BLOCK_BYTES, _BLOCK_BYTES, blocks, free, free, files, files, files, 0, _NAME_BYTES)
    )  # fmt: skip


def _open_number(disk: Disk, path: str, flags: int, mode: int = 0o777) -> int:
    return disk.open_raw(path, flags, mode).fileno()


def _not_a_link(disk: Disk, path: str) -> str:
    disk.inode(path)
    raise error(errno.EINVAL, path)


def _no_links(disk: Disk, path: str, *args: object, **words: object) -> None:
    raise error(errno.EPERM, path)


def _no_attributes(disk: Disk, path: str, *args: object, **words: object) -> Any:
    disk.inode(path)
    raise error(errno.ENOTSUP, path)


class Entry:
    """What ``os.scandir`` gives, of a file on a host's disk."""

    def __init__(self, disk: Disk, name: str, path: str, at: str) -> None:
        self.name = name
        self.path = path
        self._status = _stat_of(disk, disk.inode(at))

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self._status.st_mode)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a file."""
        return stat.S_ISREG(self._status.st_mode)

    def is_symlink(self) -> bool:
        """Never: the disk has none."""
        return False

    def is_junction(self) -> bool:
        """Never: it is Windows that has them."""
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As ``os.stat`` of it, at the time of the scan."""
        return self._status

    def inode(self) -> int:
        """Its number."""
        return self._status.st_ino

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"


class _Scan:
    """An iterator over entries, and a context manager."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        return next(self._entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give no more."""
        self._entries = iter(())


def _scandir(host: Host, path: Any = ".", /) -> Any:
    if _is_ours(path):
        at, shown = host.disk.file(path).name, ""
    else:
        found = on_disk(host, path)
        if found is None:
            return _real_scandir(path)
        at, shown = found, os.fsdecode(path)
    try:
        names = host.disk.listdir(at)
    except OSError as failure:
        failure.filename = path
        raise
    return _Scan([Entry(host.disk, name, os.path.join(shown, name), os.path.join(at, name)) for name in names])


_real_scandir: Final = os.scandir
replace(os.scandir, lambda host, path=".": _scandir(host, path))
_by_path(os.stat, _stat, _fstat)
_by_path(os.lstat, _stat)
_by_path(os.access, _access)
_by_path(os.open, _open_number)
_by_path(os.mkdir, lambda disk, path, mode=0o777: disk.mkdir(path, mode))
_by_path(os.rmdir, lambda disk, path: disk.rmdir(path))
_by_path(os.unlink, lambda disk, path: disk.unlink(path))
_by_path(os.remove, lambda disk, path: disk.unlink(path))
_by_path(os.listdir, lambda disk, path: disk.listdir(path), lambda disk, number: disk.listdir(disk.file(number).name))
_by_path(
    os.truncate,
    lambda disk, path, length: disk.truncate(path, length),
    lambda disk, number, length: disk.file(number).truncate(length),
)
_by_path(os.chmod, _chmod, _fchmod)
_by_path(os.chown, lambda disk, path, uid, gid, **words: None, lambda disk, number, uid, gid: None)
_by_path(os.utime, _utime, _futime)
_by_path(os.statvfs, _statvfs, _statvfs)
_by_path(os.readlink, _not_a_link)
_by_path(os.mkfifo, _no_links)
_by_path(os.mknod, _no_links)
for _name in ("getxattr", "listxattr", "setxattr", "removexattr"):
    if hasattr(os, _name):
        _by_path(getattr(os, _name), _no_attributes, _no_attributes)


# --- calls that take two ---------------------------------------------------------------------------------------------


def _by_two(original: Callable[..., Any], inside: Callable[[Disk, str, str], None] | None) -> None:
    def call(
        host: Host, src: Any, dst: Any, *args: Any, src_dir_fd: Any = None, dst_dir_fd: Any = None, **words: Any
    ) -> Any:
        source, target = on_disk(host, src, src_dir_fd), on_disk(host, dst, dst_dir_fd)
        if source is None and target is None:
            if src_dir_fd is not None or dst_dir_fd is not None:
                words.update(src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            return original(src, dst, *args, **words)
        if inside is None:
            raise error(errno.EPERM, src, None, dst)
        if source is None or target is None:
            raise error(errno.EXDEV, src, None, dst)
        try:
            return inside(host.disk, source, target)
        except OSError as failure:
            raise error(failure.errno or errno.EIO, src, None, dst) from None

    replace(original, call)


_by_two(os.rename, lambda disk, source, target: disk.rename(source, target))
_by_two(os.replace, lambda disk, source, target: disk.rename(source, target))
_by_two(os.link, None)


def _symlink(host: Host, src: Any, dst: Any, target_is_directory: bool = False, *, dir_fd: Any = None) -> None:
    if on_disk(host, dst, dir_fd) is not None:
        raise error(errno.EPERM, src, None, dst)
    _real_symlink(src, dst, target_is_directory, dir_fd=dir_fd)


_real_symlink: Final = os.symlink
replace(os.symlink, _symlink)


def _chdir(host: Host, path: Any) -> None:
    if on_disk(host, path) is not None or _is_ours(path):
        raise refusal(
            f"the simulated host {host.name} was to work in {path!r}, and the process is of all hosts",
            "use absolute paths on its disk",
        )
    _real_chdir(path)


_real_chdir: Final = os.chdir
replace(os.chdir, _chdir)


# --- calls that take a descriptor ------------------------------------------------------------------------------------


def _by_number(original: Callable[..., Any], inside: Callable[..., Any]) -> None:
    """Let ``inside(file, …)`` stand for a call whose first argument is a descriptor of the disk's."""

    def call(host: Host, *args: Any, **words: Any) -> Any:
        if not args and "fd" not in words:
            return original(**words)
        number, *args = args or (words.pop("fd"),)  # type: ignore[assignment]
        if not isinstance(number, int):  # os.fsync(file)
            number = number.fileno() if hasattr(number, "fileno") else number
        if not _is_ours(number):
            return original(number, *args, **words)
        return inside(host.disk.file(number), *args, **words)

    replace(original, call)


def _readv(file: DiskFile, buffers: Any) -> int:
    """Fill one after another, as far as the file goes."""
    done = 0
    for buffer in buffers:
        count = file.readinto(buffer)
        done += count
        if count < memoryview(buffer).nbytes:
            break
    return done


def _pread(file: DiskFile, length: int, offset: int) -> bytes:
    return bytes(file.inode.content[offset : offset + length])


def _pwrite(file: DiskFile, data: Any, offset: int) -> int:
    before = file.tell()
    try:
        file.seek(offset)
        return file.write(data)
    finally:
        file.seek(before)


def _allocate(file: DiskFile, offset: int, length: int) -> None:
    if offset + length > len(file.inode.content):
        file.truncate(offset + length)


def _sync(file: DiskFile) -> None:
    file.sync()


_by_number(os.read, lambda file, length: file.read(length))
_by_number(os.write, lambda file, data: file.write(data))
_by_number(os.writev, lambda file, buffers: file.write(b"".join(buffers)))
_by_number(os.readv, _readv)
_by_number(os.pread, _pread)
_by_number(os.pwrite, _pwrite)
_by_number(os.lseek, lambda file, offset, whence: file.seek(offset, whence))
_by_number(os.ftruncate, lambda file, length: file.truncate(length))
_by_number(os.close, lambda file: file.close())
_by_number(os.isatty, lambda file: False)
_by_number(os.fsync, _sync)
_by_number(os.fdatasync, _sync)
_by_number(os.fchmod, lambda file, mode: setattr(file.inode, "permissions", stat.S_IMODE(mode)))
_by_number(os.fchown, lambda file, uid, gid: None)
_by_number(os.get_inheritable, lambda file: False)
_by_number(os.set_inheritable, lambda file, inheritable: None)
if hasattr(os, "posix_fallocate"):
    _by_number(os.posix_fallocate, _allocate)
    _by_number(os.posix_fadvise, lambda file, offset, length, advice: None)
# A host runs one process at a time, and nobody else can have the lock.
_by_number(fcntl.flock, lambda file, operation: None)
_by_number(fcntl.lockf, lambda file, cmd, length=0, start=0, whence=0: None)


def _fstat_of(host: Host, fd: int) -> os.stat_result:
    return _fstat(host.disk, fd) if _is_ours(fd) else _real_fstat(fd)


_real_fstat: Final = os.fstat
replace(os.fstat, _fstat_of)


def _sync_all(host: Host) -> None:
    if host.disk_at is None:
        _real_sync()
    else:
        host.disk.sync()


_real_sync: Final = os.sync
replace(os.sync, _sync_all)


# --- open ------------------------------------------------------------------------------------------------------------


def _open(
    host: Host,
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[Any, int], int] | None = None,
) -> Any:
    at = None if _is_ours(file) else on_disk(host, file)
    if at is None and not _is_ours(file):
        return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    if at is None:
        if not closefd:
            raise refusal(
                f"a file was opened with closefd=False on the disk of the simulated host {host.name}",
                "open it by its path",
            )
        flags_of(mode)
        raw = host.disk.file(file)
    elif opener is not None:
        return _open(host, opener(file, flags_of(mode) | os.O_CLOEXEC), mode, buffering, encoding, errors, newline)
    else:
        try:
            raw = host.disk.open_raw(at, flags_of(mode))
        except OSError as failure:
            failure.filename = file
            raise
        if raw.inode.is_directory:
            raw.close()
            raise error(errno.EISDIR, file)
        raw.name = file
    return opened(raw, mode, buffering, encoding, errors, newline)


_real_open: Final = io.open
replace(io.open, _open)


# --- C code that opens files itself ----------------------------------------------------------------------------------


def _refuse_sqlite(module: ModuleType) -> None:
    real = module.connect

    def connect(host: Host, database: Any, *args: Any, **words: Any) -> Any:
        name = os.fsdecode(database) if isinstance(database, str | bytes | os.PathLike) else ""
        if on_disk(host, name.removeprefix("file:").partition("?")[0]) is not None:
            raise refusal(
                f"sqlite3 was to open {name!r} on the disk of the simulated host {host.name}, and opens files in C",
                'use ":memory:", or a directory of the real machine, which a crash does not touch',
            )
        return real(database, *args, **words)

    replace(real, connect)


when_imported("_sqlite3", _refuse_sqlite)

"""The page of a lock that has a name: a file in a folder of this user's, there while a process has it.

This file knows how such a page is found or made, who has it, and when it goes. It refuses to know what is in it.

A channel's name is a socket, whose process lets others in within its own calls. Who has a lock makes no calls: so here
the name is the memory itself, and no process has to be asked. Each that has it holds flock(2) on the file, shared,
which the kernel gives back at a death, and which a forked child goes on holding. Where nobody does, the page is as
good as gone: the last one to close removes it, and after the last one was killed, who comes next makes it anew.

The file is no memfd, and nobody can seal its size. Yet only this user can write in that folder, and who does so may as
well send SIGKILL as make it shorter.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..errors import UsageError
from . import _folder
from ._descriptors import access_of, path_of
from ._errors import NameTaken
from ._folder_lock import locked
from ._memory import PAGE_BYTES

# Beside the folder of channels' names: a lock and a channel may have the same.
_FOLDER: Final = "locks"
_MOST_CHARACTERS: Final = 255  # NAME_MAX: path_resolution(7)


@dataclass(frozen=True, slots=True)
class Taken:
    """A page under a name; ``left`` is what was in it where it is new and others had it before, who are all gone."""

    descriptor: int
    is_new: bool
    left: bytes


@contextlib.contextmanager
def taken(name: str) -> Iterator[Taken]:
    """The page of a name, found or made; whoever comes besides waits until it is filled.

    Raises ``UsageError`` for a name that cannot be, `NameTaken` where something else lies there, `FolderLocked`.
    """
    where = _folder.folder_beside(_FOLDER)
    _folder.check_name(name, "lock")
    if len(name) > _MOST_CHARACTERS:
        raise UsageError(f"the name {name[:80]!r}… is too long", remedy=f"take one of {_MOST_CHARACTERS} at most")
    path = os.path.join(where, name)
    with locked(where):
        found = _find(path)
        if not found.is_new:
            try:
                yield found
            except BaseException:
                os.close(found.descriptor)
                raise
            return
        # Who is killed before it is filled leaves a file that nobody has: it is made anew.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, PAGE_BYTES)  # or a full disk would kill whoever writes to it
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield Taken(descriptor, True, found.left)
        except BaseException:
            os.close(descriptor)
            os.unlink(path)
            raise


def _find(path: str) -> Taken:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return Taken(-1, True, b"")
    except OSError as error:
        raise _not_ours(path, f" ({error.strerror})") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_ours(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            check(descriptor)
            return Taken(descriptor, False, b"")
        left = os.pread(descriptor, PAGE_BYTES, 0)
        # Not the same file once more: a mapping of it, wherever one may be, stays what it is.
        os.unlink(path)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, ValueError):
            raise _not_ours(path, f" ({error})") from None
        raise
    os.close(descriptor)
    return Taken(-1, True, left)


def _not_ours(path: str, why: str = "") -> NameTaken:
    return NameTaken(f"{path} is nothing of ours{why}", remedy="move that file away")


def pages() -> list[tuple[str, bytes, bool]]:
    """The names there are, in their order, the page of each, and whether a process has it. Raises `FolderLocked`."""
    where = _folder.folder_beside(_FOLDER)
    found = []
    # With the lock nobody takes a page or gives it up: so a moment's lock on one is met by nobody.
    with locked(where):
        for name in sorted(os.listdir(where)):
            with contextlib.suppress(OSError, UsageError):  # what is none of ours, as a link, is no name
                _folder.check_name(name, "lock")
                descriptor = os.open(
                    os.path.join(where, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                )
                with open(descriptor, "rb") as file:
                    if stat.S_ISREG(os.fstat(descriptor).st_mode):
                        found.append((name, file.read(PAGE_BYTES), _is_had(descriptor)))
    return found


def _is_had(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def name_of(descriptor: int) -> str | None:
    """The name of a page, or None where it is none that has one."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    try:
        folder, name = os.path.split(path_of(descriptor))
    except OSError:  # without /proc, which locks that have no name can do without
        return None
    return name if os.path.basename(folder) == _FOLDER else None


def check(descriptor: int) -> None:
    """Raise ``ValueError`` where a descriptor is not that of a page with a name."""
    found = os.fstat(descriptor)
    if name_of(descriptor) is None or found.st_size != PAGE_BYTES or found.st_uid != os.geteuid():
        raise ValueError(f"descriptor {descriptor} is no page of a lock")
    if access_of(descriptor) != os.O_RDWR:
        raise ValueError(f"descriptor {descriptor} is a page of a lock that cannot be written")


def attach(descriptor: int) -> mmap.mmap:
    """The page in memory."""
    return mmap.mmap(descriptor, PAGE_BYTES)


def give_up(descriptor: int, *, keep: bool) -> None:
    """Let go of a page that is mapped here no more; the last one that has it removes it, unless it is to be kept.

    Where the folder is locked for too long, or no descriptor is left, the file stays, and is as good as gone.
    """
    path = path_of(descriptor)
    try:
        with contextlib.suppress(OSError), locked(os.path.dirname(path)):
            again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
            # A lock belongs to what was opened, and a forked child may have that, too. So ours goes first, and then it
            # is asked for as a stranger would.
            mine, descriptor = descriptor, -1
            try:
                os.close(mine)
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not keep and os.stat(path).st_ino == os.fstat(again).st_ino:
                    os.unlink(path)
            finally:
                os.close(again)
    finally:
        if descriptor >= 0:
            os.close(descriptor)

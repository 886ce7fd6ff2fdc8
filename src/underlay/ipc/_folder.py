"""The folder that names of channels are kept in: private, locked while a name is taken, and what is stale in it.

A name is a Unix socket there that a process listens on. This file knows who has a name, and whether that process
lives. It refuses to know what is said over the socket.

**Stale.** The kernel refuses a connection to a socket whose process is dead: so a name that a killed process left
behind is told from one in use. But a child that it forked may have the socket too, and then the process that listened
(SO_PEERCRED) is asked after. The file itself says who made it: the nanoseconds of its time are the process's number.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..errors import UnderlayError, UsageError
from ._errors import NameTaken, NoSuchName, StaleName, WrongOwner
from ._folder_lock import locked

# A hidden name is one that is being made; a slash or a colon would be a path or an address.
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
# sun_path has 108 bytes, one of them for the zero at its end (unix(7)).
_MOST_PATH_BYTES: Final = 107
# How many may knock at the same moment; who is refused tries again.
_BACKLOG: Final = 64
# Who sends, receives or closes does something else besides: it waits so long for the folder, and an event loop with it.
# That is a hundred times what the lock is had for.
_PATIENCE_AT_THE_DOOR_S: Final = 0.02
# What a persistent name begins with, and how much is read of it: it is a line of JSON.
_PERSISTENT: Final = "underlay.ipc 1\n"
_MOST_KEPT_CHARACTERS: Final = 4096
_PEERCRED: Final = struct.Struct("=iII")  # struct ucred (unix(7)): process, user, group


@dataclass(frozen=True, slots=True)
class KnownName:
    """A name that somebody made: by which process, and whether that lives; a persistent one has 0 for a process."""

    name: str
    process: int
    lives: bool


def credentials(connection: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end of a Unix socket, as the kernel knows them."""
    process, user, _ = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return process, user


def is_trusted(user: int) -> bool:
    """Whether a user may be at the other end: we, and root, who can do anything anyway."""
    return user in (os.geteuid(), 0)


def folder() -> str:
    """The path of the folder; it is made where it is missing.

    Raises `WrongOwner` where somebody else could put something there.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        _check(runtime, "set XDG_RUNTIME_DIR to a folder of your own with mode 700, or to nothing")
        parts = [os.path.join(runtime, "underlay"), os.path.join(runtime, "underlay", "ipc")]
    else:
        # Not TMPDIR: two programs that have to meet may have two.
        top = f"/tmp/underlay-{os.geteuid()}"
        parts = [top, os.path.join(top, "ipc")]
    for part in parts:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o700)
        _check(part, "remove it, or set XDG_RUNTIME_DIR to a folder of your own with mode 700")
    return parts[-1]


def folder_beside(name: str) -> str:
    """The path of a folder beside that of names, for what else is this user's alone; it is made where it is missing."""
    where = os.path.join(os.path.dirname(folder()), name)
    with contextlib.suppress(FileExistsError):
        os.mkdir(where, 0o700)
    return where


def _check(path: str, remedy: str) -> None:
    try:
        found = os.lstat(path)
    except OSError as error:
        raise UnderlayError(f"the folder for names, {path}, cannot be had: {error.strerror}", remedy=remedy) from None
    if not stat.S_ISDIR(found.st_mode):
        raise WrongOwner(f"{path}, which names are kept in, is no folder", remedy=remedy)
    if found.st_uid != os.geteuid():
        raise WrongOwner(
            f"{path}, which names are kept in, belongs to user {found.st_uid}, and this is user {os.geteuid()}",
            remedy=remedy,
        )
    if found.st_mode & 0o077:
        raise WrongOwner(
            f"{path}, which names are kept in, is open to others: its mode is {stat.S_IMODE(found.st_mode):o}",
            remedy=f"chmod 700 {path}",
        )


def check_name(name: object, of_what: str, or_else: str = "") -> None:
    """Raise ``UsageError`` for a name that cannot be."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{str(name)[:80]!r} cannot be the name of a {of_what}",
            remedy=f"take letters, digits, '-', '_' and '.', and begin with none of the last{or_else}",
        )


def path_of(name: str, where: str) -> str:
    """The path of a name. Raises ``UsageError`` for one that cannot be."""
    check_name(name, "channel", "; host:port for tcp")
    path = os.path.join(where, name)
    if (size := len(os.fsencode(path))) > _MOST_PATH_BYTES:
        raise UsageError(
            f"the name {name[:80]!r} is too long: {size} bytes with its folder, of {_MOST_PATH_BYTES} in a Unix socket",
            remedy=f"take one that is {size - _MOST_PATH_BYTES} shorter",
        )
    return path


def take(name: str, *, replace: bool = False) -> tuple[socket.socket, str]:
    """A socket that listens under this name, and its path. It does not wait.

    Raises `NameTaken` where another process has it, and `StaleName` where one that is dead left it, unless ``replace``.
    """
    where = folder()
    path = path_of(name, where)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        with locked(where):
            _check_free(name, path, replace=replace)
            sweep(where)
            # It gets its name when it listens, in one step: nobody finds it half made and thinks that it is stale.
            unfinished = os.path.join(where, f".{os.getpid()}")
            listening.bind(unfinished)
            os.chmod(unfinished, 0o600)
            listening.listen(_BACKLOG)
            whole_s = time.time_ns() // 10**9 * 10**9
            os.utime(unfinished, ns=(whole_s, whole_s + os.getpid()))
            os.rename(unfinished, path)  # over a stale one
        return listening, path
    except BaseException:
        listening.close()
        raise


def _check_free(name: str, path: str, *, replace: bool) -> None:
    known = _look(name, path)
    if known is None:
        return
    if known.lives:
        who = f"process {known.process} has" if known.process else "there is"
        raise NameTaken(
            f"{who} a channel {name!r} already",
            remedy="take another name, or end that process"
            if known.process
            else f"take another, or ipc.remove({name!r})",
        )
    if not replace:
        raise StaleName(
            f"process {known.process}, which is dead, left a channel {name!r} behind",
            remedy=f"take it with replace=True, or ipc.remove({name!r})",
        )


def keep(name: str, make: Callable[[], str], *, replace: bool) -> None:
    """Put a name there that stands for what outlives this process: ``make`` makes that, and says what it is.

    Raises as `take` does.
    """
    where = folder()
    path = path_of(name, where)
    with locked(where):
        _check_free(name, path, replace=replace)
        sweep(where)
        unfinished = os.path.join(where, f".{os.getpid()}")
        with open(unfinished, "x", opener=_private_opener) as file:
            file.write(_PERSISTENT + make())
        os.rename(unfinished, path)


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def is_persistent(path: str) -> bool:
    """Whether a name stands for what outlives all processes. Raises ``FileNotFoundError``."""
    return kept_under(path) is not None


def kept_under(path: str) -> str | None:
    """What a name stands for that was put there by `keep`, or None. Raises ``FileNotFoundError``."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return None
    with open(path, errors="replace") as file:
        said = file.read(_MOST_KEPT_CHARACTERS)
    return said.removeprefix(_PERSISTENT) if said.startswith(_PERSISTENT) else None


def sweep(where: str) -> None:
    """Remove what was left hidden by those who were killed while they made it: with the lock, nobody makes anything."""
    for entry in os.listdir(where):
        if entry.startswith("."):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(where, entry))


def give_away(path: str, inode: int, give: Callable[[], bool]) -> bool:
    """Free a name as somebody is given what it stands for; keep it where that fails.

    It goes first: a process that is killed when it has just given leaves no name behind, but a hidden one, which goes
    with the next name that is made. It waits for a moment only: raises `FolderLocked`.
    """
    where, _ = os.path.split(path)
    with locked(where, _PATIENCE_AT_THE_DOOR_S):
        if not _is(path, inode):
            return give()
        aside = os.path.join(where, f".{os.getpid()}")
        os.rename(path, aside)
        if give():
            os.unlink(aside)
            return True
        os.rename(aside, path)
        return False


def _is(path: str, inode: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(path).st_ino == inode
    return False


def let_go(path: str, inode: int) -> None:
    """Remove a name that is still listened under, unless it is another's by now."""
    with contextlib.suppress(FileNotFoundError):
        try:
            with locked(os.path.dirname(path), _PATIENCE_AT_THE_DOOR_S):
                _unlink(path, inode)
        except FileNotFoundError:
            raise
        except OSError:  # it is locked, or no descriptor is left for the lock
            # No program takes the name from who listens; the lock is for one whose file somebody removed by hand.
            _unlink(path, inode)


def _unlink(path: str, inode: int) -> None:
    if _is(path, inode):
        os.unlink(path)


def reach(path: str) -> socket.socket:
    """A connection to who has a name; it does not wait.

    Raises ``FileNotFoundError``, ``ConnectionRefusedError`` where that process is dead, ``BlockingIOError`` where too
    many knock; `WrongOwner`.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.connect(path)
        process, user = credentials(connection)
        if not is_trusted(user):
            raise WrongOwner(f"{path} is answered by process {process} of user {user}", remedy="remove that file")
        if not _lives(process):
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"process {process}, which listened, is dead")
        return connection
    except BaseException:
        connection.close()
        raise


def _lives(process: int) -> bool:
    try:
        pidfd = os.pidfd_open(process)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is in another namespace, and 0 here
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return not poller.poll(0)
    finally:
        os.close(pidfd)


def maker_of(path: str) -> int:
    """The process that made a name. Raises ``FileNotFoundError``."""
    return os.lstat(path).st_mtime_ns % 10**9


def _look(name: str, path: str) -> KnownName | None:
    try:
        made_by = maker_of(path)
        if is_persistent(path):
            return KnownName(name, 0, True)
        with reach(path) as connection:
            return KnownName(name, credentials(connection)[0], True)
    except FileNotFoundError:
        return None
    except ConnectionRefusedError:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise NameTaken(f"{path} is nothing of ours", remedy="move that file away") from None
        return KnownName(name, made_by, False)
    except BlockingIOError:
        return KnownName(name, made_by, True)


def names() -> list[KnownName]:
    """The names that are kept on this machine for this user, in order: who waits under them, and what is stale.

    A channel for two has its name until both are there; a listener's stays.
    """
    where = folder()
    found = []
    for entry in sorted(os.listdir(where)):
        if _NAME.fullmatch(entry) is not None:
            with contextlib.suppress(NameTaken, OSError):  # what is none of ours, as a link in a circle, is no name
                known = _look(entry, os.path.join(where, entry))
                if known is not None:
                    found.append(known)
    return found


def remove(name: str, give_back: Callable[[str], None]) -> None:
    """Remove a name that a process which is dead left behind, or a persistent one once ``give_back`` has done its part.

    Raises `NoSuchName`, and `NameTaken` where its process lives.
    """
    where = folder()
    path = path_of(name, where)
    with locked(where):
        known = _look(name, path)
        if known is None:
            raise NoSuchName(f"there is no channel {name!r} in {where}", remedy="see ipc.names()")
        kept = kept_under(path)
        if kept is not None:
            give_back(kept)
        elif known.lives:
            raise NameTaken(
                f"process {known.process}, which has the channel {name!r}, lives", remedy="close it there, or end it"
            )
        os.unlink(path)

"""Which processes hold which sockets: what /proc/PID/fd shows to this user (proc_pid_fd(5)).

This file knows descriptors and their links. It refuses to know what a socket is for.

Only root sees the descriptors of other users' processes. Those that were not seen are counted.
"""

from __future__ import annotations

import functools
import os
from typing import Final, NamedTuple

from ...errors import UnderlayError
from ._socket import Owner

__all__ = ["Owners", "describe", "find_owners", "user_name"]

# The link of a socket's descriptor is `socket:[INODE]`: fs/proc/fd.c, net/socket.c (sockfs_dname).
_LINK: Final = "socket:["
# A command line may have megabytes (execve(2), ARG_MAX); this much is shown.
_COMMAND_BYTES: Final = 4096


class Owners(NamedTuple):
    """Who holds what, and how much of that this user does not see."""

    by_inode: dict[int, tuple[Owner, ...]]
    hidden_processes: int
    """Processes whose descriptors this user may not see."""


def find_owners() -> Owners:
    """Look through the descriptors of every process.

    >>> import socket
    >>> with socket.socket() as sock:
    ...     [owner] = find_owners().by_inode[os.fstat(sock.fileno()).st_ino]
    >>> owner.pid == os.getpid()
    True
    """
    by_inode: dict[int, tuple[Owner, ...]] = {}
    hidden = 0
    readlink, new = os.readlink, tuple.__new__
    for entry in _processes():
        try:
            # Relative to the folder a link is found without walking the path again: a third less for many.
            folder = os.open(f"/proc/{entry}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            hidden += 1
            continue
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        try:
            pid = int(entry)
            process: tuple[str, str, int] | None = None
            for number in os.listdir(folder):
                try:
                    link = readlink(number, dir_fd=folder)
                except (FileNotFoundError, ProcessLookupError):
                    continue  # closed meanwhile
                if link[:8] != _LINK:
                    continue
                if process is None:
                    process = describe(entry)
                inode = int(link[8:-1])
                # What Owner(…) would make, without a frame of Python for each of ten thousand.
                owner = new(Owner, (pid, int(number), *process))
                held = by_inode.get(inode)
                by_inode[inode] = (owner,) if held is None else (*held, owner)
        except PermissionError:
            hidden += 1  # it may be opened and not be read: another user namespace, or a security module
        except (FileNotFoundError, ProcessLookupError):
            pass
        finally:
            os.close(folder)
    return Owners(by_inode, hidden)


def _processes() -> list[str]:
    try:
        found = [entry for entry in os.listdir("/proc") if entry.isdecimal()]
    except FileNotFoundError:
        found = []
    if not found:  # where it is mounted, it has this process at least
        raise UnderlayError(
            "nothing tells which process holds which socket: /proc is not mounted",
            remedy="--no-owners lists the sockets without them",
        )
    return found


def describe(pid: str) -> tuple[str, str, int]:
    """A process's name, its command line and its user."""
    name, command, uid = "", b"", -1
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            name = file.read().rstrip(b"\n").decode(errors="replace")
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read(_COMMAND_BYTES)
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        pass  # it ended meanwhile
    return name, command.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace"), uid


@functools.cache  # the database may be another machine's
def user_name(uid: int) -> str:
    """A user's name in the password database, or the number where it has none there.

    >>> user_name(0)
    'root'
    """
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

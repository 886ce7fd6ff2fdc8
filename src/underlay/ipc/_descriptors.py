"""What a descriptor is, as far as the kernel tells: whether that can be what somebody says it is.

This file knows pipes, sockets, eventfds and sealed memory. It refuses to know what channels are made of.

A number in a word can be a slip or a lie. Whoever takes it as it is reads from a stranger's socket, waits for ever in
what was to never wait, writes into a file that it maps, or is killed by SIGBUS in one that becomes shorter. So each
function here looks, changes nothing, and raises ``ValueError`` with what is wrong.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Sequence
from typing import Final

_MOST: Final = 2**31 - 1  # an int


def number_of(said: object) -> int:
    """The number of a descriptor, out of JSON."""
    if type(said) is not int or not 0 <= said <= _MOST:
        raise ValueError(f"{str(said)[:40]!r} is no descriptor's number")
    return said


def access_of(descriptor: int) -> int:
    """What it was opened for: O_RDONLY, O_WRONLY or O_RDWR. Raises ``OSError`` where there is none."""
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE


def path_of(descriptor: int) -> str:
    """Where a file lies, or lay until it was removed: proc_pid_fd(5). Raises ``OSError``, without /proc for one."""
    return os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")


def check_number(descriptors: Sequence[int], wanted: int) -> None:
    """So many descriptors are wanted."""
    if len(descriptors) != wanted:
        raise ValueError(f"a way has {len(descriptors)} descriptors where it is made of {wanted}")


def check_pipe(descriptor: int, writes: bool) -> None:
    """It is one end of a pipe or a FIFO, and never waits."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        raise _is_not(descriptor, "a pipe")
    if access_of(descriptor) != (os.O_WRONLY if writes else os.O_RDONLY):
        raise _is_not(descriptor, f"the end of a pipe that is {'written' if writes else 'read'}")
    check_never_waits(descriptor)


def check_socket(descriptor: int, families: Sequence[int], kind: int) -> None:
    """It is a socket of one of these families and of this kind."""
    fits = False
    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        waits = os.get_blocking(descriptor)
        found = socket.socket(fileno=descriptor)
        try:
            fits = found.family in families and found.type == kind
        finally:
            found.detach()
            os.set_blocking(descriptor, waits)  # where the program has a default time-out, a socket object changes it
    if not fits:
        names = " or ".join(socket.AddressFamily(family).name for family in families)
        raise _is_not(descriptor, f"a socket of {names} and {socket.SocketKind(kind).name}")


def check_eventfd(descriptor: int) -> None:
    """It is an eventfd, and never waits."""
    if _what(descriptor) != "anon_inode:[eventfd]":
        raise _is_not(descriptor, "an eventfd")
    check_never_waits(descriptor)


def check_memory(descriptor: int, size_bytes: int) -> None:
    """It is memory of this size, which nobody can make shorter."""
    seals = 0
    with contextlib.suppress(OSError):
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    if not seals & fcntl.F_SEAL_SHRINK:
        raise _is_not(descriptor, "shared memory whose size is sealed")
    if access_of(descriptor) != os.O_RDWR:
        raise _is_not(descriptor, "shared memory that can be written")
    if (found_bytes := os.fstat(descriptor).st_size) != size_bytes:
        raise ValueError(f"descriptor {descriptor} is memory of {found_bytes:,} bytes, and not of {size_bytes:,}")


def check_never_waits(descriptor: int) -> None:
    """Its calls never wait: O_NONBLOCK, which belongs to all who have it."""
    if os.get_blocking(descriptor):
        raise _is_not(descriptor, "one that never waits (O_NONBLOCK)")


def _what(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return "of unknown kind"


def _is_not(descriptor: int, wanted: str) -> ValueError:
    return ValueError(f"descriptor {descriptor} is {_what(descriptor)}, and not {wanted}")

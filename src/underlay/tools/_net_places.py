"""Which network namespace this is, and where another one of them is to be found.

This file knows the numbers by which the kernel tells network namespaces apart, and what may keep one alive: a process,
an open descriptor, a name under /run/netns. It refuses to know devices and records.

Device and inode of /proc/PID/ns/net (namespaces(7)) tell those apart that there are. The inode of one that ended is
given to the next that is made, so that since Linux 6.18 its id is asked for besides, which is never used twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Place", "here", "place"]

_NAMED: Final = Path("/run/netns")
"""Where ip-netns(8) keeps the names."""
# linux/nsfs.h: NS_GET_ID, _IOR(0xb7, 13, __u64). 0x2 is "read" on the machines with asm-generic/ioctl.h.
_GET_ID: Final = 0x2 << 30 | 8 << 16 | 0xB7 << 8 | 13
_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Place:
    """A network namespace that is not this one."""

    network: str
    """As ``here`` gives it."""
    name: str | None
    """What ip-netns(8) calls it."""
    process: int | None
    """A process that is in it."""

    def __str__(self) -> str:
        return self.name or f"net:[{_parts(self.network)[0].partition(':')[2]}]"

    @property
    def command(self) -> str:
        """What runs a command there, as words before it; nothing where no way is known."""
        if self.name is not None:
            return f"ip netns exec {self.name} "
        return f"nsenter --net=/proc/{self.process}/ns/net " if self.process is not None else ""


def here() -> str:
    """This thread's network namespace, as ``device:inode:id``; without the id before Linux 6.18."""
    file = Path("/proc/thread-self/ns/net")
    number, unique = _number(file), _id(file)
    return ":".join(filter(None, (number, unique)))


def place(network: str) -> Place | None:
    """Find a network namespace; None where it ended: nothing on this machine can be in it.

    A user sees only what is theirs, so that to anyone but root, also to root of a user namespace, none ends.
    """
    sees_all = _sees_all()
    name = None
    with contextlib.suppress(OSError):
        name = next((each.name for each in sorted(_NAMED.iterdir()) if _is(each, network)), None)
    hidden = held = False
    for pid in _numbers("/proc"):
        file = Path(f"/proc/{pid}/ns/net")
        if _is(file, network):
            return Place(network, name, pid)
        hidden |= not sees_all and _number(file) is None
        held = held or _holds(pid, network)
    return Place(network, name, None) if name is not None or held or hidden else None


def _holds(pid: int, network: str) -> bool:
    """Whether a thread of a process is in a network, or a descriptor of it keeps it."""
    if any(_is(Path(f"/proc/{pid}/task/{task}/ns/net"), network) for task in _numbers(f"/proc/{pid}/task")):
        return True
    return any(_is(Path(f"/proc/{pid}/fd/{fd}"), network) for fd in _numbers(f"/proc/{pid}/fd"))


def _sees_all() -> bool:
    """Whether this is root, and of no user namespace (user_namespaces(7): the first maps every id to itself)."""
    with open("/proc/self/uid_map") as file:
        return os.geteuid() == 0 and file.read().split() == ["0", "0", str(2**32 - 1)]


def _numbers(directory: str) -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from sorted(int(entry) for entry in os.listdir(directory) if entry.isdecimal())


def _is(file: Path, network: str) -> bool:
    """Whether a file is this network namespace, and not a later one that has its inode."""
    number, unique = _parts(network)
    # Only what is a namespace is opened: to open another file may do something.
    if _number(file) != number:
        return False
    found = _id(file) if unique else unique
    # Where it has no id to tell, the number has to do; but of a process that has ended meanwhile it tells nothing.
    return found == unique or (found is None and _number(file) == number)


def _parts(network: str) -> tuple[str, str]:
    """``device:inode``, and the id, empty where there is none."""
    device, _, rest = network.partition(":")
    inode, _, unique = rest.partition(":")
    return f"{device}:{inode}", unique


def _id(file: Path) -> str | None:
    """The id of a namespace; None where this kernel does not tell, and for one that ended or may not be opened."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return str(int.from_bytes(fcntl.ioctl(descriptor, _GET_ID, bytes(_ID_BYTES)), sys.byteorder))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _number(file: Path) -> str | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return f"{status.st_dev}:{status.st_ino}"

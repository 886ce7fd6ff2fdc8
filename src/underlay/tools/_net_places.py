"""Which network namespace this is, and where another one of them is to be found.

This file knows the number by which the kernel tells network namespaces apart, device and inode of /proc/PID/ns/net
(namespaces(7)), and what may keep one alive: a process, an open descriptor, a name under /run/netns. It refuses to know
devices and records.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Place", "here", "place"]

_NAMED: Final = Path("/run/netns")
"""Where ip-netns(8) keeps the names."""


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
        return self.name or f"net:[{self.network.partition(':')[2]}]"

    @property
    def command(self) -> str:
        """What runs a command there, as words before it; nothing where no way is known."""
        if self.name is not None:
            return f"ip netns exec {self.name} "
        return f"nsenter --net=/proc/{self.process}/ns/net " if self.process is not None else ""


def here() -> str:
    """This thread's network namespace, as ``device:inode``."""
    return _number(Path("/proc/thread-self/ns/net")) or ""


def place(network: str) -> Place | None:
    """Find a network namespace; None where it ended: nothing on this machine can be in it.

    A user sees only what is theirs, so that to anyone but root, also to root of a user namespace, none ends.
    """
    sees_all = _sees_all()
    name = None
    with contextlib.suppress(OSError):
        name = next((each.name for each in sorted(_NAMED.iterdir()) if _number(each) == network), None)
    hidden = held = False
    for pid in _numbers("/proc"):
        number = _number(Path(f"/proc/{pid}/ns/net"))
        if number == network:
            return Place(network, name, pid)
        hidden |= number is None and not sees_all
        held = held or _holds(pid, network)
    return Place(network, name, None) if name is not None or held or hidden else None


def _holds(pid: int, network: str) -> bool:
    """Whether a thread of a process is in a network, or a descriptor of it keeps it."""
    if any(_number(Path(f"/proc/{pid}/task/{task}/ns/net")) == network for task in _numbers(f"/proc/{pid}/task")):
        return True
    return any(_number(Path(f"/proc/{pid}/fd/{fd}")) == network for fd in _numbers(f"/proc/{pid}/fd"))


def _sees_all() -> bool:
    """Whether this is root, and of no user namespace (user_namespaces(7): the first maps every id to itself)."""
    with open("/proc/self/uid_map") as file:
        return os.geteuid() == 0 and file.read().split() == ["0", "0", str(2**32 - 1)]


def _numbers(directory: str) -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from sorted(int(entry) for entry in os.listdir(directory) if entry.isdecimal())


def _number(file: Path) -> str | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return f"{status.st_dev}:{status.st_ino}"

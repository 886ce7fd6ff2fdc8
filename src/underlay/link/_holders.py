"""Who uses a device or a network namespace: what the kernel tells in /proc of each process.

This file knows proc_pid_fdinfo(5), where a descriptor of /dev/net/tun tells the name of its device (``iff:``, tun.c
since Linux 3.18), and the numbers of namespaces (namespaces(7)). It refuses to know what is to be done about them.
Processes of other users are seen by root alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["Process", "cable_holders", "inhabitants"]

# /dev/net/tun is the misc device 200: Documentation/admin-guide/devices.txt.
_TUN: Final = os.makedev(10, 200)
_COMMAND_LETTERS: Final = 60


class Process(NamedTuple):
    """A process, and what it was started as."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})"


def cable_holders(name: str) -> list[Process]:
    """The processes that hold the cable of a TUN or TAP of this thread's network namespace."""
    here = _namespace("thread-self")
    named = [pid for pid in _pids() if name in _devices(pid)]
    # Two namespaces may have devices of one name. A process may also hold one of a namespace that it has left.
    return [_process(pid) for pid in [pid for pid in named if _namespace(pid) == here] or named]


def inhabitants() -> list[Process]:
    """The other processes in this thread's network namespace."""
    here = _namespace("thread-self")
    return [_process(pid) for pid in _pids() if pid != os.getpid() and _namespace(pid) == here]


def _pids() -> Iterator[int]:
    return (int(entry) for entry in sorted(os.listdir("/proc")) if entry.isdecimal())


def _namespace(process: int | str) -> int:
    """The number of its network namespace; -1 where it ended or is another user's."""
    try:
        return os.stat(f"/proc/{process}/ns/net").st_ino
    except OSError:
        return -1


def _devices(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{pid}/fd/{number}").st_rdev != _TUN:
                    continue
                with open(f"/proc/{pid}/fdinfo/{number}") as lines:
                    found |= {line.split()[1] for line in lines if line.startswith("iff:") and len(line.split()) == 2}
    return found


def _process(pid: int) -> Process:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).replace(b"\0", b" ").decode(errors="replace").split()
    except OSError:
        words = []
    command = " ".join(words)
    command = "".join(letter if letter.isprintable() else "?" for letter in command)
    if len(command) > _COMMAND_LETTERS:
        command = command[: _COMMAND_LETTERS - 1] + "…"
    return Process(pid, command or "ended")

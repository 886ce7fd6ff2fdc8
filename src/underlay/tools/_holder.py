"""Who holds a port of this machine, as /proc tells.

This file knows proc(5) and proc_net(5): /proc/net names each socket's inode, and
/proc/PID/fd the process that has it open. It refuses to know why anybody asks.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass

__all__ = ["Holder", "holder"]

# include/net/tcp_states.h; a bound UDP socket shows the state of a closed TCP one.
_TIME_WAIT, _UNCONNECTED_UDP, _LISTEN = 0x06, 0x07, 0x0A


@dataclass(frozen=True, slots=True)
class Holder:
    """What holds a port: a process that listens, or (``listens`` False) connections that are not over yet.

    ``pid`` is None where /proc does not show whose socket it is: another user's
    process, or one in another container.
    """

    listens: bool
    pid: int | None = None
    name: str = ""


def holder(port: int, *, udp: bool = False) -> Holder | None:
    """Find who holds a port, a listener before anybody else; None if nobody, or where there is no /proc.

    >>> import socket
    >>> with socket.create_server(("127.0.0.1", 0)) as server:
    ...     found = holder(server.getsockname()[1])
    >>> found.listens, found.pid == os.getpid()
    (True, True)
    """
    wanted = _UNCONNECTED_UDP if udp else _LISTEN
    held = None
    for state, inode in _sockets(port, "udp" if udp else "tcp"):
        if state == wanted:
            pid = _owner(inode)
            if pid is not None:
                return Holder(True, pid, _name(pid))
            held = Holder(True)
        elif held is None:
            held = Holder(False)
    return held


def _sockets(port: int, protocol: str) -> list[tuple[int, int]]:
    """State and inode of each socket bound to the port."""
    found = []
    for table in (protocol, protocol + "6"):
        try:
            with open(f"/proc/net/{table}") as lines:
                next(lines, None)  # the heading
                for line in lines:
                    fields = line.split()
                    if int(fields[1].rpartition(":")[2], 16) == port:
                        found.append((int(fields[3], 16), int(fields[9])))
        except OSError:
            continue
    return found


def _owner(inode: int) -> int | None:
    """The process that has the socket open, if we may see it."""
    link = f"socket:[{inode}]"
    for descriptor in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) == link:
                return int(descriptor.split("/")[2])
        except OSError:
            continue  # it ended, or is another user's
    return None


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""

"""What the kernel tells of a worker: its connections, its CPU time, its memory.

From /proc (proc(5)), so that it is true for any program on any event loop, and
costs the worker nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Usage", "connections", "usage"]

# States of a TCP socket in /proc/net/tcp: include/net/tcp_states.h. A listener is no connection.
_TCP_LISTEN = "0A"
# State of a Unix socket in /proc/net/unix that is connected: include/uapi/linux/net.h, SS_CONNECTED.
_UNIX_CONNECTED = "03"


@dataclass(frozen=True)
class Usage:
    """What a process has used."""

    cpu_s: float
    rss_bytes: int


def usage(pid: int) -> Usage | None:
    """The CPU time and the memory of a process; None where it is gone.

    >>> usage(os.getpid()).rss_bytes > 1_000_000
    True
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name, in parentheses, may hold spaces and parentheses; field 3 follows it.
            fields = file.read().rpartition(")")[2].split()
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])  # utime and stime, fields 14 and 15
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))


def connections(pids: Iterable[int], places: Iterable[object]) -> dict[int, int]:
    """Count, for each process, the open sockets that were accepted at one of ``places`` (as getsockname() tells them).

    A process that is gone has none. A connection that the process itself made from such a port counts as well.
    """
    accepted = _accepted_inodes(list(places))
    return {pid: sum(inode in accepted for inode in _socket_inodes(pid)) for pid in pids}


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue  # closed since it was listed
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass  # the process is gone
    return found


def _accepted_inodes(places: list[object]) -> set[str]:
    ports = {place[1] for place in places if isinstance(place, tuple)}
    paths = {os.fsdecode(place) for place in places if isinstance(place, (str, bytes))}
    found = set()
    if ports:
        for table in ("tcp", "tcp6"):
            for line in _lines(f"/proc/net/{table}"):
                local, state, inode = line[1], line[3], line[9]
                if state != _TCP_LISTEN and int(local.rpartition(":")[2], 16) in ports:
                    found.add(inode)
    if paths:
        for line in _lines("/proc/net/unix"):
            if len(line) > 7 and line[5] == _UNIX_CONNECTED and line[7] in paths:
                found.add(line[6])
    return found


def _lines(table: str) -> list[list[str]]:
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as file:
            return [line.split() for line in file.readlines()[1:]]
    except OSError:  # a kernel without IPv6 has no tcp6
        return []

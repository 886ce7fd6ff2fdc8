"""Model 3, multiplexing by select(2): three bit maps go in, three come back, on every call.

This file knows select's bit maps and their limit. It does not know who watches a descriptor or what they do
with it.

Cost: each turn copies and scans everything watched, ready or not, and a descriptor of 1024 or more doesn't
fit at all: FD_SETSIZE is compiled into the C library, and `ulimit -n` doesn't move it (select(2), "BUGS").
"""

from __future__ import annotations

import errno
import select
from typing import Final

from ._reactor import READ, WRITE, ReactorLoop

FD_SETSIZE: Final = 1024  # bits/typesizes.h of glibc, __FD_SETSIZE; the kernel itself knows no such limit


class SelectPoller:
    """Readiness from select(2), told again every turn for as long as it lasts."""

    def __init__(self) -> None:
        self._reading: set[int] = set()
        self._writing: set[int] = set()

    def add(self, fd: int, events: int) -> None:
        """Watch `fd`; ValueError for a descriptor that select's bit map has no place for."""
        if fd >= FD_SETSIZE:
            raise ValueError(
                f"select() can't watch descriptor {fd}: its bit map ends at {FD_SETSIZE - 1} (FD_SETSIZE); "
                "use the poll or epoll model, which have no such limit"
            )
        self.modify(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Watch `fd` for these events instead."""
        (self._reading.add if events & READ else self._reading.discard)(fd)
        (self._writing.add if events & WRITE else self._writing.discard)(fd)

    def remove(self, fd: int) -> None:
        """Forget `fd`, whether or not it is still open."""
        self._reading.discard(fd)
        self._writing.discard(fd)

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Wait for readiness; an error or hang-up shows as readable, writable or both."""
        try:
            reading, writing, _ = select.select(self._reading, self._writing, (), timeout_s)
        except OSError as exc:
            if exc.errno != errno.EBADF:
                raise
            self._forget_closed()
            return []
        if not writing:
            return [(fd, READ) for fd in reading]
        ready = dict.fromkeys(reading, READ)
        for fd in writing:
            ready[fd] = ready.get(fd, 0) | WRITE
        return list(ready.items())

    def close(self) -> None:
        """Nothing to close: select keeps no state in the kernel."""
        self._reading.clear()
        self._writing.clear()

    def _forget_closed(self) -> None:
        # One closed descriptor fails the whole call with EBADF.  epoll drops it by itself, poll flags it POLLNVAL;
        # here only asking one by one tells which it was.
        for fd in self._reading | self._writing:
            try:
                select.select((fd,), (), (), 0)
            except OSError:
                self.remove(fd)


class SelectLoop(ReactorLoop):
    """asyncio on select(2), for up to 1024 descriptors."""

    def __init__(self) -> None:
        super().__init__(SelectPoller())

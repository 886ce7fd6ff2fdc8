"""Whose turn it is: the host whose program runs at this moment, of the one world that runs.

This file knows a host's name only. It refuses to know what hangs on it: clock, chance and names ask here, from
within functions that a program calls (`_stand_ins`), and must not cost what they save.

A process runs one world at a time; ``thread`` is where, as other threads keep the real clock and real chance.
"""

from __future__ import annotations

import _thread
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._host import Host

# Set by a host before it runs its program and after, and read by each call of a clock.
host: Host | None = None
thread: int = 0

# Worlds of several threads run one after another: asyncio's numbers, and the names that are stood in for, are the
# process's. One within another (a test of worlds) is the same thread's.
_worlds: Final = _thread.RLock()


def here() -> Host | None:
    """The host whose program is calling; None outside of a world, and in another thread."""
    return host if host is not None and _thread.get_ident() == thread else None


@contextmanager
def of_a_world() -> Iterator[None]:
    """While a world runs: it has this thread, and it alone."""
    global thread, host
    with _worlds:
        outer = host, thread
        host, thread = None, _thread.get_ident()
        try:
            yield
        finally:
            host, thread = outer


@contextmanager
def of(one: Host | None) -> Iterator[None]:
    """While something runs that is `one`'s; of None, what the world itself does within a host's turn."""
    global host
    outer, host = host, one
    try:
        yield
    finally:
        host = outer

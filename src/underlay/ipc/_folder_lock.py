"""The lock of a folder of channels: had for a moment, waited for a while, and by whom it is kept if it takes longer.

This file knows flock(2) and /proc/locks. It refuses to know names.

**Why the wait is bounded.** Whoever has the lock needs it for some hundred microseconds. But a process that is stopped
meanwhile, by Ctrl-Z or a debugger, keeps it, and so does a child that another thread of it forked just then, should it
be killed: flock(2) would wait for ever, in every program of this user.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Final

from ._errors import FolderLocked
from ._processes import state_of

PATIENCE_S: Final = 2.0
"""A thousand times what it takes; on a machine that is out of memory or breath, some of that is needed."""
# Between two tries, at first and at most: the first is what it takes usually.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0002, 0.02
_LOCKS: Final = "/proc/locks"


@contextlib.contextmanager
def locked(path: str, patience_s: float | None = None) -> Iterator[None]:
    """While nobody else makes, takes or removes a name. The kernel lets go of it when the process dies.

    Raises `FolderLocked` where another process has it for longer than ``patience_s``, or `PATIENCE_S`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor, path, PATIENCE_S if patience_s is None else patience_s)
        try:
            yield
        finally:
            # Not by closing it alone: a child that another thread forked meanwhile would keep the lock with its copy.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: str, patience_s: float) -> None:
    until_s = time.monotonic() + patience_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise _locked_by(_holder(descriptor), path, patience_s)
        time.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _locked_by(holder: int, path: str, patience_s: float) -> FolderLocked:
    state = state_of(holder)
    if not holder:
        who, remedy = "another process", "try again; as root, lslocks shows it"
    elif state in ("T", "t"):  # stopped by a signal, or by who traces it
        who, remedy = f"process {holder}, which is stopped,", f"let it go on (kill -CONT {holder}), or end it"
    elif not state:
        who, remedy = f"a child of process {holder}, which is dead,", "end that child"
    else:
        who, remedy = f"process {holder}", "end it, or try again"
    return FolderLocked(
        f"{who} has kept {path}, a folder of channels, locked for more than {patience_s:g} s", remedy=remedy
    )


def _holder(descriptor: int) -> int:
    """The process that has the lock of a file, as proc_locks(5) says; 0 where it does not.

    A line is: number, FLOCK, ADVISORY, WRITE, process, major:minor:inode, 0, EOF; the device in base 16.
    """
    found = os.fstat(descriptor)
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with contextlib.suppress(OSError), open(_LOCKS) as locks:
        for line in locks:
            words = line.split()
            if len(words) == 8 and words[1] == "FLOCK" and words[5] == file and words[4].isdecimal():
                return int(words[4])
    return 0

"""An open file that is read as far as it goes: a pipe is waited for, a disk may refuse, and somebody may say stop.

This file knows descriptors. It refuses to know what is read.
"""

from __future__ import annotations

import io
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ...errors import UnderlayError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["PatientFile", "StoppedReading", "UnreadableError"]

# What is read at once; a pipe gives what there is.
_READ_BYTES: Final = 1 << 18


class UnreadableError(UnderlayError):
    """The file refused a read, as one on a disk that fails."""


class StoppedReading(Exception):
    """`PatientFile.stop` was said."""


class PatientFile(io.RawIOBase):
    """The file of a descriptor, which stays the caller's; `file` is to be read from.

    ``before`` is called each time that more may have to be waited for: at the other end of a pipe may be a running
    capture, and what has come by then is shown by then. A read raises `UnreadableError` where the kernel refuses it,
    and `StoppedReading` once `stop` was said, from a signal's handler for instance.
    """

    def __init__(self, fd: int, before: Callable[[], None]) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._fd = fd
        self._before = before
        # What is not ready is never waited for in read(2), which Python begins again after a signal: poll(2) is, too,
        # but then the handler has written to what it looks at.
        self._ready = select.poll()
        self._ready.register(fd, select.POLLIN)
        self._ready.register(self._wake, select.POLLIN)
        self.is_stopping = False
        self.file = io.BufferedReader(self, _READ_BYTES)

    def close(self) -> None:
        """Let go of what is of its own; a second time does nothing."""
        if not self.closed:
            os.close(self._wake)
        super().close()

    def readable(self) -> bool:
        """Whether it can be read: it can."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read what there is, as soon as there is something; 0 at the end."""
        self._before()
        while True:
            self._ready.poll()
            if self.is_stopping:
                raise StoppedReading
            try:
                return os.readv(self._fd, [buffer])
            except BlockingIOError:
                continue  # somebody else has read what there was
            except OSError as error:
                raise UnreadableError(os.strerror(error.errno or 0).lower()) from error

    def has_more(self) -> bool:
        """Whether there is more than was read, as far as that shows without waiting; it is to be asked at the end."""
        self._before = lambda: None  # which may be what broke
        if self._fd not in dict(self._ready.poll(0)):
            return True
        try:
            return bool(self.file.peek(1))
        except (UnreadableError, StoppedReading):
            return True

    def stop(self) -> None:
        """Let reads end."""
        self.is_stopping = True
        os.eventfd_write(self._wake, 1)

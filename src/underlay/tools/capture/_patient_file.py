"""An open file that is read as far as it goes: a pipe is waited for, a disk may refuse, and somebody may say stop.

This file knows descriptors. It refuses to know what is read.
"""

from __future__ import annotations

import io
import os
import select
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

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


class PatientFile:
    """The file of a descriptor, which stays the caller's; `file` is to be read from.

    ``before`` is called each time that more may have to be waited for: at the other end of a pipe may be a running
    capture, and what has come by then is shown by then. A read raises `UnreadableError` where the kernel refuses it,
    and `StoppedReading` once `stop` was said, from a signal's handler for instance.
    """

    def __init__(self, fd: int, before: Callable[[], None]) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._fd = fd
        self._before = before
        self.is_stopping = False
        # What is not ready is never waited for in read(2), which Python begins again after a signal: poll(2) is, too,
        # but then the handler has written to what it looks at.
        ready = select.poll()
        ready.register(fd, select.POLLIN)
        ready.register(self._wake, select.POLLIN)

        def read(buffer: WriteableBuffer) -> int:
            self._before()
            while True:
                ready.poll()
                if self.is_stopping:
                    raise StoppedReading
                try:
                    return os.readv(fd, [buffer])
                except BlockingIOError:
                    continue  # somebody else has read what there was
                except OSError as error:
                    raise UnreadableError(os.strerror(error.errno or 0).lower()) from error

        self.file = io.BufferedReader(_Raw(read), _READ_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._wake)

    def has_more(self) -> bool:
        """Whether there is more than was read, as far as that shows without waiting; it is to be asked at the end."""
        self._before = lambda: None  # which may be what broke
        if not select.select([self._fd], [], [], 0)[0]:
            return True
        try:
            return bool(self.file.peek(1))
        except (UnreadableError, StoppedReading):
            return True

    def stop(self) -> None:
        """Let reads end."""
        self.is_stopping = True
        os.eventfd_write(self._wake, 1)


class _Raw(io.RawIOBase):
    def __init__(self, read: Callable[[WriteableBuffer], int]) -> None:
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._read(buffer)

"""A futex(2): sleep while a word in shared memory has a value, and wake who sleeps on it.

This file knows the system call. It refuses to know what the word means.
"""

from __future__ import annotations

import ctypes
import errno
from typing import Final

from ._libc import X86_64, failure, function
from ._robust import Timespec

_SYS_FUTEX: Final = 202 if X86_64 else 98
_WAIT, _WAKE, _ALL = 0, 1, 0x7FFFFFFF
# futex(2): number, address, operation, value, time-out or NULL
_futex: Final = function(
    "syscall",
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_uint32,
    ctypes.POINTER(Timespec),
)


def sleep(address: int, value: int, timeout_s: float) -> None:
    """Sleep while the 32 bits there are ``value``, so long at most. It may end early."""
    time = Timespec(int(timeout_s), int(timeout_s % 1 * 1e9))
    if _futex(_SYS_FUTEX, address, _WAIT, value & 0xFFFFFFFF, time):
        error = failure("futex")
        if error.errno not in (errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT):
            raise error


def wake(address: int) -> None:
    """Wake all that sleep there."""
    if _futex(_SYS_FUTEX, address, _WAKE, _ALL, None) < 0:
        raise failure("futex")

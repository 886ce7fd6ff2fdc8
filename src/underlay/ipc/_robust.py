"""glibc's robust mutex between processes: whoever gets it after its holder died is told so.

This file knows pthread_mutex_t and its attributes. It refuses to know what the mutex guards, and whom to tell.

A process that dies inside has its list of held mutexes walked by the kernel (set_robust_list(2)), which marks each of
them and wakes one who waits. It may be locked and unlocked by threads of any process that has the memory mapped; one
that is not its holder cannot unlock it (PTHREAD_MUTEX_ERRORCHECK).
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import time
from typing import Final

from ._errors import Damaged
from ._libc import function

SIZE_BYTES: Final = 64
"""How much to set aside for one: sizeof(pthread_mutex_t) is 40 on x86-64, 48 on others; it is aligned to 8."""
# bits/pthreadtypes.h, pthread.h of glibc.
_ATTRIBUTE_BYTES: Final = 16
_PROCESS_SHARED, _ROBUST, _ERROR_CHECK = 1, 1, 2

_POINTER: Final = ctypes.c_void_p
_attr_init = function("pthread_mutexattr_init", ctypes.c_int, _POINTER)
_attr_destroy = function("pthread_mutexattr_destroy", ctypes.c_int, _POINTER)
_attr_set_shared = function("pthread_mutexattr_setpshared", ctypes.c_int, _POINTER, ctypes.c_int)
_attr_set_robust = function("pthread_mutexattr_setrobust", ctypes.c_int, _POINTER, ctypes.c_int)
_attr_set_type = function("pthread_mutexattr_settype", ctypes.c_int, _POINTER, ctypes.c_int)
_init = function("pthread_mutex_init", ctypes.c_int, _POINTER, _POINTER)
_try_lock = function("pthread_mutex_trylock", ctypes.c_int, _POINTER)
_unlock = function("pthread_mutex_unlock", ctypes.c_int, _POINTER)
_consistent = function("pthread_mutex_consistent", ctypes.c_int, _POINTER)


class Timespec(ctypes.Structure):
    """struct timespec of clock_gettime(2)."""

    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


# Since glibc 2.30, by the monotonic clock: a clock that is set does not lengthen the wait.
_clock_lock = function("pthread_mutex_clocklock", ctypes.c_int, _POINTER, ctypes.c_int, ctypes.POINTER(Timespec))
_lock = function("pthread_mutex_lock", ctypes.c_int, _POINTER)


class Got(enum.Enum):
    """What came of asking for the mutex."""

    LOCKED = "locked"
    HOLDER_DIED = "locked, and its last holder died inside"
    BUSY = "somebody else holds it"


def create(address: int) -> None:
    """Make a mutex in shared memory, once, before anybody else has that."""
    attributes = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
    _checked(_attr_init(attributes), "pthread_mutexattr_init")
    try:
        _checked(_attr_set_shared(attributes, _PROCESS_SHARED), "pthread_mutexattr_setpshared")
        _checked(_attr_set_robust(attributes, _ROBUST), "pthread_mutexattr_setrobust")
        _checked(_attr_set_type(attributes, _ERROR_CHECK), "pthread_mutexattr_settype")
        _checked(_init(address, attributes), "pthread_mutex_init")
    finally:
        _attr_destroy(attributes)


def lock(address: int, timeout_s: float | None = None) -> Got:
    """Get the mutex; wait so long for it, or for ever.

    Raises ``OSError``: EDEADLK where this thread has it, ENOTRECOVERABLE where one gave it back after a holder's death
    without `make_consistent`. Raises `Damaged` where there is no mutex any more.
    """
    if _word_at(address + _KIND_AT).value != _KIND:
        raise damaged("mutex")
    number = _try_lock(address)
    if number == errno.EBUSY and timeout_s != 0:
        if timeout_s is None:
            number = _lock(address)
        else:
            until_ns = time.monotonic_ns() + int(timeout_s * 1e9)
            until = Timespec(until_ns // 1_000_000_000, until_ns % 1_000_000_000)
            number = _clock_lock(address, time.CLOCK_MONOTONIC, ctypes.byref(until))
    if number == 0:
        return Got.LOCKED
    if number == errno.EOWNERDEAD:
        return Got.HOLDER_DIED
    if number in (errno.EBUSY, errno.ETIMEDOUT):
        return Got.BUSY
    if number == errno.EINVAL:
        raise damaged("mutex")
    raise OSError(number, f"pthread_mutex_lock: {os.strerror(number)}")


def unlock(address: int) -> None:
    """Give it back. Raises ``OSError``: EPERM where this thread does not have it."""
    number = _unlock(address)
    if number:
        raise OSError(number, f"pthread_mutex_unlock: {os.strerror(number)}")


def let_go(address: int) -> None:
    """Give it back where this thread has it after all: Ctrl-C may come when a call has just got it."""
    if _word_at(address + _KIND_AT).value == _KIND:
        _unlock(address)  # it refuses what this thread does not have


def make_consistent(address: int) -> None:
    """After a holder's death: what the mutex guards is in order again."""
    _checked(_consistent(address), "pthread_mutex_consistent")


def _checked(number: int, call: str) -> None:
    if number:
        raise OSError(number, f"{call}: {os.strerror(number)}")


def damaged(what: str) -> Damaged:
    """What is raised where the C library would find rubbish."""
    return Damaged(
        f"what was a {what} is none: another program wrote into the shared memory of it", remedy="make it anew"
    )


# Where pthread_mutex_t says of what kind it is: after four ints, where a pointer has 64 bits (bits/struct_mutex.h).
# What glibc does with a kind that another program wrote there, it does without a check: with one, it runs instructions
# that not every processor has, and the process is dead (SIGILL).
_KIND_AT: Final = 16
_word_at: Final = ctypes.c_int.from_address


def _kind_of_ours() -> int:
    own = ctypes.create_string_buffer(SIZE_BYTES)
    create(ctypes.addressof(own))
    return ctypes.c_int.from_buffer(own, _KIND_AT).value


_KIND: Final = _kind_of_ours()

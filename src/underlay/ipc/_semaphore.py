"""A number that processes take one from, and wait while it is zero: sem_overview(7).

This file knows sem_t. It refuses to know who has taken: a process that dies takes along what it had.
"""

from __future__ import annotations

import ctypes
import errno
import time
from types import TracebackType
from typing import Final

from ..errors import UsageError
from ._libc import failure, function
from ._robust import Timespec, damaged
from ._shared import Shared, slices
from ._threads import awaited

_POINTER: Final = ctypes.c_void_p
_init: Final = function("sem_init", ctypes.c_int, _POINTER, ctypes.c_int, ctypes.c_uint)  # sem_init(3)
_try_wait: Final = function("sem_trywait", ctypes.c_int, _POINTER)  # sem_wait(3)
# sem_clockwait(3), since glibc 2.30: by the monotonic clock, which nobody sets.
_clock_wait: Final = function("sem_clockwait", ctypes.c_int, _POINTER, ctypes.c_int, ctypes.POINTER(Timespec))
_post: Final = function("sem_post", ctypes.c_int, _POINTER)  # sem_post(3)
_get_value: Final = function("sem_getvalue", ctypes.c_int, _POINTER, ctypes.POINTER(ctypes.c_int))  # sem_getvalue(3)
# Where sem_t says that it is for several processes: after the value and who waits, where a pointer has 64 bits (struct
# new_sem, internaltypes.h of glibc). What another program wrote there goes to futex(2); glibc aborts if that complains.
_SHARED_AT: Final = 8
_BYTES: Final = 32  # sizeof(sem_t)
_MOST: Final = 0x7FFFFFFF  # SEM_VALUE_MAX: sem_init(3)


def _shared_of_ours() -> int:
    own = ctypes.create_string_buffer(_BYTES)
    if _init(own, 1, 0):
        raise failure("sem_init")
    return ctypes.c_int.from_buffer(own, _SHARED_AT).value


_word_at: Final = ctypes.c_int.from_address
_SHARED: Final = _shared_of_ours()


class Semaphore(Shared):
    """A count of what is free; `acquire` takes one and waits while there is none.

    Nobody knows who has one: what a process had that dies stays taken. Where this matters, take a `Mutex`. With a
    ``name`` it is the one that other processes of this user have by that name, and ``value`` is for a new one alone.
    Raises ``UsageError`` for a value below 0 or above SEM_VALUE_MAX, sem_init(3); for the name as `Mutex` does.

    >>> from underlay import ipc
    >>> semaphore = ipc.Semaphore(1)
    >>> semaphore.acquire(), semaphore.acquire(timeout_s=0)
    (True, False)
    >>> semaphore.release(); semaphore.value
    1
    >>> semaphore.close()
    """

    def __init__(self, value: int = 1, *, name: str | None = None) -> None:
        if not 0 <= value <= _MOST:
            raise UsageError(f"a semaphore cannot begin with {value}", remedy=f"it is from 0 to {_MOST:,}")
        self._first = value
        super().__init__(name=name)

    def _make(self) -> None:
        if _init(self._at, 1, self._first):
            raise failure("sem_init")

    @property
    def value(self) -> int:
        """How many are free at this moment."""
        self._check()
        value = ctypes.c_int()
        if _get_value(self._at, value):
            raise failure("sem_getvalue")
        return value.value

    def _check_whole(self) -> None:
        self._check()
        if _word_at(self._at + _SHARED_AT).value != _SHARED:
            raise damaged("semaphore")

    def acquire(self, *, timeout_s: float | None = None) -> bool:
        """Take one; wait while there is none. False when the time was over."""
        self._check_whole()
        if not _try_wait(self._at):
            return True
        for slice_s in slices(timeout_s):
            until_ns = time.monotonic_ns() + int(slice_s * 1e9)
            if not _clock_wait(
                self._at, time.CLOCK_MONOTONIC, Timespec(until_ns // 1_000_000_000, until_ns % 1_000_000_000)
            ):
                return True
            if (error := failure("sem_clockwait")).errno not in (errno.ETIMEDOUT, errno.EINTR):
                raise error
        return False

    def release(self, number: int = 1) -> None:
        """Give so many back, and wake as many. Raises ``OSError`` (EOVERFLOW) where it cannot count so far."""
        self._check_whole()
        for _ in range(number):
            if _post(self._at):
                raise failure("sem_post")

    def __enter__(self) -> Semaphore:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def aio(self) -> AsyncSemaphore:
        """The same for asyncio: ``async with semaphore.aio:``; `acquire` is awaited, and ``release()`` is not."""
        return AsyncSemaphore(self)


class AsyncSemaphore:
    """A semaphore for asyncio: `acquire` is awaited, `release` is an ordinary call. Time-outs are asyncio's own."""

    def __init__(self, semaphore: Semaphore) -> None:
        self._semaphore = semaphore

    async def acquire(self) -> bool:
        """Take one; wait while there is none. A call that is cancelled has taken none."""
        return await awaited(
            lambda timeout_s: self._semaphore.acquire(timeout_s=timeout_s) or None,
            lambda _: self._semaphore.release(),
        )

    def release(self, number: int = 1) -> None:
        """Give so many back."""
        self._semaphore.release(number)

    async def __aenter__(self) -> AsyncSemaphore:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

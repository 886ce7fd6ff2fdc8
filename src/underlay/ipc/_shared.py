"""What all synchronisation between processes has in common: a page of shared memory that travels as a descriptor.

This file knows the page, how it goes to another process, and that a wait is made of short sleeps. It refuses to know
what is awaited.

**No wait is longer than a slice** before it looks again. A process can be killed between being woken and taking what
it was woken for; then nobody wakes the next one. glibc's process-shared condition variables, barriers and read-write
locks hang for ever there, and so does a semaphore; so each of ours looks again by itself.
"""

from __future__ import annotations

import atexit
import json
import os
import time
import warnings
import weakref
from collections.abc import Iterator
from multiprocessing import context, reduction
from multiprocessing.util import Finalize, register_after_fork
from typing import Final, TypeVar

from ..errors import UsageError
from . import _futex, _memory
from ._deadline import deadline
from ._descriptors import check_memory, number_of
from ._errors import ChannelClosed
from ._handover import Duplicate, NotAlong, must_be_here

# Short enough that two of them and a busy machine stay below a second.
SLICE_S: Final = 0.2
# The page: the guard (pthread_mutex_t, 64 bytes), the word that sleepers watch, the state, the parties.
_SLEEP_AT: Final = 64
_STATE_AT: Final = 128
PARTIES_AT: Final = 256

_open_here: weakref.WeakSet[Shared] = weakref.WeakSet()
Self = TypeVar("Self", bound="Shared")


def slices(timeout_s: float | None) -> Iterator[float]:
    """The lengths of the sleeps that a wait is made of, until its time is over."""
    if timeout_s is None:
        while True:
            yield SLICE_S
    until_s = deadline(timeout_s)
    while (left_s := until_s - time.monotonic()) > 0:
        yield min(left_s, SLICE_S)


class Shared:
    """A page of memory that processes share, in this process."""

    def __init__(self, memory: int | None = None) -> None:
        made = memory is None
        self._descriptor = _memory.create("underlay.shared", _memory.PAGE_BYTES) if memory is None else memory
        self._map = _memory.attach(self._descriptor, _memory.PAGE_BYTES)
        self._at = _memory.address_of(self._map)
        self._words = memoryview(self._map).cast("Q")
        self._state = self._words[_STATE_AT // 8 : PARTIES_AT // 8]
        self._parties = self._words[PARTIES_AT // 8 :]
        self._watched = memoryview(self._map).cast("I")[_SLEEP_AT // 4 : _SLEEP_AT // 4 + 1]
        self._closed = False
        if made:
            self._make()
        _open_here.add(self)

    def _make(self) -> None:
        """Fill a new page of zeros."""

    def _leave(self) -> None:
        """This process will not use it any more."""

    # --- sleeping ---

    def _sleep(self, seen: int, slice_s: float) -> None:
        _futex.sleep(self._at + _SLEEP_AT, seen, slice_s)

    def _wake(self) -> None:
        # Two that count at once may count one; it is another number all the same for who saw the one before.
        self._watched[0] = (self._watched[0] + 1) & 0xFFFFFFFF
        _futex.wake(self._at + _SLEEP_AT)

    # --- how it goes to another process ---

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a process inherits that is to use it too: for ``pass_fds`` of `subprocess`."""
        self._check()
        return (self._descriptor,)

    def argument(self) -> str:
        """A word for the process that inherits `descriptors`, of which `inherit` makes the same there."""
        self._check()
        return json.dumps({"synchronisation": type(self).__name__, "memory": self._descriptor}, separators=(",", ":"))

    @classmethod
    def inherited(cls: type[Self], word: str) -> Self:
        """The one of a word that `argument` gave: see `inherit`."""
        try:
            said = json.loads(word)
            if said["synchronisation"] != cls.__name__:
                raise ValueError(f"it is of a {said['synchronisation']}")
            descriptor = number_of(said["memory"])
            must_be_here((descriptor,))
            check_memory(descriptor, _memory.PAGE_BYTES)
        except NotAlong:
            raise
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UsageError(
                f"{str(word)[:80]!r} names no {cls.__name__} ({error})",
                remedy=f"give what {cls.__name__}.argument() gave",
            ) from None
        os.set_inheritable(descriptor, False)
        return cls._rebuilt(descriptor)

    @classmethod
    def _rebuilt(cls: type[Self], descriptor: int) -> Self:
        made = cls.__new__(cls)
        Shared.__init__(made, descriptor)
        return made

    def __reduce__(self) -> tuple[object, ...]:
        if context.get_spawning_popen() is None:
            raise UsageError(
                f"{self} can only be pickled while multiprocessing starts the process that gets it",
                remedy="give it to Process(args=…); for other processes there is argument()",
            )
        return _rebuild, (type(self), reduction.DupFd(self._descriptor))

    # --- its end ---

    def close(self) -> None:
        """Let go of it in this process; the last process to do so, or to die, frees it."""
        if self._closed:
            return
        try:
            self._leave()
        finally:
            self._closed = True
            _open_here.discard(self)
            for view in (self._state, self._parties, self._watched, self._words):
                view.release()
            self._map.close()
            os.close(self._descriptor)

    @property
    def closed(self) -> bool:
        """Whether it was closed, in this process."""
        return self._closed

    def _check(self) -> None:
        if self._closed:
            raise ChannelClosed(f"{self} is closed", remedy="it was closed here, by this process")

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"{self} was never closed", ResourceWarning, source=self, stacklevel=1)
            self.close()

    def __str__(self) -> str:
        return f"the {type(self).__name__}"


def _rebuild(cls: type[Shared], descriptor: Duplicate) -> Shared:
    return cls._rebuilt(descriptor.detach())


def _exits() -> None:
    for each in list(_open_here):
        each._leave()


def _tell_at_exit(_: object = None) -> None:
    # Processes of multiprocessing leave by os._exit() and know only its own finalizers, of their own.
    Finalize(None, _exits, exitpriority=0)


_tell_at_exit()
register_after_fork(_open_here, _tell_at_exit)
atexit.register(_exits)

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
from . import _futex, _memory, _named
from ._deadline import deadline
from ._descriptors import check_memory, number_of
from ._errors import ChannelClosed
from ._handover import Duplicate, NotAlong, must_be_here
from ._not_awaited import NotAwaited
from ._parties import ROW_BYTES

# Short enough that two of them and a busy machine stay below a second.
SLICE_S: Final = 0.2
# The page: the guard (pthread_mutex_t, 64 bytes), the word that sleepers watch, of which class it is where it has a
# name, the state, the parties.
_SLEEP_AT: Final = 64
_TAG_AT: Final = 96
_STATE_AT: Final = 128
PARTIES_AT: Final = 256
MOST_PARTIES: Final = (_memory.PAGE_BYTES - PARTIES_AT) // ROW_BYTES
DAMAGED: Final = 0
"""The word of the state that says which process died inside, where that can leave something half done."""

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


class Shared(NotAwaited):
    """A page of memory that processes share, in this process."""

    name: str | None = None
    """What unrelated processes call it, where it has a name."""

    def __init__(self, *, name: str | None = None) -> None:
        if name is not None:
            with _named.taken(name) as page:
                self._open_named(page)
            return
        descriptor = _memory.create("underlay.shared", _memory.PAGE_BYTES)
        try:
            self._open(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._make()

    def _open_named(self, page: _named.Taken) -> None:
        self._open(page.descriptor)
        try:
            if page.is_new:
                self._make()
                if page.left[_TAG_AT:_STATE_AT] == self._tag():
                    with memoryview(page.left).cast("Q") as left:
                        died = self._died_inside(left[_STATE_AT // 8 : PARTIES_AT // 8], left[PARTIES_AT // 8 :])
                    if died:
                        self._state[DAMAGED] = died
                self._map[_TAG_AT:_STATE_AT] = self._tag()
            self._must_fit()
        except BaseException:
            self._unmap()
            raise

    def _open(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.name = _named.name_of(descriptor)
        self._map = _memory.attach(descriptor, _memory.PAGE_BYTES) if self.name is None else _named.attach(descriptor)
        self._at = _memory.address_of(self._map)
        self._words = memoryview(self._map).cast("Q")
        self._state = self._words[_STATE_AT // 8 : PARTIES_AT // 8]
        self._parties = self._words[PARTIES_AT // 8 :]
        self._watched = memoryview(self._map).cast("I")[_SLEEP_AT // 4 : _SLEEP_AT // 4 + 1]
        self._closed = False
        _open_here.add(self)

    def _make(self) -> None:
        """Fill a new page of zeros."""

    def _tag(self) -> bytes:
        return type(self).__name__.encode()[: _STATE_AT - _TAG_AT].ljust(_STATE_AT - _TAG_AT, b"\0")

    def _must_fit(self) -> None:
        """Raise ``UsageError`` where what others made under the name is not what is asked for here."""
        if self._map[_TAG_AT:_STATE_AT] != self._tag():
            other = class_of(self._map[:_STATE_AT])
            raise UsageError(
                f"what others have by the name {self.name!r} is a {other}, and no {type(self).__name__}",
                remedy="take another name",
            )

    def _died_inside(self, state: memoryview, parties: memoryview) -> int:
        """The process that died, or ended, and left half done what is guarded; 0 where none did."""
        return 0

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
            if _named.name_of(descriptor) is None:
                check_memory(descriptor, _memory.PAGE_BYTES)
            else:
                _named.check(descriptor)
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
        made._open(descriptor)
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
            # What nobody has put in order is told to who takes the name next.
            keep = bool(self._died_inside(self._state, self._parties))
            self._unmap()
            if self.name is None:
                os.close(self._descriptor)
            else:
                _named.give_up(self._descriptor, keep=keep)

    def _unmap(self) -> None:
        self._closed = True
        _open_here.discard(self)
        for view in (self._state, self._parties, self._watched, self._words):
            view.release()
        self._map.close()

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
        return f"the {type(self).__name__}" if self.name is None else f"the {type(self).__name__} {self.name!r}"


def class_of(page: bytes) -> str:
    """The name of the class that a page with a name says that it is of."""
    return page[_TAG_AT:_STATE_AT].rstrip(b"\0").decode("ascii", errors="replace")


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

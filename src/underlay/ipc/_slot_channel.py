"""Messages that are not copied: a slot lent to who writes it, and one borrowed by who reads it.

This file knows views of slots, when they begin and end, and who still has one. It refuses to know how slots go round:
that is `_slots`.

**Views that are kept.** When a view ends, its memory is somebody else's. A view that was made of it, or an array over
it, would then show another message. So a slot of which something is kept is withheld until that is gone, and the one
who kept it gets an error. Parts of a view share one managed buffer with it, whose references are counted here; all
else that uses a view is counted by the view, which then cannot be released.
"""

from __future__ import annotations

import gc
import sys
import time
from abc import abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ._deadline import Seconds, deadline
from ._errors import ChannelClosed, MessageTooLong, ViewKept
from ._memory_channel import MemoryChannel

if TYPE_CHECKING:
    from ._end import End
    from ._slots import SlotsIncoming, SlotsOutgoing

_Way = TypeVar("_Way", bound="SlotsIncoming | SlotsOutgoing")


def _references(view: memoryview) -> int:
    (managed,) = gc.get_referents(view)
    return sys.getrefcount(managed)


_ALONE: Final = _references(memoryview(bytearray(1))[:])


def _over(view: memoryview) -> bool:
    """End a view; whether nobody has a part of it any more."""
    if _references(view) > _ALONE:
        return False
    try:
        view.release()
    except BufferError:
        return False
    return True


class SlotChannel(MemoryChannel):
    """One end of a channel of slots: it lends and borrows, besides what each channel does."""

    __slots__ = ("_kept",)

    def __init__(self, end: End, name: str | None = None) -> None:
        super().__init__(end, name)
        self._kept: list[tuple[SlotsIncoming | SlotsOutgoing, int, memoryview]] = []

    def lend(self, n_bytes: int, *, timeout_s: Seconds | None = None) -> Lent:
        """A slot to write a message of ``n_bytes`` into, for ``with`` and ``async with``; sent at the end of that.

        An exception inside gives it back unsent. It is not cleared: what is not written stays of an older message.
        Raises as `send` does, and `ViewKept` where something of the view outlives it: then nothing was sent.

        >>> from underlay import ipc
        >>> receiver, sender = ipc.pair("slots")
        >>> with receiver, sender:
        ...     with sender.lend(5) as slot:
        ...         slot[:] = b"hello"
        ...     with receiver.borrow() as view:
        ...         bytes(view[1:3])
        b'el'
        """
        return Lent(self, n_bytes, timeout_s)

    def borrow(self, *, timeout_s: Seconds | None = None) -> Borrowed:
        """The next message where it is, read-only, for ``with`` and ``async with``; it ends with that.

        Raises as `receive` does, and `ViewKept` where something of the view outlives it.
        """
        return Borrowed(self, timeout_s)

    def withhold(self, way: SlotsIncoming | SlotsOutgoing, start: int, view: memoryview) -> ViewKept:
        """Keep a slot out of the round until nobody has a part of it."""
        self.kept().append((way, start, view))
        return ViewKept(
            f"a part of a view of {self} is kept where the view ends",
            remedy="keep a copy, bytes(view), or end all that uses it first",
        )

    def kept(self) -> list[tuple[SlotsIncoming | SlotsOutgoing, int, memoryview]]:
        """The slots that are withheld; those that are no longer needed go round again."""
        if self._kept:
            kept, self._kept = self._kept, []
            for way, start, view in kept:
                if _over(view):
                    way.put_back(start)
                else:
                    self._kept.append((way, start, view))
        return self._kept


class _View(Generic[_Way]):
    """A view of one slot, for as long as a ``with`` statement lasts."""

    __slots__ = ("_channel", "_start", "_timeout_s", "_view", "_way")

    def __init__(self, channel: SlotChannel, timeout_s: Seconds | None) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._view: memoryview | None = None
        self._start = 0

    @abstractmethod
    def _begin(self) -> _Way:
        """The way, of an end that is open."""

    @abstractmethod
    def _take(self) -> memoryview | None:
        """A view of the next slot, where there is one."""

    @abstractmethod
    def _late(self) -> TimeoutError: ...

    @abstractmethod
    def _gone(self) -> Exception: ...

    @abstractmethod
    def _end(self, size: int, in_order: bool) -> None:
        """The view is over."""

    def __enter__(self) -> memoryview:
        self._way = self._begin()
        view = self._take()
        if view is None:
            deadline_s = None if self._timeout_s is None else deadline(self._timeout_s)
            while view is None:
                over = self._channel.wait_and_look(self._way, deadline_s)
                view = self._take()
                if view is None:
                    if over:
                        raise self._gone()
                    if deadline_s is not None and time.monotonic() >= deadline_s and not self._channel.look():
                        raise self._late()
        return view

    async def __aenter__(self) -> memoryview:
        aio = self._channel.aio
        self._way = self._begin()
        view = self._take()
        while view is None:
            over = self._channel.look()
            view = self._take()
            if view is None:
                if over:
                    raise self._gone()
                await aio.wait_for(self._way)
                view = self._take()
        return view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        view, self._view = self._view, None
        if view is None:
            return
        size = len(view)
        if not _over(view):
            if self._channel.closed:
                return  # the memory stays until the last view goes
            kept = self._channel.withhold(self._way, self._start, view)
            if error is None:
                raise kept
        elif not self._channel.closed:
            self._end(size, error is None)
        elif error is None and isinstance(self, Lent):
            raise ChannelClosed(f"{self._channel} was closed while a slot was lent", remedy="nothing of it was sent")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class Lent(_View["SlotsOutgoing"]):
    """A slot that is being written; made by `SlotChannel.lend`."""

    __slots__ = ("_n_bytes",)

    def __init__(self, channel: SlotChannel, n_bytes: int, timeout_s: Seconds | None) -> None:
        super().__init__(channel, timeout_s)
        self._n_bytes = n_bytes

    def _begin(self) -> SlotsOutgoing:
        outgoing: SlotsOutgoing = self._channel.begin_send(b"")[0]  # type: ignore[assignment]
        if not 0 <= self._n_bytes <= self._channel.terms.max_message_bytes:
            raise MessageTooLong(self._n_bytes, self._channel.terms.max_message_bytes, str(self._channel))
        self._channel.kept()
        return outgoing

    def _take(self) -> memoryview | None:
        start = self._way.take(self._n_bytes)
        if start is None:
            return None
        self._start = start
        self._view = memoryview(self._way.memory)[start : start + self._n_bytes]
        return self._view

    def _late(self) -> TimeoutError:
        return self._channel.send_is_late(self._timeout_s, False)

    def _gone(self) -> Exception:
        return self._channel.gone()

    def _end(self, size: int, in_order: bool) -> None:
        if in_order:
            self._way.commit(self._start, size)
            self._channel.count_sent(size)
        else:
            self._way.put_back(self._start)


class Borrowed(_View["SlotsIncoming"]):
    """A message that is being read where it is; made by `SlotChannel.borrow`."""

    __slots__ = ()

    def _begin(self) -> SlotsIncoming:
        self._channel.kept()
        return self._channel.begin_receive()  # type: ignore[return-value]

    def _take(self) -> memoryview | None:
        taken = self._way.take()
        if taken is None:
            return None
        self._start, size = taken
        self._view = memoryview(self._way.memory)[self._start : self._start + size].toreadonly()
        return self._view

    def _late(self) -> TimeoutError:
        return TimeoutError(f"{self._channel} brought no message within {self._timeout_s:g} s")

    def _gone(self) -> Exception:
        return self._channel.end()

    def _end(self, size: int, in_order: bool) -> None:
        self._way.put_back(self._start)
        self._channel.count_received(size)

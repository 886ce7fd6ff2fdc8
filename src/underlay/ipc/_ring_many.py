"""A ring of bytes in shared memory that many processes write and one reads.

This file knows how the writers keep out of each other's way. It refuses to know how messages lie in the ring and are
read: that is `_ring`.

Who writes holds a robust mutex in the first page. It first says in the word ``begun`` where the tail will be, writes,
and moves the tail there. Where it dies between the two, the next who gets the mutex is told so by the kernel, sees that
the tail is another one, and counts the message as dropped: nothing of it was ever in the ring. The mutex costs two
calls through ctypes a message; `send_many` takes it once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final

from . import _life, _memory, _ring, _robust
from ._contract import MAX_MESSAGE_BYTES, WAKEUPS, Kind, Message, Outgoing, Terms
from ._end import close_all
from ._memory_channel import MemoryChannel
from ._processes import start_of
from ._ring import BASE, HEAD, READER_WAITS, TAIL, Mapped, RingIncoming, check, ring_bytes

__all__ = ["KIND", "channel", "check", "incoming", "make", "outgoing"]

BEGUN, DROPPED = _ring.OTHERS, _ring.OTHERS + 1
# The process that receives, when it began, and whether it closed its end; on a line of its own.
RECEIVER: Final = _ring.OTHERS + 32
_MUTEX: Final = (_ring.OTHERS + 16) * 8  # a cache line of its own
# Another producer holds the mutex for a µs, or was stopped inside. A try waits so long: an event loop can bear that.
_PATIENCE_S: Final = 0.005

KIND: Final = Kind(
    name="ring-many",
    summary="a ring in shared memory, from many processes to one",
    max_message_bytes=MAX_MESSAGE_BYTES,
    usual_message_bytes=_ring.KIND.usual_message_bytes,
    one_way=True,
    many_senders=True,
    wakeups=WAKEUPS,
)


def make(terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out: as a `ring` has, with a mutex in the memory."""
    incoming, outgoing = _ring.make(terms)
    try:
        memory = _memory.attach(incoming[0], BASE)
        _robust.create(_memory.address_of(memory) + _MUTEX)
        memory.close()
    except BaseException:
        close_all((*incoming, *outgoing))
        raise
    return incoming, outgoing


class ManyOutgoing(Outgoing):
    """Writes into the ring, while other processes do the same."""

    def __init__(self, terms: Terms, *descriptors: int) -> None:
        self._size = ring_bytes(terms)
        self._limit = BASE + self._size
        self._mapped = mapped = Mapped(terms, self._limit, descriptors)
        self._memory, self._words, self._bell = mapped.memory, mapped.words, mapped.room_bell
        self._mutex = _memory.address_of(mapped.memory) + _MUTEX
        self._head = self._words[HEAD]  # as it was last seen
        self._contended = False
        self.ready = None  # it waits in slices, and looks after the receiver and the mutex between them

    def receiver(self) -> tuple[int, _life.Over | None]:
        """Which process receives, or 0 before one does, and whether it is over."""
        pid, since, closed = self._words[RECEIVER : RECEIVER + 3]
        if closed:
            return pid, _life.Over.CLOSED
        return pid, None if not pid or start_of(pid) == since else _life.Over.DIED

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The memory, and what wakes who receives and who sends."""
        return self._mapped.descriptors_of_it

    def try_send(self, message: Message, priority: int = 0) -> bool:
        """Take a message whole, or say that there is no room."""
        return self.try_send_many((message,), 0) == 1

    def try_send_many(self, messages: Sequence[Message], first: int) -> int:
        """Take as many messages from the ``first`` on as there is room for, and publish them at once."""
        try:
            got = _robust.lock(self._mutex, _PATIENCE_S)
        except OSError as error:
            if error.errno != errno.EDEADLK:
                raise
            got = _robust.Got.LOCKED  # Ctrl-C has ended an earlier call before it could give it back
        self._contended = got is _robust.Got.BUSY
        if self._contended:
            return 0
        try:
            if got is _robust.Got.HOLDER_DIED:
                self._mend()
            taken = self._write(messages, first)
        finally:
            # A locked instruction: all that was written is seen before the flag is read.
            _robust.unlock(self._mutex)
        if taken and self._words[READER_WAITS]:
            self._mapped.message_bell.ring()
        return taken

    def _mend(self) -> None:
        words = self._words
        if words[BEGUN] != words[TAIL]:
            words[BEGUN] = words[TAIL]
            words[DROPPED] += 1
        _robust.make_consistent(self._mutex)

    def _write(self, messages: Sequence[Message], first: int) -> int:
        words, memory, limit, size_bytes = self._words, self._memory, self._limit, self._size
        tail = words[TAIL]
        needed = (len(messages[first]) + 15) & -8
        room = size_bytes - (tail - self._head)
        # What others have sent since may have made what was seen of the head too old to be true.
        if not needed <= room <= size_bytes or room & 7:
            room = self._look_for_room(tail, needed)
            if room < needed:
                return 0
        at, number = BASE + tail % size_bytes, first
        new_tail = tail
        for number in range(first, len(messages)):
            message = messages[number]
            size = len(message)
            taken = (size + 15) & -8
            if taken > room:
                break
            words[BEGUN] = new_tail + taken
            words[at >> 3] = size
            _ring.write(memory, at + 8, limit, message)
            at += taken
            if at >= limit:
                at -= size_bytes
            room -= taken
            new_tail += taken
        else:
            number = len(messages)
        _ring.order_writes()
        words[TAIL] = new_tail
        return number - first

    def _look_for_room(self, tail: int, needed: int) -> int:
        room = self._refresh_room(tail)
        if room < needed:
            # Many may wait for one bell. All is done while the mutex is held: who takes back a ring says at once that
            # he waits, and looks after that; so whoever waits too is rung for by the next who makes room.
            self._bell.drain()
            self._bell.arm()
            room = self._refresh_room(tail)
            if room >= needed:
                self._bell.ring()  # in place of the one that may have been taken back: somebody else may need it
        return room

    def _refresh_room(self, tail: int) -> int:
        self._head = self._words[HEAD]
        return _ring.room_after(self._head, tail, self._size)

    def block(self, timeout_s: float) -> None:
        """Wait for room."""
        if not self._contended:  # else the try has waited
            self._bell.block(timeout_s)

    def close(self) -> None:
        """Unmap the memory, and close the descriptors."""
        self._mapped.close()


class ManyIncoming(RingIncoming):
    """Reads out of the ring, and knows how many messages their senders' deaths have torn."""

    def say_open(self) -> None:
        """Say to all senders that this process receives."""
        pid = os.getpid()
        for at, word in enumerate((pid, start_of(pid) or 0, 0)):
            self._words[RECEIVER + at] = word

    def say_closed(self) -> None:
        """Say to all senders that nobody will receive."""
        if self._words[RECEIVER] == os.getpid():
            self._words[RECEIVER + 2] = 1

    def count_dropped(self) -> int:
        """How many messages were begun by a process that died before they were whole."""
        return 0 if self._memory.closed else self._words[DROPPED]


class ManyChannel(MemoryChannel):
    """One end of a ring with many senders.

    The records of `_life` reach one of those who share an end: so the receiver is in the memory as well, for all.
    """

    __slots__ = ()

    def announce(self) -> None:
        """Say to the other side that this process uses this end."""
        super().announce()
        if isinstance(self._incoming, ManyIncoming):
            self._incoming.say_open()

    def close(self) -> None:
        """Close this end, as `Channel.close` does."""
        if self._used_in is _life.process and isinstance(self._incoming, ManyIncoming):
            self._incoming.say_closed()
        super().close()

    def look(self) -> bool:
        """Whether the other side is over, as far as can be known now."""
        over = super().look()
        if not over and isinstance(self._outgoing, ManyOutgoing):
            self._life.who, self._life.over = self._outgoing.receiver()
            over = self._life.over is not None
        return over


channel = ManyChannel


def outgoing(terms: Terms, *descriptors: int) -> ManyOutgoing:
    """The way out into a ring that others write, too."""
    return ManyOutgoing(terms, *descriptors)


def incoming(terms: Terms, *descriptors: int) -> ManyIncoming:
    """The way in from a ring that many write."""
    return ManyIncoming(terms, *descriptors)

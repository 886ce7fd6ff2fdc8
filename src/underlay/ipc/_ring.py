"""A ring of bytes in shared memory: one process sends, one receives, and no system call while neither has to wait.

This file knows how messages lie in the ring, and how the two sides tell each other how far they are. It refuses to know
how a sleeper is woken: see `_wakeup`; and where the memory comes from: see `_memory`.

::

    byte 0     128           256            1024            4096
         |     | tail        | head         | of other kinds| size … message, padded to 8 bytes | size … |
               | room_waits  | reader_waits |

**Indices.** ``tail`` counts all bytes that were ever written, ``head`` all that were read; what lies between them is in
the ring. Each is written by one side, on a cache line of its own with what that side also writes (128 bytes apart: two
lines are fetched at a time), in one move of eight bytes. A message is published by the tail after it: a sender that
dies before has sent nothing, and one that dies later has sent it whole.

**At the end of the ring** a message goes on at its beginning, in two pieces; only its size never does. So a message may
be as long as the ring.

**Room** is given back in portions, an eighth of the ring or when it is empty: so a full ring does not make two
processes take turns for every message. The memory is a portion larger than the capacity that was asked for.

**A peer that lies.** All that is read from the memory is held against what it can be before it is used; else it is
`Damaged`, and no access ever leaves the ring.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Final

from . import _descriptors, _memory, _wakeup
from ._contract import MAX_MESSAGE_BYTES, WAKEUPS, Incoming, Kind, Message, Outgoing, Terms
from ._end import close_all, copies
from ._errors import Damaged
from ._memory import PAGE_BYTES
from ._memory_channel import MemoryChannel
from ._patience import patience_for

# Words of eight bytes in the first page, by their index.
TAIL, ROOM_WAITS, HEAD, READER_WAITS, OTHERS = 16, 17, 32, 33, 128
BASE: Final = PAGE_BYTES
_SIZE_BYTES: Final = 8
# Half of a usual second-level cache; 15,000 messages of 64 bytes.
_USUAL_CAPACITY: Final = 1 << 20
_PORTIONS: Final = 8
# So much of the ring is mapped at once, when it is first reached; what is never reached takes no memory.
_MAPPED_BYTES: Final = 16 * PAGE_BYTES

KIND: Final = Kind(
    name="ring",
    summary="a ring in shared memory, from one process to one",
    max_message_bytes=MAX_MESSAGE_BYTES,
    usual_message_bytes=_USUAL_CAPACITY,
    one_way=True,
    wakeups=WAKEUPS,
)


def ring_bytes(terms: Terms) -> int:
    """How long the ring is: what is to go in, and a portion more."""
    capacity = max(terms.capacity or _USUAL_CAPACITY, terms.max_message_bytes + 2 * _SIZE_BYTES)
    return _memory.rounded_up(capacity + capacity // _PORTIONS, PAGE_BYTES)


def make(terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out: the memory, and what wakes the one and the other."""
    incoming: tuple[int, ...] = (_memory.create("underlay.ring", BASE + ring_bytes(terms)),)
    try:
        incoming += _wakeup.new_descriptors(terms.wakeup, 2)
        return incoming, copies(incoming)
    except BaseException:
        close_all(incoming)
        raise


def check(terms: Terms, descriptors: tuple[int, ...], writes: bool) -> None:
    """Raise ``ValueError`` where a way cannot be made of these."""
    check_mapped(terms, descriptors, BASE + ring_bytes(terms))


def check_mapped(terms: Terms, descriptors: tuple[int, ...], size_bytes: int) -> None:
    """The same, for memory of this size and its bells."""
    _descriptors.check_number(descriptors, 1 + _wakeup.descriptors_for(terms.wakeup, 2))
    memory, *bells = descriptors
    _descriptors.check_memory(memory, size_bytes)
    for bell in bells:
        _descriptors.check_eventfd(bell)


def damaged(what: str) -> Damaged:
    """What is raised when the memory says what no end writes."""
    return Damaged(f"{what}: another program wrote into the shared memory of a channel", remedy="make a new channel")


class Mapped:
    """What all that lies in shared memory has: the mapping, its words, and the two bells."""

    def __init__(self, terms: Terms, size_bytes: int, descriptors: tuple[int, ...]) -> None:
        self.descriptors_of_it = descriptors
        self.memory = _memory.attach(descriptors[0], size_bytes)
        self.words = memoryview(self.memory).cast("Q")
        address = _memory.address_of(self.memory)
        bells = descriptors[1:] or (None, None)
        self.message_bell = _wakeup.bell(terms.wakeup, self.words, READER_WAITS, TAIL, address, bells[0])
        self.room_bell = _wakeup.bell(terms.wakeup, self.words, ROOM_WAITS, HEAD, address, bells[1])

    def close(self) -> None:
        """Unmap it, and close the descriptors."""
        _memory.detach(self.memory, self.words)
        close_all(self.descriptors_of_it)


class RingOutgoing(Outgoing):
    """Writes into the ring; only one process does, or one at a time."""

    def __init__(self, terms: Terms, *descriptors: int) -> None:
        self._size = ring_bytes(terms)
        self._mapped = mapped = Mapped(terms, BASE + self._size, descriptors)
        self._memory, self._words = mapped.memory, mapped.words
        self._ring = mapped.message_bell.ring
        self._bell = mapped.room_bell
        self.ready = self._bell.ready
        self.is_rung = self.ready is not None
        self._fence = _wakeup.new_fence()
        # The fence in its two halves, each of which is one: taken in turns, a call for a message and not two.
        self._acquire, self._release = _wakeup.new_fence_pair()
        self._held = False
        self._limit = BASE + self._size
        self._tail = self._words[TAIL]
        self._at = BASE + self._tail % self._size
        self._room = 0  # as far as is known
        self._quick_until = self._at  # up to there pages are mapped, and the ring does not end

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The memory, and what wakes who receives and who sends."""
        return self._mapped.descriptors_of_it

    def try_send(self, message: Message, priority: int = 0) -> bool:
        """Take a message whole, or say that there is no room: then whoever makes room will ring."""
        # Plain locals and one expression a step: each attribute and each call is some nanoseconds of 400.
        size = len(message)
        taken = (size + 15) & -8
        at = self._at
        end = at + taken
        if taken > self._room or end >= self._quick_until:
            return self._try_with_care(message, size, taken)
        words = self._words
        words[at >> 3] = size
        self._memory[at + 8 : at + 8 + size] = message
        if not _wakeup.ORDERED:
            _wakeup.order()
        self._at = end
        self._room -= taken
        self._tail = words[TAIL] = self._tail + taken
        # The fence; on other processors, `order` above and below.
        if self._held:
            self._held = False
            self._release()
        elif self._acquire(False):
            self._held = True
        else:  # Ctrl-C came between the two lines above, or those before
            self._release()
        if not _wakeup.ORDERED:
            _wakeup.order()
        if words[READER_WAITS]:
            self._ring()
        return True

    def _try_with_care(self, message: Message, size: int, taken: int) -> bool:
        if taken > self._room and not self._look_for_room(taken):
            return False
        at = self._at
        if at + taken >= self._quick_until < self._limit:
            self._quick_until = mapped_until(self._memory, self._quick_until, at + taken, self._limit, to_write=True)
        self._words[at >> 3] = size
        write(self._memory, at + 8, self._limit, message)
        self._advance(taken)
        return True

    def _advance(self, taken: int) -> None:
        if not _wakeup.ORDERED:
            _wakeup.order()
        at = self._at + taken
        self._at = at if at < self._limit else at - self._size
        self._room -= taken
        self._tail = self._words[TAIL] = self._tail + taken
        self._fence()
        if self._words[READER_WAITS]:
            self._ring()

    def _look_for_room(self, needed: int) -> bool:
        if self._refresh_room() < needed:
            self._bell.arm()
            if self._refresh_room() < needed:
                return False
            self._bell.disarm()
        return True

    def _refresh_room(self) -> int:
        self._room = room_after(self._words[HEAD], self._tail, self._size)
        return self._room

    def try_send_many(self, messages: Sequence[Message], first: int) -> int:
        """Take as many messages from the ``first`` on as there is room for, and publish them at once.

        Says how many. For none it does what `try_send` does for one.
        """
        words, memory, limit = self._words, self._memory, self._quick_until
        room, start = self._refresh_room(), self._at
        at, begun = start, first
        for number in range(first, len(messages)):
            message = messages[number]
            size = len(message)
            taken = (size + 15) & -8
            if taken > room:
                break
            end = at + taken
            if end >= limit:
                break
            words[at >> 3] = size
            memory[at + 8 : at + 8 + size] = message
            at = end
            room -= taken
            begun = number + 1
        if begun > first:
            self._advance(at - start)
            return begun - first
        return int(self.try_send(messages[first]))

    def block(self, timeout_s: float) -> None:
        """Wait for room."""
        self._bell.block(timeout_s)

    def close(self) -> None:
        """Unmap the memory, and close the descriptors."""
        self._mapped.close()


class RingIncoming(Incoming):
    """Reads out of the ring; only one process does."""

    def __init__(self, terms: Terms, *descriptors: int) -> None:
        self._size = ring_bytes(terms)
        self._max_message_bytes = terms.max_message_bytes
        self._mapped = mapped = Mapped(terms, BASE + self._size, descriptors)
        self._memory, self._words = mapped.memory, mapped.words
        self._ring = mapped.room_bell.ring
        self._bell = mapped.message_bell
        self.ready = self._bell.ready
        self.is_rung = self.ready is not None
        self._fence = _wakeup.new_fence()
        self._limit = BASE + self._size
        self._portion = self._size // (_PORTIONS + 1)
        self.patience = patience_for(terms.wakeup)
        self._seen = self._words[HEAD]  # the tail, as it was last seen
        self._at = BASE + self._seen % self._size
        self._left = 0  # between there and the tail that was seen
        self._quick_until = self._at  # up to there pages are mapped, and the ring does not end
        self._publish_at = -self._portion

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The memory, and what wakes who receives and who sends. Makes what was received known before it goes away."""
        if not self._memory.closed:
            self._publish()
        return self._mapped.descriptors_of_it

    def try_receive(self) -> bytes | None:
        """The next message, or None where there is none: then whoever sends one will ring."""
        if not self._left and not self._look_for_message():
            return None
        at = self._at
        size = self._words[at >> 3]
        taken = (size + 15) & -8
        left = self._left - taken
        end = at + taken
        if left < 0 or end >= self._quick_until:
            return self._receive_with_care(at, size, left, end)
        message = self._memory[at + 8 : at + 8 + size]
        self._at = end
        self._left = left
        if left <= self._publish_at:
            self._publish()
        return message

    def _receive_with_care(self, at: int, size: int, left: int, end: int) -> bytes:
        if left < 0 or size > self._size:
            raise damaged(f"a ring has a message of {size:,} bytes where there are {self._left:,}")
        if end >= self._quick_until < self._limit:
            self._quick_until = mapped_until(self._memory, self._quick_until, end, self._limit, to_write=False)
        message = read(self._memory, at + 8, size, self._limit, self._size)
        self._at = end if end < self._limit else end - self._size
        self._left = left
        if left <= self._publish_at:
            self._publish()
        return message

    def _look_for_message(self) -> bool:
        # Nothing is left of what was seen.
        words = self._words
        if words[TAIL] == self._seen and not (
            self.patience is not None and self.patience.offer(words, TAIL, self._seen)
        ):
            if not _wakeup.ORDERED:
                _wakeup.order()
            self._publish_at = -self._portion
            words[HEAD] = self._seen
            self._bell.arm()  # its fence is for the head as well
            if words[ROOM_WAITS]:
                self._ring()
            if words[TAIL] == self._seen:
                return False
            self._bell.disarm()
        self._refresh()
        return True

    def _refresh(self) -> int:
        tail = self._words[TAIL]
        if not _wakeup.ORDERED:
            _wakeup.order()
        left = self._left + tail - self._seen
        if not 0 <= left <= self._size or left & 7:
            raise damaged(f"a ring of {self._size:,} bytes says that it has {left:,} of them")
        self._publish_at += left - self._left
        self._seen = tail
        self._left = left
        return left

    def _publish(self) -> None:
        if not _wakeup.ORDERED:
            _wakeup.order()
        self._publish_at = self._left - self._portion
        self._words[HEAD] = self._seen - self._left
        self._fence()
        if self._words[ROOM_WAITS]:
            self._ring()

    def try_receive_many(self, most: int) -> list[bytes]:
        """Up to so many messages that are there, and one look at the other side for all of them."""
        messages: list[bytes] = []
        if not self._left:
            if not self._look_for_message():
                return messages
        elif self._left < self._portion:
            self._refresh()
        words, memory, limit, add = self._words, self._memory, self._quick_until, messages.append
        at, left = self._at, self._left
        for _ in range(most):
            if not left:
                break
            size = words[at >> 3]
            taken = (size + 15) & -8
            end = at + taken
            if taken > left or end >= limit:
                break
            add(memory[at + 8 : at + 8 + size])
            at = end
            left -= taken
        self._at, self._left = at, left
        if not messages:
            message = self.try_receive()
            return [] if message is None else [message]
        if left <= self._publish_at:
            self._publish()
        return messages

    def block(self, timeout_s: float) -> None:
        """Wait for a message."""
        self._bell.block(timeout_s)

    def close(self) -> None:
        """Unmap the memory, and close the descriptors."""
        self._mapped.close()


def order_writes() -> None:
    """Let nobody see the index before what it publishes."""
    if not _wakeup.ORDERED:
        _wakeup.order()


def room_after(head: int, tail: int, size_bytes: int) -> int:
    """How much may be written, by what the reader says. Raises `Damaged` where that cannot be."""
    room = size_bytes - (tail - head)
    if not 0 <= room <= size_bytes or room & 7:
        raise damaged(f"a ring of {size_bytes:,} bytes says that {room:,} of them are free")
    return room


def mapped_until(memory: mmap.mmap, start: int, needed: int, limit: int, *, to_write: bool) -> int:
    """Map the next pages of the ring, those needed or more; up to where that is."""
    end = min(limit, max(start + _MAPPED_BYTES, needed))
    _memory.get_pages(memory, start, end, to_write=to_write)
    return end


def write(memory: mmap.mmap, at: int, limit: int, message: Message) -> None:
    """Write a message that goes on at the beginning of the ring where it meets the end."""
    fits = limit - at
    if len(message) <= fits:
        memory[at : at + len(message)] = message
    else:
        memory[at:limit] = message[:fits]
        memory[BASE : BASE + len(message) - fits] = message[fits:]


def read(memory: mmap.mmap, at: int, size: int, limit: int, size_bytes: int) -> bytes:
    """Read a message that goes on at the beginning of the ring where it meets the end."""
    end = at + size
    return memory[at:end] if end <= limit else memory[at:limit] + memory[BASE : end - size_bytes]


channel = MemoryChannel


def outgoing(terms: Terms, *descriptors: int) -> RingOutgoing:
    """The way out into a ring."""
    return RingOutgoing(terms, *descriptors)


def incoming(terms: Terms, *descriptors: int) -> RingIncoming:
    """The way in from a ring."""
    return RingIncoming(terms, *descriptors)

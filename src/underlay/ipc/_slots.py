"""Slots in shared memory: a message is written where it will be read, and what crosses is the number of its slot.

This file knows slots that go round: from the sender, who fills them, to the receiver, who reads them, and back. It
refuses to know how a caller gets hold of one: see `_slot_channel`.

::

    page 0: the words of `_ring`; lists of sent slots (slot, size) and of free ones | page n: slot 0 | slot 1 | …

Each list is a ring of its own with one writer and one reader: ``tail`` counts the slots that were sent, ``head`` those
that were given back; a list is as long as there are slots, so it is never full. A slot begins on a page, and takes no
memory before it is first written. Slots may come back in any order.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from . import _memory, _ring, _wakeup
from ._contract import MAX_MESSAGE_BYTES, WAKEUPS, Incoming, Kind, Message, Outgoing, Terms
from ._end import close_all, copies
from ._memory import PAGE_BYTES
from ._patience import patience_for
from ._ring import HEAD, READER_WAITS, ROOM_WAITS, TAIL, Mapped, order_writes
from ._slot_channel import SlotChannel

# How many slots each side has taken off its list; on its own cache line.
_TAKEN_FREE, _TAKEN_SENT = TAIL + 2, HEAD + 2
_LISTS: Final = _ring.OTHERS
# Enough for one that is filled, one that is read, and some on their way.
_USUAL_SLOTS: Final = 8
_MOST_SLOTS: Final = 4096
_USUAL_SLOT_BYTES: Final = 1 << 20
# Up to here the kernel may get the pages of a slot one by one, when they are first written.
_FEW_BYTES: Final = 16 * PAGE_BYTES

KIND: Final = Kind(
    name="slots",
    summary="slots in shared memory: a message is not copied",
    max_message_bytes=MAX_MESSAGE_BYTES,
    usual_message_bytes=_USUAL_SLOT_BYTES,
    one_way=True,
    zero_copy=True,
    wakeups=WAKEUPS,
    max_capacity=_MOST_SLOTS,
)


class Layout:
    """Where everything is, for the terms of one channel."""

    def __init__(self, terms: Terms) -> None:
        self.slots = min(terms.capacity or _USUAL_SLOTS, _MOST_SLOTS)
        self.slot_bytes = _memory.rounded_up(terms.max_message_bytes, PAGE_BYTES)
        self.sent = _LISTS
        self.free = _LISTS + 2 * self.slots
        self.base = _memory.rounded_up((self.free + self.slots) * 8, PAGE_BYTES)
        self.size_bytes = self.base + self.slots * self.slot_bytes


def make(terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out: the memory, and what wakes the one and the other."""
    layout = Layout(terms)
    incoming: tuple[int, ...] = (_memory.create("underlay.slots", layout.size_bytes),)
    try:
        memory = _memory.attach(incoming[0], layout.base)
        with memoryview(memory) as whole, whole.cast("Q") as words:
            for slot in range(layout.slots):  # all of them are free
                words[layout.free + slot] = slot
            words[HEAD] = layout.slots
        memory.close()
        incoming += _wakeup.new_descriptors(terms.wakeup, 2)
        return incoming, copies(incoming)
    except BaseException:
        close_all(incoming)
        raise


def check(terms: Terms, descriptors: tuple[int, ...], writes: bool) -> None:
    """Raise ``ValueError`` where a way cannot be made of these."""
    _ring.check_mapped(terms, descriptors, Layout(terms).size_bytes)


class SlotsOutgoing(Outgoing):
    """Fills slots and sends them."""

    def __init__(self, terms: Terms, *descriptors: int) -> None:
        self._layout = layout = Layout(terms)
        self._mapped = mapped = Mapped(terms, layout.size_bytes, descriptors)
        self.memory, self._words = mapped.memory, mapped.words
        self._fence = _wakeup.new_fence()
        self.ready = mapped.room_bell.ready
        self.is_rung = self.ready is not None
        self._taken = self._words[_TAKEN_FREE]
        self._sent = self._words[TAIL]
        self.patience = patience_for(terms.wakeup)
        self._unsent: deque[int] = deque()  # slots that were taken and not sent
        self._mapped_bytes = [0] * layout.slots  # how much of each is known to be in this process's page table

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The memory, and what wakes who receives and who sends."""
        return self._mapped.descriptors_of_it

    def take(self, size: int) -> int | None:
        """Where a free slot begins, or None where there is none: then whoever gives one back will ring.

        ``size`` is how much of it will be written.
        """
        if self._unsent:
            return self._unsent.popleft()
        words, layout = self._words, self._layout
        if words[HEAD] == self._taken and not (
            self.patience is not None and self.patience.offer(words, HEAD, self._taken)
        ):
            self._mapped.room_bell.arm()
            if words[HEAD] == self._taken:
                return None
            self._mapped.room_bell.disarm()
        if not 0 < words[HEAD] - self._taken <= layout.slots:
            raise _ring.damaged("more slots came back than there are")
        order_writes()
        slot = words[layout.free + self._taken % layout.slots]
        if slot >= layout.slots:
            raise _ring.damaged(f"slot {slot:,} of {layout.slots} came back")
        self._taken += 1
        words[_TAKEN_FREE] = self._taken
        start = layout.base + slot * layout.slot_bytes
        if size > _FEW_BYTES and size > self._mapped_bytes[slot]:
            self._mapped_bytes[slot] = size
            _memory.get_pages(self.memory, start, start + size, to_write=True)
        return start

    def commit(self, start: int, size: int) -> None:
        """Send a slot that was taken."""
        words, layout = self._words, self._layout
        at = layout.sent + 2 * (self._sent % layout.slots)
        words[at] = (start - layout.base) // layout.slot_bytes
        words[at + 1] = size
        order_writes()
        self._sent += 1
        words[TAIL] = self._sent
        self._fence()
        if words[READER_WAITS]:
            self._mapped.message_bell.ring()

    def put_back(self, start: int) -> None:
        """Keep a slot that was taken and is not to be sent, for the next message."""
        self._unsent.append(start)

    def try_send(self, message: Message, priority: int = 0) -> bool:
        """Copy a message into a slot and send it, or say that none is free."""
        start = self.take(len(message))
        if start is None:
            return False
        self.memory[start : start + len(message)] = message
        self.commit(start, len(message))
        return True

    def block(self, timeout_s: float) -> None:
        """Wait for a free slot."""
        self._mapped.room_bell.block(timeout_s)

    def close(self) -> None:
        """Unmap the memory, and close the descriptors."""
        self._mapped.close()


class SlotsIncoming(Incoming):
    """Reads slots and gives them back."""

    def __init__(self, terms: Terms, *descriptors: int) -> None:
        self._layout = layout = Layout(terms)
        self._max_message_bytes = terms.max_message_bytes
        self._mapped = mapped = Mapped(terms, layout.size_bytes, descriptors)
        self.memory, self._words = mapped.memory, mapped.words
        self._fence = _wakeup.new_fence()
        self.ready = mapped.message_bell.ready
        self.is_rung = self.ready is not None
        self._taken = self._words[_TAKEN_SENT]
        self._returned = self._words[HEAD]
        self.patience = patience_for(terms.wakeup)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The memory, and what wakes who receives and who sends."""
        return self._mapped.descriptors_of_it

    def take(self) -> tuple[int, int] | None:
        """Where the next message begins and its size, or None where there is none: then whoever sends will ring."""
        words, layout = self._words, self._layout
        if words[TAIL] == self._taken and not (
            self.patience is not None and self.patience.offer(words, TAIL, self._taken)
        ):
            self._mapped.message_bell.arm()
            if words[TAIL] == self._taken:
                return None
            self._mapped.message_bell.disarm()
        if not 0 < words[TAIL] - self._taken <= layout.slots:
            raise _ring.damaged("more slots were sent than there are")
        order_writes()
        at = layout.sent + 2 * (self._taken % layout.slots)
        slot, size = words[at], words[at + 1]
        if slot >= layout.slots or size > self._max_message_bytes:
            raise _ring.damaged(f"a message of {size:,} bytes was sent in slot {slot:,} of {layout.slots}")
        self._taken += 1
        words[_TAKEN_SENT] = self._taken
        return layout.base + slot * layout.slot_bytes, size

    def put_back(self, start: int) -> None:
        """The slot of a message that is read is free again."""
        words, layout = self._words, self._layout
        words[layout.free + self._returned % layout.slots] = (start - layout.base) // layout.slot_bytes
        order_writes()
        self._returned += 1
        words[HEAD] = self._returned
        self._fence()
        if words[ROOM_WAITS]:
            self._mapped.room_bell.ring()

    def try_receive(self) -> bytes | None:
        """A copy of the next message, or None where there is none."""
        taken = self.take()
        if taken is None:
            return None
        start, size = taken
        message = self.memory[start : start + size]
        self.put_back(start)
        return message

    def block(self, timeout_s: float) -> None:
        """Wait for a message."""
        self._mapped.message_bell.block(timeout_s)

    def close(self) -> None:
        """Unmap the memory, and close the descriptors."""
        self._mapped.close()


channel = SlotChannel


def outgoing(terms: Terms, *descriptors: int) -> SlotsOutgoing:
    """The way out that fills slots."""
    return SlotsOutgoing(terms, *descriptors)


def incoming(terms: Terms, *descriptors: int) -> SlotsIncoming:
    """The way in that reads slots."""
    return SlotsIncoming(terms, *descriptors)

"""A System V message queue (sysvipc(7)): no descriptor, no poll, and it outlives its processes.

This file knows msgget(2), msgsnd(2) and msgrcv(2). It refuses to know who is at the other end.

**Sleeping.** A process that is blocked in msgrcv(2) cannot be told that the other one died. So nobody blocks there:
who finds the queue empty, or full, says so in a page that both share, and polls an eventfd together with the other
side's life. A sender, or a receiver, that sees this writes the eventfd. This page is also how the queue's number
travels.

**Nothing is left.** Who received from a queue removes it when it closes, for nobody else will receive; and so does a
sender that nobody receives from any more. What then is still there, `_sysv_queue` removes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
from typing import Final

from . import _descriptors, _libc, _memory, _sysv_queue
from ._contract import Incoming, Kind, Message, Outgoing, Terms
from ._end import close_all, copies
from ._page import Page, make_bell, silence
from ._patience import Patience
from ._sysv_kept import TYPE, TYPE_BYTES, KeptIncoming, KeptOutgoing
from ._sysv_queue import QUEUE, RECEIVER_SLEEPS, SENDER_SLEEPS, Hold, refusal

KIND: Final = Kind(
    name="sysv",
    summary="a System V message queue, sysvipc(7)",
    max_message_bytes=_sysv_queue.MAX_MESSAGE_BYTES,
    limited_by="kernel.msgmax",
    one_way=True,
    survives_process=True,
)


def make(terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out, to a new queue: a page, and two eventfds."""
    queue = _sysv_queue.create(_libc.IPC_PRIVATE, terms)
    made: list[int] = []
    try:
        made.append(_sysv_queue.make_page(queue))
        made.append(make_bell())
        made.append(make_bell())
        made += copies(made)
    except BaseException:
        close_all(made)
        _sysv_queue.remove(queue)
        raise
    return tuple(made[:3]), tuple(made[3:])


def check(terms: Terms, descriptors: tuple[int, ...], writes: bool) -> None:
    """Raise ``ValueError`` where a way cannot be made of these."""
    page, *bells = descriptors or (-1,)
    if not bells:
        _descriptors.check_memory(page, _memory.PAGE_BYTES)
        return
    _descriptors.check_number(descriptors, 3)
    _sysv_queue.check_page(page)
    for bell in bells:
        _descriptors.check_eventfd(bell)


def outgoing(terms: Terms, page: int, *bells: int) -> Outgoing:
    """The way out to a queue; without the two eventfds, to one that outlives processes."""
    return SysvOutgoing(page, *bells) if bells else KeptOutgoing(page)


def incoming(terms: Terms, page: int, *bells: int) -> Incoming:
    """The way in from a queue; without the two eventfds, from one that outlives processes."""
    return SysvIncoming(terms.max_message_bytes, page, *bells) if bells else KeptIncoming(page)


# --- under a name that outlives all processes ---


def create_persistent(name: str, terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out, to a new queue that stays. Raises `NameTaken`."""
    queue = _sysv_queue.create(_sysv_queue.key_of(name), terms)
    try:
        return _kept_pages(queue)
    except BaseException:
        _sysv_queue.remove(queue)
        raise


def open_persistent(name: str) -> tuple[Terms, tuple[int, ...], tuple[int, ...]]:
    """What was agreed on a queue that stays, and the descriptors to it. Raises `NoSuchName`."""
    queue, terms = _sysv_queue.find(_sysv_queue.key_of(name))
    return terms, *_kept_pages(queue)


def remove_persistent(name: str) -> None:
    """Remove a queue that stays, and what is in it. Raises `NoSuchName`."""
    _sysv_queue.remove(_sysv_queue.find(_sysv_queue.key_of(name))[0])


def _kept_pages(queue: int) -> tuple[tuple[int], tuple[int]]:
    # A page of this process's own, that says the queue's number: an end is made of descriptors.
    page = _memory.create("underlay.sysv", _memory.PAGE_BYTES)
    words = Page(page)
    words.word(QUEUE)[0] = queue
    words.close()
    try:
        return (page,), (os.dup(page),)
    except BaseException:
        os.close(page)
        raise


class SysvOutgoing(Outgoing):
    """Puts messages into a queue."""

    def __init__(self, page: int, message_bell: int, room_bell: int) -> None:
        self._hold = Hold(page)
        self._queue = self._hold.queue
        self._receiver_sleeps = self._hold.words.word(RECEIVER_SLEEPS)
        self._sleeps = self._hold.words.word(SENDER_SLEEPS)
        self._bells = message_bell, room_bell
        self._message_bell, self._room_bell = self._bells
        self._send = _libc.msgsnd
        self.ready = (room_bell, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The page, the eventfd for messages, and the one for room."""
        return (self._hold.page, *self._bells)

    def try_send(self, message: Message, priority: int) -> bool:
        """Take a message whole, or say that there is no room."""
        size, data = len(message), TYPE + message
        if self._send(self._queue, data, size, _libc.IPC_NOWAIT):
            self._must_be_full()
            silence(self._room_bell)
            self._sleeps[0] = 1
            if self._send(self._queue, data, size, _libc.IPC_NOWAIT):
                self._must_be_full()
                return False
            self._sleeps[0] = 0
        if self._receiver_sleeps[0]:
            os.eventfd_write(self._message_bell, 1)
        return True

    def _must_be_full(self) -> None:
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            raise refusal("msgsnd")

    def finish(self, alone: bool) -> None:
        """Remove the queue, where nobody will receive from it."""
        if alone:
            _sysv_queue.remove(self._queue)

    def close(self) -> None:
        """Close what it has of the queue; remove it, where nobody else has it."""
        try:
            self._hold.give_up()
        finally:
            close_all(self._bells)


class SysvIncoming(Incoming):
    """Takes messages out of a queue."""

    def __init__(self, max_message_bytes: int, page: int, message_bell: int, room_bell: int) -> None:
        self._hold = Hold(page)
        self._queue = self._hold.queue
        self._sleeps = self._hold.words.word(RECEIVER_SLEEPS)
        self._sender_sleeps = self._hold.words.word(SENDER_SLEEPS)
        self._bells = message_bell, room_bell
        self._message_bell, self._room_bell = self._bells
        self._size = max_message_bytes
        self._receive = _libc.msgrcv
        self._announced = False
        buffer = ctypes.create_string_buffer(TYPE_BYTES + max_message_bytes)
        self._at = ctypes.addressof(buffer)
        self._view = memoryview(buffer).cast("B")[TYPE_BYTES:]  # keeps the buffer
        self.patience = Patience()
        self.ready = (message_bell, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The page, the eventfd for messages, and the one for room."""
        return (self._hold.page, *self._bells)

    def try_receive(self) -> bytes | None:
        """The next message, or None where there is none yet.

        While it is announced that this end sleeps, each message that is sent counts the eventfd up by one, and each
        that is received down. So who waits first and then receives finds it readable as long as there are messages.
        """
        if self._announced:
            try:
                os.eventfd_read(self._message_bell)
            except BlockingIOError:
                pass
        size = self._receive(self._queue, self._at, self._size, 0, _libc.IPC_NOWAIT)
        patience = self.patience
        if size < 0 and patience is not None and patience.offer_once():
            self._must_be_empty()
            size = self._receive(self._queue, self._at, self._size, 0, _libc.IPC_NOWAIT)
            if size >= 0:
                patience.paid()
        if size < 0:
            self._must_be_empty()
            silence(self._message_bell)
            self._announced = True
            self._sleeps[0] = 1
            size = self._receive(self._queue, self._at, self._size, 0, _libc.IPC_NOWAIT)
            if size < 0:
                self._must_be_empty()
                return None
        if self._announced and not self.hungry:
            self._announced = False
            self._sleeps[0] = 0
        if self._sender_sleeps[0]:
            self._sender_sleeps[0] = 0
            os.eventfd_write(self._room_bell, 1)
        return self._view[:size].tobytes()

    def _must_be_empty(self) -> None:
        if ctypes.get_errno() not in (errno.ENOMSG, errno.EINTR):
            raise refusal("msgrcv")

    def finish(self, alone: bool) -> None:
        """Remove the queue: nobody else will receive from it."""
        _sysv_queue.remove(self._queue)

    def close(self) -> None:
        """Close what it has of the queue; remove it, where nobody else has it."""
        try:
            self._hold.give_up()
        finally:
            close_all(self._bells)

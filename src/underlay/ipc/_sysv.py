"""A System V message queue (sysvipc(7)): no descriptor, no poll, and it outlives its processes.

This file knows msgget(2), msgsnd(2) and msgrcv(2). It refuses to know who is at the other end.

**Sleeping.** A process that is blocked in msgrcv(2) cannot be told that the other one died. So nobody blocks there:
who finds the queue empty, or full, says so in a page that both share, and polls an eventfd together with the other
side's life. A sender, or a receiver, that sees this writes the eventfd. This page is also how the queue's number
travels.

**Nothing is left.** Who received from a queue removes it when it closes, for nobody else will receive; and so does a
sender that nobody receives from any more. An end that nobody has used cannot know this: so all ends of one queue hold a
lock (flock(2)) on that page together, and whoever closes one and gets the lock for itself was the last.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import fcntl
import os
import select
import weakref
from multiprocessing.util import Finalize, register_after_fork
from pathlib import Path
from typing import Final

from ..errors import UsageError
from . import _libc
from ._contract import Incoming, Kind, Message, Outgoing, Terms
from ._page import Page, make_bell, silence

_LIMITS: Final = Path("/proc/sys/kernel")
# The defaults of Linux, where /proc says nothing: sysvipc(7), msgget(2).
_USUAL_MSGMAX, _USUAL_MSGMNB = 8192, 16384
_TYPE_BYTES: Final = 8  # a long, before the text: msgop(2)
_TYPE: Final = (1).to_bytes(_TYPE_BYTES, "little")
# The words of the page.
_QUEUE, _RECEIVER_SLEEPS, _SENDER_SLEEPS = 0, 1, 2


def _limit(name: str, usual: int) -> int:
    try:
        return int((_LIMITS / name).read_text())
    except (OSError, ValueError):
        return usual


KIND: Final = Kind(
    name="sysv",
    summary="a System V message queue, sysvipc(7)",
    max_message_bytes=min(_limit("msgmax", _USUAL_MSGMAX), _limit("msgmnb", _USUAL_MSGMNB)),
    one_way=True,
)


def make(terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out, to a new queue: a page, and two eventfds."""
    queue = _create(_libc.IPC_PRIVATE, terms)
    made: list[int] = []
    try:
        made.append(Page.make())
        fcntl.flock(made[0], fcntl.LOCK_SH)
        page = Page(made[0])
        page.word(_QUEUE)[0] = queue
        page.close()
        made += make_bell(), make_bell()
        made += [os.dup(each) for each in made]
    except BaseException:
        for each in made:
            os.close(each)
        _libc.msgctl(queue, _libc.IPC_RMID, None)
        raise
    return tuple(made[:3]), tuple(made[3:])


def outgoing(terms: Terms, page: int, message_bell: int, room_bell: int) -> SysvOutgoing:
    """The way out to a queue."""
    return SysvOutgoing(page, message_bell, room_bell)


def incoming(terms: Terms, page: int, message_bell: int, room_bell: int) -> SysvIncoming:
    """The way in from a queue."""
    return SysvIncoming(page, message_bell, room_bell, terms.max_message_bytes)


def _create(key: int, terms: Terms) -> int:
    most_bytes = _limit("msgmnb", _USUAL_MSGMNB)
    if terms.capacity and not terms.max_message_bytes <= terms.capacity:
        raise UsageError(
            f"a message queue of {terms.capacity:,} bytes has no room for messages of {terms.max_message_bytes:,}",
            remedy="give it more capacity, or less max_message_bytes",
        )
    queue = _libc.msgget(key, _libc.IPC_CREAT | _libc.IPC_EXCL | 0o600)
    if queue < 0:
        error = _libc.failure("msgget")
        if error.errno == errno.ENOSPC:
            raise UsageError(
                f"there are as many System V message queues as the kernel allows ({error})",
                remedy=f"remove some (ipcs -q, ipcrm), or raise {_LIMITS}/msgmni",
            )
        raise error
    if terms.capacity:
        about = _libc.MsqidDs()
        if _libc.msgctl(queue, _libc.IPC_STAT, about):
            raise _libc.failure("msgctl")
        about.msg_qbytes = terms.capacity
        if _libc.msgctl(queue, _libc.IPC_SET, about):
            error = _libc.failure("msgctl")
            _libc.msgctl(queue, _libc.IPC_RMID, None)
            if error.errno == errno.EPERM:
                raise UsageError(
                    f"the kernel makes no message queue of {terms.capacity:,} bytes ({error})",
                    remedy=f"{_LIMITS}/msgmnb allows {most_bytes:,}",
                )
            raise error
    return queue


# --- whoever is the last removes it ---

_open_here: weakref.WeakSet[_Held] = weakref.WeakSet()


def _exits() -> None:
    for held in list(_open_here):
        held.give_up()


def _tell_at_exit(_: object = None) -> None:
    # As in `_life`: processes of multiprocessing leave by os._exit() and know only its own finalizers, of their own.
    Finalize(None, _exits, exitpriority=0)


_tell_at_exit()
register_after_fork(_open_here, _tell_at_exit)
atexit.register(_exits)


class _Held:
    """One end's hold on a queue, through the lock on its page."""

    def __init__(self, page: int) -> None:
        self.page = page
        self.words = Page(page)
        self.queue: Final = self.words.word(_QUEUE)[0]
        _open_here.add(self)

    def remove(self) -> None:
        """Remove the queue, whoever holds it. Who did so before is no matter: a number is not used again so soon."""
        _libc.msgctl(self.queue, _libc.IPC_RMID, None)

    def give_up(self) -> None:
        """Let go of the page; remove the queue if nobody else holds it."""
        if self.page < 0:
            return
        page, self.page = self.page, -1
        _open_here.discard(self)
        try:
            again = os.open(f"/proc/self/fd/{page}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # no /proc, or no descriptor left: the queue stays
            os.close(page)
            return
        os.close(page)
        try:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # others have it
        else:
            self.remove()
        finally:
            os.close(again)


def _refusal(call: str) -> OSError:
    error = _libc.failure(call)
    if error.errno in (errno.EIDRM, errno.EINVAL):
        # Somebody removed it, by ipcrm(1) for example: it is as if the other end had closed.
        return ConnectionResetError(errno.EIDRM, f"{call}: {os.strerror(errno.EIDRM)}")
    return error


class SysvOutgoing(Outgoing):
    """Puts messages into a queue."""

    def __init__(self, page: int, message_bell: int, room_bell: int) -> None:
        self._held = _Held(page)
        self._queue = self._held.queue
        self._receiver_sleeps = self._held.words.word(_RECEIVER_SLEEPS)
        self._sleeps = self._held.words.word(_SENDER_SLEEPS)
        self._bells = message_bell, room_bell
        self._message_bell, self._room_bell = self._bells
        self._send = _libc.msgsnd
        self.ready = (room_bell, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The page, the eventfd for messages, and the one for room."""
        return (self._held.page, *self._bells)

    def try_send(self, message: Message, priority: int) -> bool:
        """Take a message whole, or say that there is no room."""
        size, data = len(message), _TYPE + message
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
            raise _refusal("msgsnd")

    def finish(self, alone: bool) -> None:
        """Remove the queue, where nobody will receive from it."""
        if alone:
            self._held.remove()

    def close(self) -> None:
        """Close what it has of the queue; remove it, where nobody else has it."""
        self._held.words.close()
        self._held.give_up()
        for bell in self._bells:
            os.close(bell)


class SysvIncoming(Incoming):
    """Takes messages out of a queue."""

    def __init__(self, page: int, message_bell: int, room_bell: int, max_message_bytes: int) -> None:
        self._held = _Held(page)
        self._queue = self._held.queue
        self._sleeps = self._held.words.word(_RECEIVER_SLEEPS)
        self._sender_sleeps = self._held.words.word(_SENDER_SLEEPS)
        self._bells = message_bell, room_bell
        self._message_bell, self._room_bell = self._bells
        self._size = max_message_bytes
        self._receive = _libc.msgrcv
        self._announced = False
        buffer = ctypes.create_string_buffer(_TYPE_BYTES + max_message_bytes)
        self._at = ctypes.addressof(buffer)
        self._view = memoryview(buffer).cast("B")[_TYPE_BYTES:]  # keeps the buffer
        self.ready = (message_bell, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The page, the eventfd for messages, and the one for room."""
        return (self._held.page, *self._bells)

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
            raise _refusal("msgrcv")

    def finish(self, alone: bool) -> None:
        """Remove the queue: nobody else will receive from it."""
        self._held.remove()

    def close(self) -> None:
        """Close what it has of the queue; remove it, where nobody else has it."""
        self._held.words.close()
        self._held.give_up()
        for bell in self._bells:
            os.close(bell)

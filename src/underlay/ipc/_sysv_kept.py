"""Both ways of a System V message queue that outlives its processes.

This file knows that unrelated processes have nothing in common but the queue: no page and no eventfd. It refuses to
know how the queue is found.

So who waits looks again, at first soon, then every ten milliseconds: msgrcv(2) takes no time-out, and a process that is
blocked in it could not be told that its time is over.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from typing import Final

from . import _libc
from ._contract import Incoming, Message, Outgoing
from ._page import Page
from ._sysv_queue import MAX_MESSAGE_BYTES, QUEUE, refusal

TYPE_BYTES: Final = 8  # a long, before the text: msgop(2)
TYPE: Final = (1).to_bytes(TYPE_BYTES, sys.byteorder)
# A look costs some 2 µs: at the longest pause that is a five-thousandth of a core.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0002, 0.01


def _queue_of(page: int) -> int:
    words = Page(page)
    try:
        return int(words.word(QUEUE)[0])
    finally:
        words.close()


class _Pauses:
    """Pauses that become longer."""

    def __init__(self) -> None:
        self._next_s = _FIRST_PAUSE_S

    def begin(self) -> None:
        self._next_s = _FIRST_PAUSE_S

    def pause(self, most_s: float) -> None:
        time.sleep(min(self._next_s, most_s))
        self._next_s = min(self._next_s * 2, _LONGEST_PAUSE_S)


class KeptOutgoing(Outgoing):
    """Puts messages into a queue that stays."""

    def __init__(self, page: int) -> None:
        self._page = page
        self._queue = _queue_of(page)
        self._pauses = _Pauses()
        self.ready = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The page that says the queue's number."""
        return (self._page,)

    def try_send(self, message: Message, priority: int) -> bool:
        """Take a message whole, or say that there is no room."""
        if _libc.msgsnd(self._queue, TYPE + message, len(message), _libc.IPC_NOWAIT):
            if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
                raise refusal("msgsnd")
            return False
        self._pauses.begin()
        return True

    def block(self, timeout_s: float) -> None:
        """Pause."""
        self._pauses.pause(timeout_s)

    def close(self) -> None:
        """Close the page; the queue stays."""
        os.close(self._page)


class KeptIncoming(Incoming):
    """Takes messages out of a queue that stays; they may be as long as any queue takes, whoever sent them."""

    def __init__(self, page: int) -> None:
        self._page = page
        self._queue = _queue_of(page)
        self._pauses = _Pauses()
        self.ready = None
        buffer = ctypes.create_string_buffer(TYPE_BYTES + MAX_MESSAGE_BYTES)
        self._at = ctypes.addressof(buffer)
        self._view = memoryview(buffer).cast("B")[TYPE_BYTES:]  # keeps the buffer

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The page that says the queue's number."""
        return (self._page,)

    def try_receive(self) -> bytes | None:
        """The next message, or None where there is none yet."""
        size = _libc.msgrcv(self._queue, self._at, MAX_MESSAGE_BYTES, 0, _libc.IPC_NOWAIT)
        if size < 0:
            if ctypes.get_errno() not in (errno.ENOMSG, errno.EINTR):
                raise refusal("msgrcv")
            return None
        self._pauses.begin()
        return self._view[:size].tobytes()

    def block(self, timeout_s: float) -> None:
        """Pause."""
        self._pauses.pause(timeout_s)

    def close(self) -> None:
        """Close the page; the queue stays."""
        os.close(self._page)

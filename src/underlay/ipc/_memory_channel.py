"""The end of a channel that lies in shared memory: the same words, written for a way that needs no system call.

This file knows that a try that finds nothing has told the other side to ring, and that then no news gets lost. It
refuses to know how anything lies in the memory.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from . import _life
from ._channel import SLICE_S, Channel
from ._contract import Incoming, Outgoing, Priority
from ._deadline import Seconds, deadline

if TYPE_CHECKING:
    from typing_extensions import Buffer


class MemoryChannel(Channel):
    """One end of a channel in shared memory."""

    __slots__ = ()

    def send(self, message: Buffer, *, priority: Priority = 0, timeout_s: Seconds | None = None) -> None:
        """Send one message, whole; wait while there is no room. Raises as `Channel.send` does."""
        outgoing = self._outgoing
        if (
            type(message) is bytes
            and priority == 0
            and outgoing is not None
            and self._used_in is _life.process
            and self._life.over is None
            and len(message) <= self._max_message_bytes
            and outgoing.try_send(message, 0)
        ):
            self._sent += 1
            self._bytes_sent += len(message)
        else:
            super().send(message, priority=priority, timeout_s=timeout_s)

    def receive(self, *, timeout_s: Seconds | None = None) -> bytes:
        """The next message; wait while there is none. Raises as `Channel.receive` does."""
        incoming = self._incoming
        if incoming is None or self._used_in is not _life.process:
            incoming = self.begin_receive()
        message = incoming.try_receive()
        if message is None:
            message = self._await_message(incoming, timeout_s)
        self._received += 1
        self._bytes_received += len(message)
        return message

    def _await_message(self, incoming: Incoming, timeout_s: Seconds | None) -> bytes:
        deadline_s = None if timeout_s is None else deadline(timeout_s)
        if deadline_s is None and incoming.ready is not None and self._life.over is None:
            # What `wait_and_look` does is written out: it is what a question that waits for its answer does each time.
            self._receive_waits += 1
            over = not self._poll(incoming, None) and self.look()
        else:
            over = self.wait_and_look(incoming, deadline_s)
        while True:
            message = incoming.try_receive()
            if message is not None:
                return message
            if over:
                raise self.end()
            if deadline_s is not None and time.monotonic() >= deadline_s and not self.look():
                raise TimeoutError(f"{self} brought no message within {timeout_s:g} s")
            over = self.wait_and_look(incoming, deadline_s)

    def wait_and_look(self, way: Outgoing | Incoming, deadline_s: float | None) -> bool:
        """Wait once, after a vain try; whether the other side is over: then it may have done something before, so try.

        A look costs two system calls: it is done only where the wait says that there may be something to see.
        """
        return not (self._life.over is None and self._wait_alone(way, deadline_s)) and self.look()

    def _wait_alone(self, way: Outgoing | Incoming, deadline_s: float | None) -> bool:
        """Wait for the bell or the other side's life; whether it was the bell, as far as that can be told."""
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        if left_s is not None and left_s <= 0:
            return False
        self.count_wait(way)
        if way.ready is not None:
            return self._poll(way, left_s)
        slice_s = SLICE_S if left_s is None else min(left_s, SLICE_S)
        before_s = time.monotonic()
        way.block(slice_s)
        self.check_open()
        return time.monotonic() - before_s < slice_s

"""What every kind of channel offers: what it can do, and how one message goes in and comes out.

This file knows the contract between a `Channel`, which waits, counts and knows the other process, and the kinds, which
carry. It refuses to know how any of them carries, and how anybody waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, SupportsIndex, TypeAlias

from ._patience import Patience
from ._terms import MOST_CAPACITY, ChannelStatistics, Kind, Terms

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MOST_CAPACITY",
    "WAKEUPS",
    "ChannelStatistics",
    "Incoming",
    "Kind",
    "Message",
    "Outgoing",
    "Priority",
    "Terms",
]

MAX_MESSAGE_BYTES: Final = 64 << 20
"""The longest message where nothing else limits it: a raw picture of 4K video has 33 MB, and a length that is read out
of rubbish is nearly always more."""

WAKEUPS: Final = ("eventfd", "futex", "spin")

# What a channel hands down: bytes as they are, all else as a view of single bytes.
Message: TypeAlias = bytes | memoryview
# What a caller gives: an int. It is `Channel.check_priority` that refuses all else, in a sentence; machine code that
# knows of an int would refuse it before, in words of its own.
Priority: TypeAlias = SupportsIndex


class Outgoing(ABC):
    """The way out of one end. It never waits."""

    ready: tuple[int, int] | None
    """The descriptor and the event of poll(2) that promise room; None where it cannot be polled. It may change."""
    is_rung: bool = False
    """Whether that is an eventfd that nobody has to read: each write is news, and it stays readable."""

    patience: Patience | None = None
    """Whether a try that has no room offers the core to others first; None where none does, and for event loops."""
    rest: memoryview | None = None
    """What is still to `flush` of a message that was taken."""

    @property
    @abstractmethod
    def descriptors(self) -> tuple[int, ...]:
        """What another process needs to go on with it, in the order in which the kind's ``outgoing`` takes them."""

    @abstractmethod
    def try_send(self, message: Message, priority: int) -> bool:
        """Take a message whole, or say that there is no room. A part of it may still be to `flush`."""

    def try_send_many(self, messages: Sequence[Message], first: int) -> int:
        """Take as many messages from the ``first`` on as can be taken at once; says how many."""
        return int(self.try_send(messages[first], 0))

    def flush(self) -> bool:
        """Whether all that was taken has gone out; goes on with it first."""
        return True

    def block(self, timeout_s: float) -> None:
        """Wait for room, not longer than this, where ``ready`` is None. May end early."""
        raise NotImplementedError

    def finish(self, alone: bool) -> None:  # noqa: B027 — most have nothing to do
        """The process that used this end is about to close it; ``alone`` says that nobody has the other one."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the kernel gave; once."""


class Incoming(ABC):
    """The way into one end. It never waits."""

    ready: tuple[int, int] | None
    """The descriptor and the event of poll(2) that promise a message; None where it cannot be polled. It may change."""
    is_rung: bool = False
    """Whether that is an eventfd that nobody has to read: each write is news, and it stays readable."""
    hungry: int = 0
    """For how many messages more who receives waits before it tries; a try that finds nothing costs a system call."""
    moment_s: float = 0.0
    """How long `receive_soon` may sleep; 0 where it does not."""
    patience: Patience | None = None
    """Whether a try that finds nothing offers the core to others first; None where none does, and for event loops."""

    @property
    @abstractmethod
    def descriptors(self) -> tuple[int, ...]:
        """What another process needs to go on with it, in the order in which the kind's ``incoming`` takes them."""

    @abstractmethod
    def try_receive(self) -> bytes | None:
        """The next message, or None where there is none yet. Raises ``EOFError`` where none can come any more."""

    def receive_soon(self) -> bytes | None:
        """As `try_receive`, but a call that finds nothing may sleep in the kernel for ``moment_s``.

        It sees no death meanwhile. Who is answered within it pays one system call, not one to wait and one to read.
        """
        return self.try_receive()

    def count_dropped(self) -> int:
        """How many messages came torn."""
        return 0

    def try_receive_many(self, most: int) -> list[bytes]:
        """Up to so many messages that are there. Raises ``EOFError`` where none is and none can come any more."""
        messages: list[bytes] = []
        while len(messages) < most:
            try:
                message = self.try_receive()
            except (EOFError, ConnectionError):
                if messages:
                    break  # it will be met again
                raise
            if message is None:
                break
            messages.append(message)
        return messages

    def block(self, timeout_s: float) -> None:
        """Wait for a message, not longer than this, where ``ready`` is None. May end early."""
        raise NotImplementedError

    def finish(self, alone: bool) -> None:  # noqa: B027 — most have nothing to do
        """The process that used this end is about to close it; ``alone`` says that nobody has the other one."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the kernel gave; once."""

"""What every kind of channel offers: what it can do, and how one message goes in and comes out.

This file knows the contract between a `Channel`, which waits, counts and knows the other process, and the kinds, which
carry. It refuses to know how any of them carries, and how anybody waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ._patience import Patience

MAX_MESSAGE_BYTES: Final = 64 << 20
"""The longest message where nothing else limits it: a raw picture of 4K video has 33 MB, and a length that is read out
of rubbish is nearly always more."""

MOST_CAPACITY: Final = 2**31 - 1
"""What the kernel takes for the size of a pipe's or a socket's buffer is an int: fcntl(2), socket(7)."""

WAKEUPS: Final = ("eventfd", "futex", "spin")

# What a channel hands down: bytes as they are, all else as a view of single bytes.
Message: TypeAlias = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Kind:
    """What one kind of channel can do.

    ``max_message_bytes`` is the most that it can be made for, ``usual_message_bytes`` what it is made for where nobody
    asks (0: the most), and ``limited_by`` what of this machine limits it, as sysctl(8) names it;
    ``survives_process`` that what was sent outlives all processes, where it is made ``persistent``;
    ``unrelated_processes`` that it can have a name; ``many_senders`` that several processes may send on it;
    ``zero_copy`` that a message can be written and read where it is; ``wakeups`` are how who waits can be woken, the
    usual one first, and none where the kernel does that; ``max_capacity`` is the most room that it can be made with.
    """

    name: str
    summary: str
    max_message_bytes: int
    one_way: bool
    usual_message_bytes: int = 0
    limited_by: str = ""
    crosses_machines: bool = False
    survives_process: bool = False
    unrelated_processes: bool = True
    many_senders: bool = False
    priorities: bool = False
    zero_copy: bool = False
    wakeups: tuple[str, ...] = ()
    max_capacity: int = MOST_CAPACITY


@dataclass(frozen=True, slots=True)
class Terms:
    """What both ends of one channel agree on.

    ``capacity`` is how much it holds before a sender waits: about so many bytes or more, and always the longest
    message; or exactly so many messages where the kind counts them; 0 leaves it to the kind. ``wakeup`` is how a
    process that waits for shared memory is woken.
    """

    kind: str
    max_message_bytes: int
    capacity: int = 0
    wakeup: str = "eventfd"


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What went through one end since it was made, and how often it had to wait.

    ``messages_dropped`` counts those that were torn by the death of their sender.
    """

    messages_sent: int
    bytes_sent: int
    messages_received: int
    bytes_received: int
    send_waits: int
    receive_waits: int
    messages_dropped: int


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
    dropped: int = 0
    """How many messages came torn."""

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

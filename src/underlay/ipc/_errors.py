"""What can go wrong with a channel: one clear error each, with the sentence that mends it.

This file knows who can be at fault: the caller, the process at the other end, or somebody who used a name before. It
refuses to know any kind of channel. A failed system call stays the ``OSError`` that the kernel gave.
"""

from __future__ import annotations

import errno
import threading

from ..errors import UnderlayError, UsageError


class PeerGone(UnderlayError, ConnectionError):
    """The other end has no process any more: it died without closing, an exception left its ``with``, or nobody is left
    who would receive.

    What it had sent before is received first.
    """


class EndOfMessages(UnderlayError, EOFError):
    """The other end was closed, and all that it had sent is received."""


class ChannelClosed(UnderlayError, ValueError):
    """This end was closed before, by its own process."""


class SentInPart(UnderlayError, TimeoutError):
    """The time was over when a part of a message was with the kernel already: it must not be sent again.

    The next call on this end, its `close` among them, sends the rest first.
    """


class MessageTooLong(UsageError, OSError):
    """A message is longer than the channel takes; nothing of it was sent. ``errno`` is EMSGSIZE.

    >>> error = MessageTooLong(9, 8, "the pipe")
    >>> print(error)
    a message of 9 bytes is longer than the 8 that the pipe takes; send it in parts, or allow more max_message_bytes
    >>> error.errno == errno.EMSGSIZE
    True
    """

    def __init__(
        self,
        size_bytes: int,
        max_message_bytes: int,
        what: str,
        remedy: str = "send it in parts, or allow more max_message_bytes",
    ) -> None:
        super().__init__(
            f"a message of {size_bytes:,} bytes is longer than the {max_message_bytes:,} that {what} takes",
            remedy=remedy,
        )
        self.errno = errno.EMSGSIZE
        self.size_bytes = size_bytes


class NameTaken(UnderlayError, FileExistsError):
    """A process that lives has the name, or a file that is none of ours lies there."""


class StaleName(UnderlayError, FileExistsError):
    """A process that is dead left a channel of this name behind."""


class NoSuchName(UnderlayError, FileNotFoundError):
    """Nobody has made a channel of this name."""


class WrongOwner(UnderlayError, PermissionError):
    """What names are kept in, or who answers under one, is not this user's alone."""


class FolderLocked(UnderlayError, TimeoutError):
    """Another process keeps the folder of names locked: it was stopped just then, by Ctrl-Z or a debugger."""


class HandshakeFailed(UnderlayError, ConnectionError):
    """Who answers under a name does not speak as this version of this library does."""


class HolderDied(UnderlayError, RuntimeError):
    """A process died while it had this lock: what that guards may be half done."""


class BrokenBarrier(UnderlayError, threading.BrokenBarrierError):
    """Not all will come to a barrier: one of the processes died or waited too long, or somebody called it off."""


class Damaged(UnderlayError):
    """What two processes share says what no end of a channel writes: another program wrote into it.

    Nothing outside it was touched. The channel is of no use any more.
    """


class ViewKept(UsageError, BufferError):
    """A part of a borrowed or lent view of shared memory was kept where the view ended."""

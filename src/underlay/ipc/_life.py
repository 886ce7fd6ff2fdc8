"""Whether the process at the other end lives: who it is, and whether it closed its end, failed, or died.

Each end holds one of a pair of Unix sockets besides what carries the messages. Over it an end says which process uses
it (with a pidfd, that no other process can be taken for it), and that it is closed, or abandoned. This
file knows these records. It refuses to know how messages are carried, and who waits.

The end of a pipe alone does not tell of a death. After fork(2) the child has copies of both ends, and its own copy of
the far one keeps the pipe open for ever: the best-known trap of ``multiprocessing.Pipe``. And a message queue, a signal
or shared memory has no end at all.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import enum
import os
import select
import socket
import struct
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Final, Protocol

from ._end import End, close_all

if TYPE_CHECKING:
    from ._meeting import Meeting

_RECORD: Final = struct.Struct("=ci")  # what, the process
_OPEN: Final = b"O"
_CLOSED: Final = b"C"
_ABANDONED: Final = b"A"
_LENT: Final = b"L"
_MOST_DESCRIPTORS: Final = 1
# A dying process gives back its descriptors one after the other, and then its pidfd becomes readable.
_DEATH_IS_SEEN_S: Final = 0.2

process = object()
"""Another object in each process: a channel that was last used in another one sees it by comparing."""
_used_here: weakref.WeakSet[SaysClosed] = weakref.WeakSet()
_will_say: object = None  # the process in which all will be told at the exit
_handled_at_the_fork: BaseException | None = None


def _forked() -> None:
    global process, _used_here, _handled_at_the_fork
    process, _used_here, _handled_at_the_fork = object(), weakref.WeakSet(), sys.exception()


os.register_at_fork(after_in_child=_forked)


def is_failure(error: BaseException) -> bool:
    """Whether an exception leaves something undone: not the end of a generator, nor an exit that says that all is well.

    >>> is_failure(SystemExit(0)), is_failure(SystemExit(3)), is_failure(GeneratorExit()), is_failure(ValueError())
    (False, True, False, True)
    """
    if isinstance(error, SystemExit):
        return error.code not in (None, 0)
    return not isinstance(error, GeneratorExit)


def _exits_for() -> BaseException | None:
    """The exception for which this process exits, as far as Python tells: it says no exit status to atexit."""
    # multiprocessing runs its finalizers while that of the process's work is raised; since 3.13 it does so later.
    raised = sys.exception()
    if raised is not None and raised is not _handled_at_the_fork:
        return raised
    # What ended the program itself has been printed by now, and noted. At a prompt that may be long ago.
    return None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)


def _exits() -> None:
    error = _exits_for()
    failed = error is not None and is_failure(error)
    with contextlib.ExitStack() as telling:  # all of them, whatever one of them raises
        for each in list(_used_here):
            if failed and isinstance(each, Life):
                each.failed = True
            telling.callback(each.say_closed)


class SaysClosed(Protocol):
    """Somebody is to know that it is closed."""

    def say_closed(self) -> None:
        """Say it, where it was not said yet."""


def close_at_exit(thing: SaysClosed) -> None:
    """Have it say so, should this process exit."""
    _used_here.add(thing)
    # At an ordinary exit of a process nobody calls close(); that it has ended well is known only here. Processes of
    # multiprocessing leave by os._exit() and know only its own finalizers, all others only atexit.
    global _will_say
    if _will_say is not process:
        _will_say = process
        Finalize(None, _exits, exitpriority=0)
        atexit.register(_exits)


class Over(enum.Enum):
    """Why nothing more will come from the other end."""

    CLOSED = "was closed"
    ABANDONED = "was left by an exception"
    DIED = "died without closing it"


LOST: Final = frozenset({Over.ABANDONED, Over.DIED})
"""After these it is not known whether all that was to come has come."""


class Life(ABC):
    """One end's knowledge of the other."""

    def __init__(self) -> None:
        self._opened_in: object = None
        self.failed = False
        """Whether this process leaves its work on the end undone: that is said in place of a close."""
        self.over: Over | None = None
        """Why nothing more will come, as far as `look` saw."""
        self.before_close: Callable[[int], None] | None = None
        """Is told of each watched descriptor that is about to be given back."""
        self.version = 0
        """Is another one when `waits` is."""
        self.who = 0
        """The process that was the last to be there, or 0."""

    @property
    @abstractmethod
    def descriptor(self) -> int | None:
        """What another process needs to go on with it, besides what carries the messages."""

    @property
    def alone(self) -> bool:
        """Whether the other side is still awaited, under a name."""
        return False

    @property
    def address(self) -> str | None:
        """Where it is in a network: host:port."""
        return None

    # --- this side ---

    @property
    def announced(self) -> bool:
        """Whether this process said that it uses the end."""
        return self._opened_in is process

    def announce(self) -> None:
        """Say that this process uses the end from now on, and that it closed it, should it exit."""
        self._say_open()
        self._opened_in = process
        close_at_exit(self)

    def say_closed(self) -> None:
        """Say that the end is closed, where it was used in this process and that was not said yet."""
        if self._opened_in is process:
            self._opened_in = None
            self._say_closed()

    def lend(self) -> None:
        """Another process goes on with the end: this one no longer speaks for it."""
        if self._opened_in is process:
            self._opened_in = None
            self._say_lent()

    @abstractmethod
    def _say_open(self) -> None: ...

    @abstractmethod
    def _say_closed(self) -> None: ...

    @abstractmethod
    def _say_lent(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Say that the end is closed, where it was used here; give back what the kernel gave."""

    # --- the other side ---

    @abstractmethod
    def waits(self) -> tuple[int, ...]:
        """The descriptors that become readable when there is something to `look` at."""

    @abstractmethod
    def await_over(self) -> None:
        """The kernel says that nobody is there: wait until it is known why, which is a moment later at most."""

    @abstractmethod
    def look(self) -> None:
        """Bring ``over`` and ``who`` up to date."""


class LocalLife(Life):
    """On one machine; ``many`` processes may be at the other end where a kind has many senders."""

    def __init__(self, record_socket: socket.socket, *, many: bool = False) -> None:
        super().__init__()
        record_socket.setblocking(False)
        self._socket = record_socket
        self._many = many
        self._first_lost: tuple[int, Over] | None = None  # of many
        self._pidfds: dict[int, int] = {}
        self._meeting: Meeting | None = None
        self._awaited: int | None = 0  # how many are still to come; None for any number
        self._other_end: End | None = None

    @property
    def descriptor(self) -> int | None:
        """What another process needs to go on with it, besides what carries the messages."""
        return self._socket.fileno()

    @property
    def alone(self) -> bool:
        """Whether the other side is still awaited, under a name."""
        return self._meeting is not None and not self._meeting.many

    def expect(self, meeting: Meeting, other_end: End, visitors: int | None) -> None:
        """The other end is for so many that come for it to a meeting, or for any number; until then it is kept here."""
        self._meeting, self._other_end, self._awaited = meeting, other_end, visitors
        meeting.before_close = self._about_to_close

    def _meet(self) -> None:
        meeting = self._meeting
        if meeting is not None:
            before = meeting.waits()
            came = meeting.answer() is not None
            if came and self._awaited is not None:
                self._awaited -= 1
            if came and self._awaited == 0:
                self._expect_no_more()
            elif meeting.waits() != before:
                self.version += 1

    def _expect_no_more(self) -> None:
        self.version += 1
        meeting, self._meeting = self._meeting, None
        other_end, self._other_end = self._other_end, None
        with contextlib.ExitStack() as closing:
            if other_end is not None:
                closing.callback(other_end.close)
            if meeting is not None:
                closing.callback(meeting.close)

    # --- this side ---

    def _say_open(self) -> None:
        own = os.pidfd_open(os.getpid())
        try:
            self._say(_OPEN, own)
        finally:
            os.close(own)

    def _say_closed(self) -> None:
        with contextlib.ExitStack() as closing:
            closing.callback(self._say, _ABANDONED if self.failed else _CLOSED)
            closing.callback(self._expect_no_more)
            self._meet()  # who knocks already gets what was sent

    def _say_lent(self) -> None:
        self._say(_LENT)

    def close(self) -> None:
        """Say that the end is closed, where it was used here; give back what the kernel gave."""
        with contextlib.ExitStack() as closing:
            closing.callback(self._pidfds.clear)
            for pidfd in self._pidfds.values():
                closing.callback(os.close, pidfd)
            closing.callback(self._socket.close)
            closing.callback(self._expect_no_more)
            self.say_closed()

    def _say(self, what: bytes, *descriptors: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._socket.sendmsg([_RECORD.pack(what, os.getpid())], rights, socket.MSG_NOSIGNAL)
        except (OSError, ValueError):
            pass  # nobody is there who could hear it; or it has been told so often that it need not be told again

    # --- the other side ---

    def waits(self) -> tuple[int, ...]:
        """The descriptors that become readable when there is something to `look` at."""
        knocks = () if self._meeting is None else self._meeting.waits()
        return (self._socket.fileno(), *self._pidfds.values(), *knocks)

    def await_over(self) -> None:
        """The kernel says that nobody is there: wait until it is known why, which is a moment later at most."""
        self.look()
        if self.over is None:
            poller = select.poll()
            for descriptor in self.waits():
                poller.register(descriptor, select.POLLIN)
            poller.poll(1000 * _DEATH_IS_SEEN_S)
            self.look()

    def look(self) -> None:
        """Bring ``over`` and ``who`` up to date; let in who was awaited."""
        if self._meeting is not None:
            self._meet()
        if self.over is not None and not self._many:  # where there may be many, another may have come
            return
        while self._take_record():
            pass
        if self._pidfds and self.over is None:
            poller = select.poll()
            for pidfd in self._pidfds.values():
                poller.register(pidfd, select.POLLIN)
            dead = {pidfd for pidfd, _ in poller.poll(0)}
            if dead:
                # What it said last, that it closed, may have come since.
                while self._take_record():
                    pass
                for pid, pidfd in list(self._pidfds.items()):
                    if pidfd in dead:
                        self._forget(pid)
                        self._lose(pid, Over.DIED)

    def _take_record(self) -> bool:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                _RECORD.size, socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except ConnectionError:
            # The other end closed with records of ours unread. The error comes before what it had said, and once.
            return True
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) // 4 * 4])
        if len(data) < _RECORD.size:  # all who had the other end are gone
            if self.over is None and self._first_lost is not None:
                self.who, self.over = self._first_lost
            elif self.over is None:
                self.over = Over.DIED if self._pidfds else Over.CLOSED
            close_all(descriptors)
            return False
        what, pid = _RECORD.unpack(data)
        if what == _OPEN and descriptors:
            self._forget(pid)
            self._pidfds[pid] = descriptors.pop(0)
            self.version += 1
            self.who = pid
            self.over = None
        elif what == _LENT:
            self._forget(pid)
        elif what == _ABANDONED:
            self._forget(pid)
            self._lose(pid, Over.ABANDONED)
        elif what == _CLOSED:
            self._forget(pid)
            # Of many, others may be about to begin, whom nobody knows yet: only the kernel knows when there are none.
            if not self._pidfds and not self._many:
                self.over = Over.CLOSED
        close_all(descriptors)
        return self._many or self.over is None

    def _lose(self, pid: int, over: Over) -> None:
        if self._many:  # the others go on, and it is told when all of them have gone
            self._first_lost = self._first_lost or (pid, over)
        elif self.over is None:
            self.who, self.over = pid, over

    def _forget(self, pid: int) -> None:
        pidfd = self._pidfds.pop(pid, None)
        if pidfd is not None:
            self.version += 1
            self._about_to_close(pidfd)
            os.close(pidfd)

    def _about_to_close(self, descriptor: int) -> None:
        if self.before_close is not None:
            self.before_close(descriptor)


class Unattended(Life):
    """Nobody is at the other end, or anybody: of a channel that outlives its processes."""

    @property
    def descriptor(self) -> int | None:
        """None: there is none."""
        return None

    def _say_open(self) -> None:
        pass

    def _say_closed(self) -> None:
        pass

    def _say_lent(self) -> None:
        pass

    def close(self) -> None:
        """Nobody is told."""

    def waits(self) -> tuple[int, ...]:
        """None: nothing will be heard."""
        return ()

    def await_over(self) -> None:
        """It never is."""

    def look(self) -> None:
        """There is nothing to see."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The two sockets of one channel's two ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

"""Real-time signals (signal(7)) that carry up to seven bytes each: the smallest of all queues.

This file knows pidfd_send_signal(2) and signalfd(2). It refuses to know what is done about a death.

A signal is sent to a process, and a channel is made before it is known which process will receive. So the receiver
says over a socket who it is, with a pidfd, that no signal reaches another process that has got its number; what is
sent before that waits in the same socket. The sender's last word there is that it goes on with signals.

**A signal that is not blocked kills** whoever gets it, and the kernel gives it to any thread that does not block it.
So it is blocked where the channel is made, which threads that start later inherit, and stays so; a thread that does
not block it is an error at the first receive, before anything is sent.

**Room.** The kernel keeps as many signals as RLIMIT_SIGPENDING says, for all programs of a user; so a channel has room
for a number of its own, and both ends count in a page that they share.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import secrets
import select
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import UsageError
from . import _descriptors, _libc, _memory
from ._contract import Incoming, Kind, Message, Outgoing, Terms
from ._end import close_all, copies
from ._page import Page, make_bell, silence

KIND: Final = Kind(
    name="signal",
    summary="real-time signals with a value, signal(7)",
    max_message_bytes=7,  # a value has eight bytes, one of them for the length
    one_way=True,
)
# A hundredth of what a user may have pending where RLIMIT_SIGPENDING is as low as it is found, and more than is needed
# for a sender and a receiver to run beside each other.
_CAPACITY: Final = 64
_READ_AT_ONCE: Final = 16
# struct signalfd_siginfo (signalfd(2)): 128 bytes; its ssi_errno, ssi_code and ssi_ptr.
_SIGINFO: Final = struct.Struct("=4xii36xQ72x")
_RECEIVER: Final = struct.Struct("=ii")  # the signal, and the mark that each has
_MESSAGE, _SIGNALS_FOLLOW = b"M", b"S"
# The words of the page.
_SENT, _TAKEN, _SENDER_SLEEPS = 0, 1, 2

_in_use: set[int] = set()


def make(terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out: a page, a socket and an eventfd each."""
    made: list[int] = []
    try:
        page = _memory.create("underlay.signal", _memory.PAGE_BYTES)
        made.append(page)
        made.append(make_bell())
        made += copies(made)
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made += [each.detach() for each in ends]
    except BaseException:
        close_all(made)
        raise
    return (made[0], made[4], made[1]), (made[2], made[5], made[3])


def check(terms: Terms, descriptors: tuple[int, ...], writes: bool) -> None:
    """Raise ``ValueError`` where a way cannot be made of these."""
    _descriptors.check_number(descriptors, 3)
    page, meeting, room_bell = descriptors
    _descriptors.check_memory(page, _memory.PAGE_BYTES)
    _descriptors.check_socket(meeting, (socket.AF_UNIX,), socket.SOCK_SEQPACKET)
    _descriptors.check_eventfd(room_bell)


def outgoing(terms: Terms, page: int, meeting: int, room_bell: int) -> SignalOutgoing:
    """The way out by signals."""
    return SignalOutgoing(page, meeting, room_bell, terms.capacity or _CAPACITY)


def incoming(terms: Terms, page: int, meeting: int, room_bell: int) -> SignalIncoming:
    """The way in by signals; blocks one from now on."""
    return SignalIncoming(page, meeting, room_bell)


class SignalOutgoing(Outgoing):
    """Sends messages as signals to the process that receives."""

    def __init__(self, page: int, meeting: int, room_bell: int, capacity: int) -> None:
        self._descriptors = page, meeting, room_bell
        self._page = Page(page)
        self._sent = self._page.word(_SENT)
        self._taken = self._page.word(_TAKEN)
        self._sleeps = self._page.word(_SENDER_SLEEPS)
        self._meeting = socket.socket(fileno=meeting)
        self._meeting.setblocking(False)
        self._room_bell = room_bell
        self._capacity = capacity
        self._pidfd = -1
        self._queue: Callable[[], int]
        self._info = _libc.SigInfo(0, 0, _libc.SI_QUEUE)
        self.ready = (room_bell, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The page, the socket where both meet, and the eventfd for room."""
        return self._descriptors

    def try_send(self, message: Message, priority: int) -> bool:
        """Take a message whole, or say that there is no room."""
        in_flight = self._sent[0] - self._taken[0]
        if in_flight >= self._capacity and not self._has_room(self._capacity):
            return False
        if self._pidfd < 0 and not self._meet():
            try:
                self._meeting.send(_MESSAGE + message, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return self._full()
        else:
            self._info.si_value = len(message) | int.from_bytes(message, "little") << 8
            while self._queue():
                error = _libc.failure("pidfd_send_signal")
                if error.errno == errno.ESRCH:
                    raise ConnectionResetError(errno.ESRCH, str(error)) from error
                if error.errno != errno.EAGAIN:
                    raise error
                if not self._has_room(self._sent[0] - self._taken[0]):
                    return self._full()
        self._sent[0] += 1
        return True

    def _has_room(self, fewer_than: int) -> bool:
        # The sleeper's word is stored before the eventfd is read, whose lock is a barrier to both sides' loads; the
        # receiver stores what it took, looks at this word, and looks once more after its next system call.
        self._sleeps[0] = 1
        silence(self._room_bell)
        if self._sent[0] - self._taken[0] >= fewer_than:
            return False
        self._sleeps[0] = 0
        return True

    def _full(self) -> bool:
        if self._sent[0] == self._taken[0]:
            raise UsageError(
                "this user has as many signals pending as the receiving process may have, and none is of this channel",
                remedy="raise its RLIMIT_SIGPENDING (ulimit -i)",
            )
        return False

    def _meet(self) -> bool:
        """Whether it is known who receives."""
        try:
            data, ancillary, _, _ = self._meeting.recvmsg(_RECEIVER.size, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        descriptors = array.array("i")
        for _, _, content in ancillary:
            descriptors.frombytes(content[: len(content) // 4 * 4])
        if not data or not descriptors:
            raise ConnectionResetError(errno.ESRCH, "nobody has the receiving end any more")
        self._info.si_signo, self._info.si_errno = _RECEIVER.unpack(data)
        self._info.si_pid, self._info.si_uid = os.getpid(), os.getuid()
        try:
            # There is room: a socket takes more than a channel of signals may have on its way.
            self._meeting.send(_SIGNALS_FOLLOW, socket.MSG_NOSIGNAL)
        except BaseException:
            os.close(descriptors[0])
            raise
        self._pidfd = descriptors[0]
        self._queue = _libc.pidfd_send_signal(self._pidfd, self._info)
        return True

    def close(self) -> None:
        """Close what it has."""
        page, _, room_bell = self._descriptors
        self._page.close()
        with contextlib.closing(self._meeting):
            close_all(each for each in (page, room_bell, self._pidfd) if each >= 0)


class SignalIncoming(Incoming):
    """Receives messages as signals, through a signalfd."""

    def __init__(self, page: int, meeting: int, room_bell: int) -> None:
        self._signal = _take_signal()  # first: where there is none, no socket object has the descriptor yet
        self._descriptors = page, meeting, room_bell
        self._page = Page(page)
        self._taken = self._page.word(_TAKEN)
        self._sender_sleeps = self._page.word(_SENDER_SLEEPS)
        self._meeting = socket.socket(fileno=meeting)
        self._meeting.setblocking(False)
        self._room_bell = room_bell
        self._mark = secrets.randbits(31)
        self._signals = -1
        self._by_signals = False
        self._read: deque[bytes] = deque()
        self.ready = (meeting, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The page, the socket where both meet, and the eventfd for room."""
        return self._descriptors

    def try_receive(self) -> bytes | None:
        """The next message, or None where there is none yet."""
        if not self._read:
            if not self._by_signals:
                self._read_meeting()
            if self._by_signals and not self._read:
                self._read_signals()
        message = None
        if self._read:
            message = self._read.popleft()
            self._taken[0] += 1
            if self._read:
                self.hungry = 0  # who waits for the signalfd would not find what was read already
        if self._sender_sleeps[0]:
            self._sender_sleeps[0] = 0
            os.eventfd_write(self._room_bell, 1)
        return message

    def _read_signals(self) -> None:
        while not self._read:
            try:
                data = os.read(self._signals, _READ_AT_ONCE * _SIGINFO.size)
            except BlockingIOError:
                return
            for mark, code, value in _SIGINFO.iter_unpack(data):
                # Others are somebody else's, or were on their way when the channel before this one was closed.
                if mark == self._mark and code == _libc.SI_QUEUE:
                    self._read.append((value >> 8).to_bytes(7, "little")[: value & 0xFF])

    def _read_meeting(self) -> None:
        if self._signals < 0:
            self._meet()
        try:
            try:
                data = self._meeting.recv(1 + KIND.max_message_bytes)
            except ConnectionResetError:
                # The sender closed before it read who receives. The error comes before what it had sent, and once.
                data = self._meeting.recv(1 + KIND.max_message_bytes)
        except BlockingIOError:
            return
        if not data:
            raise EOFError
        if data == _SIGNALS_FOLLOW:
            self._by_signals = True
            self.ready = (self._signals, select.POLLIN)
        else:
            self._read.append(data[1:])

    def _meet(self) -> None:
        """Say who receives, once it is certain that no signal can kill this process."""
        _check_threads(self._signal)
        signals = _libc.SigSet()
        signals.bits[(self._signal - 1) // 64] = 1 << (self._signal - 1) % 64
        self._signals = _libc.signalfd(-1, signals, _libc.SFD_NONBLOCK | _libc.SFD_CLOEXEC)
        if self._signals < 0:
            raise _libc.failure("signalfd")
        own = os.pidfd_open(os.getpid())
        try:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [own]))
            self._meeting.sendmsg([_RECEIVER.pack(self._signal, self._mark)], [rights], socket.MSG_NOSIGNAL)
        except ConnectionError:
            pass  # nobody will send; what was sent is still to be read
        finally:
            os.close(own)

    def close(self) -> None:
        """Close what it has. The signal stays blocked: one that is on its way must not kill."""
        _in_use.discard(self._signal)
        page, _, room_bell = self._descriptors
        self._page.close()
        try:
            if self._signals >= 0:
                self._read.clear()
                self._read_signals()
                while self._read:
                    self._read.clear()
                    self._read_signals()
        finally:
            with contextlib.closing(self._meeting):
                close_all(each for each in (page, room_bell, self._signals) if each >= 0)


# --- signals of this process ---


def _take_signal() -> int:
    """A real-time signal that nobody here uses, blocked from now on in this thread and those it starts."""
    for number in range(signal.SIGRTMAX, signal.SIGRTMIN - 1, -1):
        if number not in _in_use and signal.getsignal(number) is signal.SIG_DFL:
            signal.pthread_sigmask(signal.SIG_BLOCK, {number})
            _in_use.add(number)
            return number
    raise UsageError(
        f"all {signal.SIGRTMAX - signal.SIGRTMIN + 1} real-time signals are in use in this process",
        remedy="close some channels of this kind, or take another one",
    )


def _check_threads(number: int) -> None:
    """Raise ``UsageError`` where a thread does not block the signal: it would kill the process."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        except OSError:
            continue  # it has ended
        if not int(status["SigBlk"], 16) >> (number - 1) & 1:
            found.append(f"{status['Name']} ({task.name})")
    if found:
        raise UsageError(
            f"signal {number} would kill this process: it is not blocked in the threads {', '.join(sorted(found))}",
            remedy="make the channel before these threads start, in the thread that starts them",
        )

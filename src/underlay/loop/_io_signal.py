"""Model 4, signal-driven I/O: the kernel sends a real-time signal for each change of readiness, and the loop
waits for signals.

This file knows F_SETSIG, F_SETOWN_EX, O_ASYNC and sigtimedwait(2). It does not know who watches a descriptor;
what a signal won't repeat is remembered in ``_edges.py``.

Cost: one rt_sigtimedwait per change (signals come one by one), four fcntl(2) per descriptor at first.

Traps of the kernel, each with a test in tests/loop/test_io_signal.py:

* Python's ``struct_siginfo`` has no si_fd, but the kernel's union puts it where SIGCHLD has si_status
  (sigaction(2)).
* The owner must be the *thread* (F_SETOWN_EX with F_OWNER_TID): a signal for the process may be taken by any
  thread that doesn't block it, and real-time signals kill by default.
* The queue is bounded (RLIMIT_SIGPENDING). When it is full the kernel sends plain SIGIO without a descriptor,
  once: the remedy is to ask poll(2) about all of them.
* Signals are per change and stay queued: data that one read took may still have signals to come. Our own
  transports take EAGAIN for an answer; for everyone else's callbacks poll(2) confirms a signal first.
* The end of a stream may be signalled before its last data is read: after a second signal a short read proves
  nothing, and poll(2) is asked about that descriptor in the next turn.
* eventfd, pidfd, timerfd and files have no O_ASYNC, and F_SETFL says nothing: only F_GETFL tells. While one
  of those is watched, the wait is cut in slices of `SLICE_S` and poll(2) asked in between.
* A Unix socket signals new space only to whom send() said EAGAIN *while O_ASYNC was on*
  (SOCKWQ_ASYNC_NOSPACE, which poll(2) sets for TCP but not here). One that is watched for writing by anyone but
  our own transport, which writes until EAGAIN, or is watched first for writing, is therefore treated like those
  without O_ASYNC for as long.
* A blocked signal stays blocked across exec, so a subprocess starts with this one (and SIGIO) blocked; it is
  of no use to it.
* O_ASYNC and the owner belong to the open file, which a forked child shares: a child that closes the inherited
  loop leaves them alone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import signal
import socket
import struct
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVarTuple, Unpack

from ..errors import UnderlayError
from ._edges import Edges, merged
from ._reactor import LONGEST_WAIT_S, READ, WRITE, ReactorLoop
from ._real_time_signals import free_signals as _free_signals
from ._transport import READS_BY_TRYING, StreamTransport

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

_Ts = TypeVarTuple("_Ts")

# asm-generic/fcntl.h; Python's fcntl module names them since 3.13.
_F_SETOWN_EX: Final = 15
_F_OWNER_TID: Final = 0
_OWNER: Final = struct.Struct("ii")  # struct f_owner_ex: type, pid

# The bits of si_band that the reactor understands; the kernel adds POLLRDNORM and POLLWRBAND, which nobody asked for.
_BAND: Final = READ | WRITE | select.POLLERR | select.POLLHUP

_PER_TURN: Final = 256  # signals taken before callbacks get their turn; a queue can hold tens of thousands
# How late a descriptor without O_ASYNC may be noticed: 200 wake-ups a second while one is watched.
SLICE_S: Final = 0.005

# Numbers of closed loops that other threads still block, perhaps with some queued: only they can change their mask.
_still_blocked: Final[dict[int, set[int]]] = {}
_pollers: Final[weakref.WeakSet[SignalPoller]] = weakref.WeakSet()


class SignalPoller:
    """Changes of readiness as real-time signals to one thread; `edges` remembers what may be left of them."""

    def __init__(self) -> None:
        _take_back_numbers()
        try:
            # Each loop has its own, so that two loops of one thread don't take each other's.
            self._signo = _free_signals.pop()
        except IndexError:
            raise UnderlayError(
                "every real-time signal is taken by another signal-driven loop of this process",
                remedy="close loops that are no longer used",
            ) from None
        self._signals = (self._signo, signal.SIGIO)
        self._thread_id = 0  # none yet: the thread that makes a loop need not be the one that runs it
        self._blocking_threads: set[int] = set()  # those that were told to block the signals
        self._process_id = os.getpid()
        self._without_signals: set[int] = set()
        self._silent_writers: set[int] = set()  # Unix sockets that may not signal space
        self.edges = Edges()
        self._announced_twice: set[int] = set()
        self.tried: set[int] = set()  # descriptors whose readers take EAGAIN for an answer
        self.overflows = 0  # times that the queue was full, and everything was asked
        _pollers.add(self)

    def adopt_thread(self) -> None:
        """Have the signals sent to the calling thread, which from now on doesn't die of them but may wait for them."""
        thread_id = threading.get_native_id()
        if thread_id == self._thread_id:
            return
        _take_back_numbers()
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._blocking_threads.add(thread_id)
        self._thread_id = thread_id
        for fd, events in list(self.edges.watched.items()):
            with suppress(OSError):  # closed while watched: it has no more signals to come
                self.add(fd, events)

    def add(self, fd: int, events: int) -> None:
        """Have changes of `fd` signalled; what is ready already counts as announced."""
        if self._thread_id:
            fcntl.fcntl(fd, _F_SETOWN_EX, _OWNER.pack(_F_OWNER_TID, self._thread_id))
            fcntl.fcntl(fd, fcntl.F_SETSIG, self._signo)
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
            if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ASYNC:
                self._without_signals.add(fd)
        else:
            fcntl.fcntl(fd, fcntl.F_GETFL)  # whoever waits will come back to it, but a closed one is refused now
        if events & WRITE:
            self.doubt_space(fd)
        self.modify(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Watch `fd` for these events instead; signals come for all of them anyway."""
        self.edges.watched[fd] = events
        self.edges.add(fd)
        if not events & READ:
            self.tried.discard(fd)
        if not events & WRITE:
            self._silent_writers.discard(fd)

    def doubt_space(self, fd: int) -> None:
        """Don't rely on signals of space for `fd`, if it is a Unix socket, while it is watched for writing."""
        if _is_unix_socket(fd):
            self._silent_writers.add(fd)

    def remove(self, fd: int) -> None:
        """Have no more signals sent for `fd`; those that are queued find nobody watching."""
        self.edges.forget(fd)
        self.tried.discard(fd)
        self._without_signals.discard(fd)
        self._silent_writers.discard(fd)
        if os.getpid() != self._process_id:
            return
        with suppress(OSError):  # closed first: nothing to undo
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_ASYNC)

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Wait for a signal, but not while something remembered is still ready; then take what else is queued."""
        edges = self.edges
        if not self._thread_id:
            self.adopt_thread()
        if self._without_signals or self._silent_writers:
            edges |= self._without_signals
            edges |= self._silent_writers
            timeout_s = SLICE_S if timeout_s is None else min(timeout_s, SLICE_S)
        if self._announced_twice:
            edges |= self._announced_twice & edges.watched.keys()
            self._announced_twice.clear()
        remembered = edges.still_ready()
        if remembered:
            timeout_s = 0
        # sigtimedwait refuses None.
        info = signal.sigtimedwait(self._signals, LONGEST_WAIT_S if timeout_s is None else timeout_s)
        if info is None:
            return remembered

        watched, tried = edges.watched, self.tried
        announced: dict[int, int] = {}
        unconfirmed = False
        for left in range(_PER_TURN - 1, -1, -1):
            fd = info.si_status  # si_fd, see above
            if info.si_signo == signal.SIGIO:
                self._ask_everyone()
                unconfirmed = True
            elif fd in watched:
                if fd in edges:
                    self._announced_twice.add(fd)
                edges.add(fd)
                if fd in tried:
                    announced[fd] = announced.get(fd, 0) | (info.si_band & _BAND)
                else:
                    unconfirmed = True
            # A signal taken out of the queue must be heeded: take none that this turn has no place for.
            info = signal.sigtimedwait(self._signals, 0) if left else None
            if info is None:
                break
        if unconfirmed:
            remembered = edges.still_ready()
        if not remembered:
            return list(announced.items())
        return merged(announced, remembered)

    def close(self) -> None:
        """Leave no descriptor that would still signal, none of our signals queued, and the number to the next loop."""
        _pollers.discard(self)
        if os.getpid() != self._process_id:
            return  # a forked child: O_ASYNC and its owner belong to the open file, which the parent still uses
        for fd in list(self.edges.watched):
            self.remove(fd)
        _still_blocked[self._signo] = self._blocking_threads
        _take_back_numbers()

    def _ask_everyone(self) -> None:
        # SIGIO says that a queue overflowed, not whose: each signal-driven loop of this thread may have missed some.
        for poller in _pollers:
            if poller._thread_id == self._thread_id:
                poller.overflows += 1
                poller.edges.update(poller.edges.watched)


class SignalLoop(ReactorLoop):
    """asyncio driven by real-time signals, for TCP and UDP, pipes and whatever else knows O_ASYNC."""

    _poller: SignalPoller

    def __init__(self) -> None:
        poller = SignalPoller()
        super().__init__(poller, poller.edges)

    def run_forever(self) -> None:
        """Run until ``stop()``, in the calling thread, which becomes the owner of the signals."""
        self._poller.adopt_thread()
        super().run_forever()

    def _add_reader(
        self, fd: FileDescriptorLike, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts
    ) -> asyncio.Handle:
        handle = super()._add_reader(fd, callback, *args)
        if getattr(callback, "__func__", None) in READS_BY_TRYING and isinstance(fd, int):
            self._poller.tried.add(fd)
        return handle

    def _add_writer(
        self, fd: FileDescriptorLike, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts
    ) -> asyncio.Handle:
        handle = super()._add_writer(fd, callback, *args)
        if getattr(callback, "__func__", None) is not StreamTransport._write_ready:
            self._poller.doubt_space(fd if isinstance(fd, int) else self._fd_of(fd))
        return handle


def _take_back_numbers() -> None:
    """Unblock in this thread what closed loops left blocked, and free the numbers that no thread blocks any more."""
    here = threading.get_native_id()
    for signo in list(_still_blocked):
        thread_ids = _still_blocked.pop(signo, None)
        if thread_ids is None:
            continue  # another thread sees to it
        if here in thread_ids:
            # SIGIO too kills by default, so it stays blocked where another loop of this thread may yet get one.
            alone = all(here not in poller._blocking_threads for poller in _pollers)
            ours = (signo, signal.SIGIO) if alone else (signo,)
            while signal.sigtimedwait(ours, 0) is not None:
                pass
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)
            thread_ids.discard(here)
        if any(os.path.exists(f"/proc/self/task/{thread_id}") for thread_id in thread_ids):
            _still_blocked[signo] = thread_ids
        else:
            _free_signals.append(signo)


def _is_unix_socket(fd: int) -> bool:
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False  # no socket at all
    try:
        return sock.family == socket.AF_UNIX
    finally:
        sock.detach()

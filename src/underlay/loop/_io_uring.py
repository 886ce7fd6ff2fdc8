"""Model 5, asynchronous, by io_uring(7): operations are handed to the kernel, and it tells when they are *done*.

This file knows which operation stands for what asyncio wants, and what to do with each completion. It does
not know the kernel's structures (`_ring.py`) nor what asyncio promises of a connection
(`_uring_transport.py`).

What completes in the kernel: accepting, and receiving and sending of small messages on stream transports;
files (`aio.py`). What is only watched, by POLL_ADD, and then done by direct calls: `add_reader`, pipes,
``sock_*``, the loop's own wake-up, and UDP: a datagram may be 64 KiB long and can't be split over receive
buffers, of which one for every datagram would have to be that long.

Cost: one io_uring_enter(2) a turn, which submits everything and waits.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import socket
import stat
import threading
import weakref
from asyncio import events
from asyncio.log import logger
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ..errors import ModelUnavailable
from . import _ring
from ._reactor import READ, WRITE, ReactorLoop
from ._ring import Completion, ReceiveBuffers, Ring
from ._uring_listener import ACCEPTED, Listener
from ._uring_transport import KIND_BITS, RECEIVED, SENT, WOKEN, RingStreamTransport

if TYPE_CHECKING:
    import ssl

# What a completion is about, after RECEIVED, SENT and WOKEN of a stream and ACCEPTED of a listener.
POLLED: Final = 3
DONE: Final = 4
NOTHING: Final = 7  # of a cancellation: what it cancelled says so itself
_KIND_MASK: Final = (1 << KIND_BITS) - 1
# In that of a poll: its key, and from bit 40 a number, lest a poll cancelled long ago be taken for its successor.
_SERIAL_AT: Final = 40
_SERIAL_MASK: Final = (1 << 24) - 1
_KEY_MASK: Final = (1 << _SERIAL_AT - KIND_BITS) - 1

# A receive buffer holds a request of most protocols and one TLS record (2**14 bytes, RFC 8446 5.1).
BUFFER_BYTES: Final = 16384
# Lent at first, so that few connections stay within the CPU's cache; doubled whenever they run out, up to the last.
_BUFFERS_AT_FIRST: Final = 128
_BUFFERS_AT_MOST: Final = 2048  # 32 MiB of address space, of which only what was filled is memory
_GROUP: Final = 0

# What one turn sends by the ring; the message too many goes by send(2).  Address space, touched where used, and
# used from its start again every turn.
_ARENA_BYTES: Final = 1 << 22

# A call of a DEFER_TASKRUN ring does at most 20 pieces of work (IO_LOCAL_TW_DEFAULT_MAX), others' among them.
_CALLS_TO_CANCEL: Final = 100
_FLAGS_USUAL: Final = _ring.CQE_HAS_BUFFER | _ring.CQE_MORE  # of a receive
_FLAGS_TOLD: Final = _FLAGS_USUAL | _ring.CQE_SOCK_NONEMPTY
_CANCEL: Final = _ring.head(_ring.ASYNC_CANCEL, -1, _ring.SKIP_SUCCESS)


__all__ = ["DONE", "KIND_BITS", "RingPoller", "RingStatistics", "UringLoop"]


class Operation(Protocol):
    """Something that waits for one completion, and may be asked to be cancelled."""

    def done(self, result: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class RingStatistics:
    """What the ring has in hand at a moment, and how often it was short of something."""

    streams: int
    listeners: int
    polls: int
    file_operations: int
    buffers_lent: int
    """Receive buffers of 16 KiB that the kernel may fill; doubled at each shortage, up to 2,048."""
    out_of_buffers: int
    """Receives that ended because no buffer was free, and were begun again; nothing is lost by it."""
    rings_made: int
    """One, and another for each change of thread and each fork."""


class RingPoller:
    """Readiness by POLL_ADD, one shot at a time, and the way to the kernel for everything that completes there.

    A poll that has fired is armed again at the next `wait`, where the kernel first looks whether the
    descriptor still is ready: that is level-triggering, at no extra system call.

    The tables here say what is wanted, and the ring only what the kernel was told of it.  While no thread runs the
    loop, nothing is with the kernel: the loop may then go on in another thread, or be closed, and what arrives
    meanwhile stays in its socket. A ring belongs to its thread and its process, so another thread, or a child of
    fork(2), makes its own and fills it from the tables.
    """

    def __init__(self) -> None:
        self.ready: deque[events.Handle] = deque()
        self.wanted: dict[int, int] = {}  # descriptor: READ | WRITE
        self.streams: dict[int, RingStreamTransport] = {}
        self.listeners: dict[int, Listener] = {}
        self.operations: dict[int, Operation] = {}
        # A poll's key is its descriptor * 8 + READ or WRITE.
        self._armed: dict[int, int] = {}  # key: user_data of the poll that is with the kernel
        self._to_arm: list[int] = []  # keys that may need another
        self._serial = 0
        self._out_of_buffers = 0
        self._undone: list[Completion] = []  # taken, when Ctrl-C came between
        # What streams send lies here until the kernel has it; it outlives a ring, and is ours, so that
        # nothing a program does to its own objects can reach a send that was queued.
        self.arena = mmap.mmap(-1, _ARENA_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.arena_address = _ring.address_of(self.arena)
        self.arena_used = 0
        self.arena_bytes = 0  # none without a ring: writes then go directly
        self.settled = 0  # a send with a lower number is done, or told why not
        self.after_sends: list[events.Handle] = []  # to run when the sends of this turn are settled
        self._generation = 0
        self._owner = 0  # the thread which enabled the ring
        self._ring: Ring | None = None
        self.push: Callable[[int, int, int, int, int], int] = _push_nowhere
        self._make_ring()
        _pollers.add(self)

    # --- the verbs of every model ---------------------------------------------------------------------------

    def add(self, fd: int, events: int) -> None:
        """Watch `fd`; as epoll_ctl(2): EBADF where it isn't open, EPERM where it is a file, which is always ready."""
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            raise PermissionError(errno.EPERM, "a file on a disk is always ready and cannot be watched")
        self.modify(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Watch `fd` for other events than before."""
        self.wanted[fd] = events
        for side in (READ, WRITE):
            key = fd << 3 | side
            if events & side:
                if key not in self._armed:
                    self._to_arm.append(key)
            elif key in self._armed:
                self._disarm(key)

    def remove(self, fd: int) -> None:
        """Forget `fd`; when this returns the kernel holds it no longer, so that closing it closes the file."""
        self.modify(fd, 0)
        del self.wanted[fd]

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Submit, wait and take completions; those of polls are returned, the others become handles in `ready`."""
        ring = self._ring
        if ring is None:
            self.adopt()  # after a fork
            return []
        if self._to_arm:
            self._arm()
        if self.after_sends:
            timeout_s = 0.0
        try:
            completions = ring.wait(timeout_s)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            self.abandon()  # a dead thread's, whose number the kernel has given to this one
            self.adopt()
            return []
        polled = self._dispatch(completions) if completions or self._undone else []
        while len(completions) == _ring.COMPLETIONS:
            # The queue was full, so the kernel has a list of more; until they are seen no send is settled.
            completions = ring.wait(0)
            polled += self._dispatch(completions)
        self.settled = ring.submitted
        self.arena_used = 0
        if self.after_sends:
            self.ready.extend(self.after_sends)
            self.after_sends.clear()
        return polled

    def close(self) -> None:
        """Give everything back; file operations, which alone may be under way, are over when this returns."""
        self.wanted.clear()
        for listener in self.listeners.values():
            listener.forget_accepted()
        self.listeners.clear()
        self.push = _push_nowhere
        ring = self._ring
        if ring is not None and self._owner == threading.get_native_id():
            for number in self.operations:
                ring.push(_CANCEL, 0, number << KIND_BITS | DONE, 0, NOTHING)
            # One that the kernel has begun can't always be stopped, and ends soon; till then its memory is in use.
            while self.operations:
                self._dispatch(ring.wait(None))
        self.abandon()
        self.streams.clear()
        self.ready.clear()
        self.arena.close()

    # --- polls ----------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        push, wanted, armed, serial = self.push, self.wanted, self._armed, self._serial
        for key in self._to_arm:
            if wanted.get(key >> 3, 0) & key & 7 and key not in armed:
                serial += 1
                mark = (serial & _SERIAL_MASK) << _SERIAL_AT | key << KIND_BITS | POLLED
                if push(_ring.POLL_ADD | key >> 3 << 32, 0, 0, (key & 7) << 32, mark) >= 0:
                    armed[key] = mark
        self._serial = serial
        self._to_arm.clear()

    def _disarm(self, key: int) -> None:
        """Cancel a poll at once: its request holds the file, which a close(2) right after would leave open."""
        self.end(self._armed.pop(key))

    # --- completions ----------------------------------------------------------------------------------------

    def new_id(self) -> int:
        """A number never used before, for the user_data of one who waits for completions."""
        self._serial += 1
        return self._serial

    def cancel(self, user_data: int) -> None:
        """Ask the kernel to end an operation; its own completion says when it has."""
        self.push(_CANCEL, 0, user_data, 0, NOTHING)

    def lengthen(self, number: int, length_and_flags: int) -> bool:
        """Change the length of an operation of which the kernel doesn't know yet; False where it does."""
        return self._ring is not None and self._ring.lengthen(number, length_and_flags)

    def end(self, user_data: int) -> None:
        """Cancel an operation now: when this returns the kernel holds its file no longer."""
        ring = self._ring
        if ring is None or self.push is _push_nowhere:
            return
        self.cancel(user_data)
        for _ in range(_CALLS_TO_CANCEL):
            ring.submit()
            if ring.has_completed(user_data):
                return

    def _dispatch(self, completions: list[Completion]) -> list[tuple[int, int]]:
        """Hand each completion to whom it concerns.  No code of the program's runs here, only handles are queued."""
        if self._undone:
            completions = self._undone + completions
            self._undone = []
        left = iter(completions)
        try:
            return self._dispatch_each(left)
        except BaseException:  # Ctrl-C
            self._undone = list(left)
            raise

    def _dispatch_each(self, completions: Iterator[Completion]) -> list[tuple[int, int]]:
        polled: list[tuple[int, int]] = []
        used: list[int] = []
        streams, ready, armed, to_arm = self.streams, self.ready, self._armed, self._to_arm
        memory = self._buffers.memory
        for user_data, result, flags in completions:
            kind = user_data & _KIND_MASK
            if kind == RECEIVED:
                stream = streams[user_data >> KIND_BITS]
                if result > 0:
                    number = flags >> 16
                    used.append(number)
                    start = number * BUFFER_BYTES
                    stream._inbox.append(memory[start : start + result])
                    if not stream.delivering:
                        stream.delivering = True
                        ready.append(stream._read_handle)
                if flags & _FLAGS_TOLD != _FLAGS_USUAL:
                    if not flags & _ring.CQE_MORE:
                        stream.receive_ended(result)
                    elif result == BUFFER_BYTES and not stream._by_poll:
                        stream.receive_bulk_directly()
            elif kind == WOKEN:
                stream = streams[user_data >> KIND_BITS]
                if result == READ and flags & _ring.CQE_MORE and not stream._paused:
                    stream._readable = True
                    if not stream.delivering:
                        stream.delivering = True
                        ready.append(stream._read_handle)
                else:
                    stream.woken(result, bool(flags & _ring.CQE_MORE))
            elif kind == SENT:
                if (failed := streams.get(user_data >> KIND_BITS)) is not None:
                    failed.send_failed(result)
            elif kind == POLLED:
                key = user_data >> KIND_BITS & _KEY_MASK
                if armed.get(key) == user_data:  # else it was cancelled, or is one before the last
                    del armed[key]
                    # EBADF is a descriptor closed while watched, which epoll forgets silently.
                    if result != -errno.EBADF:
                        to_arm.append(key)
                        if result > 0:
                            polled.append((key >> 3, key & 7))
            elif kind == ACCEPTED:
                listener = self.listeners.get(user_data >> KIND_BITS)
                if listener is not None:
                    listener.completed(result, bool(flags & _ring.CQE_MORE))
                elif result >= 0:
                    os.close(result)  # accepted just before the listening ended
            elif kind == DONE:
                self.operations.pop(user_data >> KIND_BITS).done(result)
        if used:
            self._buffers.give_back(used)
        return polled

    def short_of_buffers(self) -> None:
        """A receive found no buffer: lend more of them."""
        self._out_of_buffers += 1
        self._buffers.grow()

    def statistics(self) -> RingStatistics:
        """Counts, as of now."""
        return RingStatistics(
            streams=len(self.streams),
            listeners=len(self.listeners),
            polls=len(self._armed),
            file_operations=len(self.operations),
            buffers_lent=self._buffers.lent,
            out_of_buffers=self._out_of_buffers,
            rings_made=self._generation,
        )

    # --- the ring's life ------------------------------------------------------------------------------------

    def _make_ring(self) -> None:
        self._generation += 1
        ring = Ring(generation=self._generation)
        try:
            self._buffers = ReceiveBuffers(ring, _GROUP, _BUFFERS_AT_MOST, BUFFER_BYTES, _BUFFERS_AT_FIRST)
        except BaseException:
            ring.close()
            raise
        self._ring = ring
        self._owner = 0

    def adopt(self) -> None:
        """Make the ring the calling thread's, which is going to run the loop; fill it with all that is wanted."""
        thread = threading.get_native_id()
        if self.push is not _push_nowhere:
            return
        if self._owner not in (0, thread):
            self.abandon()
        if self._ring is None:
            self._make_ring()
        assert self._ring is not None
        if self._owner == 0:
            self._ring.enable()
            self._owner = thread
        self.push = self._ring.push
        self.settled = self._ring.submitted
        self.arena_bytes = _ARENA_BYTES
        self._to_arm = [fd << 3 | side for fd, both in self.wanted.items() for side in (READ, WRITE) if both & side]
        for listener in self.listeners.values():
            listener.arm()
        for stream in list(self.streams.values()):
            stream.ring_ready()

    def park(self) -> None:
        """Leave nothing with the kernel but file operations: what was written last is sent, and all that waits ends."""
        ring = self._ring
        if ring is None or self.push is _push_nowhere:
            return
        self.push = _push_nowhere
        self.arena_bytes = 0
        marks = list(self._armed.values())
        marks += [stream.receive_mark for stream in self.streams.values() if stream.receiving]
        marks += [listener.mark for listener in self.listeners.values() if listener.accepting]
        for mark in marks:
            ring.push(_CANCEL, 0, mark, 0, NOTHING)
        self.wait(0)
        while (
            self._armed
            or any(stream.receiving for stream in self.streams.values())
            or any(listener.accepting for listener in self.listeners.values())
        ):
            self.wait(None)  # the kernel tells of a few at a time

    def abandon(self, forked: bool = False) -> None:
        """Give up the ring, which is another thread's or, after a fork, the parent's; `adopt` makes another."""
        ring, self._ring = self._ring, None
        self._owner = 0
        self.push = _push_nowhere
        self.arena_bytes = self.arena_used = 0
        if ring is None:
            return
        ring.close()
        self._buffers.close()
        self._armed.clear()
        self._undone.clear()
        for stream in list(self.streams.values()):
            stream.ring_lost()
        for listener in self.listeners.values():
            listener.accepting = False
        if not forked:
            # Another thread's file operations may still write to their memory, in the kernel's own time.
            _kept_for_the_kernel.extend(self.operations.values())
        for operation in self.operations.values():
            operation.done(-errno.ECANCELED)
        self.operations.clear()


def _push_nowhere(head: int, off: int, addr: int, length_and_flags: int, user_data: int, group: int = 0) -> int:
    """Without a ring nothing need be pushed: a new one is filled from the tables."""
    return -1


_kept_for_the_kernel: list[Operation] = []

# After a fork the ring is the parent's still, and its queues are memory that both can write to.
_pollers: weakref.WeakSet[RingPoller] = weakref.WeakSet()


def _leave_rings_to_the_parent() -> None:
    for poller in list(_pollers):
        poller.abandon(forked=True)


os.register_at_fork(after_in_child=_leave_rings_to_the_parent)


class UringLoop(ReactorLoop):
    """asyncio on io_uring.

    Raises `underlay.errors.ModelUnavailable` where the kernel, a sysctl or a container forbids io_uring, and OSError
    where the process lacks descriptors or memory for it.  Needs Linux 6.1.

    >>> async def main() -> str:
    ...     return type(asyncio.get_running_loop()).__name__
    >>> with asyncio.Runner(loop_factory=UringLoop) as runner:
    ...     runner.run(main())
    'UringLoop'
    """

    _closed = True  # until there is a ring; the base's __del__ looks at it

    def __init__(self) -> None:
        try:
            self._ring_poller = RingPoller()
        except OSError as error:
            if error.errno not in _ring.NOT_HERE:
                raise
            support = _ring.why_not(error)
            raise ModelUnavailable("uring", support.reason, remedy=support.remedy) from error
        self._listeners: dict[int, Listener] = {}
        try:
            super().__init__(self._ring_poller)
        except BaseException:
            self._closed = True
            self._ring_poller.close()
            raise
        self._ring_poller.ready = self._ready

    def run_forever(self) -> None:
        """Run until `stop`; the ring becomes the calling thread's."""
        self._check_closed()
        if not self.is_running():
            self._ring_poller.adopt()
        try:
            super().run_forever()
        finally:
            if not self._closed and not self.is_running():
                self._ring_poller.park()

    def close(self) -> None:
        """Close the loop; operations under way are cancelled and over when this returns."""
        super().close()
        self._listeners.clear()

    def statistics(self) -> RingStatistics:
        """What the ring has in hand, and how often it was short of something.

        >>> loop = UringLoop()
        >>> loop.statistics().out_of_buffers
        0
        >>> loop.close()
        """
        return self._ring_poller.statistics()

    # --- servers --------------------------------------------------------------------------------------------

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: ssl.SSLContext | None = None,
        server: asyncio.AbstractServer | None = None,
        backlog: int = 100,
        *timeouts: float | None,
    ) -> None:
        def serve(connection: socket.socket) -> None:
            try:
                peername = connection.getpeername()
            except OSError:  # gone again; accept(2) would have said from where
                peername = None
            if self._debug:
                logger.debug("%r got a new connection from %r: %r", server, peername, connection)
            extra = {"peername": peername}
            self.create_task(
                self._accept_connection2(  # type: ignore[attr-defined]
                    protocol_factory, connection, extra, sslcontext, server, *timeouts
                )
            )

        self._listeners[sock.fileno()] = Listener(self, self._ring_poller, sock, serve)

    def _stop_serving(self, sock: socket.socket) -> None:
        listener = self._listeners.pop(sock.fileno(), None)
        if listener is not None:
            listener.close()
        super()._stop_serving(sock)  # type: ignore[misc]  # which since 3.13 also removes the path of a Unix socket

    def _leave_serving(self, sock: socket.socket) -> None:
        """Stop serving a listening socket that goes on listening in other processes, without losing a connection."""
        listener = self._listeners.pop(sock.fileno(), None)
        if listener is not None:
            listener.leave()
        super()._stop_serving(sock)  # type: ignore[misc]

    # --- transports -----------------------------------------------------------------------------------------

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, object] | None = None,
        server: asyncio.AbstractServer | None = None,
        **_newer: object,
    ) -> RingStreamTransport:
        return RingStreamTransport(self, sock, protocol, waiter, extra, server)

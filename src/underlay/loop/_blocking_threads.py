"""Threads that wait: each blocks in one system call on one descriptor and brings the loop what came of it.

This file knows how such a thread is started, parked, and got out of a call that no one else will end.  It does
not know what the bytes mean, nor who runs callbacks: a thread hands over what it has and asks for more.

A thread cannot be interrupted in ``recv(2)``, so each kind has a trick by which the kernel ends its call:
shutdown(2) for a socket (it wakes a reader, a writer and an acceptor, and even an unconnected UDP socket, for
which it reports ENOTCONN and wakes all the same: ``inet_shutdown`` of the kernel), an eventfd(2) in poll(2)
for anything else. A descriptor is closed only when no thread is in a call on it: its number may be somebody
else's at once, and a late ``recv`` would take a stranger's bytes.
"""

from __future__ import annotations

import contextvars
import os
import select
import socket
import threading
import time
import warnings
from _thread import allocate_lock
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from ._one_processor import start_beside

if TYPE_CHECKING:
    from ._io_blocking import BlockingLoop
    from ._one_processor import Stay

_Item = TypeVar("_Item")

# asyncio's constants.ACCEPT_RETRY_DELAY: how long a listener rests when descriptors are exhausted.
ACCEPT_REST_S: Final = 1.0

# A thread leaves its call within microseconds of being woken; one that doesn't is a bug worth a warning, not a hang.
_LEAVES_WITHIN_S: Final = 5.0

# Times that the loop gives up the interpreter lock for a thread that has just been woken; one mostly does.
_STEPS_ASIDE: Final = 1000

# Watchers kept parked for the next descriptor; making one costs a thread and an eventfd, about 100 µs.
_IDLE_WATCHERS: Final = 4

floats: contextvars.ContextVar[bool] = contextvars.ContextVar("underlay_floats", default=False)
"""True in the context of callbacks that may run in any thread of the loop, and of what they start."""


def floating_context() -> contextvars.Context:
    """A copy of the current context, as asyncio takes one at registration, whose callbacks may run in any thread."""
    context = contextvars.copy_context()
    context.run(floats.set, True)
    return context


class LoopThread:
    """A daemon thread of `loop` whose body waits in a system call; `wake` is the trick that ends that call.

    The contract with `end`: the body sets `in_call` *before* it looks at `ended` and goes into the call.  So either
    it sees that it was ended, or whoever ends it sees that it is in the call and wakes it.
    """

    def __init__(self, loop: BlockingLoop, name: str, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._parked = False
        self._gate = allocate_lock()  # held but for the moment in which somebody lets the thread go on
        self._gate.acquire()
        self._stay: Stay
        self.in_call = False
        self.ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises ``RuntimeError("can't start new thread")``, as `threading` does, where there are no more.
        """
        # The stack stays as large as any thread's, 8 MiB mostly: only touched pages cost memory (24 to 27 KiB a
        # connection were measured with 256 KiB and with 8 MiB), and a nested JSON that CPython 3.13 refuses with
        # RecursionError ends the process where there is less than 2 MiB.
        self._loop._threads.add(self)
        try:
            start_beside(self._thread)
        except BaseException:
            self._loop._threads.discard(self)
            raise

    def end(self) -> None:
        """Make the thread leave: at once if it is parked, else as soon as the kernel returns it.

        Only whoever has the baton (or closes the loop) may call it, as only they close descriptors:
        else `wake` could meet a number that has just become somebody else's.
        """
        self.ended = True
        if self.in_call:
            self._wake()
        if self._parked:
            self.open_gate()

    def end_and_wait(self) -> None:
        """`end`, and return once the thread will not touch its descriptor again: microseconds, if it was in a call.

        Not a deadlock, though the caller has the baton: a thread that leaves never waits for that.
        """
        self.end()
        if self.in_call:
            self.join()

    def join(self) -> None:
        """Wait until the thread is gone; a thread does not wait for itself."""
        if self._thread is threading.current_thread() or not self._thread.is_alive():
            return
        self._thread.join(_LEAVES_WITHIN_S)
        if self._thread.is_alive():
            warnings.warn(f"{self!r} was woken and did not end", ResourceWarning, source=self, stacklevel=2)

    def open_gate(self) -> None:
        """Let a parked thread look again; harmless if it isn't parked."""
        try:
            self._gate.release()
        except RuntimeError:
            pass  # open already

    def _run(self) -> None:
        self._stay = self._loop._adopt_thread()
        try:
            self._work()
        finally:
            self.in_call = False
            self.ended = True
            self._loop._threads.discard(self)

    def _work(self) -> None:
        raise NotImplementedError

    def __repr__(self) -> str:
        state = "ended" if self.ended else "waiting" if self.in_call else "running"
        return f"<{type(self).__name__} {self._thread.name} {state}>"


class Carrier(LoopThread):
    """Fetches one item after another by a blocking call and has the loop deliver each, in order.

    `fetch` is called in the thread with `size_bytes`; `deliver` runs as a callback of the loop in `context`, with
    what `fetch` gave or the OSError that it raised.  An item of a paused carrier waits, then `resume` delivers it.
    A stream (`is_stream`) ends at an empty item or an error; others go on, after `rest_s` where an error came.
    """

    def __init__(
        self,
        loop: BlockingLoop,
        purpose: str,
        fd: int,
        fetch: Callable[[int], _Item],
        deliver: Callable[[_Item | OSError], None],
        wake: Callable[[], None],
        *,
        size_bytes: int,
        is_stream: bool = False,
        rest_s: float = 0.0,
    ) -> None:
        super().__init__(loop, f"underlay-{purpose}-{fd}", wake)
        self._fd = fd
        self.context = floating_context()
        self.size_bytes = size_bytes
        self._fetch: Callable[[int], object] = fetch
        self._deliver: Callable[..., None] = deliver
        self._is_stream = is_stream
        self._rest_s = rest_s
        self._paused = False
        self._fetched = 0  # written by the thread only, as _delivered is by the loop only: no lock is needed
        self._delivered = 0
        self._kept: object = None

    def pause(self) -> None:
        """Deliver nothing and fetch nothing more; what the call in progress returns is kept."""
        self._paused = True

    def resume(self) -> None:
        """Undo `pause`: deliver what was kept, from the next turn on, then fetch again."""
        self._paused = False
        self.context = floating_context()
        if self._kept is not None:
            self._loop.call_soon(self._deliver_kept, context=self.context)
        if self._parked:
            self.open_gate()

    def let_it_fetch(self) -> None:
        """Step aside until the thread has what is there already, if anything is and nothing keeps it from fetching."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        for _ in range(_STEPS_ASIDE):
            if self._paused or self.ended or self._fetched != self._delivered or not poller.poll(0):
                return
            time.sleep(0)

    def put_back(self, item: object) -> None:
        """Within `deliver`: what was not used of the item; it is delivered again, in another turn."""
        self._delivered -= 1
        self._kept = item
        self._loop.call_soon(self._deliver_kept, context=self.context)

    def _work(self) -> None:
        bring, fetch, arrived, is_stream = self._loop._bring, self._fetch, self._arrived, self._is_stream
        stay = self._stay
        while True:
            if stay.away:
                stay.take()
            self.in_call = True
            if self.ended:
                return
            if self._paused:
                self.in_call = False
                self._park()
                continue
            try:
                item = fetch(self.size_bytes)
            except BlockingIOError:
                self._wait_for_input()
                continue
            except OSError as exc:
                item = exc
            self.in_call = False
            # asyncio promises one event a connection and turn, so an item waits here until the one before it is
            # delivered. Mostly it is: waiting before the call, instead of after, cost two switches of threads.
            while self._fetched != self._delivered and not self.ended:
                self._park()
            self._fetched += 1
            bring(self.context, arrived, item)
            if is_stream:
                if not item or item.__class__ is not bytes:
                    return
            elif self._rest_s and isinstance(item, OSError) and not self.ended:
                self._park(self._rest_s)

    def _park(self, at_most_s: float = -1) -> None:
        self._parked = True
        if not self.ended and (at_most_s > 0 or self._paused or self._fetched != self._delivered):
            self._gate.acquire(timeout=at_most_s)
        self._parked = False

    def _wait_for_input(self) -> None:
        """Somebody with the same socket made it non-blocking (the mode belongs to all): never spin on it."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        poller.poll()
        self.in_call = False

    def _arrived(self, item: object) -> None:
        """On the loop: deliver the item now, or keep it while the carrier is paused."""
        if self._paused:
            self._kept = item
            return
        self._delivered += 1
        self._deliver(item)
        if self._parked:
            self.open_gate()

    def _deliver_kept(self) -> None:
        if not self._paused and self._kept is not None:
            item, self._kept = self._kept, None
            self._arrived(item)


class Sender(LoopThread):
    """Blocks in send(2) with one slice at a time and has the loop told how it went.

    `sent` runs as a callback of the loop, with the number of bytes that the kernel took or the OSError.
    """

    def __init__(
        self,
        loop: BlockingLoop,
        sock: socket.socket,
        sent: Callable[[int | OSError], None],
        wake: Callable[[], None],
    ) -> None:
        super().__init__(loop, f"underlay-send-{sock.fileno()}", wake)
        self.context = contextvars.copy_context()
        self._fd = sock.fileno()
        self._send = sock.send
        self._sent = sent
        self._slice: memoryview | None = None

    def send(self, data: memoryview) -> None:
        """Begin to send `data`; not before the slice before it is reported."""
        self._slice = data
        self.open_gate()

    def _work(self) -> None:
        while True:
            self._parked = True
            if not self.ended:
                self._gate.acquire()
            self._parked = False
            data, self._slice = self._slice, None
            if self._stay.away:
                self._stay.take()
            self.in_call = True
            if self.ended:
                return
            result: int | OSError
            try:
                # A blocking send returns when the kernel took it all: send(2), tcp(7).
                result = 0 if data is None else self._send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:  # somebody else made the socket non-blocking, as above
                poller = select.poll()
                poller.register(self._fd, select.POLLOUT)
                poller.poll()
                result = 0
            except OSError as exc:
                result = exc
            self.in_call = False
            if data is not None:
                del data  # the caller's buffer must not stay exported while we wait
                self._loop._bring(self.context, self._sent, result)


class Watch:
    """A descriptor and the bits of poll(2) to wait for; a new one for every change, to tell late news by."""

    __slots__ = ("events", "fd")

    def __init__(self, fd: int, events: int) -> None:
        self.fd = fd
        self.events = events


class Watcher(LoopThread):
    """Waits in poll(2) for one descriptor that the program watches itself (`loop.add_reader` and its users).

    Having reported a `Watch` it rests until `rearm`: the program's callback must read first, or the same
    readiness would be reported for ever.
    """

    def __init__(self, loop: BlockingLoop, report: Callable[[Watcher, Watch, int], None]) -> None:
        self._poke_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        super().__init__(loop, "underlay-poll", self._poke)
        self._report = report
        self.watch: Watch | None = None
        self.reported: Watch | None = None

    def set(self, watch: Watch | None) -> None:
        """Wait for something else, or for nothing; after a report not yet acted on, only from `rearm` on."""
        if self.reported is not None and watch is not None and self.reported is self.watch:
            self.reported = watch
        self.watch = watch
        if self.in_call:
            self._poke()
            # poll(2) holds on to what it polls. The caller may close the descriptor next, and the peer
            # must hear of that now: so the thread has to be out of the call first.
            while watch is None and self.in_call:
                time.sleep(0)
        if self._parked:
            self.open_gate()

    def rearm(self) -> None:
        """The program has had its turn with the last report: wait again."""
        self.reported = None
        if self._parked:
            self.open_gate()

    def _poke(self) -> None:
        os.eventfd_write(self._poke_fd, 1)

    def join(self) -> None:
        """Wait until the thread is gone, and close its eventfd."""
        super().join()
        fd, self._poke_fd = self._poke_fd, -1
        if fd >= 0:
            os.close(fd)

    def _work(self) -> None:
        while True:
            self._parked = True
            if self._may_rest():
                self._gate.acquire()
            self._parked = False
            self.in_call = True
            watch = self.watch
            if self.ended:
                return
            if watch is None or watch is self.reported:
                self.in_call = False
                continue
            poller = select.poll()
            poller.register(self._poke_fd, select.POLLIN)
            poller.register(watch.fd, watch.events)
            found = dict(poller.poll())
            self.in_call = False
            if self._poke_fd in found:
                os.eventfd_read(self._poke_fd)
            elif self.watch is watch:
                self.reported = watch
                self._report(self, watch, found[watch.fd])

    def _may_rest(self) -> bool:
        return not self.ended and (self.watch is None or self.watch is self.reported)


class Watchers:
    """The poller of the blocking model: a thread per descriptor that the program itself watches.

    `wait` is where the loop's own thread sleeps; the sleeping is the loop's, here is only what was reported to it.
    """

    def __init__(self) -> None:
        self.loop: BlockingLoop | None = None
        self.reports: list[tuple[Watcher, Watch, int]] = []
        self._by_fd: dict[int, Watcher] = {}
        self._idle: list[Watcher] = []
        self._to_rearm: list[Watcher] = []

    def add(self, fd: int, events: int) -> None:
        """Watch `fd`; OSError (EBADF) if there is no such descriptor."""
        os.fstat(fd)  # a closed descriptor is refused here, as epoll_ctl(2) would
        assert self.loop is not None
        if self._idle:
            watcher = self._idle.pop()
        else:
            watcher = Watcher(self.loop, self._reported)
            watcher.start()
        self._by_fd[fd] = watcher
        watcher.set(Watch(fd, events))

    def modify(self, fd: int, events: int) -> None:
        """Watch `fd` for other events."""
        self._by_fd[fd].set(Watch(fd, events))

    def remove(self, fd: int) -> None:
        """Stop watching `fd`, which may then be closed; the thread is kept for another."""
        watcher = self._by_fd.pop(fd)
        watcher.set(None)
        if len(self._idle) < _IDLE_WATCHERS:
            self._idle.append(watcher)
        else:
            watcher.end()
            watcher.join()

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """What was reported, after sleeping at most `timeout_s` for it."""
        for watcher in self._to_rearm:
            watcher.rearm()
        assert self.loop is not None
        self.loop._sleep(timeout_s)
        self.loop._queue_arrivals()
        if not self.reports:
            self._to_rearm = []
            return []
        reports, self.reports = self.reports, []
        self._to_rearm = [watcher for watcher, _, _ in reports]
        return [(watch.fd, bits) for watcher, watch, bits in reports if watcher.watch is watch]

    def close(self) -> None:
        """Nothing: the loop ends and joins all its threads, these among them."""

    def _reported(self, watcher: Watcher, watch: Watch, bits: int) -> None:
        assert self.loop is not None
        if not bits & select.POLLNVAL:  # closed behind our back: epoll forgets such a descriptor as well
            self.reports.append((watcher, watch, bits))
            self.loop._ring()

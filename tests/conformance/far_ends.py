"""Sockets by which a test's other threads, and its code outside of the loop, reach a loop on the user-space stack.

CPython's tests put the far end of a connection into a thread, or call it between two runs of the loop, and there a
`socket.socket` is the kernel's, which a network without a device never meets. Here such a socket becomes one on the
network of the newest stack loop, so that both ends of the connection are the stack's, and every byte between them
passes through it. What is tested stays the program's side: a socket that asyncio makes is never touched.

A stack is for one thread at a time. A far end waits its turn: while the loop runs, each of its calls is made by the
loop's thread, between two callbacks; while it doesn't, by its own thread, which then also lets the stack go on.
A call that has to wait asks again every `AGAIN_S`. While the loop's own thread waits for another to end, it is the
far ends' turn: the kernel's network would go on meanwhile, too. This file knows threads and sockets; it does not know
TLS (`far_tls`).
"""

from __future__ import annotations

import asyncio
import select
import selectors
import socket
import socketserver
import sys
import threading
import time
from asyncio import events
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar
from weakref import ref

from underlay.loop._bridge import FIRST_NUMBER, Bridge
from underlay.loop._io_stack import MonotonicClock, StackLoop
from underlay.loop._net_spec import parse_network
from underlay.loop._stack_core import IN, OUT, Core
from underlay.loop._stack_network import open_network
from underlay.loop._stack_socket import StackSocket

T = TypeVar("T")

# How often a far end that waits asks again. Short beside the time-outs of tests, and no burden on the loop.
AGAIN_S: Final = 0.001
# How long it waits for the loop to make its call, before it looks whether the loop still runs.
PATIENCE_S: Final = 0.01

_FLAGS_OF_TYPE: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class SubjectLoop(StackLoop):
    """A stack loop on a network of its own, without a device: as `stack_loop("lo")`, and far ends may take turns."""

    def __init__(self) -> None:
        self.network = open_network(parse_network("lo"), MonotonicClock())
        super().__init__(self.network)
        self.turns = Turns(self.network)
        _install(self)

    def run_forever(self) -> None:
        """Run, while no far end touches the stack."""
        with self.turns.lock:
            super().run_forever()


class _Call(Generic[T]):
    """A call that a thread wants made; it is made once, by the loop's thread, or taken back."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._once = threading.Lock()
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._result: T

    def make(self) -> None:
        """Make the call, unless it was taken back."""
        if not self._once.acquire(blocking=False):
            return
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error
        self._ended.set()

    def was_made(self) -> bool:
        """Whether it was made; if not yet after a while, it never will be."""
        if not self._ended.wait(PATIENCE_S):
            if self._once.acquire(blocking=False):
                return False
            self._ended.wait()
        return True

    def result(self) -> T:
        """What it gave or raised."""
        error = self._error
        if error is not None:
            try:
                raise error
            finally:
                self._error = error = None  # a frame that keeps its own traceback would keep what a test wants freed
        return self._result


class Turns:
    """Who may touch the stack of a network, one thread at a time."""

    def __init__(self, network: Bridge) -> None:
        self.network = network
        self.lock = threading.RLock()  # the loop's thread holds it while the loop runs

    @property
    def are_ours(self) -> bool:
        """Whether this thread runs the loop."""
        return self.network.driver_thread == threading.get_ident()

    def take(self, work: Callable[[], T]) -> T:
        """Make a call that does not wait, when it is this thread's turn."""
        while True:
            if self.lock.acquire(blocking=False):
                try:
                    return work()
                finally:
                    if not self.are_ours and not self.network.closed:
                        self.network.settle()
                    self.lock.release()
            loop = self.network.driver
            if isinstance(loop, asyncio.AbstractEventLoop):
                call = _Call(work)
                try:
                    loop.call_soon_threadsafe(call.make)
                except RuntimeError:
                    continue  # it was closed just now
                if call.was_made():
                    return call.result()
            else:
                time.sleep(AGAIN_S)

    def let_others(self, work: Callable[[], T]) -> T:
        """Do what waits for another thread; where it is the loop's that waits, far ends go on meanwhile."""
        if not self.are_ours:
            return work()
        self.lock.release()
        try:
            return work()
        finally:
            self.lock.acquire()


class FarSocket(StackSocket):
    """A socket of the stack that any thread may use; in the loop's own thread a `StackSocket` like any other."""

    _turns: Turns

    def __init__(
        self,
        family: int = -1,
        type: int = -1,
        proto: int = -1,
        fileno: int | None = None,
        *,
        turns: Turns | None = None,
        core: Core | None = None,
    ) -> None:
        turns = turns or _turns_of_newest()
        if turns is None:
            raise RuntimeError("a far end was made without a loop")
        self._turns = turns
        make = super().__init__
        turns.take(lambda: make(family, type, proto, fileno, bridge=turns.network, core=core))

    def _wait(self, attempt: Callable[[], T]) -> T:
        """Make the call, again and again while it would have to wait, as long as the time-out allows."""
        timeout_s = self._timeout_s
        ends_at_s = None if timeout_s is None else time.monotonic() + timeout_s

        def at_once() -> T:
            self._timeout_s = 0.0
            try:
                return attempt()
            finally:
                self._timeout_s = timeout_s

        while True:
            try:
                return self._turns.take(at_once)
            except BlockingIOError:
                if timeout_s == 0.0:
                    raise
            if ends_at_s is not None and time.monotonic() >= ends_at_s:
                raise TimeoutError("timed out")
            time.sleep(AGAIN_S)

    def connect(self, address: Any, /) -> None:
        """Connect, as the time-out says."""
        if self._turns.are_ours:
            super().connect(address)
            return
        begin, timeout_s = super().connect, self._timeout_s
        begun = False

        def attempt() -> None:
            nonlocal begun
            if not begun:
                begun = True
                begin(address)
            elif self._core.connecting:
                raise BlockingIOError
            elif timeout_s is None:
                self._core.finish_connect()
            elif error := self._core.take_error():
                raise OSError(error, "the connection failed")

        self._wait(attempt)

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection; in another thread than the loop's its socket is a far end too."""
        if self._turns.are_ours:
            return super().accept()
        core, _ = self._wait(self._core.accept)
        made = FarSocket(self._family, self._kind, self._proto, turns=self._turns, core=core)
        return made, remote_name(made)

    def dup(self) -> FarSocket:
        """Another far end of the same connection."""
        made = FarSocket(self._family, self._kind, self._proto, turns=self._turns, core=self._core)
        made.settimeout(self._timeout_s)
        self._turns.take(lambda: self._bridge.share(self._number, made._number))
        return made

    def _real_close(self, _ss: object = None) -> None:
        self._turns.take(super()._real_close)

    def detach(self) -> int:
        """Give the number away, in turn."""
        return self._turns.take(super().detach)

    def ready_for(self, events: int) -> bool:
        """Whether poll(2) would tell of it."""
        return bool(self._turns.take(lambda: self.readiness(events)))


def remote_name(sock: socket.socket) -> Any:
    """The peer's address, or what accept() says for a peer that has left."""
    try:
        return sock.getpeername()
    except OSError:
        return None


def _in_turn(name: str) -> Callable[..., Any]:
    plain: Callable[..., Any] = getattr(StackSocket, name)

    def call(self: FarSocket, *args: Any, **kwargs: Any) -> Any:
        if self._turns.are_ours:
            return plain(self, *args, **kwargs)
        return self._wait(lambda: plain(self, *args, **kwargs))

    call.__name__ = name
    return call


# sendall, sendfile, connect_ex and makefile come down to these.
for _name in (
    *("bind", "listen", "shutdown", "getsockname", "getpeername", "getsockopt", "setsockopt"),
    *("recv", "recvfrom", "recv_into", "recvfrom_into", "recvmsg", "recvmsg_into", "send", "sendto", "sendmsg"),
):
    setattr(FarSocket, _name, _in_turn(_name))


# --- what a test's module gets ------------------------------------------------------------------------------------

_newest: Callable[[], SubjectLoop | None] = type(None)
_installed = False
_kernels_select = select.select


def _turns_of_newest() -> Turns | None:
    """Those of the newest loop, unless it is closed or gone."""
    loop = _newest()
    return None if loop is None or loop.is_closed() else loop.turns


def _install(loop: SubjectLoop) -> None:
    """Let sockets that are made where no loop runs be far ends on this loop's network."""
    global _newest, _installed
    _newest = ref(loop)
    if _installed:
        return
    _installed = True
    allocate: Callable[..., socket.socket] = socket.socket.__new__

    def far_or_near(cls: type[socket.socket], *args: Any, **kwargs: Any) -> socket.socket:
        if cls is socket.socket and _is_far(*args, **kwargs):
            cls = FarSocket
        return allocate(cls, *args, **kwargs)

    socket.socket.__new__ = staticmethod(far_or_near)  # type: ignore[assignment,method-assign]
    select.select = _select
    join = threading.Thread.join

    def join_in_turn(self: threading.Thread, timeout: float | None = None) -> None:
        turns = _turns_of_newest()
        (turns.let_others if turns is not None else _at_once)(lambda: join(self, timeout))

    threading.Thread.join = join_in_turn  # type: ignore[method-assign]
    socketserver._ServerSelector = _Selector  # type: ignore[attr-defined]


def _at_once(work: Callable[[], T]) -> T:
    return work()


def _is_far(family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> bool:
    if _turns_of_newest() is None or (events._get_running_loop() is not None and not _a_test_asks()):
        return False
    if fileno is not None:
        return fileno >= FIRST_NUMBER
    kind = socket.SOCK_STREAM if type == -1 else type & ~_FLAGS_OF_TYPE
    return family in (-1, socket.AF_INET, socket.AF_INET6) and kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)


def _a_test_asks() -> bool:
    """Whether it is CPython's test itself that makes the socket, in a coroutine, likely for a thread."""
    frame = sys._getframe(3)  # beyond this function, `_is_far` and `far_or_near`
    while frame.f_globals.get("__name__") == "socket" and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__")).startswith("test.")


def _number(each: Any) -> int:
    return each if isinstance(each, int) else each.fileno()


def _select(
    readers: Any, writers: Any, others: Any, timeout: float | None = None, /
) -> tuple[list[Any], list[Any], list[Any]]:
    """As select(2), for far ends too."""
    watched = (list(readers), list(writers), list(others))
    if all(_number(each) < FIRST_NUMBER for kind in watched for each in kind):
        return _kernels_select(*watched, timeout)
    ends_at_s = None if timeout is None else time.monotonic() + timeout
    while True:
        mine = [[each for each in kind if _number(each) < FIRST_NUMBER] for kind in watched]
        ready = _kernels_select(mine[0], mine[1], mine[2], 0)
        for kind, found, events_ in zip(watched, ready, (IN, OUT, 0), strict=True):
            found += [each for each in kind if _number(each) >= FIRST_NUMBER and _far_end(each).ready_for(events_)]
        if any(ready) or (ends_at_s is not None and time.monotonic() >= ends_at_s):
            return ready
        time.sleep(AGAIN_S)


def _far_end(each: Any) -> FarSocket:
    found = each
    if isinstance(each, int):
        turns = _turns_of_newest()
        assert turns is not None, "a socket was watched after its loop was closed"
        found = turns.network.socket(each)
    assert isinstance(found, FarSocket)
    return found


class _Selector(selectors.SelectSelector):
    """What socketserver waits with, by our `_select`."""

    def _select(self, readers: Any, writers: Any, _: Any, timeout: float | None = None) -> tuple[Any, Any, list[Any]]:
        return _select(readers, writers, [], timeout)

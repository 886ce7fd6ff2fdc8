"""Model 1, synchronous blocking: a thread per connection, each waiting *in* recv(2), accept(2) or recvfrom(2).

This file knows how threads take turns being one asyncio loop.  It does not know what is fetched or delivered
(``_blocking_transport.py``), nor how a thread is got out of a system call (``_blocking_threads.py``).

There is one baton.  A thread whose call returned takes the baton, is the running loop while it has it, delivers
what came, runs what became ready until nothing is left, gives the baton back and blocks in its call again.
So only one thread at a time runs callbacks, and queues, locks and tasks stay correct though nothing in them
knows of threads.  Where the baton is taken, the thread leaves its news in the ready queue and goes back to the
kernel: whoever has the baton runs it.  No thread ever waits for the baton, but one.

That one is the thread that called ``run_forever``, "home".  It sleeps on a lock until the next timer, a signal or
a call from a foreign thread.  Home runs whatever was not started by a connection: the main task and its
children, timers, `add_reader` callbacks, signal handlers — code that may lean on being in the main thread.
Which callbacks may run elsewhere travels in their context (`floats`): protocols' callbacks, and the
tasks that these start.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import sys
import threading
from asyncio import base_events, constants, events, trsock
from asyncio.log import logger
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, Unpack
from weakref import WeakValueDictionary

from ._blocking_threads import (
    ACCEPT_REST_S,
    Carrier,
    LoopThread,
    Watchers,
    floating_context,
    floats,
)
from ._blocking_transport import BlockingDatagramTransport, BlockingStreamTransport, shut_down
from ._one_processor import Processor, Stay, set_free
from ._reactor import ReactorLoop

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from _typeshed import FileDescriptorLike

_Ts = TypeVarTuple("_Ts")
_T = TypeVar("_T")

# Callbacks that a connection's thread runs in one turn before home takes over: home also looks at the timers, which
# a queue that never empties (a task that only calls sleep(0)) would else keep from running.
_CALLBACKS_A_TURN: Final = 256

# Turns of home without a sleep after which it steps aside for a moment. A thread that returns from its call needs the
# interpreter lock for an instant; a busy holder gives it up only every sys.getswitchinterval() (5 ms), and to one.
_BUSY_TURNS: Final = 100
_STEP_ASIDE_S: Final = 50e-6  # the kernel's timer slack is 50 µs (prctl(2)): less would not be less


class BlockingLoop(ReactorLoop):
    """An asyncio event loop whose connections each have a thread, blocked in the kernel until something comes.

    With ``turns=False`` every callback runs in the thread that called ``run_forever``, and the others only
    fetch: for programs that tie objects to one thread (a shared `sqlite3` connection, greenlets as in
    SQLAlchemy's asyncio, `threading.local`).  It costs a switch of threads more for each chunk.

    Sources: recv(2), accept(2), shutdown(2), pthreads(7).

    >>> import asyncio
    >>> with asyncio.Runner(loop_factory=BlockingLoop) as runner:
    ...     runner.run(asyncio.sleep(0, "done"))
    'done'
    """

    _coroutine_origin_tracking_enabled: bool
    _thread_id: int | None
    _transports: WeakValueDictionary[int, object]
    _ssock: socket.socket | None
    _csock: socket.socket | None

    def __init__(self, *, turns: bool = True) -> None:
        self._turns = self._may_turn = turns
        self._watchers_of_home = 0
        self._baton = threading.RLock()  # re-entrant because it knows its owner, not to be entered twice
        self._reserved = True  # the baton is home's alone: home waits for it, or nobody runs the loop
        self._home: int | None = None
        self._alarm = threading.Lock()  # held; released to wake home
        self._alarm.acquire()
        self._asleep = False
        self._wakes_at_s = inf
        self._arrivals: deque[events.Handle] = deque()
        self._busy_turns = 0
        self._escaped: BaseException | None = None
        self._threads: set[LoopThread] = set()
        self._acceptors: dict[socket.socket, Carrier] = {}
        self._borrowed: set[socket.socket] = set()
        self._pid = os.getpid()
        self._processor = Processor()
        self._watchers = Watchers()
        super().__init__(self._watchers)
        self._watchers.loop = self

    # --- the baton ------------------------------------------------------------------------------------------

    def _bring(
        self,
        context: contextvars.Context,
        callback: Callable[..., object],
        item: object,
    ) -> None:
        """In a thread of ours: have ``callback(item)`` run on the loop, by this thread if the baton is free."""
        if self._closed:
            return
        ready, arrivals, baton = self._ready, self._arrivals, self._baton
        if self._reserved or not baton.acquire(False):
            arrivals.append(events.Handle(callback, (item,), self, context))
            # Whoever gave the baton back meanwhile did not see it: look again.
            if self._reserved or not baton.acquire(False):
                if self._asleep:
                    self._ring()
                return
            self._thread_id = threading.get_ident()
            self._queue_arrivals()
        else:
            self._thread_id = threading.get_ident()
            if ready or self._debug:
                ready.append(events.Handle(callback, (item,), self, context))
            else:
                try:
                    context.run(callback, item)
                except (SystemExit, KeyboardInterrupt) as exc:
                    self._escape(exc)
                except BaseException as exc:
                    self._report_callback(events.Handle(callback, (item,), self, context), exc)
        left = _CALLBACKS_A_TURN
        while True:
            while ready and not self._reserved:
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                left -= 1
                if not left or not handle._context.get(floats):  # type: ignore[attr-defined]
                    ready.appendleft(handle)
                    self._reserved = True
                    break
                try:
                    if self._debug:
                        self._run_timed(handle)
                    else:
                        handle._run()
                except BaseException as exc:  # SystemExit and KeyboardInterrupt: _run reports all others
                    self._escape(exc)
            scheduled = self._scheduled
            if scheduled and scheduled[0]._when < self._wakes_at_s:  # type: ignore[attr-defined]
                self._reserved = True
            if self._reserved:
                baton.release()
                self._ring()
                return
            baton.release()
            # Another thread may have reserved it by now, of which mypy knows nothing.
            if not (ready or arrivals) or self._reserved or not baton.acquire(False):  # type: ignore[redundant-expr]
                return
            self._thread_id = threading.get_ident()
            self._queue_arrivals()

    def _queue_arrivals(self) -> None:
        """With the baton: what came while another had it takes its place behind what was ready, as from a selector."""
        arrivals, ready = self._arrivals, self._ready
        while arrivals:
            ready.append(arrivals.popleft())

    def _escape(self, exc: BaseException) -> None:
        """What must not be swallowed leaves ``run_forever``, which is home's to raise."""
        self._escaped = exc
        self._reserved = True

    def _run_timed(self, handle: events.Handle) -> None:
        depth = constants.DEBUG_STACK_DEPTH if self._coroutine_origin_tracking_enabled else 0
        sys.set_coroutine_origin_tracking_depth(depth)  # it belongs to the thread
        self._current_handle = handle
        try:
            start_s = self.time()
            handle._run()
            took_s = self.time() - start_s
            if took_s >= self.slow_callback_duration:
                described = base_events._format_handle(handle)  # type: ignore[attr-defined]
                logger.warning("Executing %s took %.3f seconds", described, took_s)
        finally:
            self._current_handle = None

    def _adopt_thread(self) -> Stay:
        """In a new thread of ours: what makes it able to be the running loop, once for its life."""
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(
            firstiter=self._asyncgen_firstiter_hook,  # type: ignore[attr-defined]
            finalizer=self._asyncgen_finalizer_hook,  # type: ignore[attr-defined]
        )
        return self._processor.enter()

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """As asyncio's; workers that the executor starts meanwhile have all processors of the process."""
        set_free()
        return super().run_in_executor(executor, func, *args)

    # --- home ---------------------------------------------------------------------------------------------------

    def run_forever(self) -> None:
        """Run until ``stop()``; the calling thread becomes home."""
        self._check_closed()
        self._check_running()  # type: ignore[attr-defined]
        self._home = threading.get_ident()
        self._take_baton()
        self._reserved = not self._turns
        try:
            super().run_forever()
        finally:
            self._reserved = True
            self._home = None
            self._baton.release()

    def _sleep(self, timeout_s: float | None) -> None:
        """At home, with the baton: let the others have it until something is ready or due, then take it back."""
        if timeout_s == 0:
            self._busy_turns += 1
            if self._busy_turns < _BUSY_TURNS or not self._threads:
                return
            timeout_s = _STEP_ASIDE_S
        step_aside = self._busy_turns >= _BUSY_TURNS
        self._busy_turns = 0
        self._wakes_at_s = self._scheduled[0].when() if self._scheduled else inf
        try:
            self._asleep = True
            self._reserved = not self._turns
            self._baton.release()
            if step_aside or not (self._ready or self._arrivals or self._watchers.reports or self._stopping):
                self._alarm.acquire(True, -1 if timeout_s is None else timeout_s)
        finally:  # a signal's handler may raise here, KeyboardInterrupt for one
            self._asleep = False
            self._reserved = True
            self._take_baton()
            self._reserved = not self._turns
            self._thread_id = self._home
        if self._escaped is not None:
            escaped, self._escaped = self._escaped, None
            raise escaped

    def _take_baton(self) -> None:
        """Wait for the baton, and whatever a signal's handler raises meanwhile, have it before that is passed on."""
        interrupted: BaseException | None = None
        while not self._baton._is_owned():  # type: ignore[attr-defined]
            try:
                self._baton.acquire()
            except BaseException as exc:
                interrupted = exc
        if interrupted is not None:
            raise interrupted

    def _ring(self) -> None:
        """Wake home, from any thread or a signal's handler; once more does no harm."""
        try:
            self._alarm.release()
        except RuntimeError:
            pass  # it rings already

    def _write_to_self(self) -> None:
        self._ring()

    def stop(self) -> None:
        """Stop after the callbacks that are ready now, as asyncio does."""
        super().stop()
        if threading.get_ident() != self._home:
            self._reserved = True
            self._ring()

    def _check_thread(self) -> None:
        # A signal's Python handler runs at home while another thread may have the baton: as much
        # in the middle of things as it is in asyncio's own loop, and allowed to do as much.
        if self._thread_id is None or threading.get_ident() == self._home:
            return
        if not self._baton._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("Non-thread-safe operation invoked on an event loop other than the current one")

    def _keep_home(self, is_watched: bool) -> None:
        """While a watchdog watches, callbacks run at home only: its timer is on one thread (_watch_sampler.py)."""
        self._watchers_of_home += 1 if is_watched else -1
        self._turns = self._may_turn and not self._watchers_of_home
        self._reserved = self._home is None or not self._turns

    # --- signals --------------------------------------------------------------------------------------------

    def _make_self_pipe(self) -> None:
        # Home is woken by a lock, so that the pipe is for signals only, and made with the first of them.
        self._ssock = self._csock = None

    def _close_self_pipe(self) -> None:
        if self._ssock is not None:
            super()._close_self_pipe()  # type: ignore[misc]

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: object) -> None:
        """Call `callback` when the process gets `sig`; RuntimeError outside of the main thread, as in asyncio."""
        self._check_closed()
        self._check_home_for_signals()
        if self._csock is None:
            super()._make_self_pipe()  # type: ignore[misc]
        super().add_signal_handler(sig, callback, *args)

    def remove_signal_handler(self, sig: int) -> bool:
        """Undo `add_signal_handler`, with the same restriction; True if there was a handler."""
        self._check_home_for_signals()
        return super().remove_signal_handler(sig)

    def _check_home_for_signals(self) -> None:
        if self._home not in (None, threading.get_ident()):
            raise RuntimeError(
                "signal handlers are the main thread's, and this callback runs in a connection's: "
                "set them in the main task, or make the loop with turns=False"
            )

    # --- connections ------------------------------------------------------------------------------------------

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, object] | None = None,
        server: asyncio.AbstractServer | None = None,
        **_newer: object,
    ) -> BlockingStreamTransport:
        return BlockingStreamTransport(self, sock, protocol, waiter, extra, server)

    def _add_writer(
        self, fd: FileDescriptorLike, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts
    ) -> events.Handle:
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, BlockingStreamTransport):
            # The common transport asks to be told when it may write; here a thread waits in send(2) for it.
            owner._start_writing()
            return events.Handle(callback, args, self, None)
        return super()._add_writer(fd, callback, *args)

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        address: object = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, object] | None = None,
    ) -> BlockingDatagramTransport:
        return BlockingDatagramTransport(self, sock, protocol, address, waiter, extra)

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: object = None,
        port: object = None,
        *,
        sock: socket.socket | None = None,
        **options: object,
    ) -> asyncio.Server:
        """As asyncio's; a `sock` of the caller's is waited for in poll(2), see `_start_serving`."""
        if sock is not None:
            self._borrowed.add(sock)
        return await super().create_server(protocol_factory, host, port, sock=sock, **options)  # type: ignore[call-overload,no-any-return]

    async def create_unix_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: object = None,
        *,
        sock: socket.socket | None = None,
        **options: object,
    ) -> asyncio.Server:
        """As asyncio's; for a `sock` of the caller's see `create_server`."""
        if sock is not None:
            self._borrowed.add(sock)
        return await super().create_unix_server(protocol_factory, path, sock=sock, **options)  # type: ignore[arg-type]

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: object = None,
        server: asyncio.AbstractServer | None = None,
        backlog: int = 100,
        *timeouts_s: float | None,
    ) -> None:
        if sock in self._borrowed:
            # Ending accept(2) takes shutdown(2), which ends the listening itself, also for a process
            # that shares the socket (uvicorn's workers, a service manager's).  So: poll(2), then accept.
            floating_context().run(
                super()._start_serving,  # type: ignore[misc]
                protocol_factory, sock, sslcontext, server, backlog, *timeouts_s,
            )  # fmt: skip
            return

        def fetch(_: int) -> tuple[socket.socket, object]:
            conn, address = sock.accept()
            if acceptor.ended or self._closed:
                conn.close()
            return conn, address

        def deliver(item: tuple[socket.socket, object] | OSError) -> None:
            if acceptor.ended:
                return
            if isinstance(item, OSError):
                if not isinstance(item, ConnectionAbortedError):  # a peer that gave up while it waited
                    self._report_accept(sock, item)
                return
            conn, address = item
            self.create_task(
                self._accept_connection2(  # type: ignore[attr-defined]
                    protocol_factory, conn, {"peername": address}, sslcontext, server, *timeouts_s
                )
            )

        os.set_blocking(sock.fileno(), True)
        acceptor = Carrier(
            self,
            "accept",
            sock.fileno(),
            fetch,
            deliver,
            wake=lambda: shut_down(sock, socket.SHUT_RD),
            size_bytes=0,
            rest_s=ACCEPT_REST_S,
        )
        self._acceptors[sock] = acceptor
        acceptor.start()

    def _report_accept(self, sock: socket.socket, exc: OSError) -> None:
        # asyncio's words; its thread rests before it tries again, so that a full table of descriptors is no spin.
        self.call_exception_handler(
            {
                "message": "socket.accept() out of system resource",
                "exception": exc,
                "socket": trsock.TransportSocket(sock),
            }
        )

    def _stop_serving(self, sock: socket.socket) -> None:
        self._borrowed.discard(sock)
        acceptor = self._acceptors.pop(sock, None)
        if acceptor is not None:
            acceptor.end_and_wait()
        super()._stop_serving(sock)  # type: ignore[misc]

    # --- the end ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the loop, end its threads and close the sockets that they waited on; the loop must not run."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self._closed:
            return
        super().close()
        self._arrivals.clear()
        if self._pid != os.getpid():
            return  # after fork(2) the threads are the parent's, and what would wake them would end its connections
        threads = list(self._threads)
        for thread in threads:
            thread.end()
        for thread in threads:
            thread.join()
        for transport in list(self._transports.values()):
            if isinstance(transport, BlockingStreamTransport | BlockingDatagramTransport):
                transport._abandon()
        for sock in self._acceptors:
            sock.close()
        self._acceptors.clear()
        self._borrowed.clear()

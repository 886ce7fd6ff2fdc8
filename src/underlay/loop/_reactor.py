"""The reactor: one turn of the loop over whichever poller is beneath it.

This file knows asyncio's promises about a turn — what was ready runs first, then what became ready, then
due timers, first in first out — and which callback watches which descriptor.  It does not know how readiness
is learned (that is a `Poller`, one model per ``_io_*.py``), nor how bytes are moved (``_transport.py``).

Everything that is not on a request's path (signals, subprocesses, Unix sockets, sendfile, ``sock_*``, DNS,
executors, TLS handshakes) is the standard library's own code, inherited from ``asyncio.SelectorEventLoop``.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import os
import selectors
import socket
import ssl
import sys
from asyncio import base_events, constants, events, format_helpers, sslproto, trsock, unix_events
from asyncio.log import logger
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVarTuple, Unpack

from ._transport import DatagramTransport, StreamTransport

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

_Ts = TypeVarTuple("_Ts")

_new_handle: Final = events.Handle.__new__

READ: Final = 0x001  # POLLIN of poll(2); EPOLLIN of epoll_ctl(2) has the same bit
WRITE: Final = 0x004  # POLLOUT, likewise EPOLLOUT
# A hang-up or an error (POLLHUP, POLLERR) wakes both sides: whoever calls recv() or send() next is told.

# asyncio.base_events has both numbers: a day is the longest wait that epoll_wait's int of milliseconds and
# Windows agree on, and a heap is worth rebuilding when half of at least a hundred timers were cancelled.
LONGEST_WAIT_S: Final = 24 * 3600.0
_TIMERS_WORTH_PURGING: Final = 100

# As asyncio's accept: no descriptor or no memory for a connection, which will be there still when there is.
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# asyncio's reader of a pidfd, the default watcher of children since Python 3.12; its class got an underscore in 3.14.
_pidfd_watcher: Any = getattr(unix_events, "PidfdChildWatcher", None) or unix_events._PidfdChildWatcher  # type: ignore[attr-defined]
_WAIT_BY_PIDFD: Final = _pidfd_watcher._do_wait


class Poller(Protocol):
    """What a readiness model must do, in the order in which every ``_io_*.py`` does it.

    `events` are ``READ | WRITE`` bits of poll(2).  `wait` gives ``(fd, bits)`` pairs; ``POLLHUP`` and ``POLLERR``
    may be among the bits though nobody asked.  ``timeout_s`` of None waits for ever, 0 doesn't wait.
    A poller is handed only descriptors, never file objects, and never the same descriptor twice.
    """

    def add(self, fd: int, events: int, /) -> None: ...
    def modify(self, fd: int, events: int, /) -> None: ...
    def remove(self, fd: int, /) -> None: ...
    def wait(self, timeout_s: float | None, /) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class ReactorLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop over a `Poller`; the base class of every readiness model.

    ``edges`` is the poller's set of descriptors whose last event may not be used up yet, for models that
    announce a *change* of readiness (edge-triggered epoll, signals); None for those that announce its level.
    A transport that emptied its socket takes its descriptor out of it.
    """

    # What the base class keeps for itself and this file shares with it.
    _ready: deque[events.Handle]
    _scheduled: list[events.TimerHandle]
    _closed: bool = True  # until it was made: __del__ asks, also where a model's constructor failed
    _debug: bool
    _stopping: bool
    _clock_resolution: float
    _timer_cancelled_count: int
    _current_handle: events.Handle | None
    slow_callback_duration: float
    _check_closed: Callable[[], None]

    def __init__(self, poller: Poller, edges: set[int] | None = None) -> None:
        self._poller = poller
        self._edges = edges
        self._wait = poller.wait
        self._readers: dict[int, events.Handle] = {}
        self._writers: dict[int, events.Handle] = {}
        self._file_objects: dict[int, FileDescriptorLike] = {}  # what was given to watch, where it wasn't a number
        try:
            super().__init__(_SelectorView(self))  # type: ignore[arg-type]
        except BaseException:
            # No pipe to wake ourselves by, say: the caller gets no loop that could be closed.
            self._closed = True
            for end in ("_ssock", "_csock"):
                pipe_end: socket.socket | None = getattr(self, end, None)
                if pipe_end is not None:
                    pipe_end.close()
            poller.close()
            raise

    def close(self) -> None:
        """Close the loop and its poller; what is still registered is forgotten, not closed, but for pidfds.

        asyncio opens one for each child process, closes it when the child ends, and drops it with the loop.
        """
        super().close()
        for handle in self._readers.values():
            if getattr(handle._callback, "__func__", None) is _WAIT_BY_PIDFD:  # type: ignore[attr-defined]
                os.close(handle._args[1])
        self._readers.clear()
        self._writers.clear()
        self._file_objects.clear()

    # --- who watches which descriptor -------------------------------------------------------------------

    def _add_reader(
        self, fd: FileDescriptorLike, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts
    ) -> events.Handle:
        self._check_closed()
        given, fd = fd, fd if isinstance(fd, int) and fd >= 0 else self._fd_of(fd)
        handle = events.Handle(callback, args, self, None)
        previous = self._readers.get(fd)
        if previous is not None:
            self._readers[fd] = handle
            previous.cancel()
            return handle
        if fd in self._writers:
            self._poller.modify(fd, READ | WRITE)
        else:
            self._poller.add(fd, READ)
        self._readers[fd] = handle
        if given is not fd:
            self._file_objects[fd] = given
        return handle

    def _remove_reader(self, fd: FileDescriptorLike) -> bool:
        if self._closed:
            return False
        fd = fd if isinstance(fd, int) and fd >= 0 else self._fd_of(fd)
        handle = self._readers.pop(fd, None)
        if handle is None:
            return False
        if fd in self._writers:
            self._poller.modify(fd, WRITE)
        else:
            self._poller.remove(fd)
            self._file_objects.pop(fd, None)
        handle.cancel()
        return True

    def _add_writer(
        self, fd: FileDescriptorLike, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts
    ) -> events.Handle:
        self._check_closed()
        given, fd = fd, fd if isinstance(fd, int) and fd >= 0 else self._fd_of(fd)
        handle = events.Handle(callback, args, self, None)
        previous = self._writers.get(fd)
        if previous is not None:
            self._writers[fd] = handle
            previous.cancel()
            return handle
        if fd in self._readers:
            self._poller.modify(fd, READ | WRITE)
        else:
            self._poller.add(fd, WRITE)
        self._writers[fd] = handle
        if given is not fd:
            self._file_objects[fd] = given
        return handle

    def _remove_writer(self, fd: FileDescriptorLike) -> bool:
        if self._closed:
            return False
        fd = fd if isinstance(fd, int) and fd >= 0 else self._fd_of(fd)
        handle = self._writers.pop(fd, None)
        if handle is None:
            return False
        if fd in self._readers:
            self._poller.modify(fd, READ)
        else:
            self._poller.remove(fd)
            self._file_objects.pop(fd, None)
        handle.cancel()
        return True

    def _fd_of(self, fileobj: FileDescriptorLike) -> int:
        """The descriptor of a file object; where it was closed since, the one under which it is watched still."""
        try:
            return _fileno(fileobj)
        except ValueError:
            for fd, watched in self._file_objects.items():  # as selectors search
                if watched is fileobj:
                    return fd
            raise

    # --- one turn ------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        """Run one turn: wait for readiness no longer than the next timer allows, then what is ready, in order.

        The order is the standard loop's: callbacks already queued, then those of ready descriptors, then due timers;
        what a callback queues runs in the next turn.
        """
        ready = self._ready
        timeout_s = 0.0 if ready or self._stopping else None
        if self._scheduled:
            timeout_s = self._next_timer_s(timeout_s)

        readers, writers = self._readers, self._writers
        for fd, mask in self._wait(timeout_s):
            if mask == 0x001:  # READ and nothing else: nearly all of them
                if fd in readers:
                    ready.append(readers[fd])
                continue
            if mask & ~WRITE and fd in readers:
                ready.append(readers[fd])
            if mask & ~READ and fd in writers:
                ready.append(writers[fd])

        if self._scheduled:
            self._queue_due_timers()

        if self._debug:
            self._run_ready_and_time_it()
            return
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            # Handle._run(), without its call: 0.09 µs instead of 0.27 around an empty callback.
            try:
                if handle._args:
                    handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
                else:
                    handle._context.run(handle._callback)  # type: ignore[attr-defined]
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._report_callback(handle, exc)

    def _next_timer_s(self, timeout_s: float | None) -> float | None:
        """Drop cancelled timers from the head of the heap; give the time until the first that remains."""
        scheduled = self._scheduled
        if self._timer_cancelled_count * 2 > len(scheduled) > _TIMERS_WORTH_PURGING:
            for timer in scheduled:
                if timer._cancelled:
                    timer._scheduled = False  # type: ignore[attr-defined]
            scheduled = self._scheduled = [timer for timer in scheduled if not timer._cancelled]
            heapq.heapify(scheduled)
            self._timer_cancelled_count = 0
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]
        if timeout_s is None and scheduled:
            return min(max(0.0, scheduled[0].when() - self.time()), LONGEST_WAIT_S)
        return timeout_s

    def _queue_due_timers(self) -> None:
        scheduled, ready = self._scheduled, self._ready
        end_time_s = self.time() + self._clock_resolution
        while scheduled and scheduled[0].when() < end_time_s:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]
            ready.append(timer)

    def _run_ready_and_time_it(self) -> None:
        ready = self._ready
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            try:
                self._current_handle = handle
                start_s = self.time()
                handle._run()
                took_s = self.time() - start_s
                if took_s >= self.slow_callback_duration:
                    described = base_events._format_handle(handle)  # type: ignore[attr-defined]
                    logger.warning("Executing %s took %.3f seconds", described, took_s)
            finally:
                self._current_handle = None

    def _report_callback(self, handle: events.Handle, exc: BaseException) -> None:
        """Tell the exception handler of a callback that failed, in the words of ``asyncio.Handle``."""
        callback = format_helpers._format_callback_source(handle._callback, handle._args)  # type: ignore[attr-defined]
        context: dict[str, object] = {
            "message": f"Exception in callback {callback}",
            "exception": exc,
            "handle": handle,
        }
        if handle._source_traceback:  # type: ignore[attr-defined]
            context["source_traceback"] = handle._source_traceback  # type: ignore[attr-defined]
        self.call_exception_handler(context)

    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> events.Handle:
        """Queue `callback` for the next turn, as ``asyncio.loop.call_soon`` does."""
        if self._debug or self._closed:
            return super().call_soon(callback, *args, context=context)
        # Handle.__init__(), without its call and its look for debug mode: 0.24 µs instead of 0.33, once per
        # awaited read of a stream (benchmarks/loops.py, 100x1KiB:streams).
        handle = _new_handle(events.Handle)
        handle._context = copy_context() if context is None else context  # type: ignore[attr-defined]
        handle._loop = self  # type: ignore[attr-defined]
        handle._callback = callback  # type: ignore[attr-defined]
        handle._args = args
        handle._cancelled = False
        handle._repr = handle._source_traceback = None  # type: ignore[attr-defined]
        self._ready.append(handle)
        return handle

    if sys.version_info >= (3, 14):

        def call_soon_threadsafe(
            self,
            callback: Callable[[Unpack[_Ts]], object],
            *args: *_Ts,
            context: Context | None = None,
        ) -> events.Handle:
            """Queue `callback` from any thread; from Python 3.14 on, to cancel it waits until it does not run.

            The lock for that is in the handle's own ``_run``, which `_run_once` is too quick to call; so another
            handle does.
            """
            if self._debug or self._closed:
                return super().call_soon_threadsafe(callback, *args, context=context)
            handle = events._ThreadSafeHandle(callback, args, self, context)
            self._ready.append(events.Handle(handle._run, (), self, handle._context.copy()))
            self._write_to_self()
            return handle

    # --- servers ----------------------------------------------------------------------------------------------

    def _accept_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: ssl.SSLContext | None = None,
        server: asyncio.AbstractServer | None = None,
        backlog: int = 100,
        *timeouts_s: float | None,
    ) -> None:
        """Accept what waits, up to `backlog` connections; without descriptors say so once, and rest for a second.

        asyncio means the same, but its loop goes on after EMFILE: `backlog` failed calls, reports and timers, each of
        which then starts serving, also where the server was closed meanwhile.
        """
        # One more than wait in the kernel at once: Linux lets `backlog + 1` (sk_acceptq_is_full() of net/sock.h).
        for _ in range(backlog + 1):
            try:
                connection, address = sock.accept()
            except ConnectionAbortedError:
                continue  # that one is gone, and others may wait
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno not in _OUT_OF_RESOURCES:
                    raise  # reported, as of any callback
                self.call_exception_handler(
                    {
                        "message": "socket.accept() out of system resource",
                        "exception": exc,
                        "socket": trsock.TransportSocket(sock),
                    }
                )
                # The waiting connection stays ready: not to watch for it is the only way not to spin.
                self._remove_reader(sock.fileno())
                serve = partial(self._serve_again, protocol_factory, sock, sslcontext, server, backlog, *timeouts_s)
                self.call_later(constants.ACCEPT_RETRY_DELAY, serve)
                return
            if self._debug:
                logger.debug("%r got a new connection from %r: %r", server, address, connection)
            connection.setblocking(False)
            self.create_task(
                self._accept_connection2(  # type: ignore[attr-defined]
                    protocol_factory, connection, {"peername": address}, sslcontext, server, *timeouts_s
                )
            )

    def _serve_again(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], sock: socket.socket, *options: object
    ) -> None:
        if sock.fileno() >= 0:  # the server may have been closed while it rested
            self._start_serving(protocol_factory, sock, *options)  # type: ignore[attr-defined]

    # --- transports -------------------------------------------------------------------------------------------

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, object] | None = None,
        server: asyncio.AbstractServer | None = None,
        **_newer: object,
    ) -> StreamTransport:
        return StreamTransport(self, sock, protocol, waiter, extra, server)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, object] | None = None,
        server: asyncio.AbstractServer | None = None,
        **handshake: float | None,
    ) -> asyncio.Transport:
        ssl_protocol = sslproto.SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,  # type: ignore[arg-type]
            server_side,
            server_hostname,
            **handshake,  # type: ignore[arg-type]
        )
        self._make_socket_transport(rawsock, ssl_protocol, extra=extra, server=server)
        return ssl_protocol._app_transport

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        address: object = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, object] | None = None,
    ) -> DatagramTransport:
        return DatagramTransport(self, sock, protocol, address, waiter, extra)


class _SelectorView:
    """What the standard library still asks of a loop's ``_selector``: who is registered (in reprs), and to close it."""

    def __init__(self, loop: ReactorLoop) -> None:
        self._loop = loop

    def get_key(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """The key that a selector would hold for `fileobj`; KeyError where nobody watches it."""
        fd = self._loop._fd_of(fileobj)
        reader, writer = self._loop._readers.get(fd), self._loop._writers.get(fd)
        mask = (selectors.EVENT_READ if reader else 0) | (selectors.EVENT_WRITE if writer else 0)
        if not mask:
            raise KeyError(f"{fileobj!r} is not registered")
        return selectors.SelectorKey(fileobj, fd, mask, (reader, writer))

    def close(self) -> None:
        self._loop._poller.close()


def _fileno(fileobj: FileDescriptorLike) -> int:
    """The descriptor of a file object, refused as ``selectors`` refuses it."""
    try:
        fd = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Invalid file object: {fileobj!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd

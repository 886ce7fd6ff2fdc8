"""The stream transport of the ring: what arrives is already received, and what is sent the kernel sends in its
own time.

This file knows asyncio's promises about a connection when reading and writing are operations *under way*:
that nothing received is lost by a pause, that writes keep their order, that the socket is closed only after
the kernel has let go of it. It does not know the ring's structures, nor how completions are told apart
(`_io_uring.py`).

It chooses per connection and direction:

* small messages complete in the kernel, by a multishot receive and by sends batched with the turn's other
  operations;
* bulk goes by a multishot poll and direct recv(2) and send(2). Of 64 KiB echoed on 100 connections, sends by the
  ring cost 62 µs against 21 for direct ones, because what a turn receives no longer is in the cache when the
  turn's end sends it; and receiving in buffers of 16 KiB cost twice as much as one recv(2).
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from asyncio import events
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from . import _ring
from ._transport import StreamTransport, unchanging

if TYPE_CHECKING:
    from ._io_uring import RingPoller, UringLoop

# What a completion is about stands in the low bits of its user_data, and who it concerns above them.
# These are a stream's; `_io_uring.py` has the others.
KIND_BITS: Final = 3
RECEIVED: Final = 0
SENT: Final = 1
WOKEN: Final = 5

# The longest message that is sent by the ring.
SEND_AT_MOST_BYTES: Final = 16384
# The most that one recv(2) reads of a bulk connection: a page more than the 64 KiB that programs like to send at once,
# lest each of those needs a second call to learn that it was all. Measured, 64 KiB echoed: 64 KiB 20.3 µs, 65 KiB
# 19.0, 96 KiB 19.7.
_READ_AT_MOST_BYTES: Final = 65536 + 4096
_BULK_EVENTS: Final = select.POLLIN | select.POLLRDHUP
# A send that failed thus is tried again: no room, or cancelled because the thread that submitted it is gone.
_LATER: Final = frozenset({errno.EAGAIN, errno.EINTR, errno.ECANCELED, errno.ENOMEM})
# MSG_DONTWAIT has the kernel try at once and never wait; MSG_WAITALL has it call a short send a failure, and only
# failures complete aloud (IOSQE_CQE_SKIP_SUCCESS). So when the turn's system call returns, a send of which nothing
# is heard is done.
_SEND_FLAGS: Final = (socket.MSG_DONTWAIT | socket.MSG_WAITALL | socket.MSG_NOSIGNAL) << 32


class RingStreamTransport(StreamTransport):
    """A connected stream socket whose reads and writes complete in the kernel, as long as they are small."""

    def __init__(
        self,
        loop: UringLoop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, object] | None = None,
        server: asyncio.AbstractServer | None = None,
    ) -> None:
        poller: RingPoller = loop._ring_poller
        self._poller = poller
        self._id = poller.new_id()
        fd = sock.fileno()
        self._receive_head = _ring.head(_ring.RECV, fd, _ring.MULTISHOT | _ring.BUFFER_SELECT)
        self._receive_flags = 0
        self._send_head = _ring.head(_ring.SEND, fd, _ring.SKIP_SUCCESS)
        self.receive_mark = self._id << KIND_BITS | RECEIVED
        self._send_mark = self._id << KIND_BITS | SENT
        # Reading: what the kernel has received, and whether it will receive more.
        self._inbox: deque[bytes | OSError] = deque()
        self._read_handle: events.Handle = events.Handle(self._deliver, (), loop, None)
        self.delivering = False  # the handle is queued: once, as asyncio promises one event a connection and turn
        self._started = False
        self.receiving = False  # an operation is under way
        self._cancelling = False  # and was asked to end
        self._ended = False  # by EOF or an error: there is nothing more to come
        self._by_poll = False  # the operation is then a poll, and reading is ours
        self._readable = False  # as far as a poll has told
        self._hung_up = False
        # Writing: the one send of this turn.
        self._number = -1  # of its submission
        self._place = 0  # where its bytes begin in the arena
        self._nbytes = 0
        self._close_when_idle = False
        super().__init__(loop, sock, protocol, waiter, extra, server)
        poller.streams[self._id] = self
        self._after_send_handle = events.Handle(self._after_send, (), loop, None)

    # --- reading --------------------------------------------------------------------------------------------

    def _start_reading(self) -> None:
        """Deliver what was received while nobody read, and receive more."""
        self._started = True
        if not self.is_reading():
            return
        if self._inbox or self._readable:
            self._deliver_soon()
        if not self.receiving and not self._ended:
            self._receive()

    def _receive(self) -> None:
        mark = self._poller.push(self._receive_head, 0, 0, self._receive_flags, self.receive_mark)
        self.receiving = mark >= 0

    def _stop_reading(self) -> None:
        """End the receive under way; until it has ended the kernel holds the socket."""
        if self.receiving and not self._cancelling:
            self._cancelling = True
            self._poller.cancel(self.receive_mark)

    def pause_reading(self) -> None:
        """Stop calling ``data_received``; the receive goes on until something comes, which then waits here."""
        if self.is_reading():
            self._paused = True

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        if self._paused and not self._closing and not self.delivering:
            self._read_handle = events.Handle(self._deliver, (), self._loop, None)  # as asyncio: in this context
        super().resume_reading()

    def _deliver_soon(self) -> None:
        if not self.delivering:
            self.delivering = True
            self._poller.ready.append(self._read_handle)

    def _deliver(self) -> None:
        """Give the protocol one completion of the receive, and the next in another turn."""
        self.delivering = False
        inbox = self._inbox
        if self._closing:
            inbox.clear()
            return
        if self._paused:
            return
        data = inbox.popleft() if inbox else self._read_directly() if self._readable else None
        if data is None:
            return
        if isinstance(data, OSError):
            self._fatal_error(data, "Fatal read error on socket transport")
        elif not data:
            self._received_eof()
        elif self._buffered:
            self._lend_to_protocol(data)
        else:
            try:
                self._protocol.data_received(data)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal error: protocol.data_received() call failed.")
        if inbox or self._readable:
            self._start_reading()

    def _lend_to_protocol(self, data: bytes) -> None:
        """Copy what was received to the buffers of a `BufferedProtocol`, of whatever size they are."""
        protocol: asyncio.BufferedProtocol = self._protocol  # type: ignore[assignment]
        while data:
            try:
                view = memoryview(protocol.get_buffer(-1)).cast("B")
                if not view.nbytes:
                    raise RuntimeError("get_buffer() returned an empty buffer")
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
                return
            nbytes = min(view.nbytes, len(data))
            view[:nbytes] = data[:nbytes]
            data = data[nbytes:]
            try:
                protocol.buffer_updated(nbytes)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal error: protocol.buffer_updated() call failed.")
                return
            if data and (self._closing or self._paused or self.get_protocol() is not protocol):
                if not self._closing:
                    self._inbox.appendleft(data)
                return

    def receive_ended(self, result: int) -> None:
        """Take the last completion of the receive: an end of the stream, an error, or a reason to begin another."""
        self.receiving = self._cancelling = False
        if self._close_when_idle:
            self._close_socket()
            return
        if result > 0 or result == -errno.ECANCELED:
            pass  # ended by the kernel's own limits, or because we asked
        elif result == -errno.ENOBUFS:
            self._poller.short_of_buffers()
        else:
            self._ended = True
            self._inbox.append(b"" if result == 0 else OSError(-result, os.strerror(-result)))
            self._deliver_soon()
            return
        if not self._closing and not self._paused:
            self._start_reading()

    def receive_bulk_directly(self) -> None:
        """Change to a multishot poll and recv(2), for good: this peer sends more at once than a buffer takes."""
        self._stop_reading()
        self._by_poll = True
        self.receive_mark = self._id << KIND_BITS | WOKEN
        self._receive_head = _ring.head(_ring.POLL_ADD, self._sock_fd)
        self._receive_flags = _ring.POLL_MULTISHOT | _BULK_EVENTS << 32

    def woken(self, result: int, more: bool) -> None:
        """Take a completion of the poll: there is something to read, or an end."""
        if result > 0:
            self._readable = True
            if result & ~select.POLLIN:
                self._hung_up = True
            if not self._paused:
                self._deliver_soon()
            elif more:
                self._stop_reading()
        if not more:
            self.receive_ended(result)

    def _read_directly(self) -> bytes | OSError | None:
        """Read once. A poll tells only of what is new, so what one read leaves is remembered."""
        try:
            data = self._recv(_READ_AT_MOST_BYTES)
        except (BlockingIOError, InterruptedError):
            self._readable = False
            return None
        except OSError as exc:
            return exc
        if not data:
            self._ended = True
            self._readable = False
        elif len(data) < _READ_AT_MOST_BYTES and not self._hung_up:
            self._readable = False  # a short read emptied the socket: epoll(7), question 9; but no poll follows an end
        return data

    # --- writing --------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Have the ring send `data` with the turn's other operations; what is long or finds no room goes directly."""
        poller = self._poller
        place = poller.arena_used
        if (
            data.__class__ is not bytes
            or not 0 < (nbytes := len(data)) <= SEND_AT_MOST_BYTES
            or place + nbytes > poller.arena_bytes
            or self._number >= poller.settled
            or self._buffer
            or self._eof
            or self._conn_lost
            or self._empty_waiter is not None
        ):
            self._write_otherwise(data)
            return
        poller.arena_used = end = place + nbytes
        poller.arena[place:end] = data
        self._place = place
        self._nbytes = nbytes
        self._number = poller.push(
            self._send_head, 0, poller.arena_address + place, nbytes | _SEND_FLAGS, self._send_mark
        )
        if nbytes > self._high_water:  # type: ignore[attr-defined]
            self._maybe_pause_protocol()
            poller.after_sends.append(self._after_send_handle)

    def _write_otherwise(self, data: object) -> None:
        poller = self._poller
        if data.__class__ is bytes and self._number < poller.settled:
            super().write(data)  # the direct way
            return
        if isinstance(data, (bytearray, memoryview)):
            nbytes = data.nbytes if isinstance(data, memoryview) else len(data)
            if 0 < nbytes <= SEND_AT_MOST_BYTES and poller.arena_used + nbytes <= poller.arena_bytes:
                self.write(bytes(data))
                return
        unsettled = self._number >= poller.settled
        if not unsettled or not data or self._eof or self._conn_lost or self._empty_waiter is not None:
            super().write(data)  # type: ignore[arg-type]  # which also knows all errors
            return
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        # A second write of this turn, whose first the kernel doesn't know of yet: headers and body leave as one.
        rest = bytes(data)
        place = self._place + self._nbytes
        nbytes = self._nbytes + len(rest)
        if (
            place == poller.arena_used
            and not self._buffer
            and nbytes <= SEND_AT_MOST_BYTES
            and place + len(rest) <= poller.arena_bytes
            and poller.lengthen(self._number, nbytes | _SEND_FLAGS)
        ):
            poller.arena_used = place + len(rest)
            poller.arena[place : poller.arena_used] = rest
            self._nbytes = nbytes
        else:
            self._queue(rest)
        self._maybe_pause_protocol()
        poller.after_sends.append(self._after_send_handle)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send the buffers in order, as one message."""
        buffers = unchanging(list_of_data)
        if self._number >= self._poller.settled or sum(map(len, buffers)) <= SEND_AT_MOST_BYTES:
            if self._eof:
                raise RuntimeError("Cannot call writelines() after write_eof()")
            if self._empty_waiter is not None:
                raise RuntimeError("unable to writelines; sendfile is in progress")
            self.write(b"".join(buffers))
        else:
            super().writelines(buffers)

    def send_failed(self, result: int) -> None:
        """Take the completion of a send, which tells of bytes that the kernel did not take."""
        if self._conn_lost:
            return
        if result >= 0 or -result in _LATER:
            unsent = self._poller.arena[self._place + max(result, 0) : self._place + self._nbytes]
            self._number = -1
            self._buffer.appendleft(unsent)  # before what was written since
            self._buffer_bytes += len(unsent)
            self._poller.ready.append(self._after_send_handle)
        else:
            exc = OSError(-result, os.strerror(-result))
            self._poller.ready.append(events.Handle(self._report_failed_send, (exc,), self._loop, None))

    def _report_failed_send(self, exc: OSError) -> None:
        self._discard_queued()
        self._fatal_error(exc, "Fatal write error on socket transport")
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_exception(exc)

    def _after_send(self) -> None:
        """Do what waited for the turn's send: the rest of it, the protocol's resumption, the half-close, the close."""
        if self._conn_lost or self._close_when_idle or self._sock_fd in self._loop._writers:
            return
        if self._number >= self._poller.settled:
            self._poller.after_sends.append(self._after_send_handle)  # the protocol has written again since
            return
        if self._buffer:
            if not self._send_queued():
                return
            if self._buffer:
                self._loop._add_writer(self._sock_fd, self._write_ready)
        self._maybe_pause_protocol()
        self._maybe_resume_protocol()
        if not self._buffer:
            self._all_written()

    def _all_written(self) -> None:
        if self._number >= self._poller.settled:
            self._poller.after_sends.append(self._after_send_handle)  # resumed, the protocol wrote more
        elif not self._conn_lost:
            super()._all_written()

    def write_eof(self) -> None:
        """Send FIN once everything written is sent."""
        if self._number >= self._poller.settled and not self._closing:
            self._eof = True
            self._poller.after_sends.append(self._after_send_handle)
        else:
            super().write_eof()

    def get_write_buffer_size(self) -> int:
        """Bytes written by the caller that the kernel hasn't taken yet."""
        return self._buffer_bytes + (self._nbytes if self._number >= self._poller.settled else 0)

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        if self._number >= self._poller.settled and self._empty_waiter is None:
            self._empty_waiter = self._loop.create_future()
            self._poller.after_sends.append(self._after_send_handle)
            return self._empty_waiter
        return super()._make_empty_waiter()

    # --- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading, send what is queued, then close; ``connection_lost(None)`` follows."""
        if self._number >= self._poller.settled and not self._closing:
            self._closing = True
            self._stop_reading()
            self._poller.after_sends.append(self._after_send_handle)
        else:
            super().close()

    def _close_socket(self) -> None:
        """Close the socket once the receive has ended: until then close(2) would tell the peer nothing."""
        self._close_when_idle = True
        if not self.receiving:
            self._poller.streams.pop(self._id, None)
            super()._close_socket()
            # They know methods of ours: a cycle, which would keep us until garbage is collected.
            self._read_handle.cancel()
            self._after_send_handle.cancel()

    # --- when the ring changes ------------------------------------------------------------------------------

    def ring_lost(self) -> None:
        """Forget what was under way: it is the parent's of this process, who also sends what was being sent."""
        self.receiving = self._cancelling = False
        self._number = -1
        if self._close_when_idle:
            self._close_socket()

    def ring_ready(self) -> None:
        """Receive again, where the program reads."""
        if self._started and self.is_reading() and not self._ended and not self.receiving:
            self._receive()

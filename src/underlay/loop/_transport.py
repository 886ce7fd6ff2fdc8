"""The lean stream transport: one connected socket, one protocol, and what asyncio promises between them.

This file knows the order of a connection's callbacks, flow control, half-close and how an error ends a
connection.  It does not know which model said that the socket is ready: the loop calls `_read_ready` and
`_write_ready`, and what they need of it is `_add_reader`, `_add_writer` and their opposites.

It stands where ``asyncio.selector_events._SelectorSocketTransport`` would, with two differences. It reads at
most 64 KiB at a time, because glibc maps and unmaps a receive buffer of asyncio's 256 KiB on every single
read (M_MMAP_THRESHOLD is 128 KiB, mallopt(3)); and what it couldn't send waits as the caller's own ``bytes``,
uncopied.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import warnings
from asyncio import base_events, constants, futures, selector_events, transports, trsock
from asyncio.log import logger
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from ._reactor import ReactorLoop

READ_SIZE_BYTES: Final = 65536  # below glibc's mmap threshold; benchmarks/loops.py has the cost of other sizes
IOV_MAX: Final = 1024  # most buffers that one sendmsg(2) takes: UIO_MAXIOV of the kernel


class StreamTransport(transports._FlowControlMixin):
    """A connected stream socket (TCP or Unix) as an asyncio transport.

    Raises what asyncio's transport raises: TypeError for data that isn't bytes-like, RuntimeError for a write after
    ``write_eof``.  A kernel error ends the connection and arrives as ``connection_lost(exc)``.
    """

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE
    _loop: ReactorLoop
    _extra: dict[str, object]
    _sock: socket.socket | None = None  # __del__ looks at it, also after a constructor that failed
    _server: asyncio.AbstractServer | None = None
    _protocol: asyncio.Protocol  # or a BufferedProtocol, where `_buffered`
    # Inherited: tell the protocol when `get_write_buffer_size()` crosses the high or the low water mark.
    _maybe_pause_protocol: Callable[[], None]
    _maybe_resume_protocol: Callable[[], None]

    def __init__(
        self,
        loop: ReactorLoop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, object] | None = None,
        server: asyncio.AbstractServer | None = None,
    ) -> None:
        super().__init__(extra, loop)
        self._extra["socket"] = trsock.TransportSocket(sock)
        self._extra["sockname"] = _address_or_none(sock.getsockname)
        if "peername" not in self._extra:
            self._extra["peername"] = _address_or_none(sock.getpeername)
        self._sock = sock
        self._sock_fd = sock.fileno()
        self._recv = sock.recv
        self._recv_into = sock.recv_into
        self._send = sock.send
        self._edges = loop._edges
        self._buffer: deque[bytes | memoryview] = deque()
        self._buffer_bytes = 0
        self._conn_lost = 0  # counts writes after the loss too, to warn of a caller that never looks
        self._closing = False
        self._paused = False
        self._eof = False
        self._empty_waiter: asyncio.Future[None] | None = None
        self.set_protocol(protocol)
        if server is not None:
            self._server = server
            _attach(server, self)
        loop._transports[self._sock_fd] = self  # type: ignore[attr-defined]
        base_events._set_nodelay(sock)  # type: ignore[attr-defined]  # as asyncio: small writes leave at once

        loop.call_soon(self._protocol.connection_made, self)
        loop.call_soon(self._start_reading)  # only after connection_made
        if waiter is not None:
            loop.call_soon(futures._set_result_unless_cancelled, waiter, None)  # type: ignore[attr-defined]

    # --- reading ----------------------------------------------------------------------------------------------

    def _start_reading(self) -> None:
        if not self.is_reading():
            return
        try:
            self._loop._add_reader(self._sock_fd, self._read_ready)
        except (OSError, ValueError) as exc:
            # No room in select's bit map, epoll's max_user_watches reached: a peer that hangs would never learn of it.
            self._fatal_error(exc, "Fatal error: the model can't watch this connection.")

    def _stop_reading(self) -> None:
        self._loop._remove_reader(self._sock_fd)

    def _read_ready(self) -> None:
        """Read once and deliver it: asyncio's promise of fairness is one read per connection and turn."""
        if self._conn_lost:
            return
        if self._buffered:
            self._read_into_protocol()
            return
        try:
            data = self._recv(READ_SIZE_BYTES)
        except (BlockingIOError, InterruptedError):
            if self._edges is not None:
                self._edges.discard(self._sock_fd)
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal read error on socket transport")
            return
        if not data:
            self._received_eof()
            return
        if self._edges is not None and len(data) < READ_SIZE_BYTES:
            self._edges.discard(self._sock_fd)  # a short read emptied the socket: epoll(7), question 9
        try:
            self._protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.data_received() call failed.")

    def _read_into_protocol(self) -> None:
        """The same for a `BufferedProtocol`, which lends its own buffer."""
        protocol = cast(asyncio.BufferedProtocol, self._protocol)
        try:
            buffer = memoryview(protocol.get_buffer(-1))
            if not buffer:
                raise RuntimeError("get_buffer() returned an empty buffer")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
            return
        try:
            nbytes = self._recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            if self._edges is not None:
                self._edges.discard(self._sock_fd)
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal read error on socket transport")
            return
        if not nbytes:
            self._received_eof()
            return
        try:
            protocol.buffer_updated(nbytes)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.buffer_updated() call failed.")

    def _received_eof(self) -> None:
        if self._loop.get_debug():
            logger.debug("%r received EOF", self)
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if keep_open:
            self._stop_reading()  # the other direction stays open; an EOF would be ready for ever
        else:
            self.close()

    def is_reading(self) -> bool:
        """True between ``connection_made`` and close, except while paused."""
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        """Stop calling ``data_received``; what arrives waits in the kernel, whose window then closes on the peer."""
        if not self.is_reading():
            return
        self._paused = True
        self._stop_reading()
        if self._loop.get_debug():
            logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        if self._closing or not self._paused:
            return
        self._paused = False
        self._start_reading()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    # --- writing ----------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` now as far as the kernel takes it; the rest waits, and above high water the protocol is paused.

        What waits is not bounded, as in asyncio: a protocol that ignores ``pause_writing`` fills memory.
        """
        if data.__class__ is not bytes and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        if not data:
            return
        if self._conn_lost:
            self._count_lost_write()
            return
        if not self._buffer:
            try:
                sent = self._send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal write error on socket transport")
                return
            if sent == len(data) and data.__class__ is not memoryview:  # a memoryview's len() needn't be its bytes
                return
            data = memoryview(data)
            data = (data if _counts_bytes(data) else memoryview(bytes(data)))[sent:]
            if not data:
                return
            self._loop._add_writer(self._sock_fd, self._write_ready)
        self._queue(data)
        self._maybe_pause_protocol()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send the buffers in order, gathered by one sendmsg(2) where the kernel takes them."""
        if self._eof:
            raise RuntimeError("Cannot call writelines() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError("unable to writelines; sendfile is in progress")
        buffers = unchanging(list_of_data)
        if not buffers:
            return
        if self._conn_lost:
            self._count_lost_write()
            return
        was_waiting = bool(self._buffer)
        for data in buffers:
            self._queue(data)
        if not was_waiting:
            if not self._send_queued() or not self._buffer:
                return
            self._loop._add_writer(self._sock_fd, self._write_ready)
        self._maybe_pause_protocol()

    def _queue(self, data: bytes | bytearray | memoryview) -> None:
        # Bytes can't change under us, so a view of them may wait; anything else the caller may reuse is copied.
        if isinstance(data, memoryview):
            waiting = data if isinstance(data.obj, bytes) and _counts_bytes(data) else bytes(data)
        else:
            waiting = data if isinstance(data, bytes) else bytes(data)
        self._buffer.append(waiting)
        self._buffer_bytes += len(waiting)

    def _count_lost_write(self) -> None:
        if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("socket.send() raised exception.")
        self._conn_lost += 1

    def _send_queued(self) -> bool:
        """Send what waits until the kernel takes no more; False where the connection ended by an error."""
        buffer = self._buffer
        # Again where sendmsg took the IOV_MAX buffers that it may have: space is announced only after a refusal.
        while buffer:
            try:
                if len(buffer) == 1:
                    sent = self._send(buffer[0])
                else:
                    sent = self._sock.sendmsg(islice(buffer, IOV_MAX))  # type: ignore[union-attr]
            except (BlockingIOError, InterruptedError):
                return True
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._write_failed(exc)
                return False
            if self._drop_sent(sent):
                return True
        return True

    def _drop_sent(self, sent: int) -> bool:
        """Forget the first `sent` bytes of what waits; True where that ends within a buffer: the kernel is full."""
        buffer = self._buffer
        self._buffer_bytes -= sent
        while sent:
            first = buffer.popleft()
            if len(first) > sent:
                buffer.appendleft(memoryview(first)[sent:])
                return True
            sent -= len(first)
        return False

    def _write_failed(self, exc: BaseException) -> None:
        """End the connection by an error of sending what waited."""
        self._discard_queued()
        self._fatal_error(exc, "Fatal write error on socket transport")
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_exception(exc)

    def _write_ready(self) -> None:
        waiting_bytes = self._buffer_bytes
        if self._conn_lost or not self._send_queued() or self._buffer_bytes == waiting_bytes:
            return
        self._maybe_resume_protocol()  # may write more, or close
        if self._conn_lost:
            return  # type: ignore[unreachable]  # the call above may have closed us
        if not self._buffer:
            self._loop._remove_writer(self._sock_fd)
            self._all_written()

    def _all_written(self) -> None:
        """The last queued byte is with the kernel: do what waited for that."""
        if self._empty_waiter is not None:
            self._empty_waiter.set_result(None)
        if self._closing:
            self._conn_lost += 1  # before the protocol is told, who may abort us once more
            self._call_connection_lost(None)
        elif self._eof:
            self._shut_down_writing()

    def _discard_queued(self) -> None:
        if self._buffer:
            self._buffer.clear()
            self._buffer_bytes = 0
            self._loop._remove_writer(self._sock_fd)

    def write_eof(self) -> None:
        """Send FIN once everything queued is sent; the peer may still answer (half-close, RFC 9293 3.6)."""
        if self._closing or self._eof:
            return
        self._eof = True
        if not self._buffer:
            self._shut_down_writing()

    def _shut_down_writing(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)  # type: ignore[union-attr]

    def can_write_eof(self) -> bool:
        """True: TCP and Unix streams have a half-close."""
        return True

    def get_write_buffer_size(self) -> int:
        """Bytes written by the caller that the kernel hasn't taken yet."""
        return self._buffer_bytes

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        """A future that is done when nothing is queued; until `_reset_empty_waiter`, writing is refused (sendfile)."""
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self._empty_waiter = self._loop.create_future()
        if not self._buffer:
            self._empty_waiter.set_result(None)
        return self._empty_waiter

    def _reset_empty_waiter(self) -> None:
        self._empty_waiter = None

    # --- the end ----------------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to another protocol, from the next event on."""
        self._protocol = cast(asyncio.Protocol, protocol)
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The current protocol."""
        return self._protocol

    def is_closing(self) -> bool:
        """True once closing has begun, by either side or by an error."""
        return self._closing

    def close(self) -> None:
        """Stop reading, send what is queued, then close; ``connection_lost(None)`` follows."""
        if self._closing:
            return
        self._closing = True
        self._stop_reading()
        if not self._buffer:
            self._conn_lost += 1
            self._loop._remove_writer(self._sock_fd)
            self._loop.call_soon(self._call_connection_lost, None)

    def abort(self) -> None:
        """Close at once; what is queued is lost."""
        self._force_close(None)

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        """End the connection by `exc`; only what isn't the network's fault reaches the exception handler."""
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self._loop.call_exception_handler(
                {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
            )
        self._force_close(exc)

    def _force_close(self, exc: BaseException | None) -> None:
        if self._conn_lost:
            return
        self._discard_queued()
        if not self._closing:
            self._closing = True
            self._stop_reading()
        self._conn_lost += 1
        self._loop.call_soon(self._call_connection_lost, exc)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(exc)  # type: ignore[arg-type]  # asyncio too passes on what it was given
        finally:
            self._close_socket()
            # As asyncio: a closed transport holds nothing.
            self._protocol = None  # type: ignore[assignment]
            self._loop = None  # type: ignore[assignment]
            server, self._server = self._server, None
            if server is not None:
                _detach(server, self)
            if self._empty_waiter is not None and not self._empty_waiter.done():
                self._empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))

    def _close_socket(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def __del__(self) -> None:
        if self._sock is not None:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self, stacklevel=1)
            self._sock.close()
            # Garbage together with its StreamWriter, it is closed by that one's finalizer too, before or after:
            # by then the descriptor's number may be somebody else's, and a server counts each end once.
            self._closing = True
            server, self._server = self._server, None
            if server is not None:
                _detach(server, self)

    def __repr__(self) -> str:
        state = "closed" if self._sock is None else "closing" if self._closing else "open"
        details = [type(self).__name__, state, f"fd={self._sock_fd}"]
        if self._sock is not None and not self._loop.is_closed():
            details.append("read=polling" if self._sock_fd in self._loop._readers else "read=idle")
            writing = "polling" if self._sock_fd in self._loop._writers else "idle"
            details.append(f"write=<{writing}, bufsize={self._buffer_bytes}>")
        return f"<{' '.join(details)}>"


class DatagramTransport(selector_events._SelectorDatagramTransport):  # type: ignore[misc, name-defined]
    """asyncio's own datagram transport, with a receive buffer of the largest UDP payload and no more.

    65,535 bytes is the most that UDP's 16-bit length can say (RFC 768); asyncio's 256 KiB has the cost told above.
    """

    _loop: ReactorLoop

    def __init__(
        self,
        loop: ReactorLoop,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        address: object = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(loop, sock, protocol, address, waiter, extra)
        self._recvfrom = sock.recvfrom

    def _read_ready(self) -> None:
        if self._conn_lost:
            return
        try:
            data, address = self._recvfrom(READ_SIZE_BYTES)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as exc:
            self._protocol.error_received(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal read error on datagram transport")
        else:
            self._protocol.datagram_received(data, address)


def _counts_bytes(view: memoryview) -> bool:
    """True where len() of the view, and a slice of it, mean bytes: not so for one of integers, or of two dimensions."""
    return view.format == "B" and view.ndim == 1 and view.c_contiguous


def unchanging(list_of_data: Iterable[bytes | bytearray | memoryview]) -> list[bytes]:
    """The buffers that hold anything, as bytes, which can't change while they wait; TypeError for what is no buffer."""
    # A memoryview of each refuses integers, of which bytes() would make as many zeros.
    buffers = [data if isinstance(data, bytes) else bytes(memoryview(data)) for data in list_of_data]
    return [data for data in buffers if data]


def _address_or_none(ask: Callable[[], object]) -> object:
    """What getsockname(2) or getpeername(2) says, None where the kernel refuses (a peer that is gone already)."""
    try:
        return ask()
    except OSError:
        return None


# A server counted its connections up to Python 3.12 and keeps a set of them since 3.13 (`Server.close_clients`).
def _attach(server: asyncio.AbstractServer, transport: StreamTransport) -> None:
    server._attach(*((transport,) if sys.version_info >= (3, 13) else ()))  # type: ignore[attr-defined]


def _detach(server: asyncio.AbstractServer, transport: StreamTransport) -> None:
    server._detach(*((transport,) if sys.version_info >= (3, 13) else ()))  # type: ignore[attr-defined]


# Callbacks of ours that may be called on the mere chance of data, because EAGAIN is an answer to them.  Anyone else's
# may block where there is nothing: a reader of os.read() on a blocking pipe, asyncio's own waitpid() behind a pidfd.
READS_BY_TRYING: Final = frozenset({StreamTransport._read_ready, DatagramTransport._read_ready})

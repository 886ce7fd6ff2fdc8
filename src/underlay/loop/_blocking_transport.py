"""Transports of the blocking model: each has a thread in recv(2) or recvfrom(2), one more in send(2) for a slow peer.

This file knows which flags and which mode a socket needs and when it may be closed.  It does not know who runs
its callbacks.  The mode is blocking, so every call made on the loop says MSG_DONTWAIT; only the threads wait.
Flow control, half-close, errors and the order of callbacks are the common transport's.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Final, cast

from ._blocking_threads import Carrier, Sender, floating_context
from ._transport import IOV_MAX, DatagramTransport, StreamTransport

if TYPE_CHECKING:
    from ._io_blocking import BlockingLoop

_NOW: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

# A thread must own its buffer while it waits, so it is small until a connection proves to need more: the first holds
# two full segments of Ethernet; the most is below glibc's mmap threshold (mallopt(3)), as in the common transport.
_SMALLEST_READ_BYTES: Final = 4096
_LARGEST_READ_BYTES: Final = 65536

# One blocking send. When it returns, flow control hears of it, so it should be a part of what
# asyncio calls high water (64 KiB); below that, each costs a switch of threads for too little.
_SLICE_BYTES: Final = 65536

_MAX_DATAGRAM_BYTES: Final = 65536  # one more than UDP's length field can say (RFC 768)


class BlockingStreamTransport(StreamTransport):
    """A connected stream socket whose thread waits in recv(2)."""

    _loop: BlockingLoop
    _sock: socket.socket

    def __init__(
        self,
        loop: BlockingLoop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, object] | None = None,
        server: asyncio.AbstractServer | None = None,
    ) -> None:
        self._receiver: Carrier | None = None
        self._late_error: OSError | None = None
        self._sender: Sender | None = None
        super().__init__(loop, sock, protocol, waiter, extra, server)
        self._send_flagged = sock.send
        self._send = self._send_now  # type: ignore[assignment]
        self._slice_is_out = False
        # Python's own idea of the time-out stays what asyncio's sockets have; the descriptor is what blocks.
        os.set_blocking(self._sock_fd, True)

    # --- reading ------------------------------------------------------------------------------------------

    def _start_reading(self) -> None:
        if not self.is_reading():
            return
        if self._receiver is not None:
            self._receiver.resume()
            return
        self._receiver = Carrier(
            self._loop,
            "recv",
            self._sock_fd,
            self._fetch,
            self._received,
            wake=self._wake_receiver,
            size_bytes=_SMALLEST_READ_BYTES,
            is_stream=True,
        )
        try:
            self._receiver.start()
        except RuntimeError as exc:
            self._no_thread(exc)

    def _stop_reading(self) -> None:
        if self._receiver is not None:
            if self._closing:
                self._receiver.end()
            else:
                self._receiver.pause()

    def _fetch(self, size_bytes: int) -> bytes:
        """In the thread: wait for bytes, and take along what came with them but didn't fit into the small buffer.

        Some programs take one arrival for one message (Engine.IO does, for the body of a POST).  TCP never
        promised that, but the common transport's large reads let them get away with it.
        """
        if self._late_error is not None:
            raise self._late_error
        data = self._recv(size_bytes)
        if len(data) == size_bytes < _LARGEST_READ_BYTES:
            try:
                data += self._recv(_LARGEST_READ_BYTES - size_bytes, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass  # it was all
            except OSError as exc:
                self._late_error = exc  # the kernel tells it once, and the data go first
        return data

    def _received(self, data: bytes | OSError) -> None:
        if self._conn_lost or self._closing:
            return
        if isinstance(data, OSError):
            self._fatal_error(data, "Fatal read error on socket transport")
            return
        size = len(data)
        if not size:
            self._received_eof()
            return
        receiver = self._receiver
        assert receiver is not None
        if size >= receiver.size_bytes:
            receiver.size_bytes = min(receiver.size_bytes * 4, _LARGEST_READ_BYTES)
        elif size * 8 <= receiver.size_bytes:
            receiver.size_bytes = max(receiver.size_bytes // 4, _SMALLEST_READ_BYTES)
        if self._buffered:
            self._lend_to_protocol(data, receiver)
            return
        try:
            self._protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.data_received() call failed.")

    def _lend_to_protocol(self, data: bytes, receiver: Carrier) -> None:
        """Copy into a `BufferedProtocol`'s buffer: the thread received before anyone could ask for one."""
        protocol = cast(asyncio.BufferedProtocol, self._protocol)
        try:
            buffer = memoryview(protocol.get_buffer(-1)).cast("B")
            if not buffer:
                raise RuntimeError("get_buffer() returned an empty buffer")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
            return
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        if size < len(data):
            receiver.put_back(data[size:])  # the protocol may pause, close or give way to another before the rest
        try:
            protocol.buffer_updated(size)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.buffer_updated() call failed.")

    def _wake_receiver(self) -> None:
        shut_down(self._sock, socket.SHUT_RD)

    # --- writing ------------------------------------------------------------------------------------------

    def _send_now(self, data: bytes | bytearray | memoryview) -> int:
        return self._send_flagged(data, _NOW)

    def _start_writing(self) -> None:
        """What is being queued can't be sent now: have a thread wait in send(2) with the first slice of it."""
        if self._sender is None:
            self._sender = Sender(self._loop, self._sock, self._sent, self._wake_sender)
            try:
                self._sender.start()
            except RuntimeError as exc:
                self._no_thread(exc)
                return
        self._sender.context = floating_context()
        self._loop.call_soon(self._send_slice)

    def _send_slice(self) -> None:
        if self._buffer and not self._conn_lost and not self._slice_is_out and self._sender is not None:
            self._slice_is_out = True
            self._sender.send(memoryview(self._buffer[0])[:_SLICE_BYTES])

    def _sent(self, result: int | OSError) -> None:
        """The slice is with the kernel, or failed: send what else fits, then wait again with the next."""
        self._slice_is_out = False
        if self._conn_lost:
            return
        if isinstance(result, OSError):
            self._write_failed(result)
            return
        self._drop_sent(result)
        if not self._send_queued():
            return
        self._maybe_resume_protocol()  # may write more, or close
        if self._conn_lost:
            return  # type: ignore[unreachable]  # the call above may have closed us
        if self._buffer:
            self._send_slice()
        else:
            self._all_written()

    def _send_queued(self) -> bool:
        buffer = self._buffer
        if not buffer or self._slice_is_out:
            return True
        try:
            if len(buffer) == 1:
                sent = self._send_now(buffer[0])
            else:
                sent = self._sock.sendmsg(islice(buffer, IOV_MAX), (), _NOW)
        except (BlockingIOError, InterruptedError):
            return True
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._write_failed(exc)
            return False
        self._drop_sent(sent)
        return True

    def _wake_sender(self) -> None:
        shut_down(self._sock, socket.SHUT_RDWR)

    # --- sendfile -----------------------------------------------------------------------------------------

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        # sendfile(2) knows no MSG_DONTWAIT, and the loop itself calls it. So while a file is sent the socket is
        # non-blocking (reading is paused then), and a watcher waits in poll(2) for room.
        waiter = super()._make_empty_waiter()
        if waiter.done():
            self._sock.setblocking(False)
        else:  # not before the sender's last slice
            waiter.add_done_callback(self._unblock)
        return waiter

    def _unblock(self, _: object) -> None:
        if not self._conn_lost:
            self._sock.setblocking(False)

    def _reset_empty_waiter(self) -> None:
        super()._reset_empty_waiter()
        if self._conn_lost:
            return
        os.set_blocking(self._sock_fd, True)
        # Where the peer broke off meanwhile, asyncio would read of it in the next turn, and so will the program expect.
        if self._receiver is not None:
            self._loop.call_soon(self._receiver.let_it_fetch)

    # --- the end ------------------------------------------------------------------------------------------

    def _no_thread(self, exc: RuntimeError) -> None:
        self._fatal_error(
            OSError(errno.EAGAIN, f"no thread for this connection ({exc}): raise `ulimit -u`, or use the model epoll"),
            "Fatal error: the blocking model needs a thread for each connection",
        )

    def _close_socket(self) -> None:
        if self._sock is not None:
            for thread in (self._receiver, self._sender):
                if thread is not None:
                    thread.end_and_wait()
            # They know methods of ours, as `_send` is one: cycles, which would keep us until garbage is collected.
            self._receiver = self._sender = None
            self._send = self._send_flagged
        super()._close_socket()

    def _abandon(self) -> None:
        """The loop is closed and the threads are gone: release the descriptor; nobody is left to be told."""
        self._closing = True
        self._conn_lost += 1
        self._close_socket()


class BlockingDatagramTransport(DatagramTransport):
    """A datagram socket whose thread waits in recvfrom(2)."""

    _loop: BlockingLoop

    def __init__(
        self,
        loop: BlockingLoop,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        address: object = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        self._receiver: Carrier | None = None
        super().__init__(loop, sock, protocol, address, waiter, extra)
        self._sock = _SendsNow(sock, self._end_receiver)
        os.set_blocking(sock.fileno(), True)

    def _add_reader(self, fd: int, callback: Callable[[], None], *args: object) -> None:
        if not self.is_reading():
            return
        if self._receiver is not None:
            self._receiver.resume()
            return
        sock = self._sock.blocking
        self._receiver = Carrier(
            self._loop,
            "recvfrom",
            fd,
            sock.recvfrom,
            self._received,
            wake=lambda: shut_down(sock, socket.SHUT_RD),
            size_bytes=_MAX_DATAGRAM_BYTES,
        )
        self._receiver.start()

    def pause_reading(self) -> None:
        """Deliver no datagrams; what the socket's buffer can't hold meanwhile, the kernel drops."""
        super().pause_reading()
        if self._receiver is not None and not self._closing:
            self._receiver.pause()

    def _received(self, item: tuple[bytes, object] | OSError) -> None:
        if self._conn_lost or self._closing:
            return
        if isinstance(item, OSError):
            self._protocol.error_received(item)
        else:
            self._protocol.datagram_received(*item)

    def close(self) -> None:
        """Send what is queued, then close; ``connection_lost(None)`` follows."""
        super().close()
        if self._receiver is not None:
            self._receiver.end()

    def _force_close(self, exc: BaseException | None) -> None:
        super()._force_close(exc)
        if self._receiver is not None:
            self._receiver.end()

    def _end_receiver(self) -> None:
        if self._receiver is not None:
            self._receiver.end_and_wait()
            self._receiver = None  # it knows a method of ours, as above

    def _abandon(self) -> None:
        """The loop is closed and the thread is gone: release the descriptor."""
        self._closing = True
        self._conn_lost += 1
        if self._sock is not None:
            self._sock.close()
            self._sock = None  # type: ignore[assignment]  # as asyncio leaves a closed transport


class _SendsNow:
    """The socket as asyncio's datagram transport uses it: sends never wait, though `blocking` does."""

    def __init__(self, sock: socket.socket, before_close: Callable[[], None]) -> None:
        self.blocking = sock
        self._before_close = before_close

    def send(self, data: bytes) -> int:
        return self.blocking.send(data, _NOW)

    def sendto(self, data: bytes, address: tuple[str, int]) -> int:
        return self.blocking.sendto(data, _NOW, address)

    def fileno(self) -> int:
        return self.blocking.fileno()

    def close(self) -> None:
        self._before_close()
        self.blocking.close()


def shut_down(sock: socket.socket, how: int) -> None:
    """shutdown(2) for its side effect of ending the calls that threads are in."""
    try:
        sock.shutdown(how)
    except OSError:
        pass  # ENOTCONN: the kernel has woken its waiters all the same

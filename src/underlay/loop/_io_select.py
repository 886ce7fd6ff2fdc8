"""Model 3, multiplexing by select(2): three bit maps go in, three come back, on every call.

This file knows select's bit maps and their limit. It does not know who watches a descriptor or what they do
with it.

Cost: each turn copies and scans everything watched, ready or not, and a descriptor of 1024 or more doesn't
fit at all: FD_SETSIZE is compiled into the C library, and `ulimit -n` doesn't move it (select(2), "BUGS").
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from asyncio import trsock
from collections.abc import Callable
from typing import IO, Any, Final

from ._reactor import READ, WRITE, ReactorLoop
from ._transport import DatagramTransport, StreamTransport

FD_SETSIZE: Final = 1024  # bits/typesizes.h of glibc, __FD_SETSIZE; the kernel itself knows no such limit


class SelectPoller:
    """Readiness from select(2), told again every turn for as long as it lasts."""

    def __init__(self) -> None:
        self._reading: set[int] = set()
        self._writing: set[int] = set()

    def add(self, fd: int, events: int) -> None:
        """Watch `fd`; ValueError for a descriptor that select's bit map has no place for."""
        _refuse_beyond_the_bit_map(fd)
        self.modify(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Watch `fd` for these events instead."""
        (self._reading.add if events & READ else self._reading.discard)(fd)
        (self._writing.add if events & WRITE else self._writing.discard)(fd)

    def remove(self, fd: int) -> None:
        """Forget `fd`, whether or not it is still open."""
        self._reading.discard(fd)
        self._writing.discard(fd)

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Wait for readiness; an error or hang-up shows as readable, writable or both."""
        try:
            reading, writing, _ = select.select(self._reading, self._writing, (), timeout_s)
        except OSError as exc:
            if exc.errno != errno.EBADF:
                raise
            self._forget_closed()
            return []
        if not writing:
            return [(fd, READ) for fd in reading]
        ready = dict.fromkeys(reading, READ)
        for fd in writing:
            ready[fd] = ready.get(fd, 0) | WRITE
        return list(ready.items())

    def close(self) -> None:
        """Nothing to close: select keeps no state in the kernel."""
        self._reading.clear()
        self._writing.clear()

    def _forget_closed(self) -> None:
        # One closed descriptor fails the whole call with EBADF.  epoll drops it by itself, poll flags it POLLNVAL;
        # here only asking one by one tells which it was.
        for fd in self._reading | self._writing:
            try:
                select.select((fd,), (), (), 0)
            except OSError:
                self.remove(fd)


class SelectLoop(ReactorLoop):
    """asyncio on select(2), for up to 1024 descriptors.

    One beyond them is refused before any protocol is told of it, and closed: a connection that can't be watched
    would never end.  An accepted one is reported to the exception handler, anything else raises ValueError.
    """

    def __init__(self) -> None:
        super().__init__(SelectPoller())

    async def _accept_connection2(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], conn: socket.socket, *options: Any
    ) -> None:
        try:
            _refuse_beyond_the_bit_map(conn.fileno())
        except ValueError as exc:
            self.call_exception_handler(
                {
                    "message": "a connection was accepted and closed again",
                    "exception": exc,
                    "socket": trsock.TransportSocket(conn),
                }
            )
            conn.close()
            return
        await super()._accept_connection2(protocol_factory, conn, *options)  # type: ignore[misc]

    def _make_socket_transport(self, sock: socket.socket, *args: Any, **kwargs: Any) -> StreamTransport:
        _close_beyond_the_bit_map(sock)
        return super()._make_socket_transport(sock, *args, **kwargs)

    def _make_datagram_transport(self, sock: socket.socket, *args: Any, **kwargs: Any) -> DatagramTransport:
        _close_beyond_the_bit_map(sock)
        return super()._make_datagram_transport(sock, *args, **kwargs)

    def _make_read_pipe_transport(self, pipe: IO[bytes], *args: Any, **kwargs: Any) -> asyncio.ReadTransport:
        _close_beyond_the_bit_map(pipe)
        transport: asyncio.ReadTransport = super()._make_read_pipe_transport(pipe, *args, **kwargs)  # type: ignore[misc]
        return transport

    def _make_write_pipe_transport(self, pipe: IO[bytes], *args: Any, **kwargs: Any) -> asyncio.WriteTransport:
        _close_beyond_the_bit_map(pipe)
        transport: asyncio.WriteTransport = super()._make_write_pipe_transport(pipe, *args, **kwargs)  # type: ignore[misc]
        return transport

    async def _make_subprocess_transport(self, *args: Any, **kwargs: Any) -> asyncio.SubprocessTransport:
        # asyncio would wait for ever for the end of a child whose pipes can't be watched, so try first which numbers
        # they would get: three pipes, and as many as one for how exec went and the child's pidfd.
        pipes = [os.pipe() for _ in range(4)]
        try:
            _refuse_beyond_the_bit_map(max(map(max, pipes)))
        finally:
            for fd in (fd for pipe in pipes for fd in pipe):
                os.close(fd)
        transport: asyncio.SubprocessTransport = await super()._make_subprocess_transport(*args, **kwargs)  # type: ignore[misc]
        return transport


def _refuse_beyond_the_bit_map(fd: int) -> None:
    if fd >= FD_SETSIZE:
        raise ValueError(
            f"select() can't watch descriptor {fd}: its bit map ends at {FD_SETSIZE - 1} (FD_SETSIZE); "
            "use the poll or epoll model, which have no such limit"
        )


def _close_beyond_the_bit_map(file: socket.socket | IO[bytes]) -> None:
    """Refuse what a transport was to own, and own it that far: asyncio closes nothing here that has no transport."""
    try:
        _refuse_beyond_the_bit_map(file.fileno())
    except ValueError:
        file.close()
        raise

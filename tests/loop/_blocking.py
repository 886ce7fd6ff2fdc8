"""What the tests of the blocking model share: protocols that keep a record, a raw far end, and its threads by name.

It knows how to make a connection of which the test holds one end. It refuses to know what is tested.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

from underlay.loop import blocking

T = TypeVar("T")


def run(main: Coroutine[object, object, T], *, turns: bool = True, debug: bool = False) -> T:
    with asyncio.Runner(loop_factory=lambda: blocking(turns=turns), debug=debug) as runner:
        return runner.run(main)


def our_threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("underlay-"))


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what comes about in other threads; a condition that never does is the test's time limit."""
    while not condition():
        await asyncio.sleep(0.001)


class Echo(asyncio.Protocol):
    """Sends back what it gets, and keeps a record of what it was told and by which thread."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.received = bytearray()
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.threads.append(threading.current_thread().name)
        self.received += data
        self.transport.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


class Keep(Echo):
    """Keeps what it gets and sends nothing back."""

    def data_received(self, data: bytes) -> None:
        self.received += data


ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)


async def connected(make: Callable[[], ProtocolT]) -> tuple[ProtocolT, socket.socket]:
    """A protocol on one end of a Unix stream pair, and the other end as a blocking socket."""
    near, far = socket.socketpair()
    far.settimeout(30)
    _, protocol = await asyncio.get_running_loop().create_connection(make, sock=near)
    return protocol, far


@asynccontextmanager
async def serving(make: Callable[[], asyncio.Protocol]) -> AsyncIterator[tuple[str, int]]:
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, backlog=1024)
    address: tuple[str, int] = server.sockets[0].getsockname()
    try:
        yield address
    finally:
        server.close()


async def in_thread(function: Callable[..., T], *args: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def round_trip(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    answer = b""
    while len(answer) < len(data):
        answer += sock.recv(65536)
    return answer

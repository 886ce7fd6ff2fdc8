"""What the tests of the uring model share: protocols that keep a record, and a plain socket at the far end.

It knows how to make a connection of which the test holds one end. It refuses to know what is tested.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

from underlay.loop._io_uring import RingPoller, UringLoop
from underlay.loop._ring import probe
from underlay.loop._uring_transport import RingStreamTransport

SUPPORT = probe()
needs_io_uring = pytest.mark.skipif(not SUPPORT.available, reason=f"{SUPPORT.reason}; {SUPPORT.remedy}")


_T = TypeVar("_T")


def run(main: Callable[[], Awaitable[None]], *, debug: bool = False) -> None:
    async def awaited() -> None:
        await main()

    with asyncio.Runner(loop_factory=UringLoop, debug=debug) as runner:
        runner.run(awaited())


def poller() -> RingPoller:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, UringLoop)
    return loop._ring_poller


class Recorder(asyncio.Protocol):
    """Keeps what comes, and the order of calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received = bytearray()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.came = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, RingStreamTransport)
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.calls.append("data")
        self.came.set()

    def eof_received(self) -> bool | None:
        self.calls.append("eof")
        return None

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.lost.set_result(exc)

    async def until(self, nbytes: int) -> None:
        while len(self.received) < nbytes:
            self.came.clear()
            await self.came.wait()


async def connected(family: int = socket.AF_INET) -> tuple[Recorder, socket.socket]:
    """A protocol on the loop's transport and, for its peer, a plain socket that blocks."""
    if family == socket.AF_UNIX:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            theirs = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
    ours.setblocking(False)
    theirs.settimeout(30)  # a limit on a hang, no measure
    _, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=ours)
    return protocol, theirs


async def in_thread(function: Callable[..., _T], *args: object) -> _T:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def read_all(sock: socket.socket) -> bytes:
    chunks = []
    while chunk := sock.recv(1 << 20):
        chunks.append(chunk)
    return b"".join(chunks)


@pytest.fixture
def enough_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(4096, hard) if hard != resource.RLIM_INFINITY else 4096
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

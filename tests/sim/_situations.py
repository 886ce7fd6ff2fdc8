"""Situations in which Linux gives an error, each a pair of plain asyncio programs: what `test_errors_like_linux` plays.

A situation knows what its two programs do, and at which moments something is done to the network or to the other
machine. It refuses to know what it is played on: the programs know asyncio and a `Side`, nothing of a simulator and
nothing of namespaces. The situations themselves stand in ``_situations_*.py``.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import ClassVar, Final, Literal, TypeVar

_T = TypeVar("_T")

PORT: Final = 7000
# So long nothing is waited for that does come: two kernels in namespaces need a millisecond, on a busy machine 100.
SETTLE_S: Final = 0.3

Deed = Literal["cut", "heal", "kill", "power off", "reboot", "pause", "resume"]
"""What may be done to the other machine: no packet passes any more, in neither direction (cut) until heal; its process
is killed as by SIGKILL; its power is taken away; the same, and it starts again with the same program; its process is
stopped as by SIGSTOP."""


class Side:
    """One of the two machines, as its program knows it: two addresses, and whom to tell what happened."""

    def __init__(
        self,
        here: str,
        there: str,
        say: Callable[[str], None],
        do: Callable[[Deed], None],
        ready: Callable[[], None],
    ) -> None:
        self.here = here
        self.there = there
        self.say = say
        self.do = do
        """Do something to the other machine, here and now."""
        self.ready = ready
        """Said by the server: the client may begin."""

    async def attempt(self, what: str, attempt: Awaitable[_T], limit_s: float = 8.0) -> _T | None:
        """Wait for something, and say what became of it: ``ok``, the error, or that it still waits."""
        try:
            async with asyncio.timeout(limit_s) as limit:
                result = await attempt
        except TimeoutError as error:
            self.say(f"{what}: {'still waiting' if limit.expired() else spell(error)}")
        except (OSError, EOFError) as error:
            self.say(f"{what}: {spell(error)}")
        else:
            self.say(f"{what}: ok")
            return result
        return None


def spell(error: BaseException | None) -> str:
    """An error's type and the name of its errno, where it has one of the kernel's."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError | socket.gaierror) and error.errno:
        return f"{type(error).__name__} {errno.errorcode[error.errno]}"
    return "None" if error is None else type(error).__name__


class Witness(asyncio.Protocol):
    """Says what it is told of its connection, in that order; what came in pieces is said in one."""

    def __init__(self, side: Side, *, keep_open: bool = False, reads: bool = True) -> None:
        self._side = side
        self._keep_open = keep_open
        self._reads = reads
        self._received_bytes = 0
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.got = asyncio.Event()
        self.resumed = asyncio.Event()
        self.transport: asyncio.Transport

    def say(self, what: str) -> None:
        """Say it, behind what was received before."""
        if self._received_bytes:
            self._side.say(f"data_received: {self._received_bytes} bytes")
            self._received_bytes = 0
        self._side.say(what)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.say("connection_made")
        if not self._reads:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        self.got.set()

    def eof_received(self) -> bool:
        self.say("eof_received")
        if not self.ended.done():
            self.ended.set_result(None)
        return self._keep_open

    def pause_writing(self) -> None:
        self.say("pause_writing")
        self.resumed.clear()

    def resume_writing(self) -> None:
        self.say("resume_writing")
        self.resumed.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.say(f"connection_lost: {spell(exc)}")
        self.lost.set_result(None)

    async def until_lost(self, limit_s: float = 8.0) -> None:
        """Wait for the end of the connection, and say where it does not come."""
        await self._wait_for(self.lost, "connection_lost", limit_s)

    async def until_ended(self, limit_s: float = 8.0) -> None:
        """Wait for the peer's end."""
        await self._wait_for(self.ended, "eof_received", limit_s)

    async def until_resumed(self, limit_s: float = 8.0) -> None:
        """Wait until there is room again."""
        await self._wait_for(asyncio.ensure_future(self.resumed.wait()), "resume_writing", limit_s)

    async def _wait_for(self, future: asyncio.Future[_T], what: str, limit_s: float) -> None:
        _, waiting = await asyncio.wait([future], timeout=limit_s)
        if waiting:
            self.say(f"no {what}")


class Situation:
    """Two programs; the docstring is the title. The server's runs first, and says when the client may begin."""

    all: ClassVar[list[type[Situation]]] = []
    gap: ClassVar[str] = ""
    """Why the simulator cannot play it yet."""
    difference: ClassVar[str] = ""
    """Why the simulator is meant to do something else than Linux."""
    knows_macs: ClassVar[bool] = True
    """Whether each machine has the other's hardware address without asking, as hosts have behind a router."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__doc__:
            Situation.all.append(cls)

    @classmethod
    def title(cls) -> str:
        assert cls.__doc__
        return " ".join(cls.__doc__.split())

    async def server(self, side: Side) -> None:
        """The program of the other machine."""
        side.ready()
        await asyncio.Event().wait()

    async def client(self, side: Side) -> None:
        """The program at whose end the situation ends."""
        raise NotImplementedError


# --- what many of them do ---------------------------------------------------------------------------------------------


async def serve(
    side: Side, make: Callable[[], asyncio.Protocol], backlog: int = 100, context: ssl.SSLContext | None = None
) -> None:
    """Accept connections for ever."""
    kept: list[asyncio.Protocol] = []  # a connection that does not read is held by nothing of asyncio's

    def make_and_keep() -> asyncio.Protocol:
        kept.append(make())
        return kept[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(make_and_keep, side.here, PORT, backlog=backlog, ssl=context)
    side.ready()
    await server.serve_forever()


async def connect(
    side: Side, *, keep_open: bool = False, reads: bool = True, options: dict[tuple[int, int], int] | None = None
) -> Witness:
    """Connect, with options of the socket; the witness says what follows."""
    sock = stream(options)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (side.there, PORT))
    _, witness = await loop.create_connection(lambda: Witness(side, keep_open=keep_open, reads=reads), sock=sock)
    return witness


def stream(options: dict[tuple[int, int], int] | None = None) -> socket.socket:
    """A TCP socket that does not wait, with options."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    for (level, name), value in (options or {}).items():
        sock.setsockopt(level, name, value)
    return sock


def reset_on_close(transport: asyncio.BaseTransport) -> None:
    """SO_LINGER of 0 s: close() sends RST."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


async def settle(seconds: float = SETTLE_S) -> None:
    """Let come what comes."""
    await asyncio.sleep(seconds)


USER_TIMEOUT: Final = {(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 1500}  # ms
KEEPALIVE: Final = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 2,
}
FEW_SYNS: Final = {(socket.IPPROTO_TCP, socket.TCP_SYNCNT): 1}

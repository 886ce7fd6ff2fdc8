"""The loop over the user-space stack: asyncio on epoll, whose TCP and UDP sockets are a host's of ours.

This file knows how a program's ``socket.socket`` comes to be one of the stack's, and how names are found.  It does
not know how frames move (``_bridge.py``) or what a socket does (``_stack_socket.py``).

All that asyncio builds upon sockets — servers, streams, TLS, datagrams, ``sock_*`` — is the standard library's code
and the lean transport, unmodified: they call ``socket.socket(AF_INET, …)`` in a coroutine of this loop, and get a
`StackSocket`. So does a library that makes its sockets itself, as aiohttp's client. Other families (Unix sockets),
pipes, subprocesses and signals are the kernel's, as ever.
"""

from __future__ import annotations

import _socket
import atexit
import functools
import os
import socket
import stat
import threading
import time
import warnings
from asyncio import SendfileNotAvailableError, events
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ..errors import UnderlayError
from ._bridge import FIRST_NUMBER, Bridge, StackPoller
from ._net_spec import parse_network
from ._reactor import Poller, ReactorLoop
from ._stack_names import Names, library_getaddrinfo, library_gethostbyname, library_gethostbyname_ex
from ._stack_network import open_network
from ._stack_socket import StackSocket

if TYPE_CHECKING:
    from ..stack import Host

_FAMILIES: Final = frozenset({-1, socket.AF_INET, socket.AF_INET6})
_KINDS: Final = frozenset({-1, socket.SOCK_STREAM, socket.SOCK_DGRAM})
# Two threads may begin to run two loops over one network at once.
_driving: Final = threading.Lock()
_FLAGS_OF_TYPE: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class StackLoop(ReactorLoop):
    """An asyncio event loop whose network is a user-space TCP/IP stack; it costs no thread.

    The network behind ``bridge`` is driven by one loop at a time: RuntimeError where another runs it. With
    ``owns_network`` it ends with the loop.
    """

    def __init__(self, bridge: Bridge, *, owns_network: bool = True, poller: Poller | None = None) -> None:
        self._bridge = bridge
        self._owns_network = owns_network
        self._names = Names(bridge, self)
        self._warned = False
        super().__init__(poller or StackPoller(bridge, self._note_kernels))
        _hook_socket()

    @property
    def host(self) -> Host:
        """The host of the stack: its interfaces, routes, connections and what they count."""
        return self._bridge.host

    def run_forever(self) -> None:
        """Run until ``stop()``."""
        with _driving:
            if self._bridge.driver not in (None, self):
                raise RuntimeError("another event loop drives this network; give each loop a network of its own")
            self._bridge.driver = self
            self._bridge.driver_thread = threading.get_ident()
        try:
            super().run_forever()
        finally:
            self._bridge.driver = self._bridge.driver_thread = None

    def _note_kernels(self, fd: int) -> None:
        """Say once that a TCP or UDP socket made outside of the loop is the kernel's: few mean that."""
        if self._warned or not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.family not in _FAMILIES or sock.type not in _KINDS:
                return
            name = sock.getsockname()
        self._warned = True
        warnings.warn(
            f"the socket at {name[0]} port {name[1]} is the kernel's, while the loop's network is a user-space stack: "
            "it was made outside of the loop; to have it on the stack make it in a coroutine of the loop, "
            "or give the loop a host and a port instead of a socket",
            RuntimeWarning,
            stacklevel=2,
        )

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """As ``socket.getaddrinfo``, by the network's own names and name servers."""
        return await self._names.getaddrinfo(host, port, family, type, proto, flags)

    def getaddrinfo_now(self, host: Any, port: Any, family: int, type: int, proto: int, flags: int) -> Any:
        """The same for a call that cannot await: ``socket.getaddrinfo`` in a coroutine of this loop."""
        return self._names.getaddrinfo_now(host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        """As ``socket.getnameinfo``, numeric: the stack asks no server for an address's name."""
        return await super().getnameinfo(sockaddr, flags | socket.NI_NUMERICHOST)

    # The descriptor is none that sendfile(2) takes, so every sendfile comes to reading and sending. A file of the
    # system's is sent under the name of the native way all the same, as with a kernel's socket: it needs no leave to
    # fall back, and nobody may write to the transport meanwhile. asyncio's own fallbacks seek to an offset above 0
    # only, and send from wherever the file stands otherwise.

    async def _sock_sendfile_native(self, sock: socket.socket, file: Any, offset: int, count: int | None) -> int:
        if not isinstance(sock, StackSocket):
            return await super()._sock_sendfile_native(sock, file, offset, count)  # type: ignore[misc,no-any-return]
        try:
            os.fstat(file.fileno())
        except (AttributeError, OSError) as error:
            raise SendfileNotAvailableError("not a regular file") from error
        return await self._sock_sendfile_fallback(sock, file, offset, count)

    async def _sock_sendfile_fallback(self, sock: socket.socket, file: Any, offset: int, count: int | None) -> int:
        file.seek(offset)
        return await super()._sock_sendfile_fallback(sock, file, offset, count)  # type: ignore[misc,no-any-return]

    async def _sendfile_fallback(self, transport: Any, file: Any, offset: int, count: int | None) -> int:
        file.seek(offset)
        return await super()._sendfile_fallback(transport, file, offset, count)  # type: ignore[misc,no-any-return]

    def close(self) -> None:
        """Close the loop and, where it owns it, the network. Sockets that are left open are dead."""
        if self._closed:
            return
        super().close()
        if self._owns_network:
            self._bridge.close()


def stack_loop(net: str, *, names: Mapping[str, str] | None = None) -> StackLoop:
    """A loop whose network is a user-space stack, as ``net`` says: the words of ``underlay run --net``.

    ``names`` are names and their addresses that need no name server. ``"lo"`` is a network without a device: the
    program talks to itself, through every layer, and needs no permission. Raises ``UsageError`` for a network that
    cannot be, and where the device may not be opened.

    >>> import asyncio
    >>> async def echo_once() -> bytes:
    ...     async def echo(reader, writer):
    ...         writer.write(await reader.read(100))
    ...         writer.close()
    ...     server = await asyncio.start_server(echo, "127.0.0.1", 7)
    ...     reader, writer = await asyncio.open_connection("127.0.0.1", 7)
    ...     writer.write(b"through our own TCP")
    ...     answer = await reader.read(100)
    ...     writer.close()
    ...     server.close()
    ...     return answer
    >>> with asyncio.Runner(loop_factory=lambda: stack_loop("lo")) as runner:
    ...     runner.run(echo_once())
    b'through our own TCP'
    """
    known = {name: [address] for name, address in (names or {}).items()}
    return StackLoop(open_network(parse_network(net), MonotonicClock(), names=known))


def network_factory(net: str) -> Callable[[], StackLoop]:
    """A loop factory for a whole process: its loops drive one network, one after another, opened here and now.

    It ends with the process, not before what was sent has arrived.
    """
    bridge = open_network(parse_network(net), MonotonicClock())
    atexit.register(bridge.close)
    return lambda: StackLoop(bridge, owns_network=False)


class MonotonicClock:
    """The clock of asyncio's loops (``BaseEventLoop.time``), for a network that outlives them."""

    def time(self) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        return time.monotonic()


# --- socket.socket ------------------------------------------------------------------------------------------------


_new: Final[Callable[..., Any]] = _socket.socket.__new__
_hooked = False


def _hook_socket() -> bool:
    """Let ``socket.socket(…)`` and ``socket.getaddrinfo`` ask each time whether the caller's thread runs our loop.

    The class stays the one that everybody imported; only how it is allocated is lengthened, once for the process.
    False where it is so already.
    """
    global _hooked
    if _hooked:
        return False
    _hooked = True
    socket.socket.__new__ = staticmethod(_allocate)  # type: ignore[assignment,method-assign]
    socket.getaddrinfo = _getaddrinfo
    socket.gethostbyname = _gethostbyname
    socket.gethostbyname_ex = _gethostbyname_ex
    return True


def _unhook_socket() -> None:
    """Undo it, where nobody's loop needs it any more."""
    global _hooked
    _hooked = False
    del socket.socket.__new__
    socket.getaddrinfo = library_getaddrinfo
    socket.gethostbyname = library_gethostbyname
    socket.gethostbyname_ex = library_gethostbyname_ex


def _allocate(
    cls: type[socket.socket],
    family: int = -1,
    type: int = -1,
    proto: int = -1,
    fileno: int | None = None,
    **_: object,
) -> socket.socket:
    if cls is socket.socket:
        loop = events._get_running_loop()
        if isinstance(loop, StackLoop) and (
            fileno >= FIRST_NUMBER
            if fileno is not None
            else family in _FAMILIES and (type == -1 or type & ~_FLAGS_OF_TYPE in _KINDS)
        ):
            cls = StackSocket  # whose __init__ is called next: it is a subclass
    made: socket.socket = _new(cls)
    return made


@functools.wraps(library_getaddrinfo)
def _getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
    loop = events._get_running_loop()
    if isinstance(loop, StackLoop):
        return loop.getaddrinfo_now(host, port, family, type, proto, flags)
    return library_getaddrinfo(host, port, family, type, proto, flags)


def _ipv4_of(host: Any) -> list[str] | None:
    """The addresses that the running loop has for a name; None for what is the C library's to answer or to refuse."""
    loop = events._get_running_loop()
    if not isinstance(loop, StackLoop) or not isinstance(host, str | bytes | bytearray):
        return None
    name = host if isinstance(host, str) else bytes(host).decode("ascii", "replace")
    if name in ("", "<broadcast>") or "\0" in name:
        return None
    infos = loop.getaddrinfo_now(name, None, socket.AF_INET, socket.SOCK_STREAM, 0, 0)
    return [str(info[4][0]) for info in infos]


@functools.wraps(library_gethostbyname)
def _gethostbyname(hostname: Any, /) -> str:
    found = _ipv4_of(hostname)
    return library_gethostbyname(hostname) if found is None else found[0]


@functools.wraps(library_gethostbyname_ex)
def _gethostbyname_ex(hostname: Any, /) -> tuple[str, list[str], list[str]]:
    found = _ipv4_of(hostname)
    if found is None:
        return library_gethostbyname_ex(hostname)
    return hostname if isinstance(hostname, str) else bytes(hostname).decode("ascii"), [], found


def running_bridge() -> Bridge:
    """The bridge of the loop that runs in this thread."""
    loop = events._get_running_loop()
    if not isinstance(loop, StackLoop):
        raise UnderlayError(
            "a socket of the user-space stack was asked for outside of its loop",
            remedy="make it in a coroutine that runs on underlay.loop.stack_loop(...)",
        )
    return loop._bridge


StackSocket.running_bridge = staticmethod(running_bridge)

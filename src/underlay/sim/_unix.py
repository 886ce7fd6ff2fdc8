"""Unix sockets within a host: streams between its own coroutines, in memory, by a name that only it knows.

This file knows unix(7) of a stream: names, backlog, buffers, what a peer's end does, and the errno that Linux has. It
refuses to know files: a name of a socket is none of a file's, needs no directory, and is free again when its socket is
closed, as if its program had unlinked it (asyncio does so before it binds).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ..loop._stack_core import ERR, HUP, IN, OUT, would_block
from ..loop._stack_message import Message
from ..loop._stack_options import refuse
from ..loop._stack_socket import StackSocket
from . import _turn

if TYPE_CHECKING:
    from ..loop._stack_address import Pair
    from ._bridge import SimBridge
    from ._host import Host

# net.core.wmem_default of Linux: what a sender may have under way.
LIMIT_BYTES: Final = 212_992
# sun_path of unix(7), of which Python keeps a byte for the end.
_MOST_NAME_BYTES: Final = 107
_CREDENTIALS: Final = struct.Struct("3i")


class UnixCore:
    """A stream of AF_UNIX: nothing yet, a listener, or one end of a connection."""

    connecting = False

    def __init__(self, bridge: SimBridge, host: Host, family: int = socket.AF_UNIX) -> None:
        self._bridge = bridge
        self._host = host
        self._sock: StackSocket | None = None
        self.name = b""
        self.peer: UnixCore | None = None
        self.is_closed = False
        self._was_connected = False
        self._backlog = -1
        self._waiting: deque[UnixCore] = deque()
        self._unread: deque[bytes] = deque()
        self.unread_bytes = 0
        self._peer_ended = False
        self._reading_shut = self._writing_shut = False
        self._error = 0
        self._options: dict[tuple[int, int], int] = {}

    def bind_to(self, sock: StackSocket) -> None:
        """Know whom to tell of what happens."""
        self._sock = sock
        self._touch()

    def _touch(self) -> None:
        if self._sock is not None and not self.is_closed:
            self._bridge.touch(self._sock)

    # --- who talks to whom ----------------------------------------------------------------------------------

    def bind_name(self, name: bytes) -> None:
        """Take a name; EADDRINUSE where a socket has it that is not closed."""
        if self.name or self._was_connected:
            raise refuse(errno.EINVAL)
        names = self._host.unix_names
        if not name:  # unix(7), autobind: five hexadecimal digits behind a zero
            name = next(each for number in range(1 << 20) if (each := b"\0%05x" % number) not in names)
        holder = names.get(name)
        if holder is not None and not holder.is_closed:
            raise refuse(errno.EADDRINUSE)
        names[name] = self
        self.name = name

    def listen(self, backlog: int) -> None:
        """Let others connect; EINVAL without a name."""
        if not self.name or self._was_connected:
            raise refuse(errno.EINVAL)
        self._backlog = backlog

    def accept(self) -> tuple[UnixCore, Pair]:
        """The next connection, as the core of a new socket."""
        if self._backlog < 0:
            raise refuse(errno.EINVAL)
        if not self._waiting:
            raise would_block()
        return self._waiting.popleft(), (b"", 0)

    def connect_name(self, name: bytes) -> None:
        """Be connected to who listens by that name: ENOENT, ECONNREFUSED, EAGAIN where its backlog is full."""
        if self._was_connected:
            raise refuse(errno.EISCONN)
        if self._backlog >= 0:
            raise refuse(errno.EINVAL)
        listener = self._host.unix_names.get(name)
        if listener is None:
            raise refuse(errno.ECONNREFUSED if name[:1] == b"\0" else errno.ENOENT)
        if listener.is_closed or listener._backlog < 0:
            raise refuse(errno.ECONNREFUSED)
        if len(listener._waiting) > listener._backlog:
            raise would_block()
        accepted = UnixCore(self._bridge, self._host)
        accepted.name = listener.name
        self.join(accepted)
        listener._waiting.append(accepted)
        listener._touch()

    def join(self, other: UnixCore) -> None:
        """Be the two ends of one connection."""
        self.peer, other.peer = other, self
        self._was_connected = other._was_connected = True
        self._touch()
        other._touch()

    def shutdown(self, how: int) -> None:
        """End one direction or both; without a peer Linux takes it for said."""
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise refuse(errno.EINVAL)
        peer = self.peer
        if how != socket.SHUT_WR:
            self._reading_shut = True
        if how != socket.SHUT_RD:
            self._writing_shut = True
            if peer is not None:
                peer._peer_ended = True
        self._touch()
        if peer is not None:
            peer._touch()

    # --- data -----------------------------------------------------------------------------------------------

    def receive(self, max_bytes: int) -> tuple[bytes, Pair | None]:
        """At most `max_bytes` of what came, b"" at the end."""
        if not self._was_connected:
            raise refuse(errno.EINVAL)
        if not self.unread_bytes:
            if self._error:
                raise refuse(self.take_error())
            if self._peer_ended or self._reading_shut or self.peer is None:
                return b"", None
            raise would_block()
        parts = []
        while self._unread and max_bytes:
            part = self._unread.popleft()
            if len(part) > max_bytes:
                self._unread.appendleft(part[max_bytes:])
                part = part[:max_bytes]
            parts.append(part)
            max_bytes -= len(part)
            self.unread_bytes -= len(part)
        if self.peer is not None:
            self.peer._touch()
        return b"".join(parts), None

    def message(self, max_bytes: int, flags: int) -> Message:
        """The same as `flags` of recv(2) want it; EOPNOTSUPP for urgent data."""
        if flags & socket.MSG_OOB:
            raise refuse(errno.EOPNOTSUPP)
        if flags & socket.MSG_PEEK and self.unread_bytes:
            data = b"".join(self._unread)[:max_bytes]
        else:
            data = self.receive(max_bytes)[0]
        return Message(data, None, len(data), 0)

    def holds(self, size_bytes: int) -> bool:
        """Whether so many bytes wait, or never will."""
        return self.unread_bytes >= min(size_bytes, LIMIT_BYTES) or self._peer_ended or bool(self._error)

    @property
    def failed(self) -> bool:
        """Whether nothing waits but an error."""
        return not self.unread_bytes and bool(self._error)

    def send(self, data: Any, flags: int, target: Pair | None) -> int:
        """Hand over what there is room for."""
        if target is not None:
            raise refuse(errno.EISCONN if self._was_connected else errno.EOPNOTSUPP)
        peer = self.peer
        if self._error and peer is None:
            raise refuse(self.take_error())
        if not self._was_connected:
            raise refuse(errno.ENOTCONN)
        if self._writing_shut or peer is None or peer._reading_shut:
            raise refuse(errno.EPIPE)
        taken = bytes(data[: LIMIT_BYTES - peer.unread_bytes])
        if not taken:
            if len(data):
                raise would_block()
            return 0
        peer._unread.append(taken)
        peer.unread_bytes += len(taken)
        peer._touch()
        return len(taken)

    def readiness(self, events: int) -> int:
        """What poll(2) says of it."""
        if self._backlog >= 0:
            return events & IN if self._waiting else 0
        if not self._was_connected:
            return HUP | events & OUT
        peer = self.peer
        mask = 0
        if self.unread_bytes or self._peer_ended or self._reading_shut or peer is None:
            mask |= events & IN
        if peer is None or self._writing_shut or peer.unread_bytes < LIMIT_BYTES:
            mask |= events & OUT
        if peer is None or (self._peer_ended and self._writing_shut):
            mask |= HUP
        return mask | ERR if self._error else mask

    # --- options, the end -----------------------------------------------------------------------------------

    def set_option(self, level: int, name: int, value: Any) -> None:
        """Note an option of socket(7); EOPNOTSUPP for other levels."""
        if level != socket.SOL_SOCKET:
            raise refuse(errno.EOPNOTSUPP)
        self._options[level, name] = value if isinstance(value, int) else int.from_bytes(value[:4], "little")

    def option(self, level: int, name: int, kind: int) -> int | bytes:
        """An option's value."""
        if level != socket.SOL_SOCKET:
            raise refuse(errno.EOPNOTSUPP)
        if name == socket.SO_ERROR:
            return self.take_error()
        if name == socket.SO_PEERCRED:
            return _CREDENTIALS.pack(self._host.chance.pid, os.getuid(), os.getgid())
        known = {
            socket.SO_ACCEPTCONN: int(self._backlog >= 0),
            socket.SO_TYPE: kind,
            socket.SO_DOMAIN: int(socket.AF_UNIX),
            socket.SO_PROTOCOL: 0,
            socket.SO_SNDBUF: LIMIT_BYTES,
            socket.SO_RCVBUF: LIMIT_BYTES,
        }
        return self._options.get((level, name), known.get(name, 0))

    def take_error(self) -> int:
        """SO_ERROR: the errno that waits, which is told once."""
        error, self._error = self._error, 0
        return error

    def close(self) -> None:
        """Let go of it: its peer reads the end, or ECONNRESET where something was left unread."""
        if self.is_closed:
            return
        self.is_closed = True
        for each in self._waiting:
            each._leave(reset=True)
        self._waiting.clear()
        self._leave(reset=bool(self.unread_bytes))

    def _leave(self, *, reset: bool) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            peer._peer_ended = True
            if reset:
                peer._error = errno.ECONNRESET
            peer._touch()

    # Of a pair of address and port: there is none.

    def bind(self, address: Pair) -> None:
        """Not by a pair."""
        raise refuse(errno.EINVAL)

    def connect(self, address: Pair) -> None:
        """Not by a pair."""
        raise refuse(errno.EINVAL)

    def finish_connect(self) -> None:
        """It is, at once."""

    def local(self) -> Pair:
        """None that is a pair."""
        return self.name, 0

    def remote(self) -> Pair:
        """The peer's name; ENOTCONN without one."""
        if self.peer is None:
            raise refuse(errno.ENOTCONN)
        return self.peer.name, 0


class UnixSocket(StackSocket):
    """A Unix stream socket of a simulated host, called as ``socket.socket(AF_UNIX)`` is."""

    _core: UnixCore

    def __init__(
        self,
        family: int = socket.AF_UNIX,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        fileno: int | None = None,
        *,
        core: UnixCore | None = None,
    ) -> None:
        self._io_refs = 0
        bridge: Any = StackSocket.running_bridge()
        if fileno is not None:
            self._take_over(bridge, fileno)
            return
        host = _turn.here()
        assert host is not None
        self._family, self._kind, self._proto = socket.AF_UNIX, socket.SOCK_STREAM, max(proto, 0)
        self._timeout_s = 0.0 if type & socket.SOCK_NONBLOCK else socket.getdefaulttimeout()
        self._bridge = bridge
        self._core = core or UnixCore(bridge, host)
        self._number = bridge.register(self)
        self._closed = self._gone = False
        self._open = True
        self._core.bind_to(self)

    def bind(self, address: Any, /) -> None:
        """Take a name: EADDRINUSE, EINVAL where it has one."""
        self._check_open()
        self._core.bind_name(_name(address))

    def connect(self, address: Any, /) -> None:
        """Connect: ENOENT, ECONNREFUSED, EAGAIN where the backlog is full."""
        self._check_open()
        self._core.connect_name(_name(address))

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection, and its peer's name, "" mostly."""
        core, _ = self._when(IN, self._core.accept)
        made = UnixSocket(core=core)
        if socket.getdefaulttimeout() is None and self._timeout_s:
            made.setblocking(True)
        return made, "" if core.peer is None else _shown(core.peer.name)

    def getsockname(self) -> Any:
        """Its name; "" before it has one."""
        self._check_open()
        return _shown(self._core.name)

    def getpeername(self) -> Any:
        """The peer's name; ENOTCONN without a peer."""
        self._check_open()
        return _shown(self._core.remote()[0])

    def _check_level(self, level: int, number: int = 0) -> None:
        pass


def pair(type: int = socket.SOCK_STREAM) -> tuple[UnixSocket, UnixSocket]:
    """Two that are connected, as socketpair(2) gives them."""
    one, other = UnixSocket(type=type), UnixSocket(type=type)
    one._core.join(other._core)
    return one, other


def bound(path: Any) -> UnixSocket:
    """One that has a name, with asyncio's words where it is taken."""
    sock = UnixSocket()
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
        raise
    return sock


def _name(address: Any) -> bytes:
    if not isinstance(address, str | bytes | bytearray | os.PathLike):
        raise TypeError(f"a bytes-like object is required, not {type(address).__name__!r}")
    name = bytes(address) if isinstance(address, bytearray) else os.fsencode(address)
    if len(name) > _MOST_NAME_BYTES:
        raise OSError("AF_UNIX path too long")
    return name


def _shown(name: bytes) -> Any:
    return name if name[:1] == b"\0" else os.fsdecode(name)

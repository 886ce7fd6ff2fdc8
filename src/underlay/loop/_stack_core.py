"""What a stream and a datagram socket do on a user-space host: states, options, errors.

This file knows which call is allowed when, and the errno that Linux has for it where it isn't; and which options of
tcp(7), udp(7), ip(7) and socket(7) the stack honours.  It does not know time-outs or argument parsing
(``_stack_socket.py``), nor segments (``underlay.stack``). No call here waits: BlockingIOError says that it would.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..stack import State
from ._stack_address import WILDCARD, Pair, named
from ._stack_message import MSG_OOB, MSG_PEEK, MSG_TRUNC, Message
from ._stack_options import Options, refuse
from ._stack_tcp_info import of_connection, without_connection

if TYPE_CHECKING:
    from ..stack import Binding, TcpConnection, TcpListener
    from ._bridge import Bridge
    from ._stack_socket import StackSocket

IN: Final = 0x001  # POLLIN of poll(2)
OUT: Final = 0x004  # POLLOUT
ERR: Final = 0x008  # POLLERR
HUP: Final = 0x010  # POLLHUP

RDHUP: Final = 0x2000  # POLLRDHUP

_ESTABLISHED: Final = State.ESTABLISHED
_CONNECTING: Final = frozenset({State.SYN_SENT, State.SYN_RECEIVED})
# Linux's socket is done with its connection when that has only to wait for late segments.
_OVER: Final = frozenset({State.CLOSED, State.TIME_WAIT})
_WITHOUT_PEER: Final = _CONNECTING | _OVER


class Core(Protocol):
    """What `StackSocket` asks of a kind of socket. Pairs are packed addresses with ports."""

    @property
    def connecting(self) -> bool: ...
    def bind_to(self, sock: StackSocket) -> None: ...
    def bind(self, address: Pair) -> None: ...
    def listen(self, backlog: int) -> None: ...
    def accept(self) -> tuple[Core, Pair]: ...
    def connect(self, address: Pair) -> None: ...
    def finish_connect(self) -> None: ...
    def shutdown(self, how: int) -> None: ...
    @property
    def failed(self) -> bool: ...
    def receive(self, max_bytes: int) -> tuple[bytes, Pair | None]: ...
    def message(self, max_bytes: int, flags: int) -> Message: ...
    def holds(self, size_bytes: int) -> bool: ...
    def send(self, data: Any, flags: int, target: Pair | None) -> int: ...
    def readiness(self, events: int) -> int: ...
    def local(self) -> Pair: ...
    def remote(self) -> Pair: ...
    def set_option(self, level: int, name: int, value: Any) -> None: ...
    def option(self, level: int, name: int, kind: int) -> int | bytes: ...
    def take_error(self) -> int: ...
    def close(self) -> None: ...


def would_block() -> BlockingIOError:
    """What a call says that would have to wait."""
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


class StreamCore:
    """A TCP socket: nothing yet, a listener, or a connection."""

    def __init__(self, bridge: Bridge, family: int, connection: TcpConnection | None = None) -> None:
        self._bridge = bridge
        self._tcp = bridge.host.tcp
        self._family = socket.AddressFamily(family)
        self._binding: Binding | None = None
        self._connection = connection
        # What connect() was asked for and has not told yet: SS_CONNECTING of the kernel.
        self._asked = False
        # shutdown() of a socket without a peer is refused, and remembered all the same: inet_shutdown().
        self._reading_shut = False
        self._listeners: list[TcpListener] = []
        self._options = Options()
        self._sock: StackSocket | None = None
        self._number = -1  # of that socket

    def bind_to(self, sock: StackSocket) -> None:
        """Know whom the bridge is to tell of what happens below."""
        self._sock = sock
        self._number = sock.fileno()
        for below in (self._connection, *self._listeners):
            if below is not None:
                self._bridge.attach(below, sock)

    @property
    def connecting(self) -> bool:
        """Whether the handshake that `connect` began is under way."""
        return self._connection is not None and self._connection.state in _CONNECTING

    # --- who talks to whom ----------------------------------------------------------------------------------

    def bind(self, address: Pair) -> None:
        """Reserve a local address and port."""
        if self._binding is not None or self._connection is not None:
            raise refuse(errno.EINVAL)
        host, port = address
        if any(host) and not self._bridge.host.is_local(host):
            raise refuse(errno.EADDRNOTAVAIL)
        self._binding = self._tcp.ports.bind(
            host,
            port,
            dual=not self._options.v6_only,
            reuse_address=self._options.reuse_address,
            reuse_port=self._options.reuse_port,
        )
        self._options.note_bound(host)

    def listen(self, backlog: int) -> None:
        """Become a listener; for an IPv6 wildcard of IPv4 too, unless IPV6_V6ONLY is set (ipv6(7))."""
        if self._connection is not None:
            raise refuse(errno.EINVAL)
        if self._listeners:
            for listener in self._listeners:
                listener.backlog = backlog
            return
        if self._binding is None:
            self.bind((WILDCARD[self._family], 0))
        binding = self._binding
        assert binding is not None
        hosts = [binding.address]
        if binding.dual:
            hosts.append(WILDCARD[socket.AF_INET])
        options, now = self._options.tcp(), self._bridge.now()
        self._tcp.ports.check(binding)
        self._listeners = [
            self._tcp.listen(each, binding.port, now, backlog=backlog, options=options, binding=binding)
            for each in hosts
        ]
        if self._sock is not None:
            self.bind_to(self._sock)

    def accept(self) -> tuple[Core, Pair]:
        """The next connection, as the core of a new socket."""
        if not self._listeners:
            raise refuse(errno.EINVAL)
        for listener in self._listeners:
            connection = listener.accept(self._bridge.now())
            if connection is not None:
                core = type(self)(self._bridge, self._family, connection)
                core._options = self._options.copy()
                return core, connection.remote
        raise would_block()

    def connect(self, address: Pair) -> None:
        """Begin the handshake, or tell what became of the one that was begun: inet_stream_connect() of Linux."""
        if self._listeners:
            raise refuse(errno.EISCONN)
        if self._connection is not None:
            if not self._asked:
                raise refuse(errno.EISCONN)
            if self.connecting:
                raise refuse(errno.EALREADY)
            self.finish_connect()
            return
        host, port = address
        self._connection = self._tcp.connect(
            named(host), port, self._bridge.now(), options=self._options.tcp(), binding=self._binding
        )
        self._asked = True
        self._reading_shut = False
        if self._sock is not None:
            self._bridge.attach(self._connection, self._sock)

    def finish_connect(self) -> None:
        """The handshake is over: tell how. After a failure, ECONNABORTED where it was told, the socket is new again."""
        connection = self._connection
        self._asked = False
        if connection is not None and connection.state in _OVER:
            number = connection.take_error() or errno.ECONNABORTED
            self._bridge.detach(connection)
            connection.close(self._bridge.now())
            self._connection = None
            raise refuse(number)

    def shutdown(self, how: int) -> None:
        """End one direction or both."""
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise refuse(errno.EINVAL)
        if self._listeners:
            if how != socket.SHUT_WR:
                self._close_listeners()  # as Linux: accept() says EINVAL from then on
            return
        if self._connection is None:
            self._reading_shut = self._reading_shut or how != socket.SHUT_WR
        if self._connection is None or self._connection.state in _WITHOUT_PEER:
            raise refuse(errno.ENOTCONN)
        self._connection.shutdown(how, self._bridge.now())

    # --- data -----------------------------------------------------------------------------------------------

    def receive(self, max_bytes: int) -> tuple[bytes, Pair | None]:
        """At most `max_bytes` of what arrived, b"" at the end."""
        connection = self._connection
        if connection is None:
            return self._receive_unconnected()
        data = connection.receive(max_bytes, self._bridge.now())
        if data is None:
            raise would_block()
        return data, None

    def _receive_unconnected(self) -> tuple[bytes, Pair | None]:
        if self._reading_shut and not self._listeners:
            return b"", None
        raise refuse(errno.ENOTCONN)

    def message(self, max_bytes: int, flags: int) -> Message:
        """The same as `flags` of recv(2) want it: seen only, urgent, or thrown away."""
        if not flags & (MSG_PEEK | MSG_OOB):
            data = self.receive(max_bytes)[0]
        else:
            connection = self._connection
            if connection is None:
                if flags & MSG_OOB:
                    raise refuse(errno.ENOTCONN if self._listeners else errno.EINVAL)
                return Message(self._receive_unconnected()[0], None, 0, 0)
            seen = connection.receive_urgent() if flags & MSG_OOB else connection.peek(max_bytes)
            if seen is None:
                raise would_block()
            data = seen
        told = MSG_OOB if flags & MSG_OOB and data else 0
        # tcp(7): MSG_TRUNC throws the bytes away, and says how many.
        return Message(b"" if flags & MSG_TRUNC else data, None, len(data), told)

    def holds(self, size_bytes: int) -> bool:
        """Whether so many bytes wait, or never will."""
        connection = self._connection
        if connection is None or connection.peer_closed or connection.read_closed or connection.error is not None:
            return True
        most = connection.info().receive_buffer_bytes
        return connection.unread_bytes >= min(size_bytes, most) or connection.state is State.CLOSED

    @property
    def failed(self) -> bool:
        """Whether nothing waits but an error."""
        return self._connection is not None and not self._connection.unread_bytes and bool(self._connection.error)

    def send(self, data: Any, flags: int, target: Pair | None) -> int:
        """Hand over what there is room for."""
        connection = self._connection
        if connection is None:
            raise refuse(errno.EPIPE)
        now = self._bridge.now()
        taken = connection.send_urgent(data, now) if flags & MSG_OOB else connection.send(data, now)
        if not taken and len(data):
            raise would_block()
        return taken

    def readiness(self, events: int) -> int:
        """What poll(2) says of it."""
        connection = self._connection
        if connection is not None:
            state = connection.state
            if state is _ESTABLISHED and not connection.read_closed:  # nearly all of them
                mask = 0
                if events & IN and (
                    (connection.received.size_bytes and connection.oob_at is None) or connection.readable
                ):
                    mask = IN
                return mask | OUT if events & OUT and connection.writable else mask
            if state in _CONNECTING:
                return 0
            mask = 0
            if events & IN and connection.readable:
                mask |= IN
            if events & OUT and connection.writable:
                mask |= OUT
            if connection.error:
                mask |= ERR | HUP | events & (IN | OUT)
            if connection.peer_closed or connection.read_closed:
                mask |= events & RDHUP
                if connection.write_closed:
                    mask |= HUP
            if state in _OVER:
                mask |= HUP | events & RDHUP
            return mask
        if self._listeners:
            return events & IN if any(listener.acceptable for listener in self._listeners) else 0
        return HUP | events & OUT  # as Linux for a socket that is neither

    # --- names, options, the end ----------------------------------------------------------------------------

    def local(self) -> Pair:
        """The local address and port."""
        if self._connection is not None:
            return self._connection.local
        if self._binding is not None:
            return self._binding.address, self._binding.port
        return WILDCARD[self._family], 0

    def remote(self) -> Pair:
        """The peer's; ENOTCONN without one."""
        if self._connection is None or self._connection.state in _WITHOUT_PEER:
            raise refuse(errno.ENOTCONN)
        return self._connection.remote

    def set_option(self, level: int, name: int, value: Any) -> None:
        """Set an option, at once where there is a connection."""
        if (level, name) == (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) and (self._binding or self._connection):
            raise refuse(errno.EINVAL)  # it has a port already: ipv6(7)
        before = self._options.tcp()
        changed = self._options.copy()
        changed.set(level, name, value)
        changed.drop_ecn(level, name)
        after = changed.tcp()  # which refuses what cannot be, before anything is changed
        self._options = changed
        if self._binding is not None:
            self._binding.reuse_address = changed.reuse_address
            self._binding.reuse_port = changed.reuse_port
        if self._connection is not None and after != before:
            names = [each.name for each in fields(after) if getattr(after, each.name) != getattr(before, each.name)]
            self._connection.configure(self._bridge.now(), **{name: getattr(after, name) for name in names})

    def option(self, level: int, name: int, kind: int) -> int | bytes:
        """An option's value."""
        if (level, name) == (socket.SOL_SOCKET, socket.SO_ERROR):
            return self.take_error()
        if (level, name) == (socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return int(bool(self._listeners))
        if (level, name) == (socket.IPPROTO_TCP, socket.TCP_INFO):
            return self._info()
        if (level, name) == (socket.IPPROTO_TCP, socket.TCP_MAXSEG) and self._connection is not None:
            return self._connection.info().send_mss
        return self._options.get(level, name, kind, self._family)

    def _info(self) -> bytes:
        if self._connection is not None:
            return of_connection(self._connection, self._bridge.now())
        waiting = sum(len(listener.waiting) for listener in self._listeners)
        backlog = self._listeners[0].backlog if self._listeners else 0
        return without_connection(listening=bool(self._listeners), waiting=waiting, backlog=backlog)

    def take_error(self) -> int:
        """SO_ERROR: the errno that waits, which is told once."""
        return (self._connection.take_error() or 0) if self._connection is not None else 0

    def close(self) -> None:
        """Let go of it; a connection ends as its SO_LINGER says."""
        self._close_listeners()
        if self._connection is not None:
            self._bridge.detach(self._connection)
            self._connection.close(self._bridge.now())
        if self._binding is not None:
            self._tcp.ports.release(self._binding)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            self._bridge.detach(listener)
            listener.close(self._bridge.now())
        self._listeners.clear()

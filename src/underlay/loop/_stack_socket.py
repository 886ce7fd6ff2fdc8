"""A socket of the user-space stack that programs take for a ``socket.socket``.

This file knows the calls of a socket object: which arguments they take, how a time-out makes them wait, and what
``makefile``, ``with`` and ``fileno`` are.  It does not know TCP or UDP (``_stack_core.py`` holds what a stream and a
datagram socket do), nor who waits for readiness: whoever pumps the stack asks `readiness`.

It derives from ``socket.socket`` so that ``isinstance`` holds, and never has a descriptor of the kernel's: the base
class is left without one, and ``fileno()`` is a number above all that the kernel gives, known to the bridge alone.
A blocking call lets the bridge pump until it can go on; no callback of the loop runs meanwhile, as in any loop.
"""

from __future__ import annotations

import errno
import os
import socket
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from ._stack_address import Pair, to_pair, to_tuple
from ._stack_core import IN, OUT, Core, would_block
from ._stack_datagram import DatagramCore
from ._stack_message import (
    MOST_JOINED_BYTES,
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_OOB,
    MSG_PEEK,
    MSG_WAITALL,
    RECEIVE_FLAGS,
    SEND_FLAGS,
    Message,
    check_ancillary,
    filled,
    join,
    plain,
    refuse_flags,
    room,
    scatter,
    writable,
)
from ._stack_names import known_addresses
from ._stack_options import given, in_kernel_words

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from ._bridge import Bridge

_T = TypeVar("_T")

_PROTOCOL: Final[dict[int, int]] = {socket.SOCK_STREAM: socket.IPPROTO_TCP, socket.SOCK_DGRAM: socket.IPPROTO_UDP}
_FLAGS_OF_TYPE: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


# socketmodule.c.
_BACKLOG: Final = min(socket.SOMAXCONN, 128)
_MOST_OPTION_BYTES: Final = 1024
_TRANSPORTS: Final = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
_LEVELS: Final = {
    socket.AF_INET: (socket.SOL_SOCKET, socket.IPPROTO_IP, *_TRANSPORTS),
    socket.AF_INET6: (socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_IPV6, *_TRANSPORTS),
}


class StackSocket(socket.socket):
    """A TCP or UDP socket of a user-space host, called as ``socket.socket`` is.

    ``socket.socket(family, type)`` gives one wherever a loop of ``underlay.loop.stack_loop`` runs. What the stack
    doesn't have is refused with the errno that the kernel has for it: EAFNOSUPPORT, ENOPROTOOPT, EOPNOTSUPP.

    Source: socket(2), socket(7), tcp(7), udp(7).
    """

    # Set by the loop's module, which knows the loop that runs: the bridge for a socket that a program makes.
    running_bridge: ClassVar[Callable[[], Bridge]]

    _io_refs: int
    # Closed by the program, though a file that makefile() gave may still use it; and gone for good.
    _closed: bool = True  # until it is made: __del__ asks, also after a constructor that failed
    _gone: bool = True
    _inheritable: bool = False
    _open: bool = False  # neither gone nor without its network: one look on the ways of data

    def __init__(
        self,
        family: int = -1,
        type: int = -1,
        proto: int = -1,
        fileno: int | None = None,
        *,
        bridge: Bridge | None = None,
        core: Core | None = None,
    ) -> None:
        self._io_refs = 0
        bridge = bridge or StackSocket.running_bridge()
        if fileno is not None:
            self._take_over(bridge, fileno)
            return
        family = socket.AF_INET if family == -1 else family
        flags = 0 if type == -1 else type & _FLAGS_OF_TYPE
        kind = socket.SOCK_STREAM if type == -1 else type & ~_FLAGS_OF_TYPE
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        if kind not in _PROTOCOL:
            raise OSError(errno.ESOCKTNOSUPPORT, os.strerror(errno.ESOCKTNOSUPPORT))
        if proto not in (-1, 0, _PROTOCOL[kind]):
            raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
        self._family = socket.AddressFamily(family)
        self._kind = socket.SocketKind(kind)
        self._proto = max(proto, 0)
        self._timeout_s = 0.0 if flags & socket.SOCK_NONBLOCK else socket.getdefaulttimeout()
        self._bridge = bridge
        self._core: Core = core or (bridge.stream_core if kind == socket.SOCK_STREAM else DatagramCore)(bridge, family)
        self._number = bridge.register(self)
        self._closed = self._gone = False
        self._open = True
        self._core.bind_to(self)

    def _take_over(self, bridge: Bridge, number: int) -> None:
        """Become what another object gave away by `detach`."""
        former = bridge.socket(number)
        if not former._gone:
            raise OSError(errno.EOPNOTSUPP, "a socket of the user-space stack has one owner; detach() it first")
        bridge.replace(number, self)
        self._family, self._kind, self._proto = former._family, former._kind, former._proto
        self._timeout_s = socket.getdefaulttimeout()
        self._bridge, self._core, self._number = bridge, former._core, number
        self._closed = self._gone = False
        self._open = True
        self._core.bind_to(self)

    # --- what it is -------------------------------------------------------------------------------------------

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return self._family

    @property
    def type(self) -> socket.SocketKind:
        """SOCK_STREAM or SOCK_DGRAM."""
        return self._kind

    @property
    def proto(self) -> int:
        """The protocol as it was asked for, 0 mostly."""
        return self._proto

    def fileno(self) -> int:
        """A number that the loop of the stack watches; -1 when closed. The kernel doesn't know it."""
        return -1 if self._gone else self._number

    def readiness(self, events: int) -> int:
        """Those of the poll(2) bits `events` that are ready now, and POLLERR and POLLHUP besides."""
        return self._core.readiness(events)

    # --- time-outs --------------------------------------------------------------------------------------------

    @property
    def timeout(self) -> float | None:
        """Seconds after which a call gives up, 0.0 where it does not wait, None where it waits for ever."""
        return self._timeout_s

    def gettimeout(self) -> float | None:
        """As `timeout`."""
        return self._timeout_s

    def settimeout(self, value: float | None) -> None:
        """Set the time-out in seconds; ValueError below 0."""
        if self._gone:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        self._timeout_s = None if value is None else float(value)

    def setblocking(self, flag: bool) -> None:
        """Wait for ever, or not at all."""
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        """Whether calls wait."""
        return self._timeout_s != 0.0

    def _when(self, ready: int, attempt: Callable[[], _T], flags: int = 0) -> _T:
        """Call `attempt` until it no longer says EAGAIN, pumping while the time-out allows; else what it said."""
        self._check_open()
        while True:
            try:
                return attempt()
            except BlockingIOError:
                if self._timeout_s == 0.0 or (flags & MSG_DONTWAIT and self._timeout_s is None):
                    raise  # as socketmodule.c, which waits by poll(2) where there is a time-out, whatever the flags
                if not self._bridge.pump_until(lambda: bool(self._core.readiness(ready)), self._timeout_s):
                    raise TimeoutError("timed out") from None
            except OSError as error:
                raise in_kernel_words(error) from None

    def _now(self, attempt: Callable[[], _T]) -> _T:
        """Call `attempt`, which never waits."""
        self._check_open()
        try:
            return attempt()
        except OSError as error:
            raise in_kernel_words(error) from None

    def _resolve(self, host: str, family: int) -> bytes:
        """The address of a name that is known here, as no call of a socket asks a server; ``socket.gaierror``."""
        known = known_addresses(self._bridge.names, host, socket.AddressFamily(family), self._bridge.hosts_file)
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known[0]

    def _check_open(self) -> None:
        if not self._open:
            number = errno.EBADF if self._gone else errno.ENETDOWN
            raise OSError(number, os.strerror(number))

    def network_is_down(self) -> None:
        """From now on calls say ENETDOWN."""
        self._open = False

    # --- who talks to whom ------------------------------------------------------------------------------------

    def bind(self, address: Any, /) -> None:
        """Take a local address; EADDRINUSE, EADDRNOTAVAIL, EINVAL where it has one."""
        pair = to_pair(address, self._family, self._resolve, "bind")
        self._now(lambda: self._core.bind(pair))

    def listen(self, backlog: int = _BACKLOG, /) -> None:
        """Accept connections, up to `backlog` of them before the program does."""
        self._now(lambda: self._core.listen(max(backlog, 0)))

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection, and its peer's address."""
        core, remote = self._when(IN, self._core.accept)
        made = StackSocket(self._family, self._kind, self._proto, bridge=self._bridge, core=core)
        if socket.getdefaulttimeout() is None and self._timeout_s:
            made.setblocking(True)  # as socket.accept()
        return made, to_tuple(remote, self._family)

    def connect(self, address: Any, /) -> None:
        """Connect; without waiting BlockingIOError (EINPROGRESS), and SO_ERROR tells later."""
        pair = to_pair(address, self._family, self._resolve, "connect")
        self._now(lambda: self._core.connect(pair))
        if not self._core.connecting:
            return
        self._wait_for_connection()

    def _wait_for_connection(self) -> None:
        core = self._core
        if self._timeout_s == 0.0:
            raise BlockingIOError(errno.EINPROGRESS, os.strerror(errno.EINPROGRESS))
        if not self._bridge.pump_until(lambda: not core.connecting, self._timeout_s):
            raise TimeoutError("timed out")
        if self._timeout_s is None:
            self._now(core.finish_connect)
            return
        # With a time-out the kernel's socket never waits: Python asks for SO_ERROR, and the call stays unfinished.
        error = core.take_error()
        if error:
            raise OSError(error, os.strerror(error))

    def connect_ex(self, address: Any, /) -> int:
        """As `connect`, but gives the errno."""
        try:
            self.connect(address)
        except TimeoutError:
            return errno.EAGAIN  # as socketmodule.c
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def getsockname(self) -> Any:
        """The local address; the unspecified one before there is any."""
        self._check_open()
        return to_tuple(self._core.local(), self._family)

    def getpeername(self) -> Any:
        """The peer's address; ENOTCONN without one."""
        self._check_open()
        return to_tuple(self._core.remote(), self._family)

    def shutdown(self, how: int, /) -> None:
        """End one direction or both: SHUT_RD, SHUT_WR, SHUT_RDWR; ENOTCONN without a peer."""
        self._check_open()
        self._core.shutdown(how)

    # --- receiving --------------------------------------------------------------------------------------------

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """At most `bufsize` bytes, b"" at the end of the stream."""
        if not flags and self._timeout_s == 0.0 and self._open and bufsize > 0:  # all that an event loop asks
            try:
                return self._core.receive(bufsize)[0]
            except BlockingIOError:
                raise
            except OSError as error:
                raise in_kernel_words(error) from None
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        return filled(self._message(bufsize, flags)) if bufsize else b""  # as socketmodule.c: nothing asks nobody

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """The same and who sent it; for a stream the latter is None."""
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        message = self._message(bufsize, flags)
        return filled(message), self._named(message.sender)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """As `recv`, into a buffer; gives the number of bytes."""
        with writable(buffer) as view:
            size = room(len(view), nbytes, "recv_into")
            if not size:
                return 0
            message = self._message(size, flags)
            view[: len(message.data)] = message.data
        return message.size_bytes

    def recvfrom_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """As `recvfrom`, into a buffer."""
        with writable(buffer) as view:
            message = self._message(room(len(view), nbytes, "recvfrom_into"), flags)
            view[: len(message.data)] = message.data
        return message.size_bytes, self._named(message.sender)

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> tuple[bytes, list[Any], int, Any]:
        """As recvmsg(2); the stack has no ancillary data."""
        if bufsize < 0:
            raise ValueError("negative buffer size in recvmsg()")
        check_ancillary(ancbufsize)
        message = self._message(bufsize, flags)
        return filled(message)[:bufsize], [], message.flags, self._named(message.sender)

    def recvmsg_into(
        self, buffers: Iterable[WriteableBuffer], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[Any], int, Any]:
        """As `recvmsg`, into several buffers, one after another."""
        with ExitStack() as views:
            each = [views.enter_context(writable(buffer)) for buffer in buffers]
            check_ancillary(ancbufsize)
            message = self._message(sum(map(len, each)), flags)
            scatter(message.data, each)
        return message.size_bytes, [], message.flags, self._named(message.sender)

    def _named(self, sender: Pair | None) -> Any:
        return None if sender is None else to_tuple(sender, self._family)

    def _message(self, size: int, flags: int) -> Message:
        if flags:
            refuse_flags(flags, RECEIVE_FLAGS)
            if flags & MSG_ERRQUEUE:
                raise would_block()  # errors are told by calls alone, so this queue is empty, and nobody waits for it
            # With a time-out Python's sockets never wait inside of the kernel, which then gives what there is.
            if flags & MSG_WAITALL and self._timeout_s is None and self._kind == socket.SOCK_STREAM:
                self._check_open()
                return self._whole_message(size, flags)
        return self._when(IN, lambda: self._core.message(size, flags), flags)

    def _whole_message(self, size: int, flags: int) -> Message:
        """All of `size` bytes, unless the stream ends before."""
        core = self._core
        if flags & (MSG_PEEK | MSG_OOB | MSG_DONTWAIT):
            if not flags & (MSG_OOB | MSG_DONTWAIT):
                self._bridge.pump_until(lambda: core.holds(size), None)
            return self._when(IN, lambda: core.message(size, flags), flags)
        parts: list[bytes] = []
        taken = 0
        while taken < size:
            if taken:
                self._bridge.pump_until(lambda: core.holds(1), None)
                if core.failed:
                    break  # what came is not lost, and the next call will tell of it
            message = self._when(IN, partial(core.message, size - taken, flags))
            parts.append(message.data)
            taken += message.size_bytes
            if not message.size_bytes:
                break
        return Message(b"".join(parts), None, taken, 0)

    # --- sending ----------------------------------------------------------------------------------------------

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Hand over what there is room for; gives the number of bytes taken."""
        if flags:
            refuse_flags(flags, SEND_FLAGS)
        if type(data) is not bytes:
            data = plain(data)
        if self._timeout_s == 0.0 and self._open:
            try:
                return self._core.send(data, flags, None)
            except BlockingIOError:
                raise
            except OSError as error:
                raise in_kernel_words(error) from None
        return self._when(OUT, lambda: self._core.send(data, flags, None), flags)

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Hand over all; after an error it is unknown how much."""
        with memoryview(plain(data)) as view:
            sent = self.send(view, flags)
            while sent < len(view):
                sent += self.send(view[sent:], flags)

    def sendto(self, data: ReadableBuffer, *flags_and_address: Any) -> int:
        """Send a datagram to an address: ``sendto(data, address)`` or ``sendto(data, flags, address)``."""
        if not 1 <= len(flags_and_address) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({1 + len(flags_and_address)} given)")
        flags: int = flags_and_address[0] if len(flags_and_address) == 2 else 0
        refuse_flags(flags, SEND_FLAGS)
        view = plain(data)
        target = to_pair(flags_and_address[-1], self._family, self._resolve, "sendto")
        return self._when(OUT, lambda: self._core.send(view, flags, target), flags)

    def sendmsg(
        self, buffers: Iterable[ReadableBuffer], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """Send several buffers as one; EOPNOTSUPP for ancillary data."""
        most = MOST_JOINED_BYTES if self._kind == socket.SOCK_STREAM and self._timeout_s == 0.0 else None
        joined = join(buffers, most)
        if list(ancdata):
            raise OSError(errno.EOPNOTSUPP, "the user-space stack has no ancillary data")
        return self.send(joined, flags) if address is None else self.sendto(joined, flags, address)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a file by reading and sending it; there is no sendfile(2) into a user-space stack."""
        return self._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined,no-any-return]

    # --- options ----------------------------------------------------------------------------------------------

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None, /) -> None:
        """Set an option of socket(7), ip(7), ipv6(7), tcp(7) or udp(7); ENOPROTOOPT for one that the stack lacks."""
        self._check_open()
        self._check_level(level)
        if value is None:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))  # a null pointer: no option here is without a value
        data = given(value)
        self._now(lambda: self._core.set_option(level, optname, data))

    def _check_level(self, level: int, number: int = errno.ENOPROTOOPT) -> None:
        if level not in _LEVELS[self._family] or (level in _TRANSPORTS and level != _PROTOCOL[self._kind]):
            raise OSError(number, os.strerror(number))

    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> Any:
        """An option's value, as an int, or as bytes where `buflen` is given."""
        self._check_open()
        self._check_level(level, errno.EOPNOTSUPP if self._family == socket.AF_INET else errno.ENOPROTOOPT)
        if not 0 <= buflen <= _MOST_OPTION_BYTES:
            raise OSError("getsockopt buflen out of range")
        value = self._core.option(level, optname, self._kind)
        if isinstance(value, int):
            value = (value & 0xFFFF_FFFF).to_bytes(4, "little")
        return value[:buflen] if buflen else int.from_bytes(value[:4], "little", signed=True)

    # --- the end ----------------------------------------------------------------------------------------------

    def _real_close(self, _ss: object = None) -> None:
        # Called by close() once nothing that makefile() gave is open any more.
        if self._gone:
            return
        heir = self._bridge.heir(self._number)
        if heir is None:
            self._core.close()
        self._bridge.forget(self._number)
        self._gone = True
        self._open = False
        if heir is not None:
            self._core.bind_to(heir)

    def close(self) -> None:
        """Close it; a stream goes on to deliver what was sent, unless SO_LINGER says otherwise."""
        self._closed = True
        if self._io_refs <= 0:
            self._real_close()

    def detach(self) -> int:
        """Give the number away: ``socket.socket(fileno=number)`` takes it; this object is as if closed."""
        if self._gone:
            return -1
        self._bridge.keep(self._number, self)
        self._closed = self._gone = True
        self._open = False
        return self._number

    def dup(self) -> StackSocket:
        """Another socket object of the same connection, with a number of its own; it ends with the last of them."""
        self._check_open()
        made = StackSocket(self._family, self._kind, self._proto, bridge=self._bridge, core=self._core)
        made._timeout_s = self._timeout_s
        self._core.bind_to(self)  # a core holds its socket, and one that is forgotten shall be found
        self._bridge.share(self._number, made._number)
        return made

    def get_inheritable(self) -> bool:
        """False, unless it was asked for where no process can be started: one that is doesn't have the stack."""
        return self._inheritable

    def set_inheritable(self, inheritable: bool) -> None:
        """Refused where it asks for the impossible."""
        if inheritable and self._bridge.has_processes:
            raise OSError(errno.EOPNOTSUPP, "a socket of the user-space stack can't be inherited")
        self._inheritable = inheritable

    def __del__(self) -> None:
        if not self._gone and not self._closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)
            self.close()

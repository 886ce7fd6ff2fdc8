"""The sockets of a test: made, bound, connected, and set up as the test wants them.

This file knows socket options and what the kernel says to them. It refuses to know states and streams.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ...errors import UsageError
from .._address import Place
from .._complaints import cannot_connect, reason
from .._tcp_info import TCP_INFO_BYTES, TcpInfo, parse_tcp_info
from ._protocol import PeerError
from ._settings import LEAST_DATAGRAM_BYTES, Settings

__all__ = [
    "Target",
    "congestion_of",
    "connect",
    "connect_udp",
    "handshakes_for",
    "mss_of",
    "resolve",
    "set_up",
    "tcp_info",
    "udp_stream",
    "udp_welcome",
    "welcome_again",
    "window_note",
]

# What a blocked call of a stream's thread lets pass before it looks whether the test is over: for a sender that adds to
# the test's time, for a receiver it costs a wake-up where nothing comes.
_SEND_WAIT: Final = struct.pack("@ll", 0, 20_000)
_RECEIVE_WAIT: Final = struct.pack("@ll", 0, 100_000)

# include/uapi/asm-generic/socket.h, since Linux 5.14; Python has no name for it. Each of its two bits is a buffer whose
# size was set, so that the kernel leaves it: SOCK_SNDBUF_LOCK and SOCK_RCVBUF_LOCK.
_SO_BUF_LOCK: Final = 72

# src/iperf.h: UDP_CONNECT_MSG and UDP_CONNECT_REPLY, and what earlier versions said (LEGACY_…). They are sent in the
# machine's own order of bytes, so each is taken in either.
_HELLO: Final = (0x36373839, 123456789)
_WELCOME: Final = (0x39383736, 987654321)
_UDP_PATIENCE_S: Final = 5.0
# A datagram may be lost, this one too. iperf3 sends it once, and waits 30 s.
_UDP_AGAIN_S: Final = 1.0
_MOST_DATAGRAM_BYTES: Final = 65_535


class Target(NamedTuple):
    """One address of a host, as getaddrinfo(3) gives it."""

    family: int
    address: tuple[object, ...]


def resolve(place: Place, family: int) -> list[Target]:
    """Give each address of a host, in the order in which they are to be tried (RFC 6724)."""
    try:
        found = socket.getaddrinfo(place.host, place.port, family, socket.SOCK_STREAM)
    except UnicodeError:
        raise UsageError(f"{place.host!r} is no name of a host", remedy="between dots it has 1 to 63 letters") from None
    except OSError as error:
        raise cannot_connect(place, error, family=family) from error
    return [Target(each_family, address) for each_family, _, _, _, address in found]


def connect(target: Target, settings: Settings | None, source: str, timeout_s: float) -> socket.socket:
    """Connect by TCP; with ``settings`` as a stream of the test, without as its control connection.

    Raises the kernel's ``OSError`` when that fails, ``TimeoutError`` after so long, ``UsageError`` for a source that
    is none.
    """
    sock = socket.socket(target.family, socket.SOCK_STREAM)
    try:
        if settings is not None:
            set_up(sock, settings)  # before the handshake, in which the MSS and the window's scale are told
        if source:
            _bind(sock, source)
        sock.settimeout(timeout_s)
        sock.connect(target.address)
        return sock
    except BaseException:
        sock.close()
        raise


def connect_udp(target: Target, settings: Settings, source: str, control: socket.socket, peer: str) -> socket.socket:
    """Make a UDP stream that the server knows of: say hello, and wait for its welcome.

    That may be lost: a server that says something on the ``control`` connection, or sends data, has taken the stream
    too, or breaks the test off, which the caller hears there.
    """
    sock = socket.socket(target.family, socket.SOCK_DGRAM)
    try:
        set_up(sock, settings)
        if source:
            _bind(sock, source)
        sock.connect(target.address)
        waits = select.poll()
        waits.register(sock, select.POLLIN)
        waits.register(control, select.POLLIN)
        deadline = time.monotonic() + _UDP_PATIENCE_S
        while (left_s := deadline - time.monotonic()) > 0:
            sock.send(struct.pack("=I", _HELLO[0]))
            until = time.monotonic() + min(left_s, _UDP_AGAIN_S)
            while (left_s := until - time.monotonic()) > 0:
                ready = dict(waits.poll(-(-left_s * 1000 // 1)))
                # A welcome that is there is taken out, or the stream would find it among its data.
                if (sock.fileno() in ready and _is_taken(sock)) or control.fileno() in ready:
                    return sock
        raise PeerError(f"{peer} did not answer by UDP", remedy="does a packet filter on the way let UDP through?")
    except ConnectionRefusedError:
        sock.close()
        raise PeerError(f"{peer} has no UDP port open", remedy="a packet filter may have refused for it") from None
    except BaseException:
        sock.close()
        raise


def _is_taken(sock: socket.socket) -> bool:
    """Whether what has come says that the server knows the stream. Data stays, to be counted: it overtook the word."""
    try:
        said = sock.recv(LEAST_DATAGRAM_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        if len(said) >= LEAST_DATAGRAM_BYTES:
            return True
        sock.recv(LEAST_DATAGRAM_BYTES, socket.MSG_DONTWAIT)
    except BlockingIOError:  # its checksum was wrong
        return False
    return _is_one_of(said, _WELCOME)


def udp_welcome(local: tuple[object, ...], family: int) -> socket.socket:
    """Bind where a client's hellos come to: the address that its control connection was made to."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        # Each stream gets a socket of its own on the same port, and the kernel gives a datagram to the socket that is
        # connected to its sender: udp(7) of a port that several share by SO_REUSEADDR.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(local)
        return sock
    except BaseException:
        sock.close()
        raise


def udp_stream(welcome: socket.socket, client_host: str, settings: Settings) -> socket.socket | None:
    """Take one hello from the client's host and answer it on a socket for that stream; None if there is no hello."""
    try:
        said, address = welcome.recvfrom(_MOST_DATAGRAM_BYTES, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    if address[0] != client_host or not _is_one_of(said, _HELLO):
        return None
    sock = udp_welcome(welcome.getsockname(), welcome.family)
    try:
        set_up(sock, settings)
        sock.connect(address)
        sock.send(struct.pack("=I", _WELCOME[0]))
        return sock
    except BaseException:
        sock.close()
        raise


def welcome_again(sock: socket.socket) -> None:
    """Answer a hello on a stream that was welcomed: the welcome was lost."""
    with contextlib.suppress(OSError):  # the client has gone, as its control connection tells
        if _is_one_of(sock.recv(_MOST_DATAGRAM_BYTES, socket.MSG_DONTWAIT), _HELLO):
            sock.send(struct.pack("=I", _WELCOME[0]))


def set_up(sock: socket.socket, settings: Settings) -> None:
    """Set what the test wants of a stream; raises ``UsageError`` for a congestion control that is not there."""
    # A timer of the kernel and not of Python: one system call for each block, and what was sent so far is told.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _RECEIVE_WAIT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_WAIT)
    if settings.window_bytes:
        _set_buffers(sock, _Buffers(settings.window_bytes, settings.window_bytes))
    if settings.tos:
        # A socket of both families has both, for the one that it turns out to speak.
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, settings.tos)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, settings.tos)
    if settings.is_udp:
        return
    if settings.no_delay:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if settings.mss_bytes:
        _set_mss(sock, settings.mss_bytes)
    if settings.congestion:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, settings.congestion.encode())
        except (FileNotFoundError, PermissionError) as error:
            raise _no_congestion(settings.congestion, error) from None


@contextlib.contextmanager
def handshakes_for(listeners: Sequence[socket.socket], settings: Settings) -> Iterator[None]:
    """Let the handshakes that the block sees tell the MSS and the window of a test's streams.

    Both are the listener's, from which each connection inherits them. A window that is made smaller only then is one
    that the peer has been told more than there is room for: what it sends is dropped, and sent again after its timer.
    Of `iperf3 -w 4K -t 1` over the loopback 0.5 to 0.9 Mbit/s came so, and 1,100 as here. Source: socket(7), tcp(7).
    """
    with contextlib.ExitStack() as undo:
        for listener in listeners:
            # What the kernel does not take here is told of the streams themselves; and the server may have closed.
            if settings.mss_bytes:
                with contextlib.suppress(UsageError):
                    _set_mss(listener, settings.mss_bytes)
                undo.callback(_let_go_of_mss, listener)
            if settings.window_bytes:
                with contextlib.suppress(OSError):
                    # Where the kernel cannot say so (before 5.14) it could not let go of them again either.
                    were_locked = listener.getsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK)
                    were = _buffers(listener)
                    undo.callback(_let_go_of_buffers, listener, were, were_locked)
                    _set_buffers(listener, _Buffers(settings.window_bytes, settings.window_bytes))
        yield


def window_note(sock: socket.socket, settings: Settings) -> str:
    """Say so where the kernel gave a smaller buffer than was asked for, or nothing."""
    if not settings.window_bytes:
        return ""
    given = _buffers(sock)
    for size, name in ((given.send_bytes, "wmem_max"), (given.receive_bytes, "rmem_max")):
        if size < settings.window_bytes:
            return f"asked for a window of {settings.window_bytes} bytes, the kernel gave {size} (net.core.{name})"
    return ""


def mss_of(sock: socket.socket) -> int:
    """The MSS of a connection, 0 where there is none."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    except OSError:
        return 0


def congestion_of(sock: socket.socket) -> str:
    """The name of a connection's congestion control; empty where the kernel has none to tell."""
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    except OSError:
        return ""
    return raw.split(b"\0")[0].decode("ascii", "replace")


def tcp_info(sock: socket.socket) -> TcpInfo | None:
    """What the kernel knows of a connection now; None where it knows nothing."""
    try:
        return parse_tcp_info(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES))
    except (OSError, ValueError):
        return None


def _set_mss(sock: socket.socket, size: int) -> None:
    """Set the MSS that the next handshakes tell; 0 leaves it to the kernel again."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, size)
    except OSError as error:
        # TCP_MIN_MSS is 88: include/net/tcp.h.
        raise UsageError(f"the kernel takes no MSS of {size} bytes", remedy="it has at least 88") from error


def _let_go_of_mss(listener: socket.socket) -> None:
    with contextlib.suppress(UsageError):
        _set_mss(listener, 0)


class _Buffers(NamedTuple):
    """What a socket's buffers hold, without what the kernel adds for its own bookkeeping: socket(7)."""

    receive_bytes: int
    send_bytes: int


def _buffers(sock: socket.socket) -> _Buffers:
    options = (socket.SO_RCVBUF, socket.SO_SNDBUF)
    return _Buffers(*(sock.getsockopt(socket.SOL_SOCKET, option) // 2 for option in options))


def _set_buffers(sock: socket.socket, sizes: _Buffers) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, sizes.receive_bytes)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sizes.send_bytes)


def _let_go_of_buffers(listener: socket.socket, were: _Buffers, were_locked: int) -> None:
    """Give a listener its buffers back, for the kernel to make larger where it did before.

    Of ones that began larger than net.core.rmem_max and wmem_max allow it gets twice that, which the kernel then grows.
    """
    with contextlib.suppress(OSError):
        _set_buffers(listener, were)
        listener.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, were_locked)


def _bind(sock: socket.socket, source: str) -> None:
    try:
        found = socket.getaddrinfo(source, 0, sock.family, sock.type, 0, socket.AI_PASSIVE)
        sock.bind(found[0][4])
    except socket.gaierror as error:
        if error.errno in (socket.EAI_ADDRFAMILY, socket.EAI_NODATA, socket.EAI_NONAME):
            raise OSError(errno.EADDRNOTAVAIL, f"{source} is no address of this family") from None
        raise
    except UnicodeError:
        raise UsageError(f"{source!r} is no address", remedy="--bind takes an address of this machine") from None
    except OSError as error:
        raise UsageError(
            f"cannot send from {source}: {reason(error)}",
            remedy="--bind takes an address of this machine",
        ) from error


def _is_one_of(said: bytes, words: Sequence[int]) -> bool:
    return len(said) == 4 and any(said in (word.to_bytes(4, "little"), word.to_bytes(4, "big")) for word in words)


def _no_congestion(name: str, error: OSError) -> UsageError:
    which = "allowed" if isinstance(error, PermissionError) else "available"
    try:
        known = Path(f"/proc/sys/net/ipv4/tcp_{which}_congestion_control").read_text().split()
    except OSError:
        known = []
    what = f"this kernel has no congestion control {name!r}"
    if which == "allowed":
        what = f"only root may choose the congestion control {name!r} here"
    return UsageError(what, remedy=f"it offers {', '.join(known)}" if known else "leave -C out")

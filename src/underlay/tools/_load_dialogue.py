"""Knows what a request and its complete reply are: TCP, UDP and TLS echo, HTTP GET.

It opens sockets and reads bytes; it does not know how many connections there are, nor when to send
(`_load_engine.py` does). A dialogue's `check` verifies a reply byte by byte; in the measured window
only lengths are watched, because comparing bytes would make the generator the bottleneck.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ._load_engine import LoadError, Reply

# 65535 − 20 bytes of IPv4 header − 8 of UDP header (RFC 768, RFC 791).
MAX_DATAGRAM_BYTES = 65507


def make_payload(size_bytes: int, index: int | None = None) -> bytes:
    """Give a request of exactly `size_bytes`, ending in a newline; `index` marks its beginning.

    The newline lets servers that read by lines answer it; the mark shows when one connection gets
    another's bytes.

    >>> make_payload(12, 7)
    b'00000007.xx\\n'
    """
    mark = b"" if index is None else b"%08x." % index
    return (mark + b"x" * size_bytes)[: size_bytes - 1] + b"\n"


class _Echo:
    """What the echo dialogues share: the request's size is the reply's, and pieces are added up."""

    lossy = False

    def __init__(self, address: tuple[str, int], size_bytes: int) -> None:
        self.address = address
        self.request = make_payload(size_bytes)
        self.expected_bytes = size_bytes
        self._received: dict[int, int] = {}

    def check(self, socks: Sequence[socket.socket], timeout_s: float) -> None:
        """Send a request with a mark of its own on each connection and compare the replies."""
        exchanges = []
        for index, sock in enumerate(socks):
            request = make_payload(self.expected_bytes, index)
            exchanges.append(Exchange(sock, request, lambda got: len(got) >= self.expected_bytes))
        exchange(exchanges, timeout_s)
        for each in exchanges:
            if each.reply != each.request:
                raise LoadError(self._difference(bytes(each.reply), each.request))

    def _difference(self, reply: bytes, request: bytes) -> str:
        """Say why a reply is no echo, and what --load may be meant instead."""
        if not reply:
            hint = "; it speaks TLS: say --load tls-echo" if speaks_tls(self.address) else ""
            return "the server closed the connection without a reply" + hint
        if reply.startswith(b"HTTP/"):
            return "the server answers in HTTP; say --load http"
        if len(reply) < len(request):
            return f"the server closed after {len(reply)} of {len(request)} bytes"
        at = next(i for i, (a, b) in enumerate(zip(reply, request, strict=False)) if a != b)
        return f"the reply is no echo: byte {at} differs ({reply[at : at + 12]!r}…)"

    def more(self, fd: int, received: int, buffer: bytearray) -> Reply:
        """Add a piece to what came before."""
        if received == 0:
            return Reply.BROKEN
        total = self._received.pop(fd, 0) + received
        if total > self.expected_bytes:
            return Reply.BROKEN
        if total == self.expected_bytes:
            return Reply.COMPLETE
        self._received[fd] = total
        return Reply.PARTIAL

    def forget(self, fd: int) -> None:
        """Drop the count of a reply under way."""
        self._received.pop(fd, None)


class TcpEcho(_Echo):
    """One TCP connection; the server sends back what it is sent."""

    def open(self) -> socket.socket:
        """Connect.

        The socket has no delay, so that Nagle's wait for an ACK (RFC 896) never enters a latency.
        """
        return connect_tcp(self.address)


class TlsEcho(_Echo):
    """A TCP connection under TLS.

    Any certificate is accepted, since the server is our own child on loopback.
    """

    def __init__(self, address: tuple[str, int], size_bytes: int) -> None:
        super().__init__(address, size_bytes)
        self._context = insecure_context()

    def open(self) -> socket.socket:
        """Connect and leave the handshake to the first exchange, which may take its time."""
        return self._context.wrap_socket(
            connect_tcp(self.address), do_handshake_on_connect=False, server_hostname="localhost"
        )

    def check(self, socks: Sequence[socket.socket], timeout_s: float) -> None:
        """Shake hands where that is still to be done, then compare echoes."""
        for sock in socks:
            assert isinstance(sock, ssl.SSLSocket)
            if sock.version() is None:
                sock.settimeout(timeout_s)
                try:
                    sock.do_handshake()
                except ssl.SSLError as error:
                    reason = error.reason or "the server closed the connection"
                    raise LoadError(f"no TLS handshake with the server ({reason})") from error
                sock.setblocking(False)
        super().check(socks, timeout_s)


class UdpEcho(_Echo):
    """A connected UDP socket for each "connection".

    A lost datagram is counted and sent anew from a new port.
    """

    lossy = True

    def open(self) -> socket.socket:
        """Connect a datagram socket, so that a closed port is told as ECONNREFUSED."""
        family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.connect(self.address)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        return sock

    def more(self, fd: int, received: int, buffer: bytearray) -> Reply:
        """Refuse a datagram of another size: it can't be the echo."""
        return Reply.BROKEN


class HttpGet:
    """GET on a kept-alive HTTP/1.1 connection.

    The body's end is found by Content-Length, chunks or the close.
    """

    lossy = False

    def __init__(self, address: tuple[str, int], path: str, host: str, tls: bool = False) -> None:
        self.address = address
        self.request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: underlay-compare\r\nAccept: */*\r\n\r\n"
        ).encode("ascii")
        self.expected_bytes = -1
        self._context = insecure_context() if tls else None
        self._partial: dict[int, bytearray] = {}
        self._path = path

    def open(self) -> socket.socket:
        """Connect, under TLS if the URL says https."""
        sock = connect_tcp(self.address)
        if self._context is None:
            return sock
        sock.settimeout(10.0)
        wrapped = self._context.wrap_socket(sock, server_hostname="localhost")
        wrapped.setblocking(False)
        return wrapped

    def check(self, socks: Sequence[socket.socket], timeout_s: float) -> None:
        """Ask once on each connection; refuse what is no HTTP and what is no success (2xx, 3xx)."""
        exchanges = [Exchange(sock, self.request, _is_all_of_it) for sock in socks]
        exchange(exchanges, timeout_s)
        for each in exchanges:
            self._judge(bytes(each.reply))

    def _judge(self, reply: bytes) -> None:
        if not reply.startswith(b"HTTP/"):
            what = "closed the connection" if not reply else f"said {reply[:20]!r}"
            raise LoadError(f"no HTTP answer: the server {what}; is another --load meant?")
        status = reply.split(b"\r\n", 1)[0].decode("latin-1")
        if not status.partition(" ")[2].startswith(("2", "3")):
            raise LoadError(
                f"GET {self._path} was answered “{status}”; name a path that exists, as in --load http:/path"
            )
        if closes(reply):
            raise LoadError(
                "the server closes the connection after each reply; the load needs HTTP/1.1 with keep-alive"
            )
        # Most servers' replies have one length: one that comes in one piece needs no parsing then.
        self.expected_bytes = len(reply)

    def more(self, fd: int, received: int, buffer: bytearray) -> Reply:
        """Parse a reply in pieces, or one whose length isn't the usual one."""
        got = self._partial.pop(fd, None) or bytearray()
        if received == 0:
            return Reply.BROKEN
        got += memoryview(buffer)[:received]
        length = response_length(bytes(got))
        if length is not None and length == len(got):
            return Reply.COMPLETE
        if length is None or length == -1:
            self._partial[fd] = got
            return Reply.PARTIAL
        return Reply.BROKEN

    def forget(self, fd: int) -> None:
        """Drop the pieces of a reply under way."""
        self._partial.pop(fd, None)


def _is_all_of_it(reply: bytes) -> bool:
    """Tell whether to wait no longer: the response is complete, or it is none at all."""
    if not reply.startswith(b"HTTP/"[: len(reply)]):
        return True
    length = response_length(reply)
    return length is not None and length >= 0


def response_length(reply: bytes) -> int | None:
    """Give the length in bytes of the HTTP/1.1 response that `reply` begins with.

    -1 says that only the close will end it, None that it is not known or not complete yet.

    RFC 9112 section 6.3: no body for 204 and 304, then Transfer-Encoding, then Content-Length, else
    until the close.

    >>> response_length(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    40
    """
    head_end = reply.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    lines = reply[:head_end].split(b"\r\n")
    body = head_end + 4
    if lines[0][9:12] in (b"204", b"304"):
        return body
    pairs = (line.partition(b":") for line in lines[1:])
    fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if fields.get(b"transfer-encoding", b"").lower().endswith(b"chunked"):
        return _chunked_end(reply, body)
    if b"content-length" in fields:
        end = body + int(fields[b"content-length"])
        return end if len(reply) >= end else None
    return -1


def _chunked_end(reply: bytes, at: int) -> int | None:
    """Walk the chunks (RFC 9112 section 7.1).

    The position after the last one, or None if it hasn't come yet.
    """
    while True:
        line_end = reply.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = int(reply[at:line_end].split(b";")[0], 16)
        at = line_end + 2
        if size == 0:
            # Trailer fields, if any, end with an empty line.
            if reply[at : at + 2] == b"\r\n":
                return at + 2
            trailer_end = reply.find(b"\r\n\r\n", at)
            return None if trailer_end < 0 else trailer_end + 4
        at += size + 2


def closes(reply: bytes) -> bool:
    """Tell whether the server means to close after this response (RFC 9112 section 9.3)."""
    head = reply.partition(b"\r\n\r\n")[0].lower()
    if head.startswith(b"http/1.0"):
        return b"\r\nconnection: keep-alive" not in head
    return b"\r\nconnection: close" in head


def connect_tcp(address: tuple[str, int]) -> socket.socket:
    """Give a non-blocking TCP socket connected within five seconds."""
    sock = socket.create_connection(address, timeout=5.0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


def speaks_tls(address: tuple[str, int]) -> bool:
    """Tell whether a TLS handshake with that address succeeds."""
    try:
        with socket.create_connection(address, timeout=2.0) as sock:
            insecure_context().wrap_socket(sock, server_hostname="localhost").close()
    except OSError:
        return False
    return True


def insecure_context() -> ssl.SSLContext:
    """Give a client context that accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass
class Exchange:
    """One request under way: what is still to be sent, what came back, whether that is all."""

    sock: socket.socket
    request: bytes
    complete: Callable[[bytes], bool]
    reply: bytearray = field(default_factory=bytearray)
    sent_bytes: int = 0
    done: bool = False

    def push(self) -> bool:
        """Send and receive what is possible now; True if anything moved."""
        moved = False
        if self.sent_bytes < len(self.request):
            try:
                self.sent_bytes += self.sock.send(memoryview(self.request)[self.sent_bytes :])
                moved = True
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except (BrokenPipeError, ConnectionResetError):
                self.sent_bytes = len(self.request)  # what it said before it left may still be read
        try:
            piece = self.sock.recv(1 << 18)
        except (BlockingIOError, ssl.SSLWantReadError):
            return moved
        except ConnectionResetError:
            piece = b""
        self.reply += piece
        self.done = not piece or self.complete(bytes(self.reply))
        return True


def exchange(exchanges: Sequence[Exchange], timeout_s: float) -> None:
    """Carry out requests at once on many connections, each until its reply is complete or the server closed.

    TimeoutError after `timeout_s` in which nothing moved. Sends and receives in turn: a server that
    echoes while it still reads must not find both directions full.
    """
    open_ones = list(exchanges)
    deadline = time.monotonic() + timeout_s
    while open_ones:
        moved = [each.push() for each in open_ones]
        open_ones = [each for each in open_ones if not each.done]
        if any(moved):
            deadline = time.monotonic() + timeout_s
            continue
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        poller = select.poll()
        for each in open_ones:
            unsent = each.sent_bytes < len(each.request)
            poller.register(each.sock, select.POLLIN | (select.POLLOUT if unsent else 0))
        poller.poll(left_s * 1000)

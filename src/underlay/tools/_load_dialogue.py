"""Knows what a request and its complete reply are: TCP, TLS and UDP echo (HTTP is in `_load_http.py`).

It opens sockets and reads bytes; it does not know how many connections there are, nor when to send
(`_load_engine.py` does). A dialogue's `check` verifies a reply byte by byte; in the measured window
only lengths are watched, because comparing bytes would make the generator the bottleneck.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence

from ._load_contract import LoadError, Reply
from ._load_exchange import Exchange, connect_tcp, exchange, insecure_context, speaks_tls

# 65535 − 20 bytes of IPv4 header − 8 of UDP header (RFC 768, RFC 791).
MAX_DATAGRAM_BYTES = 65507

# Half of what a socket's receive buffer holds by default (net.core.rmem_default is 212,992 bytes: socket(7)). It counts
# a datagram with its bookkeeping, and up to twice its size where memory comes in powers of two.
BURST_BYTES = 106_496
DATAGRAM_OVERHEAD_BYTES = 1024


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
        # Bytes beyond the echo: zip() finds no difference in what both have.
        at = next((i for i, (a, b) in enumerate(zip(reply, request, strict=False)) if a != b), len(request))
        if at == len(request):
            return f"the reply is no echo: {len(reply)} bytes came for {at} that were sent"
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

    def check(self, socks: Sequence[socket.socket], timeout_s: float) -> None:
        """Compare echoes, a few connections at a time: all of them have one receive buffer on the other side."""
        together = max(1, BURST_BYTES // (2 * self.expected_bytes + DATAGRAM_OVERHEAD_BYTES))
        for at in range(0, len(socks), together):
            super().check(socks[at : at + together], timeout_s)

    def more(self, fd: int, received: int, buffer: bytearray) -> Reply:
        """Refuse a datagram of another size: it can't be the echo."""
        return Reply.BROKEN

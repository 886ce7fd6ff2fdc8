"""Knows HTTP/1.1 as far as a load needs it: one GET, and where its response ends (RFC 9112).

It does not know the engine, nor what is in a response beyond its framing and its status.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from ._load_contract import LoadError, Reply
from ._load_exchange import MAX_REPLY_BYTES, Exchange, connect_tcp, exchange, insecure_context


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
        try:
            length = response_length(bytes(got))
        except LoadError:
            return Reply.BROKEN
        if length is not None and length == len(got):
            return Reply.COMPLETE
        if (length is None or length == -1) and len(got) <= MAX_REPLY_BYTES:
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
        end = body + _natural(fields[b"content-length"], 10)
        return end if len(reply) >= end else None
    return -1


def _natural(digits: bytes, base: int) -> int:
    """Read a length as RFC 9112 writes it: no sign, no underscore, which int() would take."""
    if not digits.strip().isalnum():
        raise LoadError(f"no HTTP answer: {digits[:20]!r} is no length of a body")
    try:
        return int(digits, base)
    except ValueError:
        raise LoadError(f"no HTTP answer: {digits[:20]!r} is no length of a body") from None


def _chunked_end(reply: bytes, at: int) -> int | None:
    """Walk the chunks (RFC 9112 section 7.1).

    The position after the last one, or None if it hasn't come yet.
    """
    while True:
        line_end = reply.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = _natural(reply[at:line_end].split(b";")[0], 16)
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

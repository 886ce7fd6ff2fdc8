"""Knows how to open a connection and how to carry out a single exchange on each of many, outside any measurement.

It does not know what is said, nor whether the reply is right: dialogues do.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ._load_contract import LoadError

# A reply may be as long as its request, or as a large page is; beyond this it is a stream, which no load can time.
MAX_REPLY_BYTES = 64 << 20


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
        if len(self.reply) > len(self.request) + MAX_REPLY_BYTES:
            raise LoadError(f"the reply has no end: {len(self.reply) >> 20} MiB came for one request")
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

"""TLS on a far end: what `SSLContext.wrap_socket` gives for one, as OpenSSL cannot read a socket of the stack itself.

The records are OpenSSL's, made and read in memory; `FarSocket` carries them. Only what CPython's tests of asyncio ask
of an `ssl.SSLSocket` is here. It does not know threads nor loops: a far end waits its turn by itself.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from underlay.loop._bridge import FIRST_NUMBER

from .far_ends import FarSocket

T = TypeVar("T")

_RECORDS_BYTES = 65_536


class FarTls(FarSocket):
    """A far end that speaks TLS; it takes over the socket that it is made of, as `ssl.SSLSocket` does."""

    def __init__(self, plain: FarSocket, tls: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject]) -> None:
        timeout_s, turns = plain.gettimeout(), plain._turns
        super().__init__(fileno=plain.detach(), turns=turns)
        self.settimeout(timeout_s)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = tls(self._incoming, self._outgoing)
        self._greets_when_connected = True

    def _drive(self, work: Callable[[], T]) -> T:
        """Do what OpenSSL is asked, and give it records, and send its own, until it has done it."""
        while True:
            try:
                return work()
            except ssl.SSLWantReadError:
                self._flush()
                records = super().recv(_RECORDS_BYTES)
                if records:
                    self._incoming.write(records)
                else:
                    self._incoming.write_eof()
            finally:
                self._flush()

    def _flush(self) -> None:
        """Send what OpenSSL wants sent: records, or the alert that says why it gave up."""
        records = memoryview(self._outgoing.read())
        while records:
            records = records[super().send(records) :]

    def do_handshake(self) -> None:
        """Shake hands."""
        assert self._tls is not None
        self._drive(self._tls.do_handshake)

    def connect(self, address: Any, /) -> None:
        """Connect, and shake hands unless that was to be left."""
        super().connect(address)
        if self._greets_when_connected:
            self.do_handshake()

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """As `ssl.SSLSocket`: a stream that ends without a farewell just ends."""
        tls = self._tls
        if tls is None:
            return super().recv(bufsize, flags)
        try:
            return self._drive(lambda: tls.read(bufsize))
        except ssl.SSLEOFError:
            return b""

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As `recv`, into a buffer."""
        with memoryview(buffer).cast("B") as view:
            data = self.recv(nbytes or len(view), flags)
            view[: len(data)] = data
        return len(data)

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send all of it."""
        tls = self._tls
        if tls is None:
            return super().send(data, flags)
        return self._drive(lambda: tls.write(data)) if len(data) else 0

    def unwrap(self) -> FarTls:
        """Say farewell and wait for the peer's; then it is a plain socket."""
        assert self._tls is not None
        self._drive(self._tls.unwrap)
        self._tls = None
        return self


def wrap_far_ends() -> None:
    """Let `SSLContext.wrap_socket` take far ends."""
    kernels = ssl.SSLContext.wrap_socket

    def wrap_socket(
        context: ssl.SSLContext,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> Any:
        if (
            sock.fileno() < FIRST_NUMBER
        ):  # the tests wrap a far end in an object of their own, so its class tells nothing
            return kernels(
                context, sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, server_hostname, session
            )
        wrapped = FarTls(sock, lambda i, o: context.wrap_bio(i, o, server_side, server_hostname, session))
        wrapped._greets_when_connected = do_handshake_on_connect
        if do_handshake_on_connect and _is_connected(wrapped):
            wrapped.do_handshake()
        return wrapped

    ssl.SSLContext.wrap_socket = wrap_socket  # type: ignore[assignment,method-assign]


def _is_connected(sock: FarSocket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True

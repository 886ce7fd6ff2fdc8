"""What really happens on a bind: tried, and undone at once.

This file knows bind(2) and the two options that let addresses be used twice. It refuses to explain. Nothing listens at
any time, so that no client of anybody is answered; for some microseconds the address is ours, if it was free. Who has
bound a UDP port receives, so that of one that is shared a datagram may be lost to us meanwhile.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Final

__all__ = ["Trial", "Want", "try_bind"]

_KINDS: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass(frozen=True, slots=True)
class Want:
    """What a program wants to bind."""

    protocol: str
    """``tcp`` or ``udp``."""
    family: int
    """4 or 6."""
    address: str
    port: int
    v6_only: bool = False
    """False where one IPv6 socket is to hear IPv4 too."""
    scope: int = 0
    """The interface of a link-local IPv6 address; 0 for others."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How the bind ended, by the options that were set: 0, or the errno."""

    plain: int
    reuse_address: int
    reuse_port: int


def try_bind(want: Want) -> Trial:
    """Bind with SO_REUSEPORT, with SO_REUSEADDR, and with no option, each by a socket of its own.

    >>> with socket.create_server(("127.0.0.1", 0)) as server:
    ...     trial = try_bind(Want("tcp", 4, *server.getsockname()))
    >>> trial.plain == trial.reuse_address == errno.EADDRINUSE
    True
    """
    # The plain one is the last. Where others have the port at addresses that do not conflict, a socket that binds with
    # SO_REUSEPORT leaves its mark on the port for as long as they live, and by it later ones pass unexamined, though
    # the others do not share; one that binds without wipes it (inet_csk_update_fastreuse() in
    # net/ipv4/inet_connection_sock.c).
    reuse_port = _bind(want, socket.SO_REUSEPORT)
    reuse_address = _bind(want, socket.SO_REUSEADDR)
    return Trial(_bind(want, None), reuse_address, reuse_port)


def _bind(want: Want, option: int | None) -> int:
    family = socket.AF_INET if want.family == 4 else socket.AF_INET6
    try:
        with socket.socket(family, _KINDS[want.protocol]) as sock:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, want.v6_only)
            if option is not None:
                sock.setsockopt(socket.SOL_SOCKET, option, 1)
            if family == socket.AF_INET6:
                sock.bind((want.address, want.port, 0, want.scope))
            else:
                sock.bind((want.address, want.port))
    except OSError as error:
        return error.errno or errno.EIO
    return 0

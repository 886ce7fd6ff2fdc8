"""Ends one socket by SOCK_DESTROY, and no other.

This file knows what the kernel refuses and what is left afterwards. It refuses to choose the socket, and to ask.
"""

from __future__ import annotations

import errno
from typing import Final

from ...errors import UnderlayError, UsageError
from ._diag import destroy
from ._filter import Filter
from ._list import open_diag, take_snapshot
from ._socket import Socket, State

__all__ = ["check_closable", "close_socket", "effect", "what_is_left"]

_REFUSALS: Final = {
    errno.EPERM: ("may not be ended by this user", "root may (CAP_NET_ADMIN)"),
    errno.EACCES: ("may not be ended by this user", "root may (CAP_NET_ADMIN)"),
    errno.EOPNOTSUPP: ("cannot be ended by this kernel", "it lacks CONFIG_INET_DIAG_DESTROY; end its process instead"),
}


def close_socket(sock: Socket) -> bool:
    """End this very socket; False where it was gone already.

    The kernel finds it by its addresses and its cookie, so that another on the same addresses is not touched. Of a
    connection the peer gets a reset, and its process ECONNABORTED at its next call. Needs CAP_NET_ADMIN. Source:
    sock_diag(7), SOCK_DESTROY.

    `UsageError` for a socket that the kernel cannot end: a Unix socket, or one that is only bound. `UnderlayError`
    where it refuses, and where it does not find the socket among others that share its address (SO_REUSEPORT).
    """
    check_closable(sock)
    try:
        with open_diag() as kernel:
            destroy(kernel, sock)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            if what_is_left(sock) is None:
                return False
            raise UnderlayError(
                f"the kernel does not find {sock.local} among the sockets that share its address",
                remedy="end the process that holds it",
            ) from None
        if (refusal := _REFUSALS.get(error.errno or 0)) is None:
            raise
        what, remedy = refusal
        raise _Refused(f"{sock.local} {what}", remedy=remedy) from None
    return True


def check_closable(sock: Socket) -> None:
    """Raise ``UsageError`` for a socket that no kernel ends."""
    if sock.protocol == "unix":
        raise UsageError("the kernel ends no Unix socket", remedy="end the process that holds it")
    if sock.state is State.BOUND:
        raise UsageError(
            f"{sock.local} is only bound, and such a socket the kernel cannot end",
            remedy="end the process that holds it",
        )


def what_is_left(sock: Socket) -> Socket | None:
    """This very socket as it is now; None where it is gone.

    Of a listener that was ended, and of a UDP socket, the process may still have the port: it chose it by bind(2), and
    the kernel leaves it to the process until that closes its descriptor.
    """
    words = [f"local:{sock.local_port}", f"proto:{sock.protocol}{sock.family}"]
    found = take_snapshot(Filter(words), owners=False).sockets
    return next((each for each in found if each.cookie == sock.cookie), None)


class _Refused(UnderlayError):
    """A right or a kernel option is missing."""

    exit_status = 2


def effect(sock: Socket) -> str:
    """What ending it does, in a sentence.

    >>> effect(Socket("tcp", 4, State.TIME_WAIT, "127.0.0.1", 80, "127.0.0.1", 4000, 0, 0))
    'The port is free for a bind at once; late segments of the old connection may meet a new one.'
    """
    match sock.state:
        case State.TIME_WAIT:
            return "The port is free for a bind at once; late segments of the old connection may meet a new one."
        case State.LISTEN:
            return "It listens no more; its process may keep the port until it closes it or ends."
        case _ if sock.protocol == "udp":
            return "Its process gets ECONNABORTED, and may keep the port until it closes it or ends."
        case _:
            return "The peer gets a reset, and its process, if it has one, ECONNABORTED."

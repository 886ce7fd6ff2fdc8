"""The list of sockets: all protocols, with their owners, through a filter.

This file puts together what the kernel tells by sock_diag and what /proc does. It refuses to print.
"""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from ...errors import UnderlayError
from ...link._netlink import Netlink
from ._diag import list_inet
from ._filter import Filter
from ._owners import Owners, find_owners
from ._socket import Socket, State
from ._unix_diag import list_unix

__all__ = ["SOCK_DIAG", "Snapshot", "list_sockets", "open_diag", "take_snapshot", "without_collector"]

SOCK_DIAG: Final = 4
"""NETLINK_SOCK_DIAG of linux/netlink.h."""

_TCP: Final = frozenset(State) - {State.UNCONNECTED}
_UDP: Final = frozenset({State.ESTABLISHED, State.UNCONNECTED})
_UNIX: Final = frozenset({State.ESTABLISHED, State.SYN_SENT, State.UNCONNECTED, State.LISTEN})

# What the kernel lacks when it cannot list a protocol: its option, which distributions build as a module.
_OPTIONS: Final = {"tcp": "CONFIG_INET_TCP_DIAG", "udp": "CONFIG_INET_UDP_DIAG", "unix": "CONFIG_UNIX_DIAG"}


class Snapshot(NamedTuple):
    """The sockets of one moment, and what of them could not be seen."""

    sockets: list[Socket]
    hidden_processes: int
    """Processes of other users: what they hold shows no owner."""
    unlisted: tuple[str, ...]
    """Protocols that this kernel cannot list."""


def list_sockets(*words: str, owners: bool = True, info: bool = False) -> list[Socket]:
    """List the TCP, UDP and Unix sockets of this network namespace that all the ``words`` mean.

    The words are those of the command (``80``, ``state:listen``, ``peer:10.0.0.0/8``, …); without any, every socket is
    listed. ``owners=False`` leaves out the processes, which takes most of the time; ``info=True`` adds `TcpInfo`. No
    right is needed for the sockets; owners are seen of one's own processes, and by root of all. They come in the
    kernel's order. Source: sock_diag(7).

    `UsageError` for a word that is no filter; `UnderlayError` where the kernel has no sock_diag.

    >>> import socket
    >>> with socket.create_server(("127.0.0.1", 0)) as server:
    ...     port = server.getsockname()[1]
    ...     [found] = list_sockets(str(port), "state:listen")
    >>> found.local == f"127.0.0.1:{port}", found.owners[0].descriptor > 2
    (True, True)
    """
    return take_snapshot(Filter(words), owners=owners, info=info).sockets


def take_snapshot(only: Filter, *, owners: bool = True, info: bool = False) -> Snapshot:
    """List the sockets that ``only`` means, and tell what could not be seen."""
    found: list[Socket] = []
    unlisted: list[str] = []
    with open_diag() as kernel, without_collector():
        # Owners first, as ss(8) does: a socket that is opened in between shows none, and none shows a wrong one.
        held = find_owners() if owners or only.needs_owners else Owners({}, 0)
        for protocol, possible, ask in _asks(kernel, only, held, info):
            states = possible if only.states is None else possible & only.states
            if not states:
                continue
            try:
                found += ask(states)
            except OSError as error:
                # EINVAL and EAFNOSUPPORT: a kernel without IPv6.
                if error.errno not in (errno.ENOENT, errno.EINVAL, errno.EAFNOSUPPORT):
                    raise
                if protocol not in unlisted:
                    unlisted.append(protocol)
    if only.protocols is not None and unlisted and not found:
        options = " and ".join(_OPTIONS[protocol] for protocol in unlisted)
        raise UnderlayError(f"this kernel cannot list {' and '.join(unlisted)} sockets", remedy=f"it lacks {options}")
    if not only.is_asked_for:
        found = [sock for sock in found if only.matches(sock)]
    return Snapshot(found, held.hidden_processes, tuple(unlisted))


_Ask = Callable[[frozenset[State]], list[Socket]]


def _asks(kernel: Netlink, only: Filter, held: Owners, info: bool) -> Iterator[tuple[str, frozenset[State], _Ask]]:
    """Each list that has to be asked for: its protocol, its states, and how."""
    for protocol, possible in (("tcp", _TCP), ("udp", _UDP)):
        for family in (4, 6):
            if only.wants(protocol, family):

                def inet(states: frozenset[State], protocol: str = protocol, family: int = family) -> list[Socket]:
                    return list_inet(kernel, protocol, family, states, held.by_inode, info=info)

                yield protocol, possible, inet
    if only.wants("unix"):
        yield "unix", _UNIX, lambda states: list_unix(kernel, states, held.by_inode)


def open_diag() -> Netlink:
    """Open the kernel's sock_diag, or say in one sentence that there is none."""
    try:
        return Netlink(SOCK_DIAG)
    except AttributeError:  # no AF_NETLINK
        raise UnderlayError("this system has no netlink", remedy="underlay ports needs Linux") from None
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise _Forbidden(
                "this program may not open netlink, by which the kernel tells of its sockets",
                remedy="a container's seccomp profile, or a security module, has to allow it",
            ) from error
        if error.errno not in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            raise
        raise UnderlayError(
            "this kernel does not tell of its sockets by sock_diag",
            remedy="a Linux with CONFIG_INET_DIAG does; in a gVisor container there is none",
        ) from error


class _Forbidden(UnderlayError):
    """A right is missing."""

    exit_status = 2


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep the cyclic collector from walking ten thousand new tuples again and again: none of them is in a cycle."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

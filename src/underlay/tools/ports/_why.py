"""Why an address cannot be bound now: the kernel's answer to a real bind, and the sockets that explain it.

This file knows what may be in the way and finds it. It refuses to write sentences (`_why_words.py`). No right is
needed: any user may list sockets and try a bind; only the names of other users' processes stay hidden.
"""

from __future__ import annotations

import enum
import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ...errors import UsageError
from .._port_ranges import first_unprivileged_port
from ._bind_trial import Trial, Want, try_bind
from ._conflict import Overlap, conflicts
from ._filter import Filter
from ._list import Snapshot, take_snapshot
from ._socket import Socket, State

__all__ = ["Attempt", "Cause", "Obstacle", "Verdict", "explain_bind"]


class Obstacle(enum.Enum):
    """What can be in the way of a bind, in the order in which it is told: who is alive first."""

    LISTENER = "somebody listens there"
    BOUND = "somebody has bound it, and does not listen"
    DATAGRAMS = "somebody receives datagrams there"
    CONNECTION = "connections with this port are open"
    TIME_WAIT = "connections are over, and wait for late segments"
    ORPHAN = "connections that were closed, and that the peer has not let end"
    PERMISSION = "the port is privileged"
    ADDRESS = "the address is none of this machine"
    FAMILY = "this machine does not speak this version of IP"
    UNSEEN = "nothing that can be seen explains it"
    REFUSED = "the kernel refuses for another reason"


@dataclass(frozen=True, slots=True)
class Cause:
    """One obstacle, and the sockets that are it."""

    obstacle: Obstacle
    sockets: tuple[Socket, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    """How each socket's address is also the wanted one."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One address that a server would bind, what the kernel said to it, and why."""

    want: Want
    trial: Trial
    causes: tuple[Cause, ...]

    @property
    def is_free(self) -> bool:
        """Whether a bind without any option would work now."""
        return self.trial.plain == 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a port can be bound now; ``sentences`` tells it to a person."""

    protocol: str
    host: str
    """As it was asked for; empty for every address."""
    port: int
    attempts: tuple[Attempt, ...]
    hidden_processes: int
    """Processes of other users, which may be the holders that are not named."""

    @property
    def is_free(self) -> bool:
        """Whether a bind without any option would work now, on each address."""
        return all(attempt.is_free for attempt in self.attempts)

    @property
    def sentences(self) -> list[str]:
        """The answer, the causes and what would mend them."""
        from ._why_words import sentences

        return sentences(self)


def explain_bind(port: int, host: str = "", *, protocol: str = "tcp") -> Verdict:
    """Say whether a bind would work now, and if not, why, and what would mend it.

    Without ``host`` it is every address of this machine, IPv4 and IPv6, as most servers bind; a name stands for each
    of its addresses. The bind is really tried, without any option, with SO_REUSEADDR, and with SO_REUSEPORT, and
    undone at once; nothing ever listens.

    `UsageError` for a port or a host that cannot be. Source: bind(2), ip(7), socket(7).

    >>> with socket.create_server(("127.0.0.1", 0)) as server:
    ...     verdict = explain_bind(server.getsockname()[1], "127.0.0.1")
    >>> verdict.is_free, verdict.attempts[0].causes[0].obstacle
    (False, <Obstacle.LISTENER: 'somebody listens there'>)
    """
    if protocol not in ("tcp", "udp"):
        raise UsageError(f"{protocol!r} has no ports", remedy="choose tcp or udp")
    if not 0 < port <= 65_535:
        what = "port 0 lets the kernel choose a free one" if port == 0 else f"{port} is no port"
        raise UsageError(what, remedy="a port is between 1 and 65535")
    wants = list(_wants(port, host, protocol))
    snapshot = _on_port(port, protocol)
    attempts = []
    for want in wants:
        trial = try_bind(want)
        causes = _causes(want, trial, snapshot)
        if any(cause.obstacle is Obstacle.UNSEEN for cause in causes):
            snapshot = _on_port(port, protocol)  # it may have come after the first look
            causes = _causes(want, trial, snapshot)
        attempts.append(Attempt(want, trial, causes))
    return Verdict(protocol, host, port, tuple(attempts), snapshot.hidden_processes)


def _on_port(port: int, protocol: str) -> Snapshot:
    return take_snapshot(Filter([f"local:{port}", f"proto:{protocol}"]))


def _wants(port: int, host: str, protocol: str) -> Iterator[Want]:
    if not host:
        yield Want(protocol, 4, "0.0.0.0", port)
        if socket.has_dualstack_ipv6():
            yield Want(protocol, 6, "::", port)
        return
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    try:
        found = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no name"
        raise UsageError(f"nobody knows the address of {host!r} ({reason})", remedy="check its spelling") from None
    seen = set()
    for family, _, _, _, place in found:
        scope = int(place[3]) if len(place) > 3 else 0
        address = str(place[0]).partition("%")[0]
        # A server that binds an IPv6 address by itself keeps to IPv6, as asyncio's do.
        want = Want(protocol, 6 if family == socket.AF_INET6 else 4, address, port, family == socket.AF_INET6, scope)
        if want not in seen:
            seen.add(want)
            yield want


def _causes(want: Want, trial: Trial, snapshot: Snapshot) -> tuple[Cause, ...]:
    """What explains the kernel's answer to a bind without options."""
    match trial.plain:
        case 0:
            return ()
        case errno.EADDRINUSE:
            return tuple(_in_the_way(want, snapshot)) or (Cause(Obstacle.UNSEEN),)
        case errno.EACCES if want.port < first_unprivileged_port():
            # The kernel looks at the right first; who has the port would be its next reason.
            return (Cause(Obstacle.PERMISSION), *_in_the_way(want, snapshot))
        case errno.EADDRNOTAVAIL:
            return (Cause(Obstacle.ADDRESS),)
        case errno.EAFNOSUPPORT:
            return (Cause(Obstacle.FAMILY),)
        case _:
            return (Cause(Obstacle.REFUSED),)


# Of TCP; whatever else its state is, it is a connection.
_OBSTACLES: Final = {
    State.LISTEN: Obstacle.LISTENER,
    State.BOUND: Obstacle.BOUND,
    State.TIME_WAIT: Obstacle.TIME_WAIT,
}


def _in_the_way(want: Want, snapshot: Snapshot) -> Iterator[Cause]:
    groups: dict[Obstacle, list[tuple[Socket, Overlap]]] = {obstacle: [] for obstacle in Obstacle}
    for sock, how in conflicts(want, snapshot.sockets):
        if sock.is_orphan:
            obstacle = Obstacle.ORPHAN
        elif sock.protocol == "udp":
            obstacle = Obstacle.DATAGRAMS
        else:
            obstacle = _OBSTACLES.get(sock.state, Obstacle.CONNECTION)
        groups[obstacle].append((sock, how))
    for obstacle, found in groups.items():
        if found:
            yield Cause(obstacle, tuple(sock for sock, _ in found), tuple(how for _, how in found))

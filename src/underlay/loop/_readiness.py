"""Which sockets of a user-space host are watched, and which of them are ready.

This file knows sockets by their numbers, and what the host tells of what is below them. It refuses to know what makes
a socket ready, which each tells itself, and who waits.

It is compiled where the stack is: each turn of a simulated host asks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import ref

if TYPE_CHECKING:
    from ..stack import Host, TcpConnection, TcpListener, UdpSocket
    from ._stack_socket import StackSocket

    Below: TypeAlias = TcpConnection | TcpListener | UdpSocket

# POLLIN of poll(2).
_IN: Final = 0x001


class Readiness:
    """Level-triggered readiness, from the edges that a host tells."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._by_below: dict[Below, int] = {}
        # What is watched of a socket, and the socket itself, as weakly as `Bridge` holds it.
        self._watched: dict[int, tuple[int, ref[StackSocket]]] = {}
        self._maybe_ready: set[int] = set()

    def attach(self, below: Below, number: int) -> None:
        """From now on what the host tells of `below` is told of a socket."""
        self._by_below[below] = number
        self._maybe_ready.add(number)

    def detach(self, below: Below) -> None:
        """Nobody asks for `below` any more."""
        self._by_below.pop(below, None)

    def watch(self, number: int, sock: StackSocket, events: int) -> None:
        """Report the socket while one of `events` (poll(2) bits) is ready; 0 for none."""
        if events:
            self._watched[number] = events, ref(sock)
            self._maybe_ready.add(number)
        else:
            self._watched.pop(number, None)

    def replace(self, number: int, sock: StackSocket) -> None:
        """The number is another object's from now on."""
        watched = self._watched.get(number)
        if watched is not None:
            self._watched[number] = watched[0], ref(sock)

    def forget(self, number: int) -> None:
        """The socket was closed."""
        self._watched.pop(number, None)
        self._maybe_ready.discard(number)

    def touch(self, number: int) -> None:
        """Something may be ready on a socket, of which the host does not tell."""
        self._maybe_ready.add(number)

    def emptied(self, number: int) -> None:
        """All that came was read: who waits for nothing but more of it needs no look before the host tells of more."""
        watched = self._watched.get(number)
        if watched is not None and watched[0] == _IN:
            self._maybe_ready.discard(number)

    def ready(self) -> list[tuple[int, int]]:
        """Whoever is watched and ready now, level-triggered, as (number, poll(2) bits)."""
        maybe_ready = self._maybe_ready
        for below, _ in self._host.poll_events():
            number = self._by_below.get(below)
            if number is not None:
                maybe_ready.add(number)
        if not maybe_ready:
            return []
        found: list[tuple[int, int]] = []
        cold: list[int] = []
        for number in maybe_ready:
            mask = 0
            watched = self._watched.get(number)
            if watched is not None:
                sock = watched[1]()
                if sock is not None:
                    mask = sock.readiness(watched[0])
            if mask:
                found.append((number, mask))
            else:
                cold.append(number)
        if cold:
            maybe_ready.difference_update(cold)
        if len(found) > 1:
            found.sort()  # a set has no order that a run could repeat; sockets are told in the order they were made
        return found

    def counts(self) -> tuple[int, int, int]:
        """How many things below are attached, how many sockets are watched, and how many are perhaps ready."""
        return len(self._by_below), len(self._watched), len(self._maybe_ready)

"""The routing table: which interface, and which gateway, a destination is reached by.

This file knows prefixes and that the longest one wins (RFC 1812 section
5.2.4.3). It refuses to know addresses of neighbours, MTUs and who asks.

A prefix length is one dictionary from network to route, and the lengths in use
are tried from the longest. A table has few lengths and the host remembers what
came out, so this is enough; a trie would help only a router of thousands.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from ..wire import format_ip
from ._interface import mask


class Route(NamedTuple):
    """One line of the table. ``via`` is None where the destination is on the link itself.

    Addresses are packed, and shown as text.

    >>> Route(bytes([10, 9, 0, 0]), 24, bytes([10, 9, 0, 1]), 1)
    Route('10.9.0.0/24', via='10.9.0.1', interface=1)
    """

    network: bytes
    prefix_bits: int
    via: bytes | None
    interface: int

    def __repr__(self) -> str:
        via = f"{format_ip(self.via)!r}" if self.via is not None else None
        return f"Route('{format_ip(self.network)}/{self.prefix_bits}', via={via}, interface={self.interface})"

    def __str__(self) -> str:
        via = f" via {format_ip(self.via)}" if self.via is not None else ""
        return f"{format_ip(self.network)}/{self.prefix_bits}{via} interface {self.interface}"


class RouteTable:
    """Routes of both families; ``version`` grows with each change, for those who remember results."""

    def __init__(self) -> None:
        # By family (length of address), then (length, mask, routes by network), the longest first.
        self._lengths: dict[int, list[tuple[int, int, dict[int, list[Route]]]]] = {4: [], 16: []}
        self.version = 0

    def add(self, route: Route) -> None:
        """Add a route; of two to the same network the first one is used.

        Raises ``ValueError`` where bits stand behind the prefix, and EEXIST where the very same is there.
        """
        size = len(route.network)
        number = int.from_bytes(route.network, "big")
        bits = mask(route.prefix_bits, size)
        if number & ~bits:
            raise ValueError(f"{format_ip(route.network)}/{route.prefix_bits} has bits behind its prefix")
        if route.via is not None and len(route.via) != size:
            raise ValueError(f"{format_ip(route.via)} is of another family than {format_ip(route.network)}")
        lengths = self._lengths[size]
        table = next((table for prefix_bits, _, table in lengths if prefix_bits == route.prefix_bits), None)
        if table is None:
            table = {}
            lengths.append((route.prefix_bits, bits, table))
            lengths.sort(reverse=True, key=lambda each: each[0])
        same = table.setdefault(number, [])
        if route in same:
            raise OSError(errno.EEXIST, f"the route exists: {route}")
        same.append(route)
        self.version += 1

    def remove(self, route: Route) -> None:
        """Remove a route; ESRCH where it is not there, as Linux says."""
        number = int.from_bytes(route.network, "big")
        lengths = self._lengths[len(route.network)]
        for entry in lengths:
            prefix_bits, _, table = entry
            if prefix_bits == route.prefix_bits and route in table.get(number, ()):
                table[number].remove(route)
                if not table[number]:
                    del table[number]
                if not table:
                    lengths.remove(entry)
                self.version += 1
                return
        raise OSError(errno.ESRCH, f"no such route: {route}")

    def lookup(self, destination: bytes, interface: int | None = None) -> Route | None:
        """Return the route with the longest prefix that holds ``destination``; None where there is none.

        ``interface`` asks for routes of that interface only.
        """
        number = int.from_bytes(destination, "big")
        for _, bits, table in self._lengths[len(destination)]:
            routes = table.get(number & bits)
            if routes is not None:
                if interface is None:
                    return routes[0]
                for route in routes:
                    if route.interface == interface:
                        return route
        return None

    def routes(self) -> tuple[Route, ...]:
        """List all routes, IPv4 first, the longest prefixes first."""
        return tuple(
            route
            for lengths in self._lengths.values()
            for _, _, table in lengths
            for number in sorted(table)
            for route in table[number]
        )

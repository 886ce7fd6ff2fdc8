"""Who is joined to whom: the internet, LANs, and the routers between them; and the routes that follow from it.

This file knows segments, and the shortest way from each to every other. It refuses to know how a packet travels in
any (``_internet.py``, ``_lan.py``).

A host has a route to each segment that is reached from its own, by the nearest router, and no default route: an
address of nobody's is unreachable at once (ENETUNREACH), as on a machine without a default route. Hosts of the
internet are each other's neighbours, so there a router is known by its addresses alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import UsageError, nearest
from ..wire import parse_ip
from ._lan import Lan

if TYPE_CHECKING:
    from ._host import Host

INTERNET: Final = "internet"
"""The name of the segment that hosts are on unless told otherwise."""
PREFIXES: Final = ("10.0.0.0/8", "fd00::/64")
"""The addresses of the internet's hosts."""


class Hop(NamedTuple):
    """A route as a host has it: ``via`` a router's addresses of both families, on one of its own segments."""

    target: str
    segment: str
    router: Host


class Topology:
    """The segments of a world and their routers."""

    def __init__(self) -> None:
        self.lans: dict[str, Lan] = {}
        self._routers: list[Host] = []

    @property
    def has_routers(self) -> bool:
        """Whether there is any."""
        return bool(self._routers)

    def segments(self, names: str | Lan | tuple[str | Lan, ...] | list[str | Lan]) -> tuple[str, ...]:
        """The names of segments that are there; ``UsageError`` for one that is not."""
        if isinstance(names, str | Lan):
            names = (names,)
        segments = tuple(each.name if isinstance(each, Lan) else each for each in names)
        for name in segments:
            if name != INTERNET and name not in self.lans:
                raise UsageError(f"there is no LAN {name!r}", remedy=nearest(name, [*self.lans, INTERNET]))
        if not segments or len(set(segments)) < len(segments):
            raise UsageError(f"a host cannot be on {segments}", remedy="name each of its segments once")
        return segments

    def join(self, host: Host) -> None:
        """Note a router."""
        if host.forwards:
            self._routers.append(host)

    def hops(self, on: tuple[str, ...], host: Host | None = None) -> Iterator[Hop]:
        """The way of a host on these segments to each other segment, by the first of the nearest routers."""
        if not self._routers:
            return
        seen = set(on)
        queue: deque[tuple[str, Hop | None]] = deque((segment, None) for segment in on)
        while queue:
            segment, first = queue.popleft()
            for router in self._routers:
                if router is host or segment not in router.on:
                    continue
                for target in router.on:
                    if target not in seen:
                        seen.add(target)
                        hop = Hop(target, first.segment, first.router) if first else Hop(target, segment, router)
                        yield hop
                        queue.append((target, hop))

    def prefixes(self, segment: str) -> tuple[str, str]:
        """The addresses of a segment, IPv4 and IPv6."""
        if segment == INTERNET:
            return PREFIXES
        lan = self.lans[segment]
        return str(lan.prefix), str(lan.prefix6)

    def behind(self, segment: str) -> list[bytes]:
        """The addresses of a LAN's hosts."""
        lan = self.lans[segment]
        return [parse_ip(address) for card in lan.cards.values() for address in (card.address, card.address6)]

"""Who is joined to whom: the internet, LANs, and the routers between them; and the routes that follow from it.

This file knows segments, and the shortest way from each to every other. It refuses to know how a packet travels in
any (``_internet.py``, ``_lan.py``).

A host has a route to each segment that is reached from its own, by the nearest router, and no default route: an
address of nobody's is unreachable at once (ENETUNREACH), as on a machine without a default route. Hosts of the
internet are each other's neighbours, so there a router is known by its addresses alone.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import combinations
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
# As names of hosts are on the internet (RFC 1123, 2.1), and with an underscore, as container networks have them.
_NAME: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]|\.(?=[a-z0-9_]))*", re.ASCII | re.IGNORECASE)
# Of a part between dots, and of all of it (RFC 1035, 2.3.4).
_MOST_IN_PART: Final = 63
_MOST_IN_NAME: Final = 253


def check_name(name: object, kind: str) -> None:
    """Raise ``UsageError`` for what is no name of a host or a LAN, or is looked up as something else."""
    if (
        not isinstance(name, str)
        or not _NAME.fullmatch(name)
        or len(name) > _MOST_IN_NAME
        or max(map(len, name.split("."))) > _MOST_IN_PART
    ):
        raise UsageError(
            f"{name!r} is no name for a {kind}", remedy="it is as in http://NAME/: letters, digits, hyphens and dots"
        )
    try:
        socket.inet_aton(name)
    except OSError:
        pass
    else:
        raise UsageError(f"{name!r} is an address, and no name for a {kind}", remedy="let it begin with a letter")
    if name.lower() == "localhost":
        raise UsageError(f"{name!r} is each host itself, and no name for a {kind}", remedy="choose another name")


def _are_names(names: object) -> bool:
    return isinstance(names, Iterable) and all(isinstance(each, str | Lan) for each in names)


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
        if not _are_names(names):
            raise UsageError(f"a host cannot be on {names!r}", remedy='name a LAN, several, or "internet"')
        segments = tuple(each.name if isinstance(each, Lan) else each for each in names)
        for name in segments:
            if name != INTERNET and name not in self.lans:
                raise UsageError(f"there is no LAN {name!r}", remedy=nearest(name, [*self.lans, INTERNET]))
        if not segments or len(set(segments)) < len(segments):
            raise UsageError(f"a host cannot be on {segments}", remedy="name each of its segments once")
        return segments

    def check_apart(self, router: str, segments: tuple[str, ...]) -> None:
        """Raise ``UsageError`` where a router would join two segments in which there are the same addresses."""
        joined = dict.fromkeys((*(each for router in self._routers for each in router.on), *segments))
        for one, other in combinations(joined, 2):
            prefixes = [ipaddress.IPv4Network(self.prefixes(each)[0]) for each in (one, other)]
            if prefixes[0].overlaps(prefixes[1]):
                raise UsageError(
                    f"{router} cannot join {one} to {other}: {prefixes[0]} and {prefixes[1]} overlap",
                    remedy='give a LAN addresses of its own, as in prefix="172.16.0.0/24"',
                )

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

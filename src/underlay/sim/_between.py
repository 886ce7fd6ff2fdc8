"""What lies between hosts: which ways a fault's words mean, and how two are parted that no way of their own joins.

This file knows ends by their names, the ways between them, and who is parted from whom. It refuses to know how a packet
travels (``_internet.py``), and what is noted of a fault (``_faults.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from ..errors import UsageError, nearest
from ._topology import INTERNET

if TYPE_CHECKING:
    from ._host import Host
    from ._internet import Internet
    from ._lan import Lan
    from ._topology import Topology

Ends: TypeAlias = "str | Host | Lan | Iterable[str | Host | Lan]"
Pair: TypeAlias = tuple[str, str]


class Between:
    """The ways of one world by the names of their ends: hosts, and a LAN for the wires of its hosts."""

    def __init__(self, hosts: Mapping[str, Host], topology: Topology, internet: Internet) -> None:
        self._hosts = hosts
        self._topology = topology
        self._internet = internet
        self.is_over = False
        # Parted from all others, of whom some are made later.
        self._apart: list[set[str]] = []

    # --- names ----------------------------------------------------------------------------------------------

    def named(self, ends: Ends) -> list[str]:
        """Their names. Raises ``UsageError`` for a name of nobody."""
        each_of = [ends] if isinstance(ends, str) or not isinstance(ends, Iterable) else ends
        if self.is_over:
            raise UsageError("this world has ended", remedy="say what befalls it before or while it runs")
        names = [each if isinstance(each, str) else self._name_of(each) for each in each_of]
        known = [*self._hosts, *self._topology.lans]
        for name in names:
            if name not in self._hosts and name not in self._topology.lans:
                raise UsageError(f"there is no host {name!r}", remedy=nearest(name, known))
        return names

    def _name_of(self, end: object) -> str:
        name = getattr(end, "name", None)
        if not isinstance(name, str) or end not in (self._hosts.get(name), self._topology.lans.get(name)):
            raise UsageError(
                f"{end!r} is no host or LAN of this world", remedy="give those of this world or their names"
            )
        return name

    def sides(self, one: Ends, others: Iterable[Ends], to: Ends | None) -> tuple[list[str], list[str], bool]:
        """Both sides of a fault, and whether it is of one direction; all other hosts where no others are named."""
        ones = self.named(one)
        targets = [name for other in others for name in self.named(other)]
        if to is not None:
            if targets:
                raise UsageError(
                    f"{', '.join(targets)} and to={to!r} were named", remedy="to= names all, of one direction"
                )
            targets = self.named(to)
        return ones, targets or [name for name in self._hosts if name not in ones], to is not None

    def wires(self, ones: Iterable[str]) -> list[str]:
        """The LANs that these hosts are in."""
        return sorted({lan for name in ones if name in self._hosts for lan in self._hosts[name].on if lan != INTERNET})

    def pairs(self, ones: Iterable[str], others: Iterable[str], *, one_way: bool) -> list[Pair]:
        """Each end with each of the others, in both directions or in one."""
        pairs = [(a, b) for a in ones for b in others if a != b]
        if not pairs:
            raise UsageError("a way has two ends, and only one host was named", remedy="name another")
        return pairs if one_way else [pair for a, b in pairs for pair in ((a, b), (b, a))]

    def ways(self, ones: Iterable[str], others: Iterable[str], *, one_way: bool) -> list[Pair]:
        """The same, each of which has a way of its own; ``UsageError`` where one has not."""
        pairs = self.pairs(ones, others, one_way=one_way)
        for sender, target in pairs:
            if not self._internet.has_way(sender, target):
                lan = next(iter(self.wires((sender, target))), "its LAN")
                raise UsageError(
                    f"no way of their own joins {sender} and {target}",
                    remedy=f'name the wire of one of them, as in world.link("{sender}", "{lan}")',
                )
        return pairs

    def ways_of(
        self, one: Ends | None, others: tuple[Ends, ...], to: Ends | None
    ) -> tuple[list[str], list[str], list[Pair]]:
        """Both sides and their ways; where no others are named, all ways of these hosts, and their wires.

        Where nobody is named, all ways of the world.
        """
        if one is None:
            return [], [], [(way.sender, way.target) for way in self._internet.ways()]
        ones, targets, one_way = self.sides(one, others, to)
        if others or to is not None:
            return ones, targets, self.ways(ones, targets, one_way=one_way)
        has_way = self._internet.has_way
        targets = [target for target in (*targets, *self.wires(ones)) if any(has_way(name, target) for name in ones)]
        pairs = self.pairs(ones, targets, one_way=False)
        return ones, targets, [pair for pair in pairs if has_way(*pair)]

    def ways_among(self, names: list[str]) -> list[Pair]:
        """Each two ends that a way joins: of these hosts those on the internet, and each with its LANs."""
        has_way = self._internet.has_way
        pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :] if has_way(a, b)]
        return [*pairs, *((name, lan) for name in names for lan in self.wires([name]))]

    # --- partitions -----------------------------------------------------------------------------------------

    def part(self, sender: str, target: str) -> None:
        """Let nothing of the sender's reach the target; what is under way is lost too."""
        if self._internet.has_way(sender, target):
            self._internet.cut(sender, target)
            if self._internet.has_accesses and sender in self._hosts and target in self._hosts:
                # It may still be before that way, or past it.
                self._internet.lose(self._hosts[sender].cards.addresses, self._hosts[target].cards.addresses)
        elif sender in self._hosts and target in self._hosts:
            sources, cards = self._hosts[sender].cards.addresses, self._hosts[target].cards
            self._internet.lose(sources, cards.addresses)
            cards.block(sources)

    def join(self, sender: str, target: str) -> None:
        """Let it pass again."""
        if self._internet.has_way(sender, target):
            self._internet.mend(sender, target)
        elif sender in self._hosts and target in self._hosts:
            self._hosts[target].cards.unblock(self._hosts[sender].cards.addresses)

    def join_all(self) -> None:
        """Let everything pass again."""
        self._apart.clear()
        for way in self._internet.ways():
            self._internet.mend(way.sender, way.target)
        if self._topology.lans:
            for host in self._hosts.values():
                host.cards.unblock()

    def keep_apart(self, names: Iterable[str]) -> None:
        """Part these from hosts that are made later, too."""
        self._apart.append(set(names))

    def keep_no_longer_apart(self, names: Iterable[str]) -> None:
        """Do not any more."""
        for group in self._apart:
            group.difference_update(names)

    def welcome(self, name: str) -> None:
        """A host was made: part it from those who are parted from all others."""
        for one in sorted(set().union(*self._apart)):
            for pair in ((one, name), (name, one)):
                self.part(*pair)

"""A LAN of a world: hosts with Ethernet cards behind a switch, and a wire from each to it.

This file knows cards, wires and the switch between them. It refuses to know routes, and what is in a frame: that is
the switch's and the hosts' (`underlay.link`, `underlay.stack`).

Each wire is two ways of the world's internet, "host->lan" and "lan->host", with conditions and faults as any other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..errors import UsageError
from ..link import Switch
from ..wire import Frame
from ._conditions import Conditions
from ._internet import Internet, Way
from ._schedule import Schedule

PORTS: Final = 254
"""How many hosts a LAN has room for: the addresses of a /24."""
# Locally administered and for one station (IEEE 802c): nobody's, so that no capture takes it for a maker's.
_MAC: Final = b"\x02\x00"


@dataclass
class Card:
    """A host's card in a LAN. ``interface`` is its number on the host's stack, of the latest boot."""

    lan: Lan
    number: int
    mac: bytes
    address: str
    address6: str
    wire: Way
    receive: Callable[[Card, bytes, bool], None]
    interface: int = -1

    @property
    def addresses(self) -> list[str]:
        """With the lengths of their prefixes, as an interface has them."""
        return [f"{self.address}/{self.lan.prefix.prefixlen}", f"{self.address6}/{self.lan.prefix6.prefixlen}"]


class Lan:
    """An Ethernet LAN. Made by `World.lan`; a host is in it that was made with ``on=``."""

    def __init__(
        self,
        name: str,
        number: int,
        internet: Internet,
        schedule: Schedule,
        conditions: Conditions,
        *,
        prefix: str | None = None,
        mtu_bytes: int = 1500,
    ) -> None:
        self.name: Final = name
        self.number: Final = number
        try:
            self.prefix: Final = ipaddress.IPv4Network(f"192.168.{number}.0/24" if prefix is None else str(prefix))
        except ValueError as error:
            raise UsageError(f"prefix={prefix!r} cannot be: {error}", remedy='as in "192.168.7.0/24"') from None
        first = self.prefix.network_address
        if not self.prefix.prefixlen or first.is_loopback or first.is_multicast or first.is_unspecified:
            raise UsageError(f"prefix={prefix!r} cannot be: no host has these", remedy='as in "192.168.7.0/24"')
        self.prefix6: Final = ipaddress.IPv6Network(f"fd00:0:0:{number:x}::/64")
        self.mtu_bytes: Final = mtu_bytes
        self.switch: Final = Switch(PORTS + 1, name, offload=True)
        self.cards: Final[dict[str, Card]] = {}
        self._internet = internet
        self._schedule = schedule
        self._conditions = conditions
        self._out: dict[int, Way] = {}
        self._by_number: dict[int, Card] = {}

    def plug(self, host: str, receive: Callable[[Card, bytes, bool], None]) -> Card:
        """Put a card into a host, and a wire from it to the switch."""
        number = len(self.cards) + 1
        if number > min(PORTS, self.prefix.num_addresses - 2):
            raise UsageError(f"the LAN {self.name} is full", remedy=f"its {self.prefix} has no more addresses")
        internet = self._internet
        out = internet.wire(self.name, host, self._leave, self._conditions, is_from_switch=True)
        wire = internet.wire(host, self.name, self._enter, self._conditions)
        mac = _MAC + self.number.to_bytes(2, "big") + number.to_bytes(2, "big")
        card = Card(self, number, mac, str(self.prefix[number]), str(self.prefix6[number]), wire, receive)
        self.cards[host] = self._by_number[number] = card
        self._out[number] = out
        return card

    def _enter(self, passage: tuple[Way, Frame]) -> None:
        """A frame has come from a host to the switch, which sends it on at once."""
        way, frame = passage
        internet, now = self._internet, self._schedule.now
        internet.arrived(way)
        self.switch.send(self.cards[way.sender].number, frame, now)
        for number, each in self.switch.poll_deliveries(now):
            if number in self._out:
                internet.enter(self._out[number], each)

    def _leave(self, passage: tuple[Way, Frame]) -> None:
        """A frame has come from the switch to a host."""
        way, frame = passage
        self._internet.arrives_by_wire(way, frame)
        card = self.cards[way.target]
        card.receive(card, frame.to_bytes(), frame.checksum_start > 0)

    def __repr__(self) -> str:
        return f"<Lan {self.name} {self.prefix}, {len(self.cards)} hosts>"

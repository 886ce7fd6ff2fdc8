"""How one host is joined to LANs, its routes to what lies behind routers, and from whom it takes nothing.

This file knows a host's cards and routes. It refuses to know what a LAN does with a frame (``_lan.py``), and how the
nearest router is found (``_topology.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..stack import TcpPacket
from ..wire import parse_ip
from ._frames import addresses_of, kept
from ._internet import Receive
from ._topology import INTERNET

if TYPE_CHECKING:
    from .. import stack
    from ..wire import Frame
    from ._host import Host
    from ._lan import Card


class Cards:
    """A host's cards, by LAN; and ``receive``, what its packets from the internet are given to."""

    __slots__ = ("_blocked", "_host", "_kernel", "_routed", "by_lan", "receive")

    def __init__(self, host: Host) -> None:
        self.by_lan: dict[str, Card] = {}
        self.receive: Receive = host.receive
        self._host = host
        self._kernel: stack.Host | None = None
        self._routed: set[str] = set()
        self._blocked: set[bytes] = set()

    @property
    def addresses(self) -> list[bytes]:
        """All addresses of the host."""
        host = self._host
        texts = [host.address, host.address6] if host.is_connected else []
        texts += [text for card in self.by_lan.values() for text in (card.address, card.address6)]
        return [parse_ip(text) for text in texts]

    def plug_in(self, kernel: stack.Host) -> None:
        """The host boots: have an interface for each card, and routes."""
        self._kernel = kernel
        for card in self.by_lan.values():
            mtu_bytes, offload = card.lan.mtu_bytes, not self._host.forwards
            card.interface = kernel.add_interface(card.addresses, mac=card.mac, mtu_bytes=mtu_bytes, offload=offload)
        self._routed.clear()
        self.add_routes()

    def add_routes(self) -> None:
        """Have a route to each segment that routers lead to."""
        host, kernel, topology = self._host, self._kernel, self._host.world.topology
        if kernel is None or not topology.has_routers:
            return
        for target, segment, router in topology.hops(host.on, host):
            if target in self._routed:
                continue
            self._routed.add(target)
            prefix, prefix6 = topology.prefixes(target)
            if segment == INTERNET:
                kernel.add_route(prefix, None, host.interface)  # and fd00::/8 is on its link already
            else:
                gateway, interface = router.cards.by_lan[segment], self.by_lan[segment].interface
                kernel.add_route(prefix, gateway.address, interface)
                kernel.add_route(prefix6, gateway.address6, interface)

    # --- frames ---------------------------------------------------------------------------------------------

    def take(self, card: Card, frame: bytes, checksum_valid: bool) -> None:
        """A frame came to a card."""
        if self._blocked and addresses_of(frame, is_ethernet=True)[0] in self._blocked:
            self._host.world.internet.drops["partition"] += 1
        else:
            self._host.receive_frame(card.interface, frame, checksum_valid)

    def send(self, interface: int, frame: Frame) -> None:
        """A frame leaves by a card."""
        host = self._host
        wire = next(card.wire for card in self.by_lan.values() if card.interface == interface)
        if host.is_busy:
            later = kept(frame)
            host.busy.when_over(lambda host: host.world.internet.enter(wire, later))
        else:
            host.world.internet.enter(wire, frame)

    # --- partitions from those to whom no way of its own leads ----------------------------------------------

    def block(self, sources: Iterable[bytes]) -> None:
        """Lose all that comes from these addresses, whichever way it took."""
        self._blocked.update(sources)
        self._receive_by(self._receive_unless_blocked)

    def unblock(self, sources: Iterable[bytes] | None = None) -> None:
        """Take it again; from all, where none are named."""
        self._blocked.difference_update(list(self._blocked) if sources is None else sources)
        if not self._blocked:
            self._receive_by(self._host.receive)

    def _receive_by(self, receive: Receive) -> None:
        self.receive = receive
        if self._host.is_connected:
            self._host.world.internet.receive_by(self._host.name, receive)

    def _receive_unless_blocked(self, packet: bytes | memoryview | TcpPacket, checksum_valid: bool, more: bool) -> None:
        if isinstance(packet, TcpPacket):
            source = packet.key[2]
        else:
            source = addresses_of(packet, is_ethernet=False)[0]
        if source not in self._blocked:
            self._host.receive(packet, checksum_valid, more)
            return
        self._host.world.internet.drops["partition"] += 1
        if not more:
            self._host.wake()  # others of this instant may have waited for its turn

"""Neighbour discovery on one interface: ARP's part, for IPv6 (RFC 4861 section 7, RFC 4862 section 5.4).

This file knows solicitations and advertisements and whom each one tells
something. It refuses to know what a neighbour's state becomes of it
(``_neighbours.py``), and routers: their advertisements and redirects are passed
over, as addresses and routes are given, not found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..wire import (
    ETHERTYPE_IPV6,
    Frame,
    IcmpMessage,
    NdMessage,
    NdOptions,
    NeighborAdvertisement,
    NeighborSolicitation,
    build_ethernet,
    build_ipv6,
    build_nd,
    multicast_mac,
    parse_nd,
    solicited_node,
)
from ._arp import GiveUp
from ._host_config import Drops, HostConfig
from ._icmp import ICMP6
from ._interface import ANY6, Interface, is_multicast
from ._ip_output import PacketOutput
from ._local_addresses import ALL_NODES6, LocalAddresses
from ._neighbours import NeighbourCache
from ._received import Received

# RFC 4861 sections 6.1 and 7.1: no router has touched it, so it is from this link.
HOP_LIMIT: Final = 255
ND_TYPES: Final = range(133, 138)  # RFC 4861 section 4


class NeighbourDiscovery:
    """Neighbour discovery of one Ethernet interface; it is the `NeighbourLink` of its own ``cache``."""

    def __init__(
        self,
        interface: Interface,
        config: HostConfig,
        drops: Drops,
        addresses: LocalAddresses,
        output: PacketOutput,
        give_up: GiveUp,
    ) -> None:
        assert interface.mac is not None
        self._interface = interface
        self._mac: bytes = interface.mac
        self._drops = drops
        self._addresses = addresses
        self._output = output
        self._give_up = give_up
        self.cache = NeighbourCache(self, config, drops, "nd")
        self.claimed: Callable[[bytes, bytes | None, float], None] | None = None
        """Hears of each address of this interface that somebody else uses, or is about to, and by which MAC address."""

    def receive(self, packet: Received, message: IcmpMessage, now: float) -> None:
        """Take a message of type 133 to 137; a ``WireError`` goes to the caller, who counts it."""
        if packet.ttl != HOP_LIMIT:
            self._drops.count("nd.hop_limit")
            return
        parsed = parse_nd(message)
        if isinstance(parsed, NeighborSolicitation):
            self._take_solicitation(packet, parsed, now)
        elif isinstance(parsed, NeighborAdvertisement):
            self._take_advertisement(packet, parsed, now)
        else:
            self._drops.count("nd.router_ignored")

    def _take_solicitation(self, packet: Received, asked: NeighborSolicitation, now: float) -> None:
        target, source = asked.target, packet.source
        mac = asked.options.source_mac
        if source == ANY6:
            # Somebody wants the address for itself (RFC 4862 section 5.4.3).
            if mac is not None or not is_multicast(packet.destination):
                self._drops.count("nd.probe_malformed")
            elif target in self._addresses.tentative:
                self._claim(target, None, now)
            elif self._is_ours(target):
                self._advertise(target, ALL_NODES6, multicast_mac(ALL_NODES6), solicited=False)
            return
        if not self._is_ours(target):
            return
        if mac is not None:
            if mac[0] & 1:
                self._drops.count("nd.source_mac")
                return
            self.cache.learn(source, mac, now, may_add=True)
        answer = NeighborAdvertisement(target, False, True, True, NdOptions(target_mac=self._mac))
        body = build_nd(target, source, answer)
        self._output.send(target, source, ICMP6, body, b"", now, ttl=HOP_LIMIT)

    def _take_advertisement(self, packet: Received, said: NeighborAdvertisement, now: float) -> None:
        if said.solicited and is_multicast(packet.destination):
            self._drops.count("nd.solicited_to_many")  # RFC 4861 section 7.1.2
            return
        if self._is_ours(said.target) or said.target in self._addresses.tentative:
            self._claim(said.target, said.options.target_mac, now)
            return
        mac = said.options.target_mac
        if mac is not None and mac[0] & 1:
            self._drops.count("nd.target_mac")
            return
        self.cache.advertise(said.target, mac, now, solicited=said.solicited, override=said.override)

    # -- as an Announcer -----------------------------------------------------------------------------------------------

    def probe(self, address: bytes) -> None:
        """Ask whether anybody has an address that we would like (RFC 4862 section 5.4.2)."""
        group = solicited_node(address)
        self._send(ANY6, group, multicast_mac(group), NeighborSolicitation(address))

    def announce(self, address: bytes) -> None:
        """Say to all that we have an address (RFC 4861 section 7.2.6)."""
        self._advertise(address, ALL_NODES6, multicast_mac(ALL_NODES6), solicited=False)

    # -- as a NeighbourLink --------------------------------------------------------------------------------------------

    def link_header(self, mac: bytes) -> bytes:
        """Return the Ethernet header of a packet to ``mac``."""
        return build_ethernet(mac, self._mac, ETHERTYPE_IPV6)

    def solicit(self, address: bytes, mac: bytes | None, now: float) -> None:
        """Ask who has ``address`` (RFC 4861 section 7.2.2), or whether it is still at ``mac``."""
        source = self._interface.source_for(address, self._addresses.unicast)
        if source is None:
            self._drops.count("nd.no_source")
            return
        target = solicited_node(address) if mac is None else address
        question = NeighborSolicitation(address, NdOptions(source_mac=self._mac))
        self._send(source, target, mac if mac is not None else multicast_mac(target), question)

    def transmit(self, frame: Frame) -> None:
        """Put a whole frame on the link."""
        self._output.transmit(self._interface, frame)

    def give_up(self, address: bytes, packets: list[Frame], now: float) -> None:
        """Say that ``address`` did not answer."""
        self._give_up(packets, now)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _is_ours(self, address: bytes) -> bool:
        return self._addresses.unicast.get(address) is self._interface

    def _claim(self, address: bytes, mac: bytes | None, now: float) -> None:
        if self.claimed is not None:
            self.claimed(address, mac, now)

    def _advertise(self, address: bytes, destination: bytes, mac: bytes, *, solicited: bool) -> None:
        message = NeighborAdvertisement(address, False, solicited, True, NdOptions(target_mac=self._mac))
        self._send(address, destination, mac, message)

    def _send(self, source: bytes, destination: bytes, mac: bytes, message: NdMessage) -> None:
        body = build_nd(source, destination, message)
        header = build_ipv6(source, destination, ICMP6, len(body), hop_limit=HOP_LIMIT)
        self._output.transmit(self._interface, Frame(self.link_header(mac) + header + body))

"""ARP on one interface: asking, answering, and believing what is said (RFC 826, RFC 1122 section 2.3.2, RFC 5227).

This file knows ARP packets and whom each one tells something. It refuses to
know what a neighbour's state becomes of it (``_neighbours.py``), and whether an
address that somebody else claims is given up (``_address_detection.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..wire import (
    ARP_REPLY,
    ARP_REQUEST,
    BROADCAST_MAC,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    Frame,
    build_arp,
    build_ethernet,
    parse_arp,
)
from ._host_config import Drops, HostConfig
from ._interface import ANY4, Interface
from ._ip_output import PacketOutput
from ._local_addresses import LocalAddresses
from ._neighbours import NeighbourCache

_NOBODY: Final = bytes(6)

# Asks the host to tell transports, or a sender further away, that an address did not answer.
GiveUp = Callable[[list[Frame], float], None]


class Arp:
    """ARP of one Ethernet interface; it is the `NeighbourLink` of its own ``cache``."""

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
        self.cache = NeighbourCache(self, config, drops, "arp")
        self.claimed: Callable[[bytes, bytes | None, float], None] | None = None
        """Hears of each address of this interface that somebody else uses, or is about to, and by which MAC address."""

    def receive(self, data: bytes | memoryview, start: int, now: float) -> None:
        """Take an ARP packet (RFC 826, "Packet Reception"); a ``WireError`` goes to the caller, who counts it."""
        packet = parse_arp(data, start)
        sender, mac = packet.sender_ip, packet.sender_mac
        own = self._addresses
        if packet.operation not in (ARP_REQUEST, ARP_REPLY):
            self._drops.count("arp.operation_unknown")
            return
        if mac == self._mac:
            self._drops.count("arp.own_echo")  # a hub or a mirror sent us our own
            return
        if mac[0] & 1 or mac == _NOBODY:
            self._drops.count("arp.sender_mac")
            return
        ours = self._is_ours(packet.target_ip)
        if self._is_ours(sender) or sender in own.tentative:
            if self.claimed is not None:
                self.claimed(sender, mac, now)
            return  # never believed; RFC 5227 section 2.4 says what else to do
        if sender == ANY4 and packet.target_ip in own.tentative:
            if self.claimed is not None:  # another machine probes for it at this very time (RFC 5227 section 2.1.1)
                self.claimed(packet.target_ip, mac, now)
            return
        if sender == ANY4:
            if ours and packet.operation == ARP_REQUEST:  # a probe: the address is in use (RFC 5227 section 2.1.1)
                self.send(ARP_REPLY, packet.target_ip, mac, sender)
            return
        if not own.is_single_host(sender) or sender[0] == 127:
            self._drops.count("arp.sender_ip")
            return
        if packet.operation == ARP_REPLY and ours and packet.target_mac == self._mac:
            self.cache.confirm(sender, mac, now)
        else:
            self.cache.learn(sender, mac, now, may_add=ours and packet.operation == ARP_REQUEST)
        if packet.operation == ARP_REQUEST and ours:
            self.send(ARP_REPLY, packet.target_ip, mac, sender)

    def send(self, operation: int, sender_ip: bytes, target_mac: bytes | None, target_ip: bytes) -> None:
        """Send an ARP packet, to everybody where ``target_mac`` is None."""
        body = build_arp(operation, self._mac, sender_ip, target_mac or _NOBODY, target_ip)
        header = build_ethernet(target_mac or BROADCAST_MAC, self._mac, ETHERTYPE_ARP)
        self._output.transmit(self._interface, Frame(header + body))

    # -- as an Announcer -----------------------------------------------------------------------------------------------

    def probe(self, address: bytes) -> None:
        """Ask whether anybody has an address that we would like (RFC 5227 section 2.1.1)."""
        self.send(ARP_REQUEST, ANY4, None, address)

    def announce(self, address: bytes) -> None:
        """Say that we have an address: gratuitous ARP (RFC 5227 section 2.3)."""
        self.send(ARP_REQUEST, address, None, address)

    # -- as a NeighbourLink --------------------------------------------------------------------------------------------

    def link_header(self, mac: bytes) -> bytes:
        """Return the Ethernet header of a packet to ``mac``."""
        return build_ethernet(mac, self._mac, ETHERTYPE_IPV4)

    def solicit(self, address: bytes, mac: bytes | None, now: float) -> None:
        """Ask who has ``address``."""
        sender = self._interface.source_for(address, self._addresses.unicast)
        self.send(ARP_REQUEST, sender if sender is not None else ANY4, mac, address)

    def transmit(self, frame: Frame) -> None:
        """Put a whole frame on the link."""
        self._output.transmit(self._interface, frame)

    def give_up(self, address: bytes, packets: list[Frame], now: float) -> None:
        """Say that ``address`` did not answer."""
        self._give_up(packets, now)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _is_ours(self, address: bytes) -> bool:
        """Whether an address may be answered for on this interface.

        Linux answers for any address of the host (arp_ignore 0); as arp_ignore 1 does, this one keeps to its own.
        """
        return self._addresses.unicast.get(address) is self._interface

"""A host: its interfaces, its routes, and the layers between a frame and a socket.

This file knows which layer is handed what, in which order, and what the host as
a whole is asked. It refuses to know what any layer makes of it. Frames, time and
random bits are handed in, frames and events are handed out; nothing here waits.

Its owner's turn: ``receive_frame`` for each frame that came, ``handle_timers``
when ``next_deadline`` has come, whatever the program does with its sockets, and
at last ``poll_frames`` and ``poll_events``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from ..wire import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    PROTOCOL_TCP,
    Frame,
    IcmpMessage,
    WireError,
    build_ethernet,
    format_ip,
    multicast_mac,
    parse_ethernet,
    parse_ip,
)
from ._address_detection import AddressDetection
from ._arp import Arp
from ._contract import Events, IcmpError, IcmpKind, Rng
from ._forwarding import Forwarder
from ._host_config import Drops, HostConfig, HostStatistics, InterfaceStatistics
from ._icmp import ICMP4, ICMP6, IcmpLayer, Problem
from ._igmp import IGMP, GroupLayer
from ._interface import (
    LOOPBACK_MTU_BYTES,
    Interface,
    InterfaceAddress,
    is_link_local,
    is_multicast,
    link_local_of,
    parse_prefix,
)
from ._ip_input import PacketInput
from ._ip_output import PacketOutput, Port
from ._local_addresses import LocalAddresses
from ._neighbour_discovery import ND_TYPES, NeighbourDiscovery
from ._neighbours import Neighbour
from ._received import Received, read_packet
from ._routes import Route
from ._tcp_connection import TcpConnection
from ._tcp_layer import TcpLayer
from ._tcp_listener import TcpListener
from ._tcp_packet import TcpPacket
from ._timers import Timers
from ._udp import UDP, UdpLayer, UdpSocket

_EVERYBODY: Final = b"\xff" * 6
# A conversation of the host with itself may take this many turns in one `poll_frames`; the rest comes in the next.
_LOCAL_ROUNDS: Final = 32

Socket = TcpConnection | TcpListener | UdpSocket


class Host:
    """A user-space host. Interface 0 is the loopback, with 127.0.0.1/8 and ::1; ``add_interface`` adds others.

    ``now`` is in seconds of any monotonic clock; ``rng`` is where ports, identifiers and delays are drawn from.

    >>> import random
    >>> host = Host("example", rng=random.Random(1))
    >>> tun = host.add_interface(["10.9.0.2/24"], mac=None)
    >>> host.icmp.send_echo(bytes([127, 0, 0, 1]), 7, 1, b"anybody there?", now=0.0)
    True
    >>> host.poll_frames(now=0.0), host.icmp.receive_reply().data
    ([], b'anybody there?')
    """

    def __init__(self, name: str = "", *, rng: Rng, config: HostConfig = HostConfig()) -> None:  # noqa: B008, frozen
        self.name = name
        self.config = config
        self._drops = drops = Drops()
        self._events: dict[Socket, Events] = {}
        self._by_value = False  # whether an interface is
        self._addresses = addresses = LocalAddresses()
        loopback = Interface(0, "lo", mac=None, mtu_bytes=LOOPBACK_MTU_BYTES, offload=True, is_loopback=True)
        self._output = output = PacketOutput(config, rng, drops, addresses, loopback)
        addresses.changed = output.forget_hops
        self._arps: list[Arp | None] = [None]
        self._discoveries: list[NeighbourDiscovery | None] = [None]
        self.icmp: Final = IcmpLayer(config, drops, addresses, output)
        self._groups = groups = GroupLayer(config, rng, drops, addresses, output, self._interface_for_group)
        self.udp: Final = UdpLayer(output, rng, self._notify, config, drops, addresses, groups, self._port_unreachable)
        self.tcp: Final = TcpLayer(output, rng, self._notify, config.tcp, on_doubt=self._doubt)
        self.icmp.transports[PROTOCOL_TCP] = self.tcp.receive_icmp_error
        self.icmp.neighbour_discovery = self._discover
        self.icmp.transports[UDP] = self.udp.receive_icmp_error
        self._forwarder = Forwarder(drops, addresses, output, self.icmp)
        self._input = PacketInput(
            config,
            drops,
            addresses,
            self.icmp,
            self.tcp,
            {ICMP4: self.icmp.receive4, UDP: self.udp.receive_datagram, IGMP: groups.receive},
            {ICMP6: self.icmp.receive6, UDP: self.udp.receive_datagram},
            self._forwarder.forward if config.forwarding else None,
        )
        self._detection = AddressDetection(config, rng, drops, addresses)
        self.conflicts: Final[Mapping[bytes, bytes | None]] = self._detection.conflicts
        """The host's addresses that somebody else uses too, and the first one's MAC address where it told it."""
        self._queues: list[Timers[Any]] = [
            self._input.fragments4.timers,
            self._input.fragments6.timers,
            groups.timers,
            self._detection.timers,
        ]
        self._timers: list[Callable[[float], None]] = [
            self._input.expire,
            groups.handle_timers,
            self._detection.handle_timers,
            self.tcp.handle_timers,
        ]
        for each in loopback.add_addresses(["127.0.0.1/8", "::1/128"]):
            self._add_address(loopback, each)

    # -- configuration -------------------------------------------------------------------------------------------------

    def add_interface(
        self,
        addresses: Sequence[str],
        *,
        mac: bytes | None,
        mtu_bytes: int = 1500,
        offload: bool = False,
        by_value: bool = False,
        name: str | None = None,
    ) -> int:
        """Add an interface with addresses such as "10.9.0.2/24" and "fd00::2/64"; return its index.

        With ``mac`` it is an Ethernet interface; None is a point-to-point link whose frames begin with the IP header.
        ``offload`` says that its link fills in transport checksums and cuts super-frames; ``by_value`` that it carries
        TCP segments as values too, from `poll_packets` to `receive_packet`. Raises ``ValueError`` for an address, MAC
        address or MTU that cannot be, EEXIST for an address that the host has.
        """
        index = len(self._output.ports)
        name = name or f"eth{index - 1}"
        interface = Interface(index, name, mac=mac, mtu_bytes=mtu_bytes, offload=offload, by_value=by_value)
        added = interface.add_addresses(addresses)
        self._addresses.check_new(added)
        if (
            mac is not None
            and interface.has_version(16)
            and not any(len(each.address) == 16 and is_link_local(each.address) for each in added)
        ):
            own = link_local_of(mac)  # RFC 4862 section 5.3; two links may know us by the same MAC address
            if not self._addresses.is_known(own):
                added += interface.add_addresses([f"{format_ip(own)}/64"])
        port = Port(interface)
        self._by_value = self._by_value or by_value
        arp: Arp | None = None
        discovery: NeighbourDiscovery | None = None
        if mac is not None:
            shared = interface, self.config, self._drops, self._addresses, self._output, self._give_up
            arp, discovery = Arp(*shared), NeighbourDiscovery(*shared)
            arp.claimed = discovery.claimed = self._detection.conflict
            port.caches = {4: arp.cache, 16: discovery.cache}
            port.header_for_many = _header_for_many(mac)
            for cache in port.caches.values():
                self._queues.append(cache.timers)
                self._timers.append(cache.handle_timers)
        self._output.ports.append(port)
        self._arps.append(arp)
        self._discoveries.append(discovery)
        for each in added:
            self._add_address(interface, each)
        return index

    def add_route(self, prefix: str, via: str | None, interface: int) -> None:
        """Send what is for ``prefix`` ("0.0.0.0/0", "default" for both families' by ``via``) by an interface.

        ``via`` is the gateway's address, None where the prefix is on the link itself. Raises ``ValueError`` for a
        prefix that is none or an interface that is not there, EEXIST for a route that is there.
        """
        if not 0 <= interface < len(self._output.ports):
            raise ValueError(f"there is no interface {interface}; the host has {len(self._output.ports)}")
        gateway = parse_ip(via) if via is not None else None
        if prefix == "default":
            prefix = "::/0" if gateway is not None and len(gateway) == 16 else "0.0.0.0/0"
        network, prefix_bits = parse_prefix(prefix)
        self._output.routes.add(Route(network, prefix_bits, gateway, interface))
        self._output.forget_hops()

    def remove_route(self, route: Route) -> None:
        """Remove a route that `routes` shows; ESRCH where it is not there."""
        self._output.routes.remove(route)
        self._output.forget_hops()

    def routes(self) -> tuple[Route, ...]:
        """List all routes, IPv4 first, the longest prefixes first."""
        return self._output.routes.routes()

    def addresses(self, interface: int) -> tuple[InterfaceAddress, ...]:
        """List the addresses of an interface, those included that nobody may use yet."""
        return tuple(self._output.ports[interface].interface.addresses)

    def is_local(self, address: bytes) -> bool:
        """Whether a socket may be bound to ``address``: it is the host's own, and in use."""
        return self._addresses.is_local(address)

    def neighbour(self, interface: int, address: bytes) -> Neighbour | None:
        """Return what is known of a neighbour; None where nothing is, or the link has no neighbours."""
        cache = self._output.ports[interface].caches.get(len(address))
        return cache.get(address) if cache is not None else None

    # -- frames and time -----------------------------------------------------------------------------------------------

    def receive_frame(
        self, interface: int, data: bytes | memoryview, now: float, *, checksum_valid: bool = False
    ) -> None:
        """Take a frame that came in; what is wrong with it is counted, never raised.

        ``checksum_valid`` says that the link vouches for checksums, as virtio-net does; ``data`` may be a view that
        is used anew afterwards.
        """
        output = self._output
        output.now = now
        entry = output.ports[interface].interface
        entry.frames_received += 1
        entry.bytes_received += len(data)
        try:
            mac = entry.mac
            if mac is None:
                if not data:
                    self._drops.count("ip.empty")
                elif data[0] >> 4 == 4:
                    self._input.receive4(entry, data, 0, now, checksum_valid=checksum_valid)
                else:
                    self._input.receive6(entry, data, 0, now, checksum_valid=checksum_valid)
                return
            header = parse_ethernet(data)
            to_one = header.destination == mac
            if not to_one and not header.destination[0] & 1:
                self._drops.count("ethernet.not_for_us")
                return
            ethertype = header.ethertype
            if header.vlan is not None and header.vlan & 0xFFF:
                self._drops.count("ethernet.vlan")
            elif ethertype == ETHERTYPE_IPV4:
                self._input.receive4(
                    entry, data, header.header_bytes, now, checksum_valid=checksum_valid, link_to_one=to_one
                )
            elif ethertype == ETHERTYPE_IPV6:
                self._input.receive6(
                    entry, data, header.header_bytes, now, checksum_valid=checksum_valid, link_to_one=to_one
                )
            elif ethertype == ETHERTYPE_ARP:
                arp = self._arps[interface]
                assert arp is not None
                arp.receive(data, header.header_bytes, now)
            else:
                self._drops.count("ethernet.type_unknown")
        except WireError as error:
            self._drops.count(error.key)

    def receive_packet(self, interface: int, packet: TcpPacket, now: float) -> None:
        """Take a TCP segment that came as a value, as ``receive_frame`` takes its bytes."""
        # Its addresses passed the checks of a packet when its connection was made, but that nobody is to use ours.
        output = self._output
        output.now = now
        if packet[0][2] in self._addresses.unicast or not self.tcp.receive_packet(packet, now):
            self.receive_frame(interface, packet.frame().to_bytes(), now, checksum_valid=True)
            return
        entry = output.ports[interface].interface
        entry.frames_received += 1
        entry.bytes_received += packet[5]
        self._input.delivered += 1

    def poll_frames(self, now: float) -> list[tuple[int, Frame]]:
        """Take all that is to be sent now, in order, as (interface, frame); the list is the caller's."""
        packets = self.poll_packets(now)
        if not self._by_value:
            return packets  # type: ignore[return-value]
        return [(index, each.frame() if isinstance(each, TcpPacket) else each) for index, each in packets]

    def poll_packets(self, now: float) -> list[tuple[int, Frame | TcpPacket]]:
        """The same, where an interface that is ``by_value`` has TCP segments as values."""
        output = self._output
        output.now = now
        self.tcp.flush(now)
        if output.local:
            self._deliver_locally(now)
        frames = output.frames
        if frames:
            output.frames = []
            return frames
        return []

    def handle_timers(self, now: float) -> None:
        """Do what time asks for; to be called when ``next_deadline`` has come, harmless before."""
        self._output.now = now
        for handle in self._timers:
            handle(now)

    def next_deadline(self) -> float | None:
        """Return when ``handle_timers`` and ``poll_frames`` are to be called next; None for never.

        A host that waits for nothing says None: an idle one wakes nobody.
        """
        earliest = self.tcp.next_deadline()
        if self._output.local:
            earliest = self._output.now
        for queue in self._queues:
            if queue.heap:
                deadline = queue.next_deadline()
                if deadline is not None and (earliest is None or deadline < earliest):
                    earliest = deadline
        return earliest

    def wakes_at(self) -> float:
        """Return a time before which ``next_deadline`` is not, infinity for never: told at less cost, and often early.

        For an owner to whom a needless ``handle_timers`` now and then is cheaper than the exact time on every turn.
        """
        earliest = self._output.now if self._output.local else self.tcp.wakes_at()
        for queue in self._queues:
            if queue.heap and queue.heap[0][0] < earliest:
                earliest = queue.heap[0][0]
        return earliest

    def poll_events(self) -> list[tuple[Socket, Events]]:
        """Take what became true of sockets since the last call, each socket once, in the order of the first news."""
        if not self._events:
            return []
        events = list(self._events.items())
        self._events.clear()
        return events

    def statistics(self) -> HostStatistics:
        """Return what the host counted since it was made."""
        ports = self._output.ports
        caches = [cache for port in ports for cache in port.caches.values()]
        return HostStatistics(
            interfaces=tuple(
                InterfaceStatistics(
                    each.index, each.name, each.frames_received, each.frames_sent, each.bytes_received, each.bytes_sent
                )
                for each in (port.interface for port in ports)
            ),
            packets_delivered=self._input.delivered,
            packets_forwarded=self._forwarder.forwarded,
            fragments_received=self._input.fragments_received,
            fragments_sent=self._output.fragments_sent,
            packets_reassembled=self._input.reassembled,
            neighbours=sum(len(cache) for cache in caches),
            pending_packets=sum(cache.pending_packets for cache in caches),
            drops=MappingProxyType(dict(self._drops)),
        )

    def __repr__(self) -> str:
        return f"<Host {self.name or 'without a name'}, {len(self._output.ports) - 1} interfaces>"

    # -- inside --------------------------------------------------------------------------------------------------------

    def _add_address(self, interface: Interface, each: InterfaceAddress) -> None:
        announcer = (self._arps if len(each.address) == 4 else self._discoveries)[interface.index]
        tentative = announcer is not None and self._detection.begin(each.address, announcer, self._output.now)
        self._addresses.add(interface, each, tentative=tentative)
        route = Route(each.network, each.prefix_bits, None, interface.index)
        if route not in self._output.routes.routes():
            self._output.routes.add(route)
            self._output.forget_hops()

    def _notify(self, socket: Socket, events: Events) -> None:
        known = self._events.get(socket)
        if known is None:
            self._events[socket] = events
        elif known is not events:  # adding flags costs a microsecond, and mostly it is the same one again
            self._events[socket] = known | events

    def _doubt(self, local: bytes, remote: bytes) -> None:
        """Ask anew who ``remote`` is reached by: a connection hears nothing from there (RFC 1122 section 3.3.1.4)."""
        hop = self._output.hop(remote, local)
        if hop is not None and hop.cache is not None:
            hop.cache.doubt(hop.next_hop, self._output.now)

    def _discover(self, packet: Received, message: IcmpMessage, now: float) -> None:
        discovery = self._discoveries[packet.interface.index]
        if discovery is not None and message.type in ND_TYPES:
            discovery.receive(packet, message, now)
        else:
            self._drops.count("icmp6.type_unknown")

    def _port_unreachable(self, packet: Received, now: float) -> None:
        self.icmp.send_error(packet, Problem.PORT_UNREACHABLE, now)

    def _interface_for_group(self, group: bytes) -> Interface | None:
        hop = self._output.hop(group)
        return hop.interface if hop is not None else None

    def _deliver_locally(self, now: float) -> None:
        """Receive what the host sent to itself, and what it sends itself in answer."""
        local = self._output.local
        for _ in range(_LOCAL_ROUNDS):
            for _ in range(len(local)):
                interface, packet = local.popleft()
                receive = self._input.receive4 if packet[0] >> 4 == 4 else self._input.receive6
                try:
                    receive(interface, packet, 0, now, checksum_valid=True, is_own=True)
                except WireError as error:
                    self._drops.count(error.key)
            self.tcp.flush(now)
            if not local:
                return

    def _give_up(self, packets: list[Frame], now: float) -> None:
        """Tell those whose packets waited for a neighbour that it did not answer (RFC 4861 section 7.2.2)."""
        loopback = self._output.ports[0].interface
        for frame in packets:
            packet = read_packet(loopback, frame.to_bytes())
            if packet is None:
                continue
            if packet.source in self._addresses.unicast:
                quoted = packet.data[packet.start :]
                error = IcmpError(IcmpKind.HOST_UNREACHABLE, packet.source, packet.destination, packet.protocol, quoted)
                self.icmp.fail_locally(error, now)
            else:
                self.icmp.send_error(packet, Problem.HOST_UNREACHABLE, now)


def _header_for_many(mac: bytes) -> Callable[[bytes], bytes]:
    """Return what makes the Ethernet header for a group or a broadcast, sent from ``mac``."""

    def header(destination: bytes) -> bytes:
        target = multicast_mac(destination) if is_multicast(destination) else _EVERYBODY
        return build_ethernet(target, mac, ETHERTYPE_IPV4 if len(destination) == 4 else ETHERTYPE_IPV6)

    return header

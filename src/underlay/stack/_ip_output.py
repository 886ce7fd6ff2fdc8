"""The way out: from a transport's segment to frames on a link, or back into the host.

This file knows which interface and which neighbour a destination is reached
by, how large a packet may be on the way, and remembers all that per
destination. It refuses to know what a transport says, how a neighbour is asked
for, and who polls the frames.

It is what the transports see of the host: the `IpOutput` of ``_contract.py``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final

from ..wire import PROTOCOL_TCP, TCP_CHECKSUM_OFFSET, Frame, build_ipv4, build_ipv6, checksum
from ._contract import DEFAULT_TTL, Path, Rng
from ._fragmentation import fragment4, fragment6
from ._host_config import Drops, HostConfig
from ._interface import BROADCAST4, LARGEST_PACKET_BYTES, Interface, is_link_local, is_loopback, is_multicast
from ._local_addresses import LocalAddresses
from ._neighbours import Neighbour, NeighbourCache
from ._path_mtu import PathMtuCache
from ._routes import RouteTable
from ._tcp_packet import TcpPacket

HEADER4_BYTES: Final = 20  # RFC 791 section 3.1, without options: we send none
HEADER6_BYTES: Final = 40  # RFC 8200 section 3

# How a packet is put on a link with stations: the neighbours of one family, and a header for many at once.
LinkHeaderForMany = Callable[[bytes], bytes]


class Port:
    """One interface as the way out sees it. ``caches`` are by length of address; a link without stations has none."""

    __slots__ = ("caches", "header_for_many", "interface")

    def __init__(self, interface: Interface, header_for_many: LinkHeaderForMany | None = None) -> None:
        self.interface = interface
        self.caches: dict[int, NeighbourCache] = {}
        self.header_for_many = header_for_many


class Hop:
    """What is known of one destination; forgotten whenever routes, addresses or its path MTU change."""

    __slots__ = (
        "by_value",
        "cache",
        "identification",
        "interface",
        "is_for_many",
        "is_local",
        "mtu_bytes",
        "neighbour",
        "next_hop",
        "offload",
        "payload_limit",
        "source",
        "valid_until_s",
    )

    def __init__(self, interface: Interface, next_hop: bytes, source: bytes | None, mtu_bytes: int) -> None:
        self.interface = interface
        self.next_hop = next_hop
        self.source = source
        self.offload = interface.offload
        self.mtu_bytes = mtu_bytes
        self.payload_limit = mtu_bytes - (HEADER4_BYTES if len(next_hop) == 4 else HEADER6_BYTES)
        self.neighbour = _UNKNOWN
        self.cache: NeighbourCache | None = None
        self.is_local = False
        self.is_for_many = False  # broadcast or multicast
        self.by_value = interface.by_value
        self.identification = 0
        self.valid_until_s = math.inf


_new = tuple.__new__  # quicker than the class's own constructor
_UNKNOWN: Final = Neighbour(b"")  # stands in a hop until its neighbour was looked up; never fresh


class PacketOutput:
    """The way out of one host."""

    def __init__(
        self, config: HostConfig, rng: Rng, drops: Drops, addresses: LocalAddresses, loopback: Interface
    ) -> None:
        self._config = config
        self._rng = rng
        self._drops = drops
        self._addresses = addresses
        self.routes = RouteTable()
        self.path_mtu = PathMtuCache(config, drops)
        self.ports: list[Port] = [Port(loopback)]
        self._hops: dict[bytes, Hop] = {}
        self._scoped_hops: dict[tuple[bytes, bytes | None], Hop] = {}  # where the source chooses the link
        self.frames: list[tuple[int, Frame | TcpPacket]] = []
        self.local: deque[tuple[Interface, bytes]] = deque()  # whole packets from the host to itself
        self.fragments_sent = 0
        self.now = 0.0  # the latest time anybody told the host: `path` is not told any

    # -- for the transports --------------------------------------------------------------------------------------------

    def path(self, destination: bytes, source: bytes | None = None) -> Path | None:
        """Say where from, how large, and with which help of the link ``destination`` is reached; None if it is not.

        A ``source`` that is not the host's own is no way there either.
        """
        hop = self.hop(destination, source)
        if hop is None:
            return None
        if source is None:
            source = hop.source
            if source is None:
                return None
        elif source not in self._addresses.unicast and not is_loopback(source):
            return None
        if is_loopback(source) and not hop.is_local:
            return None  # RFC 1122 section 3.2.1.3 (g): it never leaves
        return _new(Path, (source, hop.mtu_bytes, hop.offload, hop.by_value))

    def send(
        self,
        source: bytes,
        destination: bytes,
        protocol: int,
        head: bytes,
        payload: bytes | memoryview,
        now: float,
        *,
        segment_bytes: int = 0,
        checksum_offset: int = 0,
        ttl: int = DEFAULT_TTL,
        ecn: int = 0,
        dscp: int = 0,
        dont_fragment: bool = True,
        options: bytes = b"",
        loop_back: bool = True,
    ) -> None:
        """Send one packet. ``head`` is its transport header; the payload behind it is not copied.

        What cannot be sent is counted, not raised: a transport asked `path` before. ``loop_back`` is whether the
        host hears what it sends to a group that it joined.
        """
        hop = self._hops.get(destination)
        if hop is None or now >= hop.valid_until_s:
            self.now = now
            hop = self.hop(destination, source)
            if hop is None:
                self._drops.count("ip.no_route")
                return
        head_bytes = len(head)
        size = head_bytes + len(payload)
        limit = hop.payload_limit - len(options) if options else hop.payload_limit
        if segment_bytes:
            if head_bytes + segment_bytes > limit or size > _LARGEST_PAYLOAD or not hop.offload:
                self._drops.count("ip.too_big")
                return
        elif size > limit:
            self._send_fragmented(
                hop,
                source,
                destination,
                protocol,
                head,
                payload,
                now,
                checksum_offset,
                ttl,
                dscp << 2 | ecn,
                dont_fragment or bool(options),
                loop_back,
            )
            return
        if len(destination) == 4:
            identification = 0  # RFC 6864 section 4.1: an atomic packet's says nothing
            if not dont_fragment:
                identification = hop.identification = (hop.identification + 1) & 0xFFFF
            header = build_ipv4(
                source,
                destination,
                protocol,
                size,
                ttl=ttl,
                identification=identification,
                dont_fragment=dont_fragment,
                dscp=dscp,
                ecn=ecn,
                options=options,
            )
        else:
            header = build_ipv6(source, destination, protocol, size, hop_limit=ttl, traffic_class=dscp << 2 | ecn)
        neighbour = hop.neighbour
        if now < neighbour.fresh_until_s:
            frames = self.frames
            if len(frames) >= self._config.output_frames:
                self._drops.count("host.output_full")
                return
            link_header = neighbour.link_header
            start = len(link_header) + len(header) if checksum_offset else 0
            header = link_header + header
            interface = hop.interface
            interface.frames_sent += 1
            interface.bytes_sent += len(header) + size
            frames.append((interface.index, Frame(header + head, payload, segment_bytes, start, checksum_offset)))
            if hop.is_for_many and loop_back:
                self._loop_back(hop, destination, header[len(link_header) :] + head, payload)
        else:
            start = len(header) if checksum_offset else 0
            packet = Frame(header + head, payload, segment_bytes, start, checksum_offset)
            self.send_packet(hop, packet, now, loop_back=loop_back)

    def send_tcp(self, packet: TcpPacket, now: float) -> None:
        """Send one TCP segment as a value where its link carries such; as bytes where that has changed meanwhile."""
        key, segment, segment_bytes, ttl, dscp, size = packet
        hop = self._hops.get(key[0])
        if (
            hop is None
            or not hop.by_value
            or now >= hop.valid_until_s
            or size > (LARGEST_PACKET_BYTES if segment_bytes else hop.mtu_bytes)
            or (segment_bytes and size - len(segment[12]) + segment_bytes > hop.mtu_bytes)
        ):
            self.send(
                key[2], key[0], PROTOCOL_TCP, packet.tcp_header(), segment.payload, now,
                segment_bytes=segment_bytes, checksum_offset=TCP_CHECKSUM_OFFSET, ttl=ttl, dscp=dscp,
            )  # fmt: skip
            return
        frames = self.frames
        if len(frames) >= self._config.output_frames:
            self._drops.count("host.output_full")
            return
        interface = hop.interface
        interface.frames_sent += 1
        interface.bytes_sent += size
        frames.append((interface.index, packet))

    def source_on(self, interface: int, destination: bytes) -> bytes | None:
        """Tell the address that one interface sends from; None where there is no such interface or address."""
        if not 0 < interface < len(self.ports):
            return None
        return self.ports[interface].interface.source_for(destination, self._addresses.unicast)

    def is_unicast(self, address: bytes) -> bool:
        """Tell whether an address names one host: it is no group's, no broadcast's, and not unspecified."""
        return self._addresses.is_single_host(address)

    # -- for the rest of the host --------------------------------------------------------------------------------------

    def send_packet(self, hop: Hop, packet: Frame, now: float, *, loop_back: bool = True) -> None:
        """Send a whole packet, without link header, by a hop; it waits where the neighbour is not known."""
        if hop.is_local:
            self.deliver_locally(hop.interface, packet.to_bytes())
            return
        neighbour = hop.neighbour
        cache = hop.cache
        if cache is not None and now >= neighbour.fresh_until_s:
            neighbour = hop.neighbour = cache.get_or_add(hop.next_hop)
            if not cache.usable(neighbour, now):
                # It may wait for seconds; what the view shows may be another's by then.
                cache.wait(neighbour, packet._replace(payload=bytes(packet.payload)))
                return
        if hop.is_for_many and loop_back:
            self._loop_back(hop, hop.next_hop, packet.head, packet.payload)
        header = neighbour.link_header
        start = packet.checksum_start + len(header) if packet.checksum_offset else 0
        self.transmit(hop.interface, packet._replace(head=header + packet.head, checksum_start=start))

    def transmit(self, interface: Interface, frame: Frame) -> None:
        """Put a whole frame where it is polled from."""
        if len(self.frames) >= self._config.output_frames:
            self._drops.count("host.output_full")
            return
        interface.frames_sent += 1
        interface.bytes_sent += frame.size_bytes
        self.frames.append((interface.index, frame))

    def deliver_locally(self, interface: Interface, packet: bytes) -> None:
        """Let the host receive a whole packet that it sent itself, as if it came by ``interface``."""
        if len(self.local) >= self._config.local_packets:
            self._drops.count("host.local_full")
            return
        self.local.append((interface, packet))

    def hop(self, destination: bytes, source: bytes | None = None) -> Hop | None:
        """Return what is known of a destination, found out where need be; None where no route leads there.

        ``source`` chooses the link for what means something on one link only: groups, broadcasts, link-local addresses.
        """
        hop = self._hops.get(destination)
        if hop is not None and self.now < hop.valid_until_s:
            return hop
        scoped = is_multicast(destination) or destination == BROADCAST4 or is_link_local(destination)
        if scoped:
            hop = self._scoped_hops.get((destination, source))
            if hop is not None and self.now < hop.valid_until_s:
                return hop
        hop = self._find(destination, source if scoped else None)
        if hop is None:
            return None
        hop.identification = self._rng.getrandbits(16)  # RFC 7739: not to be guessed
        if len(self._hops) + len(self._scoped_hops) >= self._config.route_cache:
            self.forget_hops()
        if scoped:
            self._scoped_hops[destination, source] = hop
        else:
            self._hops[destination] = hop
        return hop

    def forget_hops(self) -> None:
        """Find every destination anew: a route or an address has changed, or the cache is full."""
        self._hops.clear()
        self._scoped_hops.clear()

    def lower_path_mtu(self, destination: bytes, mtu_bytes: int, now: float) -> None:
        """Believe that packets to ``destination`` may have no more than ``mtu_bytes``."""
        hop = self.hop(destination)
        if hop is None or hop.is_local or mtu_bytes >= hop.interface.mtu_bytes:
            return
        if self.path_mtu.lower(destination, mtu_bytes, now):
            self._hops.pop(destination, None)
            if is_link_local(destination):
                self._scoped_hops.clear()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _find(self, destination: bytes, source: bytes | None) -> Hop | None:
        addresses = self._addresses
        loopback = self.ports[0].interface
        if addresses.is_local(destination):
            own = destination if destination in addresses.unicast or len(destination) == 4 else None
            hop = Hop(loopback, destination, own, loopback.mtu_bytes)
            hop.is_local = True
            return hop
        chosen = addresses.unicast.get(source) if source is not None else None
        for_many = is_multicast(destination) or destination == BROADCAST4 or destination in addresses.broadcasts
        via: bytes | None = None
        if destination in addresses.broadcasts:
            interface: Interface | None = addresses.broadcasts[destination]
        else:
            route = self.routes.lookup(destination, chosen.index if chosen is not None else None)
            if route is None and chosen is not None and not for_many:
                route = self.routes.lookup(destination)
            if route is not None:
                interface = self.ports[route.interface].interface
                via = route.via
            else:
                interface = chosen if chosen is not None else self._first_interface(destination)
                if not for_many:
                    return None
        if interface is None or interface.is_loopback:
            return None
        port = self.ports[interface.index]
        version = len(destination)
        preferred = via if via is not None and version == 4 else destination
        mtu_bytes = interface.mtu_bytes
        known = self.path_mtu.get(destination, self.now)
        next_hop = via if via is not None and not for_many else destination
        hop = Hop(interface, next_hop, self._source(interface, preferred), known[0] if known else mtu_bytes)
        if known is not None:
            hop.valid_until_s = known[1]
        hop.is_for_many = for_many
        hop.by_value = interface.by_value and not for_many
        if for_many or not port.caches:
            header = port.header_for_many(destination) if port.header_for_many is not None else b""
            hop.neighbour = Neighbour(destination, link_header=header, fresh_until_s=hop.valid_until_s)
        else:
            hop.cache = port.caches[version]
        return hop

    def _first_interface(self, destination: bytes) -> Interface | None:
        """Choose where a group or 255.255.255.255 is, when neither a route nor a source says so."""
        for port in self.ports[1:]:
            if port.interface.has_version(len(destination)):
                return port.interface
        return None

    def _source(self, interface: Interface, destination: bytes) -> bytes | None:
        """Choose a source on the interface, else on another one (RFC 6724 section 5, rule 5)."""
        usable = self._addresses.unicast
        source = interface.source_for(destination, usable)
        for port in self.ports[1:]:
            if source is None:
                source = port.interface.source_for(destination, usable)
        return source

    def _loop_back(self, hop: Hop, destination: bytes, head: bytes, payload: bytes | memoryview) -> None:
        """Let the host hear what it sent to many, where it is one of them."""
        if destination in hop.interface.groups or not is_multicast(destination):
            self.deliver_locally(hop.interface, head + payload)

    def _send_fragmented(
        self,
        hop: Hop,
        source: bytes,
        destination: bytes,
        protocol: int,
        head: bytes,
        payload: bytes | memoryview,
        now: float,
        checksum_offset: int,
        ttl: int,
        traffic_class: int,
        dont_fragment: bool,
        loop_back: bool,
    ) -> None:
        data = head + payload
        if dont_fragment or len(data) > _LARGEST_PAYLOAD:
            self._drops.count("ip.too_big")
            return
        if checksum_offset:
            # The field holds the pseudo header's sum; no link can fill in what lies in several packets.
            total = checksum(data)
            data = data[:checksum_offset] + (total or 0xFFFF).to_bytes(2, "big") + data[checksum_offset + 2 :]
        if len(destination) == 4:
            hop.identification = (hop.identification + 1) & 0xFFFF
            pieces = fragment4(
                source,
                destination,
                protocol,
                data,
                hop.mtu_bytes,
                identification=hop.identification,
                ttl=ttl,
                traffic_class=traffic_class,
            )
        else:
            pieces = fragment6(
                source,
                destination,
                protocol,
                data,
                hop.mtu_bytes,
                identification=self._rng.getrandbits(32),  # RFC 7739: not to be guessed
                hop_limit=ttl,
                traffic_class=traffic_class,
            )
        for piece in pieces:
            self.fragments_sent += 1
            self.send_packet(hop, Frame(piece), now, loop_back=False)
        if hop.is_for_many and loop_back:
            if len(destination) == 4:
                whole = build_ipv4(source, destination, protocol, len(data), ttl=ttl, dont_fragment=False)
            else:
                whole = build_ipv6(source, destination, protocol, len(data), hop_limit=ttl)
            self._loop_back(hop, destination, whole, data)


_LARGEST_PAYLOAD: Final = LARGEST_PACKET_BYTES - HEADER4_BYTES

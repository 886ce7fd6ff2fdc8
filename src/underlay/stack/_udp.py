"""UDP: datagrams to and from sockets (RFC 768, RFC 1122 section 4.1, RFC 8085).

This file knows ports, who is bound to them, what waits to be read and which
ICMP error belongs to whom. It refuses to know routes and frames: below it is
the `IpOutput`, above it is whoever is told of events.

Errors are those of Linux's sockets: an ICMP error about what a connected socket
sent is raised by its next call, once.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from ..wire import build_udp, format_ip, parse_udp, pseudo_header_sum
from ._contract import DEFAULT_TTL, Events, IcmpError, IcmpKind, Path, Rng
from ._host_config import Drops, HostConfig
from ._interface import ANY4, ANY6, Interface, is_loopback, is_multicast
from ._local_addresses import LocalAddresses
from ._received import Received

UDP: Final = 17  # its protocol number (RFC 768)
_HEADER_BYTES: Final = 8
_CHECKSUM_OFFSET: Final = 6  # where its checksum stands
_LARGEST_DATAGRAM_BYTES: Final = 65_535 - _HEADER_BYTES
_DATAGRAM_OVERHEAD_BYTES: Final = 64  # what a waiting datagram counts beside its bytes: its tuples and its place
_MULTICAST_TTL: Final = 1  # RFC 1112 section 6.1: a group stays on the link unless somebody asks for more

_Address = tuple[bytes, int]
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class UdpStatistics:
    """What a UDP layer counted."""

    sockets: int
    datagrams_received: int
    datagrams_sent: int


class UdpOutput(Protocol):
    """What UDP knows of the host below it: an `IpOutput` that can also leave out the host itself."""

    def path(self, destination: bytes, source: bytes | None = None, /) -> Path | None:
        """Tell how to reach `destination`."""
        ...

    def source_on(self, interface: int, destination: bytes) -> bytes | None:
        """Tell the address that one interface sends from to `destination`."""
        ...

    def send(
        self,
        source: bytes,
        destination: bytes,
        protocol: int,
        head: bytes,
        payload: bytes | memoryview,
        now: float,
        *,
        checksum_offset: int = 0,
        ttl: int = DEFAULT_TTL,
        ecn: int = 0,
        dscp: int = 0,
        dont_fragment: bool = True,
        loop_back: bool = True,
    ) -> None:
        """Send one datagram."""
        ...


class Groups(Protocol):
    """Who keeps the multicast groups of the host's interfaces."""

    def join(self, group: bytes, interface: int | None, now: float) -> int:
        """Join a group and return the interface's index; OSError where that cannot be."""
        ...

    def leave(self, group: bytes, interface: int, now: float) -> None:
        """Leave a group once."""
        ...


class UdpSocket:
    """One UDP socket of a host; `UdpLayer.open` makes it.

    ``version`` is 4 or 6; one of IPv6 whose ``v6_only`` was made False talks to IPv4 as well. Options are plain
    attributes: ``broadcast`` (SO_BROADCAST), ``reuse_address``, ``reuse_port``, ``receive_buffer_bytes``, ``ttl``,
    ``multicast_ttl``, ``multicast_loop``, ``multicast_interface`` (an index, None for the route's),
    ``dont_fragment`` (IP_PMTUDISC_DO), ``dscp``.
    """

    __slots__ = (
        "_bound_to",
        "_error",
        "_is_bound",
        "_joined",
        "_layer",
        "_queue",
        "_queued_bytes",
        "broadcast",
        "closed",
        "dont_fragment",
        "drops",
        "dscp",
        "local",
        "multicast_interface",
        "multicast_loop",
        "multicast_ttl",
        "receive_buffer_bytes",
        "remote",
        "reuse_address",
        "reuse_port",
        "ttl",
        "v6_only",
        "version",
    )

    def __init__(self, layer: UdpLayer, version: int, receive_buffer_bytes: int) -> None:
        self._layer = layer
        self._queue: deque[tuple[bytes, _Address]] = deque()
        self._queued_bytes = 0
        self._error = 0
        self._joined: list[tuple[bytes, int]] = []
        self._is_bound = False
        self._bound_to = ANY4 if version == 4 else ANY6
        self.version = version
        self.v6_only = True
        self.local: _Address = (self._bound_to, 0)
        self.remote: _Address | None = None
        self.closed = False
        self.drops = 0  # datagrams that found no room in the queue
        self.receive_buffer_bytes = receive_buffer_bytes
        self.broadcast = False
        self.reuse_address = False
        self.reuse_port = False
        self.dont_fragment = False
        self.ttl = DEFAULT_TTL
        self.dscp = 0
        self.multicast_ttl = _MULTICAST_TTL
        self.multicast_loop = True
        self.multicast_interface: int | None = None

    def bind(self, address: bytes, port: int) -> None:
        """Take ``port`` of one address, or of all (the zero address); port 0 chooses one.

        EADDRINUSE, EADDRNOTAVAIL, EINVAL where it is bound already, EAFNOSUPPORT for the other family.
        """
        self._check_open()
        self._check_family(address, errno.EINVAL)
        if self._is_bound:
            raise OSError(errno.EINVAL, "the UDP socket is bound already")
        self._layer._bind(self, address, port)
        self._bound_to = address
        self._is_bound = True

    def connect(self, address: bytes, port: int) -> None:
        """Send to one peer by default, and hear from no other; EACCES, ENETUNREACH, EAFNOSUPPORT."""
        self._check_open()
        self._check_family(address)
        if address in (ANY4, ANY6):  # Linux: the host itself
            address = b"\x7f\x00\x00\x01" if len(address) == 4 else bytes(15) + b"\x01"
        if not self._is_bound:
            self.bind(self._bound_to, 0)
        before, bound = self.remote, self.local[0]
        if len(bound) == 4 and len(address) == 16:  # Linux: it stays one of IPv4
            raise OSError(errno.EAFNOSUPPORT, "the UDP socket has an IPv4 address")
        self._peer(None)
        try:
            source, _ = self._layer._route(self, address)
        except OSError:
            self._peer(before, bound)
            raise
        self._peer((address, port), source)

    def disconnect(self) -> None:
        """Forget the peer, as connect(2) with AF_UNSPEC does."""
        self._check_open()
        if self._is_bound:
            self._peer(None)

    def send_to(self, data: bytes | bytearray | memoryview, destination: _Address | None, now: float) -> int:
        """Send one datagram to ``destination``, or with None to the peer; its size is returned.

        An error that waits is raised first. EDESTADDRREQ, EMSGSIZE, EACCES (broadcast without permission),
        ENETUNREACH, EINVAL (port 0). What the host cannot send later is counted, not raised.
        """
        self._check_open()
        if self._error:
            self._raise_error("send_to")
        if destination is None:
            if self.remote is None:
                raise OSError(errno.EDESTADDRREQ, "the UDP socket has no peer, and the datagram no destination")
            destination = self.remote
        else:
            self._check_family(destination[0])
            if not destination[1]:  # a peer may have it, and will refuse: Linux
                raise OSError(errno.EINVAL, "there is no port 0 to send to")
        return self._layer._send(self, data, destination, now)

    def receive_from(self) -> tuple[bytes, _Address] | None:
        """Take the oldest datagram and where it is from; None where none waits.

        An error that waits is raised first, as recvfrom(2) does.
        """
        self._check_open()
        if self._error:
            self._raise_error("receive_from")
        if not self._queue:
            return None
        datagram = self._queue.popleft()
        self._queued_bytes -= len(datagram[0]) + _DATAGRAM_OVERHEAD_BYTES
        return datagram

    def peek(self, max_bytes: int | None = None) -> tuple[bytes, _Address] | None:
        """Give what `receive_from` would, at most ``max_bytes`` of it, and leave it there (recvfrom(2) with MSG_PEEK).

        An error that waits is raised, and gone with that, as on Linux.
        """
        self._check_open()
        if self._error:
            self._raise_error("peek")
        if not self._queue:
            return None
        data, source = self._queue[0]
        return data[:max_bytes], source

    def take_error(self) -> int:
        """Return the errno that waits, 0 for none, and forget it (SO_ERROR)."""
        error, self._error = self._error, 0
        return error

    @property
    def readable(self) -> bool:
        """Whether `receive_from` would give a datagram or raise an error."""
        return bool(self._queue or self._error)

    @property
    def writable(self) -> bool:
        """Always true of an open socket: UDP has no window, and what finds no room below is dropped."""
        return not self.closed

    @property
    def queued_bytes(self) -> int:
        """What waits to be read, 64 bytes counted for each datagram beside its own."""
        return self._queued_bytes

    def join(self, group: bytes, now: float, interface: int | None = None) -> None:
        """Hear what is sent to ``group``; EINVAL where it is none, EADDRINUSE where it was joined already."""
        self._check_open()
        self._check_family(group)
        if not is_multicast(group):
            raise OSError(errno.EINVAL, f"{format_ip(group)} is not a multicast group")
        if interface is None:
            interface = self.multicast_interface
        index = self._layer._groups.join(group, interface, now)
        if (group, index) in self._joined:
            self._layer._groups.leave(group, index, now)
            raise OSError(errno.EADDRINUSE, f"the UDP socket is in {format_ip(group)} already")
        self._joined.append((group, index))

    def leave(self, group: bytes, now: float, interface: int | None = None) -> None:
        """Hear it no more; EADDRNOTAVAIL where it was not joined."""
        for joined in self._joined:
            if joined[0] == group and interface in (None, joined[1]):
                self._joined.remove(joined)
                self._layer._groups.leave(group, joined[1], now)
                return
        raise OSError(errno.EADDRNOTAVAIL, f"the UDP socket is not in {format_ip(group)}")

    def close(self, now: float) -> None:
        """Give back port and groups; what waits is gone. A second time is nothing."""
        if self.closed:
            return
        self.closed = True
        self._layer._close(self)
        self._queue.clear()
        self._queued_bytes = 0
        for group, interface in self._joined:
            self._layer._groups.leave(group, interface, now)
        self._joined.clear()

    def __repr__(self) -> str:
        remote = f" to {format_ip(self.remote[0])} port {self.remote[1]}" if self.remote else ""
        return f"<UdpSocket {format_ip(self.local[0])} port {self.local[1]}{remote}>"

    # -- for the layer -------------------------------------------------------------------------------------------------

    def _peer(self, remote: _Address | None, source: bytes | None = None) -> None:
        """Set or forget the peer; a socket bound to all addresses has the route's one as long as it has a peer."""
        self._layer._unlist(self)
        self.remote = remote
        address = self._bound_to
        if remote is not None and source is not None and address in (ANY4, ANY6):
            address = source
        self.local = address, self.local[1]
        self._layer._list(self)

    def _take_in(self, data: bytes, source: _Address) -> bool:
        """Queue a datagram; False where there is no room."""
        size = len(data) + _DATAGRAM_OVERHEAD_BYTES
        if self._queued_bytes + size > self.receive_buffer_bytes:
            self.drops += 1
            return False
        self._queued_bytes += size
        self._queue.append((data, source))
        return True

    def _check_open(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "the UDP socket is closed")

    @property
    def _places(self) -> tuple[bytes, ...]:
        """The addresses under which it is found: an IPv6 wildcard that hears IPv4 too has two."""
        address = self.local[0]
        return (ANY6, ANY4) if address == ANY6 and not self.v6_only else (address,)

    def _check_family(self, address: bytes, number: int = errno.ENETUNREACH) -> None:
        if self.version == 6 and len(address) == 4:
            if self.v6_only:
                raise OSError(number, "an IPv6 socket with IPV6_V6ONLY takes no IPv4 address")
        elif len(address) != (4 if self.version == 4 else 16):
            raise OSError(errno.EAFNOSUPPORT, f"an IPv{self.version} socket takes no address of {len(address)} bytes")

    def _raise_error(self, what: str) -> None:
        number = self.take_error()
        peer = f" to {format_ip(self.remote[0])} port {self.remote[1]}" if self.remote else ""
        raise OSError(number, f"{what}: an ICMP error came back for an earlier datagram{peer}")


class UdpLayer:
    """All UDP sockets of one host."""

    def __init__(
        self,
        ip: UdpOutput,
        rng: Rng,
        notify: Callable[[UdpSocket, Events], None],
        config: HostConfig,
        drops: Drops,
        addresses: LocalAddresses,
        groups: Groups,
        port_unreachable: Callable[[Received, float], None],
    ) -> None:
        self._ip = ip
        self._rng = rng
        self._notify = notify
        self._config = config
        self._drops = drops
        self._addresses = addresses
        self._groups = groups
        self._port_unreachable = port_unreachable
        self._by_port: dict[tuple[int, int], list[UdpSocket]] = {}  # all sockets by length of address and port
        self._unconnected: dict[_Address, list[UdpSocket]] = {}  # those without a peer, by their own address
        self._connected: dict[tuple[_Address, _Address], list[UdpSocket]] = {}
        self._count = 0
        self.datagrams_received = 0
        self.datagrams_sent = 0

    def open(self, version: int = 4) -> UdpSocket:
        """Make a socket for IPv4 or IPv6; EMFILE where there are too many, EAFNOSUPPORT for another version."""
        if version not in (4, 6):
            raise OSError(errno.EAFNOSUPPORT, f"there is no IP version {version} here")
        if self._count >= self._config.udp_sockets:
            raise OSError(errno.EMFILE, f"the host has its {self._count} UDP sockets")
        self._count += 1
        return UdpSocket(self, version, self._config.udp_receive_bytes)

    def statistics(self) -> UdpStatistics:
        """Return what the layer counted since it was made; what was dropped is among the host's drops."""
        return UdpStatistics(self._count, self.datagrams_received, self.datagrams_sent)

    # -- the way in ----------------------------------------------------------------------------------------------------

    def receive_datagram(self, packet: Received, now: float) -> None:
        """Give a datagram to the socket it is for; a ``WireError`` goes to the caller, who counts it."""
        source, destination = packet.source, packet.destination
        pseudo = None
        if not packet.checksum_valid:
            pseudo = pseudo_header_sum(source, destination, UDP, packet.end - packet.start)
        header = parse_udp(
            packet.data, packet.start, packet.end, pseudo=pseudo, require_checksum=len(destination) == 16
        )
        sender = source, header.source_port
        target = destination, header.destination_port
        if packet.to_one:
            sockets = self._connected.get((target, sender))
            if sockets is None:
                sockets = self._unconnected.get(target) or self._unconnected.get(
                    (ANY4 if len(destination) == 4 else ANY6, target[1])
                )
            if sockets is None:
                self._drops.count("udp.no_socket")
                self._port_unreachable(packet, now)
                return
            # The latest, as Linux does for SO_REUSEADDR; several with SO_REUSEPORT share by sender.
            if len(sockets) > 1 and sockets[-1].reuse_port:
                sockets = [sockets[(int.from_bytes(source, "big") + sender[1]) % len(sockets)]]
            else:
                sockets = sockets[-1:]
        else:
            sockets = self._sockets_for_many(target, sender, packet.interface)
            if not sockets:
                self._drops.count("udp.no_socket")
                return
        begin = packet.start + _HEADER_BYTES
        data = bytes(packet.data[begin : packet.start + header.length_bytes])
        self.datagrams_received += 1
        for socket in sockets:
            if socket._take_in(data, sender):
                self._notify(socket, Events.READABLE)
            else:
                self._drops.count("udp.queue_full")

    def _sockets_for_many(self, target: _Address, sender: _Address, interface: Interface) -> list[UdpSocket]:
        """Everybody who hears a broadcast or a group: RFC 1122 section 4.1.3.5 and Linux's IP_MULTICAST_ALL."""
        heard = []
        for socket in self._by_port.get((len(target[0]), target[1]), ()):
            if socket.remote is not None and socket.remote != sender:
                continue
            if socket.local[0] in (target[0], ANY4, ANY6) or (
                # A connected socket got its address from the route; it hears its peer's broadcasts all the same.
                socket.remote is not None and self._addresses.unicast.get(socket.local[0]) is interface
            ):
                heard.append(socket)
        return heard

    def receive_icmp_error(self, error: IcmpError, now: float) -> None:
        """Tell the socket whose datagram failed; only a connected one can be told (RFC 1122 section 4.1.3.3)."""
        quoted = bytes(error.quoted[:4])  # the ports; the rest of the datagram may be cut off
        if len(quoted) < 4:
            self._drops.count("udp.icmp_quote_short")
            return
        ports = int.from_bytes(quoted[:2], "big"), int.from_bytes(quoted[2:], "big")
        sockets = self._connected.get(((error.local, ports[0]), (error.remote, ports[1])))
        if not sockets or error.kind is IcmpKind.SOURCE_QUENCH:
            return
        for socket in sockets:
            if error.kind is IcmpKind.PACKET_TOO_BIG and not socket.dont_fragment:
                continue  # the next one is fragmented as the path wants it
            socket._error = error.errno
            self._notify(socket, Events.ERROR)

    # -- for the sockets -----------------------------------------------------------------------------------------------

    def _route(self, socket: UdpSocket, destination: bytes) -> tuple[bytes, Path]:
        """Return source and path for a destination, or raise why there is none."""
        source: bytes | None = socket.local[0]
        if source is not None and len(source) != len(destination) and source not in (ANY4, ANY6):
            number = errno.EAFNOSUPPORT if len(source) == 4 else errno.ENETUNREACH
            raise OSError(number, "the UDP socket has an address of the other family")
        if source in (ANY4, ANY6) or (source is not None and self._is_for_many(source)):
            source = None
            if socket.multicast_interface is not None and is_multicast(destination):
                source = self._ip.source_on(socket.multicast_interface, destination)
        path = self._ip.path(destination, source)
        if path is None:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        if not socket.broadcast and self._is_broadcast(destination):
            raise OSError(errno.EACCES, f"{format_ip(destination)} is a broadcast, which the socket does not allow")
        return path.source, path

    def _is_broadcast(self, address: bytes) -> bool:
        return address in self._addresses.broadcasts or address == b"\xff\xff\xff\xff"

    def _is_for_many(self, address: bytes) -> bool:
        return is_multicast(address) or self._is_broadcast(address)

    def _send(self, socket: UdpSocket, data: bytes | bytearray | memoryview, destination: _Address, now: float) -> int:
        address, port = destination
        source, path = self._route(socket, address)
        if not socket._is_bound:
            socket.bind(socket._bound_to, 0)
        size = len(data)
        header_bytes = (20 if len(address) == 4 else 40) + _HEADER_BYTES
        fits = size + header_bytes <= path.mtu_bytes
        if size > _LARGEST_DATAGRAM_BYTES - (20 if len(address) == 4 else 0) or (socket.dont_fragment and not fits):
            raise OSError(errno.EMSGSIZE, f"a datagram of {size} bytes is too big for {format_ip(address)}")
        offload = path.offload and fits
        # The frame may wait for its neighbour, or in a queue, while the caller uses its buffer anew.
        payload = bytes(data)
        head = build_udp(source, address, socket.local[1], port, payload, offload=offload)
        self.datagrams_sent += 1
        multicast = is_multicast(address)
        self._ip.send(
            source,
            address,
            UDP,
            head,
            payload,
            now,
            checksum_offset=_CHECKSUM_OFFSET if offload else 0,
            ttl=socket.multicast_ttl if multicast else socket.ttl,
            dscp=socket.dscp,
            dont_fragment=socket.dont_fragment,
            loop_back=socket.multicast_loop or not multicast,
        )
        return size

    def _bind(self, socket: UdpSocket, address: bytes, port: int) -> None:
        if not 0 <= port <= 65_535:
            raise OSError(errno.EINVAL, f"{port} is no port")
        if address not in (ANY4, ANY6) and not (
            address in self._addresses.unicast or is_loopback(address) or self._is_for_many(address)
        ):
            raise OSError(errno.EADDRNOTAVAIL, f"the host does not have {format_ip(address)}")
        if not port:
            port = self._choose_port(socket, address)
        elif self._is_taken(socket, address, port):
            raise OSError(errno.EADDRINUSE, f"{format_ip(address)} UDP port {port} is in use")
        socket.local = address, port
        for place in socket._places:
            self._by_port.setdefault((len(place), port), []).append(socket)
        self._list(socket)

    def _choose_port(self, socket: UdpSocket, address: bytes) -> int:
        """Choose a free port at random and upward from there (RFC 6056 section 3.3.1)."""
        first, last = self._config.ephemeral_ports
        count = last - first + 1
        begin = self._rng.getrandbits(32) % count
        for step in range(count):
            port = first + (begin + step) % count
            if (4, port) not in self._by_port and (16, port) not in self._by_port:
                return port
        for step in range(count):
            port = first + (begin + step) % count
            if not self._is_taken(socket, address, port):
                return port
        raise OSError(errno.EADDRINUSE, f"all UDP ports from {first} to {last} are in use")

    def _is_taken(self, socket: UdpSocket, address: bytes, port: int) -> bool:
        for place in (ANY6, ANY4) if address == ANY6 and not socket.v6_only else (address,):
            any_address = ANY4 if len(place) == 4 else ANY6
            for other in self._by_port.get((len(place), port), ()):
                theirs = other.local[0] if len(other.local[0]) == len(place) else any_address
                if (
                    (theirs == place or any_address in (theirs, place))
                    and not (other.reuse_address and socket.reuse_address)
                    and not (other.reuse_port and socket.reuse_port)
                ):
                    return True
        return False

    def _list(self, socket: UdpSocket) -> None:
        """Put a bound socket where datagrams find it."""
        if socket.remote is not None:
            self._connected.setdefault((socket.local, socket.remote), []).append(socket)
        else:
            for place in socket._places:
                self._unconnected.setdefault((place, socket.local[1]), []).append(socket)

    def _unlist(self, socket: UdpSocket) -> None:
        if socket.remote is not None:
            _remove(self._connected, (socket.local, socket.remote), socket)
        else:
            for place in socket._places:
                _remove(self._unconnected, (place, socket.local[1]), socket)

    def _close(self, socket: UdpSocket) -> None:
        self._count -= 1
        if socket._is_bound:
            self._unlist(socket)
            for width in (4, 16):
                _remove(self._by_port, (width, socket.local[1]), socket)


def _remove(table: dict[_Key, list[UdpSocket]], key: _Key, socket: UdpSocket) -> None:
    """Take a socket out of one list of a table, and the list out of the table when it was the last."""
    sockets = table.get(key, [])
    if socket in sockets:
        sockets.remove(socket)
        if not sockets:
            del table[key]

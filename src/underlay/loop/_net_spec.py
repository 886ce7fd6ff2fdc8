"""What ``--net`` says: the words of ``tap:10.9.0.2/24,gw=10.9.0.1``, and which of them cannot be.

This file knows addresses and prefixes as text.  It does not know devices, hosts or loops, and imports none, so that
``underlay run`` can refuse a network before anything starts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from ..errors import UsageError, nearest

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Interface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

KINDS: Final = ("tap", "tun", "lo")
_WORDS: Final = ("ip", "gw", "mtu", "dns", "dev", "peer", "offload", "busy_poll")

# RFC 791: every link carries 68 bytes. Below 576 nobody is bound to accept more than that (RFC 1122, 3.3.3); IPv6 asks
# for 1280 (RFC 8200, 5). The most that a TUN or TAP device takes is 65535 less its header.
_LEAST_MTU_BYTES: Final = 68
_LEAST_MTU6_BYTES: Final = 1280
_MOST_MTU_BYTES: Final = 65521
# A second: whoever wants a processor taken for longer than that between frames has mistaken the unit.
_MOST_BUSY_POLL_US: Final = 1_000_000

_KIND: Final = re.compile("[^:,]*")
# RFC 1122, 3.2.1.3: "this network" is a source only of who asks for an address; RFC 1112, section 4: class E.
_RESERVED: Final = (ipaddress.ip_network("0.0.0.0/8"), ipaddress.ip_network("240.0.0.0/4"))
EXAMPLE: Final = "tap:10.9.0.2/24,gw=10.9.0.1"


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """What ``--net`` asked for. ``kind`` is tap, tun or lo (no device: the host's own loopback only).

    ``addresses`` are the stack's own, with their prefixes; ``peers`` the kernel's on a device that is made;
    ``device`` is the name of one that stands already, or of the one to make, "" for any.
    """

    kind: str
    addresses: tuple[_Interface, ...] = ()
    gateways: tuple[str, ...] = ()
    peers: tuple[_Interface, ...] = ()
    name_servers: tuple[str, ...] = ()
    mtu_bytes: int | None = None
    device: str = ""
    offload: bool = True
    busy_poll_us: int | None = None
    """How long a loop looks for the next frame before it sleeps; None for the bridge's own measure."""
    peers_are_given: bool = False
    """``peers`` was said, and is no default."""


def parse_network(text: str) -> NetworkSpec:
    """Read what ``--net`` says: ``KIND:ADDRESS/PREFIX[,word=value…]``. Raises ``UsageError`` that names the mistake.

    The words: ``ip=`` a further address, ``gw=`` the default gateway, ``mtu=`` in bytes, ``dns=`` a name server,
    ``dev=`` the device's name, ``peer=`` the kernel's own address on the device, ``offload=no`` to cut every segment
    here and not in the kernel, ``busy_poll=`` the microseconds to look for a frame before sleeping.
    ip, gw, dns and peer may come again.

    >>> spec = parse_network("tap:10.9.0.2/24,gw=10.9.0.1,mtu=1400")
    >>> spec.kind, str(spec.addresses[0]), spec.gateways, spec.mtu_bytes
    ('tap', '10.9.0.2/24', ('10.9.0.1',), 1400)
    >>> str(spec.peers[0])
    '10.9.0.1/24'
    """
    if any(letter.isspace() for letter in text):
        raise UsageError(f"the network {text!r} has a space in it", remedy=f"write it without, as in {EXAMPLE}")
    kind = _KIND.match(text)[0]  # type: ignore[index]  # it matches nothing, too
    rest = text[len(kind) + 1 :]
    if kind not in KINDS:
        raise UsageError(f"there is no kind of network {kind!r}", remedy=f"{nearest(kind, KINDS)}, as in {EXAMPLE}")
    if kind == "lo":
        if text != "lo":
            what = "the network lo has the addresses 127.0.0.1 and ::1, and takes no other words"
            raise UsageError(what, remedy=f"say `lo` alone, or a network with a device, as {EXAMPLE}")
        return NetworkSpec("lo")
    first, *words = rest.split(",") if text[len(kind) :].startswith(":") else [""]
    given: dict[str, list[str]] = {word: [] for word in _WORDS}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in given or not equals or not value:
            raise UsageError(
                f"the network {text!r} has a word that is none: {word!r}", remedy=f"words are {', '.join(_WORDS)}"
            )
        given[name].append(value)
    for once in ("mtu", "dev", "offload", "busy_poll"):
        if len(given[once]) > 1:
            raise UsageError(f"the network {text!r} says {once}= twice", remedy="say it once")
    if not first:
        raise UsageError(f"the network {text!r} has no address", remedy=f"give it one and its prefix, as in {EXAMPLE}")
    addresses = tuple(_interface(each) for each in (first, *given["ip"]))
    gateways = tuple(_gateway(each, addresses) for each in given["gw"])
    peers = tuple(_interface(each) for each in given["peer"])
    if len({address.ip for address in addresses}) < len(addresses):
        raise UsageError(f"the network {text!r} has an address twice", remedy="say it once")
    if len({":" in gateway for gateway in gateways}) < len(gateways):
        raise UsageError(f"the network {text!r} has two default gateways", remedy="say one for each IP version")
    if len({peer.ip for peer in peers}) < len(peers):
        raise UsageError(f"the network {text!r} has an address of the kernel's twice", remedy="say peer= once for each")
    for peer in peers:
        near = [address for address in addresses if peer.ip in address.network]
        if not near:
            raise UsageError(f"the kernel's {peer.ip} is in no network of the stack's", remedy="both need one prefix")
        if not any(address.ip in peer.network for address in near):
            raise UsageError(f"the kernel's {peer} does not reach {near[0].ip}", remedy="both need one prefix")
        if peer.ip in {address.ip for address in addresses}:
            raise UsageError(f"{peer.ip} cannot be both the stack's and the kernel's", remedy="give peer= another")
    peers_are_given = bool(peers)
    peers = peers or _default_peers(addresses, gateways)
    if not peers:
        bits = 24 if addresses[0].version == 4 else 64
        raise UsageError(
            f"{addresses[0]} leaves no address for the kernel, nor for anybody else",
            remedy=f"say the prefix that both have, as in {addresses[0].ip}/{bits}",
        )
    return NetworkSpec(
        kind,
        addresses,
        gateways,
        peers,
        tuple(_server(each, addresses) for each in given["dns"]),
        _mtu(given["mtu"][0], addresses) if given["mtu"] else None,
        given["dev"][0] if given["dev"] else "",
        _yes_or_no("offload", given["offload"]),
        _busy_poll(given["busy_poll"][0]) if given["busy_poll"] else None,
        peers_are_given,
    )


def _interface(text: str) -> _Interface:
    _refuse_zone(text)
    host, _, bits = text.partition("/")
    ip = _address(host)
    if ip is None:
        raise UsageError(f"{host!r} is no IP address", remedy=f"an example: {EXAMPLE}")
    if not (bits.isascii() and bits.isdigit()):
        usual = 24 if ip.version == 4 else 64
        raise UsageError(f"the address {text!r} has no prefix", remedy=f"say how long it is, as in {host}/{usual}")
    if int(bits) > ip.max_prefixlen:
        raise UsageError(
            f"the prefix of {text} is too long", remedy=f"an IPv{ip.version} address has {ip.max_prefixlen} bits"
        )
    address = ipaddress.ip_interface(text)
    network = address.network
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback:
        raise UsageError(f"{ip} cannot be a host's address on a link", remedy=f"an example: {EXAMPLE}")
    for reserved in _RESERVED:
        if ip in reserved:
            raise UsageError(f"{ip} is no host's address: {reserved} is reserved", remedy=f"an example: {EXAMPLE}")
    _refuse_all_hosts(ip, network)
    return address


def _refuse_all_hosts(ip: _Address, network: _Network) -> None:
    """Refuse the ends of a prefix: RFC 3021 and RFC 6164 let two hosts alone have them, RFC 4291, 2.6.1 has IPv6's."""
    if network.max_prefixlen - network.prefixlen < 2:
        return
    if ip == network.network_address:
        what = "names the network" if ip.version == 4 else "stands for any router of"
        raise UsageError(f"{ip} {what} {network}, and is no host's", remedy=f"choose another, as {ip + 1}")
    if ip.version == 4 and ip == network.broadcast_address:
        raise UsageError(f"{ip} means all hosts of {network}, and is no host's", remedy=f"choose another, as {ip - 1}")


def _gateway(text: str, addresses: tuple[_Interface, ...]) -> str:
    gateway = _address(text)
    if gateway is None:
        raise UsageError(f"the gateway {text!r} is no address", remedy=f"an example: {EXAMPLE}")
    home = next((address.network for address in addresses if gateway in address.network), None)
    if home is None:
        networks = " or ".join(str(address.network) for address in addresses)
        raise UsageError(f"the gateway {text} is not in {networks}", remedy="a gateway is a neighbour on the link")
    if any(gateway == address.ip for address in addresses):
        raise UsageError(f"the gateway {text} is the stack's own address", remedy="name the neighbour that forwards")
    _refuse_all_hosts(gateway, home)
    return str(gateway)


def _refuse_zone(text: str) -> None:
    if "%" in text:
        raise UsageError(f"{text!r} names a zone", remedy="leave %… out: the network has one device")


def _address(text: str) -> _Address | None:
    _refuse_zone(text)
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _server(text: str, ours: tuple[_Interface, ...]) -> str:
    address = _address(text)
    if address is None:
        raise UsageError(f"the name server {text!r} is no address", remedy="an example: dns=10.9.0.1")
    if address.is_multicast or address.is_unspecified:
        raise UsageError(f"the name server {text} is no host's address", remedy="an example: dns=10.9.0.1")
    if any(address == each.ip for each in ours):
        raise UsageError(
            f"the name server {text} is the stack's own address", remedy="name another host, or leave it out"
        )
    return text


def _mtu(text: str, addresses: tuple[_Interface, ...]) -> int:
    least = _LEAST_MTU6_BYTES if any(address.version == 6 for address in addresses) else _LEAST_MTU_BYTES
    if not (text.isascii() and text.isdigit() and least <= int(text) <= _MOST_MTU_BYTES):
        most = _MOST_MTU_BYTES
        raise UsageError(f"the MTU {text!r} is none", remedy=f"it is a number of bytes from {least} to {most}")
    return int(text)


def _busy_poll(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MOST_BUSY_POLL_US):
        most = _MOST_BUSY_POLL_US
        raise UsageError(f"busy_poll={text} cannot be", remedy=f"it is a number of microseconds from 0 to {most}")
    return int(text)


def _yes_or_no(word: str, values: list[str]) -> bool:
    if values and values[0] not in ("yes", "no"):
        raise UsageError(f"{word}= is yes or no, not {values[0]!r}", remedy="yes is the default")
    return values != ["no"]


def _default_peers(addresses: tuple[_Interface, ...], gateways: tuple[str, ...]) -> tuple[_Interface, ...]:
    """The kernel's end of each prefix: the gateway, where one is in it, else the first address that isn't ours."""
    ours = {address.ip for address in addresses}
    found: dict[_Address, _Interface] = {}
    for address in addresses:
        network = address.network
        inside = [ipaddress.ip_address(each) for each in gateways if ipaddress.ip_address(each) in network]
        candidates: Iterator[_Address] = iter(network.hosts())
        peer = inside[0] if inside else next((each for each in candidates if each not in ours), None)
        # Where two prefixes give the kernel one address, the shorter prefix reaches both.
        if peer is not None and (peer not in found or found[peer].network.prefixlen > network.prefixlen):
            found[peer] = ipaddress.ip_interface(f"{peer}/{network.prefixlen}")
    return tuple(found.values())

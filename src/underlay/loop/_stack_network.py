"""The network that ``--net`` asks for, made: a device, a host on it, and the bridge between them.

This file knows how the three are put together, that nothing stays behind where one of them cannot be, and what on this
machine would keep the kernel from reaching the stack: it is refused before anything is made.  It does not know the
words (``_net_spec.py``), the loop that will drive it, nor how frames move.

A device that stands already is somebody's, and is taken as it is: it keeps its addresses, its MTU and its state.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ..errors import UsageError
from ..link import LinkInfo, Rtnetlink, TunTap, check_name
from ..stack import Host
from ._bridge import BUSY_POLL_S, Bridge

if TYPE_CHECKING:
    from ..clock import Clock
    from ._net_spec import NetworkSpec

# RFC 8200, section 5: no link of IPv6 carries less.
_LEAST_MTU6_BYTES: Final = 1280


def open_network(spec: NetworkSpec, clock: Clock, *, names: Mapping[str, Sequence[str]] | None = None) -> Bridge:
    """Make the host that `spec` asks for, on its device; ``names`` are those that need no name server.

    Nothing stays behind where it fails: ``UsageError`` as `TunTap.open` has it, for a standing device that is not as
    it was asked for, and where another interface of this machine has the stack's address or its prefix.
    """
    host = Host("underlay", rng=random.SystemRandom())
    devices: dict[int, TunTap] = {}
    if spec.kind != "lo":
        device = _open_device(spec)
        try:
            interface = host.add_interface(
                [str(address) for address in spec.addresses],
                mac=device.mac,
                mtu_bytes=device.mtu_bytes,
                offload=device.offload,
                name=device.name,
            )
            for gateway in spec.gateways:
                host.add_route("::/0" if ":" in gateway else "0.0.0.0/0", gateway, interface)
        except BaseException:
            device.close()
            raise
        devices[interface] = device
    busy_poll_s = BUSY_POLL_S if spec.busy_poll_us is None else spec.busy_poll_us * 1e-6
    return Bridge(host, devices, clock, names=names or {}, name_servers=spec.name_servers, busy_poll_s=busy_poll_s)


def _open_device(spec: NetworkSpec) -> TunTap:
    """Take the device that stands, or make it."""
    if spec.device:
        check_name(spec.device)
    is_tap = spec.kind == "tap"
    with Rtnetlink() as kernel:
        links = {link.index: link for link in kernel.links()}
        held = [(links[each.index], ipaddress.ip_interface(each.text)) for each in kernel.addresses()]
        routes = {str(each.ip): kernel.route(str(each.ip)) for each in spec.addresses}
    standing = next((link for link in links.values() if link.name == spec.device), None)
    _check_addresses(spec, held, links, standing, routes)
    if standing is None:
        return TunTap.open(
            spec.device,
            tap=is_tap,
            offload=spec.offload,
            addresses=[str(peer) for peer in spec.peers],
            mtu_bytes=spec.mtu_bytes,
            exclusive=bool(spec.device),
        )
    if standing.kind == "tun" and standing.mode == spec.kind:
        ways = _ways(standing, links)
        _check_standing(spec, standing, [address for link, address in held if link.index in ways])
    elif standing.kind == "tun" and standing.mode:
        remedy = f"say {standing.mode}: in the place of {spec.kind}:"
        raise UsageError(f"{standing.name} is a {standing.mode.upper()} device", remedy=remedy)
    return TunTap.open(spec.device, tap=is_tap, offload=spec.offload, up=False)


_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def _check_addresses(
    spec: NetworkSpec,
    held: Sequence[tuple[LinkInfo, _Interface]],
    links: Mapping[int, LinkInfo],
    standing: LinkInfo | None,
    routes: Mapping[str, int | None],
) -> None:
    """Refuse addresses that the kernel would never look for on the device.

    ``routes`` tells by which interface it sends to each of them now.
    """
    ways = set() if standing is None else _ways(standing, links)
    for ours in spec.addresses:
        in_the_way: dict[int, _Interface] = {}
        for link, theirs in held:
            if theirs.ip == ours.ip:
                raise UsageError(
                    f"{ours.ip} is this machine's own, on {link.name}: it would answer itself",
                    remedy=f"choose another address for the stack, as {_free(spec, ours, held)}",
                )
            if link.index in ways or not link.is_up or ours.ip.is_link_local:
                continue
            # Of two routes the kernel takes the longer prefix, and of two equal ones the older.
            if ours.ip in theirs.network and theirs.network.prefixlen >= ours.network.prefixlen:
                in_the_way.setdefault(link.index, theirs)
        way = routes[str(ours.ip)]
        if not in_the_way or way in ways:
            continue
        link = links[way if way in in_the_way else next(iter(in_the_way))]
        what = (
            f"this machine reaches {in_the_way[link.index].network} by {link.name}, and would look for {ours.ip} there"
        )
        remedy = "choose another prefix"
        ports = [link, *(each for each in links.values() if link.kind == "bridge" and each.master == link.index)]
        free = next((each for each in ports if each.mode == spec.kind and each.is_up and not each.has_carrier), None)
        if free is not None:
            where = "on that device" if free is link else f"on that port of {link.name}"
            remedy = f"say dev={free.name} to run {where}, or choose another prefix"
        elif standing is not None:
            remedy = f"`ip address del {in_the_way[link.index]} dev {link.name}`, or choose another prefix"
        raise UsageError(what if standing is None else f"{what}, not on {standing.name}", remedy=remedy)


def _ways(standing: LinkInfo, links: Mapping[int, LinkInfo]) -> set[int]:
    """The interfaces that lead to a device: itself, and the bridge that it is a port of, which has the address."""
    bridge = links.get(standing.master)
    return {standing.index} | ({bridge.index} if bridge is not None and bridge.kind == "bridge" else set())


def _free(spec: NetworkSpec, ours: _Interface, held: Sequence[tuple[LinkInfo, _Interface]]) -> str:
    """An address of the prefix that nobody has, as far as this machine knows."""
    taken = {address.ip for _, address in held} | {address.ip for address in (*spec.addresses, *spec.peers)}
    hosts: Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address] = iter(ours.network.hosts())
    free = next((each for each in hosts if each not in taken), None)
    return "one of another prefix" if free is None else f"{free}/{ours.network.prefixlen}"


def _check_standing(spec: NetworkSpec, standing: LinkInfo, addresses: Sequence[_Interface]) -> None:
    """Refuse what would be a change to a device that is somebody's."""
    name = standing.name
    if not standing.is_up:
        raise UsageError(f"the device {name} is down", remedy=f"`ip link set {name} up` brings it up")
    if spec.mtu_bytes not in (None, standing.mtu_bytes):
        what = f"the device {name} has an MTU of {standing.mtu_bytes} bytes, and mtu= says {spec.mtu_bytes}"
        raise UsageError(what, remedy=f"leave mtu= out, or `ip link set {name} mtu {spec.mtu_bytes}`")
    if standing.mtu_bytes < _LEAST_MTU6_BYTES and any(address.version == 6 for address in spec.addresses):
        what = f"the device {name} has an MTU of {standing.mtu_bytes} bytes, and IPv6 needs {_LEAST_MTU6_BYTES}"
        raise UsageError(what, remedy=f"`ip link set {name} mtu {_LEAST_MTU6_BYTES}`, or leave IPv6 out")
    if spec.peers_are_given:
        for peer in spec.peers:
            if peer not in addresses:
                what = f"the device {name} stands already, without the address {peer} of peer="
                raise UsageError(what, remedy=f"leave peer= out, or `ip address add {peer} dev {name}`")

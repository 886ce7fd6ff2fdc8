"""What of rtnetlink(7) a device's kernel end needs: links, addresses, routes, and moves between namespaces.

This file knows the layout of the messages (``/usr/include/linux/rtnetlink.h``, ``if_link.h``, ``if_addr.h``) and asks
the kernel with them. A socket of netlink belongs to the network namespace of the thread that opens it, for all its
life. It refuses to know what the links are for, and calls no program: no output of ``ip`` is read anywhere.

A request that the kernel refuses is the ``OSError`` with its errno.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

from ._netlink import ACK, CREATE, DUMP, EXCLUSIVE, Netlink, attribute, attributes

__all__ = ["InterfaceAddress", "LinkInfo", "Rtnetlink"]

# linux/rtnetlink.h
_NEWLINK: Final = 16
_DELLINK: Final = 17
_GETLINK: Final = 18
_NEWADDR: Final = 20
_GETADDR: Final = 22
_NEWROUTE: Final = 24
_GETROUTE: Final = 26
# linux/if_link.h and linux/veth.h
_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_MASTER: Final = 10
_IFLA_LINKINFO: Final = 18
_IFLA_IFALIAS: Final = 20
_IFLA_NET_NS_FD: Final = 28
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_VETH_INFO_PEER: Final = 1
# linux/if_link.h, of TUN and TAP; the mode is IFF_TUN or IFF_TAP of linux/if_tun.h
_IFLA_TUN_TYPE: Final = 3
_IFLA_TUN_MULTI_QUEUE: Final = 7
_TUN_MODES: Final = {1: "tun", 2: "tap"}
# linux/if.h
_IFF_UP: Final = 0x1
_IFF_LOWER_UP: Final = 0x10000
# linux/if_addr.h
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_BROADCAST: Final = 4
_IFA_F_NODAD: Final = 0x02
# linux/rtnetlink.h, struct rtmsg
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RT_TABLE_MAIN: Final = 254
_RTPROT_STATIC: Final = 4
_RT_SCOPE_UNIVERSE: Final = 0
_RT_SCOPE_LINK: Final = 253
_RTN_UNICAST: Final = 1

# There is no route; it says unreachable, prohibit or blackhole; or this kernel has no IPv6.
_NO_ROUTE: Final = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EACCES,
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.EAFNOSUPPORT,
}

_IFINFO: Final = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_IFADDR: Final = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix, flags, scope, index
_RTMSG: Final = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_U32: Final = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """One network interface, as the kernel describes it."""

    index: int
    name: str
    kind: str
    """``"tun"``, ``"veth"``, …; empty for hardware and for the loopback."""
    is_up: bool
    has_carrier: bool
    """There is somebody at the other end of the cable: of a TUN or TAP, a program that holds it."""
    mtu_bytes: int
    mac: bytes
    alias: str
    mode: str = ""
    """``"tun"`` or ``"tap"`` where ``kind`` is ``"tun"``, which both are to the kernel."""
    many_queues: bool = False
    """A TUN or TAP whose frames are shared by several descriptors (IFF_MULTI_QUEUE)."""
    master: int = 0
    """The index of the bridge (or bond, or VRF) that it is a port of; 0 for none."""


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address of an interface, written as ``10.9.0.1/24``."""

    index: int
    text: str


class Rtnetlink(Netlink):
    """A socket to the kernel's own network configuration, in the namespace of the thread that makes it.

    >>> with Rtnetlink() as kernel:
    ...     kernel.link("lo").index
    1
    """

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE)

    # --- what is there ---------------------------------------------------------------------------------

    def links(self) -> list[LinkInfo]:
        """List every interface of the namespace."""
        return [_link(body) for body in self.ask(_GETLINK, DUMP, _IFINFO.pack(0, 0, 0, 0, 0))]

    def link(self, name: str) -> LinkInfo:
        """Describe the interface called ``name``; ``OSError`` with ENODEV when there is none."""
        body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
        for answer in self.ask(_GETLINK, 0, body):
            return _link(answer)
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    def addresses(self) -> list[InterfaceAddress]:
        """List the addresses of every interface of the namespace."""
        found = []
        for body in self.ask(_GETADDR, DUMP, _IFADDR.pack(0, 0, 0, 0, 0)):
            _, prefix_bits, _, _, index = _IFADDR.unpack_from(body)
            attrs = dict(attributes(body, _IFADDR.size))
            # On a point-to-point link IFA_ADDRESS is the peer's; IFA_LOCAL is ours where it is given.
            packed = attrs.get(_IFA_LOCAL) or attrs[_IFA_ADDRESS]
            found.append(InterfaceAddress(index, f"{ipaddress.ip_address(packed)}/{prefix_bits}"))
        return found

    def route(self, address: str) -> int | None:
        """The index of the interface by which the kernel would send to ``address``; None where it has no route."""
        ip = ipaddress.ip_address(address)
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        body = _RTMSG.pack(family, ip.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_DST, ip.packed)
        try:
            answers = self.ask(_GETROUTE, 0, body)
        except OSError as error:
            if error.errno in _NO_ROUTE:
                return None
            raise
        found = dict(attributes(answers[0], _RTMSG.size)).get(_RTA_OIF) if answers else None
        return None if found is None else int(_U32.unpack(found)[0])

    # --- changes ---------------------------------------------------------------------------------------

    def set_up(self, index: int, *, up: bool = True) -> None:
        """Bring an interface up, or down."""
        self.ask(_NEWLINK, ACK, _IFINFO.pack(0, 0, index, _IFF_UP if up else 0, _IFF_UP))

    def set_mtu(self, index: int, mtu_bytes: int) -> None:
        """Set the largest packet; EINVAL when the device cannot have that."""
        self._change(index, attribute(_IFLA_MTU, _U32.pack(mtu_bytes)))

    def set_mac(self, index: int, mac: bytes) -> None:
        """Set the MAC address of six bytes."""
        self._change(index, attribute(_IFLA_ADDRESS, mac))

    def set_alias(self, index: int, alias: str) -> None:
        """Attach a text of at most 255 bytes, which ``ip link`` shows."""
        self._change(index, attribute(_IFLA_IFALIAS, alias.encode()))

    def move_to_namespace(self, index: int, namespace_fd: int) -> None:
        """Move an interface to the network namespace that the descriptor stands for; it comes there down."""
        self._change(index, attribute(_IFLA_NET_NS_FD, _U32.pack(namespace_fd)))

    def delete_link(self, index: int) -> None:
        """Delete an interface; of a pair of veths both go."""
        self.ask(_DELLINK, ACK, _IFINFO.pack(0, 0, index, 0, 0))

    def create_veth(self, name: str, peer: str, *, peer_namespace_fd: int | None = None) -> None:
        """Make two interfaces that are each other's cable; the peer may be born in another namespace."""
        far = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, peer.encode() + b"\0")
        if peer_namespace_fd is not None:
            far += attribute(_IFLA_NET_NS_FD, _U32.pack(peer_namespace_fd))
        info = attribute(_IFLA_INFO_KIND, b"veth\0") + attribute(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, far))
        body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
        self.ask(_NEWLINK, ACK | CREATE | EXCLUSIVE, body + attribute(_IFLA_LINKINFO, info))

    def add_address(self, index: int, address: str) -> None:
        """Give an interface an address such as ``10.9.0.1/24`` or ``fd00::1/64``; EEXIST when it has it.

        An IPv6 address is usable at once: duplicate address detection is off for it (IFA_F_NODAD), since nobody
        else is on the link yet.
        """
        interface = ipaddress.ip_interface(address)
        packed, prefix_bits = interface.packed, interface.network.prefixlen
        attrs = attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
        if interface.version == 4:
            family, flags = socket.AF_INET, 0
            if prefix_bits < 31:  # RFC 3021: a /31 has no broadcast address, and neither has a /32
                attrs += attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
        else:
            family, flags = socket.AF_INET6, _IFA_F_NODAD
        body = _IFADDR.pack(family, prefix_bits, flags, _RT_SCOPE_UNIVERSE, index)
        self.ask(_NEWADDR, ACK | CREATE | EXCLUSIVE, body + attrs)

    def add_route(self, prefix: str, *, via: str | None = None, index: int | None = None) -> None:
        """Add a route to ``prefix`` by a gateway, an interface, or both; EEXIST when there is one."""
        network = ipaddress.ip_network(prefix)
        family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        scope = _RT_SCOPE_LINK if via is None and network.version == 4 else _RT_SCOPE_UNIVERSE
        body = _RTMSG.pack(family, network.prefixlen, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, scope, _RTN_UNICAST, 0)
        if network.prefixlen:
            body += attribute(_RTA_DST, network.network_address.packed)
        if via is not None:
            body += attribute(_RTA_GATEWAY, ipaddress.ip_address(via).packed)
        if index is not None:
            body += attribute(_RTA_OIF, _U32.pack(index))
        self.ask(_NEWROUTE, ACK | CREATE | EXCLUSIVE, body)

    def _change(self, index: int, attrs: bytes) -> None:
        self.ask(_NEWLINK, ACK, _IFINFO.pack(0, 0, index, 0, 0) + attrs)


def _link(body: bytes) -> LinkInfo:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    attrs = dict(attributes(body, _IFINFO.size))
    info = dict(attributes(attrs.get(_IFLA_LINKINFO, b"")))
    kind = info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
    tun = dict(attributes(info.get(_IFLA_INFO_DATA, b""))) if kind == "tun" else {}
    return LinkInfo(
        index,
        attrs[_IFLA_IFNAME].rstrip(b"\0").decode(),
        kind,
        bool(flags & _IFF_UP),
        bool(flags & _IFF_LOWER_UP),
        _U32.unpack(attrs[_IFLA_MTU])[0],
        attrs.get(_IFLA_ADDRESS, b""),
        attrs.get(_IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
        _TUN_MODES.get(tun.get(_IFLA_TUN_TYPE, b"\0")[0], ""),
        tun.get(_IFLA_TUN_MULTI_QUEUE, b"\0") != b"\0",
        _U32.unpack(attrs.get(_IFLA_MASTER, bytes(4)))[0],
    )

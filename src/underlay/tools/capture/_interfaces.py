"""Which interfaces are captured on, and what their frames begin with.

This file knows the kernel's types of hardware (``linux/if_arp.h``) and asks it about an interface (netdevice(7)). It
refuses to know packets.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ...errors import UsageError, nearest
from ._link_types import ETHERNET, LINUX_SLL, RAW_IP

__all__ = ["Interface", "Source", "choose", "interfaces"]

# linux/sockios.h, linux/if.h
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFHWADDR: Final = 0x8927
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
_REQUEST: Final = struct.Struct("16sH22x")
# linux/if_arp.h: ARPHRD_ETHER and ARPHRD_LOOPBACK have Ethernet headers, ARPHRD_NONE (a TUN) begins with IP. Whatever
# else there is (PPP, tunnels, radio) is captured without its link header.
_LINK_TYPES: Final = {1: ETHERNET, 772: ETHERNET, 0xFFFE: RAW_IP}


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface; ``link_type`` is that of its frames, SLL where no program would know their headers."""

    index: int
    name: str
    link_type: int
    is_up: bool
    is_loopback: bool


@dataclass(frozen=True, slots=True)
class Source:
    """What is captured on: ``interfaces``, or all that there are and will be."""

    interfaces: tuple[Interface, ...]
    """Empty: all."""
    link_type: int
    """What every packet begins with: one for all, since libpcap reads no file that has several."""
    loopbacks: tuple[int, ...]
    """The numbers of interfaces that show each packet twice."""

    @property
    def is_cooked(self) -> bool:
        """Whether packets come without their link headers, with SLL instead."""
        return self.link_type == LINUX_SLL

    @property
    def name(self) -> str:
        """How it is called in a file."""
        return "+".join(each.name for each in self.interfaces) or "any"

    @property
    def example(self) -> str:
        """The name of one that has this link type, as libpcap knows it: an interface, or "any"."""
        return "any" if self.is_cooked else self.interfaces[0].name


def interfaces() -> list[Interface]:
    """List the interfaces of this network namespace, by number.

    >>> [each.name for each in interfaces() if each.is_loopback]
    ['lo']
    """
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for index, name in socket.if_nameindex():
            try:
                flags, kind = (
                    _REQUEST.unpack(fcntl.ioctl(sock, request, _REQUEST.pack(os.fsencode(name), 0)))[1]
                    for request in (_SIOCGIFFLAGS, _SIOCGIFHWADDR)
                )
            except OSError:
                continue  # it went away just now
            link_type = _LINK_TYPES.get(kind, LINUX_SLL)
            found.append(Interface(index, name, link_type, bool(flags & _IFF_UP), bool(flags & _IFF_LOOPBACK)))
    return found


def choose(names: Sequence[str]) -> Source:
    """Find the interfaces of these names; none, or "any" among them, are all.

    ``UsageError`` where there is none of that name, or one is down.
    """
    known = {each.name: each for each in interfaces()}
    loopbacks = tuple(each.index for each in known.values() if each.is_loopback)
    if not names or "any" in names:
        return Source((), LINUX_SLL, loopbacks)
    chosen = []
    for name in dict.fromkeys(names):
        if name not in known:
            raise UsageError(f"there is no interface {name!r} here", remedy=nearest(name, [*known, "any"]))
        if not known[name].is_up:
            raise UsageError(
                f"the interface {name} is down",
                remedy=f"`ip link set {name} up` brings it up, `-i any` waits for it",
            )
        chosen.append(known[name])
    types = {each.link_type for each in chosen}
    link_type = types.pop() if len(types) == 1 else LINUX_SLL
    return Source(tuple(chosen), link_type, tuple(each.index for each in chosen if each.is_loopback))

"""Which addresses are the host's own, and what kind of address another one is.

This file knows the addresses, broadcasts and groups of all interfaces of one
host, and which of them nobody may use yet. It refuses to know routes,
neighbours, and what is to become of a packet.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable
from typing import Final

from ..wire import format_ip, solicited_node
from ._interface import (
    ANY4,
    ANY6,
    BROADCAST4,
    Interface,
    InterfaceAddress,
    is_loopback,
    is_multicast,
)

ALL_NODES6: Final = bytes.fromhex("ff020000000000000000000000000001")  # RFC 4291 section 2.7.1
ALL_NODES6_INTERFACE: Final = bytes.fromhex("ff010000000000000000000000000001")
ALL_SYSTEMS4: Final = b"\xe0\x00\x00\x01"  # 224.0.0.1 (RFC 1112 section 4)


class AddressKind(enum.Enum):
    """What an address is to a host."""

    UNICAST = "unicast"  # its own
    BROADCAST = "broadcast"  # of a network it is in, or 255.255.255.255
    MULTICAST = "multicast"  # of a group that the interface joined
    FOREIGN_GROUP = "foreign group"  # of a group that it did not join
    OTHER = "other"  # somebody else's


class LocalAddresses:
    """The addresses of a host. ``unicast`` maps those in use to their interface; a look there is all that most need."""

    def __init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None
        """Called after each change: whoever remembers sources is to forget them."""
        self.unicast: dict[bytes, Interface] = {}
        self.tentative: dict[bytes, Interface] = {}  # RFC 4862 section 5.4: ours perhaps, not to be used yet
        self.broadcasts: dict[bytes, Interface] = {}

    def check_new(self, added: list[InterfaceAddress]) -> None:
        """Raise EEXIST where one of the addresses is already on some interface."""
        for each in added:
            if self.is_known(each.address):
                raise OSError(errno.EEXIST, f"the host has {format_ip(each.address)} already")

    def is_known(self, address: bytes) -> bool:
        """Whether an address is the host's own, be it in use or not yet."""
        return address in self.unicast or address in self.tentative

    def add(self, interface: Interface, each: InterfaceAddress, *, tentative: bool = False) -> None:
        """Make an address of ``interface`` one of the host's."""
        (self.tentative if tentative else self.unicast)[each.address] = interface
        if each.broadcast is not None:
            self.broadcasts.setdefault(each.broadcast, interface)
            # RFC 1122 section 3.3.6: the old form, all bits zero, is heard as a broadcast too.
            self.broadcasts.setdefault(each.network, interface)
        self.changed()

    def use(self, address: bytes) -> None:
        """Let a tentative address be used from now on."""
        interface = self.tentative.pop(address, None)
        if interface is not None:
            self.unicast[address] = interface
            self.changed()

    def remove(self, address: bytes) -> None:
        """Let an address be somebody else's."""
        interface = self.tentative.pop(address, None) or self.unicast.pop(address, None)
        if interface is not None:
            interface.addresses = [each for each in interface.addresses if each.address != address]
            self.changed()

    def is_local(self, address: bytes) -> bool:
        """Whether a packet to ``address`` stays in the host: its own address, or any loopback address."""
        return address in self.unicast or is_loopback(address)

    def classify(self, interface: Interface, address: bytes) -> AddressKind:
        """Say what a destination is, for a packet that came in by ``interface``."""
        if address in self.unicast:
            return AddressKind.UNICAST
        if is_multicast(address):
            if address in interface.groups or address in (ALL_SYSTEMS4, ALL_NODES6, ALL_NODES6_INTERFACE):
                return AddressKind.MULTICAST
            if address[:13] == _SOLICITED_PREFIX and any(
                solicited_node(each.address) == address for each in interface.addresses if len(each.address) == 16
            ):
                return AddressKind.MULTICAST
            return AddressKind.FOREIGN_GROUP
        if address == BROADCAST4 or self.broadcasts.get(address) is interface:
            return AddressKind.BROADCAST
        if interface.is_loopback and is_loopback(address):
            return AddressKind.UNICAST
        return AddressKind.OTHER

    def is_martian_source(self, interface: Interface, source: bytes) -> bool:
        """Whether nobody on the link can have sent from this address (RFC 1122 section 3.2.1.3, RFC 1812 5.3.7)."""
        if is_multicast(source) or source in self.unicast or source in self.broadcasts:
            return True
        if is_loopback(source) and not interface.is_loopback:
            return True
        if len(source) == 16:
            return source[:12] == _MAPPED4  # it means IPv4 inside a program, and nothing on a wire (RFC 4291 2.5.5.2)
        # 0.0.0.0/8 is "this host on this network" and 240.0.0.0/4 is reserved. ANY itself is left to who asks.
        return source != ANY4 and (source[0] == 0 or source[0] >= 240)

    def is_single_host(self, address: bytes) -> bool:
        """Whether an error message may be sent to ``address`` (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e.6)."""
        if address in (ANY4, ANY6) or is_multicast(address) or address in self.broadcasts:
            return False
        return len(address) == 16 or 0 < address[0] < 240


_MAPPED4: Final = bytes(10) + b"\xff\xff"
_SOLICITED_PREFIX: Final = solicited_node(bytes(16))[:13]

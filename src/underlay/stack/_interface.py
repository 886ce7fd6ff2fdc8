"""An interface: where a host touches a link, with its addresses and its groups.

This file knows what an interface is called, how large its packets may be and
which addresses belong to it. It refuses to know how a frame reaches the link,
and who else is there.
"""

from __future__ import annotations

import errno
from collections.abc import Container, Sequence
from typing import Final, NamedTuple

from ..wire import format_ip, parse_ip

LARGEST_PACKET_BYTES: Final = 65_535  # the total length field of IPv4 (RFC 791 section 3.1)
SMALLEST_MTU4_BYTES: Final = 68  # RFC 791 section 3.2: every module must be able to forward it unfragmented
SMALLEST_MTU6_BYTES: Final = 1280  # RFC 8200 section 5
LOOPBACK_MTU_BYTES: Final = 65_535  # Linux has 65536; the total length field cannot say so

ANY4: Final = bytes(4)
ANY6: Final = bytes(16)
BROADCAST4: Final = b"\xff" * 4
LINK_LOCAL6: Final = bytes.fromhex("fe80")  # fe80::/10 (RFC 4291 section 2.4)


class InterfaceAddress(NamedTuple):
    """One address of an interface, and the prefix that it says is on the link."""

    address: bytes
    prefix_bits: int
    network: bytes
    broadcast: bytes | None  # None where there is none: IPv6, and the /31 and /32 of IPv4 (RFC 3021)


def mask(prefix_bits: int, address_bytes: int) -> int:
    """Return the mask of a prefix as an integer.

    >>> hex(mask(20, 4))
    '0xfffff000'
    """
    bits = address_bytes * 8
    return ((1 << prefix_bits) - 1) << (bits - prefix_bits)


def parse_prefix(text: str) -> tuple[bytes, int]:
    """Read ``"10.9.0.0/16"`` or ``"fd00::/8"``; without a slash it is the whole address.

    Raises ``ValueError`` for what is neither.

    >>> parse_prefix("10.9.0.2/24")
    (b'\\n\\t\\x00\\x02', 24)
    """
    name, slash, bits = text.partition("/")
    address = parse_ip(name)
    longest = len(address) * 8
    if not slash:
        return address, longest
    if not (bits.isascii() and bits.isdigit()) or int(bits) > longest:
        raise ValueError(f"{text!r} has no prefix length from 0 to {longest} behind its slash")
    return address, int(bits)


def network_of(address: bytes, prefix_bits: int) -> bytes:
    """Return the address with all bits behind its prefix cleared."""
    size = len(address)
    return (int.from_bytes(address, "big") & mask(prefix_bits, size)).to_bytes(size, "big")


def interface_address(text: str) -> InterfaceAddress:
    """Read an address with its prefix, as it is given to an interface.

    Raises ``ValueError`` where it is no address that a host can have.

    >>> interface_address("10.9.0.2/24").broadcast
    b'\\n\\t\\x00\\xff'
    """
    address, prefix_bits = parse_prefix(text)
    size = len(address)
    if is_multicast(address) or address in (ANY4, ANY6, BROADCAST4):
        raise ValueError(f"{format_ip(address)} is not an address that one host can have")
    network = network_of(address, prefix_bits)
    broadcast = None
    if size == 4 and prefix_bits < 31:
        broadcast = (int.from_bytes(network, "big") | (0xFFFF_FFFF >> prefix_bits)).to_bytes(4, "big")
        if address in (broadcast, network) and address[0] != 127:
            raise ValueError(f"{text} is its network's own or its broadcast address, not a host's")
    return InterfaceAddress(address, prefix_bits, network, broadcast)


def is_multicast(address: bytes) -> bool:
    """Whether an address is a group's: 224.0.0.0/4 (RFC 1112) or ff00::/8 (RFC 4291)."""
    return address[0] >> 4 == 14 if len(address) == 4 else address[0] == 0xFF


def is_loopback(address: bytes) -> bool:
    """Whether an address never leaves a host: 127.0.0.0/8 (RFC 1122 section 3.2.1.3) or ::1."""
    return address[0] == 127 if len(address) == 4 else address == _LOOPBACK6


def is_link_local(address: bytes) -> bool:
    """Whether an address means something on one link only: 169.254.0.0/16 (RFC 3927) or fe80::/10."""
    if len(address) == 4:
        return address[:2] == b"\xa9\xfe"
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def link_local_of(mac: bytes) -> bytes:
    """Return the link-local IPv6 address that is made from a MAC address (RFC 4291 appendix A).

    >>> link_local_of(bytes.fromhex("02005e102030")).hex()
    'fe8000000000000000005efffe102030'
    """
    return _LINK_LOCAL_PREFIX + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


_LOOPBACK6: Final = bytes(15) + b"\x01"
_LINK_LOCAL_PREFIX: Final = LINK_LOCAL6 + bytes(6)


class Interface:
    """One interface of a host. ``mac`` is None on a point-to-point IP link and on the loopback."""

    __slots__ = (
        "addresses",
        "by_value",
        "bytes_received",
        "bytes_sent",
        "frames_received",
        "frames_sent",
        "groups",
        "index",
        "is_loopback",
        "mac",
        "mtu_bytes",
        "name",
        "offload",
    )

    def __init__(
        self,
        index: int,
        name: str,
        *,
        mac: bytes | None,
        mtu_bytes: int,
        offload: bool,
        is_loopback: bool = False,
        by_value: bool = False,
    ) -> None:
        if mac is not None and (len(mac) != 6 or mac[0] & 1):
            raise ValueError(f"{mac.hex(':')} is not the MAC address of one station")
        if not SMALLEST_MTU4_BYTES <= mtu_bytes <= LARGEST_PACKET_BYTES:
            raise ValueError(f"an MTU of {mtu_bytes} bytes is not from {SMALLEST_MTU4_BYTES} to {LARGEST_PACKET_BYTES}")
        self.index = index
        self.name = name
        self.mac = mac
        self.mtu_bytes = mtu_bytes
        self.offload = offload
        self.is_loopback = is_loopback
        self.by_value = by_value
        self.addresses: list[InterfaceAddress] = []
        self.groups: dict[bytes, int] = {}  # how often each group was joined
        self.frames_received = 0
        self.frames_sent = 0
        self.bytes_received = 0
        self.bytes_sent = 0

    def add_addresses(self, texts: Sequence[str]) -> list[InterfaceAddress]:
        """Read and keep addresses; none is kept where one of them is wrong (``ValueError``, or EEXIST)."""
        added = [interface_address(text) for text in texts]
        known = {each.address for each in self.addresses}
        for each in added:
            if each.address in known:
                raise OSError(errno.EEXIST, f"{self.name} has {format_ip(each.address)} already")
            if len(each.address) == 16 and self.mtu_bytes < SMALLEST_MTU6_BYTES:
                raise ValueError(f"IPv6 needs an MTU of {SMALLEST_MTU6_BYTES} bytes; {self.name} has {self.mtu_bytes}")
            known.add(each.address)
        self.addresses += added
        return added

    def has_version(self, address_bytes: int) -> bool:
        """Whether the interface has an address of a family, told by the length of its addresses."""
        return any(len(each.address) == address_bytes for each in self.addresses)

    def source_for(self, destination: bytes, usable: Container[bytes]) -> bytes | None:
        """Choose the usable address to send from: of the same scope, and with the longest prefix in common.

        It is RFC 6724 section 5, rules 1, 2 and 8; for IPv4 (RFC 1122 section 3.3.4.3) they do as well.
        """
        size = len(destination)
        wanted = int.from_bytes(destination, "big")
        local = is_link_local(destination) or (size == 16 and is_multicast(destination) and destination[1] & 0xF == 2)
        best: bytes | None = None
        best_score = -1
        for each in self.addresses:
            if len(each.address) != size or each.address not in usable:
                continue
            common = size * 8 - (wanted ^ int.from_bytes(each.address, "big")).bit_length()
            score = min(common, each.prefix_bits)
            if is_link_local(each.address) == local:
                score += 1000  # more than any prefix
            if score > best_score:
                best, best_score = each.address, score
        return best

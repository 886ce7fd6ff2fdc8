"""Addresses as programs write them, and as the stack has them.

This file knows the tuples of the ``socket`` module (``("10.9.0.2", 80)``, ``("fd00::2", 80, 0, 0)``) and pairs of
packed bytes and a port.  It does not know how a name is found: it is handed someone who does.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from ..wire import format_ip, parse_ip

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
Pair: TypeAlias = tuple[bytes, int]
Resolve: TypeAlias = Callable[[str, int], bytes]

WILDCARD: Final = {socket.AF_INET: bytes(4), socket.AF_INET6: bytes(16)}
LOOPBACK: Final = {socket.AF_INET: bytes([127, 0, 0, 1]), socket.AF_INET6: bytes(15) + b"\x01"}
_FAMILY_OF: Final = {4: socket.AF_INET, 16: socket.AF_INET6}
_BROADCAST: Final = b"\xff" * 4
# An IPv4 address as an IPv6 socket writes it: RFC 4291, 2.5.5.2.
_MAPPED: Final = bytes(10) + b"\xff\xff"


def to_pair(address: Any, family: int, resolve: Resolve, call: str) -> Pair:
    """The packed address and the port of what a program gave `call` for an address of `family`.

    TypeError, OverflowError and ``socket.gaierror`` come as from a socket of the kernel's.
    """
    if not isinstance(address, tuple):
        raise TypeError(f"{call}(): {_name(family)} address must be tuple, not {type(address).__name__}")
    if not (len(address) == 2 or (family == socket.AF_INET6 and 2 <= len(address) <= 4)):
        raise TypeError(f"{call}(): {_name(family)} address must be a pair (host, port)")
    host, port = address[0], address[1]
    if not isinstance(port, int):
        raise TypeError(f"an integer is required (got type {type(port).__name__})")
    if not 0 <= port <= 65535:
        raise OverflowError(f"{call}(): port must be 0-65535.")
    if any(not isinstance(each, int) for each in address[2:]):
        raise TypeError("flowinfo and scope are integers")
    if len(address) > 2 and not 0 <= address[2] <= 0xFFFFF:
        raise OverflowError(f"{call}(): flowinfo must be 0-1048575.")
    if isinstance(host, bytes | bytearray):
        host = host.decode("ascii")
    if not isinstance(host, str):
        raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")
    if "\0" in host:
        raise TypeError("host name must not contain null character")
    if host == "":
        return WILDCARD[socket.AddressFamily(family)], port
    if host == "<broadcast>" and family == socket.AF_INET:
        return _BROADCAST, port
    packed = packed_ip(host) or packed_loosely(host)
    if packed is None:
        packed = resolve(host, family)
    elif _FAMILY_OF[len(packed)] != family:
        raise socket.gaierror(socket.EAI_ADDRFAMILY, "Address family for hostname not supported")
    if packed[:12] == _MAPPED:
        packed = packed[12:]
    return packed, port


def to_tuple(pair: Pair, family: int) -> Address:
    """The tuple of the ``socket`` module for an address of the stack, as a socket of `family` tells it."""
    packed, port = pair
    if family == socket.AF_INET:
        return format_ip(packed), port
    if len(packed) == 4:
        return f"::ffff:{format_ip(packed)}" if any(packed) else "::", port, 0, 0
    return format_ip(packed), port, 0, 0


def named(packed: bytes) -> bytes:
    """The address meant by one that a program sends to: Linux takes the unspecified address for this machine."""
    return packed if any(packed) else LOOPBACK[_FAMILY_OF[len(packed)]]


def packed_ip(text: str) -> bytes | None:
    """The bytes of a numeric address; None for a name. A zone (``fe80::1%eth0``) is passed over: hosts have few."""
    try:
        return parse_ip(text.partition("%")[0])
    except ValueError:
        return None


def packed_loosely(text: str) -> bytes | None:
    """The bytes of an IPv4 address in one of inet_aton(3)'s ways: ``127.1``, ``0x7f.1``, ``2130706433``, ``0``."""
    parts = text.split(".")
    if len(parts) > 4:
        return None
    try:
        numbers = [_number(part) for part in parts]
    except ValueError:
        return None
    last = numbers.pop()
    if any(number > 255 for number in numbers) or last >= 1 << 8 * (4 - len(numbers)):
        return None
    return bytes(numbers) + last.to_bytes(4 - len(numbers), "big")


def _number(digits: str) -> int:
    """As C writes them: hexadecimal behind 0x, octal behind 0."""
    if not digits.isascii() or not digits.isalnum():
        raise ValueError(digits)
    if digits[:2] in ("0x", "0X"):
        return int(digits[2:], 16)
    return int(digits, 8 if digits[0] == "0" else 10)


def _name(family: int) -> str:
    return socket.AddressFamily(family).name

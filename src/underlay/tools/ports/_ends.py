"""One end of a socket as a filter names it: a port, a range, an address, a network, or an address and a port.

This file knows the spellings and what is wrong with a bad one. It refuses to know sockets' other properties.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from ...errors import UsageError
from ._socket import WILDCARDS, interface_name

if TYPE_CHECKING:
    import ipaddress

__all__ = ["End", "parse_end", "parse_port"]

_HIGHEST_PORT: Final = 65_535  # 16 bits: RFC 9293, 3.1; RFC 768
_LIKE: Final = "write it like 8080, 8000-8010, 10.0.0.0/8, 127.0.0.1:8080 or [::1]:8080"


# A named tuple, and no dataclass: `dataclasses` takes longer to import than a list of sockets to make.
class End(NamedTuple):
    """What an address and a port have to be; None for any."""

    first_port: int = 0
    last_port: int = _HIGHEST_PORT
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    is_wildcard: bool = False
    interface: str = ""
    """The name of the only interface that the socket is bound to; empty for any or none."""

    def matches(self, address: str, port: int, interface: int = 0) -> bool:
        """Tell whether this is the end that is meant, of a socket that is bound to this interface.

        An IPv4 peer of an IPv6 socket (``::ffff:10.1.2.3``) is in the IPv4 networks that it is in.

        >>> parse_end("10.0.0.0/8").matches("::ffff:10.1.2.3", 80), parse_end("80").matches("127.0.0.1", 8080)
        (True, False)
        """
        if not self.first_port <= port <= self.last_port:
            return False
        if self.interface and (not interface or interface_name(interface) != self.interface):
            return False
        if self.is_wildcard:
            return address in WILDCARDS
        if self.network is None:
            return True
        import ipaddress

        ip = ipaddress.ip_address(address)
        mapped = ip.ipv4_mapped if ip.version == 6 else None
        return ip in self.network or (mapped is not None and mapped in self.network)


def parse_end(text: str) -> End:
    """Read one end; `UsageError` for anything that is none.

    >>> parse_end("8000-8010").last_port, str(parse_end("[::1]:80").network)
    (8010, '::1/128')
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise UsageError(f"{text!r} is no address in brackets", remedy=_LIKE)
        return _with_network(host, rest[1:] or None, text)
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return _with_network(host, port, text)
    if text == "*" or ":" in text or "." in text or "/" in text:
        return _with_network(text, None, text)
    return _with_ports(text, End())


def _with_network(host: str, port: str | None, text: str) -> End:
    if port == "":
        raise UsageError(f"{text!r} has a colon and no port", remedy=_LIKE)
    host, percent, interface = host.partition("%")  # as in fe80::1%eth0 (RFC 4007, 11) and in 127.0.0.53%lo
    if percent and not interface:
        raise UsageError(f"{text!r} has a percent sign and no interface", remedy="write it like fe80::1%eth0")
    if host in ("*", ""):
        end = End(is_wildcard=host == "*")
    else:
        import ipaddress

        try:
            end = End(network=ipaddress.ip_network(host))
        except ValueError as error:
            reason = (
                "has bits set beyond its prefix" if "host bits" in str(error) else "is no IP address and no network"
            )
            raise UsageError(f"{host!r} {reason}", remedy=_LIKE) from None
    end = end._replace(interface=interface)
    return end if port is None else _with_ports(port, end)


def _with_ports(text: str, end: End) -> End:
    first, dash, last = text.partition("-")
    if dash and _is_number(first) and _is_number(last):
        lowest, highest = parse_port(first), parse_port(last)
        if lowest > highest:
            raise UsageError(f"{text!r} ends before it begins", remedy=f"{last}-{first} is the range")
    else:
        lowest = highest = parse_port(text)
    return end._replace(first_port=lowest, last_port=highest)


def parse_port(text: str, protocol: str = "tcp") -> int:
    """Read a port's number, or its name in /etc/services.

    >>> parse_port("8080")
    8080
    """
    if _is_number(text):
        # int() of thousands of digits is refused by Python itself; no port has more than five.
        if len(text) > 5 or int(text) > _HIGHEST_PORT:
            raise UsageError(f"{text[:20]} is no port", remedy=f"a port is between 0 and {_HIGHEST_PORT}")
        return int(text)
    try:
        return socket.getservbyname(text, protocol)
    except (OSError, ValueError):  # ValueError: a NUL in it
        raise UsageError(
            f"{text!r} is no port, no address and no service that /etc/services knows", remedy=_LIKE
        ) from None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()

"""Addresses as people write them, and back: HOST:PORT, [IPv6]:PORT, PORT, unix:PATH.

This file knows the spellings and what is wrong with a bad one. It refuses to
open a socket or to ask a name server; a service's name (``http``) is looked up
in /etc/services.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError

__all__ = ["Address", "Place", "UnixPath", "bound_to", "parse", "parse_host", "parse_source", "written"]

_HIGHEST_PORT = 65_535  # 16 bits: RFC 9293, 3.1; RFC 768
# sun_path has 108 bytes, the last a NUL: unix(7).
_LONGEST_PATH_BYTES = 107

_EXAMPLE = "write it like localhost:8888, [::1]:8888 or unix:/run/app.sock"


@dataclass(frozen=True, slots=True)
class Place:
    """A host and a port of TCP or UDP. An empty host is every address of this machine.

    >>> str(Place("::1", 80)), str(Place("", 80))
    ('[::1]:80', '*:80')
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host or '*'}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A Unix socket. ``unix:@name`` is one without a file, in Linux's abstract namespace (unix(7)).

    >>> UnixPath("@app").address
    '\\x00app'
    """

    path: str

    @property
    def address(self) -> str:
        """What bind(2) and connect(2) take."""
        return "\0" + self.path[1:] if self.path.startswith("@") else self.path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = Place | UnixPath


def parse(words: Sequence[str], *, unix: bool = False, udp: bool = False, listening: bool = False) -> Address:
    """Read an address from the command line: one word, or a host and a port as netcat takes them.

    ``unix`` says that the word is a path even without ``unix:``. Only a listener
    may leave the host out or choose port 0, which lets the kernel choose.
    Raises ``UsageError`` for anything that is no address.

    >>> parse(["[::1]:80"]), parse(["localhost", "80"]), parse(["unix:/tmp/s"])
    (Place(host='::1', port=80), Place(host='localhost', port=80), UnixPath(path='/tmp/s'))
    >>> parse(["8888"], listening=True)
    Place(host='', port=8888)
    """
    text = words[0]
    if len(words) == 2:
        if unix or text.startswith("unix:"):
            raise UsageError("a Unix socket has a path and no port", remedy=_EXAMPLE)
        return Place(_name(_bare_host(text)), _port(words[1], udp=udp, lowest=0 if listening else 1))
    if unix or text.startswith("unix:"):
        return _unix_path(text.removeprefix("unix:"))
    host, port = _split(text)
    if port is None and listening and ":" not in text:
        host, port = "", text
    if port is None:
        raise UsageError(f"{text!r} has no port", remedy=_EXAMPLE)
    if not host and not listening:
        raise UsageError(f"{text!r} has no host", remedy=_EXAMPLE)
    return Place("" if host == "*" else _name(host), _port(port, udp=udp, lowest=0 if listening else 1))


def parse_source(text: str) -> Place:
    """Read ``ADDRESS`` or ``ADDRESS:PORT`` for ``--source``; without a port the kernel chooses one.

    >>> parse_source("127.0.0.1"), parse_source("[fe80::1%eth0]:4000")
    (Place(host='127.0.0.1', port=0), Place(host='fe80::1%eth0', port=4000))
    """
    host, port = parse_host(text)
    return Place(host, port or 0)


def parse_host(text: str) -> tuple[str, int | None]:
    """Read ``HOST`` or ``HOST:PORT``, where the port is None if there is none: 0 may mean something.

    >>> parse_host("lab.example"), parse_host("[::1]:0")
    (('lab.example', None), ('::1', 0))
    """
    if _is_ip(bare := _bare_host(text)):
        return bare, None
    host, port = _split(text)
    return _name(host), None if port is None else _port(port, udp=False, lowest=0)


def written(address: object) -> str:
    """Write the address that a socket gives (``getpeername``) as a person would.

    An IPv4 peer of a socket that serves both families shows as what it is.

    >>> written(("::ffff:127.0.0.1", 80, 0, 0)), written(("::1", 80, 0, 0)), written("")
    ('127.0.0.1:80', '[::1]:80', 'a Unix socket without a name')
    """
    if isinstance(address, tuple) and len(address) >= 2:
        return str(Place(str(address[0]).removeprefix("::ffff:"), int(address[1])))
    if isinstance(address, bytes):  # the abstract namespace
        address = address.decode(errors="backslashreplace")
    if isinstance(address, str) and address:
        return str(UnixPath("@" + address[1:] if address.startswith("\0") else address))
    return "a Unix socket without a name"


def bound_to(sock: socket.socket) -> str:
    """Write the address that a socket is bound to; ``*`` where it hears IPv4 and IPv6, as `Place` writes it.

    >>> with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both:
    ...     bound_to(both)[:2]
    '*:'
    """
    address = sock.getsockname()
    is_every = sock.family == socket.AF_INET6 and address[0] == "::"
    if is_every and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return str(Place("", address[1]))
    return written(address)


def _split(text: str) -> tuple[str, str | None]:
    """Part a host from its port; None where there is no port."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or not _is_ip(host):
            raise UsageError(f"{text!r} is no IPv6 address in brackets", remedy=_EXAMPLE)
        return host, rest[1:] if rest else None
    if text.count(":") > 1:
        raise UsageError(
            f"{text!r} leaves open where the address ends and the port begins",
            remedy="put an IPv6 address in brackets, like [::1]:8888",
        )
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _bare_host(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _name(host: str) -> str:
    """Give back a host's name that can be asked for (RFC 1035, 2.3.4; RFC 3490)."""
    try:
        host.encode("idna")
    except UnicodeError:
        raise UsageError(f"{host!r} is no name of a host", remedy="between dots it has 1 to 63 letters") from None
    return host


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    # Behind % it takes anything for the name of an interface, a bracket and a port too: `%eth0]:80`.
    return not set("]:") & set(text.partition("%")[2])


def _port(text: str, *, udp: bool, lowest: int) -> int:
    """Read a port's number, or its name in /etc/services."""
    if text.isascii() and text.isdigit():
        number = int(text)
        if not lowest <= number <= _HIGHEST_PORT:
            raise UsageError(f"{text} is no port", remedy=f"a port is between {lowest} and {_HIGHEST_PORT}")
        return number
    try:
        return socket.getservbyname(text, "udp" if udp else "tcp")
    except OSError:
        raise UsageError(
            f"{text!r} is no port and no service that /etc/services knows",
            remedy=f"a port is a number between {lowest} and {_HIGHEST_PORT}",
        ) from None


def _unix_path(path: str) -> UnixPath:
    if not path or path == "@":
        raise UsageError("a Unix socket needs a path", remedy=_EXAMPLE)
    if len(path.encode()) > _LONGEST_PATH_BYTES:
        raise UsageError(
            f"the path of a Unix socket has at most {_LONGEST_PATH_BYTES} bytes, and this one has {len(path.encode())}",
            remedy="change to its directory and give the path from there",
        )
    return UnixPath(path)

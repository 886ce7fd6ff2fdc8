"""Names on a host: ``socket.getaddrinfo`` and its like, answered by the world's names and by nobody else.

This file knows the calls that look a name or an address up without awaiting. It refuses to know where names come from
(`World.names`) and how an answer is made of them (``loop/_stack_names.py``).
"""

from __future__ import annotations

import _socket
import socket
from typing import TYPE_CHECKING, Any, Final

from . import _turn
from ._stand_ins import replace

if TYPE_CHECKING:
    from ._host import Host

# Names that a note lists before it says how many there are besides.
_MOST_LISTED: Final = 8


def look_up(here: Host, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
    """What ``socket.getaddrinfo`` says on `here`; ``socket.gaierror`` as Linux has it for a name of nobody."""
    answer = here.loop.names.getaddrinfo(host, port, family, type, proto, flags)
    try:
        with _turn.of(None):  # numeric addresses are read by the C library
            answer.send(None)
    except StopIteration as stop:
        return stop.value
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            error.add_note(_who_is_known(here, host))
        raise
    answer.close()
    raise AssertionError("a world's names are at hand, and nobody is asked for them")


def _who_is_known(here: Host, host: object) -> str:
    names = list(here.world.names)
    rest = len(names) - _MOST_LISTED
    listed = ", ".join(names[:_MOST_LISTED]) + (f" and {rest} others" if rest > 0 else "")
    return f"on the simulated host {here.name} {host!r} is nobody's name; a world asks no real DNS, and knows: {listed}"


def _by_name(here: Host, hostname: Any, /) -> str:
    return str(look_up(here, hostname, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])


def _by_name_ex(here: Host, hostname: Any, /) -> tuple[str, list[str], list[str]]:
    found = look_up(here, hostname, None, socket.AF_INET, socket.SOCK_STREAM)
    return str(hostname), [], [each[4][0] for each in found]


def _by_address(here: Host, ip_address: Any, /) -> tuple[str, list[str], list[str]]:
    address = look_up(here, ip_address, None, 0, socket.SOCK_STREAM)[0][4][0]
    name = _name_of(here, address)
    if name is None:
        raise socket.herror(1, "Unknown host")
    return name, [], [address]


def _name_of(here: Host, address: str) -> str | None:
    if address in ("127.0.0.1", "::1"):
        return "localhost"
    for name, addresses in here.world.names.items():
        if address in addresses:
            return name
    return None


def _info_of(here: Host, sockaddr: Any, flags: int, /) -> tuple[str, str]:
    with _turn.of(None):
        host, service = _socket.getnameinfo(sockaddr, flags & ~socket.NI_NAMEREQD | socket.NI_NUMERICHOST)
    name = None if flags & socket.NI_NUMERICHOST else _name_of(here, host)
    if name is None and flags & socket.NI_NAMEREQD:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return name or host, service


for _original in (socket.getaddrinfo, _socket.getaddrinfo):
    replace(_original, look_up)
replace(socket.gethostbyname, _by_name)
replace(socket.gethostbyname_ex, _by_name_ex)
replace(socket.gethostbyaddr, _by_address)
replace(socket.getnameinfo, _info_of)

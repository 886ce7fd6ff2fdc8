"""Names on a user-space network: ``getaddrinfo`` as a stub resolver answers it.

This file knows numeric addresses, the names that the network was given, ``localhost``, /etc/hosts, and how a name
server is asked (RFC 1035, RFC 5452).  It does not know sockets' insides: it asks through the loop's own.

No cache: a program that asks often has one, and a name server answers within a round trip.
"""

from __future__ import annotations

import asyncio
import secrets
import select
import socket
import types
from collections.abc import Coroutine, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..wire import DNS_A, DNS_AAAA, DNS_NAME_ERROR, DnsMessage, WireError, build_dns_query, format_ip, parse_dns
from ._stack_address import LOOPBACK, WILDCARD, packed_ip

if TYPE_CHECKING:
    from ._bridge import Bridge
    from ._io_stack import StackLoop

_PORT: Final = 53
# resolv.conf(5): wait 5 s for an answer, try each server twice.
_TIMEOUT_S: Final = 5.0
_ATTEMPTS: Final = 2
# RFC 6891, 6.2.5: what any host takes undivided over Ethernet; without EDNS an answer has 512 bytes at most.
_ANSWER_BYTES: Final = 1232
# A chain of aliases longer than this is a loop: RFC 1034, 3.6.2 asks for a limit.
_MOST_ALIASES: Final = 8

# As plain numbers: the complement of a flag of the enum has the enum's other flags only.
_CANONNAME: Final = int(socket.AI_CANONNAME)
_ADDRCONFIG: Final = int(socket.AI_ADDRCONFIG)

# The C library's, which a loop of the stack puts its own in front of.
library_getaddrinfo: Final = socket.getaddrinfo

library_gethostbyname: Final = socket.gethostbyname
library_gethostbyname_ex: Final = socket.gethostbyname_ex
_READABLE: Final = select.POLLIN

_RECORD: Final = {socket.AF_INET: DNS_A, socket.AF_INET6: DNS_AAAA}


class Names:
    """Answers ``getaddrinfo`` for one network, on one loop."""

    def __init__(self, bridge: Bridge, loop: StackLoop) -> None:
        self._bridge = bridge
        self._loop = loop

    def getaddrinfo_now(self, host: Any, port: Any, family: int, type: int, proto: int, flags: int) -> list[Any]:
        """The same as `getaddrinfo` for who can't await: the stack is driven meanwhile, but no other task."""
        steps = self.getaddrinfo(host, port, family, type, proto, flags, wait=False)
        try:
            steps.send(None)
        except StopIteration as done:
            found: list[Any] = done.value
            return found
        raise AssertionError("looking up a name without waiting has waited")

    async def getaddrinfo(
        self, host: Any, port: Any, family: int, type: int, proto: int, flags: int, *, wait: bool = True
    ) -> list[Any]:
        """A list of (family, type, proto, canonical name, address), as ``socket.getaddrinfo``; its errors too.

        Without ``wait`` it blocks instead of awaiting.
        """
        if isinstance(host, str) and ":" in host:
            host = host.partition("%")[0]  # a zone: hosts of the stack have few interfaces
        try:
            return _numeric(host, port, family, type, proto, flags)
        except socket.gaierror as error:
            if error.errno != socket.EAI_NONAME or host is None or flags & socket.AI_NUMERICHOST:
                raise
        name = (host.encode("idna") if isinstance(host, str) else bytes(host)).decode("ascii", "replace")
        families = [each for each in (socket.AF_INET, socket.AF_INET6) if family in (socket.AF_UNSPEC, each)]
        mapped = family == socket.AF_INET6 and bool(flags & socket.AI_V4MAPPED)
        wanted = [socket.AF_INET, *families] if mapped else families
        addresses = await self._addresses(name.rstrip(".").lower(), wanted, wait=wait)
        if mapped and not flags & socket.AI_ALL and any(len(address) == 16 for address in addresses):
            addresses = [address for address in addresses if len(address) == 16]
        found: list[Any] = []
        for address in addresses:
            found += _numeric(format_ip(address), port, family, type, proto, flags & ~_CANONNAME)
        if flags & socket.AI_CANONNAME:
            found[0] = (*found[0][:3], name, found[0][4])
        return found

    async def _addresses(self, name: str, families: Sequence[socket.AddressFamily], *, wait: bool) -> list[bytes]:
        bridge = self._bridge
        found = [out for each in families for out in known_addresses(bridge.names, name, each, bridge.hosts_file)]
        if not found and name and bridge.name_servers:
            asked = [self._ask(name, each, wait=wait) for each in families]
            if wait:
                answers = await asyncio.gather(*asked, return_exceptions=True)
            else:
                answers = self._together(asked)
            found = [address for answer in answers if not isinstance(answer, BaseException) for address in answer]
            failures = [answer for answer in answers if isinstance(answer, BaseException)]
            if failures and not found:
                raise failures[0]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    def _together(self, asked: Sequence[Coroutine[Any, None, list[bytes]]]) -> list[list[bytes] | BaseException]:
        """What gather() gives with ``return_exceptions``, without a loop: all are asked at once."""
        answers: list[list[bytes] | BaseException] = [[] for _ in asked]
        left = dict(enumerate(asked))
        while left:
            paused: list[tuple[Any, float]] = []
            for place, steps in list(left.items()):
                try:
                    paused.append(steps.send(None))
                    continue
                except StopIteration as done:
                    answers[place] = done.value
                except socket.gaierror as error:
                    answers[place] = error
                del left[place]
            if paused:
                limit_s = max(min(end_s for _, end_s in paused) - self._bridge.now(), 0.0)
                socks = [sock for sock, _ in paused]
                self._bridge.pump_until(lambda socks=socks: any(sock.readiness(_READABLE) for sock in socks), limit_s)  # type: ignore[misc]
        return answers

    # --- the name server ------------------------------------------------------------------------------------

    async def _ask(self, name: str, family: socket.AddressFamily, *, wait: bool) -> list[bytes]:
        """The addresses that a server has for the name; [] where it has none, EAI_AGAIN where none answers."""
        if not self._bridge.name_servers:
            return []
        for _ in range(_ATTEMPTS):
            for server in self._bridge.name_servers:
                answer = await self._exchange(server, name, _RECORD[family], wait=wait)
                if answer is not None and answer.rcode in (0, DNS_NAME_ERROR):
                    return _addresses_in(answer, name, _RECORD[family])
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    async def _exchange(self, server: str, name: str, record: int, *, wait: bool) -> DnsMessage | None:
        identification = secrets.randbits(16)
        try:
            query = build_dns_query(identification, name, record)
        except WireError:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        # A port of its own for each question is half of what keeps a stranger from answering: RFC 5452, 9.2.
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((server, _PORT))
                sock.send(query)
                end_s = self._bridge.now() + _TIMEOUT_S
                while (left_s := end_s - self._bridge.now()) > 0:
                    message = _parsed(await self._receive(sock, left_s, wait=wait))
                    if message is not None and _answers(message, identification, name, record):
                        return message
                return None
            except OSError:  # TimeoutError among them: the next server may know
                return None

    async def _receive(self, sock: socket.socket, limit_s: float, *, wait: bool) -> bytes:
        sock.settimeout(0.0)
        end_s = self._bridge.now() + limit_s
        while not wait:
            try:
                return sock.recv(_ANSWER_BYTES)
            except BlockingIOError:
                if self._bridge.now() >= end_s:
                    raise TimeoutError from None
                await _pause(sock, end_s)
        async with asyncio.timeout(limit_s):
            return await self._loop.sock_recv(sock, _ANSWER_BYTES)


@types.coroutine
def _pause(sock: socket.socket, end_s: float) -> Generator[tuple[socket.socket, float], None, None]:
    """Let the other questions go on until `sock` has something, or it is `end_s`."""
    yield sock, end_s


def _numeric(host: Any, port: Any, family: int, type: int, proto: int, flags: int) -> list[Any]:
    """What the C library says of a host that needs no looking up, or of none; EAI_NONAME for a name.

    It asks nobody for that. AI_ADDRCONFIG is about the kernel's interfaces, which are not those of the stack.
    """
    return library_getaddrinfo(host, port, family, type, proto, (flags | socket.AI_NUMERICHOST) & ~_ADDRCONFIG)


def known_addresses(
    names: Mapping[str, Sequence[str]], host: str, family: socket.AddressFamily, hosts_file: str
) -> list[bytes]:
    """What nobody need be asked for: ``localhost`` (RFC 6761, 6.3), the network's own ``names``, and hosts(5)."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return [LOOPBACK[family]]
    packed = (packed_ip(each) for each in (*names.get(name, ()), *_hosts_file(hosts_file).get(name, ())))
    return [each for each in packed if each is not None and len(each) == len(WILDCARD[family])]


def _parsed(data: bytes) -> DnsMessage | None:
    try:
        return parse_dns(data)
    except WireError:
        return None  # a broken answer is none; the real one may still come


def _answers(message: DnsMessage, identification: int, name: str, record: int) -> bool:
    if not message.is_response or message.identification != identification or len(message.questions) != 1:
        return False
    question = message.questions[0]
    return question.name.lower() == name and question.type == record


def _addresses_in(message: DnsMessage, name: str, record: int) -> list[bytes]:
    """The addresses of `name` in an answer, its aliases followed."""
    names = {name}
    for _ in range(_MOST_ALIASES):
        aliases = {
            answer.value.lower()
            for answer in message.answers
            if isinstance(answer.value, str) and answer.name.lower() in names
        }
        if aliases <= names:
            break
        names |= aliases
    return [
        answer.value
        for answer in message.answers
        if answer.type == record and isinstance(answer.value, bytes) and answer.name.lower() in names
    ]


def _hosts_file(path: str) -> dict[str, list[str]]:
    """Names and addresses of hosts(5); nothing where it can't be read, or there is none ("")."""
    names: dict[str, list[str]] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                address, *aliases = line.partition("#")[0].split() or [""]
                for alias in aliases:
                    names.setdefault(alias.lower(), []).append(address)
    except OSError:
        pass
    return names

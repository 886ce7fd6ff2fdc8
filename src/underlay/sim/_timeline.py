"""What happened to each host of a world: its boots, its faults, its connections, what it logged, in virtual time.

This file knows the lines of a timeline, and how many of them are kept. It refuses to know in which file they end.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from ..wire import ACK, FIN, RST, SYN, WireError, format_ip, parse_ipv4, parse_ipv6, parse_tcp
from ._faults import FAULT, Applied, Fault
from ._host import HOST
from ._internet import PACKET, Way

if TYPE_CHECKING:
    from ._world import World

LIMIT_LINES: Final = 2_000
"""How many lines of a host are kept, the last ones."""
# Beyond so many hosts each gets fewer lines, or a large world would need a large memory.
_MANY_HOSTS: Final = 50
_FEW_LINES: Final = 100
# What a line has of a log record: some say more than anybody reads.
_MESSAGE_CHARACTERS: Final = 500
_TCP: Final = 6
_ETHERNET_BYTES: Final = 14


class Line(NamedTuple):
    """One line; ``number`` orders those of one instant."""

    number: int
    at_s: float
    host: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.at_s:>14.6f}  {self.host:<12}  {self.what:<5}  {self.text}"


class _Lines:
    def __init__(self, most: int) -> None:
        self.kept: deque[Line] = deque(maxlen=most)
        self.written = 0


class Timeline:
    """Listens to one world for the length of `listening`."""

    def __init__(self, world: World, limit_lines: int = LIMIT_LINES) -> None:
        self._world = world
        self._limit_lines = limit_lines
        self._hosts: dict[str, _Lines] = {}
        self._number = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Write down what the world's probes and the programs' loggers say; loggers say all from INFO on."""
        root, handler = logging.getLogger(), _Logs(self)
        level = root.level
        if level > logging.INFO:
            root.setLevel(logging.INFO)
        root.addHandler(handler)
        try:
            with PACKET.listening(self._packet), FAULT.listening(self._fault), HOST.listening(self._host):
                yield
        finally:
            root.removeHandler(handler)
            if level > logging.INFO:
                root.setLevel(level)

    def add(self, host: str, what: str, text: str) -> None:
        """Write a line, at the world's time."""
        lines = self._hosts.get(host)
        if lines is None:
            most = self._limit_lines if len(self._hosts) < _MANY_HOSTS else min(_FEW_LINES, self._limit_lines)
            lines = self._hosts[host] = _Lines(most)
        self._number += 1
        lines.written += 1
        lines.kept.append(Line(self._number, self._world.now, host, what, text))

    def hosts(self) -> list[str]:
        """Those of whom something is told."""
        return list(self._hosts)

    def lines(self, host: str | None = None) -> Iterator[str]:
        """The lines of one host or of all, in order; first, how many earlier ones were not kept."""
        chosen = [self._hosts[host]] if host is not None else list(self._hosts.values())
        for lines in chosen:
            if lines.written > len(lines.kept):
                unkept, name = lines.written - len(lines.kept), lines.kept[0].host
                yield f"({unkept} earlier lines of {name} were not kept: only the last {lines.kept.maxlen})"
        yield from map(str, heapq.merge(*(lines.kept for lines in chosen)))

    # --- what is heard --------------------------------------------------------------------------------------

    def _host(self, world: object, host: str, text: str) -> None:
        if world is self._world:
            self.add(host, "host", text)

    def _fault(self, log: object, applied: Applied) -> None:
        if log is self._world.faults:
            number = "" if applied.number is None else f" (drawn, number {applied.number})"
            for host in _concerned(applied.fault) or list(self._world.hosts):
                self.add(host, "fault", f"{applied.fault}{number}")

    def _packet(self, internet: object, way: Way, direction: str, data: bytes, comment: str) -> None:
        if internet is not self._world.internet:
            return
        if way.is_ethernet:
            data = data[_ETHERNET_BYTES:]
        try:
            told = _of_connection(data, direction) if data else ""
        except WireError:
            return  # it was corrupted on its way, or is no IP packet; the capture has it
        if told:
            ends = (way.sender, way.target) if direction == "out" else (way.target, way.sender)
            host = next(end for end in ends if end in self._world.hosts)  # the other may be a LAN
            self.add(host, "tcp", f"{told}, {comment}" if comment else told)


def _concerned(fault: Fault) -> list[str]:
    """The hosts that a fault is about; none where it is about all."""
    host = getattr(fault, "host", None)
    if host is not None:
        return [host]
    return [*getattr(fault, "ones", ()), *getattr(fault, "others", ())]


# What is told of a connection is what opens and ends it; data is in the capture.
_SENT: Final = {SYN: "connects to", SYN | ACK: "accepts", FIN: "sends its FIN to", RST: "resets"}
_RECEIVED: Final = {SYN: "is called", SYN | ACK: "is accepted", FIN: "gets a FIN", RST: "is reset"}


def _of_connection(data: bytes, direction: str) -> str:
    if data[0] >> 4 == 4:
        ipv4 = parse_ipv4(data, verify=False)
        source, destination, protocol, start = ipv4.source, ipv4.destination, ipv4.protocol, ipv4.header_bytes
    else:
        ipv6 = parse_ipv6(data)
        source, destination, protocol, start = ipv6.source, ipv6.destination, ipv6.transport, ipv6.header_bytes
    if protocol != _TCP:
        return ""
    segment = parse_tcp(data, start)  # what is wrong with a checksum is not for here
    flags = segment.flags
    which = RST if flags & RST else FIN if flags & FIN else flags & (SYN | ACK) if flags & SYN else 0
    if not which:
        return ""
    sender = f"{format_ip(source)}:{segment.source_port}"
    target = f"{format_ip(destination)}:{segment.destination_port}"
    if direction == "out":
        return f"{sender} {_SENT[which]} {target}"
    return f"{target} {_RECEIVED[which]} by {sender}" if which != FIN else f"{target} gets a FIN of {sender}"


class _Logs(logging.Handler):
    """Takes what a program logs in its host's turn."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline

    def emit(self, record: logging.LogRecord) -> None:
        host = self._timeline._world.current
        if host is None:
            return
        try:
            message = record.getMessage()
        except Exception as error:  # its arguments do not fit: what the program logged is at fault, and is told so
            message = f"{record.msg!r} ({error!r})"
        if record.exc_info and record.exc_info[1] is not None:
            message += f" ({record.exc_info[1]!r})"
        if len(message) > _MESSAGE_CHARACTERS:
            message = message[:_MESSAGE_CHARACTERS] + "…"
        self._timeline.add(host.name, "log", f"{record.levelname} {record.name}: {' '.join(message.split())}")

"""The kernel's error queue: ICMP errors that our own sockets caused, without any right (ip(7), IP_RECVERR).

The kernel finds the socket that an ICMP error is for by the addresses and ports that it quotes, and hands over who sent
it, its type and code, and what it quotes of our packet behind its transport header. So nobody else's errors come
here, and truncated ones that name no socket end in the kernel.

This file knows the socket options, the layout of what the queue gives, and what the errors mean. It refuses to know
which probe one is for.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ...wire import (
    ICMP4_DESTINATION_UNREACHABLE,
    ICMP4_PARAMETER_PROBLEM,
    ICMP4_TIME_EXCEEDED,
    ICMP6_DESTINATION_UNREACHABLE,
    ICMP6_PARAMETER_PROBLEM,
    ICMP6_TIME_EXCEEDED,
    WireError,
    parse_icmp_extensions,
)
from ._ledger import Answer, AnswerKind, Probe

__all__ = ["MOST_AT_ONCE", "Refusal", "Target", "prepare", "read_datagrams", "read_error", "send_probe"]

# linux/in.h, linux/in6.h, linux/errqueue.h and asm-generic/socket.h: Python has no names for these.
_IP_RECVERR: Final = 11
_IP_RECVERR_RFC4884: Final = 26
_IPV6_RECVERR: Final = 25
_IPV6_RECVERR_RFC4884: Final = 31
_IPV6_AUTOFLOWLABEL: Final = 70
_SO_TIMESTAMPNS: Final = 35
_MSG_ERRQUEUE: Final = 0x2000
_ORIGIN_ICMP: Final = 2
_ORIGIN_ICMP6: Final = 3
_RFC4884_INVALID: Final = 1

# struct sock_extended_err: errno, origin, type, code, padding, info, data.
_EXTENDED: Final = struct.Struct("=IBBBBII")
# Room for an error's quote: RFC 1812 §4.3.2.3 has 576 bytes in all, RFC 4443 §2.4 (c) 1280.
_QUOTE_BYTES: Final = 1280
# Room for the address of who sent it, a time stamp, and what else the kernel adds.
_ANCILLARY_BYTES: Final = 256
# An answer as long as the longest probe, an IP header with it; of a longer one nobody needs the rest.
_DATAGRAM_BYTES: Final = 2048
_TRIES: Final = 4
# Each error takes about 1 KiB of the kernel's memory.
_BUFFER_BYTES: Final = 1 << 20
# A flood of answers must not keep probes from being sent.
MOST_AT_ONCE: Final = 256
# A clock that was set in between gives nonsense; more than this between arrival and reading is no delay of ours.
_MOST_DELAY_NS: Final = 1_000_000_000
# Between two readings of clocks this thread may lose the processor; not three times in a row, as a rule.
_READINGS: Final = 3

# RFC 792, RFC 1122 §3.2.2.1, RFC 1812 §5.2.7.1.
_WORDS4: Final = {
    0: "network unreachable",
    1: "host unreachable",
    2: "protocol unreachable",
    3: "port unreachable",
    4: "packet too big",
    5: "source route failed",
    6: "network unknown",
    7: "host unknown",
    9: "network prohibited",
    10: "host prohibited",
    11: "network unreachable for this service",
    12: "host unreachable for this service",
    13: "prohibited by a filter",
    14: "host precedence violation",
    15: "precedence cut-off",
}
# RFC 4443 §3.1.
_WORDS6: Final = {
    0: "no route",
    1: "prohibited by a filter",
    2: "beyond the scope of the source address",
    3: "address unreachable",
    4: "port unreachable",
    5: "source address refused",
    6: "route rejected",
}
_PORT4: Final = 3
_PORT6: Final = 4


@dataclass(frozen=True, slots=True)
class Target:
    """Where the probes go."""

    family: socket.AddressFamily
    address: str
    sockaddr: tuple[str, int] | tuple[str, int, int, int]
    source: str | None = None
    """The address to send from, where one was given."""

    @property
    def is_ipv6(self) -> bool:
        """Whether this is IPv6."""
        return self.family == socket.AF_INET6

    @property
    def port(self) -> int:
        """The port that UDP and TCP probes go to."""
        return self.sockaddr[1]

    def source_address(self, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
        """What to bind to: the source address, or any, and a port."""
        if self.is_ipv6:
            scope = self.sockaddr[3] if len(self.sockaddr) == 4 else 0
            return (self.source or "::", port, 0, scope)
        return (self.source or "0.0.0.0", port)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An ICMP error from the queue."""

    is_ipv6: bool
    type: int
    code: int
    offender: str
    """Who sent it."""
    quote: bytes
    """What it quotes of our packet: behind the header of UDP, from the header on of others."""
    received_ns: int
    mpls: tuple[int, ...]

    def answer(self, target: str) -> Answer | None:
        """Tell what it says of the path; None where it says nothing, as one about reassembly does."""
        unreachable, words, port = (
            (ICMP6_DESTINATION_UNREACHABLE, _WORDS6, _PORT6)
            if self.is_ipv6
            else (ICMP4_DESTINATION_UNREACHABLE, _WORDS4, _PORT4)
        )
        exceeded = ICMP6_TIME_EXCEEDED if self.is_ipv6 else ICMP4_TIME_EXCEEDED
        problem = ICMP6_PARAMETER_PROBLEM if self.is_ipv6 else ICMP4_PARAMETER_PROBLEM
        if self.type == exceeded:
            kind, note = AnswerKind.PASSING, ""
            if self.code:
                return None
        elif self.type == unreachable:
            kind, note = AnswerKind.UNREACHABLE, words.get(self.code, f"unreachable, code {self.code}")
        elif self.type == problem:
            kind, note = AnswerKind.UNREACHABLE, "parameter problem"
        else:
            return None
        if self.offender == target and kind is AnswerKind.UNREACHABLE:
            # The host is there, whatever it thinks of this port.
            kind, note = AnswerKind.REACHED, "" if self.code == port and self.type == unreachable else note
        return Answer(kind, self.offender, self.received_ns, note, self.mpls)


def prepare(sock: socket.socket, *, is_ipv6: bool) -> None:
    """Ask for the error queue, times of arrival and extensions, and for packets that are of one flow."""
    if is_ipv6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        wishes = [
            (socket.IPPROTO_IPV6, _IPV6_RECVERR_RFC4884, 1),
            # Routers choose among equal ways by the flow label too (RFC 6438), and Linux draws one for each socket.
            (socket.IPPROTO_IPV6, _IPV6_AUTOFLOWLABEL, 0),
        ]
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        wishes = [(socket.IPPROTO_IP, _IP_RECVERR_RFC4884, 1)]
    wishes.append((socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1))
    # Errors beyond it the kernel drops without a word or a count; at most net.core.rmem_max is given (socket(7)).
    wishes.append((socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES))
    for level, name, value in wishes:
        with contextlib.suppress(OSError):  # an older kernel
            sock.setsockopt(level, name, value)
    sock.setblocking(False)


def _ttl_message(ttl: int, *, is_ipv6: bool) -> list[tuple[int, int, bytes]]:
    """Give the ancillary data by which one packet has its own time to live, whatever the socket's is."""
    if is_ipv6:
        return [(socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, struct.pack("=i", ttl))]
    return [(socket.IPPROTO_IP, socket.IP_TTL, struct.pack("=i", ttl))]


def send_probe(sock: socket.socket, probe: Probe, data: bytes, *, is_ipv6: bool) -> None:
    """Send a probe with its time to live; ``OSError`` when this machine doesn't.

    An error that waited is told at the next call, which then sends nothing (socket(7)): so it is called again.
    """
    ancillary = _ttl_message(probe.ttl, is_ipv6=is_ipv6)
    for left in reversed(range(_TRIES)):
        try:
            probe.sent_ns = time.monotonic_ns()
            sock.sendmsg([data], ancillary)
            return
        except OSError:
            if not left:
                raise


def read_datagrams(sock: socket.socket) -> Iterator[tuple[bytes, int]]:
    """Give what came, with its time of arrival, until nothing is left or much has come."""
    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # else poll(2) would tell of it again
    for _ in range(MOST_AT_ONCE):
        try:
            data, ancillary, _, _ = sock.recvmsg(_DATAGRAM_BYTES, _ANCILLARY_BYTES)
        except BlockingIOError:
            return
        except OSError:
            continue
        yield data, _arrival_ns(ancillary)


def read_error(sock: socket.socket, *, is_ipv6: bool) -> Refusal | None:
    """Take the next ICMP error of the socket; None when there is none. Errors of this machine's own are passed over."""
    for _ in range(MOST_AT_ONCE):
        try:
            quote, ancillary, _, _ = sock.recvmsg(_QUOTE_BYTES, _ANCILLARY_BYTES, _MSG_ERRQUEUE)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:  # no error queue here
                return None
            continue  # an error that waited is told first, once
        for level, kind, data in ancillary:
            wanted = (socket.IPPROTO_IPV6, _IPV6_RECVERR) if is_ipv6 else (socket.IPPROTO_IP, _IP_RECVERR)
            if (level, kind) == wanted and (refusal := _refusal(data, quote, _arrival_ns(ancillary), is_ipv6)):
                return refusal
    return None


def _refusal(data: bytes, quote: bytes, received_ns: int, is_ipv6: bool) -> Refusal | None:
    if len(data) < _EXTENDED.size:
        return None
    _, origin, kind, code, _, _, extra = _EXTENDED.unpack_from(data)
    if origin != (_ORIGIN_ICMP6 if is_ipv6 else _ORIGIN_ICMP):
        return None
    address = data[_EXTENDED.size :]  # struct sockaddr_in, or sockaddr_in6
    if is_ipv6 and len(address) >= 24:
        offender = socket.inet_ntop(socket.AF_INET6, address[8:24])
    elif not is_ipv6 and len(address) >= 8:
        offender = socket.inet_ntop(socket.AF_INET, address[4:8])
    else:
        return None
    return Refusal(is_ipv6, kind, code, offender, quote, received_ns, _labels(quote, extra))


def _labels(quote: bytes, extra: int) -> tuple[int, ...]:
    """Read the MPLS labels behind the quote; ``extra`` is struct sock_ee_data_rfc4884: where they begin, and flags."""
    packed = struct.pack("=I", extra)
    begin, flags = struct.unpack_from("=HB", packed)
    if not begin or flags & _RFC4884_INVALID:
        return ()
    try:
        extensions = parse_icmp_extensions(quote, begin)
    except WireError:
        return ()
    return tuple(label.label for extension in extensions for label in extension.labels)


def _arrival_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """Give the time of arrival, by the monotonic clock: the kernel's stamp, or now where it is missing or absurd.

    The kernel stamps by the wall clock, which may be set; so both clocks are read anew each time.
    """
    now, wall = _both_clocks()
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            stamp: tuple[int, int] = struct.unpack("=qq" if len(data) == 16 else "=ii", data[:16])
            ago = wall - (stamp[0] * 1_000_000_000 + stamp[1])
            if 0 <= ago < _MOST_DELAY_NS:
                return now - ago
    return now


def _both_clocks() -> tuple[int, int]:
    """Read the monotonic and the wall clock at one moment: of a few tries, that which took least."""
    least, best = _MOST_DELAY_NS, (time.monotonic_ns(), time.time_ns())
    for _ in range(_READINGS):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after - before < least:
            least, best = after - before, ((before + after) // 2, wall)
    return best

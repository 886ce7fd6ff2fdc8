"""Probes by ICMP echo: the kernel's datagram sockets for it (icmp(7)), or raw ones where it has these for root only.

One flow is one identifier and one checksum: routers that spread ICMP over several ways look at no more of it. The
sequence number tells the probes apart; two bytes of data make up for it and for the random bytes, so that the checksum
stays as it is (as Paris traceroute does: Augustin et al., IMC 2006).

This file knows these sockets. It refuses to know when to send, and what is lost.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from ...errors import UsageError
from ...wire import (
    ICMP4_ECHO_REPLY,
    ICMP4_ECHO_REQUEST,
    ICMP6_ECHO_REPLY,
    ICMP6_ECHO_REQUEST,
    PROTOCOL_ICMP6,
    build_icmp4,
    checksum,
)
from ._error_queue import MOST_AT_ONCE, Target, prepare, read_datagrams, read_error, send_probe
from ._ledger import Answer, AnswerKind, Probe
from ._probe_udp import COOKIE_BYTES, REMEMBERED

__all__ = ["IcmpProber"]

# linux/icmp.h, struct icmp_filter; linux/icmpv6.h, struct icmp6_filter: a bit that is set keeps a type away.
_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1
_ICMP6_FILTER: Final = 1


class IcmpProber:
    """One flow of ICMP echo."""

    is_single_file = False
    most_timeout_ns: int | None = None

    def __init__(self, target: Target, identifier: int) -> None:
        self._target = target
        self._request = ICMP6_ECHO_REQUEST if target.is_ipv6 else ICMP4_ECHO_REQUEST
        self._reply = ICMP6_ECHO_REPLY if target.is_ipv6 else ICMP4_ECHO_REPLY
        self._probes: OrderedDict[int, tuple[bytes, Probe]] = OrderedDict()
        self._sequence = 0
        self.strays = 0
        self._socket, self._is_raw = _open(target)
        try:
            prepare(self._socket, is_ipv6=target.is_ipv6)
            if self._is_raw:
                self._filter_types()
                if target.source:
                    self._socket.bind(target.source_address(0))
                # Any number will do that few others have: another program's answers are told apart by the cookie too.
                self.flow_id = identifier or secrets.randbelow(0xFFFF) + 1
            elif identifier or target.source:
                self._socket.bind(target.source_address(identifier))
            self._socket.connect((*target.sockaddr[:1], 0, *target.sockaddr[2:]))
            self.source = self._socket.getsockname()[0]
            if not self._is_raw:
                self.flow_id = self._socket.getsockname()[1]
        except BaseException:
            self._socket.close()
            raise
        # What the checksum of every probe is to be, less what the kernel may add (a pseudo header, always the same).
        self._sum = self.flow_id * 31 % 0xFFFF

    def _filter_types(self) -> None:
        """Keep from a raw socket all that is no echo reply: it would get every message of the machine."""
        with contextlib.suppress(OSError):  # it works without, with more to pass over
            if self._target.is_ipv6:
                words = [0xFFFF_FFFF] * 8
                words[self._reply >> 5] &= ~(1 << (self._reply & 31))
                self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *words))
            else:
                self._socket.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFF_FFFF & ~(1 << self._reply)))

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def send(self, probe: Probe) -> None:
        """Send a probe; ``OSError`` when this machine doesn't."""
        self._sequence = self._sequence + 1 & 0xFFFF
        cookie = secrets.token_bytes(COOKIE_BYTES)
        self._probes.pop(self._sequence, None)
        self._probes[self._sequence] = (cookie, probe)
        if len(self._probes) > REMEMBERED:
            self._probes.popitem(last=False)
        message = self._message(self._sequence, cookie)
        try:
            send_probe(self._socket, probe, message, is_ipv6=self._target.is_ipv6)
        except OSError:
            del self._probes[self._sequence]
            raise

    def _message(self, sequence: int, cookie: bytes) -> bytes:
        """Build an echo request whose checksum is the flow's.

        The kernel writes the identifier of a datagram socket, and the checksum of every one but a raw IPv4's.
        """
        varying = 0xFFFF - checksum(cookie, sequence)
        balance = (self._sum - varying) % 0xFFFF
        body = balance.to_bytes(2, "big") + cookie
        return build_icmp4(self._request, 0, self.flow_id << 16 | sequence, body)

    def receive(self) -> Iterator[tuple[Probe | None, Answer]]:
        """Give the answers that are there, each with its probe."""
        for _ in range(MOST_AT_ONCE):
            refusal = read_error(self._socket, is_ipv6=self._target.is_ipv6)
            if refusal is None:
                break
            probe = self._find(refusal.quote, self._request)
            if probe is None:
                continue
            answer = refusal.answer(self._target.address)
            if answer is None:
                self.strays += 1
            else:
                yield probe, answer
        for data, received_ns in read_datagrams(self._socket):
            if self._is_raw and not self._target.is_ipv6:  # raw(7): the IP header comes too
                data = data[(data[0] & 15) * 4 :] if data else b""
            if (probe := self._find(data, self._reply)) is not None:
                yield probe, Answer(AnswerKind.REACHED, self._target.address, received_ns)

    def _find(self, message: bytes, kind: int) -> Probe | None:
        """Find the probe that a message, or the beginning of one, belongs to; count it as a stray where there is none.

        A raw socket hears what comes for other programs too: what has not our identifier is no matter of ours.
        """
        if len(message) < 8 or message[0] != kind or message[1] or message[4:6] != self.flow_id.to_bytes(2, "big"):
            self.strays += not self._is_raw
            return None
        sequence = int.from_bytes(message[6:8], "big")
        # RFC 792 has a router quote these 8 bytes; where it quotes more, more must be right. An answer has it all.
        cookie = message[10 : 10 + COOKIE_BYTES]
        whole, probe = self._probes.get(sequence, (b"", None))
        if probe is None or not whole.startswith(cookie) or (kind == self._reply and cookie != whole):
            self.strays += 1
            return None
        return probe

    def give_up(self, probe: Probe) -> None:
        """Take note that a probe is lost: it may still be answered late."""

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _open(target: Target) -> tuple[socket.socket, bool]:
    """Give a socket for ICMP echo, and whether it is a raw one."""
    protocol = PROTOCOL_ICMP6 if target.is_ipv6 else socket.IPPROTO_ICMP
    try:
        return socket.socket(target.family, socket.SOCK_DGRAM, protocol), False
    except PermissionError:
        pass
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:  # a kernel without them
            raise
    try:
        return socket.socket(target.family, socket.SOCK_RAW, protocol), True
    except PermissionError:
        raise UsageError(
            "this user may not send ICMP echo: its group is not in net.ipv4.ping_group_range (icmp(7))",
            remedy="leave --icmp out, since UDP probes need no right; or, as root, "
            "`sysctl net.ipv4.ping_group_range='0 2147483647'`",
        ) from None

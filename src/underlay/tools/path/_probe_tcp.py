"""Probes by TCP: connections that are begun with a small time to live, which needs no right.

A flow keeps its ports, and the kernel has one connection between two ports: so a flow has one probe on its way,
and the next follows when that is answered or given up. The kernel sends a SYN again after a second (RFC 6298 §2),
and what came of which would be unknown: so no probe waits that long. A connection that comes about is reset at once,
which the server's program may see.

This file knows these sockets. It refuses to know when to send, and what is lost.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Final

from .._tcp_info import TCP_INFO_BYTES, parse_tcp_info
from ._error_queue import Refusal, Target, prepare, read_error
from ._ledger import Answer, AnswerKind, Probe

__all__ = ["TcpProber"]

# Less than the first time-out of a SYN, TCP_TIMEOUT_INIT of net/tcp.h: 1 s.
_PATIENCE_NS: Final = 900_000_000
_ON_ITS_WAY: Final = (0, errno.EINPROGRESS)


class TcpProber:
    """One flow of TCP."""

    is_single_file = True
    most_timeout_ns: int | None = _PATIENCE_NS
    strays = 0

    def __init__(self, target: Target, source_port: int) -> None:
        self._target = target
        self._attempt: socket.socket | None = None
        self._refusal: Refusal | None = None
        self._is_refused = False
        self._probe: Probe | None = None
        # Bound and never used, it keeps the port the flow's: with SO_REUSEADDR the attempts may have it too.
        self._keeper = socket.socket(target.family, socket.SOCK_STREAM)
        try:
            self._keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with socket.socket(target.family, socket.SOCK_DGRAM) as scout:
                # The routing table chooses the address that we send from; a UDP socket asks it without a packet.
                if target.source:
                    scout.bind(target.source_address(0))
                scout.connect(target.sockaddr)
                self.source = scout.getsockname()[0]
            self._here = Target(target.family, target.address, target.sockaddr, self.source)
            self._keeper.bind(self._here.source_address(source_port))
            self.flow_id = self._keeper.getsockname()[1]
        except BaseException:
            self._keeper.close()
            raise

    def fileno(self) -> int:
        """The descriptor to wait for; -1 while no probe is on its way."""
        return -1 if self._attempt is None else self._attempt.fileno()

    def send(self, probe: Probe) -> None:
        """Send a probe; ``OSError`` when this machine doesn't."""
        self._end_attempt()
        attempt = socket.socket(self._target.family, socket.SOCK_STREAM)
        try:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Closing resets a connection, and leaves no TIME_WAIT in the way of the next (socket(7)).
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            prepare(attempt, is_ipv6=self._target.is_ipv6)
            if self._target.is_ipv6:
                attempt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, probe.ttl)
            else:
                attempt.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, probe.ttl)
            attempt.bind(self._here.source_address(self.flow_id))
            probe.sent_ns = time.monotonic_ns()
            number = attempt.connect_ex(self._target.sockaddr)
            refusal = None
            if number not in _ON_ITS_WAY:
                # On a short way the answer may have come within this call. The error queue tells an ICMP error, which
                # is somebody's answer, from the same words of our own routing table.
                refusal = read_error(attempt, is_ipv6=self._target.is_ipv6)
                if refusal is None and number != errno.ECONNREFUSED:
                    raise OSError(number, os.strerror(number))
        except BaseException:
            attempt.close()
            raise
        self._attempt, self._probe, self._refusal = attempt, probe, refusal
        self._is_refused = number == errno.ECONNREFUSED

    def receive(self) -> Iterator[tuple[Probe | None, Answer]]:
        """Give the answer, where there is one."""
        attempt, probe = self._attempt, self._probe
        if attempt is None or probe is None:
            return
        refusal = self._refusal or read_error(attempt, is_ipv6=self._target.is_ipv6)
        if refusal is not None:
            answer = refusal.answer(self._target.address)
            if answer is None:
                self.strays += 1
                self._refusal = None
                return
        else:
            number = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if self._is_refused or number in (errno.ECONNREFUSED, errno.ECONNRESET):
                answer = Answer(AnswerKind.REACHED, self._target.address, time.monotonic_ns(), "port closed")
            elif number:
                # This machine's own doing: nothing is known of the path, and the probe is lost.
                self._end_attempt()
                return
            elif _is_connected(attempt):
                answer = Answer(AnswerKind.REACHED, self._target.address, _arrival_ns(attempt, probe.sent_ns))
            else:
                return
        self._end_attempt()
        yield probe, answer

    def give_up(self, probe: Probe) -> None:
        """Take note that a probe is lost; what comes later finds no socket any more."""
        if probe is self._probe:
            self._end_attempt()

    def close(self) -> None:
        """Close the sockets."""
        self._end_attempt()
        self._keeper.close()

    def _end_attempt(self) -> None:
        if self._attempt is not None:
            self._attempt.close()
        self._attempt = self._probe = None


def _is_connected(attempt: socket.socket) -> bool:
    try:
        attempt.getpeername()
    except OSError:
        return False
    return True


def _arrival_ns(attempt: socket.socket, sent_ns: int) -> int:
    """When the SYN was answered, by the kernel's own measure, from the one to the other, where it has one."""
    now = time.monotonic_ns()
    rtt_us = parse_tcp_info(attempt.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)).rtt_us
    arrival = sent_ns + rtt_us * 1000
    return arrival if rtt_us > 0 and arrival <= now else now

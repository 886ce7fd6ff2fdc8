"""Probes by UDP, which need no right at all.

One flow is one connected socket: its ports stay the same, so that every router that spreads flows over several ways
(ECMP) sends all its probes the same way. The time to live goes with each packet. Eight random bytes in each tell which
probe an answer quotes, and keep those who cannot see our packets from inventing answers.

This file knows these sockets. It refuses to know when to send, and what is lost.
"""

from __future__ import annotations

import secrets
import socket
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from ._error_queue import MOST_AT_ONCE, Target, prepare, read_datagrams, read_error, send_probe
from ._ledger import Answer, AnswerKind, Probe

__all__ = ["COOKIE_BYTES", "REMEMBERED", "UdpProber"]

COOKIE_BYTES: Final = 8
# So many probes of a flow are remembered, for late and duplicate answers; older ones are strays.
REMEMBERED: Final = 4096
# RFC 4884 §4.1: 128 bytes at least, of which the kernel leaves out the headers of IPv4 and UDP.
_PADDED_BYTES: Final = 128 - 20 - 8


class UdpProber:
    """One flow of UDP."""

    is_single_file = False
    """Whether the flow may have only one probe on its way; answers that quote too little make it so."""
    most_timeout_ns: int | None = None

    def __init__(self, target: Target, source_port: int) -> None:
        self._target = target
        self._cookies: OrderedDict[bytes, Probe] = OrderedDict()
        self.strays = 0
        self._socket = socket.socket(target.family, socket.SOCK_DGRAM)
        try:
            prepare(self._socket, is_ipv6=target.is_ipv6)
            if target.source or source_port:
                self._socket.bind(target.source_address(source_port))
            self._socket.connect(target.sockaddr)
            self.source, self.flow_id = self._socket.getsockname()[:2]
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def send(self, probe: Probe) -> None:
        """Send a probe; ``OSError`` when this machine doesn't."""
        cookie = secrets.token_bytes(COOKIE_BYTES)
        self._cookies[cookie] = probe
        if len(self._cookies) > REMEMBERED:
            self._cookies.popitem(last=False)
        try:
            send_probe(self._socket, probe, cookie, is_ipv6=self._target.is_ipv6)
        except OSError:
            del self._cookies[cookie]
            raise

    def receive(self) -> Iterator[tuple[Probe | None, Answer]]:
        """Give the answers that are there, each with its probe, or None where it quotes too little to tell."""
        for _ in range(MOST_AT_ONCE):
            refusal = read_error(self._socket, is_ipv6=self._target.is_ipv6)
            if refusal is None:
                break
            answer = refusal.answer(self._target.address)
            probe = self._cookies.get(refusal.quote[:COOKIE_BYTES])
            if answer is None or (probe is None and not _is_cut_short(refusal.quote)):
                self.strays += 1
            else:
                yield probe, answer
        for data, received_ns in read_datagrams(self._socket):
            # Somebody serves that port. An echo brings the bytes back; another answer tells no probe.
            probe = self._cookies.get(data[:COOKIE_BYTES])
            yield probe, Answer(AnswerKind.REACHED, self._target.address, received_ns, "answers by UDP")

    def give_up(self, probe: Probe) -> None:
        """Take note that a probe is lost: it may still be answered late."""

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _is_cut_short(quote: bytes) -> bool:
    """Whether a quote ends before our data, or has zeros in its place: it was padded for labels (RFC 4884 §4.1)."""
    return len(quote) < COOKIE_BYTES or (len(quote) >= _PADDED_BYTES and not any(quote[:COOKIE_BYTES]))

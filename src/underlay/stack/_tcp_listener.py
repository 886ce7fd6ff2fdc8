"""A passive open: the queue of unfinished handshakes, and that of connections which wait for ``accept``.

This file knows both queues' limits and what Linux does when they are full. It
refuses to know how a segment finds its listener (`_tcp_layer`).

A SYN makes no connection, only a `SynRequest` of a few hundred bytes; the
connection is made when the handshake's last ACK has shown that the peer is
where it says it is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from ..wire import ACK, PROTOCOL_TCP, SYN, TCP_CHECKSUM_OFFSET, TcpSegment, build_tcp_header
from ._contract import Path
from ._tcp_options import TcpOptions
from ._tcp_sequence import MASK
from ._tcp_source_route import route_to
from ._tcp_tcb import NEVER, Key

if TYPE_CHECKING:
    from ._tcp_connection import TcpConnection
    from ._tcp_layer import TcpLayer
    from ._tcp_ports import Binding

__all__ = ["SynRequest", "TcpListener"]


class SynRequest:
    """A handshake that a SYN began at a listener: LISTEN on its way to SYN_RECEIVED, without a connection yet."""

    __slots__ = (
        "adv_mss", "deadline", "heap_at", "hops", "iss", "key", "listener", "path", "rcv_wscale", "retries", "rto_s",
        "sent_at", "syn", "ts_offset", "window",
    )  # fmt: skip

    def __init__(self, listener: TcpListener, key: Key, syn: TcpSegment, path: Path, iss: int, ts_offset: int) -> None:
        self.listener = listener
        self.key = key
        self.syn = syn
        self.path = path
        self.iss = iss
        self.ts_offset = ts_offset
        self.hops: tuple[bytes, ...] = ()
        self.adv_mss = 0
        self.rcv_wscale = 0
        self.window = 0
        self.sent_at = 0.0
        self.retries = 0
        self.rto_s = 1.0
        self.deadline = NEVER
        self.heap_at = NEVER

    def send_syn_ack(self, now: float) -> None:
        """Answer the SYN; of each option only what the peer has offered (RFC 7323 §2.2, RFC 2018 §2)."""
        layer = self.listener.layer
        config = layer.config
        options = self.listener.options
        syn = self.syn
        local, local_port, remote, remote_port = self.key
        offload = self.path.offload
        route = route_to(remote, self.hops)
        head = build_tcp_header(
            local, remote, local_port, remote_port, self.iss & MASK, (syn.seq + 1) & MASK, SYN | ACK, self.window,
            mss=self.adv_mss,
            window_scale=self.rcv_wscale if config.window_scaling and syn.window_scale is not None else None,
            sack_permitted=config.sack and syn.sack_permitted,
            timestamp=((int(now * 1000.0) + self.ts_offset) & MASK, syn.timestamp[0])
            if config.timestamps and syn.timestamp is not None
            else None,
            offload=offload,
        )  # fmt: skip
        layer.segments_out += 1
        layer.ip.send(
            local, route.next_hop, PROTOCOL_TCP, head, b"", now,
            checksum_offset=TCP_CHECKSUM_OFFSET if offload else 0,
            ttl=options.ttl, dscp=options.dscp, options=route.options,
        )  # fmt: skip

    def expire(self, now: float) -> None:
        """The SYN, ACK was not answered: say it again, or give up (Linux: tcp_synack_retries)."""
        layer = self.listener.layer
        if self.retries >= layer.config.syn_ack_retries:
            layer.count("syn.timed_out")
            self.listener.drop(self)
            return
        self.retries += 1
        self.rto_s = min(self.rto_s * 2, layer.config.max_rto_s)
        self.deadline = now + self.rto_s
        layer.retransmitted += 1
        self.send_syn_ack(now)
        layer.push(self, self.deadline)


class TcpListener:
    """A port that waits for connections; made by `TcpLayer.listen`."""

    __slots__ = (
        "address", "backlog", "binding", "closed", "layer", "options", "owns_binding", "port", "requests", "waiting",
    )  # fmt: skip

    def __init__(self, layer: TcpLayer, address: bytes, port: int, backlog: int, options: TcpOptions) -> None:
        self.layer = layer
        self.address = address
        """All zeros: every address of the host in this family."""
        self.port = port
        self.options = options
        self.backlog = max(backlog, 0)
        self.closed = False
        self.binding: Binding | None = None
        self.owns_binding = False
        """The port is given back with the listener: no socket had it before."""
        self.requests: dict[Key, SynRequest] = {}
        self.waiting: deque[TcpConnection] = deque()

    @property
    def acceptable(self) -> bool:
        """``accept`` would give a connection."""
        return bool(self.waiting)

    @property
    def accept_queue_is_full(self) -> bool:
        """One more than the backlog may wait, as Linux's sk_acceptq_is_full() counts."""
        return len(self.waiting) > self.backlog

    @property
    def syn_queue_is_full(self) -> bool:
        """As many handshakes are under way as the backlog allows (Linux: inet_csk_reqsk_queue_is_full())."""
        return len(self.requests) >= min(max(self.backlog, 1), self.layer.config.max_syn_backlog)

    def accept(self, now: float) -> TcpConnection | None:
        """Give the connection that has waited longest, None if none waits.

        It may have been reset while it waited; then its first ``receive`` says so, as on Linux. Events are told
        from now on; look at ``readable`` first.
        """
        if not self.waiting:
            return None
        connection = self.waiting.popleft()
        connection.accepted = True
        connection.listener = None
        return connection

    def configure(self, **changes: object) -> None:
        """Change the options that connections accepted from now on begin with."""
        self.options = replace(self.options, **changes)  # type: ignore[arg-type]

    def drop(self, request: SynRequest) -> None:
        """Forget an unfinished handshake."""
        self.requests.pop(request.key, None)
        request.deadline = request.heap_at = NEVER
        self.layer.syn_requests -= 1

    def close(self, now: float) -> None:
        """Listen no more; handshakes under way are forgotten, connections that nobody accepted are reset."""
        if self.closed:
            return
        self.closed = True
        for request in list(self.requests.values()):
            self.drop(request)
        for connection in self.waiting:
            connection.abort(now)
        self.waiting.clear()
        self.layer.ports.remove_listener(self)
        if self.binding is not None:
            self.binding.listening = False
            if self.owns_binding:
                self.layer.ports.release(self.binding)

    def __repr__(self) -> str:
        return f"<TcpListener port {self.port}, {len(self.waiting)} waiting>"

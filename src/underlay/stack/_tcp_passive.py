"""What comes to a listener: SYNs that begin a handshake, ACKs that finish one (RFC 9293 §3.10.7.2), SYN cookies.

This file knows the way from a SYN to a connection that waits for ``accept``, and
Linux's behaviour when a queue is full. It refuses to know what happens to the
connection afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..wire import ACK, FIN, RST, SYN, TcpSegment
from ._tcp_connection import TcpConnection
from ._tcp_cookie import check_cookie, make_cookie
from ._tcp_input import become_established, receive, take_syn_options
from ._tcp_listener import SynRequest, TcpListener
from ._tcp_output import schedule
from ._tcp_sequence import MASK, is_before
from ._tcp_source_route import return_hops
from ._tcp_state import TcpEvent
from ._tcp_tcb import Key

if TYPE_CHECKING:
    from ._tcp_layer import TcpLayer

__all__ = ["receive_at_listener"]


def receive_at_listener(
    layer: TcpLayer, listener: TcpListener, key: Key, segment: TcpSegment, ip_options: bytes, now: float, least_iss: int
) -> None:
    """Take a segment for a listening port that belongs to no connection."""
    request = listener.requests.get(key)
    if request is not None:
        _receive_in_handshake(layer, listener, request, segment, now)
        return
    flags = segment.flags
    if flags & RST:
        layer.count("rst.outside")
    elif flags & ACK:
        request = check_cookie(layer, listener, key, segment, now) if layer.config.syn_cookies else None
        if request is None:
            layer.count("ack.stranger")
            layer.send_stray_reset(key, segment, now)
        elif listener.accept_queue_is_full or layer.is_full:
            layer.count("listener.full")
        else:
            _promote(layer, listener, request, segment, now)
    elif flags & SYN and not flags & FIN:
        # MUST-53: what came by a source route is answered by it; MUST-52: unless the program has said another.
        hops = (listener.options.source_route or return_hops(ip_options)) if len(key[0]) == 4 else ()
        _receive_syn(layer, listener, key, segment, hops, now, least_iss)
    else:
        layer.count("segment.no_syn")


def _receive_syn(
    layer: TcpLayer,
    listener: TcpListener,
    key: Key,
    segment: TcpSegment,
    hops: tuple[bytes, ...],
    now: float,
    least_iss: int,
) -> None:
    """Answer a SYN, if the queues have room (Linux: tcp_conn_request())."""
    if listener.accept_queue_is_full:
        layer.count("listener.full")  # the peer will say it again
        return
    path = layer.ip.path(hops[0] if hops else key[2], key[0])
    if path is None or layer.is_full:
        layer.count("connection.limit" if path is not None else "no_route")
        return
    cookie = listener.syn_queue_is_full
    if cookie and not layer.config.syn_cookies:
        layer.count("syn.queue_full")
        return
    iss, ts_offset = layer.isn.numbers(key, now)
    if least_iss and is_before(iss, least_iss & MASK):
        iss = least_iss & MASK
    # Data that comes with a SYN is not kept; it comes again (MAY of §3.10.7.2).
    request = SynRequest(listener, key, segment._replace(payload=b"", sack=()), path, iss, ts_offset)
    request.adv_mss = layer.advertised_mss(key[0], path, listener.options)
    request.rcv_wscale = layer.window_scale(listener.options) if segment.window_scale is not None else 0
    request.window = min(listener.options.receive_buffer_bytes or layer.config.receive_buffer_bytes, 0xFFFF)
    request.sent_at = now
    request.hops = hops
    if cookie:
        layer.count("syn.cookie")
        make_cookie(layer, request, now)
        request.send_syn_ack(now)
        return
    listener.requests[key] = request
    layer.syn_requests += 1
    request.rto_s = layer.config.initial_rto_s
    request.deadline = now + request.rto_s
    layer.push(request, request.deadline)
    request.send_syn_ack(now)


def _receive_in_handshake(
    layer: TcpLayer, listener: TcpListener, request: SynRequest, segment: TcpSegment, now: float
) -> None:
    """In SYN_RECEIVED: what is not the ACK we wait for changes nothing (Linux: tcp_check_req())."""
    flags = segment.flags
    syn = request.syn
    offset = (segment.seq - syn.seq - 1) & MASK
    if flags & SYN and not flags & (ACK | RST) and segment.seq == syn.seq:
        # The same SYN again: ours was lost.
        request.send_syn_ack(now)
        return
    if (
        layer.config.timestamps
        and syn.timestamp is not None
        and segment.timestamp is not None
        and is_before(segment.timestamp[0], syn.timestamp[0])
        and not flags & RST
    ):
        layer.count("paws")
        request.send_syn_ack(now)
        return
    if offset >= max(request.window, 1):
        if not flags & RST:
            layer.count("segment.outside")
            request.send_syn_ack(now)
        else:
            layer.count("rst.outside")
        return
    if flags & RST:
        if offset == 0:
            layer.resets_in += 1
            listener.drop(request)  # back to LISTEN (MUST-11)
        else:
            layer.count("rst.outside")
        return
    if flags & SYN:
        # RFC 5961 §4 in SYN_RECEIVED: the SYN, ACK again is as good as a challenge.
        layer.count("syn.challenged")
        request.send_syn_ack(now)
        return
    if not flags & ACK:
        layer.count("segment.no_ack")
        return
    if segment.ack != (request.iss + 1) & MASK:
        layer.count("ack.unsent")
        layer.send_stray_reset(request.key, segment, now)
        return
    if listener.accept_queue_is_full or layer.is_full:
        # Linux with tcp_abort_on_overflow=0: as if it had not come; the peer believes itself connected.
        layer.count("listener.full")
        return
    listener.drop(request)
    _promote(layer, listener, request, segment, now)


def _promote(layer: TcpLayer, listener: TcpListener, request: SynRequest, segment: TcpSegment, now: float) -> None:
    """The handshake is done: make the connection, put it where ``accept`` finds it, and give it the segment."""
    syn = request.syn
    tcb = TcpConnection(layer, request.key, listener.options)
    tcb.opened_passively = True
    tcb.accepted = False
    tcb.listener = listener
    tcb.move(TcpEvent.PASSIVE_OPEN)
    layer.adopt(tcb, request.path)
    if request.hops:
        tcb.take_route(request.hops)
    tcb.move(TcpEvent.RECEIVE_SYN)
    tcb.iss = request.iss
    tcb.ts_offset = request.ts_offset
    tcb.snd_una = request.iss
    tcb.snd_nxt = request.iss + 1
    tcb.irs = syn.seq
    tcb.rcv_nxt = tcb.last_ack_sent = syn.seq + 1
    tcb.rcv_adv = tcb.rcv_nxt + request.window
    take_syn_options(tcb, syn, now)
    if not request.retries:
        tcb.rto.measure(max(now - request.sent_at, 0.0))
    seq = syn.seq + 1
    become_established(tcb, TcpEvent.RECEIVE_ACK_OF_SYN, segment.window << tcb.snd_wscale, seq, tcb.snd_nxt, now)
    layer.passive_opens += 1
    listener.waiting.append(tcb)
    if segment.payload or segment.flags & FIN or segment.timestamp is not None:
        receive(tcb, segment, now)
    schedule(tcb)
    layer.tell_acceptable(listener)

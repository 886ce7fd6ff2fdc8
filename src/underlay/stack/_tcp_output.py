"""What a connection sends: data as windows allow, lost segments again, acknowledgments (RFC 9293 §3.8).

This file knows when a segment may go and how it is put together. It refuses to
know what came in, and what is lost: it is called after every change
(``flush``), looks at the connection's variables, and sends all that is due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..wire import ACK, FIN, PROTOCOL_TCP, PSH, RST, SYN, TCP_CHECKSUM_OFFSET, URG, TcpSegment, build_tcp_header
from ._tcp_packet import TcpPacket
from ._tcp_scoreboard import Phase, Sent
from ._tcp_sequence import MASK
from ._tcp_state import State
from ._tcp_tcb import NEVER

if TYPE_CHECKING:
    from ._tcp_scoreboard import Scoreboard
    from ._tcp_tcb import Tcb

__all__ = [
    "PROBE", "REORDER", "RTO", "TLP", "arm_retransmission", "flush", "receive_window", "retransmit", "schedule",
    "send_ack", "send_probe", "send_reset", "send_syn", "update_mss",
]  # fmt: skip

# What Tcb.rtx_at is for.
RTO: Final = 1
TLP: Final = 2
PROBE: Final = 3
REORDER: Final = 4

# States in which data or a FIN may be on its way out.
_SENDING: Final = frozenset(
    {State.ESTABLISHED, State.CLOSE_WAIT, State.FIN_WAIT_1, State.CLOSING, State.LAST_ACK}
)  # fmt: skip
# draft-ietf-tcpm-rack-08 §7.5.1 had 10 ms, Linux has 2 jiffies: a peer on this machine is scheduled later than 2 SRTT.
_LEAST_PTO_S: Final = 0.01
_MAX_WINDOW: Final = 0xFFFF
_new = tuple.__new__  # a third of the time of the class's own constructor, for what is made per segment
# Statistics by place in Tcb.stats.
_SEGMENTS_OUT: Final = 1
_BYTES_OUT: Final = 3
_RETRANSMITTED: Final = 4
_RETRANSMITTED_BYTES: Final = 5


def flush(tcb: Tcb, now: float) -> None:
    """Send everything that is due: lost segments, new data, a FIN, an acknowledgment; then set the timer."""
    tcb.dirty = False
    if tcb.state in _SENDING:
        board = tcb.board
        if board is not None and board.active:
            _send_lost(tcb, board, now)
        if tcb.unsent.size_bytes or tcb.fin_pending:
            _send_new(tcb, now)
    if tcb.ack_now:
        send_ack(tcb, now)
    elif tcb.unacked_bytes:
        # RFC 9293 §3.8.6.3 SHLD-19: at least every second full segment at once.
        if (
            tcb.unacked_bytes >= 2 * tcb.rcv_mss
            or tcb._options.quick_ack
            or (tcb.quick_acks > 0 and not tcb.pingpong)
        ):  # fmt: skip
            tcb.quick_acks -= 1
            send_ack(tcb, now)
        elif tcb.ack_at == NEVER:
            tcb.ack_at = now + tcb.layer.config.ack_delay_s
    schedule(tcb)


def schedule(tcb: Tcb) -> None:
    """Bring the connection's deadline up to date; the heap is touched only if it has become earlier."""
    deadline = tcb.rtx_at
    if tcb.ack_at < deadline:
        deadline = tcb.ack_at
    if tcb.keepalive_at < deadline:
        deadline = tcb.keepalive_at
    if tcb.life_at < deadline:
        deadline = tcb.life_at
    tcb.deadline = deadline
    if deadline < tcb.heap_at:
        tcb.layer.push(tcb, deadline)


def receive_window(tcb: Tcb) -> int:
    """Move the offered window's right edge as far as it may, and give the window for a header (RFC 9293 §3.8.6.2.2).

    The edge moves only in steps worth a segment (MUST-39), and never to the left (SHLD-14).
    """
    nxt = tcb.rcv_nxt
    edge = nxt + tcb.rcv_buf - tcb.received.size_bytes
    if edge - tcb.rcv_adv >= tcb.rcv_sws:
        most = nxt + (_MAX_WINDOW << tcb.rcv_wscale)
        tcb.rcv_adv = edge if edge < most else most
    # RFC 7323 §2.4: cutting the scaled window to whole units may seem to shrink it; we accept all up to rcv_adv.
    return (tcb.rcv_adv - nxt) >> tcb.rcv_wscale


def _transmit(tcb: Tcb, seq: int, flags: int, payload: bytes | memoryview, now: float) -> None:
    """Send one segment that carries data or an acknowledgment; whatever was owed to the peer is paid with it."""
    layer = tcb.layer
    local, local_port, remote, remote_port = tcb.key
    options = tcb._options
    nxt = tcb.rcv_nxt
    urgent_pointer = 0
    if tcb.snd_up is not None:
        urgent_pointer = tcb.snd_up - seq
        if urgent_pointer > 0:
            # MUST-62: it points to the octet behind the urgent data; RFC 6093 §3: it has 16 bits.
            flags |= URG
            if urgent_pointer > 0xFFFF:
                urgent_pointer = 0xFFFF
        else:
            urgent_pointer = 0
    size = len(payload)
    window = receive_window(tcb)
    timestamp = ((int(now * 1000.0) + tcb.ts_offset) & MASK, tcb.ts_recent) if tcb.timestamps else None
    tcb.last_ack_sent = nxt
    tcb.unacked_bytes = 0
    tcb.pushed = 0
    tcb.ack_at = NEVER
    if tcb.reassembly is None:
        tcb.ack_now = False
    stats = tcb.stats
    stats[_SEGMENTS_OUT] += 1
    stats[_BYTES_OUT] += size
    layer.segments_out += 1
    if tcb.by_value and not tcb.ip_options:
        segment = _new(
            TcpSegment,
            (
                local_port, remote_port, seq & MASK, nxt & MASK, flags, window, urgent_pointer,
                None, None, False, (), timestamp, payload,
            ),
        )  # fmt: skip
        header_bytes = (20 if timestamp is None else 32) + (20 if len(local) == 4 else 40)
        super_bytes = tcb.snd_mss if size > tcb.snd_mss else 0
        packet = tcb.peer_key, segment, super_bytes, options.ttl, options.dscp, header_bytes + size
        layer.ip.send_tcp(_new(TcpPacket, packet), now)
        return
    offload = tcb.offload
    head = build_tcp_header(
        local, remote, local_port, remote_port, seq & MASK, nxt & MASK, flags, window, payload,
        urgent_pointer=urgent_pointer,
        timestamp=timestamp,
        offload=offload,
    )  # fmt: skip
    layer.ip.send(
        local, tcb.next_hop, PROTOCOL_TCP, head, payload, now,
        segment_bytes=tcb.snd_mss if size > tcb.snd_mss else 0,
        checksum_offset=TCP_CHECKSUM_OFFSET if offload else 0,
        ttl=options.ttl, dscp=options.dscp, options=tcb.ip_options,
    )  # fmt: skip


def send_ack(tcb: Tcb, now: float, *, seq: int | None = None, flags: int = ACK) -> None:
    """Send an acknowledgment without data, with SACK blocks if something lies behind a hole (RFC 2018 §4)."""
    if seq is None:
        seq = tcb.snd_nxt
    tcb.ack_now = False
    blocks: list[tuple[int, int]] = []
    if tcb.sack:
        if tcb.dsack is not None:
            # RFC 2883 §4: what came twice is told first, once.
            blocks.append((tcb.dsack[0] & MASK, tcb.dsack[1] & MASK))
            tcb.dsack = None
        if tcb.reassembly is not None:
            blocks.extend((start & MASK, end & MASK) for start, end in tcb.reassembly.sack_blocks())
    if not blocks:
        _transmit(tcb, seq, flags, b"", now)
        tcb.ack_now = False
        return
    local, local_port, remote, remote_port = tcb.key
    urgent_pointer = 0
    if tcb.snd_up is not None and tcb.snd_up > seq:
        flags |= URG
        urgent_pointer = min(tcb.snd_up - seq, 0xFFFF)
    head = build_tcp_header(
        local, remote, local_port, remote_port, seq & MASK, tcb.rcv_nxt & MASK, flags, receive_window(tcb),
        urgent_pointer=urgent_pointer,
        sack=blocks,
        timestamp=((int(now * 1000.0) + tcb.ts_offset) & MASK, tcb.ts_recent) if tcb.timestamps else None,
        offload=tcb.offload,
    )  # fmt: skip
    tcb.last_ack_sent = tcb.rcv_nxt
    tcb.unacked_bytes = 0
    tcb.pushed = 0
    tcb.ack_at = NEVER
    _send_head(tcb, head, now)


def _send_head(tcb: Tcb, head: bytes, now: float) -> None:
    """Send a segment without payload."""
    options = tcb._options
    tcb.stats[_SEGMENTS_OUT] += 1
    tcb.layer.segments_out += 1
    tcb.layer.ip.send(
        tcb.key[0], tcb.next_hop, PROTOCOL_TCP, head, b"", now,
        checksum_offset=TCP_CHECKSUM_OFFSET if tcb.offload else 0,
        ttl=options.ttl, dscp=options.dscp, options=tcb.ip_options,
    )  # fmt: skip


def send_syn(tcb: Tcb, now: float) -> None:
    """Send the SYN, or SYN and ACK, with every option that is offered (RFC 9293 MUST-14, MUST-65; RFC 7323 §2.2)."""
    config = tcb.layer.config
    answering = tcb.state is not State.SYN_SENT
    timestamp = None
    if tcb.timestamps if answering else config.timestamps:
        timestamp = (int(now * 1000.0) + tcb.ts_offset) & MASK, tcb.ts_recent if answering else 0
    scale: int | None = tcb.rcv_wscale
    if not (tcb.scaling if answering else config.window_scaling):
        scale = None
    local, local_port, remote, remote_port = tcb.key
    # RFC 7323 §2.2: the window of a segment with SYN is never scaled.
    window = min(tcb.rcv_adv - tcb.rcv_nxt, _MAX_WINDOW)
    head = build_tcp_header(
        local, remote, local_port, remote_port, tcb.iss & MASK,
        tcb.rcv_nxt & MASK if answering else 0, SYN | ACK if answering else SYN, window,
        mss=tcb.adv_mss, window_scale=scale, sack_permitted=tcb.sack if answering else config.sack,
        timestamp=timestamp, offload=tcb.offload,
    )  # fmt: skip
    tcb.last_ack_sent = tcb.rcv_nxt
    tcb.ack_now = False
    _send_head(tcb, head, now)


def send_reset(tcb: Tcb, now: float) -> None:
    """Send the reset that ends a synchronized connection (RFC 9293 §3.5.2)."""
    local, local_port, remote, remote_port = tcb.key
    head = build_tcp_header(
        local, remote, local_port, remote_port, tcb.snd_nxt & MASK, tcb.rcv_nxt & MASK, RST | ACK, 0,
        timestamp=((int(now * 1000.0) + tcb.ts_offset) & MASK, tcb.ts_recent) if tcb.timestamps else None,
        offload=tcb.offload,
    )  # fmt: skip
    tcb.layer.resets_out += 1
    _send_head(tcb, head, now)


def send_probe(tcb: Tcb, now: float) -> None:
    """Ask for an acknowledgment by a segment that is just outside the peer's window.

    It serves a closed window (RFC 9293 §3.8.6.1) and keepalive (§3.8.4, SEG.SEQ = SND.NXT-1, SHLD-12: no data).
    """
    send_ack(tcb, now, seq=tcb.snd_una - 1)


def update_mss(tcb: Tcb, path_mtu: int) -> None:
    """Work out how much payload a segment carries (RFC 9293 §3.7.1: Eff.snd.MSS, MUST-16)."""
    tcb.path_mtu = path_mtu
    header_bytes = 40 if len(tcb.key[0]) == 4 else 60
    mss = min(tcb.peer_mss, path_mtu - header_bytes, tcb._options.max_segment_bytes or _MAX_WINDOW)
    mss -= len(tcb.ip_options)
    if tcb.timestamps:
        mss -= 12
    tcb.snd_mss = max(mss, 36)  # Linux: TCP_MIN_SND_MSS is 48 with 12 bytes of options
    if tcb.congestion is not None:
        tcb.congestion.set_mss(tcb.snd_mss)
    if tcb.board is not None:
        tcb.board.mss = tcb.snd_mss


def _send_new(tcb: Tcb, now: float) -> None:
    """Send what was never sent, as far as the windows, Nagle and silly window avoidance let it go (§3.8.6.2.1)."""
    congestion = tcb.congestion
    assert congestion is not None
    unsent = tcb.unsent
    size = unsent.size_bytes
    mss = tcb.snd_mss
    board = tcb.board
    if board is not None and not board.active:
        board = None
    if not tcb.queue and tcb.idle_from and now - tcb.idle_from > tcb.rto.rto_s:
        congestion.on_idle(now - tcb.idle_from, tcb.rto.rto_s)
    limit = mss
    if size > mss and tcb.offload:
        # A path whose segments are longer than the longest super segment (the loopback) has none of these.
        limit = max(tcb.layer.config.max_super_segment_bytes // mss, 1) * mss
    edge = tcb.snd_una + tcb.snd_wnd
    nxt = tcb.snd_nxt
    queue = tcb.queue
    cwnd = congestion.cwnd_bytes
    tcb.cwnd_limited = False
    began = nxt
    while size:
        pipe = nxt - tcb.snd_una
        if board is not None:
            pipe = board.in_network(pipe)
        room = cwnd - pipe
        if room < mss and room < size and pipe > 0:
            tcb.cwnd_limited = True
            break
        count = edge - nxt
        if count > size:
            count = size
        if count < mss:
            if count < size:
                # MUST-38: a part of what there is goes only if it is half of the widest window that there was.
                if count <= 0 or 2 * count < tcb.max_snd_wnd:
                    break
            elif _is_held(tcb):
                break
        else:
            if count > limit:
                count = limit
            if count > mss:
                if count > room:
                    count = room
                # A last part that is no full segment goes along only if it might go alone.
                if count < size or _is_held(tcb):
                    count -= count % mss
                    if not count:
                        count = mss
        payload = unsent.take(count)
        size -= count
        flags = ACK
        end = nxt + count
        if not size:
            flags = ACK | PSH  # MUST-61
            if tcb.fin_pending:
                flags = ACK | PSH | FIN
                tcb.fin_pending = False
                end += 1
        if count % mss:
            tcb.small_end = end
        sent = Sent(nxt, end, flags, payload, now)
        queue.append(sent)
        tcb.snd_nxt = end
        if board is not None:
            board.on_sent(sent)
            board.prr_out += count
        _transmit(tcb, nxt, flags, payload, now)
        nxt = end
    if tcb.fin_pending and not size:
        # A FIN needs no room in any window: it carries nothing.
        sent = Sent(nxt, nxt + 1, ACK | FIN, b"", now)
        queue.append(sent)
        tcb.fin_pending = False
        tcb.snd_nxt = nxt + 1
        if board is not None:
            board.on_sent(sent)
        _transmit(tcb, nxt, ACK | FIN, b"", now)
        nxt += 1
    if nxt != began:
        tcb.idle_from = now
        if tcb.stuck_from == NEVER:
            tcb.stuck_from = now
        if now - tcb.received_at < tcb.layer.config.ack_delay_s:
            tcb.pingpong = True  # an answer: acknowledgments may ride on the next ones too (Linux)
        if not tcb.cwnd_limited and cwnd < congestion.ssthresh_bytes:
            tcb.cwnd_limited = 2 * (nxt - tcb.snd_una) > cwnd  # as Linux: slow start may look ahead
        if tcb.rtx_at == NEVER or tcb.rtx_kind in (TLP, PROBE):
            arm_retransmission(tcb, now)
    elif not queue and size and tcb.rtx_at == NEVER:
        # Nothing is on its way that could bring an acknowledgment: only a probe opens a window (MUST-36).
        tcb.rtx_kind = PROBE
        tcb.rtx_at = now + tcb.rto.rto_s
        tcb.probes = 0
        if tcb.stuck_from == NEVER:
            tcb.stuck_from = now


def _is_held(tcb: Tcb) -> bool:
    """Nagle: is a segment that is not full to wait for the acknowledgment of another such one? (SHLD-7, RFC 896).

    Not if the program waits for room: nothing more will come to fill it (Linux: tcp_sendmsg() pushes before it waits).
    """
    return (
        tcb.notified_room
        and tcb.small_end > tcb.snd_una
        and not tcb._options.nodelay
        and not tcb.fin_pending
        and tcb.snd_up is None
    )  # fmt: skip


def _send_lost(tcb: Tcb, board: Scoreboard, now: float) -> None:
    """Send lost segments again as long as the congestion window has room (RFC 6675 §5)."""
    congestion = tcb.congestion
    assert congestion is not None
    mss = tcb.snd_mss
    sent = board.next_lost()
    while sent is not None:
        room = congestion.cwnd_bytes - board.in_network(tcb.snd_nxt - tcb.snd_una)
        size = sent.end - sent.start
        if room < size:
            if size > mss and room >= mss and sent.payload:
                board.split(board.index_of(sent), sent.start + room // mss * mss, keep_left=True)
                # The other part joined the lost ones at their end; it belongs to the front.
                board.lost.rotate(1)
                board.lost[0], board.lost[1] = board.lost[1], board.lost[0]
            elif room < mss or size > mss:
                break
        retransmit(tcb, sent, now)
        sent = board.next_lost()


def retransmit(tcb: Tcb, sent: Sent, now: float) -> None:
    """Send `sent` once more; a super segment on a path without offload any more, or too long, is cut."""
    board = tcb.board
    assert board is not None
    mss = tcb.snd_mss
    if len(sent.payload) > mss and (not tcb.offload or len(sent.payload) > tcb.layer.config.max_super_segment_bytes):
        other = board.split(board.index_of(sent), sent.start + mss, keep_left=True)
        if other.lost and len(board.lost) > 1 and board.lost[-1] is other:
            board.lost.rotate(1)
            board.lost[0], board.lost[1] = board.lost[1], board.lost[0]
    if board.undo is not None and board.undo[2] < 0:
        board.undo = board.undo[0], board.undo[1], (int(now * 1000.0) + tcb.ts_offset) & MASK, sent.start
    board.on_retransmit(sent, now)
    size = sent.end - sent.start
    if board.phase is not Phase.OPEN:
        board.prr_out += size
    tcb.stats[_RETRANSMITTED] += 1
    tcb.stats[_RETRANSMITTED_BYTES] += size
    tcb.layer.retransmitted += 1
    tcb.idle_from = now
    if sent.flags & SYN:
        send_syn(tcb, now)
    else:
        _transmit(tcb, sent.start, sent.flags, sent.payload, now)
    if tcb.rtx_at == NEVER or tcb.rtx_kind == PROBE or (tcb.rtx_kind != REORDER and sent is tcb.queue[0]):
        tcb.rtx_kind = RTO
        tcb.rtx_at = now + tcb.rto.rto_s


def arm_retransmission(tcb: Tcb, now: float) -> None:
    """Start the timer anew for what is on its way: a tail loss probe if one makes sense, else the timeout."""
    if not tcb.queue:
        tcb.rtx_at = NEVER
        return
    estimator = tcb.rto
    rto_s = estimator.rto_s
    if tcb.sack and tcb.tlp_end < 0 and not estimator.backoffs:
        board = tcb.board
        if board is None or not board.active:
            # RFC 8985 §7.2: two round trips, and the peer's longest delay if a single segment is out.
            srtt_s = estimator.srtt_s
            pto_s = 2 * srtt_s
            if pto_s < _LEAST_PTO_S:
                pto_s = _LEAST_PTO_S
            if tcb.snd_nxt - tcb.snd_una <= tcb.snd_mss:
                pto_s += tcb.layer.config.peer_ack_delay_s
            if srtt_s and pto_s < rto_s:
                tcb.rtx_kind = TLP
                tcb.rtx_at = now + pto_s
                return
    tcb.rtx_kind = RTO
    tcb.rtx_at = now + rto_s

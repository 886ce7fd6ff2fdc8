"""What a segment does to the connection that it belongs to (RFC 9293 §3.10.7.3 and §3.10.7.4).

This file knows the order of the checks: sequence number, RST, SYN, ACK, URG,
data, FIN. It refuses to know which connection it is (`_tcp_layer`), listeners,
and how to answer: it changes variables, and `_tcp_output` answers when the
segments that came together are through.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from ..wire import ACK, FIN, PSH, RST, SYN, URG, TcpSegment
from ._contract import Events
from ._tcp_congestion import make_congestion_control
from ._tcp_output import PROBE, RTO, arm_retransmission, send_ack, send_syn, update_mss
from ._tcp_reassembly import Reassembly
from ._tcp_recovery import acknowledge, advance
from ._tcp_sequence import HALF, MASK, is_before, unwrap
from ._tcp_state import State, TcpEvent
from ._tcp_tcb import NEVER

if TYPE_CHECKING:
    from ._tcp_tcb import Tcb

__all__ = ["become_established", "receive", "take_syn_options"]

# What the fast path does not understand.
_UNUSUAL: Final = FIN | SYN | RST | URG | ACK
_ACK: Final = ACK

# RFC 7323 §5.5: a timestamp may have wrapped after 24 days of silence.
_TIMESTAMP_VALID_S: Final = 24 * 86400.0
# RFC 7323 §2.3.
_MAX_WINDOW_SCALE: Final = 14

# Statistics by place in Tcb.stats.
_SEGMENTS_IN: Final = 0
_BYTES_IN: Final = 2
_DUPLICATES_IN: Final = 6

_ESTABLISHED: Final = State.ESTABLISHED
_RECEIVING: Final = frozenset({State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2})
_READABLE: Final = Events.READABLE


def receive(tcb: Tcb, segment: TcpSegment, now: float) -> None:
    """Take a segment that belongs to `tcb`, in any state but CLOSED and LISTEN."""
    stats = tcb.stats
    stats[_SEGMENTS_IN] += 1
    _, _, seq, ack, flags, window, _, _, _, _, sack, timestamp, payload = segment
    # Header prediction (Van Jacobson): the next data in order, or an acknowledgment of ours, and nothing else.
    if (
        flags & _UNUSUAL == _ACK
        and seq == tcb.rcv_nxt & MASK
        and tcb.state is _ESTABLISHED
        and tcb.reassembly is None
        and not sack
    ):  # fmt: skip
        una = tcb.snd_una
        acked = (ack - una) & MASK
        size = len(payload)
        if acked <= tcb.snd_nxt - una and size <= tcb.rcv_adv - tcb.rcv_nxt:
            wide = window << tcb.snd_wscale
            if tcb.timestamps:
                if timestamp is None:
                    _receive_slowly(tcb, segment, now)
                    return
                value, echo = timestamp
                if (value - tcb.ts_recent) & MASK >= HALF:
                    _receive_slowly(tcb, segment, now)
                    return
                if tcb.rcv_nxt <= tcb.last_ack_sent:
                    tcb.ts_recent = value
                    tcb.ts_recent_at = now
            else:
                echo = -1
            if acked:
                board = tcb.board
                if wide and (board is None or not board.active):
                    advance(tcb, una + acked, echo if echo >= 0 else None, now)  # `_take_ack`, with fewer calls
                    tcb.probes = 0
                    tcb.soft_error = 0
                    if tcb.snd_up is not None or not tcb.notified_room:
                        _after_ack(tcb, una + acked)
                else:
                    _take_ack(tcb, una + acked, wide, size, (), echo, now)
            elif not size and wide == tcb.snd_wnd and una != tcb.snd_nxt:
                _take_ack(tcb, una, wide, size, (), echo, now)
            elif tcb.probes:
                tcb.probes = 0  # the peer is there (MUST-37)
                tcb.stuck_from = now
            if wide != tcb.snd_wnd:
                _take_window(tcb, wide, tcb.rcv_nxt, una + acked)
            if tcb.keepalive_at != NEVER:
                _restart_keepalive(tcb, now)
            if size:
                tcb.rcv_nxt += size
                stats[_BYTES_IN] += size
                received = tcb.received
                if not received.size_bytes:
                    tcb.layer.tell(tcb, _READABLE)
                received.append(payload if type(payload) is bytes else bytes(payload))
                tcb.unacked_bytes += size
                tcb.received_at = now
                if size != tcb.rcv_mss or flags & PSH:
                    _learn_mss(tcb, size, flags)
            if not tcb.dirty:
                tcb.dirty = True
                tcb.layer.dirty.append(tcb)
            return
    _receive_slowly(tcb, segment, now)


def _learn_mss(tcb: Tcb, size: int, flags: int) -> None:
    """Learn how long the peer's segments are, and whether one of its writes is over (Linux: tcp_measure_rcv_mss()).

    A super segment tells nothing beyond what we offered.
    """
    if size < tcb.rcv_mss:
        tcb.pushed = 2 if tcb.pushed else 1
        return
    tcb.rcv_mss = min(size, tcb.adv_mss)
    if flags & PSH and not tcb.pushed:
        tcb.pushed = 1


def _restart_keepalive(tcb: Tcb, now: float) -> None:
    """The peer is alive (MUST-26: only silence is probed)."""
    tcb.keepalive_probes = 0
    tcb.keepalive_at = now + tcb._options.keepalive_idle_s


def _receive_slowly(tcb: Tcb, segment: TcpSegment, now: float) -> None:
    state = tcb.state
    if state is State.SYN_SENT:
        _receive_in_syn_sent(tcb, segment, now)
        return
    layer = tcb.layer
    flags = segment.flags
    payload = segment.payload
    nxt = tcb.rcv_nxt
    seq = unwrap(segment.seq, nxt)
    size = len(payload)
    end = seq + size + (flags & FIN)
    window = tcb.rcv_adv - nxt
    # Zero, PAWS (RFC 7323 §5.3 R1): older than what was seen last is a duplicate from the past.
    timestamp = segment.timestamp
    if (
        tcb.timestamps
        and timestamp is not None
        and not flags & RST
        and is_before(timestamp[0], tcb.ts_recent)
        and now - tcb.ts_recent_at < _TIMESTAMP_VALID_S
    ):
        layer.count("paws")
        if seq < end <= nxt and tcb.sack:
            tcb.dsack = seq, end  # RFC 2883: a late original, whose copy was quicker
        _answer_unacceptable(tcb, now, quickly=end > seq)
        return
    # First, the sequence number (table 6).
    if flags & SYN and state is State.SYN_RECEIVED and not tcb.opened_passively and seq == tcb.irs:
        _receive_syn_again(tcb, segment, now)
        return
    if end > seq:
        acceptable = nxt < end and seq < nxt + window
    else:
        # As Linux (tcp_sequence()): an ACK that was overtaken by data still counts, back to what we told last.
        acceptable = tcb.last_ack_sent <= seq < nxt + max(window, 1)
    if not acceptable:
        if flags & RST:
            layer.count("rst.outside")
            return
        if flags & SYN:
            _challenge(tcb, now, "syn.challenged")
            return
        if seq != nxt or window:
            _refuse(tcb, seq, end, flags, now)
            return
        # A closed window: its data cannot come in, but URG and ACK are looked at (MUST-66).
        payload = b""
        size = 0
        end = seq
        flags &= ~FIN
        tcb.ack_now = True
        layer.count("segment.window_closed")
    # RFC 7323 §5.3 R3, after R2: a duplicate that is newer than what waits behind a hole must not make that look old.
    if tcb.timestamps and timestamp is not None and seq <= tcb.last_ack_sent:
        tcb.ts_recent = timestamp[0]
        tcb.ts_recent_at = now
    # Second, RST (RFC 5961 §3.2).
    if flags & RST:
        if seq == nxt:
            _reset(tcb, now)
        else:
            _challenge(tcb, now, "rst.challenged")
        return
    # Fourth, SYN (RFC 5961 §4.2): whatever its number, the peer is to say it again with an RST.
    if flags & SYN:
        _challenge(tcb, now, "syn.challenged")
        return
    # Fifth, ACK.
    if not flags & ACK:
        layer.count("segment.no_ack")
        return
    ack = unwrap(segment.ack, tcb.snd_una)
    if state is State.SYN_RECEIVED:
        if not tcb.snd_una < ack <= tcb.snd_nxt:
            layer.send_stray_reset(tcb.key, segment, now)
            return
        become_established(tcb, TcpEvent.RECEIVE_ACK_OF_SYN, segment.window << tcb.snd_wscale, seq, ack, now)
        state = tcb.state
    if ack > tcb.snd_nxt:
        # RFC 5961 §5.2; RFC 9293: what we never sent cannot be acknowledged.
        _challenge(tcb, now, "ack.unsent")
        return
    if ack < tcb.snd_una - tcb.max_snd_wnd:
        _challenge(tcb, now, "ack.old")
        return
    if ack >= tcb.snd_una:
        echo = timestamp[1] if tcb.timestamps and timestamp is not None else -1
        wide = segment.window << tcb.snd_wscale
        _take_ack(tcb, ack, wide, end - seq, segment.sack if tcb.sack else (), echo, now)
        if tcb.snd_wl1 < seq or (tcb.snd_wl1 == seq and tcb.snd_wl2 <= ack):
            _take_window(tcb, wide, seq, ack)
        if tcb.snd_una == tcb.snd_nxt and tcb.write_closed and not tcb.fin_pending and not tcb.unsent.size_bytes:
            _our_fin_is_acknowledged(tcb, now)
            state = tcb.state
            if state is State.CLOSED:
                return
    if tcb.keepalive_at != NEVER:
        _restart_keepalive(tcb, now)
    # Sixth, URG.
    if flags & URG and state in _RECEIVING:
        _take_urgent(tcb, seq + segment.urgent_pointer)
    # Seventh, the data; eighth, FIN.
    if size or flags & FIN:
        if state in _RECEIVING:
            # Closed, or shut down both ways: nobody can ever read it (Linux: tcp_rcv_state_process()).
            if tcb.read_closed and state is not _ESTABLISHED and seq + size > tcb.rcv_nxt:
                _receive_after_close(tcb, now)
                return
            _take_data(tcb, seq, payload, flags, now)
        else:
            tcb.ack_now = True
    layer.mark(tcb)


def _refuse(tcb: Tcb, seq: int, end: int, flags: int, now: float) -> None:
    """A segment from outside the window: say where we are (RFC 9293 §3.10.7.4, first)."""
    if end <= tcb.rcv_nxt:
        tcb.layer.count("segment.duplicate")
        tcb.stats[_DUPLICATES_IN] += 1
        if end > seq and tcb.sack:
            tcb.dsack = seq, end  # RFC 2883
        if flags & FIN and tcb.state is State.TIME_WAIT:
            tcb.life_at = now + 2 * tcb.layer.config.msl_s  # §3.10.7.4, eighth
    else:
        tcb.layer.count("segment.outside")
    _answer_unacceptable(tcb, now, quickly=end > seq)


def _answer_unacceptable(tcb: Tcb, now: float, *, quickly: bool = False) -> None:
    """Tell the peer where we are; to a stream of bare unacceptable ACKs only seldom, lest two hosts never stop."""
    if not quickly:
        if now - tcb.challenged_at < tcb.layer.config.invalid_ack_interval_s:
            tcb.layer.count("ack.limited")
            return
        tcb.challenged_at = now
    tcb.ack_now = True
    tcb.layer.mark(tcb)


def _challenge(tcb: Tcb, now: float, reason: str) -> None:
    """Send a challenge ACK, of which there are only so many a second (RFC 5961 §7)."""
    layer = tcb.layer
    layer.count(reason)
    if layer.challenges.take(now):
        send_ack(tcb, now)
    else:
        layer.count("challenge.limited")


def _reset(tcb: Tcb, now: float) -> None:
    """The peer has ended the connection by an RST."""
    layer = tcb.layer
    layer.resets_in += 1
    state = tcb.state
    if state is State.SYN_RECEIVED and tcb.opened_passively:
        tcb.move(TcpEvent.RECEIVE_RST_PASSIVE)  # MUST-11
        layer.forget(tcb, now, 0)
        return
    tcb.move(TcpEvent.RECEIVE_RST)
    if state is State.TIME_WAIT:
        layer.forget(tcb, now, 0)
    else:
        # net/ipv4/tcp_input.c tcp_reset().
        wrong = {State.SYN_SENT: errno.ECONNREFUSED, State.CLOSE_WAIT: errno.EPIPE}.get(state, errno.ECONNRESET)
        layer.forget(tcb, now, wrong)


def _take_ack(
    tcb: Tcb, ack: int, wide: int, length: int, sack: tuple[tuple[int, int], ...], echo: int, now: float
) -> None:
    """Take an acceptable acknowledgment number: at or above SND.UNA, not above SND.NXT."""
    una = tcb.snd_una
    if not wide:
        tcb.heard_closed_at = now
    # RFC 5681 §2: the same number again, no data, the window unchanged, and something is out.
    duplicate = ack == una and not length and wide == tcb.snd_wnd and tcb.snd_nxt != una
    if (ack == una and not sack and not duplicate) or una == tcb.snd_nxt:
        if tcb.probes:
            tcb.probes = 0
            tcb.stuck_from = now
        return
    acknowledge(tcb, ack, sack, echo if echo >= 0 else None, duplicate, now)
    tcb.probes = 0
    if ack > una:
        tcb.soft_error = 0  # something worked (Linux: tcp_ack())
        _after_ack(tcb, ack)


def _after_ack(tcb: Tcb, ack: int) -> None:
    if tcb.snd_up is not None and ack >= tcb.snd_up:
        tcb.snd_up = None
    if not tcb.notified_room:
        if tcb._options.send_buffer_bytes is None:
            _grow_send_buffer(tcb)
        tcb.layer.tell_room(tcb)


def _grow_send_buffer(tcb: Tcb) -> None:
    """A program waits for room: let it fill twice the congestion window ahead (Linux: tcp_sndbuf_expand())."""
    congestion = tcb.congestion
    assert congestion is not None
    wanted = 2 * congestion.cwnd_bytes
    if wanted > tcb.snd_buf:
        tcb.snd_buf = min(wanted, tcb.layer.config.max_send_buffer_bytes)


def _take_window(tcb: Tcb, wide: int, seq: int, ack: int) -> None:
    """The peer offers another window (RFC 9293 §3.10.7.4); it may also have shrunk (MUST-34)."""
    tcb.snd_wl1 = seq
    tcb.snd_wl2 = ack
    was = tcb.snd_wnd
    tcb.snd_wnd = wide
    if wide > tcb.max_snd_wnd:
        tcb.max_snd_wnd = wide
    if wide > was and tcb.rtx_kind == PROBE and tcb.rtx_at != NEVER and not tcb.queue:
        tcb.rtx_at = NEVER
        tcb.probes = 0
        tcb.stuck_from = NEVER
        tcb.rto.forgive()
    tcb.layer.mark(tcb)


def _our_fin_is_acknowledged(tcb: Tcb, now: float) -> None:
    state = tcb.state
    if state is State.FIN_WAIT_1:
        tcb.move(TcpEvent.RECEIVE_ACK_OF_FIN)
        if tcb.detached:
            tcb.life_at = now + tcb.layer.config.fin_timeout_s
    elif state is State.CLOSING:
        tcb.move(TcpEvent.RECEIVE_ACK_OF_FIN)
        tcb.layer.begin_time_wait(tcb, now)
    elif state is State.LAST_ACK:
        tcb.move(TcpEvent.RECEIVE_ACK_OF_FIN)
        tcb.layer.forget(tcb, now, 0)


def _take_urgent(tcb: Tcb, up: int) -> None:
    """Note how far the urgent data goes (MUST-30, MUST-31: however long) and tell the program (MUST-32)."""
    if up <= tcb.rcv_nxt - tcb.received.size_bytes or (tcb.rcv_up is not None and up <= tcb.rcv_up):
        return
    tcb.rcv_up = up
    if not tcb._options.oob_inline:
        if up - 1 >= tcb.rcv_nxt - tcb.received.size_bytes:
            tcb.oob_at = up - 1
        tcb.oob = None
    tcb.layer.tell(tcb, Events.URGENT)


def _take_data(tcb: Tcb, seq: int, payload: bytes | memoryview, flags: int, now: float) -> None:
    """Cut the data to the window; take it if it is next in order, else keep it until it is (SHLD-31)."""
    fin = bool(flags & FIN)
    nxt = tcb.rcv_nxt
    if seq < nxt:
        if tcb.sack and len(payload):
            tcb.dsack = seq, min(nxt, seq + len(payload))
        payload = payload[nxt - seq :]
        seq = nxt
        tcb.ack_now = True
    if seq + len(payload) > tcb.rcv_adv:
        payload = payload[: tcb.rcv_adv - seq]
        tcb.layer.count("segment.beyond_window")
        fin = False
        tcb.ack_now = True
    size = len(payload)
    reassembly = tcb.reassembly
    if seq > nxt:
        # Out of order: an ACK at once, so that the peer learns of the hole (RFC 5681 §4.2).
        if reassembly is None:
            config = tcb.layer.config
            reassembly = tcb.reassembly = Reassembly(max_blocks=config.max_reassembly_blocks, max_bytes=2 * tcb.rcv_buf)
        reassembly.max_bytes = 2 * tcb.rcv_buf
        if size and not reassembly.add(seq, bytes(payload)):
            tcb.layer.count("reassembly.full")
        if reassembly.duplicate is not None:
            if tcb.sack:
                tcb.dsack = reassembly.duplicate
            reassembly.duplicate = None
        if fin and reassembly.fin_at is None:
            reassembly.fin_at = seq + size
        if not reassembly:
            tcb.reassembly = None
        if not tcb.sack:
            send_ack(tcb, now)  # each one counts as a duplicate for the peer
        else:
            tcb.ack_now = True
        return
    received = tcb.received
    was = received.size_bytes
    if size:
        _learn_mss(tcb, size, flags)
        data = bytes(payload)
        if reassembly is not None and reassembly.add(seq, data):
            data = reassembly.pop(nxt)
            fin = fin and len(data) == size
        received.append(data)
        size = len(data)
        nxt += size
        tcb.stats[_BYTES_IN] += size
        tcb.unacked_bytes += size
        tcb.received_at = now
    if reassembly is not None:
        fin = fin or reassembly.fin_at == nxt
        if fin or not reassembly:
            tcb.reassembly = None
        tcb.ack_now = True  # RFC 5681 §4.2: also when a hole is filled
    tcb.rcv_nxt = nxt
    if fin:
        tcb.rcv_nxt = nxt + 1
        if tcb.rcv_adv <= nxt:
            tcb.rcv_adv = nxt + 1  # a FIN may stand just behind a window that is full
        tcb.peer_closed = True
        tcb.ack_now = True
        if tcb.state is State.FIN_WAIT_2:
            tcb.move(TcpEvent.RECEIVE_FIN)
            tcb.layer.begin_time_wait(tcb, now)
        else:
            tcb.move(TcpEvent.RECEIVE_FIN)
    if fin or (not was and received.size_bytes):
        tcb.layer.tell(tcb, _READABLE)


def _receive_after_close(tcb: Tcb, now: float) -> None:
    """Data for a program that is gone: it is lost, and the peer must know (RFC 9293 §3.6.1, RFC 1122 SHLD-3)."""
    tcb.layer.count("data.after_close")
    tcb.layer.abort_behind_data(tcb, now, 0 if tcb.detached else errno.ECONNRESET)


# --- the handshake ---


def take_syn_options(tcb: Tcb, segment: TcpSegment, now: float) -> None:
    """Agree on what both sides have offered in their SYNs (RFC 7323 §2.2, §3.2; RFC 2018 §2; RFC 9293 MUST-14)."""
    config = tcb.layer.config
    # MUST-15: what holds if the peer names none.
    tcb.peer_mss = segment.mss or (536 if len(tcb.key[0]) == 4 else 1220)
    tcb.sack = config.sack and segment.sack_permitted
    tcb.scaling = config.window_scaling and segment.window_scale is not None
    if tcb.scaling:
        assert segment.window_scale is not None
        tcb.snd_wscale = min(segment.window_scale, _MAX_WINDOW_SCALE)
    else:
        tcb.snd_wscale = tcb.rcv_wscale = 0
    tcb.timestamps = config.timestamps and segment.timestamp is not None
    if segment.timestamp is not None:
        tcb.ts_recent = segment.timestamp[0]
        tcb.ts_recent_at = now
    update_mss(tcb, tcb.path_mtu)


def become_established(tcb: Tcb, event: TcpEvent, window: int, seq: int, ack: int, now: float) -> None:
    """Begin the life of a connection whose handshake `event` has finished."""
    tcb.move(event)
    queue = tcb.queue
    clean = True
    if queue:
        sent = queue.popleft()
        clean = not sent.times
        if clean:
            tcb.rto.measure(now - sent.sent_at)
        board = tcb.board
        if board is not None and board.active:
            board.phase = type(board.phase)("open")
            board.on_acked(sent, now, False)
            board.undo = None
            board.settle()
    config = tcb.layer.config
    tcb.snd_una = ack
    tcb.snd_wnd = tcb.max_snd_wnd = window
    tcb.snd_wl1, tcb.snd_wl2 = seq, ack
    # RFC 6298 §5.7 and RFC 5681 §3.1: after a lost SYN a careful start.
    tcb.rto.after_lost_syn()
    tcb.congestion = make_congestion_control(tcb._options.congestion, tcb.snd_mss, config.initial_window_segments)
    if not clean:
        tcb.congestion.cwnd_bytes = tcb.snd_mss
    tcb.rcv_mss = min(tcb.adv_mss, 536)
    tcb.rcv_sws = min(tcb.rcv_buf // 2, tcb.adv_mss)
    tcb.counted_from = now
    tcb.counted_most = 10 * tcb.adv_mss  # what a sender's first window brings (RFC 6928)
    tcb.rtx_at = NEVER
    tcb.rtx_kind = RTO
    tcb.stuck_from = NEVER
    tcb.soft_error = 0
    if tcb._options.keepalive:
        tcb.keepalive_at = now + tcb._options.keepalive_idle_s
    if tcb.write_closed:
        tcb.move(TcpEvent.CLOSE)  # the program closed it in SYN_RECEIVED; that waited (§3.10.4)
    tcb.layer.tell(tcb, Events.CONNECTED | Events.WRITABLE)
    tcb.layer.mark(tcb)


def _receive_in_syn_sent(tcb: Tcb, segment: TcpSegment, now: float) -> None:
    """RFC 9293 §3.10.7.3."""
    layer = tcb.layer
    flags = segment.flags
    ack = unwrap(segment.ack, tcb.iss)
    acceptable = bool(flags & ACK) and tcb.iss < ack <= tcb.snd_nxt
    if flags & ACK and not acceptable:
        if not flags & RST:
            layer.send_stray_reset(tcb.key, segment, now)
        layer.count("ack.unsent")
        return
    if flags & RST:
        if acceptable:
            _reset(tcb, now)
        else:
            layer.count("rst.outside")
        return
    if not flags & SYN:
        layer.count("segment.no_syn")
        return
    tcb.irs = segment.seq
    tcb.rcv_nxt = segment.seq + 1
    tcb.rcv_adv = tcb.rcv_nxt + min(tcb.rcv_buf, 0xFFFF)
    tcb.last_ack_sent = tcb.rcv_nxt
    take_syn_options(tcb, segment, now)
    if acceptable:
        if tcb.timestamps and segment.timestamp is not None:
            sent_ms = int(tcb.queue[0].sent_at * 1000.0) + tcb.ts_offset if tcb.queue else 0
            if is_before(segment.timestamp[1], (sent_ms - 1_000_000) & MASK):
                layer.count("ack.timestamp")
        become_established(tcb, TcpEvent.RECEIVE_SYN_ACK, segment.window, segment.seq, ack, now)
        tcb.ack_now = True
        size = len(segment.payload)
        if size or flags & FIN:
            _take_data(tcb, tcb.rcv_nxt, segment.payload, flags, now)
        return
    # MUST-10: both opened at the same time. Say SYN, ACK; data that came along comes again.
    tcb.move(TcpEvent.RECEIVE_SYN)
    tcb.snd_wnd = tcb.max_snd_wnd = segment.window
    tcb.snd_wl1 = segment.seq
    send_syn(tcb, now)
    arm_retransmission(tcb, now)
    layer.mark(tcb)


def _receive_syn_again(tcb: Tcb, segment: TcpSegment, now: float) -> None:
    """In SYN_RECEIVED after a simultaneous open the peer's SYN comes again, or as SYN, ACK (figure 8)."""
    if not segment.flags & ACK:
        send_syn(tcb, now)
        return
    ack = unwrap(segment.ack, tcb.snd_una)
    if not tcb.snd_una < ack <= tcb.snd_nxt:
        tcb.layer.send_stray_reset(tcb.key, segment, now)
        return
    become_established(tcb, TcpEvent.RECEIVE_ACK_OF_SYN, segment.window, segment.seq, ack, now)
    tcb.ack_now = True

"""What an acknowledgment means for the segments on their way: measurement, losses, the congestion window.

This file knows fast recovery with SACK (RFC 6675, 8985) and without (RFC 6582),
proportional rate reduction (RFC 9937), tail loss probes (RFC 8985 §7), and how a
needless recovery is found by timestamps and taken back (RFC 3522, 4015). It
refuses to know windows and headers: it is told what was acknowledged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._tcp_output import REORDER, arm_retransmission, retransmit
from ._tcp_scoreboard import DUPLICATE_THRESHOLD, Phase, Scoreboard, last_mss
from ._tcp_sequence import HALF, MASK, is_before, unwrap
from ._tcp_tcb import NEVER

if TYPE_CHECKING:
    from ._tcp_congestion import CongestionControl
    from ._tcp_tcb import Tcb

__all__ = ["acknowledge", "advance", "on_reordering_timer", "on_timeout", "scoreboard", "send_tail_probe"]

# Statistics by place in Tcb.stats.
_TIMEOUTS: Final = 7


def scoreboard(tcb: Tcb) -> Scoreboard:
    """Give the connection's scoreboard, made and brought to life if need be."""
    board = tcb.board
    if board is None:
        board = tcb.board = Scoreboard(tcb.queue, tcb.snd_mss)
    if not board.active:
        board.mss = tcb.snd_mss
        board.activate()
    return board


def acknowledge(
    tcb: Tcb, ack: int, sack: tuple[tuple[int, int], ...], echo: int | None, duplicate: bool, now: float
) -> None:
    """Take an acceptable acknowledgment up to `ack`, with the SACK blocks beside it.

    `echo` is its TSecr, where timestamps are in use; `duplicate` says that it is one by RFC 5681 §2.
    """
    board = tcb.board
    if (board is None or not board.active) and not sack and not duplicate:
        if ack > tcb.snd_una:
            advance(tcb, ack, echo, now)
        return
    board = scoreboard(tcb)
    board.min_rtt_s = tcb.rto.min_rtt_s
    congestion = tcb.congestion
    assert congestion is not None
    una = tcb.snd_una
    delivered = 0
    if ack > una:
        # RFC 2883: a block below the acknowledgment number says that the segment which it answers had come before.
        came_twice = bool(sack) and unwrap(sack[0][1], una) <= ack
        delivered = _advance_board(tcb, board, ack, echo, now, came_twice=came_twice)
    if sack:
        delivered += _take_blocks(tcb, board, sack, now)
    elif duplicate and not tcb.sack:
        delivered += _count_duplicate(tcb, board)
    if tcb.tlp_end >= 0 and ack >= tcb.tlp_end:
        _finish_tail_probe(tcb, board, congestion, ack, now)
    advanced = ack > una
    ended = False
    if board.phase is not Phase.OPEN and advanced and _was_needless(board, ack, echo):
        _undo(board, congestion)
    elif board.phase is Phase.LOSS:
        if ack >= board.recovery_point:
            ended = True
            _finish(board)
        # RFC 5681 §3.1: slow start again, from one segment.
        congestion.on_ack(delivered, now, tcb.rto.srtt_s)
    elif board.phase is Phase.RECOVERY and ack >= board.recovery_point:
        ended = True
        # RFC 6582 §3.2 step 3 (1): where the receiver's window let little out meanwhile, not all of it at once.
        pipe = board.in_network(tcb.snd_nxt - ack)
        congestion.cwnd_bytes = min(congestion.ssthresh_bytes, pipe + congestion.initial_bytes)
        _finish(board)
    elif board.phase is Phase.OPEN and advanced and tcb.cwnd_limited:
        congestion.on_ack(delivered, now, tcb.rto.srtt_s)
    newly_lost = _detect(tcb, board, una, advanced, now)
    # What is lost when a recovery ends was first sent after its begin: that is another congestion (RFC 6675 §5).
    if board.phase is Phase.OPEN and (newly_lost or (ended and tcb.sack and board.lost_bytes)):
        _enter_recovery(tcb, board, congestion, now)
        _reduce(tcb, board, congestion, max(delivered, 1), safe=False)
        _send_first_lost(tcb, board, now)
    elif board.phase is Phase.RECOVERY:
        _reduce(tcb, board, congestion, delivered, safe=advanced and not newly_lost)
        if newly_lost and not tcb.sack:
            _send_first_lost(tcb, board, now)  # RFC 6582 §3.2 step 3: at once
    board.settle()
    if advanced or tcb.rtx_at == NEVER:
        if tcb.rtx_kind != REORDER or tcb.rtx_at == NEVER or not tcb.queue:
            arm_retransmission(tcb, now)
    elif not board.active and tcb.rtx_kind == REORDER:
        arm_retransmission(tcb, now)


def advance(tcb: Tcb, ack: int, echo: int | None, now: float) -> None:
    """Take a cumulative acknowledgment while nothing is in doubt: the usual case."""
    queue = tcb.queue
    acked = ack - tcb.snd_una
    tcb.snd_una = ack
    first = queue[0]
    clean = True
    while queue:
        sent = queue[0]
        if sent.end > ack:
            if sent.start < ack:
                _trim(tcb, ack)
            break
        if sent.times:
            clean = False
        queue.popleft()
    estimator = tcb.rto
    if clean:
        # MUST-18, Karn: only a segment that was sent once tells its round trip.
        estimator.measure(now - first.sent_at)
    elif echo is not None:
        _measure_echo(tcb, echo, now)
    else:
        estimator.forgive()
    congestion = tcb.congestion
    assert congestion is not None
    if clean and congestion.cwnd_bytes < congestion.ssthresh_bytes:
        congestion.watch_delay(now - first.sent_at, ack, tcb.snd_nxt)
    if tcb.cwnd_limited:
        congestion.on_ack(acked, now, estimator.srtt_s)
    if tcb.tlp_end >= 0 and ack >= tcb.tlp_end:
        tcb.tlp_end = -1
    if queue:
        tcb.stuck_from = now
        arm_retransmission(tcb, now)
    else:
        tcb.stuck_from = tcb.rtx_at = NEVER


def _trim(tcb: Tcb, ack: int) -> None:
    """The first segment of the queue is acknowledged up to `ack` only: cut that part off."""
    sent = tcb.queue[0]
    sent.payload = memoryview(sent.payload)[ack - sent.start :]
    sent.start = ack


def _measure_echo(tcb: Tcb, echo: int, now: float) -> None:
    """Measure by the timestamp that came back (RFC 7323 §4.1): good also for what was sent twice."""
    rtt_ms = (int(now * 1000.0) + tcb.ts_offset - echo) & MASK
    if rtt_ms < HALF:
        tcb.rto.measure(rtt_ms / 1000.0)


def _advance_board(tcb: Tcb, board: Scoreboard, ack: int, echo: int | None, now: float, *, came_twice: bool) -> int:
    """Take a cumulative acknowledgment while the scoreboard is kept; give the bytes it newly tells of."""
    queue = tcb.queue
    acked = ack - tcb.snd_una
    tcb.snd_una = ack
    delivered = 0
    measured: float | None = None
    clean = True
    while queue:
        sent = queue[0]
        if sent.end > ack:
            if sent.start < ack:
                size = ack - sent.start
                _trim(tcb, ack)
                delivered += board.on_acked_part(sent, size)
            break
        queue.popleft()
        if sent.times:
            clean = False
        elif measured is None and not sent.sacked:
            measured = sent.sent_at
        earlier = echo is not None and sent.times > 0 and _echoes_before(tcb, sent.sent_at, echo)
        delivered += board.on_acked(sent, now, earlier)
    board.forget_ranges_before(ack)
    board.duplicate_acks = 0
    if not tcb.sack and board.sacked_bytes:
        # RFC 6582 §3.2: of what is acknowledged the first was the retransmission, the rest made the duplicates.
        gone = min(board.sacked_bytes, max(acked - tcb.snd_mss, 0))
        board.sacked_bytes = 0 if not queue else board.sacked_bytes - gone
        delivered -= gone
    if clean and measured is not None:
        tcb.rto.measure(now - measured)
    elif echo is not None and not clean and not came_twice:
        # What answers a duplicate echoes an older segment, whose own acknowledgment was lost: that would measure our
        # timeout, not the path, and the timeout would grow with each such loss.
        _measure_echo(tcb, echo, now)
    tcb.rto.forgive()
    tcb.stuck_from = now if queue else NEVER
    return max(delivered, 0)


def _echoes_before(tcb: Tcb, sent_at: float, echo: int) -> bool:
    """Tell whether the echoed timestamp is older than a transmission at `sent_at`."""
    return is_before(echo, (int(sent_at * 1000.0) + tcb.ts_offset) & MASK)


def _take_blocks(tcb: Tcb, board: Scoreboard, sack: tuple[tuple[int, int], ...], now: float) -> int:
    """Enter SACK blocks into the scoreboard; pass over those that make no sense (RFC 2018 §4, RFC 2883)."""
    una, nxt = tcb.snd_una, tcb.snd_nxt
    blocks: list[tuple[int, int]] = []
    for index, (left, right) in enumerate(sack):
        start = unwrap(left, una)
        end = unwrap(right, una)
        if index == 0 and (
            end <= una
            or (len(sack) > 1 and unwrap(sack[1][0], una) <= start and end <= unwrap(sack[1][1], una))
        ):  # fmt: skip
            board.on_dsack(una, nxt)
            if end <= una:
                continue
        if not una <= start < end <= nxt:
            if end > una:
                tcb.layer.count("sack.outside")
            continue
        blocks.append((start, end))
    fresh = 0
    blocks.sort()  # the newest comes first; taken in that order it would look like reordering
    for start, end in blocks:
        found = board.on_sack(start, end, now)
        if found < 0:
            tcb.layer.count("sack.too_many")
        else:
            fresh += found
    return fresh


def _count_duplicate(tcb: Tcb, board: Scoreboard) -> int:
    """Without SACK a duplicate acknowledgment says that one segment has arrived, not which (RFC 5681 §3.2)."""
    board.duplicate_acks += 1
    room = tcb.snd_nxt - tcb.snd_una - board.sacked_bytes - board.lost_bytes - 1
    size = min(tcb.snd_mss, room)
    if size <= 0:
        return 0
    board.sacked_bytes += size
    return size


def _detect(tcb: Tcb, board: Scoreboard, una: int, advanced: bool, now: float) -> int:
    """Find what is lost; give its bytes."""
    if tcb.sack:
        lost, wait_s = board.detect_losses(now, tcb.rto.min_rtt_s, tcb.rto.srtt_s)
        if wait_s > 0.0:
            tcb.rtx_kind = REORDER
            tcb.rtx_at = now + wait_s
        elif tcb.rtx_kind == REORDER:
            tcb.rtx_at = NEVER  # armed anew by the caller
        return lost
    if not tcb.queue:
        return 0
    head = tcb.queue[0]
    if board.phase is Phase.OPEN:
        # RFC 6582 §3.2 step 2: the third duplicate, and none that an earlier recovery's retransmissions made.
        if board.duplicate_acks == DUPLICATE_THRESHOLD and una > board.recovery_point:
            return _lose_head(tcb, board)
    elif board.phase is Phase.RECOVERY and advanced and not head.out and not head.lost:
        # RFC 6582 §3.2 step 3, a partial acknowledgment: the next segment was lost too.
        return _lose_head(tcb, board)
    return 0


def _lose_head(tcb: Tcb, board: Scoreboard) -> int:
    head = tcb.queue[0]
    if len(head.payload) > tcb.snd_mss:
        board.split(0, head.start + tcb.snd_mss, keep_left=True)
    return board.mark_lost(head)


def _enter_recovery(tcb: Tcb, board: Scoreboard, congestion: CongestionControl, now: float) -> None:
    flight = tcb.snd_nxt - tcb.snd_una
    board.undo = congestion.cwnd_bytes, congestion.ssthresh_bytes, -1, -1
    board.phase = Phase.RECOVERY
    board.recovery_point = tcb.snd_nxt
    board.recover_flight = max(flight, 1)
    board.prr_delivered = 0
    board.prr_out = 0
    congestion.on_loss(flight, now)


def _reduce(tcb: Tcb, board: Scoreboard, congestion: CongestionControl, delivered: int, *, safe: bool) -> None:
    """Proportional rate reduction: let out in proportion to what arrives (RFC 9937 §6)."""
    if delivered <= 0:
        return
    board.prr_delivered += delivered
    pipe = board.in_network(tcb.snd_nxt - tcb.snd_una)
    ssthresh = congestion.ssthresh_bytes
    if pipe > ssthresh:
        allowed = -(-board.prr_delivered * ssthresh // board.recover_flight) - board.prr_out
    else:
        allowed = max(board.prr_delivered - board.prr_out, delivered)
        if safe:
            allowed += tcb.snd_mss
        allowed = min(ssthresh - pipe, allowed)
    congestion.cwnd_bytes = max(pipe + max(allowed, 0), tcb.snd_mss)


def _send_first_lost(tcb: Tcb, board: Scoreboard, now: float) -> None:
    """The first retransmission goes whatever the window says (RFC 6675 §5 step 4.3)."""
    sent = board.next_lost()
    if sent is None:
        return
    if len(sent.payload) > tcb.snd_mss:
        other = board.split(board.index_of(sent), sent.start + tcb.snd_mss, keep_left=True)
        if board.lost[-1] is other:
            board.lost.rotate(1)
            board.lost[0], board.lost[1] = board.lost[1], board.lost[0]
    retransmit(tcb, sent, now)


def _finish(board: Scoreboard) -> None:
    board.phase = Phase.OPEN
    board.on_recovery_done()
    board.undo = None
    board.prr_out = 0


def _was_needless(board: Scoreboard, ack: int, echo: int | None) -> bool:
    """Eifel (RFC 3522): the acknowledgment of what was retransmitted first echoes a time before that.

    One that does not reach so far answers something else, such as a retransmission of the recovery before.
    """
    if echo is None or board.undo is None:
        return False
    _, _, retransmitted_at, start = board.undo
    return retransmitted_at >= 0 and ack > start and is_before(echo, retransmitted_at)


def _undo(board: Scoreboard, congestion: CongestionControl) -> None:
    """Take the reduction back (RFC 4015 §3); the path reorders, or was only slow."""
    assert board.undo is not None
    congestion.undo(board.undo[0], board.undo[1])
    board.reordering_seen = True
    board.forgive_losses()
    _finish(board)


def _finish_tail_probe(tcb: Tcb, board: Scoreboard, congestion: CongestionControl, ack: int, now: float) -> None:
    """Was the tail probe the repair of a loss? Then it counts as one (RFC 8985 §7.4.2)."""
    if not tcb.tlp_is_retransmission or board.dsack_seen:
        tcb.tlp_end = -1
    elif ack > tcb.tlp_end:
        tcb.tlp_end = -1
        if board.phase is Phase.OPEN:
            congestion.on_loss(tcb.snd_nxt - tcb.snd_una, now)
            congestion.cwnd_bytes = congestion.ssthresh_bytes


def on_reordering_timer(tcb: Tcb, now: float) -> None:
    """What waited for reordering to sort itself out has waited long enough (RFC 8985 §6.3)."""
    board = tcb.board
    congestion = tcb.congestion
    tcb.rtx_at = NEVER
    if board is None or not board.active or congestion is None:
        arm_retransmission(tcb, now)
        return
    lost = _detect(tcb, board, tcb.snd_una, False, now)
    if lost and board.phase is Phase.OPEN:
        _enter_recovery(tcb, board, congestion, now)
        _reduce(tcb, board, congestion, 1, safe=False)
        _send_first_lost(tcb, board, now)
    if tcb.rtx_at == NEVER:
        arm_retransmission(tcb, now)


def on_timeout(tcb: Tcb, now: float) -> None:
    """The retransmission timer ran out: everything is lost, begin again with one segment (RFC 5681 §3.1)."""
    board = scoreboard(tcb)
    congestion = tcb.congestion
    tcb.stats[_TIMEOUTS] += 1
    again = board.phase is Phase.LOSS and tcb.rto.backoffs > 0
    flight = tcb.snd_nxt - tcb.snd_una
    if congestion is not None:
        if board.phase is Phase.OPEN:
            board.undo = congestion.cwnd_bytes, congestion.ssthresh_bytes, -1, -1
        congestion.on_timeout(flight, now, again=again)
    if not tcb.sack:
        board.sacked_bytes = 0
    board.mark_all_lost(forget_sacks=tcb.queue[0].sacked)
    board.phase = Phase.LOSS
    board.recovery_point = tcb.snd_nxt
    board.duplicate_acks = 0
    tcb.tlp_end = -1
    tcb.rto.back_off()
    head = tcb.queue[0]
    if len(head.payload) > tcb.snd_mss:
        board.split(0, head.start + tcb.snd_mss, keep_left=True)
        board.lost.rotate(1)
        if board.lost[0] is not head:
            board.lost[0], board.lost[1] = board.lost[1], board.lost[0]
    retransmit(tcb, head, now)


def send_tail_probe(tcb: Tcb, now: float) -> bool:
    """Retransmit the last segment to bring SACKs of what may be missing before it (RFC 8985 §7.3)."""
    if not tcb.queue:
        return False
    board = scoreboard(tcb)
    sent = last_mss(board)
    tcb.tlp_end = tcb.snd_nxt
    tcb.tlp_is_retransmission = True
    retransmit(tcb, sent, now)
    return True

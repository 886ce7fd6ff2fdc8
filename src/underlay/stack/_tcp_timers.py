"""What time does to a connection: retransmission, probes, delayed acknowledgments, keepalive, the end of patience.

This file knows what each timer means when it runs out, and when a connection is
given up. It refuses to know the heap in which deadlines wait (`_tcp_layer`).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ._tcp_output import (
    PROBE,
    REORDER,
    RTO,
    TLP,
    arm_retransmission,
    flush,
    retransmit,
    send_ack,
    send_probe,
)  # fmt: skip
from ._tcp_recovery import on_reordering_timer, on_timeout, scoreboard, send_tail_probe
from ._tcp_state import State, TcpEvent
from ._tcp_tcb import NEVER

if TYPE_CHECKING:
    from ._tcp_tcb import Tcb

__all__ = ["expire"]


def expire(tcb: Tcb, now: float) -> None:
    """Do all that is due by `now`."""
    if tcb.life_at <= now:
        _end_of_life(tcb, now)
        return
    if tcb.rtx_at <= now:
        _retransmission(tcb, now)
        if tcb.state is State.CLOSED:
            return
    if tcb.keepalive_at <= now:
        _keepalive(tcb, now)
        if tcb.state is State.CLOSED:
            return
    if tcb.ack_at <= now:
        tcb.ack_at = NEVER
        if tcb.unacked_bytes:
            tcb.pingpong = False  # Linux: a delayed ACK that rode on nothing ends the exchange of turns
            send_ack(tcb, now)
    flush(tcb, now)


def _end_of_life(tcb: Tcb, now: float) -> None:
    tcb.life_at = NEVER
    if tcb.state is State.TIME_WAIT:
        tcb.move(TcpEvent.TWO_MSL)  # MUST-13
    else:
        # FIN_WAIT_2 of an orphan: Linux drops it without a word, for the peer may never close (tcp_fin_timeout).
        tcb.layer.count("orphan.fin_timeout")
        tcb.move(TcpEvent.GIVE_UP)
    tcb.layer.forget(tcb, now, 0)


def _retransmission(tcb: Tcb, now: float) -> None:
    kind = tcb.rtx_kind
    tcb.rtx_at = NEVER
    if kind == PROBE:
        _probe_window(tcb, now)
    elif not tcb.queue:
        return
    elif tcb.state is State.SYN_SENT or tcb.state is State.SYN_RECEIVED:
        _retransmit_syn(tcb, now)
    elif kind == REORDER:
        on_reordering_timer(tcb, now)
    elif kind == TLP:
        _tail_probe(tcb, now)
    else:
        _timeout(tcb, now)


def _retransmit_syn(tcb: Tcb, now: float) -> None:
    """MUST-22: the SYN is retransmitted and given up by the same rules, but later (MUST-23)."""
    config = tcb.layer.config
    sent = tcb.queue[0]
    patience_s = tcb._options.user_timeout_s
    retries = tcb._options.syn_retries
    is_over = retries is not None and sent.times >= retries
    if patience_s is not None:
        is_over = is_over or now >= tcb.stuck_from + patience_s
    elif retries is None:
        retries = config.syn_retries if tcb.state is State.SYN_SENT else config.syn_ack_retries
        is_over = sent.times >= retries and now >= tcb.stuck_from + config.min_syn_timeout_s
    if is_over:
        _give_up(tcb, now)
        return
    board = scoreboard(tcb)
    tcb.rto.back_off()
    if sent.times + 1 >= config.retries_advice:
        tcb.layer.advise_negative(tcb)
    board.mark_lost(sent)
    retransmit(tcb, sent, now)
    tcb.rtx_at = now + tcb.rto.rto_s
    tcb.rtx_kind = RTO
    if patience_s is not None:
        tcb.rtx_at = min(tcb.rtx_at, tcb.stuck_from + patience_s)


def _tail_probe(tcb: Tcb, now: float) -> None:
    """RFC 8985 §7.3: something new if there is any and the peer has room, else the last segment again."""
    unsent = tcb.unsent.size_bytes
    room = tcb.snd_una + tcb.snd_wnd - tcb.snd_nxt
    congestion = tcb.congestion
    assert congestion is not None
    before = tcb.snd_nxt
    if unsent and room >= min(unsent, tcb.snd_mss):
        cwnd = congestion.cwnd_bytes
        # One segment beyond the window is allowed.
        congestion.cwnd_bytes = max(cwnd, tcb.snd_nxt - tcb.snd_una + tcb.snd_mss)
        flush(tcb, now)
        congestion.cwnd_bytes = cwnd
    if tcb.snd_nxt != before:
        tcb.tlp_end = tcb.snd_nxt
        tcb.tlp_is_retransmission = False
    else:
        send_tail_probe(tcb, now)
    tcb.layer.tail_probes += 1
    tcb.rtx_kind = RTO
    tcb.rtx_at = now + tcb.rto.rto_s


def _timeout(tcb: Tcb, now: float) -> None:
    """MUST-20: past R1 the path is doubted, past R2 the connection is given up."""
    config = tcb.layer.config
    tcb.layer.timeouts += 1
    patience_s = tcb._options.user_timeout_s
    backoffs = tcb.rto.backoffs
    if tcb.snd_wnd == 0 and not tcb.detached:
        # The peer is alive but has closed its window: it may take as long as it likes (MUST-37), if it answers.
        alive = backoffs < config.retries or now - tcb.heard_closed_at < 2 * config.max_rto_s
    else:
        alive = backoffs < (config.orphan_retries if tcb.detached else config.retries)
    # The sum is compared and not a difference: floats make that less than `patience_s` at the very time of the timer.
    if (patience_s is not None and now >= tcb.stuck_from + patience_s) or (patience_s is None and not alive):
        _give_up(tcb, now)
        return
    if backoffs + 1 >= config.retries_advice:
        tcb.layer.advise_negative(tcb)
    on_timeout(tcb, now)
    if patience_s is not None:
        tcb.rtx_at = min(tcb.rtx_at, tcb.stuck_from + patience_s)


def _probe_window(tcb: Tcb, now: float) -> None:
    """Ask whether the window is still closed, at doubling distances (MUST-36, SHLD-29, SHLD-30)."""
    config = tcb.layer.config
    if tcb.queue or not (tcb.unsent.size_bytes or tcb.fin_pending):
        tcb.probes = 0
        arm_retransmission(tcb, now)
        return
    patience_s = tcb._options.user_timeout_s
    limit = config.orphan_retries if tcb.detached else config.retries
    # Each answer takes `probes` back to 0, so a peer that answers may keep its window closed for ever (MUST-37). But
    # not when the program is gone: nobody would end it then (Linux: tcp_probe_timer(), SOCK_DEAD).
    over = tcb.detached and tcb.rto.rto_s >= config.max_rto_s and tcb.rto.backoffs >= limit
    if (patience_s is not None and now >= tcb.stuck_from + patience_s) or tcb.probes >= limit or over:
        _give_up(tcb, now)
        return
    tcb.probes += 1
    size = tcb.unsent.size_bytes
    room = tcb.snd_una + tcb.snd_wnd - tcb.snd_nxt
    if room > 0 and size:
        # A window too silly to use for long: after the override timeout use it (§3.8.6.2.1, rule 4).
        widest = tcb.max_snd_wnd
        tcb.max_snd_wnd = 0
        flush(tcb, now)
        tcb.max_snd_wnd = widest
        if tcb.queue:
            return
    else:
        send_probe(tcb, now)
        tcb.layer.window_probes += 1
    tcb.rto.back_off()
    tcb.rtx_kind = PROBE
    tcb.rtx_at = now + tcb.rto.rto_s
    if patience_s is not None:
        tcb.rtx_at = min(tcb.rtx_at, tcb.stuck_from + patience_s)


def _keepalive(tcb: Tcb, now: float) -> None:
    """Probe a silent peer (RFC 9293 §3.8.4); one lost answer ends nothing (MUST-29)."""
    options = tcb._options
    if not options.keepalive:
        tcb.keepalive_at = NEVER
        return
    if tcb.queue or tcb.unsent.size_bytes:
        # Data on its way tells as well whether the peer lives.
        tcb.keepalive_at = now + options.keepalive_idle_s
        return
    over = tcb.keepalive_probes >= options.keepalive_count
    if options.user_timeout_s is not None:
        # Linux: with TCP_USER_TIMEOUT its time decides, not the count.
        silent_s = options.keepalive_idle_s + tcb.keepalive_probes * options.keepalive_interval_s
        over = tcb.keepalive_probes > 0 and silent_s >= options.user_timeout_s
    if over:
        _give_up(tcb, now, reset=True)
        return
    tcb.keepalive_probes += 1
    send_probe(tcb, now)
    tcb.layer.keepalives += 1
    tcb.keepalive_at = now + options.keepalive_interval_s


def _give_up(tcb: Tcb, now: float, *, reset: bool = False) -> None:
    """R2: close and tell why: the last ICMP error if there was one, else ETIMEDOUT (RFC 1122 §4.2.3.9)."""
    tcb.layer.count("connection.timed_out")
    wrong = tcb.soft_error or errno.ETIMEDOUT
    if reset:
        tcb.layer.abort(tcb, now, wrong)
    else:
        tcb.move(TcpEvent.GIVE_UP)
        tcb.layer.forget(tcb, now, wrong)

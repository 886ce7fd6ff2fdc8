"""What an ICMP error does to a connection (RFC 9293 §3.9.2.2, RFC 1191, RFC 5927).

This file knows which errors end a connection, which are only remembered, and
what a smaller path MTU changes. It refuses to know ICMP's own layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._contract import IcmpError, IcmpKind
from ._tcp_output import update_mss
from ._tcp_recovery import scoreboard
from ._tcp_sequence import unwrap
from ._tcp_state import State, TcpEvent

if TYPE_CHECKING:
    from ._tcp_tcb import Tcb

__all__ = ["take_icmp_error"]

# RFC 1122 §4.2.3.9: codes 2 and 3 mean that nobody there will ever answer.
_HARD: Final = frozenset({IcmpKind.PROTOCOL_UNREACHABLE, IcmpKind.PORT_UNREACHABLE})
# Smaller ones are nearly always forged: Linux's net.ipv4.route.min_pmtu, and RFC 8200 §5.
_LEAST_MTU: Final = {4: 552, 16: 1280}


def take_icmp_error(tcb: Tcb, error: IcmpError, quoted_seq: int, now: float) -> None:
    """Take an error about a segment of `tcb` whose sequence number was `quoted_seq`."""
    layer = tcb.layer
    kind = error.kind
    if kind is IcmpKind.SOURCE_QUENCH:
        layer.count("icmp.source_quench")  # MUST-55: in silence
        return
    # RFC 5927 §4.1: who did not see the segment cannot quote a number that is on its way.
    if not tcb.snd_una <= unwrap(quoted_seq, tcb.snd_una) <= tcb.snd_nxt:
        layer.count("icmp.outside")
        return
    if kind is IcmpKind.PACKET_TOO_BIG:
        _shrink(tcb, error, now)
        return
    if tcb.state is State.SYN_SENT and (kind in _HARD or layer.config.abort_connecting_on_unreachable):
        tcb.move(TcpEvent.GIVE_UP)
        layer.forget(tcb, now, error.errno)
        return
    # MUST-56: no other error ends a connection; it is the reason told if the connection times out by itself
    # (SHLD-25). RFC 5927 §5.2 and Linux treat also the hard ones so once a connection is synchronized.
    layer.count("icmp.soft")
    layer.tell_soft_error(tcb, error.errno)


def _shrink(tcb: Tcb, error: IcmpError, now: float) -> None:
    """Go on with segments that pass (RFC 1191 §6.4), and send again what did not."""
    path = tcb.layer.ip.path(tcb.key[2], tcb.key[0])
    mtu = min(error.mtu_bytes or tcb.path_mtu, path.mtu_bytes if path is not None else tcb.path_mtu)
    mtu = max(mtu, _LEAST_MTU[len(tcb.key[0])])
    if mtu >= tcb.path_mtu:
        tcb.layer.count("icmp.no_smaller_mtu")
        return
    before = tcb.snd_mss
    update_mss(tcb, mtu)
    mss = tcb.snd_mss
    if tcb.congestion is None or not tcb.queue or before <= mss:
        return
    board = scoreboard(tcb)
    board.mss = mss
    index = 0
    while index < len(board.queue):
        sent = board.queue[index]
        if sent.sacked:
            pass  # the peer has it: larger ones passed while the path was wider
        elif len(sent.payload) > mss:
            board.mark_lost(sent)
            board.split(index, sent.start + mss, keep_left=True)
        elif not sent.lost and len(sent.payload) > 0 and sent.times == 0:
            board.mark_lost(sent)
        index += 1
    ordered = sorted((sent for sent in board.lost if sent.lost and not sent.out), key=lambda sent: sent.start)
    board.lost.clear()
    board.lost.extend(ordered)
    tcb.layer.mark(tcb)

"""The eleven states of a TCP connection and every way from one to another (RFC 9293 §3.3.2, figure 5).

This file knows the diagram. It refuses to know what is sent or checked on the
way: the code which does that moves a connection only by ``TRANSITIONS``, so a
way that is not in this table cannot be taken.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["TRANSITIONS", "State", "TcpEvent"]


class State(enum.Enum):
    """Where a connection is in its life; the names are RFC 9293's, the values Linux's (include/net/tcp_states.h)."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECEIVED = 3
    FIN_WAIT_1 = 4
    FIN_WAIT_2 = 5
    TIME_WAIT = 6
    CLOSED = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11

    # Enum's own is written in Python, hashes the name, and costs as much as the rest of a look into a set of states.
    __hash__ = object.__hash__


class TcpEvent(enum.Enum):
    """What can move a connection: a call of the program, an acceptable segment, or time."""

    PASSIVE_OPEN = "passive open"
    ACTIVE_OPEN = "active open"
    RECEIVE_SYN = "receive SYN"
    RECEIVE_SYN_ACK = "receive SYN, ACK"
    RECEIVE_ACK_OF_SYN = "receive ACK of SYN"
    CLOSE = "close"
    RECEIVE_FIN = "receive FIN"
    RECEIVE_ACK_OF_FIN = "receive ACK of FIN"
    RECEIVE_RST = "receive RST"
    RECEIVE_RST_PASSIVE = "receive RST after a passive open"
    ABORT = "abort"
    GIVE_UP = "give up"
    TWO_MSL = "2 MSL passed"


_S = State
_E = TcpEvent

_TRANSITIONS: dict[tuple[State, TcpEvent], State] = {
    (_S.CLOSED, _E.PASSIVE_OPEN): _S.LISTEN,
    (_S.CLOSED, _E.ACTIVE_OPEN): _S.SYN_SENT,
    # A listener stays what it is; the connection that a SYN begins is the one that moves on.
    (_S.LISTEN, _E.RECEIVE_SYN): _S.SYN_RECEIVED,
    (_S.LISTEN, _E.CLOSE): _S.CLOSED,
    (_S.SYN_SENT, _E.RECEIVE_SYN): _S.SYN_RECEIVED,  # simultaneous open, MUST-10
    (_S.SYN_SENT, _E.RECEIVE_SYN_ACK): _S.ESTABLISHED,
    (_S.SYN_SENT, _E.CLOSE): _S.CLOSED,
    (_S.SYN_RECEIVED, _E.RECEIVE_ACK_OF_SYN): _S.ESTABLISHED,
    (_S.SYN_RECEIVED, _E.CLOSE): _S.FIN_WAIT_1,
    # Only what began at a listener goes back there, MUST-11.
    (_S.SYN_RECEIVED, _E.RECEIVE_RST_PASSIVE): _S.LISTEN,
    (_S.ESTABLISHED, _E.CLOSE): _S.FIN_WAIT_1,
    (_S.ESTABLISHED, _E.RECEIVE_FIN): _S.CLOSE_WAIT,
    (_S.FIN_WAIT_1, _E.RECEIVE_ACK_OF_FIN): _S.FIN_WAIT_2,
    (_S.FIN_WAIT_1, _E.RECEIVE_FIN): _S.CLOSING,
    (_S.FIN_WAIT_2, _E.RECEIVE_FIN): _S.TIME_WAIT,
    (_S.CLOSING, _E.RECEIVE_ACK_OF_FIN): _S.TIME_WAIT,
    (_S.CLOSE_WAIT, _E.CLOSE): _S.LAST_ACK,
    (_S.LAST_ACK, _E.RECEIVE_ACK_OF_FIN): _S.CLOSED,
    (_S.TIME_WAIT, _E.TWO_MSL): _S.CLOSED,
}

_SYNCHRONIZED: Final = (
    _S.SYN_RECEIVED, _S.ESTABLISHED, _S.FIN_WAIT_1, _S.FIN_WAIT_2, _S.CLOSE_WAIT, _S.CLOSING, _S.LAST_ACK,
    _S.TIME_WAIT,
)  # fmt: skip

for _state in (_S.SYN_SENT, *_SYNCHRONIZED):
    _TRANSITIONS[_state, _E.RECEIVE_RST] = _S.CLOSED
    _TRANSITIONS[_state, _E.ABORT] = _S.CLOSED
    # R2 reached, a FIN_WAIT_2 that nobody owns any more, or a TIME_WAIT too many.
    _TRANSITIONS[_state, _E.GIVE_UP] = _S.CLOSED

TRANSITIONS: Final[Mapping[tuple[State, TcpEvent], State]] = MappingProxyType(_TRANSITIONS)
"""(state, event) -> state. What is not in here cannot happen."""

"""The table of transitions is RFC 9293's diagram: whole, and with no way that the diagram has not."""

from __future__ import annotations

import pytest

from underlay.stack import TRANSITIONS, State, TcpEvent

# RFC 9293 figure 5, its arrows with their labels.
FIGURE_5 = {
    ("CLOSED", "PASSIVE_OPEN", "LISTEN"),
    ("CLOSED", "ACTIVE_OPEN", "SYN_SENT"),
    ("LISTEN", "RECEIVE_SYN", "SYN_RECEIVED"),
    ("LISTEN", "CLOSE", "CLOSED"),
    ("SYN_SENT", "CLOSE", "CLOSED"),
    ("SYN_SENT", "RECEIVE_SYN", "SYN_RECEIVED"),
    ("SYN_SENT", "RECEIVE_SYN_ACK", "ESTABLISHED"),
    ("SYN_RECEIVED", "RECEIVE_ACK_OF_SYN", "ESTABLISHED"),
    ("SYN_RECEIVED", "CLOSE", "FIN_WAIT_1"),
    ("SYN_RECEIVED", "RECEIVE_RST_PASSIVE", "LISTEN"),
    ("ESTABLISHED", "CLOSE", "FIN_WAIT_1"),
    ("ESTABLISHED", "RECEIVE_FIN", "CLOSE_WAIT"),
    ("FIN_WAIT_1", "RECEIVE_ACK_OF_FIN", "FIN_WAIT_2"),
    ("FIN_WAIT_1", "RECEIVE_FIN", "CLOSING"),
    ("FIN_WAIT_2", "RECEIVE_FIN", "TIME_WAIT"),
    ("CLOSING", "RECEIVE_ACK_OF_FIN", "TIME_WAIT"),
    ("CLOSE_WAIT", "CLOSE", "LAST_ACK"),
    ("LAST_ACK", "RECEIVE_ACK_OF_FIN", "CLOSED"),
    ("TIME_WAIT", "TWO_MSL", "CLOSED"),
}
ENDS = {TcpEvent.RECEIVE_RST, TcpEvent.ABORT, TcpEvent.GIVE_UP}


def test_the_table_holds_every_arrow_of_the_figure_and_no_other() -> None:
    ours = {(state.name, event.name, to.name) for (state, event), to in TRANSITIONS.items() if event not in ENDS}
    assert ours == FIGURE_5


def test_there_are_eleven_states_and_each_is_reached_and_left() -> None:
    assert len(State) == 11
    assert set(TRANSITIONS.values()) == set(State)
    assert {state for state, _ in TRANSITIONS} == set(State)


def test_every_state_but_closed_and_listen_can_be_cut_short() -> None:
    for state in State:
        for event in ENDS:
            if state in (State.CLOSED, State.LISTEN):
                assert (state, event) not in TRANSITIONS
            else:
                assert TRANSITIONS[state, event] is State.CLOSED


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[State.CLOSED, TcpEvent.TWO_MSL] = State.LISTEN  # type: ignore[index]

"""How connections end: orderly, half, at once on both sides, by resets, in TIME_WAIT (RFC 9293 §3.6, §3.10.4)."""

from __future__ import annotations

import errno

import pytest

from underlay.stack import Events, State, TcpConfig, TcpConnection, TcpOptions

from ._tcp_pair import states
from ._tcp_script import PLAIN, Talk, accepted


def in_state(state: State) -> tuple[Talk, TcpConnection]:
    """Give a connection that was brought into `state`."""
    talk, connection = accepted()
    if state in (State.FIN_WAIT_1, State.FIN_WAIT_2, State.CLOSING, State.TIME_WAIT):
        connection.shutdown(1, talk.now)
        talk.expect("F. 1:1 ack 1")
        if state is State.CLOSING:
            talk.say("F.", 1, 1)
            talk.expect(". 2:2 ack 2")
        elif state is not State.FIN_WAIT_1:
            talk.say(".", 1, 2)
            if state is State.TIME_WAIT:
                talk.say("F.", 1, 2)
                talk.expect(". 2:2 ack 2")
    elif state in (State.CLOSE_WAIT, State.LAST_ACK):
        talk.say("F.", 1, 1)
        talk.expect(". 1:1 ack 2")
        if state is State.LAST_ACK:
            connection.shutdown(1, talk.now)
            talk.expect("F. 1:1 ack 2")
    assert states(connection) == (state,)
    return talk, connection


SYNCHRONIZED = [
    State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2, State.CLOSE_WAIT, State.CLOSING, State.LAST_ACK,
    State.TIME_WAIT,
]  # fmt: skip


def test_an_orderly_close_goes_through_fin_wait_1_and_2_to_time_wait() -> None:
    talk, connection = in_state(State.FIN_WAIT_2)
    talk.say("F.", 1, 2)
    assert states(connection) == (State.TIME_WAIT,)
    talk.expect(". 2:2 ack 2")


def test_a_fin_with_the_ack_of_ours_leads_straight_to_time_wait() -> None:
    talk, connection = in_state(State.FIN_WAIT_1)
    talk.say("F.", 1, 2)
    assert states(connection) == (State.TIME_WAIT,)
    talk.expect(". 2:2 ack 2")


def test_the_peers_close_is_answered_by_ours_and_nothing_waits() -> None:
    talk, connection = in_state(State.LAST_ACK)
    talk.told(connection)
    talk.say(".", 2, 2)
    assert states(connection) == (State.CLOSED,)
    assert talk.told(connection) == Events.CLOSED


def test_a_fin_acknowledges_what_was_read_before_it_and_no_segment_repeats_that() -> None:
    talk, connection = accepted()
    connection.send(b"ask", talk.now)
    talk.expect("P. 1:4 ack 1")
    talk.say("P.", 1, 4, b"hello")
    talk.say("P.", 6, 4, b"again")
    assert connection.receive(100, talk.now) == b"helloagain"
    connection.close(talk.now)
    talk.expect("F. 4:4 ack 11")


def test_a_close_in_the_turn_of_the_peers_fin_answers_both_in_one_segment() -> None:
    talk, connection = accepted()
    talk.say("F.", 1, 1)
    connection.close(talk.now)
    talk.expect("F. 1:1 ack 2")


def test_closes_that_cross_go_through_closing() -> None:
    talk, connection = in_state(State.CLOSING)
    talk.say(".", 2, 2)
    assert states(connection) == (State.TIME_WAIT,)


def test_a_half_closed_connection_receives_on() -> None:
    talk, connection = in_state(State.FIN_WAIT_2)
    talk.say("P.", 1, 2, b"more")
    talk.wait(0.1)
    talk.expect(". 2:2 ack 5")
    assert connection.receive(10, talk.now) == b"more"


def test_a_half_closed_peer_is_sent_on_to() -> None:
    talk, connection = in_state(State.CLOSE_WAIT)
    connection.send(b"more", talk.now)
    talk.expect("P. 1:5 ack 2")


def test_data_queued_before_a_close_is_sent_before_the_fin() -> None:
    talk, connection = accepted(window=1460)
    connection.send(bytes(2000), talk.now)
    connection.close(talk.now)
    talk.expect(". 1:1461 ack 1")
    talk.say(".", 1, 1461, window=1460)
    talk.expect("FP. 1461:2001 ack 1")


def test_data_that_was_taken_is_sent_before_the_reset_of_a_close() -> None:
    """As Linux, where send() itself sends."""
    talk, connection = accepted(window=1460)
    connection.configure(talk.now, linger_s=0)
    connection.send(bytes(2000), talk.now)
    connection.close(talk.now)
    talk.expect(". 1:1461 ack 1", "R. 1461:1461 ack 1")


def test_the_program_can_tell_a_close_from_an_abort() -> None:
    """MUST-12: it is told whether the peer closed or the connection was aborted."""
    talk, connection = accepted()
    talk.say("F.", 1, 1)
    assert connection.receive(1, talk.now) == b""
    assert connection.error is None
    talk, connection = accepted()
    talk.say("R", 1)
    with pytest.raises(ConnectionResetError):
        connection.receive(1, talk.now)


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_an_exact_reset_ends_a_connection_in_every_state(state: State) -> None:
    talk, connection = in_state(state)
    fin_seen = state in (State.CLOSE_WAIT, State.CLOSING, State.LAST_ACK, State.TIME_WAIT)
    talk.say("R", 2 if fin_seen else 1)
    assert states(connection) == (State.CLOSED,)
    expected = {State.CLOSE_WAIT: errno.EPIPE, State.TIME_WAIT: 0}.get(state, errno.ECONNRESET)
    assert connection.take_error() == expected
    assert connection.take_error() == 0
    talk.expect()


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_an_abort_sends_a_reset_in_every_state_that_has_one(state: State) -> None:
    talk, connection = in_state(state)
    connection.abort(talk.now)
    assert states(connection) == (State.CLOSED,)
    assert [line.split()[0] for line in talk.heard()] == ([] if state is State.TIME_WAIT else ["R."])
    assert talk.layer.statistics().connections == 0


def test_what_was_received_before_a_reset_can_still_be_read() -> None:
    """As Linux."""
    talk, connection = accepted()
    talk.say("P.", 1, 1, b"last words")
    talk.say("R", 11)
    assert connection.receive(100, talk.now) == b"last words"
    with pytest.raises(ConnectionResetError):
        connection.receive(100, talk.now)
    assert connection.receive(100, talk.now) == b""
    with pytest.raises(BrokenPipeError):
        connection.send(b"x", talk.now)


def test_an_error_is_given_once() -> None:
    talk, connection = accepted()
    talk.say("R", 1)
    assert connection.readable
    assert connection.writable
    with pytest.raises(ConnectionResetError):
        connection.send(b"x", talk.now)
    assert connection.receive(1, talk.now) == b""


def test_a_close_with_unread_data_is_a_reset() -> None:
    """SHLD-3: the peer learns that data was lost."""
    talk, connection = accepted()
    talk.say("P.", 1, 1, b"nobody reads this")
    connection.close(talk.now)
    talk.expect("R. 1:1 ack 18")
    assert states(connection) == (State.CLOSED,)


def test_data_after_a_close_is_answered_by_a_reset() -> None:
    talk, connection = accepted()
    connection.close(talk.now)
    talk.expect("F. 1:1 ack 1")
    talk.say(".", 1, 2)
    talk.say("P.", 1, 2, b"too late")
    talk.expect("R. 2:2 ack 1")
    assert states(connection) == (State.CLOSED,)


def test_linger_0_makes_a_close_a_reset() -> None:
    talk, connection = accepted(options=TcpOptions(linger_s=0))
    connection.close(talk.now)
    assert [line.split()[0] for line in talk.heard()] == ["R."]


def test_a_close_that_resets_sends_first_what_the_windows_allow() -> None:
    for options, unread in ((TcpOptions(linger_s=0), b""), (TcpOptions(), b"a question")):
        talk, connection = accepted(PLAIN, options=options, window=10)
        if unread:
            talk.say("P.", 1, 1, unread, window=10)
        connection.send(b"an answer that is longer", talk.now)
        connection.close(talk.now)
        after = 1 + len(unread)
        talk.expect(f". 1:11 ack {after}", f"R. 11:11 ack {after}")


def test_data_after_both_ways_were_shut_is_answered_by_a_reset() -> None:
    """RFC 1122 §4.2.2.13, as Linux has it: also where the program has kept the socket."""
    for acknowledged in (False, True):
        talk, connection = accepted(PLAIN)
        connection.shutdown(2, talk.now)
        talk.expect("F. 1:1 ack 1")
        if acknowledged:
            talk.say(".", 1, 2)
        talk.say("P.", 1, 2, b"too late")
        assert [line.split()[0] for line in talk.heard()] == ["R."]
        assert talk.drops == {"data.after_close": 1}
        assert states(connection) == (State.CLOSED,)
        with pytest.raises(ConnectionResetError):
            connection.receive(10, talk.now)


def test_an_orphan_in_fin_wait_2_waits_a_minute_and_no_longer() -> None:
    talk, connection = accepted()
    connection.close(talk.now)
    talk.expect("F. 1:1 ack 1")
    talk.say(".", 1, 2)
    talk.wait(59)
    assert states(connection) == (State.FIN_WAIT_2,)
    talk.wait(2)
    assert states(connection) == (State.CLOSED,)
    assert talk.drops == {"orphan.fin_timeout": 1}


def test_a_half_closed_connection_that_the_program_holds_waits_for_ever() -> None:
    talk, connection = in_state(State.FIN_WAIT_2)
    talk.wait(100_000)
    assert states(connection) == (State.FIN_WAIT_2,)


def test_an_orphan_gives_up_sooner() -> None:
    talk, connection = accepted()
    connection.close(talk.now)
    begin = talk.now
    talk.wait(10_000)
    assert states(connection) == (State.CLOSED,)
    assert len(talk.times(begin)) == 1 + 8


def test_too_many_orphans_make_a_close_a_reset() -> None:
    talk = Talk(TcpConfig(timestamps=False, max_orphans=1))
    talk.listen()
    connections = []
    for port in (4000, 4001):
        talk.say("S", 0, port=port)
        talk.heard()
        talk.say(".", 1, 1, port=port)
        connections.append(talk.accept())
    connections[0].close(talk.now)
    connections[1].close(talk.now)
    assert [line.split()[0] for line in talk.heard()] == ["R.", "F."]
    assert talk.drops == {"orphan.too_many": 1}


def test_a_close_with_too_much_to_send_is_a_reset_that_is_counted() -> None:
    talk = Talk(TcpConfig(timestamps=False, max_orphan_bytes=1000))
    talk.listen()
    connections = []
    for port in (4000, 4001, 4002):
        talk.say("S", 0, port=port, window=0)
        talk.heard()
        talk.say(".", 1, 1, port=port, window=0)
        connections.append(talk.accept())
    for connection, size in zip(connections, (1000, 1, 0), strict=True):
        connection.send(bytes(size), talk.now)
        connection.close(talk.now)
    assert states(*connections) == (State.FIN_WAIT_1, State.CLOSED, State.FIN_WAIT_1)
    assert talk.drops == {"orphan.too_many_bytes": 1}
    connections[0].abort(talk.now)
    assert talk.layer._orphan_bytes == 0


@pytest.mark.parametrize("window", [0, 5])
def test_an_orphan_does_not_wait_for_ever_for_a_window_that_the_peer_keeps_closed(window: int) -> None:
    """Its peer answers each probe; while the program has the connection that may go on."""
    for closed in (True, False):
        talk, connection = accepted(window=window)
        connection.send(bytes(1000), talk.now)
        if closed:
            connection.close(talk.now)
        end = talk.now + 86_400
        while talk.now < end and connection.state is not State.CLOSED:
            talk.wait(1.0)
            for _ in talk.heard():
                talk.say(".", 1, 1 + window, window=0)
        assert (connection.state is State.CLOSED) == closed
        assert (talk.layer.statistics().orphans, talk.layer.statistics().connections) == (0, 0 if closed else 1)
        assert (talk.now < end - 80_000) == closed
        assert talk.drops.get("connection.timed_out", 0) == closed


def test_time_wait_lasts_two_msl() -> None:
    """MUST-13."""
    talk, connection = in_state(State.TIME_WAIT)
    talk.wait(59.9)
    assert states(connection) == (State.TIME_WAIT,)
    talk.wait(0.2)
    assert states(connection) == (State.CLOSED,)


def test_a_repeated_fin_in_time_wait_is_acknowledged_and_begins_it_anew() -> None:
    talk, connection = in_state(State.TIME_WAIT)
    talk.wait(50)
    talk.say("F.", 1, 2)
    talk.expect(". 2:2 ack 2")
    talk.wait(50)
    assert states(connection) == (State.TIME_WAIT,)
    talk.wait(11)
    assert states(connection) == (State.CLOSED,)


def test_a_syn_with_a_higher_number_begins_a_new_life_in_time_wait() -> None:
    """MAY-2; the new initial sequence number lies above all that the old life has sent."""
    talk, connection = in_state(State.TIME_WAIT)
    old_end = talk.our_iss + 2
    talk.say("S", 1000)
    assert states(connection) == (State.CLOSED,)
    talk.expect("S. 0:0 ack 1001")
    assert 0 < (talk.our_iss - old_end) & 0xFFFF_FFFF < 1 << 31
    talk.say(".", 1001, 1)
    assert talk.accept().state is State.ESTABLISHED


def test_a_syn_with_a_lower_number_is_an_old_duplicate_in_time_wait() -> None:
    talk, connection = in_state(State.TIME_WAIT)
    talk.say("S", -5)
    talk.expect(". 2:2 ack 2")
    assert states(connection) == (State.TIME_WAIT,)


def test_a_newer_timestamp_lets_any_syn_begin_a_new_life() -> None:
    """RFC 6191 §2."""
    talk, connection = accepted(timestamp=500)
    connection.shutdown(1, talk.now)
    talk.expect("F. 1:1 ack 1")
    talk.say("F.", 1, 2)
    talk.expect(". 2:2 ack 2")
    assert states(connection) == (State.TIME_WAIT,)
    talk.say("S", -70_000, timestamp=(400, 0))
    assert states(connection) == (State.TIME_WAIT,)
    talk.heard()
    talk.say("S", -70_000, timestamp=(501, 0))
    assert states(connection) == (State.CLOSED,)
    assert talk.heard()[0].startswith("S.")


def test_too_many_in_time_wait_drop_the_oldest() -> None:
    talk = Talk(TcpConfig(timestamps=False, max_time_wait=1))
    talk.listen()
    connections = []
    for port in (4000, 4001):
        talk.say("S", 0, port=port)
        talk.heard()
        talk.say(".", 1, 1, port=port)
        connection = talk.accept()
        connections.append(connection)
        connection.shutdown(1, talk.now)
        talk.heard()
        talk.say("F.", 1, 2, port=port)
        talk.heard()
    assert states(*connections) == (State.CLOSED, State.TIME_WAIT)
    assert talk.drops == {"time_wait.full": 1}


@pytest.mark.parametrize("state", [State.CLOSE_WAIT, State.CLOSING, State.LAST_ACK])
def test_a_fin_that_comes_again_is_acknowledged_again(state: State) -> None:
    talk, connection = in_state(state)
    talk.say("F.", 1, 1)
    assert [line.split(" ", 2)[2] for line in talk.heard()] == ["ack 2"]
    assert states(connection) == (state,)


def test_a_fin_out_of_order_waits_for_the_data_before_it() -> None:
    talk, connection = accepted()
    talk.say("F.", 6, 1, b"world")
    talk.expect(". 1:1 ack 1")
    assert states(connection) == (State.ESTABLISHED,)
    talk.say(".", 1, 1, b"hello")
    talk.expect(". 1:1 ack 12")
    assert states(connection) == (State.CLOSE_WAIT,)
    assert connection.receive(20, talk.now) == b"helloworld"
    assert connection.receive(20, talk.now) == b""


def test_reading_may_be_shut_while_writing_goes_on() -> None:
    talk, connection = accepted(PLAIN)
    connection.shutdown(0, talk.now)
    assert connection.receive(1, talk.now) == b""
    connection.send(b"still", talk.now)
    talk.expect("P. 1:6 ack 1")


def test_close_twice_is_close_once() -> None:
    talk, connection = accepted()
    connection.close(talk.now)
    connection.close(talk.now)
    talk.expect("F. 1:1 ack 1")
    assert talk.layer.statistics().orphans == 1

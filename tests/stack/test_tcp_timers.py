"""What time does: retransmission, window probes, keepalive, the user's patience (RFC 9293 §3.8, RFC 6298)."""

from __future__ import annotations

import errno
import itertools
from heapq import heapify

import pytest

from underlay.stack import Events, State, TcpConfig, TcpOptions

from ._tcp_pair import states
from ._tcp_script import PLAIN, Talk, accepted, connected


def distances(times: list[float]) -> list[float]:
    return [round(after - before, 3) for before, after in itertools.pairwise(times)]


def test_what_is_not_acknowledged_is_sent_again_at_doubling_distances() -> None:
    """MUST-19: exponential back-off."""
    talk, connection = accepted()
    connection.send(b"hello", talk.now)
    begin = talk.now
    talk.wait(10)
    assert all(talk.write(answer) == "P. 1:6 ack 1" for answer in talk.answers)
    assert distances(talk.times(begin)) == [0.2, 0.4, 0.8, 1.6, 3.2]


def test_the_timeout_follows_the_measured_round_trip() -> None:
    """RFC 6298 §2: SRTT + 4 RTTVAR; the latter counts for no less than Linux's 0.2 s."""
    talk, connection = accepted()
    for _ in range(80):
        connection.send(b"x", talk.now)
        talk.heard()
        talk.now += 0.5
        talk.say(".", 1, connection.snd_nxt - connection.iss)
    assert connection.info().rto_s == pytest.approx(0.7, abs=0.001)
    assert connection.info().srtt_s == pytest.approx(0.5, abs=0.001)


def test_a_retransmitted_segment_measures_nothing() -> None:
    """MUST-18: Karn's algorithm."""
    talk, connection = accepted()
    before = connection.info().srtt_s
    connection.send(b"x", talk.now)
    talk.wait(0.3)
    talk.say(".", 1, 2)
    assert connection.info().srtt_s == before


def test_a_timestamp_measures_also_what_was_retransmitted() -> None:
    """RFC 7323 §4.1."""
    talk, connection = accepted(timestamp=100)
    connection.send(b"x", talk.now)
    talk.wait(0.3)
    talk.heard()
    assert talk.last is not None
    assert talk.last.segment.timestamp is not None
    talk.now += 0.1
    talk.say(".", 1, 2, timestamp=(101, talk.last.segment.timestamp[0]))
    assert 0.01 < connection.info().srtt_s < 0.2


def test_a_timeout_begins_again_with_one_segment() -> None:
    """MUST-19: slow start and congestion avoidance."""
    talk, connection = accepted(options=TcpOptions(congestion="newreno"))
    connection.send(bytes(60_000), talk.now)
    assert len(talk.heard()) == 10
    talk.wait(0.25)
    talk.expect(". 1:1461 ack 1")
    assert connection.info().cwnd_bytes == 1460
    assert connection.info().ssthresh_bytes == 7300
    talk.say(".", 1, 1461)
    talk.expect(". 1461:2921 ack 1", ". 2921:4381 ack 1")
    talk.say(".", 1, 4381)
    assert len(talk.heard()) == 4


def test_a_connection_is_given_up_after_fifteen_retransmissions() -> None:
    """MUST-20: R1 asks IP for another way, R2 closes."""
    talk, connection = accepted()
    connection.send(b"x", talk.now)
    begin = talk.now
    talk.wait(200)
    assert talk.doubts[:1] == [talk.peer]
    assert states(connection) == (State.ESTABLISHED,)
    talk.wait(5000)
    assert states(connection) == (State.CLOSED,)
    assert talk.told(connection) & Events.ERROR
    times = talk.times(begin)
    assert len(times) == 16
    assert times[-1] > 100  # SHLD-11
    with pytest.raises(TimeoutError):
        connection.receive(1, talk.now)


def test_the_path_is_doubted_after_three_retransmissions() -> None:
    """MUST-20, SHLD-10: R1 corresponds to at least three."""
    talk, connection = accepted()
    connection.send(b"x", talk.now)
    talk.wait(1)
    assert len(talk.answers) == 3
    assert talk.doubts == []
    talk.wait(1)
    assert talk.doubts == [talk.peer]


def test_the_program_can_set_how_long_it_waits() -> None:
    """MUST-21: R2 by the user timeout."""
    talk, connection = accepted(options=TcpOptions(user_timeout_s=5))
    connection.send(b"x", talk.now)
    talk.wait(4.9)
    assert states(connection) == (State.ESTABLISHED,)
    talk.wait(0.2)
    assert states(connection) == (State.CLOSED,)
    assert connection.take_error() == errno.ETIMEDOUT


def test_a_syn_is_repeated_for_three_minutes_and_then_given_up_at_its_next_timeout() -> None:
    """MUST-22: the same rules for SYNs. MUST-23: R2 for a SYN is three minutes at least."""
    talk = Talk()
    connection = talk.connect()
    begin = talk.now
    talk.wait(246)  # 127 s, and max_rto_s of 120 s
    assert states(connection) == (State.SYN_SENT,)
    assert talk.times(begin) == [0, 1, 3, 7, 15, 31, 63, 127]
    talk.wait(2)
    assert states(connection) == (State.CLOSED,)
    assert connection.take_error() == errno.ETIMEDOUT


def test_a_syn_is_given_up_after_as_many_retries_as_the_program_says() -> None:
    """TCP_SYNCNT."""
    talk = Talk()
    connection = talk.connect(options=TcpOptions(syn_retries=2))
    begin = talk.now
    talk.wait(6.9)
    assert states(connection) == (State.SYN_SENT,)
    assert talk.times(begin) == [0, 1, 3]
    talk.wait(0.2)
    assert connection.take_error() == errno.ETIMEDOUT


@pytest.mark.parametrize("begin", [1000.0, 1000.1, 1003.3, 12345.678])
@pytest.mark.parametrize("what", ["syn", "data", "probe"])
def test_a_users_patience_ends_whatever_the_clock_shows(begin: float, what: str) -> None:
    """A sum of floats less one of them may be less than the other: a timer that came too early came again, for ever."""
    options = TcpOptions(user_timeout_s=3.3)
    if what == "syn":
        talk = Talk(now=begin)
        connection = talk.connect(options=options)
    else:
        talk, connection = accepted(options=options, now=begin, window=10 if what == "probe" else 65535)
        connection.send(bytes(10), talk.now)
        if what == "probe":
            talk.heard()
            talk.say(".", 1, 11, window=0)
            connection.send(b"x", talk.now)
    talk.wait(3.2)
    assert connection.take_error() == 0
    talk.wait(0.2)
    assert connection.take_error() == errno.ETIMEDOUT


def test_a_syn_is_given_up_sooner_by_the_users_patience() -> None:
    talk = Talk()
    connection = talk.connect(options=TcpOptions(user_timeout_s=10))
    talk.wait(10.1)
    assert connection.take_error() == errno.ETIMEDOUT


def test_a_lost_syn_makes_a_careful_start() -> None:
    """RFC 6298 §5.7: 3 s; RFC 5681 §3.1: one segment."""
    talk = Talk()
    connection = talk.connect()
    talk.wait(1.5)
    talk.heard()
    talk.say("S.", 0, 1, mss=1460)
    talk.expect(". 1:1 ack 1")
    connection.send(bytes(5000), talk.now)
    talk.expect(". 1:1461 ack 1")
    assert connection.info().rto_s == 3.0


def test_an_unanswered_syn_ack_is_repeated_five_times_and_forgotten() -> None:
    talk = Talk()
    talk.listen()
    talk.say("S", 0)
    begin = talk.now
    talk.wait(100)
    assert talk.times(begin) == [0, 1, 3, 7, 15, 31]
    assert talk.layer.statistics().syn_requests == 0
    assert talk.drops == {"syn.timed_out": 1}


# --- closed windows ---


def test_a_closed_window_is_probed_at_doubling_distances() -> None:
    """MUST-35, MUST-36: a zero window is probed; SHLD-29: first after a timeout; SHLD-30: then ever later."""
    talk, connection = accepted(window=1000)
    connection.send(bytes(3000), talk.now)
    talk.expect(". 1:1001 ack 1")
    talk.say(".", 1, 1001, window=0)
    begin = talk.now
    talk.wait(4)
    assert {talk.write(answer) for answer in talk.answers} == {". 1000:1000 ack 1"}
    assert talk.times(begin) == [0.2, 0.6, 1.4, 3.0]


def test_a_window_may_stay_closed_as_long_as_the_peer_answers() -> None:
    """MUST-37."""
    talk, connection = accepted(window=1000)
    connection.send(bytes(3000), talk.now)
    talk.expect(". 1:1001 ack 1")
    talk.say(".", 1, 1001, window=0)
    for _ in range(100):
        talk.wait(130)
        assert talk.heard()
        talk.say(".", 1, 1001, window=0)
    assert states(connection) == (State.ESTABLISHED,)
    talk.say(".", 1, 1001, window=65535)
    talk.expect(". 1001:2461 ack 1", "P. 2461:3001 ack 1")


def test_a_peer_that_answers_no_probe_is_given_up() -> None:
    talk, connection = accepted(window=1000)
    connection.send(bytes(3000), talk.now)
    talk.heard()
    talk.say(".", 1, 1001, window=0)
    talk.wait(5000)
    assert connection.take_error() == errno.ETIMEDOUT


def test_a_probe_of_our_closed_window_is_answered() -> None:
    """Both kinds: a byte before the window, as Linux does, and a byte of data."""
    talk, connection = accepted(options=TcpOptions(receive_buffer_bytes=1000))
    talk.say(".", 1, 1, bytes(1000))
    talk.heard()
    talk.say(".", 1000, 1)
    talk.expect(". 1:1 ack 1001")
    talk.say(".", 1001, 1, b"x")
    talk.expect(". 1:1 ack 1001")
    assert connection.unread_bytes == 1000


def test_rst_and_urg_are_processed_while_the_window_is_closed() -> None:
    """MUST-66."""
    talk, connection = accepted(options=TcpOptions(receive_buffer_bytes=1000))
    talk.say(".", 1, 1, bytes(1000))
    talk.heard()
    talk.told(connection)
    talk.say("U.", 1001, 1, b"x", urgent=5)
    assert talk.told(connection) == Events.URGENT
    talk.say("R", 1001)
    assert states(connection) == (State.CLOSED,)


def test_acks_are_processed_while_the_window_is_closed() -> None:
    talk, connection = accepted(options=TcpOptions(receive_buffer_bytes=1000))
    talk.say(".", 1, 1, bytes(1000))
    connection.send(b"x", talk.now)
    talk.heard()
    talk.say(".", 1001, 2, b"more")
    assert connection.flight_bytes == 0


# --- keepalive ---

ALIVE = TcpOptions(keepalive=True, keepalive_idle_s=10, keepalive_interval_s=2, keepalive_count=3)


def test_keepalive_is_off_by_default() -> None:
    """MUST-25."""
    talk, connection = accepted()
    talk.wait(1_000_000)
    talk.expect()
    assert states(connection) == (State.ESTABLISHED,)
    assert talk.layer.next_deadline() is None


def test_keepalive_waits_two_hours_unless_it_is_told_otherwise() -> None:
    """MUST-24: the program asks for it. MUST-28: two hours by default."""
    talk, connection = accepted()
    connection.configure(talk.now, keepalive=True)
    begin = talk.now
    talk.wait(7300)
    assert talk.times(begin) == [7200, 7275]


def test_keepalive_probes_only_an_idle_connection_at_the_interval_that_was_set() -> None:
    """MUST-26: only if idle. MUST-27: the interval is configurable. SHLD-12: the probe has no data."""
    talk, _connection = accepted(options=ALIVE)
    talk.wait(9)
    talk.say("P.", 1, 1, b"x")
    talk.expect(". 1:1 ack 2")
    talk.wait(9.5)
    talk.expect()
    talk.wait(1)
    talk.expect(". 0:0 ack 2")


def test_a_single_lost_answer_to_keepalive_ends_nothing() -> None:
    """MUST-29."""
    talk, connection = accepted(options=ALIVE)
    talk.wait(12.1)
    talk.expect(". 0:0 ack 1", ". 0:0 ack 1")
    talk.say(".", 1, 1)
    talk.wait(9)
    talk.expect()
    assert states(connection) == (State.ESTABLISHED,)


def test_a_dead_peer_is_given_up_after_all_probes() -> None:
    talk, connection = accepted(options=ALIVE)
    begin = talk.now
    talk.wait(30)
    assert talk.times(begin) == [10, 12, 14, 16]
    assert connection.take_error() == errno.ETIMEDOUT


def test_a_keepalive_of_the_peer_is_answered() -> None:
    talk, _connection = accepted()
    talk.say(".", 0, 1)
    talk.expect(". 1:1 ack 1")


# --- idleness ---


def test_a_long_silence_shrinks_the_congestion_window() -> None:
    """RFC 5681 §4.1."""
    talk, connection = accepted(options=TcpOptions(congestion="newreno"), window=65535)
    for _ in range(4):
        connection.send(bytes(40_000), talk.now)
        talk.heard()
        talk.say(".", 1, connection.snd_nxt - connection.iss)
        talk.heard()
        talk.say(".", 1, connection.snd_nxt - connection.iss)
        talk.heard()
    assert connection.info().cwnd_bytes > 20_000
    talk.wait(10)
    connection.send(bytes(40_000), talk.now)
    assert len(talk.heard()) == 10
    assert connection.info().cwnd_bytes == 14_600


def test_ten_thousand_idle_connections_want_no_wake_up() -> None:
    talk = Talk(TcpConfig())
    talk.listen(backlog=100)
    for port in range(1000, 3000):
        talk.say("S", 0, port=port, mss=1460)
        talk.heard()
        talk.say(".", 1, 1, port=port)
        talk.accept()
    assert talk.layer.statistics().connections == 2000
    talk.wait(100)
    talk.heard()
    assert talk.layer.next_deadline() is None


def test_a_busy_connection_with_keepalive_leaves_no_heap_of_old_deadlines() -> None:
    talk, _connection = accepted(TcpConfig(timestamps=False, sack=False, quick_acks=0), options=ALIVE)
    for index in range(2000):
        talk.say("P.", 1 + index, 1, b"x")
        talk.layer.flush(talk.now)
        talk.now += 0.05
        talk.layer.handle_timers(talk.now)  # next_deadline would sort out what stands in front
        assert len(talk.layer._heap) <= 160
    assert len(talk.heard()) == 2000


def test_connections_that_are_long_over_make_a_new_one_no_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timers of their handshakes are swept through now and then, and not at each new timer."""
    swept = []

    def sweep(heap: list[tuple[float, int, object]]) -> None:
        swept.append(len(heap))
        heapify(heap)

    monkeypatch.setattr("underlay.stack._tcp_layer.heapify", sweep)
    talk = Talk(PLAIN)
    talk.listen()
    for port in range(2000, 4000):
        talk.say("S", 0, port=port)
        talk.say(".", 1, 1, port=port)
        talk.accept().abort(talk.now)
    assert len(talk.layer._heap) <= 160
    assert sum(swept) <= 3 * 2000


def test_an_open_connection_is_timed_out_by_count_also_in_config() -> None:
    talk, connection = connected(TcpConfig(timestamps=False, retries=2))
    connection.send(b"x", talk.now)
    talk.wait(60)
    assert states(connection) == (State.CLOSED,)
    assert PLAIN.retries == 15

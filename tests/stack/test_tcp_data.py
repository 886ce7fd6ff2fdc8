"""Data and its acknowledgments: delayed ACKs, Nagle, windows, silly windows, reassembly (RFC 9293 §3.7, §3.8)."""

from __future__ import annotations

import errno

import pytest

from underlay.stack import Events, State, TcpConfig, TcpOptions
from underlay.wire import PSH

from ._tcp_pair import states
from ._tcp_script import PLAIN, accepted, check_options

NO_QUICK_ACKS = TcpConfig(timestamps=False, sack=False, window_scaling=False, quick_acks=0)
FULL = bytes(1460)


def test_data_in_order_is_given_to_the_program_and_acknowledged() -> None:
    talk, connection = accepted()
    talk.say("P.", 1, 1, b"hello")
    assert talk.told(connection) == Events.READABLE
    talk.expect(". 1:1 ack 6")
    assert connection.receive(3, talk.now) == b"hel"
    assert connection.receive(100, talk.now) == b"lo"
    assert connection.receive(100, talk.now) is None


def test_a_wrong_checksum_drops_the_segment() -> None:
    """MUST-3. MUST-2: ours are right, or the peer of these tests would not read them."""
    talk, connection = accepted()
    talk.say("P.", 1, 1, b"hello", spoil=True)
    talk.expect()
    assert not connection.readable
    assert talk.drops == {"tcp.checksum": 1}


def test_a_lone_small_segment_is_acknowledged_within_half_a_second() -> None:
    """MUST-40: an ACK is delayed by less than 0.5 s."""
    talk, _connection = accepted(NO_QUICK_ACKS)
    talk.say("P.", 1, 1, b"hello")
    talk.expect()
    begin = talk.now
    talk.wait(1)
    assert talk.times(begin) == [0.04]


def test_every_second_full_segment_is_acknowledged_at_once() -> None:
    """SHLD-19."""
    talk, _connection = accepted(NO_QUICK_ACKS)
    talk.say(".", 1, 1, FULL)
    talk.expect()
    talk.say(".", 1461, 1, FULL)
    talk.expect(". 1:1 ack 2921")


def test_segments_that_come_together_are_answered_by_one_ack() -> None:
    """MUST-58: ACKs are aggregated. MUST-59: all queued segments are processed before any ACK is sent."""
    talk, _connection = accepted()
    for index in range(10):
        talk.say(".", 1 + index * 1460, 1, FULL)
    talk.expect(". 1:1 ack 14601")


def test_a_super_segment_counts_as_the_many_that_it_was() -> None:
    talk, _connection = accepted(NO_QUICK_ACKS)
    talk.say(".", 1, 1, bytes(14600))
    talk.expect(". 1:1 ack 14601")


def test_an_acknowledgment_rides_on_an_answer() -> None:
    talk, connection = accepted(NO_QUICK_ACKS)
    talk.say("P.", 1, 1, b"ping")
    connection.send(b"pong", talk.now)
    talk.expect("P. 1:5 ack 5")
    talk.say(".", 5, 5)
    talk.wait(1)
    talk.expect()


def test_a_young_connection_acknowledges_at_once() -> None:
    """As Linux's quick ACKs: the peer is in slow start and waits for each."""
    talk, _connection = accepted()
    talk.say(".", 1, 1, b"x")
    talk.expect(". 1:1 ack 2")


def test_a_program_that_answers_makes_even_a_young_connection_wait_for_its_answers() -> None:
    talk, connection = accepted()
    talk.say("P.", 1, 1, b"ping")
    talk.expect(". 1:1 ack 5")
    connection.send(b"pong", talk.now)
    talk.expect("P. 1:5 ack 5")
    talk.say("P.", 5, 5, b"ping")
    talk.expect()
    connection.send(b"pong", talk.now)
    talk.expect("P. 5:9 ack 9")


def test_a_window_is_not_told_again_for_every_read() -> None:
    """As Linux: by itself only when the peer may send twice as much by it."""
    talk, connection = accepted(options=TcpOptions(receive_buffer_bytes=60_000))
    for index in range(20):
        talk.say(".", 1 + index * 1460, 1, FULL)
    talk.heard()
    for _ in range(10):
        connection.receive(1460, talk.now)
    talk.expect()


def test_quick_ack_never_delays() -> None:
    talk, _connection = accepted(NO_QUICK_ACKS, options=TcpOptions(quick_ack=True))
    talk.say(".", 1, 1, b"x")
    talk.expect(". 1:1 ack 2")


def test_what_comes_out_of_order_is_kept_and_delivered_in_order() -> None:
    talk, connection = accepted()
    talk.say(".", 6, 1, b"world")
    talk.expect(". 1:1 ack 1")
    assert not connection.readable
    talk.say(".", 1, 1, b"hello")
    talk.expect(". 1:1 ack 11")
    assert connection.receive(100, talk.now) == b"helloworld"


def test_each_segment_out_of_order_without_sack_makes_its_own_duplicate_ack() -> None:
    talk, _connection = accepted()
    for seq in (11, 21, 31):
        talk.say(".", seq, 1, bytes(10))
    talk.expect(". 1:1 ack 1", ". 1:1 ack 1", ". 1:1 ack 1")


def test_sack_blocks_tell_the_newest_first() -> None:
    """RFC 2018 §4."""
    talk, _connection = accepted(sack=True)
    talk.say(".", 11, 1, bytes(10))
    talk.expect(". 1:1 ack 1 sack 11:21")
    talk.say(".", 41, 1, bytes(10))
    talk.expect(". 1:1 ack 1 sack 41:51,11:21")
    talk.say(".", 21, 1, bytes(10))
    talk.expect(". 1:1 ack 1 sack 11:31,41:51")
    talk.say(".", 1, 1, bytes(10))
    talk.expect(". 1:1 ack 31 sack 41:51")


def test_a_duplicate_is_told_of_by_dsack() -> None:
    """RFC 2883 §4.1.1 and §4.2."""
    talk, _connection = accepted(sack=True)
    talk.say(".", 1, 1, bytes(10))
    talk.expect(". 1:1 ack 11")
    talk.say(".", 1, 1, bytes(10))
    talk.expect(". 1:1 ack 11 sack 1:11")
    talk.say(".", 21, 1, bytes(10))
    talk.expect(". 1:1 ack 11 sack 21:31")
    talk.say(".", 21, 1, bytes(10))
    talk.expect(". 1:1 ack 11 sack 21:31,21:31")


def test_filling_a_hole_is_acknowledged_at_once() -> None:
    """RFC 5681 §4.2."""
    talk, _connection = accepted(NO_QUICK_ACKS)
    talk.say(".", 6, 1, b"world")
    talk.say(".", 16, 1, b"later")
    talk.heard()
    talk.say(".", 1, 1, b"hello")
    talk.expect(". 1:1 ack 11")


def test_overlapping_segments_deliver_each_byte_once_and_the_first_copy() -> None:
    talk, connection = accepted()
    talk.say(".", 1, 1, b"abc")
    talk.say(".", 2, 1, b"XXdef")
    talk.say(".", 10, 1, b"jkl")
    talk.say(".", 7, 1, b"ghiZZZ")
    assert connection.receive(100, talk.now) == b"abcdefghijkl"


def test_data_beyond_the_window_is_cut_off_and_the_rest_taken() -> None:
    talk, connection = accepted(options=TcpOptions(receive_buffer_bytes=100))
    talk.say(".", 1, 1, bytes(90))
    talk.heard()
    talk.say(".", 91, 1, bytes(50))
    talk.expect(". 1:1 ack 101")
    assert connection.unread_bytes == 100
    assert talk.drops == {"segment.beyond_window": 1}


def test_data_far_outside_the_window_is_refused_with_an_ack() -> None:
    talk, connection = accepted()
    talk.say(".", 200_000, 1, bytes(50))
    talk.expect(". 1:1 ack 1")
    assert talk.drops == {"segment.outside": 1}
    assert not connection.readable


def test_small_writes_at_one_moment_become_one_segment() -> None:
    talk, connection = accepted()
    for _ in range(10):
        connection.send(b"tick", talk.now)
    talk.expect("P. 1:41 ack 1")


def test_nagle_holds_a_second_small_segment_until_the_first_is_acknowledged() -> None:
    """SHLD-7."""
    talk, connection = accepted()
    connection.send(b"one", talk.now)
    talk.expect("P. 1:4 ack 1")
    connection.send(b"two", talk.now)
    connection.send(b"three", talk.now)
    talk.expect()
    talk.say(".", 1, 4)
    talk.expect("P. 4:12 ack 1")


def test_nagle_can_be_disabled() -> None:
    """MUST-17."""
    talk, connection = accepted(options=TcpOptions(nodelay=True))
    connection.send(b"one", talk.now)
    talk.expect("P. 1:4 ack 1")
    connection.send(b"two", talk.now)
    talk.expect("P. 4:7 ack 1")
    connection.configure(talk.now, nodelay=False)
    connection.send(b"x", talk.now)
    talk.expect()
    connection.configure(talk.now, nodelay=True)
    talk.expect("P. 7:8 ack 1")


def test_nagle_does_not_hold_a_full_segment_or_the_last_before_a_fin() -> None:
    talk, connection = accepted()
    connection.send(b"one", talk.now)
    talk.expect("P. 1:4 ack 1")
    connection.send(bytes(1470), talk.now)
    talk.expect(". 4:1464 ack 1")
    connection.shutdown(1, talk.now)
    talk.expect("FP. 1464:1474 ack 1")


def test_the_last_segment_of_what_was_sent_is_pushed() -> None:
    """MUST-60: data is not held back for want of a push. MUST-61: the last segment has PSH."""
    talk, connection = accepted()
    connection.send(bytes(4000), talk.now)
    talk.expect(". 1:1461 ack 1", ". 1461:2921 ack 1", "P. 2921:4001 ack 1")


def test_super_segments_go_to_a_link_that_cuts_them() -> None:
    talk, connection = accepted(offload=True)
    connection.send(bytes(14_700), talk.now)
    talk.expect(". 1:14601 ack 1")
    assert [answer.segment_bytes for answer in talk.said] == [1460]
    talk.say(".", 1, 14601)
    talk.expect("P. 14601:14701 ack 1")


def test_a_sender_never_goes_beyond_the_window() -> None:
    talk, connection = accepted(window=2000)
    connection.send(bytes(5000), talk.now)
    talk.expect(". 1:1461 ack 1")
    talk.say(".", 1, 1461, window=1460)
    talk.expect(". 1461:2921 ack 1")
    talk.say(".", 1, 2921, window=65535)
    talk.expect(". 2921:4381 ack 1", "P. 4381:5001 ack 1")


def test_a_window_of_more_than_32767_is_no_negative_one() -> None:
    """MUST-1: the window is an unsigned number."""
    talk, connection = accepted(window=65535)
    assert connection.info().send_window_bytes == 65535
    connection.send(bytes(14600), talk.now)
    assert len(talk.heard()) == 10


def test_sender_avoids_silly_windows() -> None:
    """MUST-38: a window of less than a segment and less than half of the widest is not used."""
    talk, connection = accepted(window=4000)
    connection.send(bytes(8000), talk.now)
    talk.expect(". 1:1461 ack 1", ". 1461:2921 ack 1")
    talk.say(".", 1, 2921, window=500)
    talk.expect()
    talk.say(".", 1, 2921, window=2500)
    talk.expect(". 2921:4381 ack 1")


def test_sender_uses_half_of_the_widest_window_of_a_tiny_receiver() -> None:
    """MUST-38, the rule of the fraction."""
    talk, connection = accepted(window=400)
    connection.send(bytes(1000), talk.now)
    talk.expect(". 1:401 ack 1")
    talk.say(".", 1, 401, window=199)
    talk.expect()
    talk.say(".", 1, 401, window=200)
    talk.expect(". 401:601 ack 1")


def test_sender_uses_a_silly_window_at_last_rather_than_stall() -> None:
    """RFC 9293 §3.8.6.2.1: the override timeout."""
    talk, connection = accepted(window=4000)
    connection.send(bytes(3000), talk.now)
    talk.expect(". 1:1461 ack 1", ". 1461:2921 ack 1", "P. 2921:3001 ack 1")
    connection.send(bytes(4000), talk.now)
    talk.say(".", 1, 3001, window=100)
    talk.expect()
    talk.wait(5)
    assert talk.heard()[0] == ". 3001:3101 ack 1"


def test_receiver_avoids_silly_windows() -> None:
    """MUST-39: a window that was closed opens by a full segment or half of the buffer, and not by a byte."""
    talk, connection = accepted(options=TcpOptions(receive_buffer_bytes=4000))
    talk.say(".", 1, 1, bytes(4000))
    talk.heard()
    assert talk.last is not None
    assert talk.last.segment.window == 0
    connection.receive(100, talk.now)
    talk.expect()
    talk.say(".", 4000, 1)
    talk.expect(". 1:1 ack 4001")
    assert talk.last.segment.window == 0
    connection.receive(1300, talk.now)
    talk.now += 1
    talk.say(".", 4000, 1)
    talk.expect(". 1:1 ack 4001")
    assert talk.last.segment.window == 0
    connection.receive(100, talk.now)
    talk.expect(". 1:1 ack 4001")
    assert talk.last.segment.window == 1500


def test_the_window_never_shrinks() -> None:
    """SHLD-14."""
    talk, connection = accepted(options=TcpOptions(receive_buffer_bytes=4000))
    edges = []
    for seq in range(1, 3001, 500):
        talk.say(".", seq, 1, bytes(500))
        talk.heard()
        assert talk.last is not None
        edges.append(seq + 500 + talk.last.segment.window)
    connection.configure(talk.now, receive_buffer_bytes=1000)
    talk.say(".", 3001, 1, bytes(10))
    talk.heard()
    edges.append(3011 + talk.last.segment.window if talk.last is not None else 0)
    assert edges == sorted(edges)


def test_a_shrunk_window_is_survived() -> None:
    """MUST-34: what was sent is retransmitted, nothing new goes, and the connection lives."""
    talk, connection = accepted(window=10_000)
    connection.send(bytes(12_000), talk.now)
    assert len(talk.heard()) == 6
    talk.say(".", 1, 1461, window=1000)
    talk.expect()
    talk.wait(1)
    assert talk.heard()[0] == ". 1461:2921 ack 1"
    talk.say(".", 1, 8761, window=20_000)
    assert talk.heard()[-1] == "P. 11681:12001 ack 1"
    assert states(connection) == (State.ESTABLISHED,)


def test_a_full_send_buffer_takes_no_more_and_tells_when_there_is_room() -> None:
    talk, connection = accepted(options=TcpOptions(send_buffer_bytes=10_000), window=60_000)
    assert connection.send(bytes(8000), talk.now) == 8000
    assert connection.send(bytes(8000), talk.now) == 2000
    assert connection.send(bytes(1), talk.now) == 0
    talk.heard()
    talk.told(connection)
    talk.say(".", 1, 1461)
    assert talk.told(connection) == Events(0)
    talk.say(".", 1, 8761)
    assert talk.told(connection) == Events.WRITABLE
    assert connection.send(bytes(8000), talk.now) == 8000


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_buffer_may_be_changed_after_it_was_sent(kind: type) -> None:
    talk, connection = accepted()
    raw = bytearray(b"before")
    connection.send(kind(raw), talk.now)
    raw[:] = b"after!"
    talk.heard()
    assert bytes(talk.said[0].segment.payload) == b"before"


def test_receive_into_fills_a_buffer_and_tells_the_end_apart_from_nothing() -> None:
    talk, connection = accepted()
    buffer = bytearray(4)
    assert connection.receive_into(buffer, talk.now) is None
    talk.say(".", 1, 1, b"abc")
    talk.say("F.", 4, 1, b"def")
    assert connection.receive_into(buffer, talk.now) == 4
    assert buffer == b"abcd"
    assert connection.receive_into(buffer, talk.now) == 2
    assert connection.receive_into(buffer, talk.now) == 0


def test_peek_gives_what_receive_would_and_leaves_it_there() -> None:
    talk, connection = accepted()
    assert connection.peek(10) is None
    talk.say(".", 1, 1, b"abc" * 200)
    talk.say(".", 601, 1, b"def" * 200)
    talk.heard()
    before = connection.info()
    whole = b"abc" * 200 + b"def" * 200
    assert connection.peek(10) == whole[:10]
    assert connection.peek(0) == b""
    assert connection.peek(601) == whole[:601]
    assert connection.peek(5000) == whole
    assert connection.info() == before
    talk.expect()
    assert connection.receive(700, talk.now) == whole[:700]
    assert connection.peek(5000) == whole[700:]
    talk.say("F.", 1201, 1)
    assert connection.receive(5000, talk.now) == whole[700:]
    assert connection.peek(1) == b""


def test_peek_raises_what_ended_the_connection_and_takes_the_error_with_it() -> None:
    """Linux: tcp_recvmsg() takes sock_error() also with MSG_PEEK."""
    talk, connection = accepted()
    talk.say(".", 1, 1, b"abc")
    talk.say("R", 4)
    assert connection.peek(10) == b"abc"
    assert connection.receive(10, talk.now) == b"abc"
    with pytest.raises(ConnectionResetError):
        connection.peek(10)
    assert connection.peek(10) == connection.receive(10, talk.now) == b""


def test_the_receive_buffer_grows_with_a_program_that_reads_fast() -> None:
    talk, connection = accepted(TcpConfig(timestamps=False, sack=False), window_scale=7)
    seq = 1
    sizes = [connection.info().receive_buffer_bytes]
    while sizes[-1] < 6 << 20 and len(sizes) < 30:
        for _ in range(120):
            if seq + 60_000 <= connection.rcv_adv - talk.peer_iss:
                talk.say(".", seq, 1, bytes(60_000))
                seq += 60_000
            connection.receive(1 << 20, talk.now)
            talk.heard()
        talk.now += 0.001
        sizes.append(connection.info().receive_buffer_bytes)
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (128 << 10, 6 << 20)


def test_a_receive_buffer_that_was_set_stays_as_it_is() -> None:
    talk, connection = accepted(options=TcpOptions(receive_buffer_bytes=20_000))
    for index in range(100):
        talk.say(".", 1 + index * 1460, 1, FULL)
        connection.receive(1 << 20, talk.now)
        talk.now += 0.001
    assert connection.info().receive_buffer_bytes == 20_000


def test_options_come_in_any_segment_and_unknown_ones_are_passed_over() -> None:
    """MUST-4: the mandatory options; MUST-5: in any segment; MUST-6: unknown ones are ignored. MUST-64: unaligned."""
    talk, connection = accepted()
    segment = (
        bytes.fromhex("0fa00050")
        + (5_000_001).to_bytes(4, "big")
        + ((talk.our_iss + 1) & 0xFFFFFFFF).to_bytes(4, "big")
    )
    options = bytes([253, 5, 1, 2, 3, 1, 2, 4, 5, 180, 0, 0])  # unknown, NOP, MSS at an odd place, END
    head = segment + bytes([8 << 4, 0x10]) + (65535).to_bytes(2, "big") + bytes(4) + options + b"data"
    talk.layer.receive_segment(talk.peer, talk.us, head, 0, len(head), talk.now, checksum_valid=True)
    assert connection.receive(10, talk.now) == b"data"


def test_an_option_of_illegal_length_drops_its_segment_and_nothing_else() -> None:
    """MUST-7: cope with illegal option lengths. MUST-68: all options but two have a length."""
    talk, connection = accepted()
    base = bytes.fromhex("0fa00050") + (5_000_001).to_bytes(4, "big") + bytes(4)
    for options in (bytes([8, 0, 0, 0]), bytes([8, 200, 0, 0]), bytes([1, 1, 1, 5]), bytes([2, 3, 0, 0])):
        data = base + bytes([6 << 4, 0x10]) + bytes(6) + options
        talk.layer.receive_segment(talk.peer, talk.us, data, 0, len(data), talk.now, checksum_valid=True)
    talk.expect()
    assert sum(talk.drops.values()) == 4
    assert states(connection) == (State.ESTABLISHED,)


@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize("timestamp", [None, 7])
@pytest.mark.parametrize("window_scale", [None, 7])
def test_our_options_have_lengths_and_our_headers_are_padded_to_whole_words(
    sack: bool, timestamp: int | None, window_scale: int | None
) -> None:
    """MUST-68, MUST-69: `_tcp_script.check_options` looks at every segment of these tests."""
    talk, connection = accepted(sack=sack, timestamp=timestamp, window_scale=window_scale)
    for seq in (11, 31, 51, 71, 91):
        talk.say(".", seq, 1, bytes(10))
        connection.send(b"x", talk.now)
        talk.heard()
    with pytest.raises(AssertionError):
        check_options(bytes(12) + bytes([6 << 4]) + bytes(7) + bytes([0, 0, 0, 1]))
    assert talk.last is not None
    assert bool(talk.last.segment.sack) == sack


def test_receive_reports_the_end_again_and_again() -> None:
    talk, connection = accepted()
    talk.say("F.", 1, 1)
    assert connection.readable
    assert connection.receive(1, talk.now) == b""
    assert connection.receive(1, talk.now) == b""


def test_send_after_shutdown_is_epipe() -> None:
    talk, connection = accepted()
    connection.shutdown(1, talk.now)
    with pytest.raises(BrokenPipeError):
        connection.send(b"x", talk.now)


def test_shutdown_of_what_is_gone_is_enotconn() -> None:
    talk, connection = accepted()
    connection.abort(talk.now)
    with pytest.raises(OSError) as caught:
        connection.shutdown(1, talk.now)
    assert caught.value.errno == errno.ENOTCONN
    with pytest.raises(OSError) as caught:
        connection.shutdown(9, talk.now)
    assert caught.value.errno == errno.EINVAL


def test_the_push_flag_of_the_peer_changes_nothing() -> None:
    talk, connection = accepted(PLAIN)
    talk.say(".", 1, 1, b"no push")
    assert connection.receive(100, talk.now) == b"no push"
    assert PSH == 8

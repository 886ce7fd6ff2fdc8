"""Urgent data: the pointer, the mark, the byte beside the stream (RFC 9293 §3.8.5, RFC 6093)."""

from __future__ import annotations

import errno

import pytest

from underlay.stack import Events, TcpOptions

from ._tcp_script import accepted

INLINE = TcpOptions(oob_inline=True)


def test_urgent_data_is_sent_with_a_pointer_behind_it() -> None:
    """MUST-30: the urgent mechanism is there. MUST-62: it points to the octet behind the urgent data."""
    talk, connection = accepted()
    connection.send(b"calm", talk.now)
    connection.send_urgent(b"STOP", talk.now)
    talk.expect("PU. 1:9 ack 1 urg 8")
    talk.say(".", 1, 9)
    connection.send(b"calm", talk.now)
    talk.expect("P. 9:13 ack 1")


def test_urgent_data_of_any_length_is_announced_from_its_first_segment() -> None:
    """MUST-31: urgent data of any length."""
    talk, connection = accepted(window=65535, offload=False)
    connection.send_urgent(bytes(4000), talk.now)
    talk.expect("U. 1:1461 ack 1 urg 4000", "U. 1461:2921 ack 1 urg 2540", "PU. 2921:4001 ack 1 urg 1080")


def test_urgent_data_farther_away_than_the_pointer_reaches_is_announced_as_far_as_it_reaches() -> None:
    talk, connection = accepted(window=1460)
    connection.send_urgent(bytes(100_000), talk.now)
    talk.expect("U. 1:1461 ack 1 urg 65535")


def test_urgency_is_told_while_the_window_is_closed() -> None:
    """MUST-66, our side: the probe carries the pointer."""
    talk, connection = accepted(window=10)
    connection.send(bytes(10), talk.now)
    talk.heard()
    talk.say(".", 1, 11, window=0)
    connection.send_urgent(b"!", talk.now)
    talk.wait(0.3)
    talk.expect("U. 10:10 ack 1 urg 2")


def test_the_program_is_told_of_urgent_data_and_how_much_of_it_is_left() -> None:
    """MUST-32, MUST-47: told asynchronously. MUST-33: it can learn how much is left."""
    talk, connection = accepted(options=INLINE)
    talk.say("U.", 1, 1, b"abc", urgent=10)
    assert talk.told(connection) & Events.URGENT
    assert connection.urgent_bytes == 10
    assert connection.receive(100, talk.now) == b"abc"
    assert connection.urgent_bytes == 7
    talk.say(".", 4, 1, b"defghijxyz")
    assert connection.urgent_bytes == 7
    assert connection.receive(7, talk.now) == b"defghij"
    assert connection.urgent_bytes == 0
    assert connection.receive(100, talk.now) == b"xyz"


def test_a_later_pointer_moves_the_mark_and_an_earlier_one_does_not() -> None:
    talk, connection = accepted(options=INLINE)
    talk.say("U.", 1, 1, b"abc", urgent=10)
    talk.told(connection)
    talk.say("U.", 4, 1, b"d", urgent=3)
    assert connection.urgent_bytes == 10
    assert not talk.told(connection) & Events.URGENT
    talk.say("U.", 5, 1, b"e", urgent=20)
    assert connection.urgent_bytes == 24
    assert talk.told(connection) & Events.URGENT


def test_the_last_urgent_byte_is_taken_out_of_the_stream() -> None:
    """As Linux without SO_OOBINLINE."""
    talk, connection = accepted()
    talk.say("PU.", 1, 1, b"ab!cd", urgent=3)
    assert connection.receive(100, talk.now) == b"ab"
    marks = [connection.at_mark]
    assert connection.receive_urgent() == b"!"
    assert connection.receive(100, talk.now) == b"cd"
    marks.append(connection.at_mark)
    assert marks == [True, False]
    with pytest.raises(OSError) as caught:
        connection.receive_urgent()
    assert caught.value.errno == errno.EINVAL


def test_the_urgent_byte_can_be_had_before_the_stream_is_read_so_far() -> None:
    talk, connection = accepted()
    talk.say("PU.", 1, 1, b"ab!cd", urgent=3)
    assert connection.receive_urgent() == b"!"
    assert connection.receive(100, talk.now) == b"ab"
    assert connection.receive(100, talk.now) == b"cd"


def test_the_urgent_byte_stays_to_be_had_after_the_stream_was_read_past_it() -> None:
    talk, connection = accepted()
    talk.say("PU.", 1, 1, b"ab!cd", urgent=3)
    assert connection.receive(100, talk.now) == b"ab"
    assert connection.receive(100, talk.now) == b"cd"
    assert connection.receive_urgent() == b"!"


def test_an_urgent_byte_that_was_announced_and_is_not_here_yet_is_waited_for() -> None:
    talk, connection = accepted()
    talk.say("U.", 1, 1, b"ab", urgent=3)
    assert connection.receive_urgent() is None
    talk.say(".", 3, 1, b"!")
    assert connection.receive(100, talk.now) == b"ab"
    assert not connection.readable
    assert connection.receive_urgent() == b"!"
    assert connection.receive(100, talk.now) is None


def test_inline_the_stream_has_all_and_there_is_no_urgent_byte_beside_it() -> None:
    talk, connection = accepted(options=INLINE)
    talk.say("PU.", 1, 1, b"ab!cd", urgent=3)
    assert connection.receive(100, talk.now) == b"ab!cd"
    with pytest.raises(OSError) as caught:
        connection.receive_urgent()
    assert caught.value.errno == errno.EINVAL


def test_receive_into_also_passes_over_the_urgent_byte() -> None:
    talk, connection = accepted()
    talk.say("PU.", 1, 1, b"ab!cd", urgent=3)
    buffer = bytearray(100)
    assert connection.receive_into(buffer, talk.now) == 2
    assert connection.receive_into(buffer, talk.now) == 2
    assert buffer[:2] == b"cd"


def test_peek_sees_the_stream_as_receive_does_and_takes_no_urgent_byte() -> None:
    talk, connection = accepted()
    talk.say("PU.", 1, 1, b"ab!cd", urgent=3)
    assert connection.peek(100) == b"ab"
    assert connection.receive(100, talk.now) == b"ab"
    assert connection.peek(100) == b"cd"
    assert connection.at_mark
    assert connection.receive_urgent() == b"!"
    assert connection.peek(1) == b"c"
    assert connection.receive(100, talk.now) == b"cd"
    talk.say("PU.", 6, 1, b"?", urgent=1)
    assert connection.peek(100) is None
    assert connection.receive_urgent() == b"?"


def test_an_urgent_pointer_without_the_flag_is_nothing() -> None:
    talk, connection = accepted()
    talk.say("P.", 1, 1, b"ab", urgent=2)
    assert connection.urgent_bytes == 0
    assert connection.receive(100, talk.now) == b"ab"

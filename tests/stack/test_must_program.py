"""What time does, and what the program is told and may choose (RFC 9293 §3.8, §3.9.1): what test_tcp_* leave open."""

from __future__ import annotations

import errno
import itertools
import struct

import pytest
from tests.stack._tcp_pair import states
from tests.stack._tcp_script import PLAIN, STRANGER, US, Talk, accepted

from underlay.stack import Events, IcmpError, IcmpKind, State, TcpOptions

ALIVE = TcpOptions(keepalive=True, keepalive_idle_s=10, keepalive_interval_s=2, keepalive_count=3)


def test_the_timeout_is_computed_from_mean_and_variation() -> None:
    """MUST-18: RFC 6298 §2.2 and §2.3, by hand."""
    talk, connection = accepted()
    rto = connection.rto
    rto.srtt_s = 0.0  # as if the handshake had measured nothing
    for rtt_s in (1.0, 0.5):
        connection.send(b"x", talk.now)
        talk.heard()
        talk.now += rtt_s
        talk.say(".", 1, connection.snd_nxt - connection.iss)
    # R = 1: SRTT = 1, RTTVAR = 1/2. R' = 1/2: RTTVAR = 3/4·1/2 + 1/4·1/2, SRTT = 7/8·1 + 1/8·1/2.
    assert connection.info().srtt_s == pytest.approx(0.9375)
    assert connection.info().rttvar_s == pytest.approx(0.5)
    assert connection.info().rto_s == pytest.approx(0.9375 + 4 * 0.5)


def test_a_syn_without_an_answer_casts_doubt_on_its_path_too() -> None:
    """MUST-22: R1 for a SYN, at doubling distances, and the program is told at the end."""
    talk = Talk()
    connection = talk.connect()
    begin = talk.now
    talk.wait(6.9)
    assert talk.doubts == []
    talk.wait(1)
    assert talk.doubts == [talk.peer]
    assert talk.times(begin) == [0, 1, 3, 7]
    talk.wait(1000)
    assert talk.told(connection) & Events.ERROR
    assert connection.take_error() == errno.ETIMEDOUT


def test_a_syn_goes_out_again_and_again_for_three_minutes() -> None:
    """MUST-23: retransmission of the SYN for three minutes at least, and not silence at their end."""
    talk = Talk()
    connection = talk.connect()
    begin = talk.now
    talk.wait(179.9)
    assert states(connection) == (State.SYN_SENT,)
    assert talk.times(begin)[-1] > 90
    talk.wait(120)
    assert states(connection) == (State.CLOSED,)


def test_the_program_may_wait_for_ever() -> None:
    """MUST-21: R2 may be set to infinity (§3.8.3 d)."""
    talk, connection = accepted(options=TcpOptions(user_timeout_s=float("inf")))
    connection.send(b"x", talk.now)
    talk.wait(100_000)
    assert states(connection) == (State.ESTABLISHED,)
    talk.heard()
    talk.say(".", 1, 2)
    assert connection.flight_bytes == 0


def test_keepalive_can_be_turned_on_and_off_while_the_connection_lives() -> None:
    """MUST-24: for each connection by itself."""
    talk, connection = accepted()
    talk.say("S", 0, port=4001)
    talk.heard()
    talk.say(".", 1, 1, port=4001)
    talk.accept()
    connection.configure(talk.now, keepalive=True, keepalive_idle_s=10)
    talk.wait(10.5)
    assert [talk.write(each)[:1] for each in talk.answers] == ["."]  # one of the two only
    connection.configure(talk.now, keepalive=False)
    talk.heard()
    talk.wait(10_000)
    talk.expect()


def test_no_keepalive_while_sent_data_is_outstanding() -> None:
    """MUST-26: only when nothing that was sent waits for its acknowledgment."""
    talk, connection = accepted(options=ALIVE)
    connection.send(b"x", talk.now)
    talk.wait(40)
    assert {talk.write(each) for each in talk.answers} == {"P. 1:2 ack 1"}
    assert states(connection) == (State.ESTABLISHED,)


def test_no_keepalive_before_an_interval_without_acknowledgments() -> None:
    """MUST-26: an acknowledgment counts as well as data; MUST-27: the interval is the connection's own."""
    talk, connection = accepted(options=ALIVE)
    talk.wait(9)
    connection.send(b"x", talk.now)
    talk.heard()
    talk.say(".", 1, 2)
    begin = talk.now
    talk.wait(11)
    assert talk.times(begin) == [10]


def test_urgent_data_is_told_again_only_when_the_pointer_advances() -> None:
    """MUST-32: when there was none before, and whenever the pointer advances. MUST-31: its end may be far away."""
    talk, connection = accepted(options=TcpOptions(oob_inline=True))
    talk.say("U.", 1, 1, b"a", urgent=0xFFFF)
    assert talk.told(connection) & Events.URGENT
    assert connection.urgent_bytes == 0xFFFF
    talk.say("U.", 2, 1, b"b", urgent=0xFFFE)
    assert not talk.told(connection) & Events.URGENT
    talk.say("U.", 3, 1, b"c", urgent=0xFFFF)
    assert talk.told(connection) & Events.URGENT
    assert connection.urgent_bytes == 0x10001


def test_a_window_that_shrinks_to_zero_is_probed_and_may_stay_so() -> None:
    """MUST-35: probed in the standard way. MUST-37: as long as the peer answers, the connection stays open."""
    talk, connection = accepted(window=4000)
    connection.send(bytes(2920), talk.now)
    talk.expect(". 1:1461 ack 1", "P. 1461:2921 ack 1")
    talk.say(".", 1, 1, window=0)
    for _ in range(40):
        talk.wait(130)
        assert talk.heard()
        talk.say(".", 1, 1, window=0)
    assert states(connection) == (State.ESTABLISHED,)
    talk.say(".", 1, 2921, window=4000)
    connection.send(b"on", talk.now)
    talk.expect("P. 2921:2923 ack 1")


def test_a_program_that_reads_in_sips_does_not_open_the_window_in_sips() -> None:
    """MUST-39: the right edge stays where it is until a segment (or half of the buffer) is to be gained."""
    talk, connection = accepted(options=TcpOptions(receive_buffer_bytes=4000))
    edges = []
    for seq in range(1, 4001, 100):
        talk.say(".", seq, 1, bytes(100))
        assert connection.receive(100, talk.now) == bytes(100)
        talk.wait(0.1)
        edges += [(each.segment.ack + each.segment.window) - talk.peer_iss for each in talk.answers]
        talk.answers = []
    steps = {after - before for before, after in itertools.pairwise(edges)}
    assert 0 in steps
    assert max(steps) >= 1460
    assert not steps & set(range(1, 1460))


def test_small_data_waits_for_no_push_and_no_more() -> None:
    """MUST-60: nothing is buffered for ever. MUST-61: what ends what there is to send has PSH, each time."""
    talk, connection = accepted(PLAIN)
    for start in (1, 4, 7):
        connection.send(b"abc", talk.now)
        talk.expect(f"P. {start}:{start + 3} ack 1")
        talk.say(".", 1, start + 3)


def test_a_program_can_listen_at_a_port_while_a_connection_from_it_is_being_opened() -> None:
    """MUST-42: in SYN-SENT, and in SYN-RECEIVED. MUST-41: nothing happens to that connection."""
    talk = Talk()
    connection = talk.layer.connect(talk.peer, 80, talk.now, local_port=7000)
    talk.our_port, talk.peer_port = 7000, 80
    talk.expect("S 0:0")
    assert states(connection) == (State.SYN_SENT,)
    listener = talk.layer.listen(US, 7000, talk.now, reuse_address=True)
    assert states(connection) == (State.SYN_SENT,)
    listener.close(talk.now)
    talk.say("S", 0)
    assert states(connection) == (State.SYN_RECEIVED,)
    listener = talk.layer.listen(US, 7000, talk.now, reuse_address=True)
    talk.expect("S. 0:0 ack 1")
    talk.say(".", 1, 1)
    assert states(connection) == (State.ESTABLISHED,)
    our_iss = talk.our_iss
    talk.say("S", 0, source=STRANGER)
    talk.expect("S. 0:0 ack 1")
    talk.say(".", 1, 1, source=STRANGER)
    assert listener.acceptable
    talk.our_iss = our_iss


def test_a_passive_open_that_cannot_be_leaves_the_listener_that_is_there() -> None:
    """MUST-41: a passive OPEN makes a new record or is an error; it changes none that was made before."""
    talk = Talk()
    listener = talk.listen()
    talk.say("S", 0)
    talk.expect("S. 0:0 ack 1")
    with pytest.raises(OSError) as caught:
        talk.layer.listen(US, 80, talk.now, reuse_address=True)
    assert caught.value.errno == errno.EADDRINUSE
    talk.say(".", 1, 1)
    assert listener.acceptable


def test_an_icmp_error_goes_to_the_connection_that_caused_it_and_to_no_other() -> None:
    """MUST-54."""
    talk, first = accepted()
    talk.say("S", 0, port=4001)
    talk.heard()
    talk.say(".", 1, 1, port=4001)
    second = talk.accept()
    for connection in (first, second):
        connection.send(b"x", talk.now)
    talk.heard()
    quoted = struct.pack("!HHI", 80, 4001, second.snd_una & 0xFFFF_FFFF)
    talk.layer.receive_icmp_error(IcmpError(IcmpKind.HOST_UNREACHABLE, US, talk.peer, 6, quoted), talk.now)
    talk.wait(10_000)
    assert (first.take_error(), second.take_error()) == (errno.ETIMEDOUT, errno.EHOSTUNREACH)


def test_a_source_route_that_comes_later_does_not_override_the_programs_own() -> None:
    """MUST-52: also in the middle of a connection."""
    hop, other = bytes([10, 9, 0, 201]), bytes([10, 9, 0, 202])
    talk, connection = accepted(options=TcpOptions(source_route=(hop,)))
    talk.say("P.", 1, 1, b"x", ip_options=bytes([131, 7, 8]) + other + b"\0")
    connection.send(b"y", talk.now)
    talk.heard()
    assert {answer.hop for answer in talk.said} == {hop}

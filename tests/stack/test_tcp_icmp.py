"""ICMP errors about our segments: which end a connection, and which are kept in mind (RFC 9293 §3.9.2.2)."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.stack import Events, IcmpError, IcmpKind, State, TcpConfig

from ._tcp_pair import states
from ._tcp_script import PLAIN, Talk, accepted

SOFT = [
    IcmpKind.NETWORK_UNREACHABLE, IcmpKind.HOST_UNREACHABLE, IcmpKind.SOURCE_ROUTE_FAILED, IcmpKind.TIME_EXCEEDED,
    IcmpKind.PARAMETER_PROBLEM, IcmpKind.PROHIBITED,
]  # fmt: skip


def error(talk: Talk, kind: IcmpKind, seq: int, mtu_bytes: int = 0) -> IcmpError:
    quoted = struct.pack("!HHI", talk.our_port, talk.peer_port, (talk.our_iss + seq) & 0xFFFFFFFF)
    return IcmpError(kind, talk.us, talk.peer, 6, quoted, mtu_bytes)


@pytest.mark.parametrize("kind", SOFT)
def test_a_soft_error_never_ends_an_established_connection(kind: IcmpKind) -> None:
    """MUST-56: unreachable, time exceeded, parameter problem. MUST-54: they are taken notice of."""
    talk, connection = accepted()
    connection.send(b"x", talk.now)
    talk.heard()
    talk.layer.receive_icmp_error(error(talk, kind, 1), talk.now)
    assert states(connection) == (State.ESTABLISHED,)
    assert talk.drops == {"icmp.soft": 1}
    talk.say(".", 1, 2)
    assert connection.flight_bytes == 0


def test_a_soft_error_is_the_reason_that_is_told_when_time_runs_out() -> None:
    """SHLD-25, MUST-47: errors are reported to the program."""
    talk, connection = accepted()
    connection.send(b"x", talk.now)
    talk.heard()
    talk.layer.receive_icmp_error(error(talk, IcmpKind.HOST_UNREACHABLE, 1), talk.now)
    talk.wait(10_000)
    assert connection.take_error() == errno.EHOSTUNREACH


@pytest.mark.parametrize("kind", [*SOFT, IcmpKind.PORT_UNREACHABLE])
def test_a_soft_error_is_reported_when_it_comes_and_is_over_when_something_gets_through(kind: IcmpKind) -> None:
    """MUST-47: to a program that looks; for one that does not, nothing has happened (SHLD-20)."""
    talk, connection = accepted()
    connection.send(b"x", talk.now)
    talk.heard()
    talk.told(connection)
    about = error(talk, kind, 1)
    talk.layer.receive_icmp_error(about, talk.now)
    assert talk.told(connection) == Events.SOFT_ERROR
    assert connection.soft_error == about.errno != 0
    assert (connection.readable, connection.writable, connection.error) == (False, True, None)
    talk.say(".", 1, 2)
    assert connection.soft_error == 0
    assert not talk.told(connection) & Events.SOFT_ERROR


def test_too_many_retransmissions_are_reported_while_the_connection_lives() -> None:
    """MUST-47: at R1, again and again; a reason that ICMP gave stays the reason."""
    talk, connection = accepted()
    connection.send(b"x", talk.now)
    talk.heard()
    talk.told(connection)
    talk.wait(1)
    assert (talk.told(connection), talk.doubts) == (Events(0), [])
    talk.wait(1)
    assert talk.doubts == [talk.peer]
    assert (talk.told(connection), connection.soft_error) == (Events.SOFT_ERROR, errno.ETIMEDOUT)
    talk.layer.receive_icmp_error(error(talk, IcmpKind.HOST_UNREACHABLE, 1), talk.now)
    talk.told(connection)
    talk.wait(3)
    assert (talk.told(connection), connection.soft_error) == (Events.SOFT_ERROR, errno.EHOSTUNREACH)
    assert states(connection) == (State.ESTABLISHED,)


def test_too_many_syns_are_reported_and_forgotten_when_one_is_answered() -> None:
    """MUST-47, MUST-22."""
    talk = Talk()
    connection = talk.connect()
    talk.wait(6.9)
    assert talk.told(connection) == Events(0)
    talk.wait(1)
    assert (talk.told(connection), connection.soft_error) == (Events.SOFT_ERROR, errno.ETIMEDOUT)
    talk.say("S.", 0, 1)
    assert (talk.told(connection) & Events.CONNECTED, connection.soft_error) == (Events.CONNECTED, 0)


def test_an_unreachable_ends_a_handshake_at_once_as_linux_does_it() -> None:
    talk = Talk()
    connection = talk.connect()
    talk.expect("S 0:0")
    talk.layer.receive_icmp_error(error(talk, IcmpKind.HOST_UNREACHABLE, 0), talk.now)
    assert states(connection) == (State.CLOSED,)
    assert connection.take_error() == errno.EHOSTUNREACH


@pytest.mark.parametrize("kind", SOFT)
def test_a_soft_error_ends_no_handshake_where_the_rfc_is_kept_to_the_letter(kind: IcmpKind) -> None:
    """MUST-56."""
    talk = Talk(TcpConfig(timestamps=False, abort_connecting_on_unreachable=False))
    connection = talk.connect()
    talk.expect("S 0:0")
    talk.layer.receive_icmp_error(error(talk, kind, 0), talk.now)
    talk.say("S.", 0, 1)
    assert states(connection) == (State.ESTABLISHED,)


@pytest.mark.parametrize("kind", [IcmpKind.PORT_UNREACHABLE, IcmpKind.PROTOCOL_UNREACHABLE])
def test_a_hard_error_ends_a_handshake(kind: IcmpKind) -> None:
    """SHLD-26."""
    talk = Talk(TcpConfig(timestamps=False, abort_connecting_on_unreachable=False))
    connection = talk.connect()
    talk.expect("S 0:0")
    talk.layer.receive_icmp_error(error(talk, kind, 0), talk.now)
    assert states(connection) == (State.CLOSED,)


def test_source_quench_is_passed_over_in_silence() -> None:
    """MUST-55."""
    talk, connection = accepted()
    connection.send(b"x", talk.now)
    talk.heard()
    before = connection.info()
    talk.layer.receive_icmp_error(error(talk, IcmpKind.SOURCE_QUENCH, 1), talk.now)
    assert connection.info() == before
    talk.expect()
    assert talk.drops == {"icmp.source_quench": 1}
    assert not talk.told(connection) & Events.SOFT_ERROR
    talk.wait(10_000)
    assert connection.take_error() == errno.ETIMEDOUT
    opening = talk.layer.connect(talk.peer, 81, talk.now)
    quoted = struct.pack("!HHI", opening.local[1], 81, opening.iss)
    talk.layer.receive_icmp_error(IcmpError(IcmpKind.SOURCE_QUENCH, talk.us, talk.peer, 6, quoted), talk.now)
    assert states(opening) == (State.SYN_SENT,)


def test_an_error_about_what_is_not_on_its_way_is_a_forgery() -> None:
    """RFC 5927 §4.1."""
    talk, connection = accepted()
    talk.layer.receive_icmp_error(error(talk, IcmpKind.PACKET_TOO_BIG, 9000, 600), talk.now)
    talk.layer.receive_icmp_error(error(talk, IcmpKind.HOST_UNREACHABLE, 9000), talk.now)
    assert connection.info().path_mtu_bytes == 1500
    assert talk.drops == {"icmp.outside": 2}


def test_errors_about_strangers_and_without_ports_are_counted() -> None:
    talk, _connection = accepted()
    talk.peer_port = 1
    talk.layer.receive_icmp_error(error(talk, IcmpKind.HOST_UNREACHABLE, 1), talk.now)
    talk.layer.receive_icmp_error(IcmpError(IcmpKind.HOST_UNREACHABLE, talk.us, talk.peer, 6, b"1234"), talk.now)
    assert talk.drops == {"icmp.stranger": 1, "icmp.malformed": 1}


def test_what_is_too_big_is_sent_again_in_smaller_segments() -> None:
    """MUST-16, RFC 1191 §6.4."""
    talk, connection = accepted()
    connection.send(bytes(2920), talk.now)
    talk.expect(". 1:1461 ack 1", "P. 1461:2921 ack 1")
    talk.layer.receive_icmp_error(error(talk, IcmpKind.PACKET_TOO_BIG, 1, 1000), talk.now)
    assert connection.info().path_mtu_bytes == 1000
    talk.expect(". 1:961 ack 1", ". 961:1461 ack 1", ". 1461:2421 ack 1", "P. 2421:2921 ack 1")
    talk.say(".", 1, 2921)
    connection.send(bytes(1500), talk.now)
    talk.expect(". 2921:3881 ack 1", "P. 3881:4421 ack 1")


def test_a_path_mtu_is_believed_only_down_to_a_limit() -> None:
    talk, connection = accepted(PLAIN)
    connection.send(bytes(2000), talk.now)
    talk.heard()
    talk.layer.receive_icmp_error(error(talk, IcmpKind.PACKET_TOO_BIG, 1, 68), talk.now)
    assert connection.info().path_mtu_bytes == 552


def test_what_the_peer_has_is_not_sent_again_when_the_path_shrinks() -> None:
    talk, connection = accepted(sack=True)
    connection.send(bytes(14_600), talk.now)
    talk.heard()
    talk.say(".", 1, 1, sack=[(1461, 14_601)])
    talk.heard()
    talk.layer.receive_icmp_error(error(talk, IcmpKind.PACKET_TOO_BIG, 1, 576), talk.now)
    board = connection.board
    assert board is not None
    assert (board.sacked_bytes, board.lost_bytes) == (13_140, 1_460)
    talk.wait(0.5)
    assert set(talk.heard()) == {". 1:537 ack 1", ". 537:1073 ack 1", ". 1073:1461 ack 1"}


@given(
    sack=st.booleans(),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("sack"), st.integers(0, 9), st.integers(1, 10)),
            st.tuples(st.just("ack"), st.integers(0, 9), st.just(0)),
            st.tuples(st.just("shrink"), st.integers(552, 1500), st.just(0)),
            st.tuples(st.just("wait"), st.integers(1, 1000), st.just(0)),
        ),
        max_size=20,
    ),
)
def test_the_pipe_is_what_a_count_of_the_segments_gives_however_the_path_shrinks(
    sack: bool, steps: list[tuple[str, int, int]]
) -> None:
    talk, connection = accepted(sack=sack)
    connection.send(bytes(14_600), talk.now)
    talk.heard()
    una = 1
    for what, one, two in steps:
        match what:
            case "sack":
                left = max(una, 1 + one * 1460)
                right = min(1 + (one + two) * 1460, 14_601)
                talk.say(".", 1, una, sack=[(left, right)] if sack and left < right else None)
            case "ack":
                una = max(una, 1 + one * 1460)
                talk.say(".", 1, una)
            case "shrink":
                talk.layer.receive_icmp_error(error(talk, IcmpKind.PACKET_TOO_BIG, una, one), talk.now)
            case _:
                talk.wait(one / 1000)
        talk.heard()
        board = connection.board
        if board is None or not board.active:
            continue
        assert not any(sent.sacked and (sent.lost or sent.out) for sent in board.queue)
        pipe = sum(
            (not sent.sacked and not sent.lost) * (sent.end - sent.start) + sent.out * (sent.end - sent.start)
            for sent in board.queue
        )
        flight = connection.snd_nxt - connection.snd_una
        assert board.in_network(flight) == pipe if sack else board.in_network(flight) >= 0

"""How connections begin: active, passive, from both sides at once, and refused (RFC 9293 §3.5, §3.10.7)."""

from __future__ import annotations

import errno

import pytest

from underlay.stack import Events, State, TcpConfig, TcpOptions
from underlay.stack._tcp_isn import IsnGenerator

from ._tcp_pair import states
from ._tcp_script import PEER6, PLAIN, STRANGER, US, US6, Talk, accepted, connected


def test_an_active_open_says_syn_and_acknowledges_the_answer() -> None:
    """MUST-14: the SYN carries an MSS option. MUST-67: it says what the MTU leaves after the fixed headers."""
    talk = Talk()
    connection = talk.connect()
    assert states(connection) == (State.SYN_SENT,)
    talk.expect("S 0:0")
    assert talk.last is not None
    assert talk.last.segment.mss == 1460
    talk.say("S.", 0, 1, mss=1460)
    talk.expect(". 1:1 ack 1")
    assert states(connection) == (State.ESTABLISHED,)
    assert talk.told(connection) == Events.CONNECTED | Events.WRITABLE


def test_a_passive_open_answers_a_syn_and_gives_the_connection_after_the_last_ack() -> None:
    talk = Talk()
    listener = talk.listen()
    talk.say("S", 0, mss=1460)
    talk.expect("S. 0:0 ack 1")
    assert listener.accept(talk.now) is None
    talk.say(".", 1, 1)
    assert talk.told(listener) == Events.ACCEPTABLE
    connection = talk.accept()
    assert connection.state is State.ESTABLISHED
    assert connection.remote == (talk.peer, 4000)
    assert connection.local == (US, 80)


def test_data_that_comes_with_the_last_ack_is_not_lost() -> None:
    talk = Talk()
    talk.listen()
    talk.say("S", 0)
    talk.expect("S. 0:0 ack 1")
    talk.say("P.", 1, 1, b"early")
    talk.expect(". 1:1 ack 6")
    connection = talk.accept()
    assert connection.readable
    assert connection.receive(100, talk.now) == b"early"


def test_a_fin_that_comes_with_the_last_ack_is_not_lost() -> None:
    talk = Talk()
    talk.listen()
    talk.say("S", 0)
    talk.expect("S. 0:0 ack 1")
    talk.say("F.", 1, 1, b"all")
    talk.expect(". 1:1 ack 5")
    connection = talk.accept()
    assert connection.state is State.CLOSE_WAIT
    assert connection.receive(100, talk.now) == b"all"
    assert connection.receive(100, talk.now) == b""


def test_two_opens_that_cross_become_one_connection() -> None:
    """MUST-10: simultaneous open (RFC 9293 figure 8)."""
    talk = Talk()
    connection = talk.connect()
    talk.expect("S 0:0")
    talk.say("S", 0, mss=1460)
    assert states(connection) == (State.SYN_RECEIVED,)
    talk.expect("S. 0:0 ack 1")
    talk.say("S.", 0, 1)
    assert states(connection) == (State.ESTABLISHED,)
    talk.expect(". 1:1 ack 1")
    connection.send(b"hello", talk.now)
    talk.expect("P. 1:6 ack 1")


def test_a_crossed_open_may_also_end_with_a_plain_ack() -> None:
    talk = Talk()
    connection = talk.connect()
    talk.expect("S 0:0")
    talk.say("S", 0, mss=1460)
    talk.expect("S. 0:0 ack 1")
    talk.say(".", 1, 1)
    assert states(connection) == (State.ESTABLISHED,)


def test_a_reset_after_a_crossed_open_ends_it_but_after_a_passive_one_only_the_handshake() -> None:
    """MUST-11: SYN_RECEIVED remembers how it was reached."""
    talk = Talk()
    connection = talk.connect()
    talk.expect("S 0:0")
    talk.say("S", 0)
    talk.expect("S. 0:0 ack 1")
    talk.say("R", 1)
    assert states(connection) == (State.CLOSED,)
    assert connection.take_error() == errno.ECONNRESET

    talk = Talk()
    listener = talk.listen()
    talk.say("S", 0)
    talk.expect("S. 0:0 ack 1")
    talk.say("R", 1)
    talk.expect()
    assert talk.layer.statistics().syn_requests == 0
    assert not listener.closed
    talk.say("S", 700)
    talk.expect("S. 0:0 ack 701")


def test_the_old_duplicate_syn_of_the_rfc_is_reset_by_its_sender() -> None:
    """RFC 9293 figure 9: a listener answers an old SYN; the RST of the peer takes it back to LISTEN."""
    talk = Talk()
    talk.listen()
    talk.say("S", 90)
    talk.expect("S. 0:0 ack 91")
    talk.say("R", 91)
    talk.say("S", 100)
    talk.expect("S. 0:0 ack 101")
    talk.say(".", 101, 1)
    assert talk.accept().state is State.ESTABLISHED


def test_a_refused_connection_is_econnrefused() -> None:
    talk = Talk()
    connection = talk.connect()
    talk.expect("S 0:0")
    talk.say("R.", 0, 1)
    assert states(connection) == (State.CLOSED,)
    assert talk.told(connection) & Events.ERROR
    with pytest.raises(ConnectionRefusedError):
        connection.receive(1, talk.now)
    with pytest.raises(BrokenPipeError):
        connection.send(b"x", talk.now)


def test_syn_sent_ignores_a_reset_that_acknowledges_nothing_of_ours() -> None:
    talk = Talk()
    connection = talk.connect()
    talk.expect("S 0:0")
    talk.say("R", 0)
    talk.say("R.", 0, 77)
    assert states(connection) == (State.SYN_SENT,)
    talk.expect()


def test_syn_sent_resets_a_bad_ack_and_waits_on() -> None:
    """RFC 9293 figure 10: the peer half-open from an earlier life is reset, and the SYN comes through later."""
    talk = Talk()
    connection = talk.connect()
    talk.expect("S 0:0")
    talk.say(".", 300, 100)
    talk.expect("R 100:100")
    assert states(connection) == (State.SYN_SENT,)
    talk.say("S.", 0, 1)
    assert states(connection) == (State.ESTABLISHED,)


def test_a_closed_port_answers_with_a_reset_but_never_a_reset_with_one() -> None:
    talk = Talk()
    talk.say("S", 0)
    talk.expect("R. 0:0 ack 1")
    talk.say(".", 5, 9)
    talk.expect("R 9:9")
    talk.say("R", 5)
    talk.say("R.", 5, 9)
    talk.expect()
    assert talk.drops["port.closed"] == 4


def test_a_listener_resets_an_ack_without_a_handshake() -> None:
    talk = Talk()
    talk.listen()
    talk.say(".", 5, 9)
    talk.expect("R 9:9")
    talk.say("", 5)
    talk.expect()


@pytest.mark.parametrize("kind", ["to broadcast", "from multicast", "from zeros"])
def test_segments_to_or_from_no_single_host_are_dropped_in_silence(kind: str) -> None:
    """MUST-57: a SYN to a broadcast address. MUST-63: a SYN from an invalid one."""
    talk = Talk()
    talk.listen()
    source = {"from multicast": bytes([224, 0, 0, 1]), "from zeros": bytes(4)}.get(kind)
    if kind == "to broadcast":
        talk.us = bytes([10, 9, 0, 255])
    talk.say("S", 0, source=source)
    talk.expect()
    assert talk.drops == {"address.not_unicast": 1}


@pytest.mark.parametrize(
    "address", [bytes([224, 0, 0, 5]), bytes([10, 9, 0, 255]), bytes(4), bytes.fromhex("ff02" + "00" * 14)]
)
def test_an_open_to_no_single_host_is_refused(address: bytes) -> None:
    """MUST-46."""
    with pytest.raises(OSError, match="Network is unreachable") as caught:
        Talk().layer.connect(address, 80, 0.0)
    assert caught.value.errno == errno.ENETUNREACH


def test_connect_without_a_route_is_enetunreach_and_from_a_foreign_address_eaddrnotavail() -> None:
    talk = Talk()
    talk.reachable = False
    with pytest.raises(OSError) as caught:
        talk.layer.connect(talk.peer, 80, talk.now)
    assert caught.value.errno == errno.ENETUNREACH
    talk.reachable = True
    with pytest.raises(OSError) as caught:
        talk.layer.connect(talk.peer, 80, talk.now, local=STRANGER)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_an_open_may_name_its_local_address_and_port_or_leave_both_to_us() -> None:
    """MUST-43: the local address is a parameter. MUST-44: without it IP chooses. MUST-45: all segments carry it."""
    talk = Talk()
    named = talk.layer.connect(talk.peer, 80, talk.now, local=US, local_port=7777)
    left = talk.layer.connect(talk.peer, 80, talk.now)
    assert named.local == (US, 7777)
    assert left.local[0] == US
    assert 32768 <= left.local[1] <= 60999
    talk.heard()
    assert all(answer.source == US for answer in talk.said)


def test_a_connection_cannot_be_opened_twice() -> None:
    talk = Talk()
    talk.layer.connect(talk.peer, 80, talk.now, local_port=7777)
    with pytest.raises(OSError) as caught:
        talk.layer.connect(talk.peer, 80, talk.now, local_port=7777)
    assert caught.value.errno == errno.EADDRINUSE
    talk.layer.connect(talk.peer, 81, talk.now, local_port=7777)


def test_ephemeral_ports_run_out_as_eaddrnotavail() -> None:
    talk = Talk(TcpConfig(ephemeral_ports=(40000, 40002)))
    ports = {talk.layer.connect(talk.peer, 80, talk.now).local[1] for _ in range(3)}
    assert ports == {40000, 40001, 40002}
    with pytest.raises(OSError) as caught:
        talk.layer.connect(talk.peer, 80, talk.now)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_a_peer_that_names_no_mss_gets_536_and_over_ipv6_1220() -> None:
    """MUST-15."""
    talk, connection = accepted(mss=None)
    connection.send(bytes(3000), talk.now)
    talk.expect(". 1:537 ack 1", ". 537:1073 ack 1", ". 1073:1609 ack 1", ". 1609:2145 ack 1", ". 2145:2681 ack 1",
                "P. 2681:3001 ack 1")  # fmt: skip
    talk = Talk()
    talk.us, talk.peer = US6, PEER6
    talk.listen()
    talk.say("S", 0)
    talk.expect("S. 0:0 ack 1")
    assert talk.last is not None
    assert talk.last.segment.mss == 1440
    talk.say(".", 1, 1)
    talk.accept().send(bytes(2000), talk.now)
    talk.expect(". 1:1221 ack 1", "P. 1221:2001 ack 1")


@pytest.mark.parametrize(("told", "mtu_bytes", "sent"), [(1000, 1500, 1000), (9000, 1500, 1460), (1460, 600, 560)])
def test_a_segment_is_as_long_as_the_peers_mss_and_our_mtu_allow(told: int, mtu_bytes: int, sent: int) -> None:
    """MUST-16."""
    talk, connection = accepted(mss=told, mtu_bytes=mtu_bytes)
    connection.send(bytes(10_000), talk.now)
    assert talk.heard()[0] == f". 1:{1 + sent} ack 1"


def test_an_mss_of_less_than_nothing_does_not_stop_us() -> None:
    talk, connection = accepted(mss=1)
    connection.send(bytes(100), talk.now)
    assert talk.heard()[0] == ". 1:37 ack 1"


def test_options_of_a_syn_are_answered_only_where_they_were_offered() -> None:
    """MUST-65: MSS only on SYNs. RFC 7323 §2.2, §3.2; RFC 2018 §2."""
    talk = Talk(TcpConfig())
    talk.listen()
    talk.say("S", 0, mss=1460)
    talk.expect("S. 0:0 ack 1")
    assert talk.last is not None
    plain = talk.last.segment
    assert (plain.mss, plain.window_scale, plain.sack_permitted, plain.timestamp) == (1460, None, False, None)
    talk.say("S", 0, mss=1460, window_scale=3, sack_permitted=True, timestamp=(77, 0), port=4001)
    assert talk.heard()
    rich = talk.last.segment
    assert (rich.mss, rich.window_scale, rich.sack_permitted) == (1460, 7, True)
    assert rich.timestamp is not None
    assert rich.timestamp[1] == 77


def test_an_active_open_offers_all_that_the_layer_has() -> None:
    talk = Talk(TcpConfig())
    talk.connect()
    talk.expect("S 0:0")
    assert talk.last is not None
    syn = talk.last.segment
    assert (syn.window_scale, syn.sack_permitted, syn.window) == (7, True, 65535)
    assert syn.timestamp is not None
    assert syn.timestamp[1] == 0


def test_a_window_scale_above_14_is_taken_for_14() -> None:
    """RFC 7323 §2.3."""
    _, connection = accepted(window_scale=15)
    assert connection.info().send_window_scale == 14


def test_the_window_of_a_syn_is_not_scaled() -> None:
    """RFC 7323 §2.2."""
    talk = Talk(TcpConfig())
    connection = talk.connect()
    talk.expect("S 0:0")
    talk.say("S.", 0, 1, window=1000, window_scale=7, mss=1460)
    assert connection.info().send_window_bytes == 1000
    talk.say(".", 1, 1, window=1000)
    assert connection.info().send_window_bytes == 128_000


def test_initial_sequence_numbers_follow_a_clock_and_cannot_be_foretold() -> None:
    """MUST-8: the clock of 4 µs. MUST-9: the rest is keyed by a secret."""
    talk, other = Talk(), Talk()
    assert isinstance(other.layer.isn, IsnGenerator)
    other.layer.isn._secret = bytes(16)
    key = (US, 1234, talk.peer, 80)
    first, _ = talk.layer.isn.numbers(key, 50.0)
    later, _ = talk.layer.isn.numbers(key, 51.0)
    assert (later - first) & 0xFFFF_FFFF == 250_000
    assert other.layer.isn.numbers(key, 50.0)[0] != first
    assert talk.layer.isn.numbers((US, 1235, talk.peer, 80), 50.0)[0] != first


def test_a_passive_open_leaves_the_other_connections_of_its_port_alone() -> None:
    """MUST-41: a listener and its connections share a port. MUST-42: so do two listeners at two addresses."""
    talk, connection = accepted()
    talk.say("S", 0, port=4001)
    talk.expect("S. 0:0 ack 1")
    assert states(connection) == (State.ESTABLISHED,)
    talk.layer.listen(STRANGER, 80, talk.now, reuse_address=True)
    with pytest.raises(OSError) as caught:
        talk.layer.listen(bytes(4), 80, talk.now, reuse_address=True)
    assert caught.value.errno == errno.EADDRINUSE
    talk.layer.listen(bytes(16), 80, talk.now, reuse_address=True)


def test_a_listener_at_all_addresses_takes_what_no_other_takes() -> None:
    talk = Talk()
    everywhere = talk.layer.listen(bytes(4), 81, talk.now)
    talk.our_port = 81
    talk.say("S", 0)
    talk.expect("S. 0:0 ack 1")
    talk.say(".", 1, 1)
    connection = everywhere.accept(talk.now)
    assert connection is not None
    assert connection.local == (US, 81)


def test_a_listener_at_port_0_gets_an_ephemeral_port() -> None:
    talk = Talk()
    listeners = [talk.layer.listen(US, 0, talk.now) for _ in range(5)]
    assert len({listener.port for listener in listeners}) == 5
    assert all(32768 <= listener.port <= 60999 for listener in listeners)


def test_a_port_with_connections_is_taken_unless_its_address_may_be_reused() -> None:
    talk, connection = accepted()
    assert talk.listener is not None
    talk.listener.close(talk.now)
    with pytest.raises(OSError) as caught:
        talk.layer.listen(US, 80, talk.now)
    assert caught.value.errno == errno.EADDRINUSE
    talk.layer.listen(US, 80, talk.now, reuse_address=True)
    assert states(connection) == (State.ESTABLISHED,)


def test_close_before_the_answer_forgets_the_open() -> None:
    talk = Talk()
    connection = talk.connect()
    talk.expect("S 0:0")
    connection.close(talk.now)
    assert states(connection) == (State.CLOSED,)
    talk.say("S.", 0, 1)
    talk.expect("R 1:1")


def test_a_close_in_syn_received_waits_for_the_handshake() -> None:
    """RFC 9293 §3.10.4."""
    talk = Talk()
    connection = talk.connect()
    talk.expect("S 0:0")
    talk.say("S", 0)
    talk.expect("S. 0:0 ack 1")
    connection.close(talk.now)
    talk.expect()
    talk.say(".", 1, 1)
    talk.expect("F. 1:1 ack 1")
    assert states(connection) == (State.FIN_WAIT_1,)


def test_time_to_live_and_dscp_are_passed_to_ip_on_every_segment() -> None:
    """MUST-48: DiffServ field. MUST-49: TTL."""
    options = TcpOptions(ttl=7, dscp=46)
    talk, connection = accepted(options=options)
    connection.send(bytes(3000), talk.now)
    assert talk.heard() == [". 1:1461 ack 1", ". 1461:2921 ack 1", "P. 2921:3001 ack 1"]
    connection.abort(talk.now)
    talk.say("S", 0, port=4001)
    said = [*talk.said, *talk.answers]
    assert [(answer.ttl, answer.dscp) for answer in said] == [(7, 46)] * 5
    connection = talk.layer.connect(talk.peer, 81, talk.now, options=options)
    connection.configure(talk.now, dscp=10)
    talk.heard()
    assert talk.said[-1].dscp == 46  # the SYN had gone
    talk.wait(1)
    assert talk.answers[-1].dscp == 10


HOP_1, HOP_2 = bytes([10, 9, 0, 201]), bytes([10, 9, 0, 202])


def test_the_program_can_name_a_source_route_for_an_active_open() -> None:
    """MUST-51."""
    talk = Talk()
    connection = talk.connect(options=TcpOptions(source_route=(HOP_1, HOP_2)))
    talk.expect("S 0:0")
    talk.say("S.", 0, 1, mss=1460)
    connection.send(bytes(2000), talk.now)
    assert talk.heard() == [". 1:1449 ack 1", "P. 1449:2001 ack 1"]
    way = (HOP_1, bytes([131, 11, 4]) + HOP_2 + talk.peer + b"\0")
    assert {(answer.hop, answer.options) for answer in talk.said} == {way}


RECORDED = bytes([131, 11, 12]) + HOP_1 + HOP_2 + b"\0"


def test_a_syn_that_came_by_a_source_route_is_answered_by_its_reverse() -> None:
    """MUST-53; SHLD-24: a later route overrides it."""
    talk = Talk()
    talk.listen()
    talk.say("S", 0, mss=1460, ip_options=RECORDED)
    talk.expect("S. 0:0 ack 1")
    back = (HOP_2, bytes([131, 11, 4]) + HOP_1 + talk.peer + b"\0")
    assert (talk.said[0].hop, talk.said[0].options) == back
    talk.say(".", 1, 1)
    connection = talk.accept()
    connection.send(b"x", talk.now)
    talk.heard()
    assert (talk.said[0].hop, talk.said[0].options) == back
    talk.say(".", 1, 2, ip_options=bytes([1, 137, 7, 8]) + HOP_1)
    connection.send(b"y", talk.now)
    talk.heard()
    assert (talk.said[0].hop, talk.said[0].options) == (HOP_1, bytes([131, 7, 4]) + talk.peer + b"\0")


def test_a_source_route_of_the_program_overrides_one_that_came() -> None:
    """MUST-52."""
    talk = Talk()
    talk.listen(options=TcpOptions(source_route=(HOP_1,)))
    talk.say("S", 0, mss=1460, ip_options=RECORDED)
    talk.expect("S. 0:0 ack 1")
    assert talk.said[0].hop == HOP_1
    talk.say(".", 1, 1, ip_options=RECORDED)
    talk.accept().send(b"x", talk.now)
    talk.heard()
    assert talk.said[0].hop == HOP_1


@pytest.mark.parametrize(
    "options",
    [b"\1\1\0\0", bytes([131, 11, 8]) + HOP_1 + HOP_2, bytes([68, 4, 5, 0]), bytes([131, 200, 4, 0]), b"\x83"],
)
def test_ip_options_that_are_no_completed_source_route_are_passed_over(options: bytes) -> None:
    """MUST-50."""
    talk = Talk()
    talk.listen()
    talk.say("S", 0, mss=1460, ip_options=options)
    talk.expect("S. 0:0 ack 1")
    assert (talk.said[0].hop, talk.said[0].options) == (talk.peer, b"")


def test_options_out_of_range_are_einval() -> None:
    for wrong in ({"ttl": 0}, {"dscp": 64}, {"keepalive_count": 0}, {"congestion": "vegas"}, {"max_segment_bytes": 20}):
        with pytest.raises(OSError) as caught:
            TcpOptions(**wrong)
        assert caught.value.errno == errno.EINVAL


def test_a_layer_without_options_still_speaks() -> None:
    _, connection = connected(PLAIN)
    info = connection.info()
    assert (info.timestamps, info.sack, info.receive_window_scale) == (False, False, 0)

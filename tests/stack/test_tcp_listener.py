"""A listener's two queues when they are full, and SYN cookies, as Linux has them."""

from __future__ import annotations

import pytest

from underlay.stack import Events, State, TcpConfig

from ._tcp_pair import Pair, states
from ._tcp_script import Talk

NO_COOKIES = TcpConfig(timestamps=False, sack=False, window_scaling=False, syn_cookies=False)
COOKIES = TcpConfig()


def shake(talk: Talk, port: int) -> list[str]:
    """Let the peer open from `port`; give our answers."""
    talk.say("S", 0, port=port, mss=1460)
    heard = talk.heard()
    if heard:
        talk.say(".", 1, 1, port=port)
    return heard + talk.heard()


def test_one_more_connection_than_the_backlog_waits_and_the_next_syn_is_dropped() -> None:
    talk = Talk(NO_COOKIES)
    listener = talk.listen(backlog=2)
    for port in (4000, 4001, 4002):
        assert shake(talk, port) == ["S. 0:0 ack 1"]
    assert listener.accept_queue_is_full
    assert shake(talk, 4003) == []
    assert talk.drops == {"listener.full": 1}
    talk.accept()
    assert shake(talk, 4003) == ["S. 0:0 ack 1"]


def test_the_last_ack_is_ignored_while_the_accept_queue_is_full_and_the_syn_ack_comes_again() -> None:
    talk = Talk(NO_COOKIES)
    listener = talk.listen(backlog=3)
    for port in (4000, 4001, 4002):
        talk.say("S", 0, port=port)
    talk.heard()
    listener.backlog = 1
    for answer in talk.said:
        talk.our_iss = answer.segment.seq
        talk.say(".", 1, 1, port=answer.segment.destination_port)
    talk.expect()
    assert talk.drops == {"listener.full": 1}
    assert talk.layer.statistics().syn_requests == 1
    talk.wait(1)
    talk.expect("S. 0:0 ack 1")
    talk.accept()
    talk.say(".", 1, 1, port=4002)
    assert talk.layer.statistics().syn_requests == 0
    assert talk.layer.statistics().passive_opens == 3


def test_a_full_syn_queue_without_cookies_drops_syns() -> None:
    talk = Talk(NO_COOKIES)
    talk.listen(backlog=3)
    for port in range(4000, 4100):
        talk.say("S", 0, port=port)
    assert len(talk.heard()) == 3
    assert talk.layer.statistics().syn_requests == 3
    assert talk.drops == {"syn.queue_full": 97}


def test_a_syn_flood_costs_no_memory_beyond_the_backlog() -> None:
    talk = Talk(COOKIES)
    talk.listen(backlog=16)
    for index in range(5000):
        talk.say("S", index, port=1000 + index % 60000, source=bytes([10, 9, 1 + index % 200, index // 200 + 1]))
    statistics = talk.layer.statistics()
    assert (statistics.connections, statistics.syn_requests) == (0, 16)
    assert statistics.drops == {"syn.cookie": 5000 - 16}
    assert len(talk.layer._heap) <= 16


@pytest.mark.parametrize("options", [True, False])
def test_a_cookie_makes_a_connection_with_the_options_of_its_syn(options: bool) -> None:
    talk = Talk(COOKIES)
    listener = talk.listen(backlog=1)
    talk.say("S", 0, port=3999)
    talk.heard()
    stamp = (900, 0) if options else None
    talk.say("S", 0, mss=1400, window_scale=5 if options else None, sack_permitted=options, timestamp=stamp)
    talk.expect("S. 0:0 ack 1")
    assert talk.last is not None
    answer = talk.last.segment
    assert answer.sack_permitted == options
    assert talk.layer.statistics().syn_requests == 1
    talk.say(".", 1, 1, b"hello", window=1000, timestamp=(901, answer.timestamp[0]) if answer.timestamp else None)
    connection = listener.accept(talk.now)
    assert connection is not None
    info = connection.info()
    assert info.send_mss == (1300 - 12 if options else 1300)
    assert (info.sack, info.timestamps, info.send_window_scale) == (options, options, 5 if options else 0)
    assert info.send_window_bytes == (32_000 if options else 1000)
    assert connection.receive(10, talk.now) == b"hello"


def test_a_forged_or_old_cookie_is_reset() -> None:
    talk = Talk(COOKIES)
    listener = talk.listen(backlog=1)
    talk.say("S", 0, port=3999)
    talk.heard()
    talk.say("S", 0)
    talk.expect("S. 0:0 ack 1")
    talk.say(".", 1, 2)
    assert talk.heard()[0].startswith("R ")
    talk.say(".", 2, 1)
    assert talk.heard()[0].startswith("R ")
    talk.now += 200
    talk.say(".", 1, 1)
    assert talk.heard()[0].startswith("R ")
    assert listener.accept(talk.now) is None


def test_a_repeated_syn_is_answered_again() -> None:
    talk = Talk(NO_COOKIES)
    talk.listen()
    talk.say("S", 0)
    talk.say("S", 0)
    talk.expect("S. 0:0 ack 1", "S. 0:0 ack 1")
    assert talk.layer.statistics().syn_requests == 1


def test_another_syn_within_a_handshake_is_answered_by_the_same_syn_ack() -> None:
    """RFC 5961 §4."""
    talk = Talk(NO_COOKIES)
    talk.listen()
    talk.say("S", 0)
    talk.heard()
    iss = talk.our_iss
    talk.say("S", 500)
    talk.expect("S. 0:0 ack 1")
    assert talk.our_iss == iss


def test_a_blind_reset_does_not_end_a_handshake() -> None:
    talk = Talk(NO_COOKIES)
    talk.listen()
    talk.say("S", 0)
    talk.heard()
    talk.say("R", 100)
    talk.say("R", 1_000_000)
    assert talk.layer.statistics().syn_requests == 1
    assert talk.drops == {"rst.outside": 2}


def test_a_wrong_ack_within_a_handshake_is_reset_and_the_handshake_goes_on() -> None:
    talk = Talk(NO_COOKIES)
    talk.listen()
    talk.say("S", 0)
    talk.heard()
    talk.say(".", 1, 99)
    talk.expect("R 99:99")
    talk.say(".", 1, 1)
    assert talk.accept().state is State.ESTABLISHED


def test_a_connection_that_was_reset_while_it_waited_says_so_to_who_accepts_it() -> None:
    """As Linux."""
    talk = Talk(NO_COOKIES)
    talk.listen()
    shake(talk, 4000)
    talk.say("R", 1)
    connection = talk.accept()
    with pytest.raises(ConnectionResetError):
        connection.receive(1, talk.now)


def test_closing_a_listener_resets_what_nobody_accepted_and_keeps_what_was() -> None:
    talk = Talk(NO_COOKIES)
    listener = talk.listen()
    shake(talk, 4000)
    kept = talk.accept()
    shake(talk, 4001)
    talk.say("S", 0, port=4002)
    talk.heard()
    listener.close(talk.now)
    listener.close(talk.now)
    assert [line.split()[0] for line in talk.heard()] == ["R."]
    assert states(kept) == (State.ESTABLISHED,)
    talk.say("S", 0, port=4003)
    assert talk.heard()[0].startswith("R.")
    assert talk.layer.next_deadline() is None or talk.layer.statistics().syn_requests == 0


def test_a_connection_tells_nothing_before_it_is_accepted() -> None:
    talk = Talk(NO_COOKIES)
    listener = talk.listen()
    shake(talk, 4000)
    talk.say("P.", 1, 1, b"early")
    assert {who for who, _ in talk.events} == {listener}
    connection = talk.accept()
    talk.say("P.", 6, 1, b"late")
    assert talk.told(connection) == Events(0)  # it was readable all the time
    assert connection.receive(100, talk.now) == b"earlylate"


def test_accepted_connections_inherit_the_listeners_options() -> None:
    talk = Talk(NO_COOKIES)
    listener = talk.listen()
    listener.configure(nodelay=True, ttl=9)
    shake(talk, 4000)
    assert talk.accept().options.nodelay
    assert talk.said == [] or talk.said[0].ttl == 9


def test_a_layer_that_is_full_takes_no_more() -> None:
    talk = Talk(TcpConfig(timestamps=False, max_connections=2))
    talk.listen()
    for port in (4000, 4001, 4002):
        shake(talk, port)
    assert talk.drops == {"connection.limit": 1}
    with pytest.raises(OSError, match="too many"):
        talk.layer.connect(talk.peer, 99, talk.now)


def test_many_clients_at_once_are_all_served() -> None:
    pair = Pair()
    pair.keep = False
    listener = pair.listen(backlog=300)
    clients = [pair.a.layer.connect(bytes([10, 9, 0, 2]), 80, pair.now) for _ in range(200)]
    pair.run(5)
    servers = [listener.accept(pair.now) for _ in range(200)]
    assert all(server is not None and server.state is State.ESTABLISHED for server in servers)
    for index, client in enumerate(clients):
        client.send(b"%d" % index, pair.now)
    pair.run(5)
    heard = sorted(server.receive(100, pair.now) or b"" for server in servers if server is not None)
    assert heard == sorted(b"%d" % index for index in range(200))

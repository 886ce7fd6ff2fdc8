"""Strangers and broken peers: blind resets, SYNs and data (RFC 5961), old duplicates (PAWS), floods, garbage."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.stack import State, TcpConfig, TcpOptions
from underlay.wire import build_tcp_header

from ._tcp_pair import states
from ._tcp_script import PEER, PLAIN, US, Talk, accepted, connected


def test_a_reset_inside_the_window_but_not_exact_is_challenged() -> None:
    """RFC 5961 §3.2."""
    talk, connection = accepted()
    talk.say("R", 100)
    talk.expect(". 1:1 ack 1")
    assert states(connection) == (State.ESTABLISHED,)
    talk.say("R", 1)
    assert states(connection) == (State.CLOSED,)


def test_a_reset_outside_the_window_is_dropped() -> None:
    talk, connection = accepted()
    talk.say("R", 70_000)
    talk.say("R", 0)
    talk.expect()
    assert states(connection) == (State.ESTABLISHED,)
    assert talk.drops == {"rst.outside": 2}


@pytest.mark.parametrize("seq", [0, 1, 100, 70_000, -70_000])
def test_a_syn_on_a_live_connection_is_challenged_whatever_its_number(seq: int) -> None:
    """RFC 5961 §4.2."""
    talk, connection = accepted()
    talk.say("S", seq)
    talk.expect(". 1:1 ack 1")
    assert states(connection) == (State.ESTABLISHED,)


def test_an_ack_of_what_was_never_sent_is_challenged_and_its_data_dropped() -> None:
    """RFC 5961 §5.2."""
    talk, connection = accepted()
    talk.say("P.", 1, 500, b"injected")
    talk.expect(". 1:1 ack 1")
    assert not connection.readable


def test_an_ack_from_long_ago_is_challenged_and_its_data_dropped() -> None:
    """RFC 5961 §5.2: no older than the widest window."""
    talk, connection = accepted(window=1000)
    talk.say("P.", 1, 1 - 1001, b"injected")
    talk.expect(". 1:1 ack 1")
    assert not connection.readable
    talk.say("P.", 1, 1 - 1000, b"fair")
    assert connection.receive(100, talk.now) == b"fair"


def test_challenges_are_limited_to_so_many_a_second() -> None:
    """RFC 5961 §7."""
    talk, _connection = accepted(TcpConfig(timestamps=False, sack=False, challenge_acks_per_s=10))
    for _ in range(100):
        talk.say("S", 1)
    first = len(talk.heard())
    assert 5 <= first <= 10
    assert talk.drops["challenge.limited"] == 100 - first
    talk.now += 1
    talk.say("S", 1)
    assert len(talk.heard()) == 1


def test_bare_acks_from_outside_the_window_are_answered_seldom() -> None:
    """Two confused hosts must not talk for ever."""
    talk, _connection = accepted()
    for _ in range(100):
        talk.say(".", 100_000, 1)
    assert len(talk.heard()) == 1
    assert talk.drops["ack.limited"] == 99


def test_two_confused_connections_fall_silent() -> None:
    talk, _connection = accepted()
    for _ in range(10):
        talk.say(".", 500_000, 1)
        talk.say(".", 500_000, 900)
    assert len(talk.heard()) <= 2


def test_a_segment_without_ack_is_dropped() -> None:
    talk, connection = accepted()
    talk.say("P", 1, None, b"no ack")
    talk.expect()
    assert not connection.readable
    assert talk.drops == {"segment.no_ack": 1}


def test_an_old_timestamp_drops_a_segment_that_would_fit() -> None:
    """RFC 7323 §5: PAWS."""
    talk, connection = accepted(timestamp=1000)
    talk.say("P.", 1, 1, b"new", timestamp=(1100, 0))
    talk.heard()
    talk.say("P.", 4, 1, b"old", timestamp=(1099, 0))
    talk.expect(". 1:1 ack 4")
    assert connection.receive(100, talk.now) == b"new"
    assert talk.drops == {"paws": 1}


def test_a_timestamp_may_wrap() -> None:
    talk, connection = accepted(timestamp=0xFFFF_FFF0)
    talk.say("P.", 1, 1, b"before", timestamp=(0xFFFF_FFFF, 0))
    talk.say("P.", 7, 1, b"after", timestamp=(5, 0))
    assert connection.receive(100, talk.now) == b"beforeafter"


def test_a_timestamp_is_not_believed_after_24_days_of_silence() -> None:
    """RFC 7323 §5.5."""
    talk, connection = accepted(timestamp=1000)
    talk.wait(25 * 86400)
    talk.say("P.", 1, 1, b"awake", timestamp=(10, 0))
    assert connection.receive(100, talk.now) == b"awake"


def test_a_segment_without_its_timestamp_is_taken_all_the_same() -> None:
    """RFC 7323 §3.2 would drop it; Linux does not, and old middleboxes strip options."""
    talk, connection = accepted(timestamp=1000)
    talk.stamp = None
    talk.say("P.", 1, 1, b"bare")
    assert connection.receive(100, talk.now) == b"bare"


def test_a_flood_of_tiny_segments_out_of_order_is_bounded() -> None:
    talk, connection = accepted(TcpConfig(timestamps=False, max_reassembly_blocks=64), sack=True)
    for index in range(5000):
        talk.say(".", 3 + 2 * index, 1, b"x")
        talk.heard()
    assert connection.reassembly is not None
    assert connection.reassembly.block_count == 64
    assert talk.drops["reassembly.full"] == 5000 - 64


def test_a_flood_of_tiny_segments_in_order_costs_memory_near_its_bytes() -> None:
    talk, connection = accepted()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for index in range(20_000):
        talk.say(".", 1 + 2 * index, 1, index.to_bytes(2, "big"))
        if index % 100 == 0:
            talk.heard()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert connection.unread_bytes == 40_000
    assert after - before < 200_000  # as objects of their own they would have 35 bytes each


def test_a_flood_of_sacks_does_not_grind_super_segments_to_dust() -> None:
    """The peer names thousands of ranges; nothing is divided below a segment."""
    talk, connection = accepted(sack=True, offload=True)
    connection.send(bytes(14_600), talk.now)
    talk.heard()
    rng = random.Random(1)
    for _ in range(2000):
        edges = sorted(rng.randrange(1, 14_601) for _ in range(2))
        talk.say(".", 1, 1, sack=[(edges[0], edges[1] + 1)])
    assert len(connection.queue) <= 10
    board = connection.board
    assert board is None or len(board.starts) <= 10


def test_an_ack_storm_of_duplicates_sends_no_more_than_the_window() -> None:
    talk, connection = accepted(PLAIN)
    connection.send(bytes(100_000), talk.now)
    talk.heard()
    for _ in range(1000):
        talk.say(".", 1, 1)
    talk.heard()
    assert connection.flight_bytes <= 65535
    assert connection.info().sacked_bytes <= connection.flight_bytes


# --- whatever comes ---

SEGMENTS = st.tuples(
    st.sampled_from(["", ".", "P.", "F.", "S", "S.", "R", "R.", "U.", "FPU.", "SF", "FR", "SR", "SFRPU.", "F"]),
    st.integers(-3000, 3000) | st.integers(-(1 << 31), 1 << 31),
    st.none() | st.integers(-3000, 30_000) | st.integers(0, 1 << 32),
    st.binary(max_size=40) | st.just(bytes(3000)),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.lists(st.tuples(st.integers(-100, 20_000), st.integers(-100, 20_000)), max_size=4),
    st.none() | st.tuples(st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFFFF_FFFF)),
    st.none() | st.integers(0, 65535),
)
ACTIONS = st.sampled_from(
    ["send", "send urgent", "receive", "shutdown", "close", "abort", "wait", "flush", "configure"]
)
STEPS = st.lists(st.one_of(SEGMENTS, ACTIONS), max_size=40)


def check(talk: Talk) -> None:
    """What must hold of every connection whatever has come."""
    for tcb in talk.layer._connections.values():
        assert tcb.snd_una <= tcb.snd_nxt
        assert tcb.rcv_nxt <= tcb.rcv_adv + 1
        if tcb.state is State.CLOSED:
            raise AssertionError("a closed connection is still in the table")
        place = tcb.snd_una
        for sent in tcb.queue:
            assert sent.start == place
            assert sent.end > sent.start
            place = sent.end
        assert place == tcb.snd_nxt or not tcb.queue
        board = tcb.board
        if board is not None and board.active:
            assert board.lost_bytes == sum(s.end - s.start for s in tcb.queue if s.lost)
            assert board.retrans_bytes == sum(s.end - s.start for s in tcb.queue if s.out)
            if tcb.sack:
                assert board.sacked_bytes == sum(s.end - s.start for s in tcb.queue if s.sacked)
            assert not any(s.lost and s.sacked for s in tcb.queue)
            assert 0 <= board.in_network(tcb.flight_bytes) <= tcb.flight_bytes
        assert tcb.received.size_bytes <= tcb.rcv_adv - tcb.irs


@settings(max_examples=300)
@given(steps=STEPS, active=st.booleans(), rich=st.booleans(), offload=st.booleans())
def test_no_sequence_of_segments_and_calls_raises_or_breaks_what_holds(
    steps: list[object], active: bool, rich: bool, offload: bool
) -> None:
    config = TcpConfig() if rich else PLAIN
    if active:
        talk, connection = connected(config, sack=rich)
    else:
        talk, connection = accepted(config, sack=rich, timestamp=1000 if rich else None, offload=offload)
    for step in steps:
        match step:
            case "send":
                try_to(lambda: connection.send(bytes(5000), talk.now))
            case "send urgent":
                try_to(lambda: connection.send_urgent(b"urgent", talk.now))
            case "receive":
                try_to(lambda: connection.receive(1000, talk.now))
            case "shutdown":
                try_to(lambda: connection.shutdown(1, talk.now))
            case "close":
                connection.close(talk.now)
            case "abort":
                connection.abort(talk.now)
            case "wait":
                talk.wait(3)
            case "configure":
                connection.configure(talk.now, nodelay=True, congestion="newreno", keepalive=True)
            case "flush":
                talk.heard()
            case (str(flags), int(seq), ack, bytes(payload), int(window), int(urgent), list(sack), stamp, mss):
                assert mss is None or isinstance(mss, int)
                talk.say(
                    flags, seq, ack if isinstance(ack, int) else None, payload, window=window, urgent=urgent,
                    sack=sack, timestamp=stamp if isinstance(stamp, tuple) else None,
                    mss=mss if not sack else None,
                )  # fmt: skip
        check(talk)
    talk.heard()
    check(talk)
    connection.close(talk.now)
    if talk.listener is not None:
        talk.listener.close(talk.now)  # a SYN among the steps may have begun another connection
    talk.wait(10_000)
    assert talk.layer.statistics().connections == 0
    assert talk.layer.next_deadline() is None


def try_to(call: object) -> None:
    """A program's call may fail, but only as Linux says."""
    assert callable(call)
    try:
        call()
    except OSError as error:
        assert error.errno is not None


@given(data=st.binary(max_size=200))
def test_no_bytes_at_all_raise(data: bytes) -> None:
    talk, _connection = accepted()
    talk.layer.receive_segment(PEER, US, data, 0, len(data), talk.now)
    talk.layer.receive_segment(PEER, US, data, 0, len(data), talk.now, checksum_valid=True)
    head = build_tcp_header(PEER, US, 4000, 80, 5_000_001, talk.our_iss + 1, 0x10, 100)
    mixed = head[:12] + data
    talk.layer.receive_segment(PEER, US, mixed, 0, len(mixed), talk.now, checksum_valid=True)
    talk.heard()


def test_the_peer_may_be_anyone_but_a_guess_costs_two_to_the_thirty() -> None:
    """A blind attacker who guesses 10,000 sequence numbers injects nothing."""
    talk, connection = accepted(options=TcpOptions(receive_buffer_bytes=1000))
    rng = random.Random(2)
    for _ in range(10_000):
        talk.say("P.", rng.getrandbits(32), rng.getrandbits(32), b"evil")
    assert states(connection) == (State.ESTABLISHED,)
    assert not connection.readable

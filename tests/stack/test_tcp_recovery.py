"""Losses found and repaired: duplicates, SACK, RACK, tail probes, NewReno, proportional rate reduction, undoing."""

from __future__ import annotations

import random
from typing import Literal

import pytest

from underlay.stack import TcpConfig, TcpConnection, TcpOptions

from ._tcp_pair import Packet, Pair, Verdict
from ._tcp_script import PLAIN, Talk, accepted

RENO = TcpOptions(congestion="newreno")
MSS = 1460


def at(index: int) -> int:
    """Where the segment with that index (from 0) begins."""
    return 1 + index * MSS


def lines(*indices: int) -> list[str]:
    return [f". {at(i)}:{at(i + 1)} ack 1" for i in indices]


def with_ten_segments_out(*, sack: bool) -> tuple[Talk, TcpConnection]:
    talk, connection = accepted(PLAIN, options=RENO, sack=sack)
    connection.rto.srtt_s = 0.0  # the handshake took no time
    connection.rto.min_rtt_s = 0.1
    connection.rto.measure(0.1)
    connection.send(bytes(40 * MSS), talk.now)
    talk.expect(*lines(*range(10)))
    talk.now += 0.1
    return talk, connection


# --- without SACK: RFC 5681, 6582, 3042 ---


def test_the_first_two_duplicates_let_out_new_segments_and_the_third_repairs() -> None:
    """RFC 3042 limited transmit, RFC 5681 fast retransmit."""
    talk, connection = with_ten_segments_out(sack=False)
    talk.say(".", 1, 1)
    talk.expect(*lines(10))
    talk.say(".", 1, 1)
    talk.expect(*lines(11))
    talk.say(".", 1, 1)
    talk.expect(*lines(0))
    assert connection.info().phase == "fast recovery"
    assert connection.info().ssthresh_bytes == 6 * MSS


def test_a_partial_acknowledgment_repairs_the_next_hole() -> None:
    """RFC 6582 §3.2 step 3."""
    talk, connection = with_ten_segments_out(sack=False)
    for _ in range(3):
        talk.say(".", 1, 1)
    assert lines(0)[0] in talk.heard()
    talk.say(".", 1, at(4))
    assert talk.heard()[0] == lines(4)[0]
    assert connection.info().phase == "fast recovery"
    talk.say(".", 1, connection.snd_nxt - connection.iss)
    assert connection.info().phase == "open"
    assert connection.info().cwnd_bytes == connection.info().ssthresh_bytes


def test_data_or_another_window_makes_no_duplicate() -> None:
    """RFC 5681 §2."""
    talk, connection = with_ten_segments_out(sack=False)
    talk.say(".", 1, 1, b"a")
    talk.say(".", 2, 1, b"b")
    talk.say(".", 3, 1, b"c")
    talk.say(".", 4, 1, window=60_000)
    talk.say(".", 4, 1, window=60_001)
    talk.say(".", 4, 1, window=60_002)
    assert connection.info().phase == "open"
    assert connection.info().retransmitted_segments == 0


# --- with SACK: RFC 6675, 8985 ---


def test_sacks_repair_every_hole_in_one_round_trip() -> None:
    talk, connection = with_ten_segments_out(sack=True)
    talk.say(".", 1, 1, sack=[(at(1), at(3))])
    talk.expect(*lines(10, 11))
    talk.now += 0.01
    talk.say(".", 1, 1, sack=[(at(5), at(10)), (at(1), at(3))])
    heard = talk.heard()
    assert heard[:1] == lines(0)
    talk.now += 0.09
    for end in (11, 12):
        talk.say(".", 1, 1, sack=[(at(5), at(end)), (at(1), at(3))])
        heard += talk.heard()
    assert set(lines(0, 3, 4)) <= set(heard)
    assert connection.info().phase == "fast recovery"
    talk.say(".", 1, at(12))
    assert connection.info().phase == "open"
    assert connection.info().retransmitted_segments == 3


def test_less_than_three_sacked_segments_wait_for_reordering() -> None:
    """RFC 8985 §6.2: a quarter of the least round trip."""
    talk, _ = with_ten_segments_out(sack=True)
    talk.say(".", 1, 1, sack=[(at(1), at(2))])
    talk.expect(*lines(10))
    begin = talk.now
    talk.wait(0.2)
    assert [talk.write(answer) for answer in talk.answers][:1] == lines(0)
    assert talk.times(begin)[0] == pytest.approx(0.025, abs=0.001)


def test_a_segment_that_only_came_late_is_not_sent_again() -> None:
    talk, connection = with_ten_segments_out(sack=True)
    talk.say(".", 1, 1, sack=[(at(1), at(2))])
    talk.heard()
    talk.now += 0.01
    talk.say(".", 1, at(2))
    talk.wait(0.05)
    assert connection.info().retransmitted_segments == 0
    assert connection.info().phase == "open"


def test_a_lost_retransmission_is_found_by_what_was_sent_after_it() -> None:
    """RFC 8985's gain over counting duplicates: no timeout is needed."""
    talk, connection = with_ten_segments_out(sack=True)
    talk.say(".", 1, 1, sack=[(at(1), at(10))])
    assert talk.heard()[0] == lines(0)[0]
    sent_after = connection.snd_nxt - connection.iss
    assert sent_after >= at(11)
    talk.now += 0.11
    talk.say(".", 1, 1, sack=[(at(1), sent_after)])
    assert lines(0)[0] in talk.heard()
    assert connection.info().timeouts == 0


def test_a_lost_tail_is_probed_after_two_round_trips() -> None:
    """RFC 8985 §7."""
    talk, connection = accepted(PLAIN, options=RENO, sack=True)
    connection.rto.measure(0.1)
    connection.rto.measure(0.1)
    connection.send(bytes(3 * MSS), talk.now)
    assert len(talk.heard()) == 3
    begin = talk.now
    pto_s = 2 * connection.info().srtt_s
    talk.wait(connection.info().rto_s - 0.01)
    assert [talk.write(answer) for answer in talk.answers] == [f"P. {at(2)}:{at(3)} ack 1"]
    assert talk.times(begin) == [pytest.approx(pto_s, abs=0.001)]
    talk.say(".", 1, 1, sack=[(at(2), at(3))])
    talk.wait(0.1)
    assert lines(0)[0] in [talk.write(answer) for answer in talk.answers]
    assert connection.info().timeouts == 0


def test_a_tail_probe_sends_something_new_if_there_is_any() -> None:
    talk, connection = accepted(PLAIN, options=RENO, sack=True)
    connection.rto.measure(0.05)
    connection.send(bytes(20 * MSS), talk.now)
    assert len(talk.heard()) == 10
    talk.wait(2 * connection.info().srtt_s + 0.001)
    talk.expect(*lines(10))


def test_a_super_segment_is_repaired_by_the_segment_that_was_lost() -> None:
    talk, connection = accepted(PLAIN, options=RENO, sack=True, offload=True)
    connection.send(bytes(10 * MSS), talk.now)
    talk.expect(f"P. 1:{at(10)} ack 1")
    talk.now += 0.1
    talk.say(".", 1, at(2), sack=[(at(4), at(10))])
    talk.expect(*lines(2, 3))
    talk.say(".", 1, at(10))
    assert connection.flight_bytes == 0


def test_a_receiver_that_takes_back_its_sacks_is_sent_everything_again() -> None:
    """RFC 2018 §8."""
    talk, connection = with_ten_segments_out(sack=True)
    talk.say(".", 1, 1, sack=[(at(1), at(10))])
    talk.heard()
    for _ in range(3):
        talk.wait(2)
    talk.say(".", 1, at(1))
    talk.wait(5)
    heard = talk.heard()
    assert any(line.startswith(f". {at(1)}:") for line in heard)
    talk.say(".", 1, connection.snd_nxt - connection.iss)
    assert connection.flight_bytes == 0 or connection.info().phase == "open"


def test_blocks_that_make_no_sense_are_passed_over() -> None:
    talk, connection = with_ten_segments_out(sack=True)
    talk.say(".", 1, 1, sack=[(at(30), at(31)), (at(5), at(4)), (at(9), at(12))])
    assert connection.info().sacked_bytes == 0
    assert talk.drops == {"sack.outside": 3}


def test_proportional_rate_reduction_sends_about_one_segment_for_two_that_arrive() -> None:
    """RFC 9937: NewReno halves."""
    talk, connection = with_ten_segments_out(sack=True)
    talk.say(".", 1, 1, sack=[(at(1), at(4))])
    talk.heard()
    sent = 0
    for end in range(5, 11):
        talk.say(".", 1, 1, sack=[(at(1), at(end))])
        sent += len(talk.heard())
    assert 2 <= sent <= 4
    assert connection.info().cwnd_bytes <= 8 * MSS


def test_a_needless_timeout_is_taken_back() -> None:
    """RFC 3522: the echoed timestamp is older than the retransmission."""
    talk, connection = accepted(PLAIN, options=RENO, timestamp=100)
    connection.send(bytes(40_000), talk.now)
    assert len(talk.heard()) == 10
    assert talk.last is not None
    assert talk.last.segment.timestamp is not None
    first_stamp = talk.last.segment.timestamp[0]
    before = connection.info()
    talk.wait(0.25)
    assert connection.info().phase == "after a timeout"
    talk.heard()
    talk.say(".", 1, 1449, timestamp=(101, first_stamp))
    after = connection.info()
    assert after.phase == "open"
    assert after.cwnd_bytes >= before.cwnd_bytes
    assert after.lost_bytes == 0
    talk.heard()
    talk.say(".", 1, connection.snd_nxt - connection.iss, timestamp=(102, first_stamp + 300))
    assert after.retransmitted_segments == 1


# --- growth ---


def test_slow_start_doubles_and_avoidance_adds_one_segment_a_round_trip() -> None:
    """MUST-19."""
    talk, connection = accepted(PLAIN, options=RENO, window=65535)
    connection.send(bytes(60 * MSS), talk.now)
    assert len(talk.heard()) == 10
    talk.say(".", 1, at(10))
    assert connection.info().cwnd_bytes == 20 * MSS
    assert len(talk.heard()) == 20
    congestion = connection.congestion
    assert congestion is not None
    congestion.ssthresh_bytes = 20 * MSS
    talk.say(".", 1, at(30))
    assert connection.info().cwnd_bytes == 21 * MSS


def test_a_window_that_was_not_used_does_not_grow() -> None:
    talk, connection = accepted(PLAIN, options=RENO)
    for _ in range(50):
        connection.send(bytes(1000), talk.now)
        talk.heard()
        talk.say(".", 1, connection.snd_nxt - connection.iss)
    assert connection.info().cwnd_bytes == 10 * MSS


@pytest.mark.parametrize("congestion", ["cubic", "newreno"])
def test_the_congestion_control_can_be_changed_while_the_connection_lives(
    congestion: Literal["cubic", "newreno"],
) -> None:
    talk, connection = accepted(PLAIN)
    connection.send(bytes(40 * MSS), talk.now)
    talk.heard()
    connection.configure(talk.now, congestion=congestion)
    assert connection.info().congestion == congestion
    talk.say(".", 1, at(10))
    assert connection.info().cwnd_bytes == 20 * MSS
    assert len(talk.heard()) == 20


# --- whole transfers ---

DATA = random.Random(3).randbytes(400_000)


@pytest.mark.parametrize("which", [{5}, {5, 6, 7}, {5, 9, 13, 17}, set(range(20, 40)), {290}])
@pytest.mark.parametrize("congestion", ["cubic", "newreno"])
def test_losses_within_a_stream_are_repaired_without_a_timeout(
    which: set[int], congestion: Literal["cubic", "newreno"]
) -> None:
    def script(packet: Packet) -> Verdict:
        return None if packet.sender == "a" and packet.number in which else 0.0

    pair = Pair(script=script, config=TcpConfig(options=TcpOptions(congestion=congestion)))
    client, server = pair.open()
    assert pair.transfer(client, server, DATA) == DATA
    assert client.info().timeouts == 0
    assert client.info().retransmitted_segments <= len(which) + 2


@pytest.mark.parametrize("congestion", ["cubic", "newreno"])
def test_reordering_is_learned_and_costs_little(congestion: Literal["cubic", "newreno"]) -> None:
    rng = random.Random(5)

    def script(packet: Packet) -> Verdict:
        return 0.004 if packet.sender == "a" and rng.random() < 0.2 else 0.0

    pair = Pair(script=script, config=TcpConfig(options=TcpOptions(congestion=congestion)))
    client, server = pair.open()
    assert pair.transfer(client, server, DATA) == DATA
    assert client.info().timeouts == 0
    assert client.info().retransmitted_segments < 30


def test_cubic_leaves_slow_start_earlier_than_newreno_and_loses_less_by_it() -> None:
    """RFC 9406."""
    overflows = {}
    for congestion in ("cubic", "newreno"):
        pair = Pair(
            delay_s=0.025, rate_bytes_per_s=2_500_000, queue_bytes=300_000,
            config=TcpConfig(options=TcpOptions(congestion="cubic" if congestion == "cubic" else "newreno")),
        )  # fmt: skip
        pair.keep = False
        client, server = pair.open()
        assert pair.transfer(client, server, DATA * 8) == DATA * 8
        overflows[congestion] = pair.overflows
    assert 2 * overflows["cubic"] < overflows["newreno"]


def test_a_long_fat_path_is_filled_because_both_buffers_grow() -> None:
    pair = Pair(delay_s=0.05, rate_bytes_per_s=5_000_000)
    pair.keep = False
    client, server = pair.open()
    began = pair.now
    data = DATA * 40
    assert pair.transfer(client, server, data) == data
    assert len(data) / (pair.now - began) > 0.8 * 5_000_000
    assert client.info().send_buffer_bytes > 500_000
    assert server.info().receive_buffer_bytes > 500_000


def test_a_bottleneck_is_filled() -> None:
    pair = Pair(delay_s=0.01, rate_bytes_per_s=1_250_000)
    client, server = pair.open()
    began = pair.now
    assert pair.transfer(client, server, DATA * 2) == DATA * 2
    assert len(DATA) * 2 / (pair.now - began) > 0.85 * 1_250_000

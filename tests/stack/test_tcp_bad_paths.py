"""What a TCP does on bad paths must not make them worse: buffers, timers and timestamps while segments go astray.

Each test is a mistake that slows a transfer down without losing a byte, so that only a number shows it.
"""

from __future__ import annotations

import random

from underlay.stack import State, TcpConnection, TcpOptions
from underlay.stack._tcp_rto import RtoEstimator
from underlay.wire import FIN

from ._tcp_pair import Packet, Pair, Verdict

MSS = 1448
DATA = random.Random(3).randbytes(3_000_000)
NODELAY = TcpOptions(nodelay=True)


def settled(pair: Pair) -> tuple[TcpConnection, TcpConnection]:
    """Open a connection and let the handshake's last segment arrive."""
    client, server = pair.open(options=NODELAY)
    pair.run(1)
    return client, server


def sent_at(pair: Pair, start: int) -> list[float]:
    """When the client sent the data that begins at the relative sequence number `start`, each time."""
    return [
        float(line.split()[0]) for line in pair.trace if line.split()[1] == "a" and f" {start}:{start + MSS}" in line
    ]


def test_a_program_that_waits_for_room_gets_a_larger_send_buffer() -> None:
    pair = Pair(delay_s=0.1)
    client, server = pair.open()
    before = client.info().send_buffer_bytes
    assert pair.transfer(client, server, DATA) == DATA
    assert client.info().send_buffer_bytes > 4 * before


def test_a_receive_window_grows_as_fast_as_slow_start() -> None:
    pair = Pair(delay_s=0.1)
    client, server = pair.open()
    began = pair.now
    assert pair.transfer(client, server, DATA) == DATA
    # 10 segments (RFC 6928), and twice as many each round trip of 0.2 s: 8 make 3.7 MB; one more for delayed ACKs.
    assert pair.now - began <= 9 * 0.2 + 0.1


def test_a_hole_waits_for_reordering_and_not_for_the_timeout_while_new_data_is_sent() -> None:
    lost: list[int] = []

    def script(packet: Packet) -> Verdict:
        if packet.sender == "a" and packet.size == MSS and not lost:
            lost.append(packet.number)
            return None
        return 0.0

    pair = Pair(delay_s=0.01)
    client, server = settled(pair)
    pair.script = script
    client.send(bytes(2 * MSS), pair.now)
    pair.run(0.021)  # the SACK of the second one is here: the timer of RFC 8985 §6.2 runs
    assert client.info().sacked_bytes == MSS
    client.send(bytes(MSS), pair.now)
    pair.run(5)
    assert server.unread_bytes == 3 * MSS
    first, second = sent_at(pair, 1)
    # A round trip and a quarter of it, not 0.2 s.
    assert 0.02 < second - first < 0.03


def test_a_timeout_is_no_idle_time() -> None:
    pair = Pair(delay_s=0.01, script=lambda packet: None if packet.sender == "a" and packet.number == 0 else 0.0)
    client, _ = settled(pair)
    client.send(bytes(MSS), pair.now)
    pair.run(0.1)
    silent_until = pair.now + 0.3
    pair.script = lambda packet: None if packet.size and pair.now < silent_until else 0.0
    client.send(bytes(MSS), pair.now)
    pair.run(0.25)
    client.send(bytes(10 * MSS), pair.now)  # it waits, for after the timeout the window is one segment
    una = client.snd_una
    assert pair.run(10, until=lambda: client.snd_una > una)
    assert client.info().timeouts > 0
    # Slow start goes on from two segments; the restart window after idle time, here of one, has no business here.
    assert client.info().flight_bytes == 2 * MSS


def test_a_lost_syn_makes_the_start_careful_and_nothing_else() -> None:
    pair = Pair(delay_s=0.01, script=lambda packet: None if packet.sender == "a" and packet.number == 0 else 0.0)
    client, server = settled(pair)
    assert client.info().cwnd_bytes == MSS  # RFC 5681 §3.1
    assert pair.transfer(client, server, DATA[:500_000]) == DATA[:500_000]
    pair.run(60)
    client.send(bytes(MSS), pair.now)
    pair.run(1)
    # RFC 5681 §4.1: the restart window is RFC 6928's initial one.
    assert client.info().cwnd_bytes >= 10 * MSS


def test_an_answer_to_a_duplicate_does_not_measure_our_own_timeout() -> None:
    pair = Pair(delay_s=0.01)
    client, _ = settled(pair)
    client.send(bytes(MSS), pair.now)
    pair.run(1)
    rto_s = client.info().rto_s
    silent_until = pair.now + 3.0
    pair.script = lambda packet: None if packet.sender == "b" and pair.now < silent_until else 0.0
    client.send(bytes(MSS), pair.now)  # it arrives, but no answer to it or to its copies for 3 s
    pair.run(10)
    info = client.info()
    assert info.flight_bytes == 0 and info.timeouts > 0
    assert info.rto_s <= rto_s * 1.5


def test_a_duplicate_does_not_make_what_is_on_its_way_look_old() -> None:
    pair = Pair(delay_s=0.01)
    client, server = settled(pair)
    answers = [False]

    def script(packet: Packet) -> Verdict:
        if packet.sender == "b":
            return 0.0 if answers[0] else None
        return 0.5 if packet.segment.payload[:1] == b"s" else 0.0

    pair.script = script
    client.send(b"f" * MSS, pair.now)
    pair.run(0.03)
    client.send(b"s" * MSS, pair.now)  # it takes a way that is half a second longer
    pair.run(0.45)  # meanwhile the first comes again, with a newer timestamp, and is a duplicate
    assert len(sent_at(pair, 1)) > 1
    answers[0] = True
    pair.run(0.1)
    assert server.unread_bytes == 2 * MSS
    assert "paws" not in pair.b.layer.statistics().drops


def test_a_late_original_is_told_of_by_dsack_though_its_timestamp_is_old() -> None:
    pair = Pair(delay_s=0.01)
    client, server = settled(pair)
    first: list[int] = []

    def script(packet: Packet) -> Verdict:
        if packet.sender == "a" and packet.size and not first:
            first.append(packet.segment.seq)
            return 1.0
        return 0.0

    pair.script = script
    client.send(bytes(MSS), pair.now)
    pair.run(0.6)
    assert server.unread_bytes == MSS  # the copy
    before = len(pair.packets)
    pair.run(1)
    assert server.unread_bytes == MSS
    answers = [packet.segment.sack for packet in pair.packets[before:] if packet.sender == "b"]
    assert answers == [((first[0], first[0] + MSS),)]


def test_a_steady_path_keeps_a_margin_before_the_timeout() -> None:
    estimator = RtoEstimator(initial_s=1.0, min_s=0.2, max_s=120.0)
    for _ in range(200):
        estimator.measure(0.3)
    # A queue that fills or a delayed ACK adds as much to a long path as to a short one.
    assert estimator.rto_s >= 0.3 + 0.2


def test_no_loss_is_taken_for_reordering() -> None:
    """RFC 3522: only the acknowledgment of what was retransmitted can tell that it was needless."""
    chance = random.Random(3)  # with these losses a hole of one recovery is acknowledged in the next
    pair = Pair(delay_s=0.01, rate_bytes_per_s=6_000_000)
    client, server = settled(pair)
    pair.script = lambda packet: None if packet.size and chance.random() < 0.01 else 0.0
    assert pair.transfer(client, server, DATA) == DATA
    assert client.info().retransmitted_segments > 10
    assert server.info().duplicates_in == 0  # each retransmission was needed…
    assert client.board is not None
    assert not client.board.reordering_seen  # …and no reduction of the window was taken back


def test_a_loss_behind_the_recovery_point_reduces_the_window_again() -> None:
    """RFC 6675 §5: the recovery ends at its recovery point, and what was lost behind it begins another."""
    first: list[int] = []
    behind: list[int] = []
    highest = [0]
    thresholds: list[int] = []
    pair = Pair(delay_s=0.01, rate_bytes_per_s=6_000_000)
    client, server = settled(pair)

    def script(packet: Packet) -> Verdict:
        if packet.sender == "b" or not packet.size:
            return 0.0
        info = client.info()
        if info.ssthresh_bytes not in thresholds:
            thresholds.append(info.ssthresh_bytes)
        start = (packet.segment.seq - client.iss) & 0xFFFF_FFFF
        is_new = start > highest[0]
        highest[0] = max(highest[0], start)
        if start == 1 + 50 * MSS and len(first) < 2:
            first.append(start)  # also its first retransmission, so that this recovery lasts longer
            return None
        if is_new and info.phase == "fast recovery" and not behind:
            behind.append(start)
            return None
        return 0.0

    pair.script = script
    assert pair.transfer(client, server, DATA[:1_000_000]) == DATA[:1_000_000]
    assert len(first) == 2 and behind
    assert client.info().timeouts == 0
    assert len(thresholds) == 3 and thresholds == sorted(thresholds, reverse=True)


def test_a_fin_before_its_turn_is_kept_and_told_of_by_sack() -> None:
    hole: list[int] = []

    def script(packet: Packet) -> Verdict:
        if packet.sender == "a" and packet.size and not hole:
            hole.append(packet.segment.seq)
            return 0.05  # it arrives behind the rest
        return 0.0

    for payload_bytes in (2 * MSS, MSS):  # with the second the FIN comes alone
        pair = Pair(delay_s=0.01)
        client, server = settled(pair)
        hole.clear()
        pair.script = script
        client.send(bytes(payload_bytes), pair.now)
        if payload_bytes == MSS:
            pair.run(0.001)
        before = len(pair.packets)
        client.shutdown(1, pair.now)
        pair.run(0.021)
        sacks = [packet.segment.sack for packet in pair.packets[before:] if packet.sender == "b"]
        end = hole[0] + payload_bytes + 1
        assert sacks[0] == ((hole[0] + MSS, end),)
        assert client.info().sacked_bytes == payload_bytes - MSS + 1
        pair.run(0.1)
        assert server.state is State.CLOSE_WAIT
        assert server.unread_bytes == payload_bytes
        fins = [packet for packet in pair.packets[before:] if packet.sender == "a" and packet.segment.flags & FIN]
        assert len(fins) == 1

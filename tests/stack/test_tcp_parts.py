"""TCP's small parts by themselves: numbers, queues, reassembly, the timeout, the congestion window."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.stack._tcp_buffers import ReceiveQueue, SendQueue
from underlay.stack._tcp_congestion import Cubic, NewReno, make_congestion_control
from underlay.stack._tcp_hystart import HyStart
from underlay.stack._tcp_reassembly import Reassembly
from underlay.stack._tcp_rto import RtoEstimator
from underlay.stack._tcp_sequence import MASK, is_before, signed, unwrap

MSS = 1460
NUMBERS = st.integers(0, MASK)

# --- sequence numbers ---


@given(near=st.integers(0, 1 << 40), distance=st.integers(-(1 << 31), (1 << 31) - 1))
def test_a_number_from_the_wire_is_read_as_the_nearest(near: int, distance: int) -> None:
    if near + distance >= 0:
        assert unwrap((near + distance) & MASK, near) == near + distance


@given(one=NUMBERS, distance=st.integers(1, (1 << 31) - 1))
def test_before_is_the_shorter_way_round_the_circle(one: int, distance: int) -> None:
    other = (one + distance) & MASK
    assert is_before(one, other)
    assert not is_before(other, one)
    assert signed(other - one) == distance


# --- queues ---

CHUNKS = st.lists(st.integers(1, 3000), max_size=20)


@given(sizes=CHUNKS, takes=st.lists(st.integers(1, 4000), max_size=30), seed=st.integers(0, 9))
def test_a_send_queue_gives_what_it_got_whatever_the_sizes(sizes: list[int], takes: list[int], seed: int) -> None:
    rng = random.Random(seed)
    queue = SendQueue()
    whole = b""
    given_back = b""
    for size, take in zip([*sizes, *[0] * len(takes)], takes, strict=False):
        if size:
            data = rng.randbytes(size)
            whole += data
            queue.append(data)
        part = queue.take(take)
        assert len(part) <= take
        assert len(part) == min(take, len(whole) - len(given_back))
        given_back += bytes(part)
        assert queue.size_bytes == len(whole) - len(given_back)
    given_back += bytes(queue.take(1 << 30))
    assert given_back == whole[: len(given_back)]


@given(sizes=CHUNKS, takes=st.lists(st.integers(1, 4000), max_size=30), into=st.booleans())
def test_a_receive_queue_gives_what_it_got_whatever_the_sizes(sizes: list[int], takes: list[int], into: bool) -> None:
    queue = ReceiveQueue()
    whole = b""
    given_back = b""
    for index, take in enumerate(takes):
        if index < len(sizes):
            data = random.Random(index).randbytes(sizes[index])
            whole += data
            queue.append(data)
        left = len(whole) - len(given_back)
        waiting = whole[len(given_back) :]
        assert queue.peek(take) == waiting[:take]
        assert queue.peek(take, left // 2) == waiting[left // 2 : left // 2 + take]
        if into:
            buffer = bytearray(take)
            part = bytes(buffer[: queue.take_into(memoryview(buffer))])
        else:
            part = queue.take(take)
        assert len(part) == min(take, left)
        given_back += part
    assert given_back == whole[: len(given_back)]


def test_a_whole_chunk_is_not_copied() -> None:
    data = bytes(5000)
    sending, receiving = SendQueue(), ReceiveQueue()
    sending.append(data)
    receiving.append(data)
    assert sending.take(5000) is data
    assert receiving.take(9000) is data


def test_small_pieces_are_joined() -> None:
    sending = SendQueue()
    for _ in range(10_000):
        sending.append(b"x")
    assert sending._chunks is not None
    assert len(sending._chunks) < 10
    assert sending.take(10_000) == b"x" * 10_000


# --- reassembly ---


@given(pieces=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=40), order=st.randoms())
def test_reassembly_gives_each_byte_once_in_order_and_sack_tells_exactly_what_is_held(
    pieces: list[tuple[int, int]], order: random.Random
) -> None:
    stream = bytes(range(100))
    held = Reassembly(max_blocks=1000, max_bytes=1 << 20)
    have = [False] * 100
    next_byte = 0
    out = b""
    for start, size in pieces:
        start = max(start, next_byte)
        data = stream[start : start + size]
        if not data:
            continue
        assert held.add(start, data)
        for place in range(start, start + len(data)):
            have[place] = True
        expected = []
        place = 0
        while place < 100:
            if have[place]:
                end = place
                while end < 100 and have[end]:
                    end += 1
                expected.append((place, end))
                place = end
            place += 1
        blocks = held.sack_blocks()
        assert set(blocks) <= set(expected)
        assert len(blocks) == min(4, len(expected))
        assert blocks[0][0] <= start < blocks[0][1]  # the newest first
        assert held.size_bytes == sum(have)
        if order.random() < 0.3:
            got = held.pop(next_byte)
            out += got
            for place in range(next_byte, next_byte + len(got)):
                have[place] = False
            next_byte += len(got)
            assert out == stream[:next_byte]
    while held:
        first = held._blocks[0].start
        got = held.pop(first)
        assert got == stream[first : first + len(got)]
    assert (held.size_bytes, held.charged_bytes, held._recent) == (0, 0, [])


def test_the_first_copy_of_a_byte_stays() -> None:
    held = Reassembly(max_blocks=10, max_bytes=10_000)
    held.add(10, b"AAAA")
    held.add(20, b"AAAA")
    held.add(8, b"bbbbbbbbbbbbbbbbbb")
    assert held.pop(8) == b"bb" + b"AAAA" + b"bbbbbb" + b"AAAA" + b"bb"


def test_reassembly_is_bounded_in_blocks_and_in_memory() -> None:
    held = Reassembly(max_blocks=3, max_bytes=100_000)
    assert [held.add(10 * index, b"x") for index in range(5)] == [True, True, True, False, False]
    held = Reassembly(max_blocks=1000, max_bytes=2000)
    taken = sum(held.add(10 * index, b"x") for index in range(1000))
    assert 1 < taken < 10
    assert held.charged_bytes <= 2000


def test_blocks_that_the_stream_has_passed_are_dropped() -> None:
    held = Reassembly(max_blocks=10, max_bytes=10_000)
    held.add(5, b"abc")
    held.add(10, b"def")
    assert held.pop(11) == b"ef"
    assert not held


# --- the retransmission timeout ---


@given(samples=st.lists(st.floats(0.0001, 60), min_size=1, max_size=50))
def test_the_timeout_stays_between_its_limits_and_above_the_round_trip(samples: list[float]) -> None:
    estimator = RtoEstimator(initial_s=1, min_s=0.2, max_s=120)
    for sample in samples:
        estimator.measure(sample)
        assert 0.2 <= estimator.rto_s <= 120
        assert estimator.rto_s >= min(estimator.srtt_s, 120)
    assert estimator.min_rtt_s == min(samples)


def test_the_first_measurement_and_the_next_are_the_rfcs() -> None:
    """RFC 6298 §2.2, §2.3."""
    estimator = RtoEstimator(initial_s=1, min_s=0.2, max_s=120)
    assert estimator.rto_s == 1
    estimator.measure(1.0)
    assert (estimator.srtt_s, estimator.rttvar_s, estimator.rto_s) == (1.0, 0.5, 3.0)
    estimator.measure(2.0)
    assert (estimator.srtt_s, estimator.rttvar_s) == (1.125, 0.625)
    assert estimator.rto_s == pytest.approx(1.125 + 4 * 0.625)


def test_doubling_stops_at_the_limit_and_is_forgiven() -> None:
    estimator = RtoEstimator(initial_s=1, min_s=0.2, max_s=120)
    for _ in range(20):
        estimator.back_off()
    assert estimator.rto_s == 120
    estimator.forgive()
    assert estimator.rto_s == 1


# --- congestion windows ---


@pytest.mark.parametrize("kind", ["newreno", "cubic"])
def test_the_initial_window_is_ten_segments_but_no_more_than_14600_bytes_of_large_ones(kind: str) -> None:
    """RFC 6928 §2."""
    assert make_congestion_control("newreno" if kind == "newreno" else "cubic", 536, 10).cwnd_bytes == 5360
    assert NewReno(1460, 10).cwnd_bytes == 14_600
    assert NewReno(9000, 10).cwnd_bytes == 18_000


def test_newreno_halves_and_cubic_keeps_seven_tenths() -> None:
    for control, factor in ((NewReno(MSS, 10), 0.5), (Cubic(MSS, 10), 0.7)):
        control.cwnd_bytes = 100 * MSS
        control.on_loss(100 * MSS, 0.0)
        assert control.ssthresh_bytes == int(100 * MSS * factor)


def test_no_loss_takes_the_threshold_below_two_segments() -> None:
    """RFC 5681 §3.1, equation 4."""
    for control in (NewReno(MSS, 10), Cubic(MSS, 10)):
        control.cwnd_bytes = MSS
        control.on_timeout(MSS, 0.0, again=False)
        assert (control.cwnd_bytes, control.ssthresh_bytes) == (MSS, 2 * MSS)


def test_the_same_segment_timing_out_again_keeps_the_threshold() -> None:
    """RFC 5681 §3.1."""
    control = NewReno(MSS, 10)
    control.on_timeout(20 * MSS, 0.0, again=False)
    control.on_timeout(MSS, 1.0, again=True)
    assert control.ssthresh_bytes == 10 * MSS


def cubic_after_a_loss(window: int, rtt_s: float) -> tuple[Cubic, list[int]]:
    """Give the window at the end of each round trip after a loss at `window` segments."""
    control = Cubic(MSS, 10)
    control.cwnd_bytes = window * MSS
    control.on_loss(window * MSS, 0.0)
    control.cwnd_bytes = control.ssthresh_bytes
    now = 0.0
    windows = []
    for _ in range(200):
        now += rtt_s
        left = control.cwnd_bytes
        while left > 0:
            control.on_ack(2 * MSS, now, rtt_s)
            left -= 2 * MSS
        windows.append(control.cwnd_bytes // MSS)
    return control, windows


def test_cubic_is_back_where_the_loss_was_after_k_seconds_and_flat_there() -> None:
    """RFC 9438 §4.2: K = cbrt((W_max - cwnd) / C)."""
    _, windows = cubic_after_a_loss(1000, 0.1)
    k_s = ((1000 - 700) / 0.4) ** (1 / 3)
    there = int(k_s / 0.1)
    assert 960 <= windows[there] <= 1010
    steps = [after - before for before, after in itertools.pairwise(windows)]
    assert max(steps[: there // 4]) > 3 * max(1, max(steps[there - 5 : there + 5]))  # concave, then a plateau
    assert windows[2 * there] > 1100  # convex behind it


def test_cubic_is_no_slower_than_reno_where_reno_is_quick() -> None:
    """RFC 9438 §4.3: the Reno-friendly region, short paths."""
    _, windows = cubic_after_a_loss(20, 0.01)
    reno_rounds = 20 - 14
    assert windows[4 * reno_rounds] >= 20


def test_cubic_gives_way_when_its_plateau_was_not_reached() -> None:
    """RFC 9438 §4.7: fast convergence."""
    control = Cubic(MSS, 10)
    control.cwnd_bytes = 100 * MSS
    control.on_loss(100 * MSS, 0.0)
    assert control._w_max == 100
    control.cwnd_bytes = 80 * MSS
    control.on_loss(80 * MSS, 1.0)
    assert control._w_max == pytest.approx(80 * 0.85)


# --- HyStart++ ---


def rounds(watch: HyStart, rtts_s: list[float], *, begin: int = 0) -> None:
    """Let rounds of ten acknowledgments pass, each with one round-trip time."""
    for number, rtt_s in enumerate(rtts_s, begin):
        for index in range(10):
            watch.watch(rtt_s, number * 10 + index, number * 10 + index + 10)


def test_slow_start_slows_when_the_round_trip_grows_and_ends_after_five_rounds() -> None:
    """RFC 9406 §4.2."""
    watch = HyStart()
    rounds(watch, [0.1, 0.1, 0.105])
    assert watch.divisor == 1
    rounds(watch, [0.12], begin=3)
    assert watch.divisor == 4
    rounds(watch, [0.13, 0.14, 0.15, 0.16], begin=4)
    ended = [watch.done]
    rounds(watch, [0.17], begin=8)
    assert [*ended, watch.done] == [False, True]


def test_slow_start_goes_on_when_the_delay_goes_away() -> None:
    watch = HyStart()
    rounds(watch, [0.1, 0.12])
    slow = watch.divisor
    rounds(watch, [0.1], begin=2)
    assert (slow, watch.divisor) == (4, 1)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["ack", "loss", "timeout", "idle"]), st.integers(1, 100_000)), max_size=60
    ),
    cubic=st.booleans(),
)
def test_a_congestion_window_never_falls_below_a_segment(steps: list[tuple[str, int]], cubic: bool) -> None:
    control = Cubic(MSS, 10) if cubic else NewReno(MSS, 10)
    now = 0.0
    for what, amount in steps:
        now += amount / 1e5
        before = control.cwnd_bytes
        match what:
            case "ack":
                control.on_ack(amount, now, 0.05)
                assert before <= control.cwnd_bytes <= before + max(amount, MSS)
            case "loss":
                control.on_loss(min(amount, before), now)
                control.cwnd_bytes = control.ssthresh_bytes
            case "timeout":
                control.on_timeout(amount, now, again=False)
            case _:
                control.on_idle(amount / 1e4, 0.3)
                assert control.cwnd_bytes <= before
        assert control.cwnd_bytes >= MSS
        assert control.ssthresh_bytes >= 2 * MSS

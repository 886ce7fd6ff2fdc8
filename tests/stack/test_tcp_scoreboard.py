"""The scoreboard against a model that knows each byte: what is SACKed, lost, on its way, and by which right."""

from __future__ import annotations

from collections import deque

from hypothesis import example, given
from hypothesis import strategies as st

from underlay.stack._tcp_scoreboard import SPARE_RANGES, Phase, Scoreboard, Sent

MSS = 10


def board_of(sizes: list[int], *, base: int = 1000) -> Scoreboard:
    """Give a scoreboard of segments with so many segments' worth of bytes each, sent a millisecond apart."""
    queue: deque[Sent] = deque()
    place = base
    for index, size in enumerate(sizes):
        queue.append(Sent(place, place + size * MSS, 0x10, bytes(size * MSS), index * 0.001))
        place += size * MSS
    board = Scoreboard(queue, MSS)
    board.activate()
    return board


def check(board: Scoreboard) -> None:
    assert board.sacked_bytes == sum(s.end - s.start for s in board.queue if s.sacked)
    assert board.sacked_segments == sum(s.sacked for s in board.queue)
    assert board.lost_bytes == sum(s.end - s.start for s in board.queue if s.lost)
    assert board.retrans_bytes == sum(s.end - s.start for s in board.queue if s.out)
    assert not any(s.lost and s.sacked for s in board.queue)
    assert all(not s.sacked for s in board.by_time)
    places = [s.start for s in board.queue]
    assert places == sorted(places)
    assert all(len(s.payload) == s.end - s.start for s in board.queue)
    times = [(s.sent_at, s.end) for s in board.by_time]
    assert times == sorted(times)
    assert sorted(zip(board.starts, board.stops, strict=True)) == list(zip(board.starts, board.stops, strict=True))


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("sack"), st.integers(0, 60), st.integers(1, 30)),
        st.tuples(st.just("detect"), st.integers(0, 20), st.just(0)),
        st.tuples(st.just("retransmit"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("timeout"), st.booleans(), st.just(0)),
        st.tuples(st.just("forgive"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@given(sizes=st.lists(st.integers(1, 8), min_size=1, max_size=12), actions=ACTIONS)
@example(  # two are sent again at one moment, the later one first
    sizes=[1, 1, 1, 1],
    actions=[("sack", 2, 1), ("detect", 0, 0), ("detect", 0, 0), ("retransmit", 2, 0), ("sack", 1, 1),
             ("detect", 2, 0), ("retransmit", 2, 0)],
)  # fmt: skip
def test_the_counters_are_what_a_count_would_give_and_sacks_of_whole_segments_are_exact(
    sizes: list[int], actions: list[tuple[str, int, int]]
) -> None:
    board = board_of(sizes)
    end = 1000 + sum(sizes) * MSS
    known: set[int] = set()
    now = 1.0
    for what, one, two in actions:
        now += 0.001
        match what:
            case "sack":
                left = 1000 + one * MSS
                right = min(left + two * MSS, end)
                if left < right:
                    fresh = board.on_sack(left, right, now)
                    new = set(range(left, right)) - known
                    assert fresh == len(new)
                    known |= new
            case "detect":
                board.detect_losses(now + one / 1000, 0.01, 0.02)
            case "retransmit":
                for _ in range(one):
                    sent = board.next_lost()
                    if sent is not None:
                        board.on_retransmit(sent, now)
            case "timeout":
                board.mark_all_lost(forget_sacks=bool(one))
                if one:
                    known.clear()
            case _:
                board.forgive_losses()
        check(board)
        assert {b for s in board.queue if s.sacked for b in range(s.start, s.end)} == known


def test_what_was_sent_before_something_that_arrived_is_lost_after_the_reordering_window() -> None:
    board = board_of([1] * 10)
    board.on_sack(1050, 1060, 0.105)  # sent at 0.005: the round trip is 0.1
    lost, wait_s = board.detect_losses(0.105, 0.1, 0.1)
    assert lost == 0
    assert 0.015 < wait_s <= 0.025
    lost, wait_s = board.detect_losses(0.131, 0.1, 0.1)
    assert lost == 50
    assert wait_s == 0.0
    assert [s.start for s in board.lost] == [1000, 1010, 1020, 1030, 1040]


def test_three_that_arrived_are_enough_without_waiting() -> None:
    board = board_of([1] * 10)
    board.on_sack(1050, 1080, 0.107)
    lost, _ = board.detect_losses(0.107, 0.1, 0.1)
    assert lost == 50


def test_reordering_that_was_seen_makes_patient() -> None:
    board = board_of([1] * 10)
    board.on_sack(1080, 1090, 0.108)
    board.on_sack(1020, 1030, 0.109)
    assert board.reordering_seen
    board.on_sack(1040, 1070, 0.109)
    lost, wait_s = board.detect_losses(0.109, 0.1, 0.1)
    assert (lost, wait_s > 0) == (0, True)


def test_a_dsack_widens_the_window_once_a_round_trip() -> None:
    board = board_of([1] * 10)
    widths = []
    for una, nxt in ((1000, 1100), (1000, 1100), (1100, 1200)):
        board.on_dsack(una, nxt)
        widths.append(board.reo_mult)
    for _ in range(16):
        board.on_recovery_done()
    assert [*widths, board.reo_mult] == [2, 2, 3, 1]


def test_a_fin_and_a_syn_are_never_divided() -> None:
    queue = deque([Sent(1000, 1001, 0x11, b"", 0.0)])
    board = Scoreboard(queue, MSS)
    board.activate()
    assert board.on_sack(1000, 1001, 1.0) == 1
    assert queue[0].sacked


def test_a_settled_board_rests() -> None:
    board = board_of([1] * 3)
    board.on_sack(1010, 1020, 1.0)
    active = []
    board.settle()
    active.append(board.active)
    while board.queue:
        board.on_acked(board.queue.popleft(), 1.0, False)
    board.settle()
    active.append(board.active)
    assert active == [True, False]
    assert board.phase is Phase.OPEN


def test_a_partly_sacked_segment_counts_when_all_of_it_is() -> None:
    board = board_of([1, 1])
    assert board.on_sack(1012, 1020, 1.0) == 0
    assert [sent.sacked for sent in board.queue] == [False, False]
    board.on_sack(1010, 1012, 1.0)
    assert [sent.sacked for sent in board.queue] == [False, True]
    check(board)


class CountedList(list[int]):
    """A list that counts how many elements its deletions and insertions move."""

    moved = 0

    def __delitem__(self, key: object) -> None:
        before = len(self)
        super().__delitem__(key)  # type: ignore[arg-type]
        CountedList.moved += before if before != len(self) else 0

    def __setitem__(self, key: object, value: object) -> None:
        CountedList.moved += 1
        super().__setitem__(key, value)  # type: ignore[call-overload]


def test_a_peer_that_acknowledges_every_second_byte_is_heeded_as_far_as_there_are_segments() -> None:
    """Each range would be kept until the end, and gone through then: four of them for one packet of the peer."""
    board = board_of([1] * 200)
    board.starts, board.stops = CountedList(), CountedList()
    refused = sum(board.on_sack(place, place + 1, 1.0) < 0 for place in range(1001, 3000, 2))
    assert len(board.starts) <= len(board.queue) + SPARE_RANGES + 1
    assert refused == 1000 - (200 + SPARE_RANGES + 1)
    CountedList.moved = 0
    board.forget_ranges_before(2000)
    assert CountedList.moved <= 2 * (200 + SPARE_RANGES + 1)
    assert board.on_sack(2500, 2510, 1.0) == 10, "whoever is honest again is heard again"

"""Transfers whose sequence numbers or timestamps pass 2³² arrive whole, also over a link that loses and reorders."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tests.stack._grid import Cell, Endpoint, Pair

from underlay.stack import TcpConnection, TcpOptions

TOP = 1 << 32
HALF = 1 << 31
SIZE_BYTES = 300_000  # 208 segments: each initial number below is passed well before the end
STEADY = Cell(0.0, 0.010, "cubic", SIZE_BYTES, 1)
LOSSY = Cell(0.05, 0.010, "cubic", SIZE_BYTES, 1, reordering=0.05, held_s=0.004, duplication=0.02)


class Chosen:
    """Instead of RFC 6528's generator: the initial sequence number and the timestamps' offset that a test wants."""

    def __init__(self, isn: int, ts_offset: int) -> None:
        self.chosen = isn % TOP, ts_offset % TOP

    def numbers(self, key: object, now: float) -> tuple[int, int]:
        """Give them, whatever the connection."""
        return self.chosen

    def hash(self, key: object, extra: bytes = b"") -> int:
        """SYN cookies are not made here."""
        raise AssertionError("no cookie is wanted")


def both_ways(
    cell: Cell,
    left: Chosen,
    right: Chosen,
    *,
    watch: Callable[[Pair], None] = lambda pair: None,
    size_bytes: tuple[int, int] = (SIZE_BYTES, SIZE_BYTES),
) -> tuple[TcpConnection, TcpConnection]:
    """Send different bytes in both directions at once; give both ends after every byte was compared."""
    chance = random.Random(f"wrap; {left.chosen}; {right.chosen}")
    programs = Endpoint(chance.randbytes(size_bytes[0])), Endpoint(chance.randbytes(size_bytes[1]))
    pair = Pair(
        chance,
        programs,
        forward=cell.lane(chance),
        backward=cell.lane(chance),
        options=TcpOptions(congestion=cell.congestion),
    )
    for host, chosen in zip(pair.hosts, (left, right), strict=True):
        host.tcp.isn = chosen
    pair.connect()

    def done() -> bool:
        watch(pair)
        return all(program.ended_at is not None for program in programs)

    pair.run(done)
    assert programs[1].has_read(programs[0].outgoing), pair.describe()
    assert programs[0].has_read(programs[1].outgoing), pair.describe()
    ends = programs[0].connection, programs[1].connection
    assert ends[0] is not None and ends[1] is not None
    return ends[0], ends[1]


@pytest.mark.parametrize("cell", [STEADY, LOSSY], ids=["steady", "lossy"])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        (TOP - 1, TOP - 1),  # the SYN itself takes the last number
        (TOP - 2, TOP - 1),  # the first byte does
        (TOP - 3, TOP - 2),
        (TOP - 1449, TOP - 1450),  # the border lies at the end of the first segment, and one byte before it
        (TOP - 1448 * 10, TOP - 1000),  # in the middle of the initial window
        (TOP - 65536, TOP - 150_000),
        (TOP - 299_990, TOP - 299_999),  # shortly before the end
        (TOP - SIZE_BYTES - 1, TOP - SIZE_BYTES - 2),  # the FIN takes 0, or the last number
        (HALF - 100_000, HALF - 1),  # where a signed comparison would turn
    ],
)
def test_sequence_numbers_pass_the_border(cell: Cell, left: int, right: int) -> None:
    ends = both_ways(cell, Chosen(left, 7), Chosen(right, 9))
    for end, isn in zip(ends, (left, right), strict=True):
        assert end.iss & (TOP - 1) == isn
        # The SYN and the FIN count one each; inside, the numbers go on beyond the border.
        assert end.snd_nxt == isn + 1 + SIZE_BYTES + 1
        assert end.snd_nxt >= (TOP if isn > HALF else HALF)
    if cell is STEADY:
        assert [end.info().retransmitted_segments for end in ends] == [0, 0]
        assert [end.info().timeouts for end in ends] == [0, 0]
    else:
        assert sum(end.info().retransmitted_segments for end in ends) > 0


@pytest.mark.parametrize("chance", range(20))
def test_any_two_initial_numbers_do_over_a_bad_link(chance: int) -> None:
    rng = random.Random(chance)
    left, right = (TOP - rng.randrange(1, SIZE_BYTES) for _ in range(2))
    both_ways(LOSSY, Chosen(left, rng.getrandbits(32)), Chosen(right, rng.getrandbits(32)))


@pytest.mark.parametrize("cell", [STEADY, LOSSY], ids=["steady", "lossy"])
@pytest.mark.parametrize("before_ms", [0, 1, 5, 12, 30, 60])
def test_timestamps_pass_the_border(cell: Cell, before_ms: int) -> None:
    # The clock begins at 1000 s, and TSval is milliseconds plus the offset. At first the border is passed by SYNs.
    seen: list[int] = []

    def watch(pair: Pair) -> None:
        end = pair.programs[1].connection
        if end is not None:
            seen.append(end.ts_recent)

    ends = both_ways(
        cell, Chosen(1, TOP - 1_000_000 - before_ms), Chosen(1, TOP - 1_000_000 - before_ms + 3), watch=watch
    )
    assert all(end.timestamps for end in ends)
    assert min(seen) < HALF
    if before_ms >= 12:
        assert max(seen) >= TOP - before_ms
    for end in ends:
        assert end.layer.statistics().drops.get("paws", 0) == 0 or cell is LOSSY
        # A sample taken across the border was not read as 49 days.
        assert end.info().srtt_s < 1.0


def test_both_pass_the_border_in_the_same_segment() -> None:
    ends = both_ways(LOSSY, Chosen(TOP - 20_000, TOP - 1_000_030), Chosen(TOP - 20_000, TOP - 1_000_030))
    assert all(end.snd_nxt > TOP for end in ends)

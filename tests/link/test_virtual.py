"""The virtual carriers in virtual time: what goes in comes out when and where it should, or is counted as lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.link import (
    FRAME,
    Corruption,
    Delay,
    Duplication,
    Hub,
    Impairment,
    Jitter,
    Loss,
    Mtu,
    Rate,
    Reordering,
    Switch,
    VirtualWire,
    wire_bytes,
)
from underlay.link._carrier import Carrier
from underlay.wire import Frame, checksum, pseudo_header_sum

FOREVER = float("inf")
A, B, C = (bytes([2, 0, 0, 0, 0, last]) for last in (1, 2, 3))
BROADCAST = b"\xff" * 6


def payloads(carrier: Carrier, now: float = FOREVER) -> list[tuple[int, bytes]]:
    return [(port, frame.to_bytes()) for port, frame in carrier.poll_deliveries(now)]


def ethernet(destination: bytes, source: bytes, rest: bytes = b"\x08\x00data") -> Frame:
    return Frame(destination + source + rest)


def arrivals(wire: VirtualWire) -> list[float]:
    """Run the wire from deadline to deadline; the time of each arrival."""
    times: list[float] = []
    while (due := wire.next_deadline()) is not None:
        times += [due for _ in wire.poll_deliveries(due)]
    return times


# --- the wire -----------------------------------------------------------------------------------------


def test_a_wire_carries_both_ways_at_once() -> None:
    wire = VirtualWire()
    wire.send(0, Frame(b"ping"), 1.0)
    wire.send(1, Frame(b"pong"), 1.0)
    assert payloads(wire, 1.0) == [(1, b"ping"), (0, b"pong")]
    assert wire.next_deadline() is None


def test_a_wire_counts_frames_and_bytes_of_both_ends() -> None:
    wire = VirtualWire("w", forward=[Delay(1.0)])
    for _ in range(2):
        wire.send(0, Frame(b"head", b"payload"), 0.0)
    assert repr(wire) == "<VirtualWire w, 2 ports, 2 frames under way>"
    wire.poll_deliveries(1.0)
    near, far = wire.statistics(0), wire.statistics(1)
    assert (near.sent_frames, near.sent_bytes, near.received_frames, near.received_bytes) == (2, 22, 0, 0)
    assert (far.sent_frames, far.sent_bytes, far.received_frames, far.received_bytes) == (0, 0, 2, 22)


def test_a_frame_arrives_when_it_is_due_and_not_before() -> None:
    wire = VirtualWire(forward=[Delay(0.25)])
    wire.send(0, Frame(b"x"), 1.0)
    assert wire.next_deadline() == 1.25
    assert payloads(wire, 1.2499) == []
    assert payloads(wire, 1.25) == [(1, b"x")]


def test_the_ways_there_and_back_are_impaired_apart() -> None:
    wire = VirtualWire(forward=[Delay(1.0)], backward=[Delay(2.0)])
    wire.send(1, Frame(b"back"), 0.0)
    wire.send(0, Frame(b"there"), 0.0)
    assert payloads(wire, 1.0) == [(1, b"there")]
    assert payloads(wire, 2.0) == [(0, b"back")]


@given(seed=st.integers(0, 1000), gaps=st.lists(st.floats(0, 0.05), max_size=40))
def test_jitter_changes_when_frames_arrive_but_never_their_order(seed: int, gaps: list[float]) -> None:
    wire = VirtualWire(forward=[Jitter(random.Random(seed), 0.1), Delay(0.01)])
    now = 0.0
    for number, gap in enumerate(gaps):
        now += gap
        wire.send(0, Frame(b"%d" % number), now)
    assert [data for _, data in payloads(wire)] == [b"%d" % number for number in range(len(gaps))]


def test_reordering_holds_some_frames_and_others_overtake_them() -> None:
    reordering = Reordering(random.Random(1), 0.3, 0.010)
    wire = VirtualWire(forward=[Delay(0.005), reordering])
    for number in range(100):
        wire.send(0, Frame(bytes([number])), number * 0.001)
    order = [data[0] for _, data in payloads(wire)]
    assert order != sorted(order)
    assert sorted(order) == list(range(100))
    # Ten milliseconds are ten frames: nobody comes later than that.
    assert all(order.index(number) - number <= 11 for number in range(100))
    assert 10 < reordering.affected < 50 and reordering.seen == 100


def test_a_buffer_that_the_sender_uses_again_does_not_change_what_arrives() -> None:
    buffer = bytearray(b"first")
    wire = VirtualWire(forward=[Delay(1.0)])
    wire.send(0, Frame(b"", memoryview(buffer)), 0.0)
    buffer[:] = b"other"
    buffer += b"!"  # no view holds it any more
    assert payloads(wire) == [(1, b"first")]


def test_the_frames_under_way_are_limited_in_number_and_in_bytes() -> None:
    wire = VirtualWire(forward=[Delay(1.0)], limit_frames=3, limit_bytes=1000)
    for _ in range(5):
        wire.send(0, Frame(bytes(10)), 0.0)
    assert (wire.frames_under_way, wire.statistics(0).drops) == (3, {"in_flight": 2})
    wire.poll_deliveries(1.0)
    for head_bytes in (900, 1, 50):  # and 50 bytes of payload: only the first fits
        wire.send(0, Frame(bytes(head_bytes), bytes(50)), 1.0)
    assert (wire.frames_under_way, wire.statistics(0).drops) == (1, {"in_flight": 4})
    wire.poll_deliveries(2.0)
    wire.send(0, Frame(bytes(900), bytes(100)), 2.0)
    assert (wire.frames_under_way, wire.statistics(0).drops) == (1, {"in_flight": 4})
    wire.poll_deliveries(3.0)
    wire.send(0, Frame(bytes(900), bytes(101)), 3.0)
    assert (wire.frames_under_way, wire.statistics(0).drops) == (0, {"in_flight": 5})


@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(1, 2000), max_size=60),
    order=st.permutations(range(7)),
)
def test_every_frame_is_delivered_or_counted_whatever_happens_to_it(
    seed: int, sizes: list[int], order: list[int]
) -> None:
    rng = random.Random(seed)
    duplication = Duplication(rng, 0.2)
    every: list[Impairment] = [
        Loss(rng, 0.2),
        duplication,
        Corruption(rng, 0.2, bits=3),
        Reordering(rng, 0.2, 0.01),
        Jitter(rng, 0.01),
        Rate(1e6, queue_frames=5, queue_bytes=4000),
        Mtu(1500),
    ]
    wire = VirtualWire(forward=[every[number] for number in order], is_ethernet=False, limit_frames=30)
    for number, size in enumerate(sizes):
        wire.send(0, Frame(bytes(size)), number * 0.001)
    delivered = len(payloads(wire))
    lost = sum(stage.affected for stage in every if stage.name in ("loss", "queue", "mtu"))
    lost += wire.statistics(0).drops.get("in_flight", 0)
    assert delivered == wire.statistics(1).received_frames
    assert wire.statistics(0).sent_frames == len(sizes)
    assert delivered + lost == len(sizes) + duplication.affected
    assert wire.frames_under_way == 0


def test_the_same_seed_gives_the_same_accidents() -> None:
    def story(seed: int) -> list[tuple[int, bytes]]:
        rng = random.Random(seed)
        wire = VirtualWire(forward=[Loss(rng, 0.1), Corruption(rng, 0.1), Jitter(rng, 0.1), Reordering(rng, 0.1, 0.2)])
        for number in range(200):
            wire.send(0, Frame(b"%03d" % number), number * 0.01)
        return payloads(wire)

    assert story(7) == story(7)
    assert story(7) != story(8)


# --- the stages ---------------------------------------------------------------------------------------


def test_a_rate_sends_frames_one_after_the_other() -> None:
    wire = VirtualWire(forward=[Rate(8000, overhead_bytes=0), Delay(1.0)])  # a byte takes a millisecond
    for _ in range(3):
        wire.send(0, Frame(bytes(100)), 0.0)
    assert arrivals(wire) == pytest.approx([1.1, 1.2, 1.3])
    wire.send(0, Frame(bytes(100)), 5.0)  # idle in between: no credit is saved up
    assert arrivals(wire) == pytest.approx([6.1])


def test_the_overhead_of_a_frame_takes_time_too() -> None:
    wire = VirtualWire(forward=[Rate(8000, overhead_bytes=24)])
    wire.send(0, Frame(bytes(76)), 0.0)
    assert arrivals(wire) == pytest.approx([0.1])


def test_a_full_queue_drops_the_newest_and_has_room_again_later() -> None:
    rate = Rate(8000, queue_frames=2)
    wire = VirtualWire(forward=[rate])
    for number in range(4):
        wire.send(0, Frame(bytes([number]) * 100), 0.0)
    wire.send(0, Frame(bytes([9]) * 100), 0.15)  # the first has left
    assert [data[0] for _, data in payloads(wire)] == [0, 1, 9]
    assert wire.statistics(0).drops == {"queue": 2}
    assert (rate.seen, rate.affected) == (5, 2)


def test_a_queue_may_be_limited_in_bytes() -> None:
    wire = VirtualWire(forward=[Rate(8000, queue_bytes=250)])
    for size in (100, 100, 100, 50):
        wire.send(0, Frame(bytes(size)), 0.0)
    assert [len(data) for _, data in payloads(wire)] == [100, 100, 50]


def test_a_frame_longer_than_the_queue_passes_when_it_is_alone() -> None:
    wire = VirtualWire(forward=[Rate(8000, queue_bytes=50)])
    wire.send(0, Frame(bytes(100)), 0.0)
    assert len(payloads(wire)) == 1


@given(seed=st.integers(0, 50))
def test_loss_and_duplication_come_as_often_as_they_should(seed: int) -> None:
    rng = random.Random(seed)
    loss, duplication = Loss(rng, 0.25), Duplication(rng, 0.25)
    wire = VirtualWire(forward=[loss, duplication])
    for _ in range(1000):
        wire.send(0, Frame(b"x"), 0.0)
    # Five standard deviations: sqrt(1000 * 0.25 * 0.75) is 13.7.
    assert abs(loss.affected - 250) < 69
    assert abs(duplication.affected - 187) < 69
    assert len(payloads(wire)) == 1000 - loss.affected + duplication.affected


def test_probability_zero_does_nothing_and_one_does_it_always() -> None:
    rng = random.Random(0)
    never = VirtualWire(forward=[Loss(rng, 0), Duplication(rng, 0), Corruption(rng, 0), Reordering(rng, 0, 1)])
    always = VirtualWire(forward=[Loss(rng, 1)])
    for wire in (never, always):
        for _ in range(50):
            wire.send(0, Frame(b"x"), 0.0)
    assert payloads(never) == [(1, b"x")] * 50
    assert payloads(always) == []


@given(seed=st.integers(0, 1000), data=st.binary(min_size=1, max_size=100))
def test_corruption_turns_one_bit(seed: int, data: bytes) -> None:
    wire = VirtualWire(forward=[Corruption(random.Random(seed), 1)])
    wire.send(0, Frame(data[:10], data[10:]), 0.0)
    [(_, damaged)] = payloads(wire)
    assert len(damaged) == len(data)
    difference = int.from_bytes(damaged, "big") ^ int.from_bytes(data, "big")
    assert difference.bit_count() == 1


def test_an_empty_frame_cannot_be_damaged_and_does_no_harm() -> None:
    wire = VirtualWire(forward=[Corruption(random.Random(0), 1)])
    wire.send(0, Frame(b""), 0.0)
    assert payloads(wire) == [(1, b"")]


@pytest.mark.parametrize(
    ("is_ethernet", "head_bytes", "passes"),
    [(True, 14 + 20, True), (True, 14 + 21, False), (False, 20, True), (False, 21, False)],
)
def test_the_mtu_counts_from_the_ip_header_on(is_ethernet: bool, head_bytes: int, passes: bool) -> None:
    wire = VirtualWire(forward=[Mtu(1500)], is_ethernet=is_ethernet)
    wire.send(0, Frame(bytes(head_bytes), bytes(1480)), 0.0)
    assert len(payloads(wire)) == passes
    assert wire.statistics(0).drops == ({} if passes else {"mtu": 1})


def test_of_a_super_frame_the_segments_count() -> None:
    frame = Frame(bytes(40), bytes(10_000), segment_bytes=1460, checksum_start=20, checksum_offset=16)
    wire = VirtualWire(forward=[Mtu(1500), Rate(8000)], is_ethernet=False, offload=True)
    wire.send(0, frame, 0.0)
    assert wire.next_deadline() == pytest.approx((10_000 + 7 * 40) / 1000)
    assert wire_bytes(frame) == 10_280
    assert wire.poll_deliveries(FOREVER) == [(1, frame)]
    wire.send(0, frame._replace(segment_bytes=1461), 0.0)
    assert wire.poll_deliveries(FOREVER) == []


def test_a_link_without_offload_refuses_a_super_frame_that_cannot_be_cut() -> None:
    wire = VirtualWire()
    wire.send(0, Frame(bytes(10), bytes(10_000), segment_bytes=1460), 0.0)
    assert payloads(wire) == []
    assert wire.statistics(0).drops == {"bad_segments": 1}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Delay(-1),
        lambda: Delay(float("nan")),
        lambda: Loss(random.Random(), 1.1),
        lambda: Rate(0),
        lambda: Rate(1, queue_frames=0),
        lambda: Mtu(67),
        lambda: Corruption(random.Random(), 0.5, bits=0),
    ],
)
def test_a_stage_that_cannot_be_is_refused(make: object) -> None:
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]


class Scripted:
    """Draws that the test chooses."""

    def __init__(self, *draws: float) -> None:
        self._draws = iter(draws)

    def random(self) -> float:
        return next(self._draws)

    def getrandbits(self, k: int, /) -> int:
        raise AssertionError("not drawn from")


def test_jitter_is_as_long_as_the_draw_says() -> None:
    wire = VirtualWire(forward=[Jitter(Scripted(0.25, 0.5), 0.1)])
    wire.send(0, Frame(b"a"), 1.0)
    wire.send(0, Frame(b"b"), 2.0)
    assert arrivals(wire) == pytest.approx([1.025, 2.05])


def test_a_held_frame_arrives_as_much_later_as_it_is_held() -> None:
    wire = VirtualWire(forward=[Reordering(Scripted(0.0, 0.9), 0.5, 0.2)])
    wire.send(0, Frame(b"held"), 1.0)
    wire.send(0, Frame(b"not"), 1.1)
    assert arrivals(wire) == pytest.approx([1.1, 1.2])


@pytest.mark.parametrize("draw", [0.0, 0.5])
def test_a_draw_equal_to_the_probability_is_no_accident(draw: float) -> None:
    stages: list[Impairment] = [
        Loss(Scripted(draw), draw),
        Duplication(Scripted(draw), draw),
        Corruption(Scripted(draw), draw),
        Reordering(Scripted(draw), draw, 1.0),
    ]
    wire = VirtualWire(forward=stages)
    wire.send(0, Frame(b"x"), 0.0)
    assert payloads(wire, 0.0) == [(1, b"x")]
    assert [(stage.seen, stage.affected) for stage in stages] == [(1, 0)] * 4


def test_each_stage_counts_the_frames_that_came_and_those_that_it_changed() -> None:
    rng = random.Random(0)
    stages: list[Impairment] = [
        Delay(0.1),
        Jitter(rng, 0.1),
        Corruption(rng, 1),
        Reordering(rng, 1, 0.1),
        Duplication(rng, 1),
        Rate(1e9, queue_frames=1),
        Mtu(68),
        Loss(rng, 1),
    ]
    wire = VirtualWire(forward=stages, is_ethernet=False)
    for number in range(3):
        wire.send(0, Frame(bytes(69 if number == 2 else 10)), float(number))
    counts = [(stage.name, stage.seen, stage.affected) for stage in stages]
    assert counts == [
        ("delay", 3, 3),
        ("jitter", 3, 3),
        ("corruption", 3, 3),
        ("reordering", 3, 3),
        ("duplication", 3, 3),
        ("queue", 6, 3),
        ("mtu", 3, 1),
        ("loss", 2, 2),
    ]
    assert wire.statistics(0).drops == {"mtu": 1, "loss": 2}
    assert repr(stages[-1]) == "<Loss, 2 of 2>"


def test_a_queue_in_bytes_has_room_again_when_frames_have_left() -> None:
    wire = VirtualWire(forward=[Rate(3200, queue_bytes=250)])
    for now in (0.0, 0.0, 0.25, 0.5, 0.75):  # the first leaves at the very moment when the third comes
        wire.send(0, Frame(bytes(100)), now)
    assert arrivals(wire) == [0.25, 0.5, 0.75, 1.0, 1.25]


def test_a_queue_has_room_for_exactly_its_bytes() -> None:
    wire = VirtualWire(forward=[Rate(8000, queue_bytes=200)])
    for _ in range(3):
        wire.send(0, Frame(bytes(100)), 0.0)
    assert len(payloads(wire)) == 2


def test_any_bit_of_a_frame_may_be_the_one_that_turns() -> None:
    hit = set()
    for number in range(24):
        wire = VirtualWire(forward=[Corruption(Scripted(0.0, 0.0, number / 24), 1)])
        wire.send(0, Frame(b"\0", b"\0\0"), 0.0)
        [(_, damaged)] = payloads(wire)
        hit.add(int.from_bytes(damaged, "big"))
    assert hit == {1 << bit for bit in range(24)}


def test_of_a_super_frame_one_segment_is_damaged_and_all_checksums_are_finished() -> None:
    head = bytes.fromhex("4500272400000000 40060000 0a090001 0a090002".replace(" ", ""))
    head += bytes.fromhex("0001 0002 00000000 00000000 5010 ffff 0000 0000".replace(" ", ""))
    frame = Frame(head, bytes(2500), segment_bytes=1000, checksum_start=20, checksum_offset=16)
    for last, wanted in ((0.0, 0), (0.5, 1), (0.99, 2)):
        wire = VirtualWire(forward=[Corruption(Scripted(0.0, last, 0.999), 1)], offload=True, is_ethernet=False)
        wire.send(0, frame, 0.0)
        pieces = wire.poll_deliveries(FOREVER)
        assert [len(piece.payload) or len(piece.head) - 40 for _, piece in pieces] == [1000, 1000, 500]
        good = []
        for number, (_, piece) in enumerate(pieces):
            assert (piece.segment_bytes, piece.checksum_start) == (0, 0)
            data = piece.to_bytes()
            good.append(checksum(data[20:], pseudo_header_sum(data[12:16], data[16:20], 6, len(data) - 20)) == 0)
            assert good[number] == (number != wanted)


# --- hub and switch -----------------------------------------------------------------------------------


def test_a_hub_repeats_to_all_but_the_sender() -> None:
    hub = Hub(4)
    hub.send(2, Frame(b"hello"), 0.0)
    assert payloads(hub) == [(0, b"hello"), (1, b"hello"), (3, b"hello")]


def test_a_hub_impairs_each_way_out_apart() -> None:
    hub = Hub(3, impairments=lambda port: [Delay(port)])
    hub.send(0, Frame(b"hello"), 0.0)
    assert payloads(hub, 1.5) == [(1, b"hello")]
    assert payloads(hub, 2.0) == [(2, b"hello")]


def test_a_switch_floods_what_it_does_not_know_and_learns_who_sent_it() -> None:
    switch = Switch(3)
    switch.send(0, ethernet(B, A), 0.0)
    assert [port for port, _ in payloads(switch)] == [1, 2]
    switch.send(1, ethernet(A, B), 1.0)
    assert [port for port, _ in payloads(switch)] == [0]
    switch.send(0, ethernet(B, A), 2.0)
    assert [port for port, _ in payloads(switch)] == [1]
    assert switch.flooded == 1
    assert [(entry.mac, entry.port, entry.age_s) for entry in switch.table(3.0)] == [(B, 1, 2.0), (A, 0, 1.0)]


def test_a_switch_sends_broadcast_and_multicast_to_all_others() -> None:
    switch = Switch(3)
    switch.send(0, ethernet(BROADCAST, A), 0.0)
    switch.send(0, ethernet(bytes.fromhex("01005e000001"), A), 0.0)
    assert [port for port, _ in payloads(switch)] == [1, 2, 1, 2]


def test_a_switch_forgets_who_was_silent_too_long() -> None:
    switch = Switch(3, ageing_s=10)
    switch.send(0, ethernet(BROADCAST, A), 0.0)
    payloads(switch)
    switch.send(1, ethernet(A, B), 10.0)
    assert [port for port, _ in payloads(switch)] == [0]
    assert [entry.mac for entry in switch.table(10.0)] == [A, B]
    switch.send(1, ethernet(A, B), 10.1)
    assert [port for port, _ in payloads(switch)] == [0, 2]
    assert [entry.mac for entry in switch.table(10.1)] == [B]


def test_a_host_that_spoke_lately_is_known_however_long_the_switch_runs() -> None:
    switch = Switch(3, ageing_s=10)
    switch.send(0, ethernet(BROADCAST, A), 1000.0)
    payloads(switch)
    switch.send(1, ethernet(A, B), 1001.0)
    assert [port for port, _ in payloads(switch)] == [0]


def test_a_host_that_moves_is_found_at_its_new_port() -> None:
    switch = Switch(3)
    switch.send(0, ethernet(BROADCAST, A), 0.0)
    switch.send(2, ethernet(BROADCAST, A), 1.0)
    payloads(switch)
    switch.send(1, ethernet(A, B), 2.0)
    assert [port for port, _ in payloads(switch)] == [2]


def test_a_full_table_learns_nobody_new_until_somebody_is_forgotten() -> None:
    switch = Switch(3, table_limit=2, ageing_s=10)
    for source in (A, B, C):
        switch.send(0, ethernet(BROADCAST, source), 0.0)
    assert [entry.mac for entry in switch.table(0.0)] == [A, B]
    assert switch.table_full == 1
    switch.send(0, ethernet(BROADCAST, B), 5.0)
    switch.send(0, ethernet(BROADCAST, C), 10.0)
    assert ([entry.mac for entry in switch.table(10.0)], switch.table_full) == ([A, B], 2)
    switch.send(0, ethernet(BROADCAST, C), 11.0)
    assert [entry.mac for entry in switch.table(11.0)] == [B, C]
    switch.send(0, ethernet(BROADCAST, A), 12.0)
    assert ([entry.mac for entry in switch.table(12.0)], switch.table_full) == ([B, C], 3)


def test_a_switch_drops_and_counts_what_it_must_not_forward() -> None:
    switch = Switch(2)
    switch.send(0, Frame(bytes(13)), 0.0)
    switch.send(0, ethernet(A, BROADCAST), 0.0)
    switch.send(0, ethernet(bytes.fromhex("0180c2000000"), A), 0.0)
    switch.send(0, ethernet(bytes.fromhex("0180c200000f"), A), 0.0)
    switch.send(0, ethernet(A, A), 0.0)
    assert payloads(switch) == []
    assert switch.statistics(0).drops == {"runt": 1, "group_source": 1, "reserved": 2, "same_port": 1}
    switch.send(0, ethernet(bytes.fromhex("0180c2000010"), A), 0.0)
    switch.send(0, ethernet(B, A, b"\x08\x00"), 0.0)  # the shortest that has a header
    assert len(payloads(switch)) == 2


def test_a_switch_learns_each_vlan_apart() -> None:
    switch = Switch(3)
    tagged = b"\x81\x00\x00\x05\x08\x00data"
    switch.send(0, ethernet(BROADCAST, A, tagged), 0.0)
    switch.send(1, ethernet(A, B), 0.0)
    switch.send(1, ethernet(A, B, tagged), 0.0)
    assert [port for port, _ in payloads(switch)] == [1, 2, 0, 2, 0]
    assert {(entry.mac, entry.vlan) for entry in switch.table(0.0)} == {(A, 5), (B, 0), (B, 5)}


def test_a_head_shorter_than_the_ethernet_header_is_read_on_into_the_payload() -> None:
    switch = Switch(2)
    whole = ethernet(B, A).head
    switch.send(0, Frame(whole[:5], whole[5:]), 0.0)
    assert [entry.mac for entry in switch.table(0.0)] == [A]
    tagged = ethernet(B, C, b"\x81\x00\x00\x05").head
    switch.send(0, Frame(tagged[:14], tagged[14:]), 0.0)
    assert [(entry.mac, entry.vlan) for entry in switch.table(0.0)] == [(A, 0), (C, 5)]


# --- what is told -------------------------------------------------------------------------------------


def test_the_probe_hears_what_each_host_would_see() -> None:
    heard: list[tuple[str, str, bytes, float | None, str]] = []
    wire = VirtualWire("w", forward=[Delay(1.0)], backward=[Loss(random.Random(0), 1)])
    with FRAME.listening(lambda *report: heard.append(report)):
        wire.send(0, Frame(b"a", b"b"), 5.0)
        wire.send(1, Frame(b"lost"), 5.5)
        wire.poll_deliveries(6.0)
    assert heard == [
        ("w:0", "out", b"ab", 5.0, ""),
        ("w:1", "out", b"lost", 5.5, "dropped: loss"),
        ("w:1", "in", b"ab", 6.0, ""),
    ]


def test_the_probe_hears_what_became_of_a_frame() -> None:
    heard: list[str] = []
    rng = random.Random(0)
    wire = VirtualWire(forward=[Duplication(rng, 1), Corruption(rng, 1)], limit_frames=2)
    with FRAME.listening(lambda link, direction, data, now, comment: heard.append(comment)):
        wire.send(0, Frame(b"abc"), 0.0)
        wire.send(0, Frame(b"abc"), 0.0)
    assert heard[0].startswith("corrupted: bit ") and "; duplicated, corrupted: bit " in heard[0]
    assert heard[1] == "dropped: in_flight; dropped: in_flight"


def test_a_switch_tells_of_floods_and_of_drops_on_the_way_out() -> None:
    heard: list[tuple[str, str, str]] = []
    switch = Switch(2, "s", impairments=lambda port: [Loss(random.Random(0), port)])
    with FRAME.listening(lambda link, direction, data, now, comment: heard.append((link, direction, comment))):
        switch.send(0, ethernet(B, A), 0.0)
        switch.send(0, Frame(b"runt"), 0.0)
    assert heard == [
        ("s:0", "out", "flooded"),
        ("s:1", "in", "dropped: loss"),
        ("s:0", "out", "dropped: runt"),
    ]
    assert switch.statistics(1).drops == {"loss": 1}

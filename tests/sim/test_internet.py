"""The ways of a world: order, in-flight accounting, limits, and what happens to packets that are under way.

It knows packets and moments. What programs see of it is in `test_world.py`.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from underlay.sim import Conditions
from underlay.sim import _internet as internet_module
from underlay.sim._internet import Internet, Way
from underlay.sim._schedule import Schedule
from underlay.stack import TcpPacket
from underlay.wire import (
    PROTOCOL_TCP,
    TCP_CHECKSUM_OFFSET,
    Frame,
    WireError,
    build_ipv4,
    parse_ipv4,
    parse_tcp,
    pseudo_header_sum,
)
from underlay.wire import build_tcp_header as build_tcp

A, B = b"\x0a\0\0\x01", b"\x0a\0\0\x02"


class Net:
    """Two hosts, "a" and "b"; what arrives at b is noted with its time."""

    def __init__(self, seed: int = 1, **conditions: float | str) -> None:
        self.schedule = Schedule(Random(seed))
        conditions = Conditions().changed(**conditions)  # type: ignore[assignment]
        self.net = Internet(self.schedule, lambda purpose: Random(f"{seed} {purpose}"), conditions)  # type: ignore[arg-type]
        self.came: list[tuple[float, bytes, bool]] = []
        self.net.join("a", [A], lambda packet, valid, more: None)
        self.net.join("b", [B], self._receive)
        self.sent = 0

    def _receive(self, packet: bytes | memoryview | TcpPacket, valid: bool, more: bool) -> None:
        assert not isinstance(packet, TcpPacket)
        self.came.append((self.schedule.now, bytes(packet), valid))

    @property
    def way(self) -> Way:
        return self.net.way("a", "b")

    def send(self, number: int | None = None, size: int = 8) -> None:
        self.sent += 1
        payload = (self.sent if number is None else number).to_bytes(size, "big")
        self.net.send("a", Frame(build_ipv4(A, B, 17, len(payload)), payload))

    def send_super(self, payload: bytes, segment_bytes: int) -> None:
        head = build_tcp(A, B, 1, 2, 100, 0, 0x18, 1000, payload=payload, offload=True)
        header = build_ipv4(A, B, PROTOCOL_TCP, len(head) + len(payload))
        self.net.send("a", Frame(header + head, payload, segment_bytes, len(header), TCP_CHECKSUM_OFFSET))

    def run(self, until: float = float("inf")) -> None:
        while (when := self.schedule.next_at()) is not None and when <= until:
            self.schedule.step()
        if until < float("inf"):
            self.schedule.now = max(self.schedule.now, until)

    def numbers(self) -> list[int]:
        return [int.from_bytes(packet[20:], "big") for _, packet, _ in self.came]

    def times(self) -> list[float]:
        return [time for time, _, _ in self.came]


# --- order -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.lists(st.sampled_from([0.0, 0.001, 0.01]), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_none_overtakes_another_on_its_way_whatever_the_jitter(seed: int, gaps: list[float]) -> None:
    net = Net(seed, delay="10ms", jitter="20ms")
    for gap in gaps:
        net.run(net.schedule.now + gap)
        net.send()
    net.run()
    assert net.numbers() == list(range(1, len(gaps) + 1))


def test_packets_of_one_instant_arrive_in_their_order_for_every_seed() -> None:
    for seed in range(50):
        net = Net(seed)
        for _ in range(10):
            net.send()
        net.run()
        assert net.numbers() == list(range(1, 11))


def test_what_two_hosts_send_at_one_instant_has_an_order_of_the_seeds() -> None:
    orders = set()
    for seed in range(20):
        schedule = Schedule(Random(seed))
        net = Internet(schedule, lambda purpose: Random(purpose), Conditions(delay_s=0.01))
        order: list[bytes] = []
        for name, address in (("a", A), ("b", B), ("c", b"\x0a\0\0\x03")):
            net.join(name, [address], lambda packet, valid, more, order=order: order.append(bytes(packet[12:16])))  # type: ignore[misc]
        for name, address in (("a", A), ("b", B)):
            net.send(name, Frame(build_ipv4(address, b"\x0a\0\0\x03", 17, 0)))
        while schedule.step():
            pass
        orders.add(tuple(order))
    assert len(orders) == 2


def test_only_what_is_held_back_is_overtaken() -> None:
    net = Net(3, reorder=0.2, reorder_by="5ms")
    for _ in range(100):
        net.send()
        net.run(net.schedule.now + 0.001)
    net.run()
    held = [number for number, at in zip(net.numbers(), net.times(), strict=True) if at > (number - 1) * 0.001 + 0.004]
    others = [number for number in net.numbers() if number not in held]
    assert 5 < len(held) < 40
    assert others == sorted(others)
    assert sorted(net.numbers()) == list(range(1, 101))


# --- super-frames ----------------------------------------------------------------------------------------------------


def test_a_super_frame_travels_whole_where_nothing_befalls_single_frames() -> None:
    net = Net(delay="1ms", jitter="1ms")
    net.send_super(b"x" * 5000, 1000)
    net.run()
    assert len(net.came) == 1


@pytest.mark.parametrize("condition", ["loss", "duplicate", "reorder", "corrupt", "rate", "mtu"])
def test_a_super_frame_is_cut_where_its_frames_have_fates_of_their_own(condition: str) -> None:
    values: dict[str, float | str] = {"rate": "1gbit", "mtu": 1500}
    net = Net(**{condition: values.get(condition, 1e-9)})  # type: ignore[arg-type]
    net.send_super(b"x" * 4500, 1000)
    net.run()
    assert [len(packet) - 40 for _, packet, _ in net.came] == [1000, 1000, 1000, 1000, 500]


def test_a_damaged_segment_has_a_checksum_that_shows_it_and_the_others_are_sound() -> None:
    net = Net(corrupt=1)
    net.send_super(bytes(range(256)) * 16, 1024)
    net.run()
    assert len(net.came) == 4
    for _, packet, valid in net.came:
        assert not valid
        with pytest.raises(WireError):
            ip = parse_ipv4(packet)
            parse_tcp(packet, 20, len(packet), pseudo=pseudo_header_sum(ip.source, ip.destination, 6, len(packet) - 20))


# --- packets that are under way --------------------------------------------------------------------------------------


def test_a_way_that_becomes_longer_or_shorter_does_so_for_what_is_under_way() -> None:
    for delay, times in (("30ms", [0.030, 0.035]), ("8ms", [0.008, 0.013]), ("1ms", [0.006, 0.006])):
        net = Net(delay="10ms")
        net.send()
        net.run(0.005)
        net.send()
        net.run(0.006)
        net.net.change("a", "b", Conditions().changed(delay=delay))
        net.run()
        assert net.times() == pytest.approx(times)
        assert net.numbers() == [1, 2]


def test_nothing_sent_later_overtakes_what_was_under_way_when_the_way_became_shorter() -> None:
    net = Net(delay="100ms")
    net.send()
    net.run(0.001)
    net.net.change("a", "b", Conditions(delay_s=0.010))
    net.send()
    net.run()
    assert net.numbers() == [1, 2]
    assert net.times() == pytest.approx([0.010, 0.011])


def test_of_what_is_under_way_a_new_loss_takes_its_share() -> None:
    net = Net(delay="10ms")
    for _ in range(1000):
        net.send()
    net.net.change("a", "b", Conditions(delay_s=0.010, loss=0.3))
    net.run()
    assert 600 < len(net.came) < 800
    assert net.way.drops["loss"] + len(net.came) == 1000


def test_what_is_under_way_meets_a_loss_that_was_there_before_only_once() -> None:
    net = Net(delay="10ms", loss=0.3)
    for _ in range(1000):
        net.send()
    for number in range(20):
        net.net.change("a", "b", Conditions(delay_s=0.010, loss=0.3, queue_frames=1000 + number))
    net.run()
    assert 600 < len(net.came) < 800


def test_what_is_too_long_for_a_new_mtu_vanishes_under_way() -> None:
    net = Net(delay="10ms")
    net.send_super(b"x" * 2500, 1000)
    net.net.change("a", "b", Conditions(delay_s=0.010, mtu_bytes=600))
    net.run()
    assert [len(packet) for _, packet, _ in net.came] == [540]
    assert net.way.drops["mtu"] == 2


def test_what_waits_for_a_rate_waits_on_at_the_new_one() -> None:
    net = Net(delay="10ms", rate="8kbit")  # a byte a millisecond
    for _ in range(3):
        net.send(size=80)
    net.run(0.105)  # the first has left
    net.net.change("a", "b", Conditions(delay_s=0.010, rate_bits_per_s=80_000))
    net.run()
    assert net.times() == pytest.approx([0.110, 0.125, 0.135])


def test_a_super_frame_under_way_when_frames_begin_to_be_damaged_is_damaged_so_that_it_shows() -> None:
    net = Net(delay="10ms")
    net.send_super(b"x" * 3000, 1000)
    net.net.change("a", "b", Conditions(delay_s=0.010, corrupt=1.0))
    net.run()
    assert [valid for _, _, valid in net.came] == [False] * 3


def test_what_was_damaged_stays_so_when_the_way_is_repaired_before_it_arrives() -> None:
    net = Net(delay="10ms", corrupt=1.0)
    net.send_super(b"x" * 3000, 1000)
    net.net.change("a", "b", Conditions(delay_s=0.010))
    net.run()
    assert [valid for _, _, valid in net.came] == [False] * 3


def test_what_was_under_way_when_held_goes_on_with_what_was_left_of_its_way() -> None:
    net = Net(delay="10ms")
    net.send()
    net.run(0.004)
    net.net.hold("a", "b")
    net.send()
    net.run(1.0)
    assert not net.came
    net.net.release("a", "b")
    net.run()
    assert net.times() == pytest.approx([1.006, 1.010])
    assert net.numbers() == [1, 2]


def test_what_was_held_has_met_the_loss_of_its_way_once() -> None:
    net = Net(delay="10ms", loss=0.5)
    for _ in range(1000):
        net.send()
    for _ in range(10):
        net.net.hold("a", "b")
        net.net.release("a", "b")
    net.run()
    assert 400 < len(net.came) < 600


def test_after_a_cut_nothing_waits_behind_what_was_lost() -> None:
    net = Net(delay="10ms", rate="8kbit")
    for _ in range(50):
        net.send(size=80)
    net.net.cut("a", "b")
    net.net.mend("a", "b")
    net.send(size=80)
    net.run()
    assert net.times() == pytest.approx([0.110])
    assert net.way.drops == {"cut": 50}


# --- limits ----------------------------------------------------------------------------------------------------------


def test_more_than_may_be_under_way_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internet_module, "LIMIT_FRAMES", 10)
    net = Net(delay="1ms")
    for _ in range(15):
        net.send()
    net.run()
    assert len(net.came) == 10
    assert net.way.statistics().drops == {"in_flight": 5}
    net.net.hold("a", "b")
    for _ in range(12):
        net.send()
    net.net.release("a", "b")
    net.run()
    assert len(net.came) == 20
    assert net.way.statistics().drops == {"in_flight": 7}


def test_a_packet_for_nobody_is_counted() -> None:
    net = Net()
    net.net.send("a", Frame(build_ipv4(A, b"\x0a\0\0\x09", 17, 0)))
    assert net.net.drops == {"nobody": 1}


# --- whatever happens in whatever order ------------------------------------------------------------------------------

_CONDITIONS = st.builds(
    Conditions,
    delay_s=st.sampled_from([0.0, 0.001, 0.1]),
    jitter_s=st.sampled_from([0.0, 0.01]),
    loss=st.sampled_from([0.0, 0.0, 0.3]),
    rate_bits_per_s=st.sampled_from([None, None, 100_000.0]),
    reorder=st.sampled_from([0.0, 0.0, 0.2]),
    queue_frames=st.sampled_from([2, 1000]),
)


class Faults(RuleBasedStateMachine):
    """Every packet arrives once, or is dropped and counted once; and nothing is under way when nothing is to come."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net(delay="1ms")
        self.reorders = False

    @rule(count=st.integers(1, 5))
    def send(self, count: int) -> None:
        for _ in range(count):
            self.net.send()

    @rule(size=st.integers(1, 3000))
    def send_super(self, size: int) -> None:
        self.net.sent += 1
        self.net.send_super(b"x" * size, 3000)

    @rule(by=st.sampled_from([0.0005, 0.05]))
    def wait(self, by: float) -> None:
        self.net.run(self.net.schedule.now + by)

    @rule(conditions=_CONDITIONS)
    def change(self, conditions: Conditions) -> None:
        self.net.net.change("a", "b", conditions)

    @rule()
    def cut(self) -> None:
        self.net.net.cut("a", "b")

    @rule()
    def mend(self) -> None:
        self.net.net.mend("a", "b")

    @rule()
    def hold(self) -> None:
        self.net.net.hold("a", "b")

    @rule()
    def release(self) -> None:
        self.net.net.release("a", "b")

    @invariant()
    def the_account_of_what_is_under_way_is_right(self) -> None:
        net = self.net
        moments = sum(1 for _ in net.schedule)
        assert net.net.under_way == moments + len(net.way.held)
        assert net.sent == net.way.arrived_frames + sum(net.way.drops.values()) + net.net.under_way

    def teardown(self) -> None:
        self.net.net.mend("a", "b")
        self.net.net.release("a", "b")
        self.net.run()
        assert self.net.net.under_way == 0


TestFaults = Faults.TestCase
TestFaults.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)

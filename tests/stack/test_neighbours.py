"""A neighbour's life: asked, believed, doubted, asked again, given up; and what waits for it meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stack._net import mac

from underlay.stack import HostConfig
from underlay.stack._host_config import Drops
from underlay.stack._neighbours import NEIGHBOUR_TRANSITIONS, NeighbourCache, NeighbourState
from underlay.wire import Frame

S = NeighbourState
HIM = b"\x0a\0\0\2"


class Link:
    """Remembers what a cache asked of it."""

    def __init__(self) -> None:
        self.asked: list[bytes | None] = []
        self.sent: list[Frame] = []
        self.given_up: list[list[Frame]] = []

    def link_header(self, mac: bytes) -> bytes:
        return b"to " + mac

    def solicit(self, address: bytes, mac: bytes | None, now: float) -> None:
        self.asked.append(mac)

    def transmit(self, frame: Frame) -> None:
        self.sent.append(frame)

    def give_up(self, address: bytes, packets: list[Frame], now: float) -> None:
        self.given_up.append(packets)


def cache_on(**limits: float) -> tuple[NeighbourCache, Link, Drops]:
    link, drops = Link(), Drops()
    return NeighbourCache(link, HostConfig(**limits), drops, "arp"), link, drops  # type: ignore[arg-type]


def send(cache: NeighbourCache, packet: bytes, now: float, address: bytes = HIM) -> NeighbourState:
    """What a sender does."""
    neighbour = cache.get_or_add(address)
    if now >= neighbour.fresh_until_s and not cache.usable(neighbour, now):
        cache.wait(neighbour, Frame(packet))
    return neighbour.state


def test_the_first_packet_asks_everybody_and_waits_for_the_answer() -> None:
    cache, link, _ = cache_on()
    assert send(cache, b"one", 0.0) is S.INCOMPLETE
    assert send(cache, b"two", 0.1) is S.INCOMPLETE
    assert link.asked == [None]
    cache.confirm(HIM, mac(2), 0.2)
    assert [frame.to_bytes() for frame in link.sent] == [b"to " + mac(2) + b"one", b"to " + mac(2) + b"two"]
    assert cache.pending_packets == 0
    assert cache.next_deadline() is None


def test_what_waits_keeps_its_checksum_offload_behind_the_link_header() -> None:
    cache, link, _ = cache_on()
    neighbour = cache.get_or_add(HIM)
    assert not cache.usable(neighbour, 0.0)
    cache.wait(neighbour, Frame(b"head", b"payload", 1448, 20, 16))
    cache.confirm(HIM, mac(2), 0.2)
    assert link.sent == [Frame(b"to " + mac(2) + b"head", b"payload", 1448, 29, 16)]


def test_who_does_not_answer_is_asked_once_a_second_and_given_up_after_three() -> None:
    cache, link, drops = cache_on()
    send(cache, b"one", 0.0)
    times = []
    while (deadline := cache.next_deadline()) is not None:
        times.append(deadline)
        cache.handle_timers(deadline)
    assert times == [1.0, 2.0, 3.0]
    assert link.asked == [None, None, None]
    assert link.given_up == [[Frame(b"one")]]
    assert drops == {"arp.unanswered": 1}
    assert len(cache) == 0
    assert send(cache, b"again", 10.0) is S.INCOMPLETE


def test_a_believed_neighbour_is_doubted_when_it_is_used_after_thirty_seconds_and_then_asked_alone() -> None:
    cache, link, _ = cache_on()
    send(cache, b"one", 0.0)
    cache.confirm(HIM, mac(2), 0.0)
    assert send(cache, b"two", 29.9) is S.REACHABLE
    assert cache.next_deadline() is None
    assert send(cache, b"three", 100.0) is S.DELAY
    assert cache.next_deadline() == 105.0
    cache.handle_timers(105.0)
    assert link.asked == [None, mac(2)]
    assert send(cache, b"four", 105.5) is S.PROBE
    cache.confirm(HIM, mac(2), 105.6)
    assert send(cache, b"five", 105.7) is S.REACHABLE
    assert cache.next_deadline() is None


def test_progress_of_a_connection_spares_the_question() -> None:
    cache, link, _ = cache_on()
    cache.learn(HIM, mac(2), 0.0, may_add=True)
    assert send(cache, b"one", 0.0) is S.DELAY
    cache.reached(HIM, 1.0)
    assert send(cache, b"two", 20.0) is S.REACHABLE
    assert cache.next_deadline() is None
    assert link.asked == []


def test_an_unused_neighbour_needs_no_timer() -> None:
    cache, _, _ = cache_on()
    cache.learn(HIM, mac(2), 0.0, may_add=True)
    assert cache.next_deadline() is None


def test_who_moves_is_used_at_the_new_place_and_asked_about_it() -> None:
    cache, _, _ = cache_on()
    send(cache, b"one", 0.0)
    cache.confirm(HIM, mac(2), 0.0)
    cache.learn(HIM, mac(3), 1.0, may_add=False)
    neighbour = cache.get(HIM)
    assert neighbour is not None
    assert (neighbour.state, neighbour.link_header) == (S.STALE, b"to " + mac(3))


def test_a_stranger_that_nobody_asked_for_is_not_added() -> None:
    cache, _, _ = cache_on()
    cache.learn(HIM, mac(2), 0.0, may_add=False)
    cache.confirm(HIM, mac(2), 0.0)
    cache.advertise(HIM, mac(2), 0.0, solicited=True, override=True)
    assert len(cache) == 0


def test_an_advertisement_without_override_brings_doubt_but_no_change() -> None:
    cache, _, _ = cache_on()
    send(cache, b"one", 0.0)
    cache.advertise(HIM, mac(2), 0.0, solicited=True, override=False)
    cache.advertise(HIM, mac(3), 0.0, solicited=True, override=False)
    neighbour = cache.get(HIM)
    assert neighbour is not None
    assert (neighbour.state, neighbour.mac) == (S.STALE, mac(2))
    cache.advertise(HIM, mac(3), 0.0, solicited=True, override=True)
    assert (neighbour.state, neighbour.mac) == (S.REACHABLE, mac(3))


def test_an_advertisement_that_does_not_say_the_mac_confirms_only_a_known_one() -> None:
    cache, _, _ = cache_on()
    send(cache, b"one", 0.0)
    cache.advertise(HIM, None, 0.0, solicited=True, override=True)
    neighbour = cache.get(HIM)
    assert neighbour is not None
    states = [neighbour.state]
    cache.learn(HIM, mac(2), 0.0, may_add=False)
    states.append(neighbour.state)  # a packet waited, so it is used at once
    cache.advertise(HIM, None, 0.0, solicited=True, override=False)
    states.append(neighbour.state)
    assert states == [S.INCOMPLETE, S.DELAY, S.REACHABLE]


def test_the_oldest_packet_gives_way_when_too_many_wait() -> None:
    cache, link, drops = cache_on(pending_packets_per_neighbour=2)
    for packet in (b"one", b"two", b"three"):
        send(cache, packet, 0.0)
    cache.confirm(HIM, mac(2), 0.2)
    assert [frame.to_bytes()[9:] for frame in link.sent] == [b"two", b"three"]
    assert drops == {"arp.queue_full": 1}


def test_the_oldest_neighbour_gives_way_when_there_are_too_many_and_a_sender_finds_it_gone() -> None:
    cache, link, drops = cache_on(neighbours=2)
    cache.learn(HIM, mac(2), 0.0, may_add=True)
    first = cache.get_or_add(HIM)
    for number in (3, 4):
        cache.learn(bytes([10, 0, 0, number]), mac(number), 0.0, may_add=True)
    assert len(cache) == 2
    assert drops["arp.table_full"] == 1
    assert first.state is S.NO_ENTRY
    assert first.fresh_until_s < 0
    assert send(cache, b"one", 1.0) is S.INCOMPLETE
    assert link.asked == [None]


def test_who_was_heard_of_lately_stays_when_another_has_to_go() -> None:
    cache, _, _ = cache_on(neighbours=2)
    other = bytes([10, 0, 0, 3])
    cache.learn(HIM, mac(2), 0.0, may_add=True)
    cache.learn(other, mac(3), 0.0, may_add=True)
    cache.confirm(HIM, mac(2), 1.0)
    cache.learn(bytes([10, 0, 0, 4]), mac(4), 2.0, may_add=True)
    assert cache.get(HIM) is not None
    assert cache.get(other) is None


@pytest.mark.parametrize(("state", "event"), NEIGHBOUR_TRANSITIONS, ids=str)
def test_every_row_of_the_table_leads_somewhere_new_or_confirms(state: NeighbourState, event: object) -> None:
    assert NEIGHBOUR_TRANSITIONS[state, event] is not state  # type: ignore[index]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "learn", "confirm", "advertise", "timers", "reached"]),
        st.integers(2, 7),
        st.floats(0, 20),
    ),
    max_size=80,
)


@given(STEPS)
def test_limits_and_order_hold_whatever_happens(steps: list[tuple[str, int, float]]) -> None:
    cache, link, drops = cache_on(neighbours=3, pending_packets_per_neighbour=2, pending_bytes=40)
    now = 0.0
    sent = 0
    for what, number, wait_s in steps:
        address = bytes([10, 0, 0, number])
        now += wait_s
        if what == "send":
            neighbour = cache.get_or_add(address)
            if now >= neighbour.fresh_until_s and not cache.usable(neighbour, now):
                cache.wait(neighbour, Frame(b"ten bytes!"))
                sent += 1
            else:
                assert neighbour.mac is not None
        elif what == "learn":
            cache.learn(address, mac(number), now, may_add=True)
        elif what == "confirm":
            cache.confirm(address, mac(number), now)
        elif what == "advertise":
            cache.advertise(address, mac(number + 1), now, solicited=number % 2 == 0, override=number % 3 == 0)
        elif what == "reached":
            cache.reached(address, now)
        else:
            cache.handle_timers(now)
        assert len(cache) <= 3
        assert cache._pending_bytes == 10 * cache.pending_packets <= 40
        for each in cache._entries.values():
            assert (each.mac is None) == (each.state in (S.NO_ENTRY, S.INCOMPLETE))
            assert (each.address in cache.timers) == (each.state in (S.INCOMPLETE, S.DELAY, S.PROBE))
    # No packet is lost uncounted: it was sent, given up with its neighbour, pushed out, or it waits.
    given_up = sum(len(packets) for packets in link.given_up)
    assert sent == len(link.sent) + given_up + drops.get("arp.queue_full", 0) + cache.pending_packets

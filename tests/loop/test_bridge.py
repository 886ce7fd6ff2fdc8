"""When a loop over the stack sleeps, and when it looks for the next frame first.

It knows the order of calls to epoll. How long they take is nobody's business here: the clock is a number.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from underlay.link import Received
from underlay.loop._bridge import BUSY_POLL_S, FIRST_NUMBER, Bridge, StackPoller
from underlay.loop._net_spec import parse_network
from underlay.loop._stack_network import open_network
from underlay.loop._stack_socket import StackSocket
from underlay.stack import Host
from underlay.wire import ARP_REQUEST, Frame, build_arp, build_ethernet

LOOK_S = 0.001
# What one look, one epoll_wait() that does not wait, takes here.
LOOK_TAKES_S = 0.0003


class FixedRng:
    """Chance that is none."""

    def getrandbits(self, count: int, /) -> int:
        return 1

    def random(self) -> float:
        return 0.5


class Clock:
    """A clock that somebody sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def time(self) -> float:
        return self.now_s


class ScriptedEpoll:
    """An epoll to which something comes at the times told; it notes how it was asked."""

    def __init__(self, clock: Clock, arrivals_s: Sequence[float]) -> None:
        self.clock = clock
        self.arrivals_s = [clock.now_s + each for each in arrivals_s]
        self.asked: list[float | None] = []

    def poll(self, timeout_s: float | None) -> list[tuple[int, int]]:
        self.asked.append(None if timeout_s is None else round(timeout_s, 6))
        clock = self.clock
        if timeout_s == 0:
            clock.now_s += LOOK_TAKES_S
        else:
            until_s = self.arrivals_s[0] if self.arrivals_s else float("inf")
            clock.now_s = max(clock.now_s, until_s if timeout_s is None else min(until_s, clock.now_s + timeout_s))
        if self.arrivals_s and self.arrivals_s[0] <= clock.now_s:
            self.arrivals_s.pop(0)
            return [(7, 1)]
        return []

    def close(self) -> None:
        """There is nothing."""


Made = tuple[StackPoller, ScriptedEpoll]


@pytest.fixture
def made() -> Callable[..., Made]:
    def make(arrivals_s: Sequence[float], *, busy_poll_s: float = LOOK_S) -> Made:
        clock = Clock()
        bridge = Bridge(Host(rng=FixedRng()), {}, clock)
        bridge.busy_poll_s = busy_poll_s
        poller = StackPoller(bridge)
        poller.close()
        epoll = ScriptedEpoll(clock, arrivals_s)
        poller._epoll = epoll  # type: ignore[assignment]
        return poller, epoll

    return make


def test_a_loop_to_which_nothing_came_sleeps_at_once(made: Callable[..., Made]) -> None:
    poller, epoll = made([5.0])
    assert poller.wait(None) == [(7, 1)]
    assert epoll.asked == [None]


def test_what_came_soon_lets_the_loop_look_for_the_next_before_it_sleeps(made: Callable[..., Made]) -> None:
    poller, epoll = made([0.0005, 0.0010, 0.0015])
    for _ in range(3):
        assert poller.wait(None) == [(7, 1)]
    assert epoll.asked == [None, 0, 0, 0, 0]


def test_a_loop_that_looked_in_vain_sleeps_and_does_not_look_again(made: Callable[..., Made]) -> None:
    poller, epoll = made([0.0005, 1.0, 2.0])
    for _ in range(3):
        assert poller.wait(None) == [(7, 1)]
    assert epoll.asked == [None, 0, 0, 0, 0, None, None]


def test_looking_lasts_no_longer_than_the_wait_that_was_asked_for(made: Callable[..., Made]) -> None:
    poller, epoll = made([0.0005, 1.0])
    assert poller.wait(None) == [(7, 1)]
    began_s = epoll.clock.now_s
    assert poller.wait(0.0004) == []
    assert epoll.clock.now_s >= began_s + 0.0004
    assert epoll.asked == [None, 0, 0]
    assert poller.wait(None) == [(7, 1)], "a timer that was due is no frame"
    assert epoll.asked[3:] == [None]


def test_the_sleep_behind_a_look_ends_when_the_wait_was_to_end(made: Callable[..., Made]) -> None:
    poller, epoll = made([0.0005, 1.0])
    assert poller.wait(None) == [(7, 1)]
    began_s = epoll.clock.now_s
    assert poller.wait(0.1) == []
    assert 0.1 <= epoll.clock.now_s - began_s < 0.102


def test_zero_is_to_sleep_whenever_there_is_nothing(made: Callable[..., Made]) -> None:
    poller, epoll = made([0.0005, 0.0006], busy_poll_s=0.0)
    assert poller.wait(None) == poller.wait(None) == [(7, 1)]
    assert epoll.asked == [None, None]


def test_a_network_without_a_device_never_looks() -> None:
    assert Bridge(Host(rng=FixedRng()), {}, Clock(), busy_poll_s=1.0).busy_poll_s == 0


def numbers(bridge: Bridge, count: int = 3) -> list[int]:
    """Register so many sockets, of which only the numbers matter."""
    return [bridge.register(StackSocket.__new__(StackSocket)) for _ in range(count)]


def test_no_two_sockets_of_the_process_have_one_number() -> None:
    one, other = (Bridge(Host(rng=FixedRng()), {}, Clock()) for _ in range(2))
    all_numbers = numbers(one) + numbers(other) + numbers(one)
    assert len(set(all_numbers)) == 9
    assert min(all_numbers) >= FIRST_NUMBER


def test_a_socket_of_another_network_is_a_bad_descriptor() -> None:
    one, other = (Bridge(Host(rng=FixedRng()), {}, Clock()) for _ in range(2))
    theirs, kept = StackSocket.__new__(StackSocket), StackSocket.__new__(StackSocket)
    number = one.register(theirs)
    other.register(kept)
    with pytest.raises(OSError) as refused:
        other.watch(number, 1)
    assert refused.value.errno == errno.EBADF


def test_numbers_can_be_the_same_in_every_run() -> None:
    for _ in range(2):
        bridge = Bridge(Host(rng=FixedRng()), {}, Clock(), numbers=itertools.count(FIRST_NUMBER + 7))
        assert numbers(bridge) == [FIRST_NUMBER + 7, FIRST_NUMBER + 8, FIRST_NUMBER + 9]


class ScriptedDevice:
    """A device that nothing is behind, but for the frames told."""

    name = "ours0"

    def __init__(self, frames: list[bytes]) -> None:
        self.frames = frames
        self.reader, self.writer = os.pipe()

    def fileno(self) -> int:
        return self.reader

    def receive(self, max_frames: int) -> list[Received]:
        return [Received(frame) for frame in self.frames]

    def send(self, frame: Frame) -> bool:
        return True

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


def test_an_address_that_another_station_has_is_told_once_with_its_mac(caplog: pytest.LogCaptureFixture) -> None:
    host = Host(rng=FixedRng())
    interface = host.add_interface(["10.9.0.2/24"], mac=bytes.fromhex("020000000001"))
    stranger, own = bytes.fromhex("020000000009"), bytes([10, 9, 0, 2])
    body = build_arp(ARP_REQUEST, stranger, own, bytes(6), own)
    device = ScriptedDevice([build_ethernet(b"\xff" * 6, stranger, 0x0806, body)])
    bridge = Bridge(host, {interface: device}, Clock())  # type: ignore[dict-item]
    for _ in range(3):
        bridge.take(device.fileno())
    said = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    sentence = "the station 02:00:00:00:00:09 on ours0 has the address 10.9.0.2 too, which is this network's"
    assert said == [("asyncio", "WARNING", sentence)]
    assert host.statistics().drops["address.conflict"] == 3
    bridge.close()


@pytest.mark.parametrize(
    ("word", "busy_poll_s"), [("", BUSY_POLL_S), (",busy_poll=3000", 0.003), (",busy_poll=0", 0.0)]
)
def test_the_network_says_how_long_its_loop_looks(
    monkeypatch: pytest.MonkeyPatch, word: str, busy_poll_s: float
) -> None:
    reading, writing = os.pipe()
    device = SimpleNamespace(
        fileno=lambda: reading, mac=None, mtu_bytes=1500, offload=False, name="tun7", close=lambda: os.close(reading)
    )
    monkeypatch.setattr("underlay.loop._stack_network._open_device", lambda spec: device)
    bridge = open_network(parse_network("tun:10.9.0.2/24" + word), Clock())
    try:
        assert bridge.busy_poll_s == pytest.approx(busy_poll_s)
    finally:
        bridge.close()
        os.close(writing)

"""Who waits offers the core first, and learns from what that brings when to do it.

It knows `_patience`, with a clock and a sched_yield(2) of its own. That the channels that use it lose nothing is in
tests/conformance/test_channels.py.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import pytest

from underlay import ipc
from underlay.ipc._patience import Patience


class Core:
    """A core that others use: each yield takes its time, and may change a word."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.yields = 0
        self.words = memoryview(bytearray(16)).cast("Q")
        self.yield_takes_ns = 1_000
        self.changes_at_yield: int | None = None

    def sched_yield(self) -> None:
        self.yields += 1
        self.now_ns += self.yield_takes_ns
        if self.yields == self.changes_at_yield:
            self.words[1] += 1

    def monotonic_ns(self) -> int:
        return self.now_ns

    def waits_without(self, offer: Callable[[], bool]) -> int:
        """How many waits go without a yield from now on, until one does not."""
        waits, before = 0, self.yields
        while True:
            offer()
            if self.yields != before:
                return waits
            waits += 1


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    made = Core()
    monkeypatch.setattr(os, "sched_yield", made.sched_yield)
    monkeypatch.setattr(time, "monotonic_ns", made.monotonic_ns)
    return made


def test_a_change_that_comes_soon_ends_the_offer_and_the_next_wait_offers_again(core: Core) -> None:
    patience = Patience()
    for _ in range(3):
        core.changes_at_yield = core.yields + 4
        assert patience.offer(core.words, 1, core.words[1])
        assert core.yields == core.changes_at_yield


def test_an_offer_ends_after_a_moment_and_each_vain_one_makes_more_waits_go_without(core: Core) -> None:
    patience = Patience()

    def offer() -> bool:
        return patience.offer(core.words, 1, core.words[1])

    assert not offer()
    assert 5 <= core.yields <= 20
    assert [core.waits_without(offer) for _ in range(12)] == [1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 1023, 1023]


def test_one_offer_that_pays_forgets_the_vain_ones(core: Core) -> None:
    patience = Patience()

    def offer() -> bool:
        return patience.offer(core.words, 1, core.words[1])

    for _ in range(5):
        core.waits_without(offer)
    core.changes_at_yield = core.yields + 1
    core.waits_without(offer)
    assert core.waits_without(offer) == 0


def test_a_core_that_somebody_else_took_is_offered_less_and_less_even_where_a_change_came(core: Core) -> None:
    patience = Patience()
    core.yield_takes_ns = 3_000_000

    def offer() -> bool:
        core.changes_at_yield = core.yields + 1
        return patience.offer(core.words, 1, core.words[1])

    assert offer()
    assert core.yields == 1
    assert [core.waits_without(offer) for _ in range(6)] == [15, 75, 315, 1275, 4095, 4095]


def test_a_late_offer_after_hundreds_that_paid_was_chance(core: Core) -> None:
    patience = Patience()

    def offer() -> bool:
        core.changes_at_yield = core.yields + 1
        return patience.offer(core.words, 1, core.words[1])

    core.yield_takes_ns = 3_000_000
    for _ in range(3):
        core.waits_without(offer)
    core.yield_takes_ns = 1_000
    for _ in range(315 + 256):
        offer()
    core.yield_takes_ns = 3_000_000
    assert core.waits_without(offer) == 0
    assert core.waits_without(offer) == 15


def test_one_offer_for_what_costs_a_call_to_look_at_is_vain_until_it_is_said_to_pay(core: Core) -> None:
    patience = Patience()
    assert patience.offer_once()
    assert core.yields == 1
    assert [core.waits_without(patience.offer_once) for _ in range(3)] == [1, 3, 7]
    patience.paid()
    assert core.waits_without(patience.offer_once) == 0


def test_a_late_one_is_late_though_it_is_said_to_pay(core: Core) -> None:
    patience = Patience()
    core.yield_takes_ns = 3_000_000
    assert patience.offer_once()
    patience.paid()
    assert core.waits_without(patience.offer_once) == 15


def test_who_forgoes_offers_does_so_for_as_many_waits_as_were_to_go_without(core: Core) -> None:
    patience = Patience()
    for _ in range(4):
        core.waits_without(patience.offer_once)
    assert patience.forgo(10) == 10
    assert patience.forgo(10) == 5
    assert patience.forgo(10) == 0
    assert core.waits_without(patience.offer_once) == 0


@pytest.mark.parametrize("kind", ["ring", "ring-many", "slots", "pipe", "sysv"])
def test_an_event_loop_offers_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    yields: list[None] = []
    monkeypatch.setattr(os, "sched_yield", lambda: yields.append(None))

    async def main() -> bytes:
        receiver, sender = ipc.pair(kind)
        with receiver, sender:
            waiting = asyncio.create_task(receiver.aio.receive())
            await asyncio.sleep(0)
            await sender.aio.send(b"hello")
            return await waiting

    assert asyncio.run(main()) == b"hello"
    assert not yields


@pytest.mark.parametrize("kind", ["ring", "slots", "pipe", "fifo", "sysv"])
def test_what_comes_while_the_core_is_offered_is_received_without_a_wait(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, sender = ipc.pair(kind)
    with receiver, sender:
        monkeypatch.setattr(os, "sched_yield", lambda: sender.send(b"hello"))
        assert receiver.receive(timeout_s=5) == b"hello"
        assert receiver.statistics().receive_waits == 0

"""Slots that are lent and borrowed: when they go round, and what happens to whoever keeps a view."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable

import pytest
from tests.conformance.channel_subjects import PATIENCE_S, START_METHODS, message, process

from underlay import ipc


def test_a_lent_slot_is_sent_at_the_end_of_its_block_and_borrowed_where_it_is() -> None:
    receiver, sender = ipc.pair("slots")
    with receiver, sender:
        with sender.lend(5) as slot:
            slot[:] = b"hello"
            with pytest.raises(TimeoutError):
                receiver.receive(timeout_s=0)
        with receiver.borrow() as view:
            assert (bytes(view), view.readonly) == (b"hello", True)
        with pytest.raises(ValueError, match="released"):
            view[0]
        with sender.lend(0):
            pass
        assert receiver.receive() == b""
        sender.send(b"copied")
        with receiver.borrow() as view:
            assert bytes(view) == b"copied"
        assert (sender.statistics().messages_sent, receiver.statistics().messages_received) == (3, 3)


def test_an_exception_gives_a_lent_slot_back_unsent() -> None:
    receiver, sender = ipc.pair("slots", capacity=1)
    with receiver, sender:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), sender.lend(1, timeout_s=0):
                raise ZeroDivisionError
        with pytest.raises(TimeoutError):
            receiver.receive(timeout_s=0)
        sender.send(b"one", timeout_s=0)
        assert receiver.receive() == b"one"


def test_slots_come_back_in_any_order() -> None:
    receiver, sender = ipc.pair("slots", capacity=3, max_message_bytes=8)
    with receiver, sender:
        for number in range(3):
            sender.send(bytes([number]))
        with pytest.raises(TimeoutError, match="no room"), sender.lend(1, timeout_s=0.01):
            pass
        outer = receiver.borrow()
        first = outer.__enter__()
        for _ in range(20):
            with receiver.borrow(timeout_s=0):
                pass
            sender.send(b"more", timeout_s=0)
        assert bytes(first) == b"\0"
        outer.__exit__(None, None, None)
        assert len(receiver.receive_many(5)) == 2


def part(view: memoryview) -> object:
    return view[1:2]


def same(view: memoryview) -> object:
    return memoryview(view)


def foreign(view: memoryview) -> object:
    """What an array of numpy is to a view."""
    return pickle.PickleBuffer(view)


@pytest.mark.parametrize("kept", [part, same, foreign])
def test_a_view_that_is_kept_is_an_error_and_its_slot_waits_for_its_end(kept: Callable[[memoryview], object]) -> None:
    receiver, sender = ipc.pair("slots", capacity=1, max_message_bytes=8)
    with receiver, sender:
        sender.send(b"whole")
        with pytest.raises(ipc.ViewKept, match=r"a part of a view .* is kept"), receiver.borrow() as view:
            of_it = kept(view)
        assert bytes(memoryview(of_it)[:1]) in (b"w", b"h")  # type: ignore[arg-type]
        with pytest.raises(TimeoutError):
            sender.send(b"next", timeout_s=0.01)
        del of_it, view
        with pytest.raises(TimeoutError), receiver.borrow(timeout_s=0):
            pass
        sender.send(b"next", timeout_s=0)
        assert receiver.receive() == b"next"
        with pytest.raises(ipc.ViewKept), sender.lend(4) as slot:
            of_it = kept(slot)
        with pytest.raises(TimeoutError):
            receiver.receive(timeout_s=0)
        del of_it, slot
        with sender.lend(4, timeout_s=0) as slot:
            slot[:] = b"last"
        assert receiver.receive() == b"last"


def test_views_outlive_a_channel_that_is_closed_under_them() -> None:
    receiver, sender = ipc.pair("slots")
    sender.send(b"hello")
    with receiver.borrow() as view:
        rest = view[1:]
        receiver.close()
        assert bytes(rest) == b"ello"
    with pytest.raises(ipc.ChannelClosed, match="while a slot was lent"), sender.lend(3):
        sender.close()
    assert bytes(rest) == b"ello"
    for call in (lambda: sender.lend(1), receiver.borrow):
        with pytest.raises(ipc.ChannelClosed), call():
            pass


def test_a_slot_is_as_long_as_it_is() -> None:
    receiver, sender = ipc.pair("slots", max_message_bytes=100)
    with receiver, sender:
        for n_bytes in (101, -1, 1 << 70):
            with pytest.raises(ipc.MessageTooLong), sender.lend(n_bytes):
                pass
        with sender.lend(100) as slot, pytest.raises(ValueError, match="assignment"):
            slot[:] = bytes(101)


def fill(sender: ipc.SlotChannel, how_many: int) -> None:
    with sender:
        for number in range(how_many):
            with sender.lend(100_000, timeout_s=PATIENCE_S) as slot:
                slot[:] = message(100_000, number)


@pytest.mark.parametrize("wakeup", ["eventfd", "futex", "spin"])
@pytest.mark.parametrize("method", START_METHODS)
def test_slots_go_round_between_two_processes(method: str, wakeup: str) -> None:
    receiver, sender = ipc.pair("slots", wakeup=wakeup, capacity=2, max_message_bytes=100_000)
    with receiver, process(method, fill, sender, 50):
        sender.close()
        for number in range(50):
            with receiver.borrow(timeout_s=PATIENCE_S) as view:
                assert bytes(view) == message(100_000, number)
        with pytest.raises(ipc.EndOfMessages), receiver.borrow():
            pass


def test_slots_are_lent_and_borrowed_in_asyncio() -> None:
    receiver, sender = ipc.pair("slots", capacity=2)

    async def produce() -> None:
        for number in range(20):
            async with sender.lend(1) as slot:
                slot[0] = number
        sender.close()

    async def main() -> list[int]:
        got = []
        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            while True:
                try:
                    async with receiver.borrow() as view:
                        got.append(view[0])
                except ipc.EndOfMessages:
                    return got

    with receiver:
        assert asyncio.run(main()) == list(range(20))

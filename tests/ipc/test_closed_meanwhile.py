"""Whoever waits on an end that is closed meanwhile is told so, and does not touch what its descriptors have become."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from underlay import ipc

_KINDS = [name for name in ipc.KINDS if name != "tcp"]


def _told(wait: Callable[[], object], close: Callable[[], object]) -> BaseException | None:
    told: list[BaseException] = []

    def work() -> None:
        try:
            wait()
        except BaseException as error:
            told.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    time.sleep(0.1)
    close()
    thread.join(10)
    return told[0] if told else None


@pytest.mark.parametrize("kind", _KINDS)
def test_a_thread_that_receives_is_told_that_another_closed_the_end(kind: str) -> None:
    receiver, sender = ipc.pair(kind)
    with sender:
        assert isinstance(_told(receiver.receive, receiver.close), ipc.ChannelClosed)


@pytest.mark.parametrize("kind", [kind for kind in _KINDS if kind != "signal"])
def test_a_thread_that_sends_is_told_that_another_closed_the_end(kind: str) -> None:
    receiver, sender = ipc.pair(kind)

    def fill() -> None:
        while True:
            sender.send(bytes(min(4096, sender.terms.max_message_bytes)))

    with receiver:
        assert isinstance(_told(fill, sender.close), ipc.ChannelClosed)


@pytest.mark.parametrize("kind", _KINDS)
def test_a_task_that_receives_is_told_that_another_closed_the_end(kind: str) -> None:
    receiver, sender = ipc.pair(kind)

    async def both() -> None:
        waits = asyncio.ensure_future(receiver.aio.receive())
        await asyncio.sleep(0.02)
        receiver.close()
        with pytest.raises(ipc.ChannelClosed):
            await asyncio.wait_for(waits, 10)

    with sender:
        asyncio.run(both())


def test_a_thread_that_accepts_is_told_that_another_closed_the_listener() -> None:
    listener = ipc.listen("unix", "example-closed")
    assert isinstance(_told(listener.accept, listener.close), ipc.ChannelClosed)

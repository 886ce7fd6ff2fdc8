"""A channel outlives what goes wrong with the event loop that it was awaited on."""

from __future__ import annotations

import asyncio

import pytest

from underlay import ipc

_KINDS = [name for name in ipc.KINDS if name != "tcp"]


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_channel_is_used_and_closed_after_a_loop_was_closed_while_a_task_waited(kind: str) -> None:
    receiver, sender = ipc.pair(kind)
    loop = asyncio.new_event_loop()
    waits = loop.create_task(receiver.aio.receive())
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    waits._log_destroy_pending = False  # type: ignore[attr-defined]  # it is abandoned on purpose

    sender.send(b"one")
    assert receiver.receive(timeout_s=5) == b"one"
    descriptors = receiver.descriptors
    sender.close()
    receiver.close()
    assert receiver.closed
    assert descriptors
    receiver.close()


@pytest.mark.parametrize("kind", _KINDS)
def test_another_loop_takes_over_where_one_was_closed_while_a_task_waited(kind: str) -> None:
    receiver, sender = ipc.pair(kind)
    loop = asyncio.new_event_loop()
    waits = loop.create_task(receiver.aio.receive())
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    waits._log_destroy_pending = False  # type: ignore[attr-defined]  # it is abandoned on purpose

    async def one() -> bytes:
        sender.send(b"one")
        return await asyncio.wait_for(receiver.aio.receive(), 5)

    with receiver, sender:
        assert asyncio.run(one()) == b"one"

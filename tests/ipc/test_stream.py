"""Messages through a stream: long ones, torn ones and lies."""

from __future__ import annotations

import asyncio
import os
import resource

import pytest

from underlay import ipc

KINDS = ["pipe", "unix", "tcp"]


@pytest.mark.parametrize("kind", KINDS)
def test_long_and_short_messages_take_turns(kind: str) -> None:
    receiver, sender = ipc.pair(kind)
    sizes = [5 << 20, 0, 70_000, 1 << 20, 65_536, 65_537, 3, 5 << 20, 100_000]
    messages = [os.urandom(size) for size in sizes]

    async def send() -> None:
        for each in messages:
            await sender.aio.send(each)
        sender.close()

    async def main() -> list[bytes]:
        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            return [each async for each in receiver.aio]

    with receiver:
        assert asyncio.run(main()) == messages


def test_a_long_message_that_is_torn_is_counted_and_not_given() -> None:
    receiver, sender = ipc.pair("pipe")
    with receiver:
        sender.send(b"whole")
        with pytest.raises(ipc.SentInPart):
            sender.send(bytes(1 << 20), timeout_s=0)
        sender.close()
        assert list(receiver) == [b"whole"]
        assert receiver.statistics().messages_dropped == 1


def test_a_length_that_is_a_lie_takes_no_memory() -> None:
    receiver, sender = ipc.pair("unix")
    with receiver, sender:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for descriptor in sender.descriptors[:1]:
            os.write(descriptor, (64 << 20).to_bytes(4, "big") + b"x" * 1000)
        with pytest.raises(TimeoutError):
            receiver.receive(timeout_s=0)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10  # KiB


def test_what_is_left_of_a_buffer_that_the_caller_changes_is_what_it_was() -> None:
    receiver, sender = ipc.pair("pipe")
    with receiver, sender:
        buffer = bytearray(b"a" * 200_000)
        with pytest.raises(ipc.SentInPart):
            sender.send(buffer, timeout_s=0)
        buffer[:] = b"b" * 200_000
        with pytest.raises(TimeoutError):
            receiver.receive(timeout_s=0)
        with pytest.raises(TimeoutError):
            sender.send(b"x" * 200_000, timeout_s=0)
        assert receiver.statistics().messages_received == 0
        while True:
            try:
                assert receiver.receive(timeout_s=0) == b"a" * 200_000
                break
            except TimeoutError:
                with pytest.raises(TimeoutError):
                    sender.send(b"x" * 200_000, timeout_s=0)

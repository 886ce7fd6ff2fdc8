"""What every kind of channel promises; one suite over all of them.

It knows promises. What a kind has besides is tested with its file, in tests/ipc.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

import pytest
from tests.conformance.channel_subjects import (
    PATIENCE_S,
    START_METHODS,
    SUBJECTS,
    Subject,
    echo,
    end_as_a_generator,
    exit_badly_within,
    exit_badly_without_a_with,
    exit_early,
    exit_well_within,
    fail_before_the_first,
    fail_within,
    fail_without_a_with,
    message,
    opened,
    process,
    receive_for_ever,
    sealed,
    send_all,
    send_for_ever,
    vanish,
)

from underlay import ipc
from underlay.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

# Since then multiprocessing runs its finalizers when the exception is forgotten: only a with tells it.
FORGOTTEN: bool = sys.version_info >= (3, 13)


@pytest.fixture(params=SUBJECTS, ids=str)
def carrier(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.param
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    resource_tracker.ensure_running()  # multiprocessing's own, which stays
    descriptors, threads = _descriptors(), threading.active_count()
    yield
    assert _descriptors() == descriptors
    assert threading.active_count() == threads


def _descriptors() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


def sizes(channel: ipc.Channel) -> list[int]:
    most = channel.terms.max_message_bytes
    return sorted(
        {size for size in (0, 1, 7, 64, 4091, 4092, 4093, 65536, 1 << 20, most) if size <= min(most, 4 << 20)}
    )


def test_messages_come_in_their_order_whole_and_apart(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    with receiver, sender:
        numbers = list(range(5))
        size = min(64, sender.terms.max_message_bytes)
        for number in numbers:
            sender.send(message(size, number))
        assert [receiver.receive() for _ in numbers] == [message(size, number) for number in numbers]


@pytest.mark.parametrize("method", START_METHODS)
def test_each_size_up_to_the_limit_arrives_from_another_process(carrier: Subject, method: str) -> None:
    receiver, sender = carrier.pair()
    with receiver:
        messages = [message(size, number) for number, size in enumerate(sizes(receiver))]
        with process(method, send_all, sender, messages):
            sender.close()
            assert [receiver.receive(timeout_s=PATIENCE_S) for _ in messages] == messages
            with pytest.raises(ipc.EndOfMessages):
                receiver.receive(timeout_s=PATIENCE_S)


def test_a_message_over_the_limit_is_refused_and_nothing_of_it_sent(carrier: Subject) -> None:
    receiver, sender = carrier.pair(max_message_bytes=4)
    with receiver, sender:
        with pytest.raises(ipc.MessageTooLong, match="5 bytes is longer than the 4 that") as refused:
            sender.send(b"12345")
        assert refused.value.errno == 90
        sender.send(b"1234")
        assert receiver.receive() == b"1234"


def test_it_sends_what_is_like_bytes_and_no_objects(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    with receiver, sender:
        for each in (bytearray(b"ab"), memoryview(b"abcd")[::1], memoryview(b"ab").cast("H")):
            sender.send(each)
            assert receiver.receive() == bytes(each)
        with pytest.raises(UsageError, match="a message is bytes in one piece, and this is str"):
            sender.send("text")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="a message is bytes in one piece"):
            sender.send(memoryview(b"abcd")[::2])


def test_a_priority_is_refused_where_there_are_none(carrier: Subject) -> None:
    receiver, sender = carrier.pair()

    async def main() -> None:
        await sender.aio.send(b"1", priority="x")  # type: ignore[arg-type]

    sentence = "a priority is a number" if ipc.KINDS[carrier.kind].priorities else "has no priorities; send without"
    with receiver, sender:
        with pytest.raises(UsageError, match=sentence):
            sender.send(b"1", priority="x")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=sentence):
            asyncio.run(main())
        if not ipc.KINDS[carrier.kind].priorities:
            with pytest.raises(UsageError, match=sentence):
                sender.send(b"1", priority=1)


def test_a_sender_waits_for_a_slow_receiver_and_no_message_is_lost(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    with receiver, sender:
        size, sent = min(1000, sender.terms.max_message_bytes), 0
        with pytest.raises(TimeoutError):
            while True:
                sender.send(message(size, sent), timeout_s=0.05)
                sent += 1
        assert sender.statistics().send_waits >= 1
        assert [receiver.receive() for _ in range(sent)] == [message(size, number) for number in range(sent)]


def test_messages_that_came_together_are_received_though_no_more_come(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    with receiver, sender:
        with pytest.raises(TimeoutError):
            receiver.receive(timeout_s=0.01)  # after a vain try it waits first
        for number in range(3):
            sender.send(b"%d" % number)
        assert [receiver.receive(timeout_s=PATIENCE_S) for _ in range(3)] == [b"0", b"1", b"2"]
        sender.send(b"3")
        sender.close()
        assert list(receiver) == [b"3"]


def test_a_receive_that_waits_too_long_raises_and_takes_nothing(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    with receiver, sender:
        for timeout_s in (0, 0.01):
            with pytest.raises(TimeoutError, match="brought no message within"):
                receiver.receive(timeout_s=timeout_s)
        sender.send(b"late")
        assert receiver.receive(timeout_s=0) == b"late"


def test_what_was_sent_before_the_close_is_received_and_then_it_ends(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    with receiver:
        sender.send(b"one")
        sender.close()
        assert list(receiver) == [b"one"]
        with pytest.raises(ipc.EndOfMessages, match=r"was closed.*all that was sent is received"):
            receiver.receive()
        with pytest.raises(EOFError):
            receiver.receive(timeout_s=1)


def test_nobody_can_send_to_a_receiver_that_closed(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    with sender:
        sender.send(b"one")
        receiver.receive()
        receiver.close()
        with pytest.raises(ipc.PeerGone, match=r"was closed.*nobody will receive"):
            while True:
                sender.send(b"two", timeout_s=1)


def test_an_end_that_is_closed_says_so(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    receiver.close()
    sender.close()
    receiver.close()
    for call in (lambda: sender.send(b""), receiver.receive, sender.argument):
        with pytest.raises(ipc.ChannelClosed, match="is closed"):
            call()


def test_an_end_of_one_way_has_no_other(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    with receiver, sender:
        with pytest.raises(UsageError, match="can only receive, not send; make it with both_ways=True"):
            receiver.send(b"")
        with pytest.raises(UsageError, match="can only send, not receive"):
            sender.receive()


@pytest.mark.parametrize("method", START_METHODS)
def test_an_echo_comes_back_from_another_process(carrier: Subject, method: str) -> None:
    here, there = carrier.pair()
    back_here, back_there = carrier.pair()
    size = min(200, there.terms.max_message_bytes)
    far_ends = (there, back_here) if method == "fork" else ()
    with process(method, echo, here, back_there, *far_ends), there, back_here:
        here.close()
        back_there.close()
        for number in range(100):
            there.send(message(size, number))
            assert back_here.receive(timeout_s=PATIENCE_S) == message(size, number)


@pytest.mark.parametrize("method", START_METHODS)
def test_a_process_that_exits_has_closed_its_end(carrier: Subject, method: str) -> None:
    receiver, sender = carrier.pair()
    with receiver, process(method, exit_early, sender):
        if carrier.kind == "ring-many":
            sender.close()  # as long as somebody has it, somebody may send
        assert list(receiver) == [b"goodbye"]  # though this process has the other end too, and it is open
    sender.close()


@pytest.mark.parametrize("work", [exit_well_within, end_as_a_generator], ids=lambda work: work.__name__)
def test_an_end_that_is_left_well_is_closed(carrier: Subject, work: Callable[[ipc.Channel], None]) -> None:
    receiver, sender = carrier.pair()
    with receiver, process("fork", work, sender):
        sender.close()
        assert list(receiver) == [b"goodbye"]


@pytest.mark.parametrize("work", [fail_within, fail_before_the_first], ids=lambda work: work.__name__)
def test_a_sender_that_fails_is_not_taken_for_one_that_has_said_all(
    carrier: Subject, work: Callable[[ipc.Channel], None]
) -> None:
    _is_told_as_a_failure(carrier, work, "fork")


@pytest.mark.parametrize(
    "work", [exit_badly_within, fail_without_a_with, exit_badly_without_a_with], ids=lambda work: work.__name__
)
@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize("carrier", [Subject("pipe"), Subject("tcp"), Subject("ring-many")], ids=str)
def test_a_way_to_fail_is_told_where_python_tells_it(
    carrier: Subject, work: Callable[[ipc.Channel], None], method: str
) -> None:
    if work is exit_badly_within or not FORGOTTEN:
        _is_told_as_a_failure(carrier, work, method)
        return
    receiver, sender = carrier.pair()
    with receiver, process(method, work, sender):
        sender.close()
        assert list(receiver) == [b"goodbye"]


def _is_told_as_a_failure(carrier: Subject, work: Callable[[ipc.Channel], None], method: str) -> None:
    receiver, sender = carrier.pair()
    with receiver, process(method, work, sender):
        sender.close()
        if work is not fail_before_the_first:
            assert receiver.receive(timeout_s=PATIENCE_S) == b"goodbye"
        with pytest.raises(ipc.PeerGone, match=r"was left by an exception.*; what it had sent is received"):
            receiver.receive(timeout_s=PATIENCE_S)


def test_a_process_that_was_forked_while_an_exception_was_handled_ends_well(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    with contextlib.ExitStack() as running, receiver:
        try:
            raise ValueError("of the parent")
        except ValueError:
            running.enter_context(process("fork", exit_early, sender))
        sender.close()
        assert list(receiver) == [b"goodbye"]


def test_a_receiver_that_fails_is_gone_for_who_sends(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    with sender:
        with pytest.raises(ValueError, match="of the receiver"), receiver:
            sender.send(b"one")
            receiver.receive()
            raise ValueError("of the receiver")
        with pytest.raises(ipc.PeerGone, match=r"nobody will receive"):
            while True:
                sender.send(b"two", timeout_s=1)


def test_of_many_senders_one_that_fails_is_told_when_all_have_gone() -> None:
    receiver, sender = ipc.pair("ring-many")
    with receiver, process("fork", fail_within, sender) as failing:
        assert receiver.receive(timeout_s=PATIENCE_S) == b"goodbye"
        failing.join(PATIENCE_S)
        with process("fork", exit_well_within, sender):
            sender.close()
            assert receiver.receive(timeout_s=PATIENCE_S) == b"goodbye"
            with pytest.raises(ipc.PeerGone, match=f"was left by an exception in process {failing.pid};"):
                receiver.receive(timeout_s=PATIENCE_S)


@pytest.mark.parametrize("method", START_METHODS)
def test_a_sender_that_dies_is_noticed_after_its_last_words(carrier: Subject, method: str) -> None:
    receiver, sender = carrier.pair()
    with receiver, process(method, vanish, sender, b"goodbye") as other:
        if not carrier.knows_processes:
            sender.close()
        assert receiver.receive(timeout_s=PATIENCE_S) == b"goodbye"
        who = f"process {other.pid}, at the other end" if carrier.knows_processes else "the other end"
        with pytest.raises(ipc.PeerGone, match=f"{who} .* died without closing it"):
            receiver.receive(timeout_s=PATIENCE_S)
    sender.close()


def test_a_receiver_that_dies_is_noticed_by_who_waits_to_send(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    size = min(1000, sender.terms.max_message_bytes)
    with sender, process("spawn", receive_for_ever, receiver) as other:
        receiver.close()
        for number in range(10):
            sender.send(sealed(number, size), timeout_s=PATIENCE_S)
        assert other.pid is not None
        os.kill(other.pid, signal.SIGKILL)
        with pytest.raises(ipc.PeerGone):
            while True:
                sender.send(message(size), timeout_s=PATIENCE_S)


def _killed_at_a_random_moment(carrier: Subject, seed: int) -> None:
    chance = random.Random(seed)
    receiver, sender = carrier.pair()
    size = min(chance.choice([16, 1000, 5000, 100_000]), sender.terms.max_message_bytes)
    side = chance.choice(["sender", "receiver"])
    mine, other, work = (receiver, sender, send_for_ever) if side == "sender" else (sender, receiver, receive_for_ever)
    arguments = (other, size) if side == "sender" else (other,)
    with mine, process(chance.choice(START_METHODS), work, *arguments) as child:
        other.close()
        killer = threading.Timer(chance.uniform(0, 0.3), os.kill, (child.pid, signal.SIGKILL))
        killer.start()
        try:
            number = 0
            while True:
                if side == "sender":
                    assert opened(mine.receive(timeout_s=PATIENCE_S)) == number
                else:
                    mine.send(sealed(number, size), timeout_s=PATIENCE_S)
                number += 1
        except (ipc.PeerGone, ipc.EndOfMessages):
            pass  # the latter: it was killed before it used its end
        finally:
            killer.join()


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_a_random_moment_tears_nothing_and_hangs_nobody(carrier: Subject, seed: int) -> None:
    _killed_at_a_random_moment(carrier, seed)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_hundred_kills_at_random_moments_tear_nothing_and_hang_nobody(carrier: Subject) -> None:
    for seed in range(200):
        _killed_at_a_random_moment(carrier, seed)


# --- asyncio ---


def test_the_asyncio_face_waits_for_messages_and_for_room(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    size = min(1000, sender.terms.max_message_bytes)

    async def produce() -> None:
        for number in range(300):
            await sender.aio.send(message(size, number))
        sender.close()

    async def main() -> list[bytes]:
        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            return [each async for each in receiver.aio]

    with receiver:
        assert asyncio.run(main()) == [message(size, number) for number in range(300)]


def test_a_receive_that_is_cancelled_has_taken_nothing(carrier: Subject) -> None:
    receiver, sender = carrier.pair()

    async def main() -> bytes:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await receiver.aio.receive()
        await sender.aio.send(b"after")
        return await receiver.aio.receive()

    with receiver, sender:
        assert asyncio.run(main()) == b"after"
        # and on another loop
        assert asyncio.run(main()) == b"after"


def test_the_asyncio_face_notices_a_death_while_it_waits(carrier: Subject) -> None:
    receiver, sender = carrier.pair()

    async def main() -> None:
        assert await receiver.aio.receive() == b"goodbye"
        with pytest.raises(ipc.PeerGone):
            async with asyncio.timeout(PATIENCE_S):
                await receiver.aio.receive()

    with receiver, process("spawn", vanish, sender, b"goodbye"):
        if not carrier.knows_processes:
            sender.close()
        asyncio.run(main())
    sender.close()


def test_one_task_at_a_time_receives(carrier: Subject) -> None:
    receiver, sender = carrier.pair()

    async def main() -> None:
        first = asyncio.create_task(receiver.aio.receive())
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match=r"another task receives on .* already"):
            await receiver.aio.receive()
        sender.send(b"one")
        assert await first == b"one"

    with receiver, sender:
        asyncio.run(main())


def test_the_statistics_count(carrier: Subject) -> None:
    receiver, sender = carrier.pair()
    with receiver, sender:
        sender.send(b"abc")
        receiver.receive()
        assert (sender.statistics().messages_sent, sender.statistics().bytes_sent) == (1, 3)
        assert (receiver.statistics().messages_received, receiver.statistics().bytes_received) == (1, 3)
        assert receiver.statistics().messages_dropped == 0

"""Rings in shared memory: against a model, under stress, with a peer that lies, with senders that die inside.

What each kind of channel promises is in tests/conformance.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import mmap
import os
import random
import resource
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conformance.channel_subjects import PATIENCE_S, opened, process, sealed

from underlay import ipc
from underlay.errors import UsageError
from underlay.ipc import _memory, _ring, _ring_many, _wakeup

RINGS = ["ring", "ring-many"]
MOST = 1500

steps: st.SearchStrategy[tuple[str, list[int]]] = st.one_of(
    st.tuples(st.just("send"), st.lists(st.integers(0, MOST), min_size=1, max_size=1)),
    st.tuples(st.just("send many"), st.lists(st.integers(0, MOST), max_size=12)),
    st.tuples(st.just("receive"), st.just([])),
    st.tuples(st.just("receive many"), st.lists(st.just(0), min_size=1, max_size=12)),
)


@pytest.mark.parametrize("kind", [*RINGS, "slots"])
def test_it_does_what_a_queue_does(kind: str) -> None:
    @settings(max_examples=100, deadline=None)
    @given(st.lists(steps, max_size=60))
    def holds(program: list[tuple[str, list[int]]]) -> None:
        receiver, sender = ipc.pair(kind, max_message_bytes=MOST, capacity=6 if kind == "slots" else 3000)
        model: deque[bytes] = deque()
        number = 0
        with receiver, sender:
            for what, sizes in program:
                messages = []
                for size in sizes:
                    number += 1
                    messages.append(random.Random(number).randbytes(size))
                if what == "send":
                    try:
                        sender.send(messages[0], timeout_s=0)
                    except TimeoutError:
                        assert model, "an empty ring takes each message"
                    else:
                        model.append(messages[0])
                elif what == "send many":
                    model.extend(messages[: sender.send_many(messages, timeout_s=0)])
                else:
                    try:
                        if what == "receive":
                            got = [receiver.receive(timeout_s=0)]
                        else:
                            got = receiver.receive_many(len(sizes), timeout_s=0)
                            assert 1 <= len(got) <= len(sizes)
                    except TimeoutError:
                        assert not model
                    else:
                        assert got == [model.popleft() for _ in got]

    holds()


@pytest.mark.parametrize("kind", RINGS)
def test_what_was_asked_for_as_capacity_fits_though_room_comes_back_in_portions(kind: str) -> None:
    chance = random.Random(1)
    receiver, sender = ipc.pair(kind, max_message_bytes=1000, capacity=64_000)
    waiting = 0
    with receiver, sender:
        for _ in range(3000):
            if waiting < 64 and chance.random() < 0.55:
                sender.send(bytes(992), timeout_s=0)  # 1,000 bytes with its size
                waiting += 1
            elif waiting:
                receiver.receive(timeout_s=0)
                waiting -= 1


# --- stress ---


@contextlib.contextmanager
def busy_threads() -> Iterator[None]:
    """A thread that always wants the interpreter, which changes threads as often as it can."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    over = threading.Event()
    thread = threading.Thread(target=lambda: [None for _ in iter(over.is_set, True)])
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(before_s)


def send_sealed(sender: ipc.Channel, how_many: int, batches: bool) -> None:
    chance = random.Random(how_many)
    with sender, busy_threads():
        batch: list[bytes] = []
        for number in range(how_many):
            batch.append(sealed(number, int(12 * 2 ** chance.uniform(0, 8))))
            if not batches:
                sender.send(batch.pop())
            elif chance.random() < 0.2:
                sender.send_many(batch)
                batch.clear()
        sender.send_many(batch)


def _stress(wakeup: str, how_many: int, batches: bool) -> None:
    receiver, sender = ipc.pair("ring", wakeup=wakeup, max_message_bytes=4096, capacity=20_000)
    with receiver, process("fork", send_sealed, sender, how_many, batches):
        with busy_threads():
            number = 0
            with contextlib.suppress(ipc.EndOfMessages):
                while True:
                    for each in receiver.receive_many(7 if batches else 1, timeout_s=PATIENCE_S):
                        assert opened(each) == number
                        number += 1
            assert number == how_many
        sender.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("batches", [False, True], ids=["one by one", "in batches"])
@pytest.mark.parametrize("wakeup", ["eventfd", "futex", "spin"])
def test_two_processes_in_a_hurry_lose_no_message_and_no_wake_up(wakeup: str, batches: bool) -> None:
    _stress(wakeup, 1500, batches)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("wakeup", ["eventfd", "futex", "spin"])
def test_two_hundred_thousand_messages_arrive_whole_and_in_order(wakeup: str) -> None:
    _stress(wakeup, 200_000, batches=False)


# --- a peer that lies, memory that is none ---


@contextlib.contextmanager
def words_of(channel: ipc.Channel) -> Iterator[memoryview]:
    """The words of a channel's memory, as another process has them."""
    descriptor = channel.descriptors[0]
    size_bytes = os.fstat(descriptor).st_size
    with mmap.mmap(descriptor, size_bytes) as memory, memoryview(memory) as view, view.cast("Q") as words:
        yield words


HOSTILE = [1, 7, 9, 4096, 1 << 20, (1 << 31) - 8, 1 << 32, 1 << 63, (1 << 64) - 8, (1 << 64) - 1]


@pytest.mark.parametrize("kind", [*RINGS, "slots"])
@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("word", [_ring.TAIL, _ring.HEAD, _ring_many.BEGUN, _ring.BASE // 8])
def test_whatever_stands_in_the_memory_nothing_outside_it_is_touched(kind: str, word: int, value: int) -> None:
    receiver, sender = ipc.pair(kind, max_message_bytes=2000, capacity=4 if kind == "slots" else 4000)
    with receiver, sender:
        sender.send(b"one")
        with words_of(receiver) as words:
            words[word] = value
        for end in (receiver, sender):
            with contextlib.suppress(ipc.Damaged, TimeoutError):
                for _ in range(20):
                    if end is receiver:
                        assert len(end.receive(timeout_s=0)) <= 2 * 8192
                    else:
                        end.send(bytes(1999), timeout_s=0)


@pytest.mark.parametrize("kind", RINGS)
def test_an_index_that_cannot_be_is_told_to_whoever_reads_it(kind: str) -> None:
    receiver, sender = ipc.pair(kind)
    with receiver, sender, words_of(receiver) as words:
        words[_ring.TAIL] = 1 << 40
        with pytest.raises(ipc.Damaged, match="another program wrote into the shared memory of a channel"):
            receiver.receive()
    receiver, sender = ipc.pair(kind)
    with receiver, sender, words_of(receiver) as words:
        words[_ring.HEAD] = 1 << 40
        with pytest.raises(ipc.Damaged, match="says that"):  # it looks when it has no room left that it knows of
            for _ in range(20):
                sender.send(bytes(100_000), timeout_s=0)


def test_a_size_that_cannot_be_is_told_to_who_receives() -> None:
    receiver, sender = ipc.pair("ring")
    with receiver, sender, words_of(receiver) as words:
        sender.send(b"one")
        words[_ring.BASE // 8] = 1 << 62
        with pytest.raises(ipc.Damaged, match=r"has a message of 4,611,.* bytes where there are 16"):
            receiver.receive()


def test_memory_that_could_become_shorter_is_not_mapped() -> None:
    descriptor = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, 8192)
        with pytest.raises(ipc.Damaged, match="8,192 bytes that is not sealed came where 4,096 bytes, sealed"):
            _memory.attach(descriptor, 4096)
    finally:
        os.close(descriptor)
    descriptor = _memory.create("short", 4096)
    try:
        with pytest.raises(ipc.Damaged, match="4,096 bytes that is sealed came where 8,192"):
            _memory.attach(descriptor, 8192)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
    reader, writer = os.pipe()
    with pytest.raises(ipc.Damaged, match="is no shared memory"):
        _memory.attach(reader, 1)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kind", [*RINGS, "slots"])
def test_a_processor_that_reorders_more_gets_its_barriers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def order() -> None:
        calls.append(1)

    monkeypatch.setattr(_wakeup, "ORDERED", False)
    monkeypatch.setattr(_wakeup, "order", order)
    receiver, sender = ipc.pair(kind)
    with receiver, sender:
        calls.clear()
        sender.send(b"one")
        assert calls
        calls.clear()
        assert receiver.receive() == b"one"
        assert calls


def test_the_barrier_of_such_a_processor_can_be_called() -> None:
    _wakeup.order()


# --- many senders ---


def send_numbered(sender: ipc.Channel, who: int, how_many: int) -> None:
    with sender:
        for number in range(how_many):
            sender.send(bytes([who]) + sealed(number, 20 + number % 300), timeout_s=PATIENCE_S)


@pytest.mark.parametrize("wakeup", ["eventfd", "futex", "spin"])
def test_many_senders_lose_nothing_and_each_keeps_its_order(wakeup: str) -> None:
    receiver, sender = ipc.pair("ring-many", wakeup=wakeup, max_message_bytes=4096, capacity=10_000)
    with receiver, contextlib.ExitStack() as stack:
        for who in range(3):
            stack.enter_context(process("fork", send_numbered, sender, who, 500))
        following = [0, 0, 0]
        while sum(following) < 1500:
            message = receiver.receive(timeout_s=PATIENCE_S)
            assert opened(message[1:]) == following[message[0]]
            following[message[0]] += 1
        sender.close()
        with pytest.raises(ipc.EndOfMessages):
            receiver.receive(timeout_s=PATIENCE_S)
        assert receiver.statistics().messages_dropped == 0


def die_inside(sender: ipc.Channel) -> None:
    # What lies in a map behind the end of its file cannot be read: SIGBUS, mmap(2). So the copy into the ring ends the
    # process, without a word to whoever sends.
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sender.send(b"whole")
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        message = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        file.truncate(0)
        sender.send(message)


def test_a_sender_that_dies_inside_holds_nobody_up_and_its_message_is_counted() -> None:
    receiver, sender = ipc.pair("ring-many")
    with receiver, sender:
        with process("fork", die_inside, sender) as other:
            other.join(PATIENCE_S)
            assert other.exitcode == -signal.SIGBUS
        sender.send(b"after", timeout_s=PATIENCE_S)
        assert [receiver.receive(timeout_s=PATIENCE_S), receiver.receive()] == [b"whole", b"after"]
        assert receiver.statistics().messages_dropped == 1


def receive_one(receiver: ipc.Channel) -> None:
    receiver.receive()
    os.kill(os.getpid(), signal.SIGKILL)


def test_each_of_many_senders_sees_that_the_receiver_died() -> None:
    receiver, sender = ipc.pair("ring-many", max_message_bytes=4096, capacity=10_000)
    with sender, process("fork", receive_one, receiver) as other:
        sender.send(b"one")
        assert other.pid is not None
        with pytest.raises(ipc.PeerGone, match=f"process {other.pid}"):
            while True:
                sender.send(bytes(1000), timeout_s=PATIENCE_S)
    receiver.close()


def open_and_send(who: int) -> None:
    send_numbered(ipc.open("orders", timeout_s=PATIENCE_S), who, 100)


@pytest.mark.usefixtures("names_folder")
def test_many_senders_come_by_a_name_whenever_they_like() -> None:
    with ipc.create("ring-many", "orders") as mailbox:
        for who in range(3):  # each is gone before the next comes
            with process("spawn", open_and_send, who):
                for number in range(100):
                    message = mailbox.receive(timeout_s=PATIENCE_S)
                    assert (message[0], opened(message[1:])) == (who, number)
        with pytest.raises(TimeoutError):
            mailbox.receive(timeout_s=0.01)


@pytest.mark.usefixtures("names_folder")
def test_a_name_for_so_many_senders_is_free_when_they_have_come_and_ends_when_they_have_gone() -> None:
    with ipc.create("ring-many", "orders", senders=2) as mailbox:
        with ipc.open("orders") as first:
            first.send(b"one")
        assert mailbox.receive(timeout_s=PATIENCE_S) == b"one"
        with pytest.raises(TimeoutError):  # the second is still to come
            mailbox.receive(timeout_s=0.01)
        second = ipc.open("orders")
        with pytest.raises(ipc.NoSuchName):
            ipc.open("orders", timeout_s=0)
        with second:
            second.send(b"two")
        assert list(mailbox) == [b"two"]


@pytest.mark.usefixtures("names_folder")
def test_senders_are_counted_only_where_there_are_many() -> None:
    for kind, role in (("pipe", "receiver"), ("ring-many", "sender"), ("mqueue", "receiver")):
        with pytest.raises(UsageError, match="only the receiver of a ring-many"):
            ipc.create(kind, "orders", role=role, senders=2)  # type: ignore[arg-type]
    for number in (0, -1, "two", 1.5):
        with pytest.raises(UsageError, match="senders"):
            ipc.create("ring-many", "orders", senders=number)  # type: ignore[arg-type]
    assert ipc.names() == []


# --- batches on any kind ---


@pytest.mark.parametrize("kind", ["pipe", "seqpacket", *RINGS, "slots"])
def test_many_messages_at_once_are_the_same_messages(kind: str) -> None:
    receiver, sender = ipc.pair(kind)
    with receiver, sender:
        assert sender.send_many([]) == 0
        assert sender.send_many([b"", bytearray(b"one"), b"two"]) == 3
        assert receiver.receive_many(2) == [b"", b"one"]
        assert receiver.receive_many(2) == [b"two"]
        with pytest.raises(TimeoutError):
            receiver.receive_many(1, timeout_s=0)
        with pytest.raises(UsageError, match="nobody can receive 0 messages"):
            receiver.receive_many(0)
        with pytest.raises(ipc.MessageTooLong):
            sender.send_many([b"before", bytes(sender.terms.max_message_bytes + 1)])
        with pytest.raises(TimeoutError):
            receiver.receive(timeout_s=0)
        assert sender.statistics().messages_sent == 3
        assert receiver.statistics().bytes_received == 6
        sender.send(b"last")
        sender.close()
        assert receiver.receive_many() == [b"last"]
        with pytest.raises(ipc.EndOfMessages):
            receiver.receive_many(5)


def test_a_fence_whose_halves_ctrl_c_has_parted_is_a_fence_again() -> None:
    receiver, sender = ipc.pair("ring")
    with receiver, sender:
        outgoing = sender._outgoing
        assert isinstance(outgoing, _ring.RingOutgoing)
        sender.send(b"with care, the first")
        for _ in range(2):
            # Ctrl-C after the lock was taken, and before that was noted; or after it was noted to be free.
            outgoing._acquire(False)
            outgoing._held = False
            for _ in range(3):
                sender.send(b"x")
        assert receiver.receive_many(20) == [b"with care, the first", *[b"x"] * 6]


def test_a_bell_that_is_never_read_wakes_in_each_face_after_the_other() -> None:
    receiver, sender = ipc.pair("ring")

    async def awaited() -> None:
        for number in range(20):
            waiting = asyncio.ensure_future(receiver.aio.receive())
            await asyncio.sleep(0)
            sender.send(b"%d" % number)
            assert await asyncio.wait_for(waiting, 10) == b"%d" % number

    with receiver, sender:
        for _ in range(3):
            with ThreadPoolExecutor(1) as pool:
                for number in range(20):
                    answer = pool.submit(receiver.receive, timeout_s=10)
                    sender.send(b"%d" % number)
                    assert answer.result() == b"%d" % number
            asyncio.run(awaited())


def test_pages_that_the_kernel_does_not_give_at_once_come_one_by_one() -> None:
    memory = mmap.mmap(-1, _memory.PAGE_BYTES)
    _memory.get_pages(memory, 0, _memory.PAGE_BYTES - 1, to_write=True)
    memory.close()
    memory = mmap.mmap(-1, _memory.PAGE_BYTES, prot=mmap.PROT_READ)
    _memory.get_pages(memory, 0, _memory.PAGE_BYTES, to_write=True)  # refused
    assert memory[:1] == b"\0"
    memory.close()

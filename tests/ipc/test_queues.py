"""The queues of the kernel: their limits are one clear error each, and nothing of them is left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from underlay import ipc
from underlay.errors import UsageError
from underlay.ipc import _sysv_queue


def _in_another_process(work: Callable[[], None]) -> None:
    """Do something in a process of its own, whose limits and threads are no matter."""
    other = multiprocessing.get_context("fork").Process(target=work)
    other.start()
    other.join()
    assert other.exitcode == 0


def _queues() -> set[int]:
    return {int(line.split()[1]) for line in Path("/proc/sysvipc/msg").read_text().splitlines()[1:]}


# --- POSIX message queues ---


def test_the_highest_priority_is_received_first() -> None:
    receiver, sender = ipc.pair("mqueue")
    with receiver, sender:
        for priority in (0, 32767, 5, 5):
            sender.send(str(priority).encode(), priority=priority)
        assert [receiver.receive() for _ in range(4)] == [b"32767", b"5", b"5", b"0"]
        with pytest.raises(UsageError, match="a message queue has no priority 32768"):
            sender.send(b"", priority=32768)


def test_a_queue_that_the_limit_of_the_user_has_no_room_for_is_refused() -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (1000, 1000))
        with pytest.raises(UsageError, match=r"no room for one more message queue of 10 messages.*RLIMIT_MSGQUEUE"):
            ipc.pair("mqueue")

    _in_another_process(work)


def test_a_queue_of_more_messages_than_the_kernel_allows_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the kernel makes no message queue that holds 1,000,000 messages"):
        ipc.pair("mqueue", capacity=1_000_000, max_message_bytes=1)


def test_a_message_queue_has_its_name_no_longer_than_it_is_made() -> None:
    receiver, sender = ipc.pair("mqueue")
    with receiver, sender:
        assert "(deleted)" in os.readlink(f"/proc/self/fd/{receiver.descriptors[0]}")


# --- System V message queues ---


def test_more_than_the_kernel_takes_in_one_message_is_refused() -> None:
    most = ipc.KINDS["sysv"].max_message_bytes
    with pytest.raises(UsageError, match=f"the kind sysv cannot take messages of up to {most + 1:,} bytes"):
        ipc.pair("sysv", max_message_bytes=most + 1)
    with pytest.raises(UsageError, match="of 10 bytes has no room for messages of 20"):
        ipc.pair("sysv", max_message_bytes=20, capacity=10)


def test_a_queue_that_nobody_used_is_removed_by_the_last_who_closes_it() -> None:
    before = _queues()
    receiver, sender = ipc.pair("sysv")
    made = _queues() - before  # others may make some meanwhile
    assert made
    sender.close()
    receiver.close()
    assert not made <= _queues()


@pytest.mark.usefixtures("names_folder")
def test_a_queue_whose_processes_were_all_killed_goes_when_the_next_is_made() -> None:
    def work() -> None:
        _, sender = ipc.pair("sysv")
        sender.send(b"for nobody")
        os.kill(os.getpid(), signal.SIGKILL)

    before = _queues()
    other = multiprocessing.get_context("fork").Process(target=work)
    other.start()
    other.join()
    made = _queues() - before  # others may make some meanwhile
    assert made
    for each in ipc.pair("sysv"):
        each.close()
    assert not made <= _queues()


def test_a_process_that_exits_without_closing_leaves_no_queue() -> None:
    told, tell = os.pipe()
    kept: list[object] = []

    def work() -> None:
        before = _queues()
        kept.append(ipc.pair("sysv"))
        os.write(tell, " ".join(map(str, _queues() - before)).encode())

    _in_another_process(work)
    made = {int(word) for word in os.read(told, 1000).split()}
    os.close(told)
    os.close(tell)
    assert made
    assert not made <= _queues()


def test_a_queue_that_somebody_removes_is_the_end_for_both_sides() -> None:
    before = _queues()
    receiver, sender = ipc.pair("sysv")
    with receiver, sender:
        sender.send(b"one")
        receiver.receive()
        _sysv_queue.remove(*(_queues() - before))
        with pytest.raises(ipc.PeerGone):
            sender.send(b"two")
        with pytest.raises((ipc.PeerGone, ipc.EndOfMessages)):
            receiver.receive(timeout_s=1)


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a persistent queue, which is gone afterwards."""
    found = f"test-{os.getpid()}"
    yield found
    with contextlib.suppress(ipc.NoSuchName):
        ipc.remove(found)


def test_what_is_in_a_persistent_queue_outlives_its_processes(name: str) -> None:
    def send() -> None:
        with ipc.create("sysv", name, role="sender", persistent=True) as sender:
            sender.send(b"later")

    _in_another_process(send)
    with pytest.raises(ipc.NameTaken):
        ipc.create("sysv", name, persistent=True)
    with ipc.open(name, role="receiver") as receiver:
        assert receiver.receive(timeout_s=1) == b"later"
        with pytest.raises(TimeoutError):
            receiver.receive(timeout_s=0.01)
        with ipc.open(name, role="sender") as sender, pytest.raises(TimeoutError):
            while True:
                sender.send(bytes(1000), timeout_s=0.01)
    ipc.remove(name)
    with pytest.raises(ipc.NoSuchName):
        ipc.open(name, timeout_s=0)


# --- signals ---


def test_a_thread_that_does_not_block_the_signal_is_named() -> None:
    def work() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        done = threading.Event()
        thread = threading.Thread(target=done.wait, name="early")
        thread.start()
        receiver, sender = ipc.pair("signal")
        try:
            with receiver, sender:
                sender.send(b"one")
                with pytest.raises(UsageError, match=rf"would kill this process: .* \({thread.native_id}\)"):
                    receiver.receive()
        finally:
            done.set()
            thread.join()

    _in_another_process(work)


def test_a_receiver_that_may_have_no_signals_pending_is_told_to_the_sender() -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
        receiver, sender = ipc.pair("signal")
        with receiver, sender:
            sender.send(b"one")  # waits in the socket
            assert receiver.receive() == b"one"
            with pytest.raises(UsageError, match=r"raise its RLIMIT_SIGPENDING"):
                sender.send(b"two")

    _in_another_process(work)


def test_a_signal_that_somebody_else_sends_is_no_message() -> None:
    def work() -> None:
        receiver, sender = ipc.pair("signal")
        with receiver, sender:
            sender.send(b"one")
            receiver.receive()
            for _ in range(50):  # more than are read at once
                os.kill(os.getpid(), signal.SIGRTMAX)
            sender.send(b"two")
            assert receiver.receive() == b"two"

    _in_another_process(work)


def test_there_are_as_many_channels_as_signals() -> None:
    def work() -> None:
        with contextlib.ExitStack() as stack, pytest.raises(UsageError, match="all 31 real-time signals are in use"):
            while True:
                for end in ipc.pair("signal"):
                    stack.enter_context(end)

    _in_another_process(work)

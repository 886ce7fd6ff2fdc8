"""What each kind says of itself is so."""

from __future__ import annotations

import threading

import pytest

from underlay import ipc
from underlay.errors import UsageError
from underlay.ipc._kinds import module_of

PATIENCE_S = 20.0


@pytest.mark.parametrize("name", ipc.KINDS)
def test_a_kind_says_what_its_file_has(name: str) -> None:
    kind = ipc.KINDS[name]
    assert kind.name == name
    assert kind.survives_process == hasattr(module_of(name), "create_persistent")
    assert kind.crosses_machines == hasattr(module_of(name), "reception")


def test_there_is_no_kind_of_another_name() -> None:
    assert "pip" not in ipc.KINDS
    with pytest.raises(UsageError, match="there is no kind of channel 'pip'; did you mean 'pipe'"):
        ipc.pair("pip")


def _sent_before_it_waits(kind: str, size_bytes: int, capacity: int) -> int:
    """How many messages go in while nobody receives; a part of one does not count."""
    receiver, sender = ipc.pair(kind, capacity=capacity, max_message_bytes=size_bytes)
    with receiver, sender:
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1_000_000:
                sender.send(bytes(size_bytes), timeout_s=0)
                sent += 1
        return sent


@pytest.mark.parametrize("kind", ["mqueue", "signal", "slots"])
def test_a_capacity_in_messages_is_exact(kind: str) -> None:
    assert [_sent_before_it_waits(kind, 7, capacity) for capacity in (1, 4, 9)] == [1, 4, 9]


@pytest.mark.parametrize("kind", ["pipe", "fifo", "tcp", "sysv", "ring", "ring-many"])
def test_a_capacity_in_bytes_is_the_least(kind: str) -> None:
    assert 1000 * _sent_before_it_waits(kind, 1000, 16_000) >= 16_000 - 1000


@pytest.mark.parametrize("kind", ["pipe", "fifo", "unix", "seqpacket", "tcp", "ring", "ring-many"])
def test_the_longest_message_goes_through_whatever_the_capacity_is(kind: str) -> None:
    receiver, sender = ipc.pair(kind, capacity=10, max_message_bytes=100_000)
    with receiver, sender:
        sending = threading.Thread(target=sender.send, args=(bytes(100_000),))
        sending.start()
        try:
            assert receiver.receive(timeout_s=PATIENCE_S) == bytes(100_000)
        finally:
            sending.join(PATIENCE_S)

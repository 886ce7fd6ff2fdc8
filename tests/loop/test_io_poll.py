"""poll(2): milliseconds are rounded up, and what was closed while watched is told once and then forgotten.

It knows POLLNVAL; which callbacks asyncio owes to whom is the contract's.
"""

from __future__ import annotations

import os
import select
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.loop._io_poll import PollPoller
from underlay.loop._reactor import READ, WRITE


class Recording:
    """Stands for ``select.poll()`` and notes how long it is told to wait."""

    def __init__(self) -> None:
        self.waits_ms: list[object] = []

    def poll(self, timeout_ms: object) -> list[tuple[int, int]]:
        self.waits_ms.append(timeout_ms)
        return []


@given(timeout_s=st.floats(0, 86400))
def test_it_never_waits_less_than_it_was_told_nor_a_millisecond_more(timeout_s: float) -> None:
    poller = PollPoller()
    poller._poll = recording = Recording()  # type: ignore[assignment]
    poller.wait(timeout_s)
    (wait_ms,) = recording.waits_ms
    assert isinstance(wait_ms, int)  # poll(2) takes whole ones
    assert timeout_s * 1e3 <= wait_ms <= timeout_s * 1e3 + 1


def test_for_ever_is_for_ever_and_zero_does_not_wait() -> None:
    poller = PollPoller()
    poller._poll = recording = Recording()  # type: ignore[assignment]
    poller.wait(None)
    poller.wait(0)
    assert recording.waits_ms == [None, 0]


def test_readiness_lasts_and_interest_can_change() -> None:
    poller = PollPoller()
    near, far = socket.socketpair()
    with near, far:
        poller.add(near.fileno(), READ)
        far.send(b"x")
        for _ in range(2):
            assert poller.wait(None) == [(near.fileno(), READ)]
        poller.modify(near.fileno(), WRITE)
        assert poller.wait(None) == [(near.fileno(), WRITE)]
        poller.remove(near.fileno())
        assert poller.wait(0) == []
        with pytest.raises(FileNotFoundError):  # as epoll_ctl(2): ENOENT
            poller.modify(near.fileno(), READ)


def test_a_closed_descriptor_is_told_once_and_the_others_go_on() -> None:
    poller = PollPoller()
    reading, writing = os.pipe()
    near, far = socket.socketpair()
    with near, far:
        poller.add(reading, READ)
        poller.add(near.fileno(), READ)
        os.close(reading)
        os.close(writing)
        assert poller.wait(None) == [(reading, select.POLLNVAL)]
        far.send(b"x")
        assert poller.wait(None) == [(near.fileno(), READ)]
        poller.remove(reading)  # again, by whoever watched it

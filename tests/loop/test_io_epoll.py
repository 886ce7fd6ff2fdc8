"""epoll(7), level-triggered: told while ready, milliseconds rounded up, closed descriptors gone by themselves.

It knows the kernel's four calls; which callbacks asyncio owes to whom is the contract's.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.loop._io_epoll import EpollPoller
from underlay.loop._reactor import READ, WRITE


class Recording:
    """Stands for ``select.epoll()`` and notes how long it is told to wait, as Python rounds it (up, as well)."""

    def __init__(self) -> None:
        self.waits_s: list[float | None] = []

    def poll(self, timeout_s: float | None) -> list[tuple[int, int]]:
        self.waits_s.append(timeout_s)
        return []


@pytest.fixture
def poller() -> Iterator[EpollPoller]:
    poller = EpollPoller()
    yield poller
    poller.close()


@given(timeout_s=st.floats(0, 86400))
def test_it_never_waits_less_than_it_was_told_nor_a_millisecond_more(timeout_s: float) -> None:
    poller = EpollPoller()
    poller.close()
    poller._epoll = recording = Recording()  # type: ignore[assignment]
    poller.wait(timeout_s)
    (wait_s,) = recording.waits_s
    assert wait_s is not None
    # A float of seconds may lie a hair beside the whole millisecond that it means.
    assert timeout_s * (1 - 1e-12) <= wait_s < timeout_s + 0.0010000001
    assert abs(wait_s * 1e3 - round(wait_s * 1e3)) < 1e-6


def test_for_ever_is_for_ever_and_zero_does_not_wait() -> None:
    poller = EpollPoller()
    poller.close()
    poller._epoll = recording = Recording()  # type: ignore[assignment]
    poller.wait(None)
    poller.wait(0)
    assert recording.waits_s == [None, 0]


def test_its_bits_are_those_of_poll() -> None:
    assert (READ, WRITE) == (select.EPOLLIN, select.EPOLLOUT) == (select.POLLIN, select.POLLOUT)


def test_readiness_lasts_and_interest_can_change(poller: EpollPoller) -> None:
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


def test_a_closed_descriptor_is_gone_and_may_be_removed_all_the_same(poller: EpollPoller) -> None:
    reading, writing = os.pipe()
    near, far = socket.socketpair()
    with near, far:
        poller.add(reading, READ)
        poller.add(near.fileno(), READ)
        os.close(reading)
        os.close(writing)
        assert poller.wait(0) == []
        poller.remove(reading)
        far.send(b"x")
        assert poller.wait(None) == [(near.fileno(), READ)]


def test_what_epoll_cannot_watch_is_refused_by_the_kernels_own_error(poller: EpollPoller) -> None:
    with open("/proc/self/stat") as file, pytest.raises(PermissionError):  # epoll_ctl(2): EPERM for files
        poller.add(file.fileno(), READ)


def test_closing_it_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    poller = EpollPoller()
    poller.close()
    assert os.listdir("/proc/self/fd") == before

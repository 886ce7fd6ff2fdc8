"""Where no descriptor is left, a channel is not made, and nothing is lost of those that the attempt had got."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
import time
from pathlib import Path

import pytest

from underlay import ipc
from underlay.errors import UsageError
from underlay.ipc import _door

_KINDS = [name for name in ipc.KINDS if name != "tcp"]


def _queues() -> set[str]:
    return {line.split()[1] for line in Path("/proc/sysvipc/msg").read_text().splitlines()[1:]}


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_channel_that_finds_no_descriptor_loses_none(kind: str) -> None:
    with contextlib.ExitStack() as warm:
        for each in ipc.pair(kind):
            warm.callback(each.close)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    failed = 0
    for room in range(20):
        gc.collect()
        before = os.listdir("/proc/self/fd")
        highest = max(map(int, before))
        with contextlib.ExitStack() as filled:
            # The numbers below the limit are all taken but so many.
            free = [number for number in range(highest) if str(number) not in before]
            for _ in free:
                filled.callback(os.close, os.dup(0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + room, hard))
            try:
                for each in ipc.pair(kind):
                    each.close()
            except (OSError, UsageError):  # the kernel has one number for both limits of message queues
                failed += 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == len(before), room
    assert failed


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_queue_of_the_kernel_stays_on_record_where_no_descriptor_is_left() -> None:
    before = _queues()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for room in range(24):
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + room, hard))
        try:
            with contextlib.suppress(OSError):
                for each in ipc.pair("sysv"):
                    each.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    gc.collect()
    for each in ipc.pair("sysv"):  # whoever makes the next one removes what is left
        each.close()
    assert not _queues() - before


def test_who_is_given_an_end_and_has_no_room_for_it_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_door, "_MOST_DESCRIPTORS", 1)  # the kernel drops the others, as it does at the limit
    before = os.listdir("/proc/self/fd")
    visitor, host = socket.socketpair()
    with visitor, host:
        assert _door.answer(host, {"end": {}}, [0] * 5)
        with pytest.raises(OSError, match="no room for the descriptors of a channel: Too many open files"):
            _door.ask(visitor, "somebody", time.monotonic() + 5)
    assert len(os.listdir("/proc/self/fd")) == len(before)

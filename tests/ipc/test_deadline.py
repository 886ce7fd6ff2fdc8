"""A time-out is a number of seconds, and whatever else somebody gives is told so at once."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest

from underlay import ipc
from underlay.errors import UsageError

_KINDS = [name for name in ipc.KINDS if name != "tcp"]
_LONG = [math.inf, 1e300, 10**400, 2**63, 1e10, 5e6]


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("timeout_s", [math.nan, "1", b"x"])
def test_a_receive_refuses_what_is_no_number_of_seconds(kind: str, timeout_s: float) -> None:
    receiver, sender = ipc.pair(kind)
    with receiver, sender, pytest.raises(UsageError, match=r"is no number of seconds; give one, as 0\.5"):
        receiver.receive(timeout_s=timeout_s)


@pytest.mark.parametrize("timeout_s", [math.nan, "1", b"x", None])
def test_an_open_refuses_what_is_no_number_of_seconds(timeout_s: float) -> None:
    for name in ("nobody-is-there", "127.0.0.1:1"):
        with pytest.raises(UsageError, match="is no number of seconds"):
            ipc.open(name, timeout_s=timeout_s)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("timeout_s", _LONG)
def test_a_receive_may_wait_as_long_as_anybody_likes(kind: str, timeout_s: float) -> None:
    receiver, sender = ipc.pair(kind)
    with receiver, sender:
        timer = threading.Timer(0.02, sender.send, [b"late"])
        timer.start()
        assert receiver.receive(timeout_s=timeout_s) == b"late"
        timer.join()


@pytest.mark.parametrize("timeout_s", _LONG)
def test_a_full_channel_may_be_waited_for_as_long_as_anybody_likes(timeout_s: float) -> None:
    receiver, sender = ipc.pair("mqueue")
    with receiver, sender:
        with pytest.raises(TimeoutError):
            while True:
                sender.send(b"x", timeout_s=0)
        timer = threading.Timer(0.02, receiver.receive)
        timer.start()
        sender.send(b"late", timeout_s=timeout_s)
        timer.join()


def _waits() -> list[Callable[[float], object]]:
    return [
        lambda timeout_s: ipc.open("example-late", timeout_s=timeout_s).close(),
        lambda timeout_s: ipc.open("127.0.0.1:1", timeout_s=timeout_s),
    ]


@pytest.mark.parametrize("timeout_s", [-1, -math.inf])
def test_a_time_that_is_over_already_waits_for_nothing(timeout_s: float) -> None:
    for wait in _waits():
        with pytest.raises(ipc.NoSuchName):
            wait(timeout_s)
    receiver, sender = ipc.pair("pipe")
    with receiver, sender, pytest.raises(TimeoutError):
        receiver.receive(timeout_s=timeout_s)


@pytest.mark.parametrize("timeout_s", [math.inf, 1e10])
def test_a_lock_may_be_waited_for_as_long_as_anybody_likes(timeout_s: float) -> None:
    semaphore = ipc.Semaphore(0)
    timer = threading.Timer(0.02, semaphore.release)
    timer.start()
    assert semaphore.acquire(timeout_s=timeout_s)
    timer.join()
    with pytest.raises(UsageError, match="is no number of seconds"):
        semaphore.acquire(timeout_s=math.nan)
    semaphore.close()

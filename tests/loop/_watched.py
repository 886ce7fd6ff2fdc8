"""What the tests of the watchdog share: loops of every make, calls that block, and what a process holds."""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import underlay
from underlay.loop import _io_signal
from underlay.loop._real_time_signals import free_signals

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# Short, so that a block of twenty is soon over.
THRESHOLD_S = 0.02
BLOCK_S = 20 * THRESHOLD_S
# Never exceeded, however loaded the machine is.
NEVER_S = 1000.0


def _uvloop() -> asyncio.AbstractEventLoop:
    if importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed; remedy: pip install uvloop")
    import uvloop

    return uvloop.new_event_loop()


LOOPS: dict[str, LoopFactory] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": _uvloop,
    "stack": lambda: underlay.loop.stack_loop("lo"),
    **{name: underlay.loop.resolve(name) for name in underlay.loop.MODELS if underlay.loop.model(name).available},
}


def sleeps() -> None:
    """Block, and let other threads run."""
    time.sleep(BLOCK_S)


def sleeps_with_the_lock() -> None:
    """Block in C without giving up the interpreter lock; signals end usleep(3) early."""
    library = ctypes.PyDLL(None)
    end_s = time.monotonic() + BLOCK_S
    while time.monotonic() < end_s:
        library.usleep(int(BLOCK_S * 1e6))


def computes() -> None:
    """Compute in C with the interpreter lock until twenty thresholds are over."""
    size, begin_s = 100_000, time.monotonic()
    while time.monotonic() < begin_s + BLOCK_S:
        pow(7, size)
        size *= 2


def loops_in_python() -> None:
    """Compute in Python until twenty thresholds are over."""
    end_s = time.monotonic() + BLOCK_S
    while time.monotonic() < end_s:
        pass


def held() -> dict[str, object]:
    """What this process holds of all that a watchdog takes."""
    for _ in range(1000):  # numbers of signal-driven loops come back once their threads are gone
        _io_signal._take_back_numbers()
        if not _io_signal._still_blocked:
            break
        time.sleep(0.001)
    status = dict(line.split(":\t", 1) for line in Path("/proc/thread-self/status").read_text().splitlines())
    timers = Path("/proc/self/timers")
    return {
        "descriptors": sorted(link for link in _links() if "underlay-watchdog" in link),
        "signals": [
            int(status[name], 16) >> (signal.SIGRTMIN - 1) for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd")
        ],
        "handlers": [signal.getsignal(number) for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1)],
        "free": sorted(free_signals),
        "timers": timers.read_text() if timers.exists() else "",
    }


def _links() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue  # the one that listed them
    return found

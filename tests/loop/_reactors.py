"""What the tests of the readiness models share: their names, a loop of each, and a fresh interpreter.

It knows how to run a coroutine on a model, how to count the turns that its loop makes, and how to
run lines in a process of their own, for what would harm this one. It refuses to know any one model.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

import underlay.loop
from underlay.loop._reactor import ReactorLoop

T = TypeVar("T")

REACTORS = ("select", "poll", "epoll", "epoll_et", "nonblocking", "signal")

# A coroutine or a child that runs longer hangs; nothing is measured by it.
LIMIT_S = 30

# How many turns an idle loop may make in IDLE_S. A sound one makes a handful (signal wakes every 5 ms while it
# watches what sends no signals); one that spins makes thousands.
IDLE_S = 0.05
FEW_TURNS = 100


def new_loop(model: str) -> ReactorLoop:
    """A loop of the model, to be closed by the caller."""
    return cast(ReactorLoop, underlay.loop.resolve(model)())


def run(model: str, main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a new loop of the model; it fails where it hangs, or where the exception handler was called."""
    reported: list[dict[str, Any]] = []

    async def limited() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with asyncio.timeout(LIMIT_S):
            return await main

    with asyncio.Runner(loop_factory=underlay.loop.resolve(model)) as runner:
        result = runner.run(limited())
    assert reported == []
    return result


def running() -> ReactorLoop:
    """The running loop, as what it is here."""
    return cast(ReactorLoop, asyncio.get_running_loop())


async def turns_while_idle() -> int:
    """Count the turns that the running loop makes while nobody has work for it.

    The non-blocking model goes round by its nature; for it, what counts is a round that found something.
    """
    loop = running()
    waited = loop._wait
    turns = 0

    def counting(timeout_s: float | None) -> list[tuple[int, int]]:
        nonlocal turns
        ready = waited(timeout_s)
        if ready or type(loop).__name__ != "NonblockingLoop":
            turns += 1
        return ready

    loop._wait = counting
    try:
        await asyncio.sleep(IDLE_S)
    finally:
        loop._wait = waited
    return turns


def in_child(lines: str) -> str:
    """Run the lines in a fresh interpreter, where a warning is an error; return what they print."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", lines],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.strip()

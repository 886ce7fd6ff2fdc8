"""A function that an object or a container held before the first world is stood in for too.

The first world of a process is what matters, so each case has a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import asyncio, random, time
from underlay.sim import World

class Limiter:
    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self.name = "limiter"
    def now(self):
        return self._clock()

class Slotted:
    __slots__ = ("clock", "unset")
    def __init__(self):
        self.clock = time.monotonic

class Holder(dict):
    pass

def made(clock):
    return {{"held": lambda: clock()}}

LIMITER = Limiter()
MATERIALIZED = Limiter()
vars(MATERIALIZED)["more"] = 1
SLOTTED = Slotted()
TABLE = {{"now": time.monotonic}}
ROW = [time.monotonic]
NESTED = {{"deep": [{{"er": time.monotonic}}]}}
CLOSURE = made(time.monotonic)
RANDOM = Limiter(random.random)

async def test(world):
    async with world.host("a"):
        await asyncio.sleep(1)
        return {read}

first = World(1).run(test)
outside = {read}
second = World(1).run(test)
assert first == second, (first, second)
assert first != outside
print(repr(first))
"""
HELD = {
    "an attribute": "LIMITER.now()",
    "an attribute of an object whose dictionary was asked for": "MATERIALIZED.now()",
    "a slot": "SLOTTED.clock()",
    "a dictionary": "TABLE['now']()",
    "a list": "ROW[0]()",
    "a list deep down": "NESTED['deep'][0]['er']()",
    "a closure of a closure": "CLOSURE['held']()",
    "chance": "RANDOM.now()",
}


@pytest.mark.parametrize("held", HELD)
def test_a_function_that_was_held_before_is_stood_in_for_and_given_back(held: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(read=HELD[held])],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    if held != "chance":
        assert round(float(done.stdout), 6) == 1001.0

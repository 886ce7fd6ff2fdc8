"""Runs of one seed compared: equal ones, and the first event that differs in others."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from underlay import sim
from underlay.sim import World
from underlay.sim._determinism import MOST_BLOCKS, Recorder
from underlay.sim._twice import check


async def serve_echo() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(echo, port=7) as server:
        await server.serve_forever()


async def talk(world: World, messages: list[bytes]) -> None:
    world.host("server", start=serve_echo)
    async with world.host("client"):
        await asyncio.sleep(1)
        reader, writer = await asyncio.open_connection("server", 7)
        for message in messages:
            writer.write(message)
            await reader.readexactly(len(message))
        writer.close()


def test_a_test_that_depends_on_its_seed_only_is_equal_twice() -> None:
    async def test(world: World) -> None:
        await talk(world, [b"x" * 3000] * 50)

    assert check(sim.SimTest(test, options={"loss": 0.02, "jitter": "3ms"}), seed=3) is None


def test_the_first_packet_that_differs_is_named() -> None:
    runs = itertools.count()

    async def test(world: World) -> None:
        number = next(runs)
        await talk(world, [b"same"] * 100 + [b"%d" % (number % 2)] + [b"same"] * 100)

    difference = check(sim.SimTest(test), seed=1)
    assert difference is not None
    assert difference.first != difference.second
    assert difference.first is not None and "client out 41 bytes" in difference.first.replace("53", "41")
    assert difference.before is not None
    assert str(difference).count("\n") == 3


def test_the_first_draw_that_differs_is_named() -> None:
    runs = itertools.count()

    async def test(world: World) -> None:
        import random

        async with world.host("a"):
            random.random()
            if next(runs) % 2:
                random.random()

    difference = check(sim.SimTest(test), seed=1)
    assert difference is not None
    assert "chance for random of a" in (difference.first or "") + (difference.second or "")


def test_a_run_that_ends_otherwise_differs() -> None:
    runs = itertools.count()

    async def test(world: World) -> None:
        if next(runs) % 2:
            raise LookupError

    difference = check(sim.SimTest(test), seed=1)
    assert difference is not None
    assert difference.second == "the test ended with LookupError"


def test_a_test_that_fails_alike_is_equal() -> None:
    async def test(world: World) -> None:
        raise LookupError

    assert check(sim.SimTest(test), seed=1) is None


def test_what_differs_elsewhere_each_time_is_told_as_that() -> None:
    runs = itertools.count()

    async def test(world: World) -> None:
        async with world.host("a"):
            for _ in range(next(runs) * 100):
                await asyncio.sleep(1)

    difference = check(sim.SimTest(test), seed=1)
    assert difference is not None


def test_arguments_are_given_to_the_test() -> None:
    async def test(world: World, one: int, *, other: int) -> None:
        assert (one, other) == (1, 2)

    assert check(sim.SimTest(test), seed=1, args=(1,), kwargs={"other": 2}) is None


@pytest.mark.parametrize("place", [0, 63, 64, 1000, 70_000])
def test_a_difference_lies_in_the_part_that_is_found(place: int) -> None:
    first, second = Recorder(), Recorder()
    for number in range(80_000):
        first.note(str(number))
        second.note("other" if number == place else str(number))
    part = first.part_from(second)
    assert part is not None and place in part


def test_a_long_run_is_kept_in_little_memory_and_still_compared() -> None:
    first, second = Recorder(), Recorder()
    for number in range(64 * MOST_BLOCKS + 100_000):
        first.note(str(number))
        if number < 300_000:
            second.note(str(number))
    assert len(first._digests) < MOST_BLOCKS
    part = first.part_from(second)
    assert part is not None
    assert part.start <= 300_000 <= part.stop


def test_who_is_not_recorded_pays_nothing() -> None:
    from underlay.link import FRAME
    from underlay.sim._loop import SimLoop

    turn = SimLoop.turn

    async def test(world: World) -> None:
        pass

    check(sim.SimTest(test), seed=1)
    assert SimLoop.turn is turn
    assert not FRAME.listeners

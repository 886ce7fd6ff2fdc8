"""Calls that a program hands to a pool: made at once, told when a thread would have had them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from underlay.sim import World


def run(test: Callable[[World], Awaitable[object]], seed: int = 1) -> object:
    return World(seed).run(test)  # type: ignore[arg-type]


def fail() -> None:
    raise LookupError("of the call")


def test_a_pools_call_is_made_without_a_thread_and_told_later() -> None:
    async def test(world: World) -> object:
        async with world.host("a"):
            with ThreadPoolExecutor() as pool:
                future = pool.submit(pow, 2, 10)
                was_done = future.done()
                result = await asyncio.wrap_future(future)
                return was_done, result, world.now > 0

    assert run(test) == (False, 1024, True)


def test_a_call_that_sleeps_takes_its_thread_and_not_the_host() -> None:
    async def test(world: World) -> object:
        async with world.host("a"):
            with ThreadPoolExecutor() as pool:
                sleeps = [asyncio.wrap_future(pool.submit(time.sleep, 5)) for _ in range(3)]
                await asyncio.sleep(1)
                at_s = world.now
                await asyncio.gather(*sleeps)
                return at_s, world.now

    assert run(test) == (pytest.approx(1), pytest.approx(5, abs=0.001))


def test_code_that_waits_for_a_result_is_busy_meanwhile() -> None:
    async def test(world: World) -> object:
        async with world.host("a"):
            with ThreadPoolExecutor() as pool:
                future = pool.submit(time.sleep, 5)
                with pytest.raises(TimeoutError):
                    future.result(timeout=1)
                future.result()
                assert time.monotonic() == pytest.approx(1005, abs=0.001)
                assert list(pool.map(abs, [-1, -2])) == [1, 2]
            await asyncio.sleep(0)
            return world.now

    assert run(test) == pytest.approx(5, abs=0.001)


def test_an_error_of_a_call_is_told_as_it_is() -> None:
    async def test(world: World) -> None:
        async with world.host("a"):
            with ThreadPoolExecutor() as pool:
                assert isinstance(pool.submit(fail).exception(), LookupError)
                with pytest.raises(LookupError, match="of the call"):
                    await asyncio.wrap_future(pool.submit(fail))
                with pytest.raises(LookupError, match="of the call"):
                    await asyncio.to_thread(fail)
            with pytest.raises(RuntimeError, match="after shutdown"):
                pool.submit(fail)

    run(test)


def test_the_functions_that_wait_for_several_do() -> None:
    async def test(world: World) -> None:
        async with world.host("a"):
            with ThreadPoolExecutor() as pool:
                futures = [pool.submit(time.sleep, each) for each in (3, 1, 2)]
                done, pending = concurrent.futures.wait(futures, timeout=2.5)
                assert (len(done), len(pending)) == (2, 1)
                assert len(list(concurrent.futures.as_completed(futures))) == 3

    run(test)


def test_anyios_threads_are_calls_too() -> None:
    to_thread = pytest.importorskip("anyio.to_thread")

    async def test(world: World) -> object:
        async with world.host("a"):
            result = await to_thread.run_sync(pow, 2, 10)
            await to_thread.run_sync(time.sleep, 2)
            return result, world.now

    assert run(test) == (1024, pytest.approx(2, abs=0.001))

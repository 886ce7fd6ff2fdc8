"""What Python leaves open is the same in every process: the order of sets, and when garbage is collected."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest

from underlay.link import FRAME
from underlay.sim import World
from underlay.sim._order import COLLECT_EVERY, COLLECT_EVERY_A_HOST, Garbage

ROOT = Path(__file__).resolve().parents[2]


def run(test: Callable[[World], Awaitable[object]], seed: int = 1) -> object:
    return World(seed).run(test)  # type: ignore[arg-type]


# --- one world, several processes ------------------------------------------------------------------------------------


async def chat() -> None:
    """A server that tells everybody, and keeps them in a set, as everybody writes it."""
    writers: set[asyncio.StreamWriter] = set()
    loop_tasks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        while line := await reader.readline():
            for each in writers:
                each.write(line)
            task = asyncio.create_task(asyncio.sleep(random.random()))
            loop_tasks.add(task)
            task.add_done_callback(loop_tasks.discard)
        writers.discard(writer)
        writer.close()

    async with await asyncio.start_server(talk, port=7) as server:
        await server.serve_forever()


async def guest(notes: list[object]) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(1)
    reader, writer = await asyncio.open_connection("server", 7)
    futures = {loop.create_future() for _ in range(20)}
    for number, future in enumerate(futures):
        loop.call_later(random.random(), future.set_result, number)
    done, pending = await asyncio.wait(futures, timeout=0.5)
    notes.append(([each.result() for each in done], len(pending)))
    gathered = {asyncio.gather(asyncio.sleep(random.random(), number)) for number in range(10)}
    notes.append([await each for each in gathered])
    notes.append([await each for each in asyncio.as_completed([asyncio.sleep(0, number) for number in range(20)])])
    with concurrent.futures.ThreadPoolExecutor() as pool:
        calls = [pool.submit(abs, number) for number in range(20)]
        notes.append([each.result() for each in concurrent.futures.as_completed(calls)])
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def worker(number: int) -> None:
        async with lock:
            writer.write(b"%d of %d\n" % (number, await queue.get()))

    lock = asyncio.Lock()
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(worker(number), name=f"worker {number}")
        await asyncio.sleep(0)
        notes.append([task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("worker")])
        for number in range(10):
            queue.put_nowait(number)
    try:
        async with asyncio.timeout(3):
            while line := await reader.readline():
                notes.append(line)
    except TimeoutError:
        pass
    writer.close()


def trace() -> str:
    """The digest of all that a world did: its packets, and what its programs saw."""
    digest = hashlib.sha256()
    notes: list[object] = []

    async def test(world: World) -> None:
        world.host("server", start=chat)
        for name in "abcde":
            world.host(name, start=lambda: guest(notes))
        await asyncio.sleep(20)

    with FRAME.listening(lambda name, way, data, now, comment: digest.update(f"{name}{way}{now}".encode() + data)):
        World(7, loss=0.02, jitter="3ms").run(test)
    digest.update(repr(notes).encode())
    return f"{digest.hexdigest()} {len(notes)}"


def main() -> None:
    """Run in a process of its own, whose memory is laid out as its number says."""
    number = int(sys.argv[1])
    rng = random.Random(number)
    ballast = [bytearray(rng.randrange(10, 5000)) for _ in range(number * 5000)]
    del ballast[:: number + 1]
    print(trace())


def in_a_process(number: int, python: str = sys.executable) -> str:
    return subprocess.run(
        [python, str(Path(__file__)), str(number)],
        env={**os.environ, "PYTHONHASHSEED": str(number), "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_one_seed_gives_one_run_whatever_the_hash_seed_and_the_memory() -> None:
    traces = [in_a_process(number) for number in range(3)]
    assert len(set(traces)) == 1
    assert int(traces[0].split()[1]) > 100


def test_as_completed_begins_what_it_is_given_in_its_order_and_only_when_it_is_asked() -> None:
    async def test(world: World) -> list[int]:
        async with world.host("a"):
            began: list[int] = []

            async def begin(number: int) -> None:
                began.append(number)

            for each in asyncio.as_completed([begin(number) for number in range(20)]):
                await each
            with pytest.raises(TypeError, match="an iterable of"):
                list(asyncio.as_completed(asyncio.get_running_loop().create_future()))
            return began

    assert run(test) == list(range(20))


class OfALibrary(asyncio.Protocol):
    """A library's own, such as servers keep in sets."""


class OfATransport(asyncio.Transport):
    """As each transport that there is; ``asyncio.Transport`` itself has no room for a number."""


# --- within one process ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [asyncio.Queue, asyncio.Event, asyncio.Lock, asyncio.StreamReader, OfALibrary, OfATransport],
)
def test_asyncios_objects_stand_in_a_set_in_the_order_of_their_making(make: Callable[[], object]) -> None:
    async def test(world: World) -> object:
        async with world.host("a"):
            made = [make() for _ in range(7)]
            some = set(made)
            return list(some) == made or [hash(each) % 32 for each in some] == sorted(hash(each) % 32 for each in some)

    async def outside() -> bool:  # a StreamReader without a loop would make one, which nobody closes
        return hash(one := make()) == object.__hash__(one)

    assert run(test) is True
    assert asyncio.run(outside())


def test_tasks_that_are_cancelled_together_end_in_their_order() -> None:
    async def test(world: World) -> object:
        ended: list[int] = []

        async def wait(number: int) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                ended.append(number)

        async with world.host("a"):
            with pytest.raises(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    for number in range(50):
                        group.create_task(wait(number))
                    await asyncio.sleep(1)
                    raise LookupError
        return ended

    first = run(test)
    assert isinstance(first, list) and sorted(first) == list(range(50))
    assert first == run(test)


# --- asynchronous generators and garbage -----------------------------------------------------------------------------


async def numbers(ended: list[str]) -> AsyncGenerator[int, None]:
    try:
        for number in range(10):
            yield number
    finally:
        await asyncio.sleep(1)
        ended.append("closed")


def test_a_generator_that_nobody_goes_on_with_is_closed_on_its_loop() -> None:
    async def test(world: World) -> object:
        ended: list[str] = []
        async with world.host("a"):
            async for _ in numbers(ended):
                break
            assert not ended
            await asyncio.sleep(2)
        return ended

    assert run(test) == ["closed"]


def test_a_program_that_returns_closes_its_generators() -> None:
    async def test(world: World) -> object:
        ended: list[str] = []
        kept: list[AsyncGenerator[int, None]] = []

        async def quick() -> AsyncGenerator[int, None]:
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                ended.append(world.current.name if world.current else "nowhere")

        async def program() -> None:
            kept.append(quick())
            await anext(kept[0])

        world.host("a", start=program)
        await asyncio.sleep(1)
        return ended

    assert run(test) == ["a"]


def test_a_generator_of_a_crashed_host_does_nothing_any_more() -> None:
    async def test(world: World) -> object:
        ended: list[str] = []

        async def program() -> None:
            async for _ in numbers(ended):
                await asyncio.sleep(100)

        host = world.host("a", start=program)
        await asyncio.sleep(1)
        host.crash()
        await asyncio.sleep(5)
        return ended

    assert run(test) == []


def test_garbage_is_collected_at_moments_of_the_world_and_collection_is_as_before_after_it() -> None:
    collected: list[float] = []

    class Cycle:
        def __init__(self, world: World) -> None:
            self.world = world
            self.me = self

        def __del__(self) -> None:
            collected.append(self.world.now)

    async def test(world: World) -> None:
        assert not gc.isenabled()
        async with world.host("a"):
            for _ in range(6000):
                Cycle(world)
                await asyncio.sleep(1)

    assert gc.isenabled()
    run(test)
    assert gc.isenabled()
    gc.collect()
    first = list(collected)
    collected.clear()
    unrelated = [[] for _ in range(12_345)]  # type: ignore[var-annotated]
    run(test)
    gc.collect()
    assert unrelated and collected == first
    assert len(set(first[:4000])) == 1


def test_garbage_is_collected_more_seldom_the_more_hosts_a_world_has(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[int] = []
    monkeypatch.setattr(gc, "collect", collected.append)

    def times(hosts: int, moments: int) -> int:
        collected.clear()
        garbage = Garbage()
        for moment in range(moments):
            if moment >= garbage.due_at:
                garbage.collect(moment, hosts)
        return len(collected)

    assert times(3, 10 * COLLECT_EVERY + 1) == 10
    assert collected == [2, 1, 1, 2, 1, 1, 1, 1, 1, 1], "all of it after four times as long each time"
    assert times(1000, 300_000) == 300_000 // (1000 * COLLECT_EVERY_A_HOST)


if __name__ == "__main__":
    main()

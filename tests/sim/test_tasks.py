"""Which tasks a loop of a world knows: all that run on it, however they were made, in the order in which they began."""

from __future__ import annotations

import asyncio
import gc
import sys
from asyncio import tasks
from typing import Any

import pytest

from underlay.sim import Host, World


class LibrariesOwn(asyncio.Task[None]):
    """A library's own class of tasks."""


async def wait() -> None:
    await asyncio.Event().wait()


def made_in_every_way(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[None]]:
    made: list[asyncio.Task[None]] = [
        loop.create_task(wait()),
        asyncio.Task(wait(), loop=loop),
        LibrariesOwn(wait(), loop=loop),
    ]
    if sys.version_info >= (3, 12):  # as aiohttp does for each request
        made += [kind(wait(), loop=loop, eager_start=True) for kind in (asyncio.Task, LibrariesOwn)]
    return made


def test_a_loop_knows_its_tasks_however_they_were_made_and_in_their_order() -> None:
    async def test(world: World) -> None:
        async with world.host("a") as host:
            made = made_in_every_way(host.loop)
            known = host.loop.tasks()
            assert [task for task in known if task in made] == made
            assert set(known) == asyncio.all_tasks()
            async with world.host("b") as other:
                assert set(other.loop.tasks()) == asyncio.all_tasks()
                assert not set(other.loop.tasks()) & set(made)

    World(1).run(test)


def test_tasks_with_names_of_their_own_keep_their_order() -> None:
    async def test(world: World) -> None:
        async with world.host("a") as host:
            made = []
            for name in ("z", "Task-1", "a", None):
                made.append(asyncio.create_task(wait(), name=name))
                made.append(host.loop.create_task(wait()))
            made[-1].set_name("Task-2")
            made[-1].set_name("b")
            assert [task.get_name() for task in made][:5:2] == ["z", "Task-1", "a"]
            assert [task for task in host.loop.tasks() if task in made] == made

    World(1).run(test)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="create_task takes eager_start since Python 3.14")
def test_an_eager_task_has_its_name_when_it_begins() -> None:
    async def name() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    async def test(world: World) -> str:
        async with world.host("a") as host:
            options: dict[str, Any] = {"name": "eager", "eager_start": True}
            return await host.loop.create_task(name(), **options)

    assert World(1).run(test) == "eager"


def test_tasks_that_a_library_made_are_cancelled_when_their_program_ends() -> None:
    ended: list[str] = []
    kept: list[asyncio.Task[None]] = []

    async def program() -> None:
        for task in made_in_every_way(asyncio.get_running_loop()):
            task.add_done_callback(lambda task: ended.append(type(task).__name__) if task.cancelled() else None)
            kept.append(task)
        await asyncio.sleep(0)

    async def test(world: World) -> None:
        world.host("a", start=program)
        await asyncio.sleep(1)
        assert len(ended) == len(kept)

    World(1).run(test)


def test_a_loop_forgets_tasks_that_have_ended() -> None:
    async def nothing() -> None:
        pass

    async def test(world: World) -> int:
        async with world.host("a") as host:
            for _ in range(1000):
                await asyncio.create_task(nothing())
            return len(host.loop._tasks)

    assert World(1).run(test) < 10


def test_after_a_world_asyncio_keeps_its_tasks_as_before() -> None:
    async def test(world: World) -> None:
        pass

    World(1).run(test)
    kept = tasks._scheduled_tasks if sys.version_info >= (3, 12) else tasks._all_tasks  # type: ignore[attr-defined]
    assert "add" not in vars(kept)

    async def main() -> int:
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio's C code keeps the list, and looks through it quickly")
@pytest.mark.parametrize("hosts", [5, 50])
def test_the_end_of_a_program_asks_for_no_other_loops_tasks(hosts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Host] = []
    monkeypatch.setattr(asyncio, "all_tasks", asked.append)

    async def program() -> None:
        await asyncio.sleep(1)

    async def test(world: World) -> None:
        for number in range(hosts):
            world.host(f"h{number}", start=program)
        await asyncio.sleep(2)

    World(1).run(test)
    gc.collect()
    assert asked == []

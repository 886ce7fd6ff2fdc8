"""Where the tasks of a world stand that nothing wakes: the lines on which they wait, and what may keep them waiting.

This file knows how a suspended coroutine tells its line. It refuses to know why nothing is left to happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from types import FrameType
from typing import TYPE_CHECKING, Final

from ._refusals import line_of

if TYPE_CHECKING:
    from ._world import World

MOST_LINES: Final = 30
"""How many are told; of a thousand hosts the first ones tell enough."""


def told(world: World, body: object, body_task: asyncio.Task[None] | None) -> str:
    """One line for the test's own coroutine, then for each task of the hosts, then for what is down, cut or held."""
    lines = list(islice(_lines(world, body, body_task), MOST_LINES + 1))
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = ["… and more"]
    return "\n".join(["waiting:", *(f"  {line}" for line in lines)])


def _lines(world: World, body: object, body_task: asyncio.Task[None] | None) -> Iterator[str]:
    place = next(
        (host.name for host in world.hosts.values() if host.has_program and body_task in host.loop.tasks()), ""
    )
    yield f"the test{f', on {place}' if place else ''}: {_place_of(body)}"
    for host in world.hosts.values():
        if host.has_program:
            for task in host.loop.tasks():
                if task is not body_task:
                    yield f"{host.name}: {_place_of(task.get_coro())}"
    for host in world.hosts.values():
        if not host.is_up or host.is_paused:
            yield f"{host.name} is {'paused' if host.is_up else 'down'}"
    for way in world.internet.ways():
        if way.is_cut or way.is_held:
            yield f"{way.sender} -> {way.target} is {'cut' if way.is_cut else 'held'}"


def _place_of(coroutine: object) -> str:
    """As in "test_orders.py:12 in ask, in StreamReader.readline"; the innermost line that is the program's."""
    chain = list(_chain(coroutine))
    if not chain:
        return _name_of(coroutine)
    at = next((at for at in reversed(range(len(chain))) if line_of([chain[at][1]])), 0)
    frame = chain[at][1]
    place = line_of(each for _, each in reversed(chain)) or f"{frame.f_code.co_filename}:{frame.f_lineno}"
    below = f", in {chain[at + 1][0]}" if at + 1 < len(chain) else ""
    return f"{place} in {chain[at][0]}{below}"


def _chain(awaited: object) -> Iterator[tuple[str, FrameType]]:
    """The coroutine, what it awaits, what that awaits, …; as far as they have frames."""
    while awaited is not None:
        for frame_name, next_name in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            frame = getattr(awaited, frame_name, None)
            if isinstance(frame, FrameType):
                yield _name_of(awaited), frame
                awaited = getattr(awaited, next_name)
                break
        else:
            return


def _name_of(coroutine: object) -> str:
    return str(getattr(coroutine, "__qualname__", repr(coroutine)))

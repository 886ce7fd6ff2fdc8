"""Faults as data: what a world notes of what is done to it, and that the notes can be applied again.

It knows the log. What a fault does to programs is in `test_world.py`.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from underlay.errors import UsageError
from underlay.sim import (
    Applied,
    ClockChange,
    Crash,
    Fault,
    Heal,
    Hold,
    Isolate,
    LinkChange,
    Partition,
    Pause,
    Release,
    Restart,
    Resume,
    World,
    _faults,
)


async def do_all(world: World) -> None:
    a, _ = world.host("a"), world.host("b")
    await asyncio.sleep(1)
    world.partition("a", to="b")
    world.heal("a", to="b")
    world.partition("a")
    world.heal()
    world.hold("a", "b")
    world.release("a", "b")
    await asyncio.sleep(1)
    world.link("a", "b", delay="1s", one_way=True)
    a.pause()
    a.resume()
    a.clock.offset_s = -60.0
    a.clock.drift = 0.5
    a.crash()
    a.restart()


ALL: list[tuple[float, Fault]] = [
    (1, Partition(("a",), ("b",), one_way=True)),
    (1, Heal(("a",), ("b",), one_way=True)),
    (1, Partition(("a",), ("b",))),
    (1, Heal()),
    (1, Hold(("a",), ("b",))),
    (1, Release(("a",), ("b",))),
    (2, LinkChange(("a",), ("b",), one_way=True, words=(("delay", "1s"),))),
    (2, Pause("a")),
    (2, Resume("a")),
    (2, ClockChange("a", offset_s=-60.0)),
    (2, ClockChange("a", drift=0.5)),
    (2, Crash("a")),
    (2, Restart("a")),
]


def test_a_world_notes_each_fault_with_its_time() -> None:
    world = World(1)
    world.run(do_all)
    assert [(round(each.at_s, 6), each.fault) for each in world.faults.applied] == ALL


def test_a_fault_that_was_noted_can_be_applied_again() -> None:
    async def again(world: World) -> None:
        world.host("a"), world.host("b")
        for _, fault in ALL:
            fault.apply(world)

    world = World(1)
    world.run(again)
    assert [each.fault for each in world.faults.applied] == [fault for _, fault in ALL]


def test_what_undoes_a_fault_leaves_the_world_as_it_was() -> None:
    async def test(world: World) -> None:
        a, _ = world.host("a"), world.host("b")
        for fault in (
            Isolate("a"),
            Partition(("a",), ("b",)),
            Hold(("a",), ("b",)),
            Crash("a"),
            Pause("a"),
            ClockChange("a", 9.0),
        ):
            fault.apply(world)
            undoing = fault.undoing()
            assert undoing is not None
            undoing.apply(world)
        assert not any(way.is_cut or way.is_held for way in world.internet.ways())
        assert a.is_up and not a.is_paused and not a.clock.offset_s

    World(1).run(test)


def cut_held_and_disturbed(world: World) -> dict[str, list[str]]:
    ways = world.internet.ways()
    return {
        "cut": [way.label for way in ways if way.is_cut],
        "held": [way.label for way in ways if way.is_held],
        "disturbed": [way.label for way in ways if way.undisturbed],
    }


BOTH: list[str] = ["a->b", "b->a", "a->c", "c->a"]


@pytest.mark.parametrize(
    ("do", "undo", "state"),
    [("partition", "heal", "cut"), ("hold", "release", "held"), ("disturb", "calm", "disturbed")],
)
@pytest.mark.parametrize(
    ("ends", "to", "ways"),
    [
        (("a",), None, BOTH),
        (("a", "b", "c"), None, BOTH),
        (("a", "b"), None, BOTH[:2]),
        (("a", ["b", "c"]), None, BOTH),
        ((["b", "c"], "a"), None, ["b->a", "a->b", "c->a", "a->c"]),
        (("a",), "b", ["a->b"]),
        (("a",), ["b", "c"], ["a->b", "a->c"]),
    ],
)
def test_faults_of_ways_take_the_same_words_and_are_undone_by_them_or_by_none(
    do: str, undo: str, state: str, ends: tuple[object, ...], to: object, ways: list[str]
) -> None:
    async def test(world: World) -> None:
        for name in ("a", "b", "c"):
            world.host(name)
        nothing: dict[str, list[str]] = {"cut": [], "held": [], "disturbed": []}
        words = {"loss": 0.5} if do == "disturb" else {}
        for named in ((*ends,), ()):
            getattr(world, do)(*ends, to=to, **words)
            assert cut_held_and_disturbed(world) == {**nothing, state: ways}
            getattr(world, undo)(*named, **({"to": to} if named else {}))
            assert cut_held_and_disturbed(world) == nothing

    World(1).run(test)


def test_a_host_that_is_made_later_is_parted_from_those_that_are_parted_from_all() -> None:
    async def test(world: World) -> list[list[str]]:
        for name in ("a", "b"):
            world.host(name)
        world.isolate("a")
        world.partition("b", "a")
        world.host("c")
        seen = [cut_held_and_disturbed(world)["cut"]]
        world.heal("a")
        world.host("d")
        return [*seen, cut_held_and_disturbed(world)["cut"]]

    assert World(1).run(test) == [["a->b", "b->a", "a->c", "c->a"], []]


def test_one_direction_is_named_once() -> None:
    async def test(world: World) -> None:
        world.host("a"), world.host("b"), world.host("c")
        world.partition("a", "b", to="c")

    with pytest.raises(UsageError, match="to= names all, of one direction"):
        World(1).run(test)


def test_the_log_can_be_written_to_a_file() -> None:
    world = World(1, only_faults=[1])
    world.faults.draw(3.25, Crash("a"), 4.0)
    world.faults.draw(5.0, Pause("a"))
    world.run(do_all)
    told = json.loads(json.dumps(world.faults.as_json()))
    assert [each["kind"] for each in told["applied"]][:3] == ["partition", "heal", "partition"]
    assert told["drawn"][0] == {
        "number": 0, "at_s": 3.25, "until_s": 4.0, "kind": "crash", "host": "a", "wanted": False
    }  # fmt: skip
    assert told["drawn"][1]["wanted"] is True


def test_what_a_drawn_fault_causes_bears_its_number() -> None:
    async def test(world: World) -> None:
        host = world.host("a")
        with world.faults.caused_by(world.faults.draw(0.0, Pause("a")).number):
            host.pause()
        host.resume()

    world = World(1)
    world.run(test)
    assert world.faults.applied == [Applied(0.0, Pause("a"), 0), Applied(0.0, Resume("a"), None)]


def test_a_log_is_bounded_and_counts_what_it_did_not_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_faults, "LIMIT_FAULTS", 5)
    world = World(1)
    world.run(do_all)
    assert (len(world.faults.applied), world.faults.unlogged) == (5, len(ALL) - 5)

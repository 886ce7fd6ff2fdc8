"""Random faults: what is drawn, that it is applied and undone, and that a test may assert recovery afterwards.

It knows schedules. What a single fault does is in `test_host.py` and `test_internet.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.errors import UsageError
from underlay.sim import (
    Chaos,
    ClockChange,
    Conditions,
    Crash,
    Disturb,
    Drawn,
    Hold,
    Kill,
    Partition,
    Pause,
    Slow,
    World,
)
from underlay.sim._chaos import _keys


def drawn(seed: int, *kinds: str, **words: float) -> tuple[Drawn, ...]:
    """The faults of a schedule of that seed, for three hosts."""

    async def test(world: World) -> tuple[Drawn, ...]:
        for number in range(3):
            world.host(f"h{number}")
        return world.chaos(*kinds, **words).faults  # type: ignore[arg-type]

    return World(seed).run(test)


# --- drawing ---------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 10**6),
    st.sets(st.sampled_from(Chaos.KINDS)),
    st.integers(1, 4),
    st.floats(0.1, 20),
    st.floats(0, 20),
)
@settings(max_examples=60, deadline=None)
def test_a_schedule_keeps_its_budget(seed: int, kinds: set[str], at_once: int, every: float, each: float) -> None:
    faults = drawn(seed, *sorted(kinds), at_once=at_once, every=every, each=each, duration=100, most=50)
    assert len(faults) <= 50
    assert [fault.number for fault in faults] == list(range(len(faults)))
    for fault in faults:
        assert fault.until_s is not None
        assert 0 <= fault.at_s <= fault.until_s <= 100
        under_way = [each for each in faults if each.at_s <= fault.at_s < (each.until_s or 0)]
        assert len(under_way) <= at_once
        for other in under_way:
            assert other is fault or not set(_keys(other.fault)) & set(_keys(fault.fault))


def test_each_kind_of_fault_is_drawn_and_no_other() -> None:
    expected = {
        "partition": Partition,
        "one_way_partition": Partition,
        "disturb": Disturb,
        "crash": Crash,
        "kill": Kill,
        "pause": Pause,
        "slow": Slow,
        "clock": ClockChange,
    }
    for kind, fault in expected.items():
        faults = drawn(1, kind, duration=1000)
        assert faults
        assert all(type(each.fault) is fault for each in faults)
    assert {type(each.fault) for each in drawn(1, duration=5000)} >= set(expected.values())


def test_a_schedule_is_the_seeds_and_another_of_the_same_world_differs() -> None:
    assert drawn(1) == drawn(1) != drawn(2)

    async def test(world: World) -> bool:
        world.host("a"), world.host("b")
        one, other = world.chaos("crash").faults, world.chaos("crash").faults
        return [each.at_s for each in one] != [each.at_s for each in other]

    assert World(1).run(test)


def test_only_the_hosts_that_are_named_are_befallen() -> None:
    async def test(world: World) -> set[str]:
        for number in range(5):
            world.host(f"h{number}")
        chaos = world.chaos(duration=2000, hosts=["h1", world.host("h3")])
        return {name for fault in chaos.faults for key in _keys(fault.fault) for name in key[1:]}

    assert World(3).run(test) == {"h1", "h3"}


def test_hosts_where_the_test_stands_are_spared_but_their_ways_are_not() -> None:
    async def test(world: World) -> tuple[set[str], set[str]]:
        world.host("db")
        async with world.host("client"):
            faults = [each.fault for each in world.chaos(duration=2000).faults]
        machines = {each.host for each in faults if isinstance(each, Crash | Kill | Pause | Slow | ClockChange)}
        ends = {name for each in faults if isinstance(each, Partition) for name in (*each.ones, *each.others)}
        return machines, ends

    assert World(1).run(test) == ({"db"}, {"db", "client"})


@pytest.mark.parametrize(
    ("kinds", "words", "complaint"),
    [
        (("crsh",), {}, "chaos knows no 'crsh'; did you mean 'crash'"),
        ((), {"hosts": ["h9"]}, "there is no host 'h9'"),
        ((), {"at_once": 0}, "chaos without a fault cannot be"),
        (("partition",), {"hosts": ["h1"]}, "chaos has nobody to befall"),
    ],
)
def test_a_chaos_that_cannot_be_is_refused(kinds: tuple[str, ...], words: dict[str, object], complaint: str) -> None:
    async def test(world: World) -> None:
        for number in range(3):
            world.host(f"h{number}")
        world.chaos(*kinds, **words)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match=complaint) as caught:
        World(1).run(test)
    chaos = [frame.frame.f_locals["self"] for frame in caught.traceback if str(frame.path).endswith("/_chaos.py")]
    assert repr(chaos[0]).startswith("<Chaos of 0 faults")  # a traceback shows it, half made


# --- applying --------------------------------------------------------------------------------------------------------


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def serve() -> None:
    async with await asyncio.start_server(answer, port=7) as server:
        await server.serve_forever()


async def ask(host: str) -> bytes:
    reader, writer = await asyncio.open_connection(host, 7)
    try:
        writer.write(b"hello\n")
        return await reader.readline()
    finally:
        writer.close()


def ends_well(seed: int, only: Collection[int] | None = None, *kinds: str) -> World:
    worlds = []

    async def test(world: World) -> None:
        worlds.append(world)
        for name in ("a", "b", "c"):
            world.host(name, start=serve)
        world.link("a", "b", delay="7ms", one_way=True)
        world.host("c").clock.offset_s = 5.0
        async with world.host("client"):
            await asyncio.sleep(1)
            chaos = world.chaos(*kinds, duration=60, every=2, each=5, at_once=3)

            async def go_on(host: str) -> None:
                while True:
                    try:
                        async with asyncio.timeout(10):
                            await ask(host)
                    except OSError:
                        pass
                    await asyncio.sleep(0.5)

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(go_on(host)) for host in ("a", "b", "c")]
                await chaos.over()
                for task in tasks:
                    task.cancel()
            # From now on all is as it was.
            assert [await ask(host) for host in ("a", "b", "c")] == [b"hello\n"] * 3
        for host in world.hosts.values():
            assert (host.is_up, host.is_paused, host.turn_cost_s, host.clock.drift) == (True, False, 0.0, 0.0)
            assert host.clock.offset_s == (5.0 if host.name == "c" else 0.0)
        for way in world.internet.ways():
            assert not way.is_cut
            assert not way.is_held
            expected = Conditions(delay_s=0.007 if way.label == "a->b" else 0.0005)
            assert way.conditions == expected

    World(seed, only_faults=only).run(test)
    return worlds[0]


@pytest.mark.parametrize("seed", range(12))
def test_after_the_end_of_chaos_all_is_as_it_was(seed: int) -> None:
    world = ends_well(seed)
    assert len(world.faults.drawn) > 5
    assert {each.number for each in world.faults.applied if each.number is not None} <= {
        each.number for each in world.faults.drawn
    }


@pytest.mark.parametrize("kind", Chaos.KINDS)
def test_each_kind_is_undone(kind: str) -> None:
    ends_well(5, None, kind)


def among_lans(world: World) -> None:
    """Two hosts in an office, one on the internet, and a router."""
    world.lan("office")
    world.router("gateway", "office", "internet")
    for name in ("a", "b"):
        world.host(name, start=serve, on="office")
    world.host("c", start=serve)


@pytest.mark.parametrize("kind", Chaos.KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_among_lans_each_kind_is_drawn_applied_and_undone(seed: int, kind: str) -> None:
    async def test(world: World) -> None:
        among_lans(world)
        chaos = world.chaos(kind, duration=60, every=2, each=5, at_once=3)
        assert chaos.faults
        await chaos.over()
        await asyncio.sleep(60)  # addresses that were asked for in vain are asked for again
        for client, server in (("a", "b"), ("b", "c"), ("c", "a")):
            async with world.host(client):
                assert await ask(server) == b"hello\n"

    World(seed).run(test)


def test_on_a_lan_wires_are_held_and_disturbed() -> None:
    async def test(world: World) -> set[tuple[str, str]]:
        world.lan("office")
        for name in ("a", "b"):
            world.host(name, on="office")
        faults = [each.fault for each in world.chaos("hold", "disturb", duration=300).faults]
        return {(each.ones[0], each.others[0]) for each in faults if isinstance(each, Hold | Disturb)}

    assert World(1).run(test) == {("a", "office"), ("office", "a"), ("b", "office"), ("office", "b")}


def test_a_part_of_a_schedule_is_applied_alone_and_was_drawn_as_ever() -> None:
    whole = ends_well(3)
    part = ends_well(3, [2, 4])
    assert part.faults.drawn == whole.faults.drawn
    applied = [each for each in part.faults.applied if each.number is not None]
    assert {each.number for each in applied} == {2, 4}
    assert {each.at_s for each in applied} <= {
        at for each in part.faults.drawn for at in (each.at_s, each.until_s) if each.number in (2, 4)
    }


def test_what_the_test_has_broken_itself_is_skipped_and_counted() -> None:
    async def test(world: World) -> tuple[bool, int, int]:
        world.host("a", start=serve).crash()
        chaos = world.chaos("crash", "kill", "pause", "slow", duration=100)
        await chaos.over()
        return world.host("a").is_up, chaos.skipped, len(chaos.faults)

    is_up, skipped, faults = World(1).run(test)
    assert not is_up
    assert skipped == faults > 0


def test_a_disturbed_way_keeps_what_was_said_of_it_and_gets_it_back() -> None:
    async def test(world: World) -> list[Conditions]:
        world.host("a"), world.host("b")
        world.link("a", "b", delay="7ms", rate="1mbit")
        seen = []
        for step in ("loss", "delay", "calm", "calm"):
            if step == "loss":
                world.disturb("a", "b", loss=0.5)
            elif step == "delay":
                world.disturb("a", "b", delay="1s")
            else:
                world.calm("a", "b")
            seen.append(world.internet.way("a", "b").conditions)
        return seen

    base = Conditions(delay_s=0.007, rate_bits_per_s=1e6)
    assert World(1).run(test) == [
        base.changed(loss=0.5),
        base.changed(loss=0.5, delay=1.0),
        base,
        base,
    ]

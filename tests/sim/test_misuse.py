"""What a world answers to somebody who asks for what cannot be: a sentence, at once, and nothing is left behind."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from underlay.errors import UnderlayError, UsageError
from underlay.sim import Stalled, World


async def nothing(world: World) -> None:
    pass


async def sleep_long() -> None:
    await asyncio.sleep(3600)


def in_a_world(act: Callable[[World], object]) -> object:
    """Do it in a world of two hosts, on neither."""

    async def test(world: World) -> object:
        world.host("a", start=sleep_long), world.host("b", start=sleep_long)
        did = act(world)
        return await did if isinstance(did, Awaitable) else did

    return World(1).run(test)


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"20ms", [1], 1j, datetime.timedelta(1), None, 10**400, "9" * 400 + "s"], ids=repr)
def test_what_is_no_time_is_refused_in_a_sentence(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^delay="):
        World(delay=value)


@pytest.mark.parametrize("value", ["x", 1.5, float("nan"), float("inf"), None, 0], ids=repr)
def test_what_is_no_length_of_a_queue_is_refused_in_a_sentence(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^queue="):
        World(queue=value)


@pytest.mark.parametrize("value", [[1], None, b"1%"], ids=repr)
def test_what_is_no_share_is_refused_in_a_sentence(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^loss="):
        World(loss=value)


@pytest.mark.parametrize("seed", [None, 1.5, "7", b"x", []], ids=repr)
def test_what_is_no_seed_is_refused_in_a_sentence(seed: Any) -> None:
    with pytest.raises(UsageError, match="is no seed"):
        World(seed)


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", None, 5, b"a", "ä", "a/b", "..", "a..b", "x" * 64, "10.0.0.1", "0", "localhost", "the test"],
)
def test_what_nobody_could_look_up_is_no_name_of_a_host(name: Any) -> None:
    with pytest.raises(UsageError, match="no name for a host"):
        in_a_world(lambda world: world.host(name))


@pytest.mark.parametrize("name", ["", None, 5, "a b"])
def test_what_is_no_name_of_a_host_is_none_of_a_lan(name: Any) -> None:
    with pytest.raises(UsageError, match="no name for a LAN"):
        in_a_world(lambda world: world.lan(name))


def test_two_hosts_have_no_names_that_differ_in_capitals_only() -> None:
    with pytest.raises(UsageError, match="'A' is known already"):
        in_a_world(lambda world: world.host("A"))


def test_a_host_does_not_move_by_being_named_again() -> None:
    def act(world: World) -> None:
        world.lan("office")
        assert world.host("a", on="internet") is world.host("a")
        with pytest.raises(UsageError, match="'a' is there already, on internet"):
            world.host("a", on="office")
        with pytest.raises(UsageError, match="'a' is there already, on internet"):
            world.router("a", "office", "internet")

    in_a_world(act)


@pytest.mark.parametrize("on", [None, 5, ("internet", 5)])
def test_a_host_is_on_segments_only(on: Any) -> None:
    with pytest.raises(UsageError, match="a host cannot be on"):
        in_a_world(lambda world: world.host("c", on=on))


@pytest.mark.parametrize("prefix", ["0.0.0.0/0", "0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", 5, ""])
def test_a_lan_has_addresses_that_hosts_can_have_and_nobody_else_has(prefix: Any) -> None:
    def act(world: World) -> None:
        world.lan("office", prefix=prefix)
        world.host("pc", on="office"), world.host("printer", on="office")

    with pytest.raises(UsageError, match=r"prefix=|is full"):
        in_a_world(act)


def test_a_router_joins_no_segments_of_the_same_addresses() -> None:
    def act(world: World) -> None:
        world.lan("office", prefix="192.168.2.0/24")
        world.lan("home")  # the second of a world is 192.168.2.0/24 unless told otherwise
        world.router("one", "office", "internet")
        world.router("other", "home", "internet")

    with pytest.raises(UsageError, match=r"other cannot join .*: 192\.168\.2\.0/24 and 192\.168\.2\.0/24 overlap"):
        in_a_world(act)


@pytest.mark.parametrize("start", [5, "x"])
def test_a_program_that_cannot_be_called_is_refused_when_it_is_given(start: Any) -> None:
    with pytest.raises(UsageError, match=r"the program of c, .* cannot be called; give an async def"):
        in_a_world(lambda world: world.host("c", start=start))


@pytest.mark.parametrize("end", [None, 5, World(2).host("a")], ids=["none", "number", "of another world"])
def test_an_end_of_a_way_is_of_this_world(end: Any) -> None:
    with pytest.raises(UsageError, match="is no host or LAN of this world"):
        in_a_world(lambda world: world.link("b", end, delay=1))


@pytest.mark.parametrize("drift", ["x", float("nan"), -1, -2, None, 1e300], ids=repr)
def test_no_clock_stands_still_or_goes_back(drift: Any) -> None:
    def act(world: World) -> None:
        world.host("a").clock.drift = drift

    with pytest.raises(UsageError, match="a clock cannot drift by"):
        in_a_world(act)


@pytest.mark.parametrize("offset_s", ["x", float("nan"), -1e12, None], ids=repr)
def test_no_clock_is_wrong_by_more_than_a_calendar_has(offset_s: Any) -> None:
    def act(world: World) -> None:
        world.host("a").clock.offset_s = offset_s

    with pytest.raises(UsageError, match="a clock cannot be wrong by"):
        in_a_world(act)


def test_chaos_in_which_no_time_passes_is_refused() -> None:
    with pytest.raises(UsageError, match="every=0 and each=0 let no time pass"):
        in_a_world(lambda world: world.chaos(every=0, each=0))


@pytest.mark.parametrize("between", [{"a": 1}, {("a",): 1}, "ab", None], ids=repr)
def test_a_wan_is_of_pairs_of_regions(between: Any) -> None:
    with pytest.raises(UsageError, match="is no pair of regions; as in"):
        in_a_world(lambda world: world.wan(between, a=["a"]))


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [None, 5, "x"])
def test_what_cannot_be_called_is_no_test(test: Any) -> None:
    with pytest.raises(UsageError, match="cannot be called with a world; give an async def"):
        World().run(test)


def test_a_function_that_is_no_coroutine_function_is_no_test() -> None:
    async def generator(world: World) -> Any:
        yield world

    def function(world: World) -> Any:
        return 5

    for test in (generator, function):
        with pytest.raises(UsageError, match="and no coroutine; give an async def"):
            World().run(test)


def test_nothing_is_made_in_a_world_that_has_ended() -> None:
    world = World()
    world.host("a"), world.host("b")
    world.run(nothing)
    for act in (
        lambda: world.host("c"),
        lambda: world.lan("office"),
        lambda: world.link("a", "b", delay=1),
        lambda: world.partition("a", "b"),
    ):
        with pytest.raises(UsageError, match="this world has ended"):
            act()


def test_a_loop_that_runs_a_world_in_its_midst_goes_on() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        World().run(nothing)
        assert asyncio.get_running_loop() is loop
        await asyncio.sleep(0)

    asyncio.run(main())


def test_a_world_may_be_run_on_a_host_of_another() -> None:
    async def inner(world: World) -> float:
        async with world.host("x"):
            await asyncio.sleep(3)
            return time.monotonic()

    async def outer(world: World) -> tuple[float, float]:
        async with world.host("c"):
            await asyncio.sleep(1)
            inner_s = World().run(inner)
            await asyncio.sleep(1)
            return inner_s, time.monotonic()

    inner_s, outer_s = World().run(outer)
    assert (round(inner_s, 3), round(outer_s, 3)) == (1003.0, 1002.0)


def test_nothing_is_left_of_a_world_in_socket() -> None:
    def state() -> list[object]:
        return [
            socket.socket.__dict__.get("__new__"),
            socket.getaddrinfo,
            socket.gethostbyname,
            socket.gethostbyname_ex,
        ]

    World().run(nothing)
    before = state()
    in_a_world(lambda world: None)
    assert state() == before
    with socket.socket() as one:
        assert type(one) is socket.socket


# --- a test's walk ----------------------------------------------------------------------------------------------------


async def visit(world: World) -> None:
    async with world.host("a"):
        await asyncio.sleep(1)


def test_only_the_test_itself_walks_from_host_to_host() -> None:
    async def act(world: World) -> None:
        await asyncio.gather(visit(world), visit(world))

    with pytest.raises(UsageError, match="a task walked to the host a, and only the test itself does; make the task"):
        in_a_world(act)


def test_a_program_does_not_walk_to_another_host() -> None:
    async def act(world: World) -> None:
        world.host("c", start=lambda: visit(world))
        await asyncio.sleep(1)

    with pytest.raises(UsageError, match="a task walked to the host a"):
        in_a_world(act)


@pytest.mark.parametrize("end", ["crash", "kill"])
def test_nobody_walks_to_a_host_where_no_program_runs(end: str) -> None:
    async def act(world: World) -> None:
        getattr(world.host("a"), end)()
        await visit(world)

    with pytest.raises(UsageError, match=r"no program runs on a, so the test cannot either; restart\(\) it first"):
        in_a_world(act)


def test_a_time_limit_around_a_block_ends_what_runs_in_it() -> None:
    async def act(world: World) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                async with world.host("a"):
                    await asyncio.sleep(10)
        return world.now

    assert in_a_world(act) == pytest.approx(3.0)


def test_a_time_limit_that_is_kept_leaves_nothing_behind() -> None:
    async def act(world: World) -> float:
        async with asyncio.timeout(3):
            async with world.host("a"):
                await asyncio.sleep(1)
        await asyncio.sleep(10)
        return world.now

    assert in_a_world(act) == pytest.approx(11.0)


def test_a_task_group_around_a_block_ends_it_when_a_task_fails() -> None:
    async def fail() -> None:
        await asyncio.sleep(2)
        raise ValueError("early")

    async def act(world: World) -> float:
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                async with world.host("a"):
                    await asyncio.sleep(10)
        assert str(raised.value.exceptions) == "(ValueError('early'),)"
        return world.now

    assert in_a_world(act) == pytest.approx(2.0)


# --- a program's end --------------------------------------------------------------------------------------------------


def test_a_program_that_stops_its_loop_fails_at_once() -> None:
    async def stop() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(1)

    async def act(world: World) -> None:
        world.host("c", start=stop)
        await asyncio.sleep(10)

    with pytest.raises(RuntimeError, match="the program on c stopped its loop before it had ended"):
        in_a_world(act)


def test_a_program_that_is_cancelled_by_itself_ends_as_a_process_does() -> None:
    async def serve() -> None:
        writers = []
        server = await asyncio.start_server(lambda reader, writer: writers.append(writer), port=7)
        await asyncio.sleep(1)
        main = asyncio.current_task()
        assert main is not None and server.is_serving()
        main.cancel()
        await asyncio.Event().wait()

    async def act(world: World) -> bytes:
        host = world.host("c", start=serve)
        async with world.host("d"):
            await asyncio.sleep(0.5)
            reader, writer = await asyncio.open_connection("c", 7)
            got = await reader.read()
            writer.close()
        assert not host.has_program
        return got

    assert in_a_world(act) == b""


def test_an_interruption_while_programs_say_goodbye_is_the_persons() -> None:
    async def goodbye() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise KeyboardInterrupt

    async def act(world: World) -> None:
        world.host("c", start=goodbye)
        await asyncio.sleep(1)

    before = time.monotonic
    with pytest.raises(KeyboardInterrupt):
        in_a_world(act)
    assert time.monotonic is before
    in_a_world(lambda world: None)


def test_code_sleeps_no_longer_than_c_can_count() -> None:
    async def act(world: World) -> None:
        async with world.host("c"):
            with pytest.raises(ValueError, match="NaN"):
                time.sleep(float("nan"))
            with pytest.raises(OverflowError, match="timestamp too large"):
                time.sleep(1e300)

    in_a_world(act)


def test_a_test_that_looks_for_ever_is_ended_and_told_of_the_limit() -> None:
    async def act(world: World) -> None:
        async with world.host("c"):
            while True:
                await asyncio.sleep(1)

    with pytest.raises(Stalled, match=r"the time limit of 10800 s has passed .*; or it needs longer, as in time_limit"):
        in_a_world(act)


@pytest.mark.parametrize(
    "wait",
    [lambda: signal.pause(), lambda: signal.sigwait([signal.SIGUSR1]), lambda: os.wait(), lambda: os.waitpid(-1, 0)],
)
def test_nobody_waits_for_what_cannot_come(wait: Callable[[], object]) -> None:
    async def act(world: World) -> None:
        async with world.host("c"):
            wait()

    with pytest.raises(UnderlayError, match=r"test_misuse\.py:\d+: a (signal|process) was waited for"):
        in_a_world(act)


def test_nobody_handles_the_signal_that_kills() -> None:
    async def act(world: World) -> None:
        async with world.host("c"):
            with pytest.raises(RuntimeError, match="sig 9 cannot be caught"):
                asyncio.get_running_loop().add_signal_handler(signal.SIGKILL, print)

    in_a_world(act)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = time.time, socket.socket.__dict__.get("__new__")
    yield
    assert (time.time, socket.socket.__dict__.get("__new__")) == before

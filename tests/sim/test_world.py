"""A world: hosts that talk, a test that walks between them, faults, and how programs begin and end.

It knows what a program sees. How packets travel is in `test_internet.py`.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable

import pytest

from underlay import sim
from underlay.errors import UnderlayError, UsageError
from underlay.sim import Stalled, World

from ._echo import serve_echo


async def ask(message: bytes = b"hello", host: str = "server") -> bytes:
    reader, writer = await asyncio.open_connection(host, 7)
    writer.write(message)
    answer = await reader.readexactly(len(message))
    writer.close()
    await writer.wait_closed()
    return answer


def on_client(ask: Callable[[World], Awaitable[object]]) -> Callable[[World], Awaitable[object]]:
    """A test whose lines run on the host "client", a second after "server" began to echo."""

    async def test(world: World) -> object:
        world.host("server", start=serve_echo)
        async with world.host("client"):
            await asyncio.sleep(1)
            return await ask(world)

    return test


def run(test: Callable[[World], Awaitable[object]], seed: int = 1, **conditions: float | str) -> object:
    return World(seed, **conditions).run(test)  # type: ignore[arg-type]


def test_a_program_reaches_another_by_its_hosts_name() -> None:
    @on_client
    async def test(world: World) -> object:
        return await ask()

    assert run(test) == b"hello"


def test_time_is_virtual_and_nothing_waits_for_it() -> None:
    async def test(world: World) -> float:
        await asyncio.sleep(80_000)
        return world.now

    assert run(test, time_limit="1d") == pytest.approx(80_000)


def test_a_round_trip_takes_what_its_two_ways_take() -> None:
    @on_client
    async def test(world: World) -> object:
        reader, writer = await asyncio.open_connection("server", 7)
        began_s = world.now
        writer.write(b"?")
        await reader.readexactly(1)
        writer.close()
        return world.now - began_s

    assert run(test, delay="10ms") == pytest.approx(0.020)


def test_a_link_may_differ_from_all_others_in_one_direction() -> None:
    @on_client
    async def test(world: World) -> object:
        world.link("client", "server", delay="100ms", one_way=True)
        reader, writer = await asyncio.open_connection("server", 7)
        began_s = world.now
        writer.write(b"?")
        await reader.readexactly(1)
        writer.close()
        return world.now - began_s

    assert run(test, delay="10ms") == pytest.approx(0.110)


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    @on_client
    async def test(world: World) -> object:
        for _ in range(20):
            await ask(b"x" * 5000)
        return world.now

    ends = [run(test, seed, loss=0.05, jitter="5ms") for seed in (1, 2, 1, 2)]
    assert ends[:2] == ends[2:]
    assert ends[0] != ends[1]


def test_the_tests_own_lines_run_where_its_blocks_say() -> None:
    async def test(world: World) -> list[str]:
        places = []

        def here() -> None:
            places.append(world.current.name if world.current else "nowhere")

        here()
        async with world.host("a"):
            here()
            await asyncio.sleep(1)
            async with world.host("b"):
                here()
                await asyncio.sleep(1)
            here()
        here()
        return places

    assert run(test) == ["the test", "a", "b", "a", "the test"]


def test_timeouts_and_task_groups_work_within_a_block() -> None:
    @on_client
    async def test(world: World) -> object:
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(ask(bytes([65 + number]))) for number in range(10)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        return b"".join(answer.result() for answer in answers)

    assert run(test) == b"ABCDEFGHIJ"


def test_an_error_of_the_test_comes_out_as_it_is() -> None:
    async def test(world: World) -> None:
        async with world.host("a"):
            await asyncio.sleep(1)
            raise LookupError("as it is")

    with pytest.raises(LookupError, match="as it is"):
        run(test)


def test_an_error_that_a_program_did_not_catch_ends_the_test_and_names_the_host() -> None:
    async def fail() -> None:
        await asyncio.sleep(2.5)
        raise LookupError("in a program")

    async def test(world: World) -> None:
        world.host("broken", start=fail)
        await asyncio.sleep(100)

    with pytest.raises(LookupError, match="in a program") as caught:
        run(test)
    assert caught.value.__notes__ == ["on the host broken, at 2.500000 s"]


def test_a_test_that_waits_for_nothing_that_can_come_is_ended() -> None:
    async def test(world: World) -> None:
        async with world.host("a"):
            await asyncio.Event().wait()

    with pytest.raises(Stalled, match=r"nothing is left to happen at 0\.000000 s"):
        run(test)


async def asks(name: str) -> bytes:
    reader, writer = await asyncio.open_connection(name, 7)
    try:
        return await reader.readline()  # what nobody sends
    finally:
        writer.close()


def test_where_nothing_can_happen_any_more_the_error_tells_on_which_line_each_task_waits() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def test(world: World) -> None:
        async def accept(reader: object, writer: asyncio.StreamWriter) -> None:
            await waits_for_ever()

        async def serve() -> None:
            async with await asyncio.start_server(accept, port=7):
                await waits_for_ever()

        world.host("server", start=serve)
        world.host("off").crash()
        async with world.host("client"):
            await asyncio.sleep(1)
            await asks("server")

    with pytest.raises(Stalled) as caught:
        World(seed=1).run(test)
    (note,) = caught.value.__notes__
    line = {name: function.__code__.co_firstlineno for name, function in (("asks", asks), ("waits", waits_for_ever))}
    here = __file__
    assert note.splitlines() == [
        "waiting:",
        f"  the test, on client: {here}:{line['asks'] + 3} in asks, in StreamReader.readline",
        f"  server: {here}:{line['waits'] + 1} in {waits_for_ever.__qualname__}, in Event.wait",
        f"  server: {here}:{line['waits'] + 1} in {waits_for_ever.__qualname__}, in Event.wait",
        "  off is down",
    ]


def test_a_program_that_never_lets_time_pass_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("underlay.sim._loop.MOST_TURNS", 1000)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def test(world: World) -> None:
        world.host("spinner", start=spin)
        await asyncio.sleep(1)

    with pytest.raises(UnderlayError, match="the program on spinner ran 1,000 turns of its loop at one instant"):
        run(test)


def test_an_event_that_two_hosts_share_wakes_the_other() -> None:
    async def test(world: World) -> float:
        ready = asyncio.Event()

        async def work() -> None:
            await asyncio.sleep(3)
            ready.set()

        world.host("worker", start=work)
        await ready.wait()
        return world.now

    assert run(test) == pytest.approx(3)


def test_a_call_in_a_thread_is_made_here_and_costs_time() -> None:
    async def test(world: World) -> tuple[object, bool]:
        async with world.host("a") as host:
            began_s = world.now
            result = await asyncio.to_thread(lambda: "made")
            return result, world.now - began_s == pytest.approx(host.thread_cost_s, abs=1e-8)

    assert run(test) == ("made", True)


# --- programs begin and end ------------------------------------------------------------------------------------------


def test_a_program_that_returns_closes_its_connections_as_a_process_does() -> None:
    async def test(world: World) -> bytes:
        gone = asyncio.Event()

        writers = []

        def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"bye")
            writers.append(writer)

        async def serve_once() -> None:
            await asyncio.start_server(greet, port=7)
            await gone.wait()

        world.host("server", start=serve_once)
        async with world.host("client"):
            await asyncio.sleep(1)
            reader, writer = await asyncio.open_connection("server", 7)
            first = await reader.readexactly(3)
            gone.set()
            end = await reader.read()
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("server", 7)
            return first + end

    assert run(test) == b"bye"


def test_a_crash_runs_no_finally_and_sends_no_fin() -> None:
    ran = []

    async def serve() -> None:
        try:
            await serve_echo()
        finally:
            ran.append(1)

    async def test(world: World) -> str:
        world.host("server", start=serve)
        async with world.host("client"):
            await asyncio.sleep(1)
            reader, writer = await asyncio.open_connection("server", 7)
            world.host("server").crash()
            assert not ran
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await reader.read()
            writer.close()
            return "heard nothing"

    assert run(test) == "heard nothing"


def test_after_a_restart_the_old_connection_is_reset_and_a_new_one_is_served() -> None:
    @on_client
    async def test(world: World) -> object:
        reader, writer = await asyncio.open_connection("server", 7)
        server = world.host("server")
        server.crash()
        server.restart()
        await asyncio.sleep(1)
        writer.write(b"do you know me?")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        return await ask(), server.boots

    assert run(test) == (b"hello", 2)


def test_a_paused_program_answers_nothing_but_its_kernel_does() -> None:
    @on_client
    async def test(world: World) -> object:
        world.host("server").pause()
        reader, writer = await asyncio.open_connection("server", 7)  # the handshake is the kernel's
        writer.write(b"?")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await reader.read(1)
        world.host("server").resume()
        answer = await reader.read(1)
        writer.close()
        return answer

    assert run(test) == b"?"


def test_a_host_that_the_test_stands_on_cannot_crash() -> None:
    async def test(world: World) -> None:
        async with world.host("a") as host:
            host.crash()

    with pytest.raises(UsageError, match="a cannot crash: the test itself runs on it; leave its block first"):
        run(test)


# --- the network is bad ----------------------------------------------------------------------------------------------


def test_across_a_partition_nothing_passes_and_what_was_sent_arrives_when_it_heals() -> None:
    @on_client
    async def test(world: World) -> object:
        reader, writer = await asyncio.open_connection("server", 7)
        world.partition("client", "server")
        writer.write(b"?")
        await asyncio.sleep(10)
        assert not reader._buffer  # type: ignore[attr-defined]
        world.heal()
        answer = await reader.read(1)
        writer.close()
        return answer, world.now > 11

    assert run(test) == (b"?", True)


def test_a_partition_may_be_of_one_direction() -> None:
    @on_client
    async def test(world: World) -> object:
        world.partition("server", to="client")
        try:
            await ask()
        except OSError as error:
            return error.errno, world.now - 1
        return None

    assert run(test) == (errno.ETIMEDOUT, pytest.approx(127, abs=0.1))


def test_what_is_under_way_when_the_way_is_cut_is_lost() -> None:
    @on_client
    async def test(world: World) -> object:
        _, writer = await asyncio.open_connection("server", 7)
        writer.write(b"?")
        await asyncio.sleep(0.005)
        world.partition("client", "server")
        way = world.internet.way("client", "server")
        writer.close()
        return way.drops["cut"]

    assert run(test, delay="10ms") == 1


def test_what_is_held_arrives_in_its_order_when_it_is_released() -> None:
    @on_client
    async def test(world: World) -> object:
        reader, writer = await asyncio.open_connection("server", 7)
        world.hold("client", to="server")
        for letter in b"abc":
            writer.write(bytes([letter]))
            await asyncio.sleep(0.01)
        assert world.internet.way("client", "server").held
        world.release("client", to="server")
        answer = await reader.readexactly(3)
        writer.close()
        return answer

    assert run(test) == b"abc"


def test_a_wrong_name_is_refused_with_the_nearest() -> None:
    async def test(world: World) -> None:
        world.host("server")
        world.partition("sever")

    with pytest.raises(UsageError, match="there is no host 'sever'; did you mean 'server'"):
        run(test)


def test_a_wrong_condition_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="a link has no 'dely'; did you mean 'delay'"):
        World(dely="5ms")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"loss=1.5 is no probability; it lies from 0 to 1"):
        World(loss=1.5)


# --- the decorator ---------------------------------------------------------------------------------------------------


@sim.test(seeds=5, loss=0.02)
async def test_the_decorator_runs_a_test_on_each_of_its_seeds(world: World) -> None:
    world.host("server", start=serve_echo)
    async with world.host("client"):
        await asyncio.sleep(1)
        assert await ask() == b"hello"


def test_the_decorator_names_the_seed_that_failed() -> None:
    @sim.test(seeds=5)
    async def fails(world: World) -> None:
        assert world.seed < 3

    with pytest.raises(AssertionError) as caught:
        fails()
    assert caught.value.__notes__ == ["with seed 3"]

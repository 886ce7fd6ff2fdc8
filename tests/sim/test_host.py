"""What may befall one host: its process killed, its power cut, its program stopped or slow, its clock wrong.

It knows one host and those that talk to it. What befalls the ways between them is in `test_internet.py`.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable

import pytest

from underlay.errors import UnderlayError, UsageError
from underlay.sim import World, current_host

from ._echo import serve_echo


async def ask(message: bytes = b"hello") -> bytes:
    reader, writer = await asyncio.open_connection("server", 7)
    writer.write(message)
    answer = await reader.readexactly(len(message))
    writer.close()
    return answer


def run(ask: Callable[[World], Awaitable[object]], seed: int = 1, **conditions: float | str) -> object:
    """Run lines on the host "client", a second after "server" began to echo."""

    async def test(world: World) -> object:
        world.host("server", start=serve_echo)
        async with world.host("client"):
            await asyncio.sleep(1)
            return await ask(world)

    return World(seed, **conditions).run(test)  # type: ignore[arg-type]


# --- kill ------------------------------------------------------------------------------------------------------------


def test_a_killed_programs_kernel_ends_its_connections_and_refuses_new_ones() -> None:
    async def test(world: World) -> bytes:
        reader, writer = await asyncio.open_connection("server", 7)
        await asyncio.sleep(1)
        world.host("server").kill()
        end = await reader.read()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("server", 7)
        writer.close()
        return end

    assert run(test) == b""


def test_a_killed_program_that_had_not_read_all_resets() -> None:
    async def test(world: World) -> int | None:
        reader, writer = await asyncio.open_connection("server", 7)
        server = world.host("server")
        server.pause()
        writer.write(b"unread")
        await asyncio.sleep(1)
        server.kill()
        try:
            await reader.read()
        except OSError as error:
            return error.errno
        return None

    assert run(test) == errno.ECONNRESET


def test_a_killed_program_runs_no_finally_and_may_be_started_again_on_the_same_machine() -> None:
    ran: list[str] = []

    async def serve() -> None:
        ran.append("begin")
        try:
            await serve_echo()
        finally:
            ran.append("finally")

    async def test(world: World) -> tuple[object, ...]:
        server = world.host("server", start=serve)
        async with world.host("client"):
            await asyncio.sleep(1)
            server.kill()
            assert ran == ["begin"]
            with pytest.raises(UsageError, match="no program runs on server; restart\\(\\) it first"):
                server.kill()
            server.restart()
            await asyncio.sleep(1)
            return await ask(), ran[:], server.boots

    assert World(1).run(test) == (b"hello", ["begin", "begin"], 1)


def test_a_program_may_kill_itself_or_pull_its_plug() -> None:
    async def test(world: World) -> list[str]:
        log: list[str] = []

        async def end(how: str) -> None:
            await asyncio.sleep(1)
            getattr(current_host(), how)()
            log.append(how)  # what the processor had in hand
            await asyncio.sleep(0.001)
            log.append("never")

        hosts = [world.host(how, start=lambda how=how: end(how)) for how in ("kill", "crash")]  # type: ignore[misc]
        await asyncio.sleep(2)
        assert [host.is_up for host in hosts] == [True, False]
        return log

    assert sorted(World(1).run(test)) == ["crash", "kill"]


# --- crash -----------------------------------------------------------------------------------------------------------


def test_a_host_that_is_up_again_before_a_packet_arrives_resets_what_it_knows_nothing_of() -> None:
    async def test(world: World) -> tuple[int | None, float]:
        reader, writer = await asyncio.open_connection("server", 7)
        await asyncio.sleep(1)
        sent_s = world.now
        writer.write(b"on its way")
        await asyncio.sleep(0.010)
        world.host("server").reboot(down_for="5ms")
        try:
            await reader.read()
        except OSError as error:
            return error.errno, world.now - sent_s
        return None, 0.0

    assert run(test, delay="50ms") == (errno.ECONNRESET, pytest.approx(0.100))


def test_what_arrives_at_a_host_that_is_down_is_counted() -> None:
    async def test(world: World) -> int:
        _, writer = await asyncio.open_connection("server", 7)
        world.host("server").crash()
        writer.write(b"hello?")
        await asyncio.sleep(0.1)
        writer.transport.abort()
        return world.internet.drops["host_down"]

    assert run(test) == 1


def test_what_a_host_sent_before_it_crashed_arrives() -> None:
    async def test(world: World) -> bytes:
        reader, writer = await asyncio.open_connection("server", 7)
        writer.write(b"hello")
        await asyncio.sleep(0.015)  # the echo is on its way back
        world.host("server").crash()
        answer = await reader.readexactly(5)
        writer.transport.abort()
        return answer

    assert run(test, delay="10ms") == b"hello"


def test_a_rebooted_host_comes_back_by_itself() -> None:
    async def test(world: World) -> tuple[bool, bytes]:
        server = world.host("server")
        server.reboot(down_for="10s")
        await asyncio.sleep(9.9)
        was_up = server.is_up
        await asyncio.sleep(1)
        return was_up, await ask()

    assert run(test) == (False, b"hello")


# --- pause and slow --------------------------------------------------------------------------------------------------


def test_timers_that_fell_due_in_a_pause_fire_when_it_ends() -> None:
    async def test(world: World) -> float:
        at = []

        async def wait() -> None:
            await asyncio.sleep(5)
            at.append(world.now)

        sleeper = world.host("sleeper", start=wait)
        await asyncio.sleep(1)
        sleeper.pause()
        await asyncio.sleep(60)
        assert not at
        sleeper.resume()
        await asyncio.sleep(1)
        return at[0]

    assert World(1).run(test) == pytest.approx(61)


def test_a_program_that_does_not_run_cannot_be_paused() -> None:
    async def test(world: World) -> bool:
        host = world.host("a")
        host.crash()
        with pytest.raises(UsageError, match=r"no program runs on a; restart\(\) it first"):
            host.pause()
        host.restart()
        return host.is_paused

    assert not World(1).run(test)


def test_a_slow_host_answers_one_after_another() -> None:
    async def test(world: World) -> float:
        world.host("server").slow("10ms")
        reader, writer = await asyncio.open_connection("server", 7)
        began_s = world.now
        for _ in range(10):
            writer.write(b"?")
            await reader.readexactly(1)
        took_s = world.now - began_s
        world.host("server").slow(0)
        await asyncio.sleep(1)
        began_s = world.now
        writer.write(b"?")
        await reader.readexactly(1)
        writer.close()
        assert world.now - began_s == pytest.approx(0.002)
        return took_s

    took_s = run(test, delay="1ms")
    assert isinstance(took_s, float)
    assert 0.09 < took_s < 0.25


def test_a_slow_host_that_has_nothing_to_do_does_nothing() -> None:
    async def test(world: World) -> int:
        world.host("idle", start=asyncio.Event().wait).slow("1ms")
        await asyncio.sleep(10)
        before = world.schedule.taken
        await asyncio.sleep(1000)
        return world.schedule.taken - before

    assert World(1).run(test) < 5


# --- clocks ----------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_fast_wakes_its_programs_early_also_those_that_sleep_already() -> None:
    async def test(world: World) -> float:
        woke = []

        async def sleep() -> None:
            await asyncio.sleep(100)
            woke.append(world.now)

        host = world.host("fast", start=sleep)
        await asyncio.sleep(10)
        host.clock.drift = 1.0
        await asyncio.sleep(100)
        return woke[0]

    assert World(1).run(test) == pytest.approx(10 + 90 / 2)


def test_a_clock_that_is_set_back_changes_the_time_of_day_and_wakes_nobody() -> None:
    async def test(world: World) -> object:
        async with world.host("a") as host:
            day_s, began_s = time.time(), time.monotonic()
            await asyncio.sleep(10)
            host.clock.offset_s -= 3600
            await asyncio.sleep(10)
            return time.time() - day_s, time.monotonic() - began_s

    assert World(1).run(test) == (pytest.approx(20 - 3600), pytest.approx(20))


def test_the_current_host_is_the_one_whose_program_asks() -> None:
    async def test(world: World) -> str:
        async with world.host("a"):
            return current_host().name

    assert World(1).run(test) == "a"
    with pytest.raises(UnderlayError, match="no simulated host is running here"):
        current_host()

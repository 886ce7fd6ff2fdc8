"""The clocks that a program reads on a host, and code that takes time."""

from __future__ import annotations

import asyncio
import datetime
import pickle
import time
import types
from collections.abc import Awaitable, Callable
from datetime import datetime as early_datetime
from time import monotonic as early_monotonic
from time import time as early_time

import pytest

from underlay.sim import World
from underlay.sim._clock import BOOTED_S, EPOCH_S

real_time = types.SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=time.sleep)  # is not looked into


class Library:
    """What a library may have bound before anybody made a world."""

    clock = time.monotonic
    static = staticmethod(time.monotonic)

    def default(self, clock: Callable[[], float] = time.monotonic) -> float:
        return clock()

    def keyword(self, *, clock: Callable[[], float] = time.monotonic) -> float:
        return clock()


def closure(clock: Callable[[], float]) -> Callable[[], float]:
    return lambda: clock()


closed_over = closure(time.monotonic)


def run(test: Callable[[World], Awaitable[object]], seed: int = 1, **conditions: float | str) -> object:
    return World(seed, **conditions).run(test)  # type: ignore[arg-type]


async def a_second_later(world: World, look: Callable[[], object]) -> object:
    async with world.host("a"):
        await asyncio.sleep(1)
        return look()


def test_every_monotonic_clock_is_the_hosts_also_where_it_was_bound_before() -> None:
    looks: list[Callable[[], float]] = [
        lambda: time.monotonic(),
        lambda: early_monotonic(),
        lambda: Library.clock(),
        lambda: Library.static(),
        lambda: Library().static(),
        Library().default,
        Library().keyword,
        closed_over,
        lambda: time.perf_counter(),
        lambda: time.monotonic_ns() / 1e9,
        lambda: time.perf_counter_ns() / 1e9,
        lambda: time.clock_gettime(time.CLOCK_MONOTONIC),
        lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC) / 1e9,
        lambda: asyncio.get_running_loop().time(),
    ]
    found = run(lambda world: a_second_later(world, lambda: [look() for look in looks]))
    assert found == [pytest.approx(BOOTED_S + 1)] * len(looks)


def test_every_time_of_day_is_the_hosts() -> None:
    utc = datetime.UTC
    looks: list[Callable[[], float]] = [
        lambda: time.time(),
        lambda: early_time(),
        lambda: time.time_ns() / 1e9,
        lambda: time.clock_gettime(time.CLOCK_REALTIME),
        lambda: datetime.datetime.now().timestamp(),
        lambda: datetime.datetime.now(utc).timestamp(),
        lambda: datetime.datetime.now(tz=datetime.timezone(datetime.timedelta(hours=9))).timestamp(),
        lambda: datetime.datetime.utcnow().replace(tzinfo=utc).timestamp(),
        lambda: datetime.datetime.today().timestamp(),
        lambda: early_datetime.now().timestamp(),
        lambda: time.mktime(time.localtime()),
        lambda: time.mktime(time.gmtime()),
        lambda: time.mktime(time.strptime(time.ctime())),
        lambda: time.mktime(time.strptime(time.asctime())),
        lambda: time.mktime(time.strptime(time.strftime("%Y %j %H %M %S"), "%Y %j %H %M %S")),
    ]
    found = run(lambda world: a_second_later(world, lambda: [look() for look in looks]))
    assert found == [pytest.approx(EPOCH_S + 1)] * len(looks)
    day = run(lambda world: a_second_later(world, datetime.date.today))
    assert day == datetime.date(2030, 1, 1)


def test_the_clock_of_a_program_is_as_wrong_as_its_host() -> None:
    async def test(world: World) -> object:
        wrong = world.host("wrong")
        wrong.clock.offset_s = 3600
        wrong.clock.drift = 0.1
        async with wrong:
            began_s = world.now
            await asyncio.sleep(11)
            return world.now - began_s, time.time() - EPOCH_S, datetime.datetime.now().hour

    assert run(test) == (pytest.approx(10), pytest.approx(3611), 1)


def test_a_tests_own_lines_have_the_clock_of_the_world() -> None:
    async def test(world: World) -> object:
        await asyncio.sleep(5)
        return time.time() - EPOCH_S

    assert run(test) == pytest.approx(5)


class Late(datetime.datetime):
    """A library's own."""


def test_a_class_derived_from_datetime_gives_its_own_and_pickles() -> None:
    def look() -> object:
        now = datetime.datetime.now()
        assert type(now) is datetime.datetime is early_datetime
        assert pickle.loads(pickle.dumps(now)) == now
        return Late.now(), Late.utcnow()

    found = run(lambda world: a_second_later(world, look))
    assert found == (Late(2030, 1, 1, 0, 0, 1),) * 2
    assert type(found[0]) is Late


def test_after_a_world_each_function_is_the_one_it_was() -> None:
    before = [time.time, time.sleep, early_monotonic, Library.__dict__["clock"], Library.default.__defaults__]
    now = datetime.datetime.__dict__["now"]
    run(lambda world: a_second_later(world, lambda: None))
    after = [time.time, time.sleep, early_monotonic, Library.__dict__["clock"], Library.default.__defaults__]
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert datetime.datetime.__dict__["now"] is now
    assert type(time.time) is types.BuiltinFunctionType
    assert abs(datetime.datetime.now().timestamp() - time.time()) < 60
    assert time.time() < EPOCH_S


def test_a_failing_world_gives_the_functions_back_too() -> None:
    async def test(world: World) -> None:
        raise LookupError

    before = time.time
    with pytest.raises(LookupError):
        run(test)
    assert time.time is before


def test_a_name_that_is_bound_in_a_world_tells_the_real_time_after_it() -> None:
    kept: list[Callable[[], float]] = []

    def look() -> float:
        from time import monotonic

        kept.append(monotonic)
        return monotonic()

    assert run(lambda world: a_second_later(world, look)) == pytest.approx(BOOTED_S + 1)
    before_s = real_time.monotonic()
    assert before_s <= kept[0]() <= real_time.monotonic()


def test_asyncios_debug_mode_finds_nothing_slow(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        async with world.host("a"):
            asyncio.get_running_loop().set_debug(True)
            end_s = real_time.monotonic() + 0.15
            while real_time.monotonic() < end_s:
                pass
            await asyncio.sleep(1)

    run(test)
    assert not caplog.records


# --- code that takes time --------------------------------------------------------------------------------------------


def test_time_sleep_moves_the_hosts_clock_and_no_others() -> None:
    async def test(world: World) -> object:
        other = world.host("b")
        async with world.host("a"):
            time.sleep(3)
            return time.monotonic() - BOOTED_S, other.clock.time() - BOOTED_S, world.now

    assert run(test) == (3, 0, 0)


def test_what_is_sent_before_a_sleep_leaves_before_and_what_is_sent_after_leaves_after() -> None:
    arrivals: list[tuple[bytes, float]] = []

    async def sleeper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"before")
        time.sleep(2)
        writer.write(b"after")
        time.sleep(3)
        writer.write(b"at last")
        writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(sleeper, port=7) as server:
            await server.serve_forever()

    async def test(world: World) -> object:
        world.host("server", start=serve)
        async with world.host("client"):
            await asyncio.sleep(1)
            reader, writer = await asyncio.open_connection("server", 7)
            began_s = world.now
            while data := await reader.read(100):
                arrivals.append((data, round(world.now - began_s, 2)))
            writer.close()
        return arrivals

    assert run(test, delay="10ms") == [(b"before", 0.02), (b"after", 2.02), (b"at last", 5.02)]


def test_timers_and_packets_of_a_sleeping_host_are_handled_after_it_and_other_hosts_go_on() -> None:
    seen: list[tuple[str, float]] = []

    async def serve(world: World) -> None:
        def note(what: str) -> None:
            seen.append((what, round(world.now, 2)))

        class Heard(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                note(data.decode())

        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(Heard, local_addr=("0.0.0.0", 7))
        loop.call_later(2, note, "timer")
        await asyncio.sleep(1)
        time.sleep(4)
        note("slept")
        await asyncio.sleep(3600)

    async def test(world: World) -> None:
        world.host("server", start=lambda: serve(world))
        async with world.host("client"):
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=("server", 7)
            )
            for number in range(3):
                await asyncio.sleep(1)
                transport.sendto(f"packet {number}".encode())
            seen.append(("client", round(world.now, 2)))
            await asyncio.sleep(10)
            transport.close()

    run(test)
    # "slept" is noted in the world's time, in which that code ran at once; its own clock was four seconds on.
    assert [what for what, _ in seen if what != "timer"] == ["slept", "client", "packet 0", "packet 1", "packet 2"]
    assert [at_s for what, at_s in seen if what not in ("slept", "client")] == [5.0] * 4
    assert ("client", 3.0) in seen


def test_a_test_that_sleeps_goes_on_when_it_moves_or_awaits_in_time() -> None:
    async def test(world: World) -> object:
        async with world.host("a"):
            time.sleep(2)
            async with world.host("b"):
                first = world.now
            time.sleep(1)
            await asyncio.sleep(0)
            return first, world.now

    assert run(test) == (pytest.approx(2), pytest.approx(3))


def test_a_crash_ends_a_sleep_and_what_it_would_have_sent() -> None:
    async def program() -> None:
        _, writer = await asyncio.open_connection("server", 7)
        writer.write(b"one")
        time.sleep(10)
        writer.write(b"two")
        await asyncio.sleep(100)

    async def test(world: World) -> object:
        heard = b""

        async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal heard
            while data := await reader.read(100):
                heard += data

        async with world.host("server"):
            # Not `async with`: from Python 3.12 on that waits for the connection of who crashed, which nobody ends.
            await asyncio.start_server(hear, port=7)
            client = world.host("client", start=program)
            await asyncio.sleep(5)
            client.crash()
            await asyncio.sleep(20)
            was = heard
            client.restart()
            await asyncio.sleep(1)
            return was, heard, client.clock.time() - BOOTED_S

    assert run(test) == (b"one", b"oneone", pytest.approx(26 + 9, abs=1))


def test_a_sleep_in_a_thread_takes_the_threads_time_only() -> None:
    async def test(world: World) -> object:
        async with world.host("a") as host:
            loop = asyncio.get_running_loop()
            ticks: list[float] = []
            loop.call_later(1, lambda: ticks.append(world.now))
            before_s = time.monotonic()
            slept = asyncio.to_thread(time.sleep, 5)
            await slept
            return ticks, time.monotonic() - before_s - host.thread_cost_s

    assert run(test) == ([pytest.approx(1)], pytest.approx(5))

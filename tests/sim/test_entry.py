"""Programs that begin as a plain function: ``asyncio.run`` and its like on a host, and what a host's end makes of them.

It knows main functions. What coroutines do on a host is in `test_host.py`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from underlay.errors import UnderlayError, UsageError
from underlay.sim import World

from ._echo import serve_echo


def run_asyncio() -> None:
    asyncio.run(serve_echo())


def run_by_a_runner() -> None:
    with asyncio.Runner() as runner:
        runner.run(asyncio.sleep(0.25))
        runner.run(serve_echo())


def run_by_a_factory() -> None:
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(serve_echo())


def run_a_new_loop() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(serve_echo())
    finally:
        loop.close()


def run_the_current_loop_for_ever() -> None:
    loop = asyncio.get_event_loop()
    task = loop.create_task(serve_echo())
    loop.run_forever()
    task.cancel()


def run_again_and_again() -> None:
    for _ in range(3):
        asyncio.run(asyncio.sleep(0.1))
    asyncio.run(serve_echo())


def give_a_coroutine() -> object:
    return serve_echo()


async def ask(host: str) -> bytes:
    reader, writer = await asyncio.open_connection(host, 7)
    writer.write(b"hello")
    try:
        return await reader.readexactly(5)
    finally:
        writer.close()


@pytest.mark.parametrize(
    "main",
    [
        run_asyncio,
        run_by_a_runner,
        run_by_a_factory,
        run_a_new_loop,
        run_the_current_loop_for_ever,
        run_again_and_again,
        give_a_coroutine,
    ],
)
def test_a_main_function_runs_its_loop_as_it_is(main: Callable[[], None]) -> None:
    async def test(world: World) -> bytes:
        world.host("server", start=main)
        async with world.host("client"):
            await asyncio.sleep(1)
            return await ask("server")

    before = threading.active_count()
    assert World(1).run(test) == b"hello"
    assert threading.active_count() == before


def test_what_stands_before_and_behind_takes_its_time_and_the_process_ends_with_it() -> None:
    seen: list[tuple[str, float]] = []

    def main() -> None:
        began = time.monotonic()
        time.sleep(2)
        seen.append(("before", time.monotonic() - began))
        assert asyncio.run(asyncio.sleep(3, "slept")) == "slept"
        time.sleep(1)
        seen.append(("behind", time.monotonic() - began))

    async def test(world: World) -> tuple[bool, float]:
        host = world.host("h", start=main)
        while host.has_program:
            await asyncio.sleep(0.125)
        return host.is_up, world.now

    is_up, ended_s = World(1).run(test)
    assert is_up
    assert ended_s == pytest.approx(6, abs=0.2)
    assert seen == [("before", 2.0), ("behind", pytest.approx(6))]


def test_a_main_function_that_fails_fails_the_test_and_names_the_host() -> None:
    async def fails() -> None:
        raise ValueError("of the program")

    async def test(world: World) -> None:
        world.host("h", start=lambda: asyncio.run(fails()))
        await asyncio.sleep(1)

    with pytest.raises(ValueError, match="of the program") as caught:
        World(1).run(test)
    assert caught.value.__notes__ == ["on the host h, at 0.000000 s"]


def test_a_start_that_gives_neither_is_refused() -> None:
    async def test(world: World) -> None:
        world.host("h", start=lambda: 7)  # type: ignore[arg-type, return-value]
        await asyncio.sleep(1)

    with pytest.raises(UsageError, match="is no coroutine function; give the async def"):
        World(1).run(test)


def test_a_coroutine_cannot_run_another_loop() -> None:
    async def test(world: World) -> None:
        async def program() -> None:
            asyncio.new_event_loop()

        world.host("h", start=program)
        await asyncio.sleep(1)

    with pytest.raises(UnderlayError, match=r"test_entry\.py:\d+: another event loop was made"):
        World(1).run(test)


@pytest.mark.parametrize("end", ["crash", "kill"])
def test_a_main_function_that_is_ended_goes_no_further_and_another_begins(end: str) -> None:
    seen: list[str] = []

    def main() -> None:
        seen.append("begins")
        while True:  # a program that starts again whatever happens
            try:
                asyncio.run(serve_echo())
            except Exception:
                seen.append("goes on")
            finally:
                seen.append("finally")

    async def test(world: World) -> tuple[list[str], bytes]:
        server = world.host("server", start=main)
        await asyncio.sleep(1)
        getattr(server, end)()
        await asyncio.sleep(1)
        server.restart()
        await asyncio.sleep(1)
        so_far = list(seen)
        async with world.host("client"):
            return so_far, await ask("server")

    before = threading.active_count()
    assert World(1).run(test) == (["begins", "begins"], b"hello")
    assert "goes on" not in seen
    assert threading.active_count() == before


def test_a_main_function_may_end_itself() -> None:
    async def test(world: World) -> tuple[bool, int]:
        def main() -> None:
            time.sleep(1)
            world.host("h").crash()
            asyncio.run(asyncio.sleep(1))

        host = world.host("h", start=main)
        await asyncio.sleep(5)
        return host.is_up, host.boots

    assert World(1).run(test) == (False, 1)


def test_a_paused_main_function_waits() -> None:
    times: list[float] = []

    def main() -> None:
        for _ in range(3):
            asyncio.run(asyncio.sleep(1))
            times.append(time.monotonic() - 1000)

    async def test(world: World) -> None:
        host = world.host("h", start=main)
        await asyncio.sleep(1.5)
        host.pause()
        await asyncio.sleep(10)
        host.resume()
        await asyncio.sleep(5)

    World(1).run(test)
    assert times == [pytest.approx(1), pytest.approx(11.5), pytest.approx(12.5)]


def test_servers_of_others_are_run_as_their_manuals_say() -> None:
    web = pytest.importorskip("aiohttp.web")
    uvicorn = pytest.importorskip("uvicorn")

    async def app(scope: dict[str, object], receive: object, send: Callable[..., object]) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})  # type: ignore[misc]
            await send({"type": "http.response.body", "body": b"of uvicorn"})  # type: ignore[misc]

    async def handler(request: object) -> object:
        return web.Response(text="of aiohttp")

    def aiohttp_main() -> None:
        application = web.Application()
        application.router.add_get("/", handler)
        web.run_app(application, port=80, print=None)

    async def get(host: str) -> bytes:
        reader, writer = await asyncio.open_connection(host, 80)
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        try:
            return (await reader.read()).splitlines()[-1]
        finally:
            writer.close()

    async def test(world: World) -> list[bytes]:
        world.host("aiohttp", start=aiohttp_main)
        world.host("uvicorn", start=lambda: uvicorn.run(app, host="0.0.0.0", port=80, log_level="error"))
        async with world.host("client"):
            await asyncio.sleep(5)
            return [await get("aiohttp"), await get("uvicorn")]

    assert World(1).run(test) == [b"of aiohttp", b"of uvicorn"]


def test_one_seed_gives_one_run() -> None:
    async def test(world: World) -> tuple[bytes, float, int]:
        world.host("server", start=run_again_and_again)
        async with world.host("client"):
            await asyncio.sleep(1)
            answer = await ask("server")
            return answer, world.now, world.schedule.taken

    assert World(3, jitter="5ms").run(test) == World(3, jitter="5ms").run(test)

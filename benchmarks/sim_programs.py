"""The programs of `sim.py`, each measured in a process of its own: ``sim_programs.py SUBJECT KIND [COUNT]``.

Subjects: ``underlay`` (a world of `underlay.sim`), ``asyncio`` (the standard loop, client and server on it, over the
kernel's loopback), ``simloop`` (PyPI; it has hosts, and no TCP). The programs are the same for all. It prints one JSON
object: seconds of the processor, how many of what, and the resident memory that the run added at its peak.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

PORT = 7000
Main = Callable[[str], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give back message by message; the first four bytes say how long each is."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        while True:
            writer.write(await reader.readexactly(size))
            if size > 4096:
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def serve() -> None:
    """The server, for ever."""
    server = await asyncio.start_server(echo, None, PORT, backlog=4096)
    await server.serve_forever()


async def ask(host: str, size: int, count: int) -> None:
    """One connection: so many messages, each when the last has come back."""
    reader, writer = await asyncio.open_connection(host, PORT)
    message = bytes(size)
    writer.write(size.to_bytes(4, "big"))
    for _ in range(count):
        writer.write(message)
        await reader.readexactly(size)
    writer.close()


def round_trips(connections: int, size: int, count: int) -> Main:
    """`count` round trips over so many connections at once."""

    async def main(host: str) -> None:
        await asyncio.gather(*(ask(host, size, count // connections) for _ in range(connections)))

    return main


def churn(count: int) -> Main:
    """`count` connections, opened and closed, a hundred at a time."""

    async def one(host: str, each: int) -> None:
        for _ in range(each):
            reader, writer = await asyncio.open_connection(host, PORT)
            writer.write((1).to_bytes(4, "big") + b"x")
            await reader.readexactly(1)
            writer.close()
            await writer.wait_closed()

    async def main(host: str) -> None:
        await asyncio.gather(*(one(host, count // 100) for _ in range(100)))

    return main


async def beat(host: str, seconds: int) -> None:
    """A connection that says something each second."""
    reader, writer = await asyncio.open_connection(host, PORT)
    writer.write((64).to_bytes(4, "big"))
    for _ in range(seconds):
        writer.write(bytes(64))
        await reader.readexactly(64)
        await asyncio.sleep(1)
    writer.close()


# --- a subject each ----------------------------------------------------------------------------------------------


def on_asyncio(main: Main) -> None:
    """Client and server on one standard loop, over the kernel's loopback."""

    async def both() -> None:
        server = asyncio.create_task(serve())
        await asyncio.sleep(0.1)
        await main("127.0.0.1")
        server.cancel()

    asyncio.run(both())


def on_underlay(main: Main, seed: int = 1) -> None:
    """Client and server on two hosts of a world."""
    from underlay.sim import World

    async def test(world: World) -> None:
        world.host("server", start=serve)
        async with world.host("client"):
            await asyncio.sleep(0.1)
            await main("server")

    World(seed).run(test)


def on_simloop(main: Main, seed: int = 1) -> None:
    """Client and server on two hosts of simloop's."""

    async def test(net: Any) -> None:
        net.host("server").create_task(serve())
        await asyncio.sleep(0.1)
        await net.host("client").create_task(main("server"))
        await asyncio.sleep(1)  # servers see the end of their clients: whom simloop has to cancel, asyncio reports

    _simloop(seed, test)


def _simloop(seed: int, test: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    from simloop import SimLoop  # type: ignore[import-not-found]
    from simloop._run import finish  # type: ignore[import-not-found]

    loop = SimLoop(seed=seed)
    loop.net.set_defaults(latency=(0.0005, 0.0005))
    try:
        loop.run_until_complete(test(loop.net))
    finally:
        finish(loop)


def heartbeats_underlay(hosts: int, seconds: int) -> None:
    """Hosts that each say something to a hub every second."""
    from underlay.sim import World

    async def test(world: World) -> None:
        world.host("server", start=serve)
        for number in range(hosts):
            world.host(f"h{number}", start=lambda: beat("server", seconds))
        await asyncio.sleep(seconds + 2)

    World(1).run(test)


def heartbeats_simloop(hosts: int, seconds: int) -> None:
    """The same on simloop."""

    async def test(net: Any) -> None:
        net.host("server").create_task(serve())
        tasks = [net.host(f"h{number}").create_task(beat("server", seconds)) for number in range(hosts)]
        await asyncio.sleep(seconds + 2)
        del tasks

    _simloop(1, test)


def seeds(count: int) -> None:
    """So many seeds of three hosts and fifty calls."""
    from underlay.sim import World

    async def test(world: World) -> None:
        world.host("server", start=serve)
        world.host("other", start=lambda: ask("server", 64, 25))
        async with world.host("client"):
            await ask("server", 64, 25)

    for seed in range(count):
        World(seed, loss=0.01, jitter="5ms").run(test)


SUBJECTS = {"asyncio": on_asyncio, "underlay": on_underlay, "simloop": on_simloop}


def run(subject: str, kind: str, count: int) -> float:
    """Measure; give the processor's seconds, the kernel's part of them included: others may be at work here too."""
    began_s = time.process_time()
    if kind in ("heartbeats", "hosts500", "hosts4000"):
        seconds = 60 if kind == "heartbeats" else 10
        (heartbeats_underlay if subject == "underlay" else heartbeats_simloop)(count, seconds)
    elif kind == "seeds":
        seeds(count)
    else:
        mains = {
            "1x64B": lambda: round_trips(1, 64, count),
            "100x64B": lambda: round_trips(100, 64, count),
            "1x64KiB": lambda: round_trips(1, 65536, count),
            "churn": lambda: churn(count),
        }
        SUBJECTS[subject](mains[kind]())
    return time.process_time() - began_s


def main() -> int:
    """Run one measurement and print it."""
    subject, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    run(
        subject, kind, min(count, 2 if kind.startswith(("h", "seeds")) else 100)
    )  # imports and first calls are nobody's cost
    gc.collect()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took_s = run(subject, kind, count)
    after_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": took_s, "count": count, "peak_mib": (after_kib - before_kib) / 1024}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What is left in a world of connections that have come and gone: nothing, once TIME_WAIT is over."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import sys
from collections.abc import Awaitable, Callable

import pytest

from underlay.loop._bridge import FIRST_NUMBER
from underlay.sim import Host, World, current_host
from underlay.sim._bridge import NUMBERS_A_HOST

PORT = 7000
AT_A_TIME = 50
# Two maximum segment lifetimes are 60 s, and a peer that never closes is waited for as long.
ALL_OVER_S = 300.0
# Blocks of Python's allocator that may come and go whatever the connections did: caches of the interpreter.
SLACK_BLOCKS = 400


async def client_closes_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"x")
    await reader.readexactly(1)
    writer.close()
    await writer.wait_closed()


async def server_closes_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"q")
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def client_resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.write(b"x")
    await reader.readexactly(1)
    writer.close()


async def client_aborts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"x")
    await reader.readexactly(1)
    writer.transport.abort()


async def nobody_listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("server", PORT + 1)


END = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ENDS: list[END] = [
    client_closes_first, server_closes_first, client_resets, client_aborts, nobody_listens
]  # fmt: skip


async def serve() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (data := await reader.read(100)) and data != b"q":
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    async with await asyncio.start_server(answer, port=PORT, backlog=4096) as server:
        await server.serve_forever()


async def connect(times: int, end: END) -> None:
    async def some() -> None:
        for _ in range(times // AT_A_TIME):
            await end(*await asyncio.open_connection("server", PORT))

    await asyncio.gather(*(some() for _ in range(AT_A_TIME)))


def kept_by(host: Host) -> dict[str, int]:
    """What a host keeps of its connections, in each place where it keeps something."""
    tcp, bridge, loop = host.stack.tcp, host._bridge, host.loop
    assert bridge is not None
    return {
        "connections": len(tcp._connections),
        "in TIME_WAIT": len(tcp._time_wait),
        "timers of TCP": len(tcp._heap),
        "ports in use": len(tcp.ports._uses),
        "orphans": tcp.orphans,
        "news of sockets": len(host.stack._events),
        "sockets": len(bridge._sockets),
        "detached sockets": len(bridge._detached),
        "companions": len(bridge._companions),
        "sockets by what is below": bridge.readiness.counts()[0],
        "sockets watched": bridge.readiness.counts()[1],
        "sockets perhaps ready": bridge.readiness.counts()[2],
        "tasks": len(loop._tasks),
        "readers": len(loop._readers),
        "writers": len(loop._writers),
        "transports": len(loop._transports),
        "callbacks": len(loop._ready),
        "timers of asyncio": len(loop._scheduled),
    }


async def what_is_left(world: World, times: int, end: END) -> None:
    """Open and close; then everything is as it was, and so is the memory."""

    def everything() -> dict[str, object]:
        gc.collect()
        return {name: kept_by(host) for name, host in world.hosts.items()} | {"to come": len(world.schedule)}

    world.host("server", start=serve)
    async with world.host("client"):
        await asyncio.sleep(0.1)
        await connect(AT_A_TIME * 4, end)
        await asyncio.sleep(ALL_OVER_S)
        before, blocks = everything(), sys.getallocatedblocks()
        await connect(times, end)
        await asyncio.sleep(ALL_OVER_S)
        after, blocks = everything(), sys.getallocatedblocks() - blocks
        assert after == before
        assert blocks < SLACK_BLOCKS, f"{blocks} blocks were left by {times} connections"


@pytest.mark.parametrize("end", ENDS)
def test_connections_that_came_and_went_leave_nothing(end: END) -> None:
    World(seed=1).run(lambda world: what_is_left(world, 1500, end))


def test_the_timers_of_connections_that_are_over_go_before_their_time_has_come() -> None:
    async def test(world: World) -> None:
        world.host("server", start=serve)
        async with world.host("client"):
            await asyncio.sleep(0.1)
            for times in (500, 1500):
                began_s = world.now
                await connect(times, client_resets)
                assert world.now - began_s < 0.2, "as long as a timer of TCP at the least"
                # Each sweep leaves room for as many again as were there, of two a connection, and for 64 more.
                assert all(kept_by(host)["timers of TCP"] < 6 * AT_A_TIME for host in world.hosts.values())

    World(seed=1).run(test)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("end", [client_closes_first, server_closes_first])
def test_a_hundred_thousand_connections_leave_nothing(end: END) -> None:
    World(seed=1).run(lambda world: what_is_left(world, 100_000, end))


def test_a_host_that_has_opened_more_sockets_than_it_has_numbers_gives_them_again() -> None:
    async def test(world: World) -> None:
        world.host("a")
        async with world.host("b"):
            with socket.socket() as kept:
                numbers = []
                for _ in range(NUMBERS_A_HOST + 10):
                    with socket.socket() as sock:
                        numbers.append(sock.fileno())
                first = FIRST_NUMBER + 2 * NUMBERS_A_HOST
                assert set(numbers) | {kept.fileno()} == set(range(first, first + NUMBERS_A_HOST))
                assert kept.fileno() not in numbers
                assert current_host().name == "b"

    World(seed=1).run(test)


def test_a_host_has_only_so_many_sockets_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("underlay.sim._bridge.NUMBERS_A_HOST", 20)

    async def test(world: World) -> int:
        async with world.host("a"):
            sockets = []
            try:
                with pytest.raises(OSError, match="Too many open files"):
                    for _ in range(30):
                        sockets.append(socket.socket())
                return len(sockets)
            finally:
                for sock in sockets:
                    sock.close()

    assert World(seed=1).run(test) == 20

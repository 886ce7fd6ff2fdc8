"""A segment travels as a value where nobody looks at its bytes; that nobody can tell is what these tests show.

Each scenario runs three times: by values; by bytes, where hosts have no link that carries values; and by values with
somebody who listens to frames from the middle on. What programs see and when, what hosts and ways count, and the bytes
of every packet are the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from underlay.link import FRAME
from underlay.sim import World
from underlay.sim import _host as host_module
from underlay.sim._frames import Packet, for_capture, frame_of
from underlay.sim._internet import Internet
from underlay.stack import TcpPacket

PORT = 7


@dataclass
class Seen:
    """What one run showed."""

    told: list[object] = field(default_factory=list)
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    counted: list[object] = field(default_factory=list)
    captured: list[tuple[object, ...]] = field(default_factory=list)
    values: int = 0


Scenario = Callable[[World, Seen], Coroutine[Any, Any, None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def serve() -> None:
    async with await asyncio.start_server(echo, None, PORT) as server:
        await server.serve_forever()


async def ask(seen: Seen, size: int, times: int, host: str = "server") -> None:
    try:
        reader, writer = await asyncio.open_connection(host, PORT)
        for number in range(times):
            writer.write(bytes([number & 255]) * size)
            answer = await reader.readexactly(size)
            seen.told.append((number, answer[:1], len(answer), time.monotonic()))
        writer.close()
        await writer.wait_closed()
    except (OSError, asyncio.IncompleteReadError) as error:
        seen.told.append((type(error), getattr(error, "errno", None), time.monotonic()))


async def small_ones(world: World, seen: Seen) -> None:
    await asyncio.gather(*(ask(seen, 64, 20) for _ in range(5)))


async def large_ones(world: World, seen: Seen) -> None:
    await ask(seen, 300_000, 3)


async def over_ipv6(world: World, seen: Seen) -> None:
    await ask(seen, 5_000, 20, world.host("server").address6)


async def a_way_that_becomes_bad_and_good_again(world: World, seen: Seen) -> None:
    world.disturb("client", "server", loss=0.2, jitter="3ms", duplicate=0.1, reorder=0.1)
    await ask(seen, 20_000, 3)
    world.calm("client", "server")
    await ask(seen, 20_000, 3)


async def bad_while_much_is_under_way(world: World, seen: Seen) -> None:
    asking = asyncio.create_task(ask(seen, 1_000_000, 2))
    await asyncio.sleep(0.0117)
    world.disturb("client", "server", corrupt=0.05, loss=0.05, delay="4ms")
    await asyncio.sleep(0.05)
    world.calm("client", "server")
    await asking


async def held_and_released(world: World, seen: Seen) -> None:
    asking = asyncio.create_task(ask(seen, 200_000, 3))
    await asyncio.sleep(0.0102)
    world.hold("client", "server")
    await asyncio.sleep(0.3)
    world.release("client", "server")
    await asking


async def cut_and_mended(world: World, seen: Seen) -> None:
    asking = asyncio.create_task(ask(seen, 100_000, 3))
    await asyncio.sleep(0.0102)
    world.partition("client", "server")
    await asyncio.sleep(1)
    world.heal()
    await asking


async def parted_from_one_behind_a_router(world: World, seen: Seen) -> None:
    world.lan("office")
    world.router("gateway", "office", "internet")
    world.host("pc", on="office", start=lambda: ask(seen, 64, 30))
    asking = asyncio.create_task(ask(seen, 100_000, 3))
    await asyncio.sleep(0.0102)
    world.partition("pc", "server")
    await asyncio.sleep(1)
    world.heal()
    await asking
    await asyncio.sleep(5)


async def a_peer_that_reboots(world: World, seen: Seen) -> None:
    asking = asyncio.create_task(ask(seen, 64, 1000))
    await asyncio.sleep(0.0207)
    world.host("server").reboot("2ms")
    await asking
    await ask(seen, 64, 3)


async def a_slow_peer(world: World, seen: Seen) -> None:
    world.host("server").slow("7ms")
    await ask(seen, 30_000, 5)


async def a_peer_that_computes(world: World, seen: Seen) -> None:
    async def compute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
            time.sleep(0.004)
            writer.write(data)
        writer.close()

    async def serve_slowly() -> None:
        async with await asyncio.start_server(compute, None, PORT) as server:
            await server.serve_forever()

    world.host("third", start=serve_slowly)
    await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("third", PORT)
    for _ in range(20):
        writer.write(b"x")
        await asyncio.sleep(0.001)
    writer.write_eof()
    seen.told.append((await reader.read(), time.monotonic()))
    writer.close()


async def behind_an_access_link(world: World, seen: Seen) -> None:
    world.access("client", up="10mbit", down="20mbit")
    await ask(seen, 20_000, 3)


async def a_short_mtu(world: World, seen: Seen) -> None:
    world.link("client", "server", mtu=900)
    await ask(seen, 500, 3)
    await ask(seen, 5_000, 1)


SCENARIOS: list[Scenario] = [
    small_ones,
    large_ones,
    over_ipv6,
    a_way_that_becomes_bad_and_good_again,
    bad_while_much_is_under_way,
    held_and_released,
    cut_and_mended,
    parted_from_one_behind_a_router,
    a_peer_that_reboots,
    a_slow_peer,
    a_peer_that_computes,
    behind_an_access_link,
    a_short_mtu,
]
# Of these nothing on the way is to see bytes from their begin to their end.
ALL_BY_VALUE = [small_ones, large_ones, over_ipv6, a_slow_peer, a_peer_that_computes]


def run(scenario: Scenario, monkeypatch: pytest.MonkeyPatch, *, by_value: bool, listens: bool = False) -> Seen:
    seen = Seen()
    send = Internet.send

    def spying(internet: Internet, sender: str, packet: Packet) -> None:
        is_value = isinstance(packet, TcpPacket)
        seen.values += is_value
        seen.sent.append((sender, for_capture(frame_of(packet), is_ethernet=False)))
        send(internet, sender, packet)

    def hear(link: str, direction: str, data: bytes, now_s: float | None, comment: str) -> None:
        seen.captured.append((link, direction, data, now_s, comment))

    async def test(world: World) -> None:
        world.host("server", start=serve)
        async with world.host("client"):
            await asyncio.sleep(0.005)
            if not listens:
                await scenario(world, seen)
            else:
                doing = asyncio.create_task(scenario(world, seen))
                await asyncio.sleep(0.0073)  # packets are under way
                with FRAME.listening(hear):
                    await doing
            for host in ("client", "server"):
                seen.counted.append(world.host(host).stack.statistics())
                seen.counted.append(world.host(host).stack.tcp.statistics())
            seen.counted.append([(way.label, way.statistics()) for way in world.internet.ways()])
            seen.told.append(time.monotonic())

    with monkeypatch.context() as patched:
        patched.setattr(Internet, "send", spying)
        patched.setattr(host_module, "BY_VALUE", by_value)
        World(seed=11).run(test)
    return seen


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_nobody_can_tell_whether_segments_travel_as_values_or_as_bytes(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_value = run(scenario, monkeypatch, by_value=True)
    by_bytes = run(scenario, monkeypatch, by_value=False)
    assert by_value.values
    assert not by_bytes.values
    assert by_value.told == by_bytes.told
    assert by_value.sent == by_bytes.sent
    assert by_value.counted == by_bytes.counted


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_who_begins_to_capture_in_the_middle_sees_the_bytes_of_what_is_under_way_too(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_value = run(scenario, monkeypatch, by_value=True, listens=True)
    by_bytes = run(scenario, monkeypatch, by_value=False, listens=True)
    assert by_value.captured
    assert by_value.captured == by_bytes.captured
    assert by_value.told == by_bytes.told
    assert by_value.counted == by_bytes.counted


def test_what_a_fault_free_way_carries_is_values_but_for_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for scenario in ALL_BY_VALUE:
        seen = run(scenario, monkeypatch, by_value=True)
        assert len(seen.sent) - seen.values <= 4 * 5, scenario.__name__  # SYN and its answer, of five connections

"""Physics: what a transfer takes, who gets how much of a bottleneck, and who must wait for a slow reader.

It knows rates and times, all of them virtual. Which stages a way has is in `test_conditions.py`.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from pathlib import Path

import pytest

from underlay.sim import World

GRID = Path(__file__).parents[1] / "stack" / "golden_loss_grid.json"
SEGMENT_BYTES = 1448  # 1500 less the headers of IPv4 and TCP, and the timestamps' 12 bytes
PACKET_BYTES = 1500
FIRST_SEGMENTS = 10  # RFC 6928


async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass
    writer.write(b"!")
    writer.close()


async def serve_sink() -> None:
    async with await asyncio.start_server(sink, port=9) as server:
        await server.serve_forever()


async def give(size_bytes: int) -> None:
    reader, writer = await asyncio.open_connection("server", 9)
    writer.write(bytes(size_bytes))
    writer.write_eof()
    assert await reader.read() == b"!"
    writer.close()


def transfer_s(size_bytes: int, seed: int = 1, **conditions: float | str) -> float:
    """The seconds from the call of connect() to the answer to the last byte."""

    async def test(world: World) -> float:
        world.host("server", start=serve_sink)
        async with world.host("client"):
            await asyncio.sleep(1)
            began_s = world.now
            await give(size_bytes)
            return world.now - began_s

    return World(seed, **conditions).run(test)  # type: ignore[arg-type]


def arithmetic_s(size_bytes: int, rate_bits_per_s: float, rtt_s: float) -> float:
    """Handshake, the rounds of slow start that leave the link idle, then all at the link's rate, and the answer."""
    packet_s = PACKET_BYTES * 8 / rate_bits_per_s
    idle_s, window = 0.0, FIRST_SEGMENTS
    while window * packet_s < rtt_s:
        idle_s += rtt_s - window * packet_s
        window *= 2
    return rtt_s + idle_s + size_bytes / SEGMENT_BYTES * packet_s + rtt_s


@pytest.mark.parametrize("delay_s", [0.050, 0.025])
def test_ten_megabytes_over_ten_megabits_take_what_the_arithmetic_says(delay_s: float) -> None:
    expected_s = arithmetic_s(10_000_000, 10e6, 2 * delay_s)
    assert 8.4 < expected_s < 8.8
    assert transfer_s(10_000_000, rate="10mbit", delay=delay_s) == pytest.approx(expected_s, rel=0.05)


def test_drain_waits_for_a_reader_that_has_stalled_and_goes_on_when_it_reads() -> None:
    async def test(world: World) -> tuple[bool, float]:
        reads = asyncio.Event()

        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await reads.wait()
            reader._transport.resume_reading()  # type: ignore[attr-defined]
            await sink(reader, writer)

        async def serve() -> None:
            async with await asyncio.start_server(stall, port=9) as server:
                await server.serve_forever()

        world.host("server", start=serve)
        async with world.host("client"):
            await asyncio.sleep(1)
            reader, writer = await asyncio.open_connection("server", 9)
            given = 0

            async def fill() -> None:
                nonlocal given
                while given < 30_000_000:
                    writer.write(bytes(65536))
                    await writer.drain()
                    given += 65536

            filling = asyncio.create_task(fill())
            await asyncio.sleep(600)  # the reader's kernel and ours are full long ago, and its window stays closed
            stalled_at = given
            assert not filling.done()
            await asyncio.sleep(600)
            assert given == stalled_at
            # No more than the buffers of two kernels (tcp_rmem, tcp_wmem) and the writer's own: 6 + 4 MiB and 64 KiB.
            assert given < 11 << 20
            reads.set()
            resumed_s = world.now
            await filling
            writer.write_eof()
            assert await reader.read() == b"!"
            writer.close()
            return filling.done(), world.now - resumed_s

    done, took_s = World(1, delay="1ms", rate="1gbit").run(test)
    assert done
    # A window's probe asks every 120 s at most, but whoever opens it says so at once.
    assert took_s < 2


def jain(shares: list[int]) -> float:
    """Jain's index of fairness: 1 where all have the same, 1/n where one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


@pytest.mark.parametrize("seed", range(3))
def test_three_flows_share_a_bottleneck(seed: int) -> None:
    async def test(world: World) -> list[int]:
        world.host("server", start=serve_sink)
        taken = [0, 0, 0]

        async def flow(number: int) -> None:
            await asyncio.sleep(0.05 * number)
            _, writer = await asyncio.open_connection("server", 9)
            try:
                while True:
                    writer.write(bytes(16384))
                    await writer.drain()
                    taken[number] += 16384
            finally:
                writer.transport.abort()

        async with world.host("client"):
            await asyncio.sleep(1)
            flows = [asyncio.create_task(flow(number)) for number in range(3)]
            await asyncio.sleep(40)
            for each in flows:
                each.cancel()
            await asyncio.gather(*flows, return_exceptions=True)
        return taken

    taken = World(seed, rate="4mbit", delay="10ms", queue=40).run(test)
    assert jain(taken) >= 0.9, taken
    assert sum(taken) * 8 / 40 > 0.9 * 4e6 * SEGMENT_BYTES / PACKET_BYTES  # and none of it is wasted


@pytest.mark.parametrize(
    ("loss", "rtt_s", "size_bytes"), [(0.01, 0.001, 2_000_000), (0.01, 0.020, 2_000_000), (0.05, 0.020, 600_000)]
)
def test_a_lossy_ways_goodput_is_that_of_the_table_in_the_docs(loss: float, rtt_s: float, size_bytes: int) -> None:
    cells = json.loads(GRID.read_text())
    cell = cells[f"{loss * 100:g} % lost; {rtt_s * 1000:g} ms; cubic"]
    goodputs = [
        size_bytes * 8e-6 / transfer_s(size_bytes, seed, loss=loss, delay=rtt_s / 2, rate="50mbit", queue=200)
        for seed in range(7)
    ]
    assert cell["least_mbit_s"] <= statistics.median(goodputs) <= cell["greatest_mbit_s"]

"""Peers that never read: the writer is told to pause, what waits is bounded, an abort ends it, others are served.

What is bounded is what a protocol that honours ``pause_writing`` piles up: its limit and one chunk. That a
protocol which doesn't may fill memory is asyncio's promise as well.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from .robustness_cases import Facts, case, eventually, same_tables, settled_tables
from .robustness_clients import Address, ClientProcess, Wire, open_many, read_exactly, read_to_end
from .robustness_crowd import BACKLOG, EVERYWHERE, Counted, Echo, Tally, address_of, noting_errors
from .robustness_peers import CHUNK, MORE_THAN_THE_KERNEL_HOLDS, Flood
from .subjects import LoopFactory


def _stall(count: int, address: Address, wire: Wire) -> Facts:
    """Opens connections and reads nothing from them; one more, opened later, has echoes meanwhile."""
    socks = open_many(address, count)
    assert wire.hear() == "one more"
    other = socket.create_connection(address, timeout=30)
    for number in range(20):
        message = b"%d;" % number
        other.send(message)
        assert read_exactly(other, len(message)) == message
    other.close()
    wire.say("served")
    assert wire.hear() == "aborted"
    ends = 0
    for sock in socks:
        sock.setblocking(True)
        sock.settimeout(30)
        try:
            read_to_end(sock)
        except ConnectionResetError:
            pass
        ends += 1
        sock.close()
    return {"ends": ends}


@case(sizes=EVERYWHERE, long=dict.fromkeys(EVERYWHERE, 300))
def peers_that_never_read_are_paused_for_bounded_and_aborted(make: LoopFactory, size: int) -> Facts:
    client = ClientProcess(partial(_stall, size))

    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        reports = noting_errors(loop)
        before = await settled_tables(loop)
        tally = Tally()
        stalled: list[Flood] = []

        def protocol() -> Counted:
            if len(stalled) == size:
                return Echo(tally)
            stalled.append(Flood(tally))
            return stalled[-1]

        server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=BACKLOG)
        client.begin(address_of(server))
        await eventually(lambda: len(stalled) == size and not any(flood.may_write for flood in stalled), "all paused")
        waiting: list[int] = []
        for flood in stalled:
            assert flood.transport is not None
            low, high = flood.transport.get_write_buffer_limits()
            waiting.append(flood.transport.get_write_buffer_size())
            # Paused above the one, it stays so down to the other: the kernel may have taken some more since.
            assert low < waiting[-1] <= high + len(CHUNK), f"{waiting[-1]} bytes wait, the limits are {low} and {high}"
        client.wire.say("one more")
        assert await asyncio.to_thread(client.wire.hear) == "served"
        transports = []
        for flood in stalled:
            assert flood.transport is not None and not flood.may_write
            assert flood.written_bytes < MORE_THAN_THE_KERNEL_HOLDS
            transports.append(flood.transport)
            flood.transport.abort()
        await tally.all_lost(size + 1)
        assert not any(transport.get_write_buffer_size() for transport in transports), (
            "aborted, and still something queued"
        )
        del transports, flood
        stalled.clear()
        client.wire.say("aborted")
        facts = await client.report()
        server.close()
        await server.wait_closed()
        await same_tables(loop, before)
        assert facts["ends"] == size
        assert tally.wrong == [] and reports == [], (tally.wrong[:5], reports[:5])
        return {"connections": size, "waiting_bytes": max(waiting)}

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


@case(sizes=EVERYWHERE)
def a_writer_that_waits_in_drain_for_a_stalled_peer_is_told_of_the_abort(make: LoopFactory, size: int) -> Facts:
    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        before = await settled_tables(loop)
        peers = [socket.socketpair() for _ in range(size)]
        writers: list[asyncio.StreamWriter] = []
        ends: list[str] = []

        async def pour(writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    writer.write(CHUNK)
                    await writer.drain()
            except ConnectionError as exc:
                ends.append(type(exc).__name__)

        for near, _ in peers:
            _, writer = await asyncio.open_connection(sock=near)
            writers.append(writer)
        tasks = [asyncio.create_task(pour(writer)) for writer in writers]
        await eventually(lambda: all(writer.transport.get_write_buffer_size() for writer in writers), "all wait")
        for number, (writer, (_, far)) in enumerate(zip(writers, peers, strict=True)):
            if number % 2:
                writer.transport.abort()
            else:
                far.close()
        await asyncio.gather(*tasks)
        assert len(ends) == size
        for writer in writers:
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass
        for _, far in peers:
            far.close()
        writers.clear()
        tasks.clear()
        del writer
        await same_tables(loop, before)
        return {"writers": size}

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())

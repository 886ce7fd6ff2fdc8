"""Peers that reset or half-close, whatever is under way: each connection ends once, and with all that was owed.

The peers are plain sockets of this process or of another; what the server's side was told is compared
exactly. Those that stall are in `robustness_stall`.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import cast

from .robustness_cases import Facts, case, eventually, same_tables, settled_tables
from .robustness_clients import (
    Address,
    ClientProcess,
    Wire,
    open_many,
    raise_descriptor_limit,
    read_to_end,
    reset,
)
from .robustness_crowd import BACKLOG, EVERYWHERE, Counted, Echo, Tally, address_of, noting_errors
from .subjects import LoopFactory

CHUNK = bytes(range(256)) * 256  # 64 KiB

# More than the buffers of both kernels take: tcp_wmem and tcp_rmem end at 4 and 6 MiB (tcp(7)) by default.
MORE_THAN_THE_KERNEL_HOLDS = 64 << 20

# What a peer that half-closed still gets.
ANSWER_BYTES = 1 << 20


class Flood(Counted):
    """Writes for as long as it may, and honours pause_writing."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self.may_write = True
        self.written_bytes = 0
        self.pauses = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._write()

    def _write(self) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        # One chunk a turn: between two the loop serves everyone else.
        if self.may_write and self.written_bytes < MORE_THAN_THE_KERNEL_HOLDS:
            transport.write(CHUNK)
            self.written_bytes += len(CHUNK)
            asyncio.get_running_loop().call_soon(self._write)

    async def full(self) -> None:
        """Waits until it must not write more."""
        await eventually(lambda: not self.may_write, "a full buffer")

    def pause_writing(self) -> None:
        self._expect("open", "pause_writing")
        self.may_write = False
        self.pauses += 1

    def resume_writing(self) -> None:
        self._expect("open", "resume_writing")
        self.may_write = True
        asyncio.get_running_loop().call_soon(self._write)


class Deaf(Counted):
    """Never reads."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast(asyncio.Transport, transport).pause_reading()


class DeafFlood(Flood, Deaf):
    """Writes for as long as it may and never reads."""


# --- reset ----------------------------------------------------------------------------------------------------------


def _reset_after(count: int, rounds: int, send: bytes, address: Address, wire: Wire) -> Facts:
    """Opens connections, lets the case look at them, and resets them all; `send` goes out just before."""
    raise_descriptor_limit(count + 100)
    for _ in range(rounds):
        assert wire.hear() == "come"
        socks = open_many(address, count)
        wire.say("open")
        assert wire.hear() == "reset"
        for sock in socks:
            if send:
                sock.send(send)
            reset(sock)
        wire.say("gone")
    return {"resets": count * rounds}


@case(sizes=EVERYWHERE, long=dict.fromkeys(EVERYWHERE, 300))
def peers_that_reset_are_lost_once_whatever_was_under_way(make: LoopFactory, size: int) -> Facts:
    kinds: list[type[Counted]] = [Echo, Flood, Deaf, DeafFlood]
    client = ClientProcess(partial(_reset_after, size, 2 * len(kinds), b"last words"))

    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        reports = noting_errors(loop)
        before = await settled_tables(loop)
        tally = Tally()
        kind: type[Counted] = Echo
        server_side: list[Counted] = []

        def protocol() -> Counted:
            server_side.append(kind(tally))
            return server_side[-1]

        server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=BACKLOG)
        client.begin(address_of(server))
        expected = 0
        for number in range(2 * len(kinds)):
            kind = kinds[number % len(kinds)]
            client.wire.say("come")
            assert await asyncio.to_thread(client.wire.hear) == "open"
            expected += size
            await tally.all_made(expected)
            for each in server_side:
                if isinstance(each, Flood):
                    await each.full()
            client.wire.say("reset")
            if number >= len(kinds):
                # The second time round the loop stands still meanwhile: data and end come as one event.
                assert client.wire.hear() == "gone"
            else:
                assert await asyncio.to_thread(client.wire.hear) == "gone"
            if kind is Deaf:
                # Nobody reads, nobody writes: asyncio learns of the end when it does either.
                for each in server_side:
                    if each.transport is not None:
                        each.transport.write(b"are you there?")
                        each.transport.resume_reading()
            await tally.all_lost(expected)
            server_side.clear()
        facts = await client.report()
        server.close()
        await server.wait_closed()
        await same_tables(loop, before)
        assert (tally.made, tally.lost) == (expected, expected)
        assert tally.wrong == [] and reports == [], (tally.wrong[:5], reports[:5])
        ends = ", ".join(f"{count} {name}" for name, count in tally.errors.most_common())
        return {**facts, "ends": ends}

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


@case(sizes=EVERYWHERE)
def peers_that_reset_before_they_are_accepted_do_no_harm(make: LoopFactory, size: int) -> Facts:
    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        reports = noting_errors(loop)
        before = await settled_tables(loop)
        tally = Tally()
        server = await loop.create_server(lambda: Echo(tally), "127.0.0.1", 0, backlog=BACKLOG)
        address = address_of(server)
        for _ in range(10):
            # The loop has no turn in between, so all of these wait in the listener's queue and die there.
            for number in range(size):
                sock = socket.create_connection(address)
                if number % 2:
                    sock.send(b"and gone")
                reset(sock)
            await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"alive")
        assert await reader.readexactly(5) == b"alive"
        writer.close()
        await writer.wait_closed()
        del reader, writer
        await tally.all_lost(tally.made)
        server.close()
        await server.wait_closed()
        await same_tables(loop, before)
        assert tally.wrong == [] and reports == [], (tally.wrong[:5], reports[:5])
        return {"made": tally.made, "resets": 10 * size}

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


# --- half-close -----------------------------------------------------------------------------------------------------


class AnswersTheEnd(Counted):
    """Answers with a mebibyte when its peer has said all it wanted."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self.got = b""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.got += data

    def eof_received(self) -> bool:
        self._expect("open", "eof_received")
        assert self.transport is not None
        if self.got != b"question":
            self.tally.wrong.append(f"the peer had said {self.got!r} by its end")
        asyncio.get_running_loop().call_soon(self._answer, ANSWER_BYTES)
        return True

    def _answer(self, left: int) -> None:
        if self.transport is None or self.transport.is_closing():
            self.tally.wrong.append("closed before the answer was given")
        elif left:
            self.transport.write(CHUNK)
            asyncio.get_running_loop().call_soon(self._answer, left - len(CHUNK))
        else:
            self.transport.close()


def _ask_and_half_close(count: int, address: Address, wire: Wire) -> Facts:
    socks = open_many(address, count)
    for number, sock in enumerate(socks):
        sock.setblocking(True)
        sock.settimeout(30)
        sock.send(b"quest")
        if number % 2:
            sock.send(b"ion")
            sock.shutdown(socket.SHUT_WR)
    for sock in socks[::2]:
        sock.send(b"ion")
        sock.shutdown(socket.SHUT_WR)
    answered = 0
    for sock in socks:
        answer = read_to_end(sock)
        assert answer == CHUNK * (ANSWER_BYTES // len(CHUNK)), f"an answer of {len(answer)} bytes"
        answered += len(answer)
        sock.close()
    return {"answered_bytes": answered}


@case(sizes=EVERYWHERE, long=dict.fromkeys(EVERYWHERE, 300))
def peers_that_half_close_get_their_whole_answer(make: LoopFactory, size: int) -> Facts:
    client = ClientProcess(partial(_ask_and_half_close, size))

    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        reports = noting_errors(loop)
        before = await settled_tables(loop)
        tally = Tally()
        server = await loop.create_server(lambda: AnswersTheEnd(tally), "127.0.0.1", 0, backlog=BACKLOG)
        client.begin(address_of(server))
        facts = await client.report()
        await tally.all_lost(size)
        server.close()
        await server.wait_closed()
        await same_tables(loop, before)
        assert facts["answered_bytes"] == size * ANSWER_BYTES
        assert tally.wrong == [] and reports == [], (tally.wrong[:5], reports[:5])
        return facts

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())

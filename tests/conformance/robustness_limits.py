"""Descriptors exhausted: the loop says so once, does not spin, and serves again as soon as there is room.

Nothing here is timed: accepts, reports and turns of the loop are counted. The limits that only one model has
are in `robustness_models`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from asyncio import constants
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from .robustness_cases import Facts, case, eventually, open_descriptors, same_tables, settled_tables
from .robustness_clients import (
    Address,
    ClientProcess,
    Wire,
    open_many,
    say_and_hear,
)
from .robustness_crowd import BACKLOG, EVERYWHERE, Echo, Tally, address_of, noting_errors
from .subjects import LoopFactory

# Connections that still find a descriptor once the limit is lowered.
ROOM = 10

# Turns that a loop may take in half a retry delay in which nothing happens: a few for callbacks that were queued.
# The signal model wakes 200 times a second where it watches something without O_ASYNC, and nonblocking's
# policy is to ask every millisecond, so these two are held to their own numbers.
FEW_TURNS = 20


class CountingListener(socket.socket):
    """A listening socket that counts how often accept(2) was tried on it."""

    attempts = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.attempts += 1
        return super().accept()


def listener() -> CountingListener:
    sock = CountingListener()
    sock.bind(("127.0.0.1", 0))
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def count_turns(loop: asyncio.AbstractEventLoop) -> Callable[[], int]:
    """Counts the loop's turns from now on."""
    turns = 0
    run_once: Callable[[], None] = loop._run_once  # type: ignore[attr-defined]

    def counted() -> None:
        nonlocal turns
        turns += 1
        run_once()

    loop._run_once = counted  # type: ignore[attr-defined]
    return lambda: turns


class Exhaustion:
    """Room for `ROOM` more descriptors and no more, until `relieve`."""

    def __init__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The limit is one of numbers, not of how many: fill the gaps below the highest first.
        highest = max(open_descriptors())
        self._fillers = [os.dup(0)]
        while self._fillers[-1] < highest:
            self._fillers.append(os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._fillers[-1] + 1 + ROOM, self._before[1]))

    def relieve(self) -> None:
        """Puts the limit back."""
        for fd in self._fillers:
            os.close(fd)
        self._fillers.clear()
        resource.setrlimit(resource.RLIMIT_NOFILE, self._before)


def _all_at_once_then_echoes(count: int, address: Address, wire: Wire) -> Facts:
    socks = open_many(address, count)
    heard = say_and_hear(socks, 1)
    for sock in socks:
        sock.close()
    return {"echoes": heard}


@case(sizes=dict.fromkeys(EVERYWHERE, 100))
def descriptors_exhausted_are_told_once_each_rest_and_served_when_there_is_room(make: LoopFactory, size: int) -> Facts:
    client = ClientProcess(partial(_all_at_once_then_echoes, size))

    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        before = await settled_tables(loop)
        tally = Tally()
        sock = listener()
        # Before the server begins: an accept that is under way keeps the limit which it began with (io_uring).
        exhausted = Exhaustion()
        server = await loop.create_server(lambda: Echo(tally), sock=sock, backlog=BACKLOG)
        told: list[str] = []
        resting: dict[str, int] = {}
        turns = count_turns(loop)

        def note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            told.append(f"{context['message']}: {context.get('exception')!r}")
            if len(told) == 1:
                # Before the retry, whatever the machine's load: timers run in the order of their times.
                begin = {"attempts": sock.attempts, "turns": turns()}
                loop.call_later(constants.ACCEPT_RETRY_DELAY / 2, rested, begin)

        def rested(begin: dict[str, int]) -> None:
            resting["told"] = len(told)
            resting["attempts"] = sock.attempts - begin["attempts"]
            resting["turns"] = turns() - begin["turns"]
            resting["made"] = tally.made
            exhausted.relieve()

        loop.set_exception_handler(note)
        client.begin(address_of(server))
        facts = await client.report()
        await tally.all_lost(size)
        server.close()
        await server.wait_closed()
        await same_tables(loop, before)
        assert facts["echoes"] == size
        assert (tally.made, tally.lost, tally.wrong) == (size, size, [])
        assert all("out of system resource" in report and "Too many open files" in report for report in told), told
        assert resting["told"] == 1, f"told {resting['told']} times before the retry"
        assert resting["attempts"] == 0, f"accept was tried {resting['attempts']} times before the retry"
        assert 0 < resting["made"] <= ROOM, resting
        # `eventually` above wakes every 5 ms, and so does the client's report: these are turns of our own.
        own_turns = 2 * int(constants.ACCEPT_RETRY_DELAY / 2 / 0.005)
        if "Nonblocking" not in type(loop).__name__:
            assert resting["turns"] <= own_turns + FEW_TURNS, resting
        return {**resting}

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


def _open_and_hold(count: int, address: Address, wire: Wire) -> Facts:
    socks = open_many(address, count)
    wire.say("opened")
    assert wire.hear() == "leave"
    return {"opened": len(socks)}


@case(sizes=dict.fromkeys(EVERYWHERE, 30))
def a_server_closed_while_it_rests_for_want_of_descriptors_stays_closed(make: LoopFactory, size: int) -> Facts:
    client = ClientProcess(partial(_open_and_hold, size))

    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        before = await settled_tables(loop)
        tally = Tally()
        exhausted = Exhaustion()
        server = await loop.create_server(lambda: Echo(tally), "127.0.0.1", 0, backlog=BACKLOG)
        told = noting_errors(loop)
        client.begin(address_of(server))
        await eventually(lambda: len(told) > 0, "a report that descriptors are exhausted")
        await client.until_it_speaks()  # a busy machine lets it connect later, to a server that is closed
        assert client.wire.hear() == "opened"
        server.close()
        exhausted.relieve()
        del told[:]
        await asyncio.sleep(constants.ACCEPT_RETRY_DELAY * 1.1)  # past the retry, which must find nothing to do
        client.wire.say("leave")
        await client.report()
        await tally.all_lost(tally.made)
        assert told == [], told
        assert 0 < tally.made <= ROOM, tally.made
        await server.wait_closed()
        await same_tables(loop, before)
        return {"made": tally.made}

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


@case(sizes=EVERYWHERE)
def connecting_without_descriptors_raises_and_leaves_the_loop_usable(make: LoopFactory, size: int) -> Facts:
    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        tally = Tally()
        server = await loop.create_server(lambda: Echo(tally), "127.0.0.1", 0)
        address = address_of(server)
        exhausted = Exhaustion()
        with ExitStack() as full:
            try:
                while True:
                    full.callback(os.close, os.dup(0))
            except OSError:
                pass
            for _ in range(size):
                try:
                    await loop.create_connection(asyncio.Protocol, *address)
                except OSError as exc:
                    assert "Too many open files" in str(exc), exc
                else:
                    raise AssertionError("connected without a descriptor")
        exhausted.relieve()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"room")
        assert await reader.readexactly(4) == b"room"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await tally.all_lost(1)
        return {"refusals": size}

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())

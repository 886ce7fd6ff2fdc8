"""The limits of single models: a full signal queue, real-time signals all taken, select's 1024 descriptors.

A limit must cost only what is beyond it: it is counted or told in a sentence, and all else goes on. The limit
that every model has, the process's descriptors, is in `robustness_limits`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from underlay.errors import UnderlayError

from .robustness_cases import Facts, case, eventually, same_tables, settled_tables
from .robustness_clients import (
    MESSAGE,
    Address,
    ClientProcess,
    Wire,
    open_many,
    raise_descriptor_limit,
    read_exactly,
    say_and_hear,
)
from .robustness_crowd import BACKLOG, EVERYWHERE, Echo, Tally, address_of, noting_errors
from .robustness_limits import count_turns
from .subjects import LoopFactory

# --- the signal model's queue -----------------------------------------------------------------------------------

# Signals of this user that may wait (RLIMIT_SIGPENDING): far fewer than connections that have something to say.
QUEUE_LENGTH = 64


def _all_speak_while_nobody_listens(count: int, rounds: int, address: Address, wire: Wire) -> Facts:
    socks = open_many(address, count)
    say_and_hear(socks, 0)  # all are accepted and watched now
    heard = 0
    for number in range(1, rounds + 1):
        wire.say("ready")
        assert wire.hear() == "speak"
        messages = [MESSAGE.pack(i, number) for i in range(count)]
        for sock, message in zip(socks, messages, strict=True):
            sock.send(message)
        wire.say("spoken")
        for sock, message in zip(socks, messages, strict=True):
            sock.setblocking(True)
            sock.settimeout(30)
            got = read_exactly(sock, len(message))
            assert got == message, f"sent {message!r}, got {got!r} back"
            heard += 1
    for sock in socks:
        sock.close()
    return {"echoes": heard}


async def _one_more_overflow(loop: asyncio.AbstractEventLoop, before: int) -> int:
    poller = loop._poller  # type: ignore[attr-defined]
    await eventually(lambda: poller.overflows > before, "an overflow counted")
    overflows: int = poller.overflows
    return overflows


def _serve_those_who_speak_all_at_once(make: LoopFactory, size: int, rounds: int, queue_overflows: bool) -> Facts:
    client = ClientProcess(partial(_all_speak_while_nobody_listens, size, rounds))
    raise_descriptor_limit(size + 100)

    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        reports = noting_errors(loop)
        before = await settled_tables(loop)
        tally = Tally()
        server = await loop.create_server(lambda: Echo(tally), "127.0.0.1", 0, backlog=BACKLOG)
        client.begin(address_of(server))
        overflows = 0
        for _ in range(rounds):
            assert await asyncio.to_thread(client.wire.hear) == "ready"
            # The loop stands still here, in the middle of a turn, while every peer speaks.
            client.wire.say("speak")
            assert client.wire.hear() == "spoken"
            if queue_overflows:
                overflows = await _one_more_overflow(loop, overflows)
        facts = await client.report()
        await tally.all_lost(size)
        server.close()
        await server.wait_closed()
        await same_tables(loop, before)
        assert facts["echoes"] == size * rounds
        assert tally.wrong == [] and reports == [], (tally.wrong[:5], reports[:5])
        return {**facts, "overflows": overflows}

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


@case(
    sizes={**dict.fromkeys(EVERYWHERE, 600), "select": 400},
    long={"epoll_et": 10_000, "signal": 10_000, "uring": 10_000},
)
def peers_that_all_speak_while_the_loop_is_busy_are_all_heard(make: LoopFactory, size: int) -> Facts:
    return _serve_those_who_speak_all_at_once(make, size, 3, queue_overflows=False)


@case(sizes={"signal": 500}, long={"signal": 10_000})
def a_full_signal_queue_is_counted_and_loses_nothing(make: LoopFactory, size: int) -> Facts:
    _, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (QUEUE_LENGTH, hard))
    return _serve_those_who_speak_all_at_once(make, size, 5, queue_overflows=True)


@case(sizes={"signal": 2})
def the_last_free_signal_number_taken_is_told_and_given_back(make: LoopFactory, size: int) -> Facts:
    counts = []
    for _ in range(size):
        with ExitStack() as loops:
            opened = 0
            try:
                while opened < 64:  # there are at most 33 real-time signals: signal(7)
                    loops.callback(make().close)
                    opened += 1
            except UnderlayError as exc:
                assert "real-time signal" in str(exc) and "close" in str(exc), exc
            else:
                raise AssertionError(f"{opened} signal-driven loops at once, where there are not so many signals")
        counts.append(opened)
    assert len(set(counts)) == 1 and counts[0] > 20, counts
    return {"loops_at_once": counts[0]}


# --- select's bit map ---------------------------------------------------------------------------------------------


def _count_the_served(count: int, address: Address, wire: Wire) -> Facts:
    """Opens connections one after another, asks each for an echo, and counts who got one and who was hung up on."""
    served, refused = [], 0
    raise_descriptor_limit(count + 100)
    for i in range(count):
        sock = socket.create_connection(address, timeout=30)
        try:
            sock.send(MESSAGE.pack(i, 1))
            assert read_exactly(sock, MESSAGE.size) == MESSAGE.pack(i, 1)
        except (EOFError, ConnectionError):
            refused += 1
            sock.close()
        else:
            served.append(sock)
    # Room again: one more is served once others have left.
    for sock in served[: len(served) // 2]:
        sock.close()
    wire.say("left")
    assert wire.hear() == "again"
    again = socket.create_connection(address, timeout=30)
    again.send(b"again")
    assert read_exactly(again, 5) == b"again"
    again.close()
    for sock in served[len(served) // 2 :]:
        sock.close()
    return {"served": len(served), "refused": refused}


@case(sizes={"select": 1050})
def select_refuses_what_its_bit_map_cannot_hold_and_serves_the_rest(make: LoopFactory, size: int) -> Facts:
    client = ClientProcess(partial(_count_the_served, size))
    raise_descriptor_limit(size + 1100)

    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        told = noting_errors(loop)
        before = await settled_tables(loop)
        tally = Tally()
        server = await loop.create_server(lambda: Echo(tally), "127.0.0.1", 0, backlog=BACKLOG)
        turns = count_turns(loop)
        client.begin(address_of(server))
        assert await asyncio.to_thread(client.wire.hear) == "left"
        # Twice a connection (accept and its task, message), and the thread above.
        assert turns() < 10 * size, f"{turns()} turns for {size} connections"
        await eventually(lambda: tally.lost > 400, "half of them lost")
        client.wire.say("again")
        facts = await client.report()
        served, refused = int(facts["served"]), int(facts["refused"])
        assert served + refused == size and 900 < served < 1024, facts
        await tally.all_lost(tally.made)
        assert tally.made == served + 1 and tally.wrong == [], (tally.made, tally.wrong)
        assert len(told) == refused, (len(told), told[:2])
        assert all("1023 (FD_SETSIZE)" in report and "epoll" in report for report in told), told[:2]
        server.close()
        await server.wait_closed()
        await same_tables(loop, before)
        return facts

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


@case(sizes={"select": 20})
def select_refuses_to_watch_or_connect_by_a_descriptor_beyond_its_bit_map(make: LoopFactory, size: int) -> Facts:
    raise_descriptor_limit(4096)

    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        before = await settled_tables(loop)
        tally = Tally()
        server = await loop.create_server(lambda: Echo(tally), "127.0.0.1", 0)
        path = "\0" + f"underlay-{os.getpid()}"
        unix_server = await loop.create_unix_server(lambda: Echo(tally), path)
        with ExitStack() as full:
            while (fd := os.dup(0)) < 1023:
                full.callback(os.close, fd)
            full.callback(os.close, fd)
            near, far = socket.socketpair()
            attempts: list[Callable[[], Any]] = [
                lambda: loop.create_connection(asyncio.Protocol, *address_of(server)),
                lambda: loop.create_unix_connection(asyncio.Protocol, path),
                lambda: loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0)),
                lambda: loop.sock_recv(near, 10),
                lambda: asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1),
            ]
            near.setblocking(False)
            for _ in range(size):
                for attempt in attempts:
                    try:
                        await attempt()
                    except ValueError as exc:
                        assert "1023 (FD_SETSIZE)" in str(exc), exc
                    else:
                        raise AssertionError("select took a descriptor beyond its bit map")
            near.close()
            far.close()
        reader, writer = await asyncio.open_connection(*address_of(server))
        writer.write(b"below")
        assert await reader.readexactly(5) == b"below"
        writer.close()
        await writer.wait_closed()
        del reader, writer  # the loop's table of transports is a weak one
        for each in (server, unix_server):
            each.close()
            await each.wait_closed()
        await same_tables(loop, before)
        return {"refusals": size * len(attempts)}

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())

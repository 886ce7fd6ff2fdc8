"""Crowds: thousands of connections at once, clients that come and go, clients that are killed.

The counting is exact: each connection is made once, gets its echo, is lost once, and afterwards neither the
process nor any table of the loop remembers it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from functools import partial
from typing import cast

from .robustness_cases import Facts, case, eventually, same_tables, settled_tables
from .robustness_clients import (
    Address,
    ClientProcess,
    Wire,
    a_crowd,
    comers_and_goers,
    open_many,
    raise_descriptor_limit,
    say_and_hear,
)
from .subjects import LoopFactory

# The listening queue: as long as the kernel allows (net.core.somaxconn), so that no SYN is dropped.
BACKLOG = 4096

# nonblocking and select ask about everything in each turn, blocking starts a thread for each connection.
FULL = {"epoll": 10_000, "epoll_et": 10_000, "signal": 10_000, "uring": 10_000}
FEWER = {"poll": 1000, "nonblocking": 1000, "blocking": 1000, "select": 400}
# As many as fit under a hard limit of 20,000 descriptors, which only the privileged may raise.
MOST = 19_000
EVERYWHERE = dict.fromkeys((*FEWER, *FULL), 50)


class Tally:
    """What became of all connections of a server."""

    def __init__(self) -> None:
        self.made = 0
        self.lost = 0
        self.errors: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.received_bytes = 0

    async def all_made(self, count: int) -> None:
        """Waits until `count` connections were made."""
        await eventually(lambda: self.made >= count, lambda: f"{count} connections made, not {self.made}")

    async def all_lost(self, count: int) -> None:
        """Waits until `count` connections were lost."""
        await eventually(
            lambda: self.lost >= count, lambda: f"{count} connections lost, not {self.lost} of {self.made}"
        )


class Counted(asyncio.Protocol):
    """Counts its own life, and notices when it is told anything twice or in the wrong order."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.state = "new"
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._expect("new", "connection_made")
        self.state = "open"
        self.tally.made += 1
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._expect("open", "data_received")
        self.tally.received_bytes += len(data)

    def eof_received(self) -> bool:
        self._expect("open", "eof_received")
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        self._expect("open", "connection_lost")
        self.state = "lost"
        self.tally.lost += 1
        self.tally.errors[type(exc).__name__] += 1
        self.transport = None

    def _expect(self, state: str, call: str) -> None:
        if self.state != state:
            self.tally.wrong.append(f"{call} on a connection that is {self.state}")


class Echo(Counted):
    """Sends back what it gets."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        assert self.transport is not None
        self.transport.write(data)


def noting_errors(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Collects what the loop reports to its exception handler."""
    reports: list[str] = []
    loop.set_exception_handler(lambda _, context: reports.append(f"{context['message']}: {context.get('exception')!r}"))
    return reports


def address_of(server: asyncio.Server) -> Address:
    """Where a server listens."""
    host, port = server.sockets[0].getsockname()[:2]
    return host, port


@case(
    sizes={**FEWER, **FULL},
    long={"poll": 10_000, "epoll": MOST, "epoll_et": MOST, "signal": MOST, "uring": MOST},
)
def a_crowd_that_comes_at_once_and_leaves_at_random_is_served_and_forgotten(make: LoopFactory, size: int) -> Facts:
    client = ClientProcess(partial(a_crowd, size, 1))
    raise_descriptor_limit(size + 100)

    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        reports = noting_errors(loop)
        before = await settled_tables(loop)
        tally = Tally()
        server = await loop.create_server(lambda: Echo(tally), "127.0.0.1", 0, backlog=BACKLOG)
        client.begin(address_of(server))
        facts = await client.report()
        await tally.all_lost(size)
        server.close()
        await server.wait_closed()
        await same_tables(loop, before)
        assert facts["echoes"] == size
        assert (tally.made, tally.lost) == (size, size)
        assert tally.wrong == [] and reports == [], (tally.wrong[:5], reports[:5])
        ends = ", ".join(f"{count} {name}" for name, count in tally.errors.most_common())
        return {**facts, "ends": ends}

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


class KnowsItsPeer(Counted):
    """Takes only what its own peer sent: the peer's port, and a wish."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.buffer = b""
        peer = transport.get_extra_info("peername")
        self.port = peer[1].to_bytes(2, "big") if peer else None  # None: gone before it was accepted

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.buffer += data
        said, wish = self.buffer[:6], self.buffer[6:]
        if self.port is not None and said != (self.port * 3)[: len(said)]:
            self.tally.wrong.append(f"the peer at {self.port!r} is said to have sent {self.buffer!r}")
        assert self.transport is not None
        if wish == b"c":
            self.transport.close()
        elif wish == b"a":
            self.transport.abort()
        elif wish == b"?":
            self.transport.write(b"!")


@case(sizes=dict.fromkeys(EVERYWHERE, 2000), long={**dict.fromkeys(EVERYWHERE, 50_000), "nonblocking": 10_000})
def a_descriptor_number_used_again_brings_nothing_of_its_last_owner(make: LoopFactory, size: int) -> Facts:
    client = ClientProcess(partial(comers_and_goers, size, 2))

    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        reports = noting_errors(loop)
        before = await settled_tables(loop)
        tally = Tally()
        server = await loop.create_server(lambda: KnowsItsPeer(tally), "127.0.0.1", 0, backlog=BACKLOG)
        client.begin(address_of(server))
        facts = await client.report()
        await tally.all_lost(size)
        server.close()
        await server.wait_closed()
        await same_tables(loop, before)
        assert (tally.made, tally.lost) == (size, size)
        assert tally.wrong == [] and reports == [], (tally.wrong[:5], reports[:5])
        return facts

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


@case(sizes=dict.fromkeys(EVERYWHERE, 50))
def an_event_already_fetched_does_not_reach_the_next_owner_of_the_number(make: LoopFactory, size: int) -> Facts:
    """Two sockets are ready in one turn, and a third takes the number of one between its event and its callback."""

    async def round_() -> None:
        loop = asyncio.get_running_loop()
        near = [socket.socketpair() for _ in range(2)]
        called: list[str] = []
        fresh, fresh_far = socket.socketpair()
        number = -1

        def first_wins(winner: int) -> None:
            nonlocal number
            if number >= 0:
                called.append("the last owner")
                return
            near[winner][0].recv(100)
            loser = near[1 - winner][0]
            number = loser.fileno()
            loop.remove_reader(loser)
            loser.close()
            os.dup2(fresh.fileno(), number)
            loop.add_reader(number, called.append, "the next owner")

        for i, (sock, far) in enumerate(near):
            loop.add_reader(sock, first_wins, i)
            far.send(b"x")
        await eventually(lambda: number >= 0, "an event")
        for _ in range(10):
            await asyncio.sleep(0)
        assert called == [], f"an event of a closed descriptor reached {called}"
        loop.remove_reader(number)
        heard = asyncio.Event()
        loop.add_reader(number, heard.set)
        fresh_far.send(b"mine")
        await heard.wait()
        assert os.read(number, 100) == b"mine"
        loop.remove_reader(number)
        os.close(number)
        for sock, far in near:
            if sock.fileno() >= 0:
                loop.remove_reader(sock)
                sock.close()
            far.close()
        fresh.close()
        fresh_far.close()

    async def main() -> Facts:
        for _ in range(size):
            await round_()
        return {"rounds": size}

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


def _stream_both_ways(count: int, address: Address, wire: Wire) -> Facts:
    """Sends and takes all it can on `count` connections until it is killed."""
    socks = open_many(address, count)
    payload = bytes(1 << 16)
    while True:
        for sock in socks:
            try:
                sock.send(payload)
                sock.recv(1 << 16)
            except BlockingIOError:
                pass


def _have_one_echo(address: Address, wire: Wire) -> Facts:
    socks = open_many(address, 1)
    heard = say_and_hear(socks, 1)
    socks[0].close()
    return {"echoes": heard}


@case(sizes=EVERYWHERE, long=dict.fromkeys(EVERYWHERE, 300))
def a_client_killed_in_mid_transfer_is_forgotten_and_the_next_is_served(make: LoopFactory, size: int) -> Facts:
    victim = ClientProcess(partial(_stream_both_ways, size))
    heir = ClientProcess(_have_one_echo)

    async def main() -> Facts:
        loop = asyncio.get_running_loop()
        reports = noting_errors(loop)
        before = await settled_tables(loop)
        tally = Tally()
        server = await loop.create_server(lambda: Echo(tally), "127.0.0.1", 0, backlog=BACKLOG)
        victim.begin(address_of(server))
        # In mid-transfer: every connection has sent some, and both directions are busy.
        await eventually(lambda: tally.made == size and tally.received_bytes > size << 18, "a transfer under way")
        victim.kill()
        await tally.all_lost(size)
        heir.begin(address_of(server))
        facts = await heir.report()
        await tally.all_lost(size + 1)
        server.close()
        await server.wait_closed()
        await same_tables(loop, before)
        assert tally.wrong == [] and reports == [], (tally.wrong[:5], reports[:5])
        assert facts["echoes"] == 1
        return {"connections": size, "received_bytes": tally.received_bytes}

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())

"""Clients in processes of their own: what they do to a server, and what they saw of it.

A `ClientProcess` is forked before any loop or thread exists, gets the server's address when there is one, and
reports facts when it is done. The clients use plain sockets, so that nothing here depends on a loop of ours.

This file knows the peers' side only. It does not know which model serves them.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import select
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Iterable
from typing import Literal

from .robustness_cases import Facts, NotHere

Address = tuple[str, int]

# SO_LINGER of zero seconds: close(2) sends RST instead of FIN and drops what is unsent (socket(7)).
_RESET = struct.pack("ii", 1, 0)

# Connections on their way at a time. The listener's queue ends at net.core.somaxconn (4096); past it the
# kernel drops the SYN, and its sender tries again only a second later (RFC 6298).
_ON_THEIR_WAY = 1000

# A client that hears nothing for so long reports that instead of being killed by the case's limit.
_SILENCE_S = 30.0

MESSAGE = struct.Struct("!II")  # the connection's number and the message's


class Wire:
    """A client process's line to the case: short texts in both directions."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rwb", buffering=0)
        self._sock = sock

    def say(self, text: str) -> None:
        """Sends one line."""
        self._file.write(text.encode() + b"\n")

    def hear(self) -> str:
        """Waits for a line; EOFError where the other side is gone."""
        line = self._file.readline()
        if not line:
            raise EOFError("the other side of the wire is gone")
        return line.decode().rstrip("\n")

    def close(self) -> None:
        self._file.close()
        self._sock.close()


class ClientProcess:
    """A process that runs `work(address, wire)` once it is told the address, and reports what it returns."""

    def __init__(self, work: Callable[[Address, Wire], Facts]) -> None:
        near, far = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            near.close()
            _be_the_client(work, Wire(far))
        far.close()
        self.wire = Wire(near)

    def begin(self, address: Address) -> None:
        """Tells the client where the server listens."""
        self.wire.say(json.dumps(address))

    async def until_it_speaks(self) -> None:
        """Waits for something to hear from the client, with the loop running."""
        poller = select.poll()
        poller.register(self.wire._sock, select.POLLIN)
        while not poller.poll(0):
            await asyncio.sleep(0.005)

    async def report(self) -> Facts:
        """Waits for the client's facts with the loop running; AssertionError tells of its failure."""
        await self.until_it_speaks()
        return self.report_now()

    def report_now(self) -> Facts:
        """Waits for the client's facts with the loop held up."""
        facts: Facts = json.loads(self.wire.hear())
        self.end()
        assert "failed" not in facts, f"the client failed:\n{facts['failed']}"
        return facts

    def kill(self) -> None:
        """Ends it as ``kill -9`` does: the kernel closes its sockets, with what is in them."""
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> None:
        """Reaps the process and closes the wire."""
        os.waitpid(self.pid, 0)
        self.wire.close()


def _be_the_client(work: Callable[[Address, Wire], Facts], wire: Wire) -> None:
    try:
        try:
            host, port = json.loads(wire.hear())
            facts: Facts = work((host, port), wire)
        except BaseException:
            facts = {"failed": traceback.format_exc()}
        wire.say(json.dumps(facts))
    finally:
        os._exit(0)  # the rest of the program is the parent's


def raise_descriptor_limit(wanted: int) -> None:
    """Lets this process open `wanted` descriptors, or raises `NotHere`: the hard limit is the privileged's to raise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except ValueError:
            raise NotHere(f"{wanted} descriptors are needed and {hard} allowed; remedy: ulimit -Hn {wanted}") from None


def reset(sock: socket.socket) -> None:
    """Closes the connection by RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def read_to_end(sock: socket.socket) -> bytes:
    """Reads until the peer's FIN."""
    got = bytearray()
    while chunk := sock.recv(1 << 18):
        got += chunk
    return bytes(got)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """Reads `count` bytes; EOFError where the stream ends before."""
    got = bytearray()
    while len(got) < count:
        chunk = sock.recv(count - len(got))
        if not chunk:
            raise EOFError(f"the stream ended after {len(got)} of {count} bytes")
        got += chunk
    return bytes(got)


# --- many connections -----------------------------------------------------------------------------------------


def open_many(address: Address, count: int) -> list[socket.socket]:
    """Opens `count` connections, non-blocking, and returns when all are established."""
    raise_descriptor_limit(count + 100)
    poller = select.epoll()
    socks: list[socket.socket] = []
    waiting = 0
    while len(socks) < count or waiting:
        while len(socks) < count and waiting < _ON_THEIR_WAY:
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            poller.register(sock, select.EPOLLOUT | select.EPOLLONESHOT)
            socks.append(sock)
            waiting += 1
        events = poller.poll(_SILENCE_S)
        assert events, f"{waiting} of {count} connections were not accepted"
        waiting -= len(events)
    poller.close()
    for sock in socks:
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert not error, f"a connection was refused: {os.strerror(error)}"
    return socks


def say_and_hear(socks: Iterable[socket.socket], number: int) -> int:
    """Sends each connection's number on all, then reads its echo on each, whichever comes first; counts echoes."""
    poller = select.epoll()
    expected: dict[int, tuple[socket.socket, bytes]] = {}
    for i, sock in enumerate(socks):
        message = MESSAGE.pack(i, number)
        sock.send(message)
        expected[sock.fileno()] = sock, message
        poller.register(sock, select.EPOLLIN)
    heard = 0
    while expected:
        events = poller.poll(_SILENCE_S)
        assert events, f"{len(expected)} connections got no echo"
        for fd, _ in events:
            sock, message = expected.pop(fd)
            poller.unregister(fd)
            got = sock.recv(100)
            assert got == message, f"sent {message!r}, got {got!r} back"
            heard += 1
    poller.close()
    return heard


def leave(sock: socket.socket, way: int, message: bytes) -> None:
    """Ends a connection in one of five ways: FIN, RST, half-close, each also with something still on its way."""
    if way in (1, 3):
        sock.send(message)
    if way in (0, 1):
        sock.close()
    elif way in (2, 3):
        reset(sock)
    else:
        sock.shutdown(socket.SHUT_WR)


def a_crowd(count: int, seed: int, address: Address, wire: Wire) -> Facts:
    """Opens `count` connections at once, has an echo on each, and ends them in random order and random ways."""
    chance = random.Random(seed)
    socks = open_many(address, count)
    heard = say_and_hear(socks, 1)
    chance.shuffle(socks)
    half_closed = []
    for i, sock in enumerate(socks):
        way = chance.randrange(5)
        leave(sock, way, MESSAGE.pack(i, 2))
        if way == 4:
            half_closed.append(sock)
    for sock in half_closed:
        sock.settimeout(_SILENCE_S)
        assert sock.recv(1) == b"", "the server sent something after a half-close"
        sock.close()
    return {"connections": count, "echoes": heard}


def comers_and_goers(count: int, seed: int, address: Address, wire: Wire) -> Facts:
    """Keeps a few connections open and replaces one after another, so that the server reuses descriptor numbers.

    Each connection sends its own port number, which the server compares with the peer it has. The last byte
    asks the server to close, to abort, or to leave that to the client. One in a while asks for an answer
    and waits for it, so that the client does not run ahead and fill the server's table of descriptors.
    """
    chance = random.Random(seed)
    slots: list[socket.socket | None] = [None] * 32
    for number in range(count):
        slot = chance.randrange(len(slots))
        old = slots[slot]
        if old is not None:
            (reset if chance.random() < 0.5 else socket.socket.close)(old)
        sock = slots[slot] = socket.create_connection(address, timeout=_SILENCE_S)
        wish: Literal["c", "a", "-", "?"] = chance.choice(("c", "a", "-", "-"))
        if number % 16 == 0:
            wish = "?"
        sock.send(sock.getsockname()[1].to_bytes(2, "big") * 3 + wish.encode())
        if wish == "?":
            assert read_exactly(sock, 1) == b"!"
    for last in slots:
        if last is not None:
            last.close()
    return {"connections": count}

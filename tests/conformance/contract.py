"""The register of our own contract tests, and what their scenarios have in common.

CPython's tests hold most of an event loop's behaviour; the scenarios in `contract_*.py`
hold what they leave out. A scenario is a plain function of a loop factory that raises when
the loop misbehaves; its name is the sentence that it proves. After each scenario the child
must have as many descriptors and threads as before it.

This file does not know the scenarios: importing their modules registers them.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar, cast

from .children import Report
from .subjects import LoopFactory
from .testcase import ConformanceTest

Scenario = Callable[[LoopFactory], None]
T = TypeVar("T")

SCENARIO_MODULES = ("contract_calls", "contract_streams", "contract_flow", "contract_others")

# A thread that a loop has told to end may need a moment; past this it counts as left behind.
THREADS_END_S = 5.0

_scenarios: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    """Registers a scenario under its function's name."""
    assert function.__name__ not in _scenarios, f"two scenarios named {function.__name__}"
    _scenarios[function.__name__] = function
    return function


def on_loop(
    main: Callable[[], Coroutine[Any, Any, None]],
) -> Scenario:
    """Registers a coroutine function as a scenario: it runs in an `asyncio.Runner`."""

    def in_runner(make: LoopFactory) -> None:
        run(make, main())

    in_runner.__name__ = main.__name__
    return scenario(in_runner)


def contract_tests() -> list[ConformanceTest]:
    """Lists the scenarios of all modules as tests with ids `contract.<name>`."""
    for name in SCENARIO_MODULES:
        importlib.import_module(f".{name}", __package__)
    return [
        ConformanceTest(f"contract.{name}", "contract", partial(_work, function))
        for name, function in _scenarios.items()
    ]


def _work(function: Scenario, factory: LoopFactory) -> Report:
    made = 0

    def counted() -> asyncio.AbstractEventLoop:
        nonlocal made
        loop = factory()
        made += 1
        return loop

    before = _open_descriptors()
    try:
        function(counted)
    except BaseException:
        return Report("failed", traceback.format_exc(), {"loops": made})
    gc.collect()
    wait_for_threads()
    if threading.active_count() > 1:
        return Report("failed", f"threads left behind: {threading.enumerate()}", {"loops": made})
    left = {fd: what for fd, what in _open_descriptors().items() if before.get(fd) != what}
    if left:
        return Report("failed", f"descriptors left open: {left}", {"loops": made})
    return Report("passed", "", {"loops": made})


def wait_for_threads() -> None:
    """Waits until the calling thread is the only one, or has waited for long enough."""
    give_up_s = time.monotonic() + THREADS_END_S
    while threading.active_count() > 1 and time.monotonic() < give_up_s:
        time.sleep(0.01)


def _open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # the descriptor by which the directory itself was read
    return found


# ---- what scenarios share


def run(make: LoopFactory, main: Coroutine[Any, Any, T]) -> T:
    """Runs `main` to its end on a new loop, and closes the loop as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main)


class Recorder(asyncio.Protocol):
    """A protocol that keeps what it was told, in order, and lets a test wait for it.

    `calls` holds the callbacks' names; `received` the bytes. A run of data_received calls
    is one entry, for how the kernel cuts a stream is not the loop's promise.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received = bytearray()
        self.error: BaseException | None = None
        self.transport: asyncio.Transport | None = None
        self.keep_open_at_eof = False
        self._changed = asyncio.Event()

    def _note(self, call: str) -> None:
        if call != "data_received" or self.calls[-1:] != [call]:
            self.calls.append(call)
        self._changed.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._note("connection_made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._note("data_received")

    def eof_received(self) -> bool:
        self._note("eof_received")
        return self.keep_open_at_eof

    def connection_lost(self, exc: BaseException | None) -> None:
        self.error = exc
        self._note("connection_lost")

    def pause_writing(self) -> None:
        self._note("pause_writing")

    def resume_writing(self) -> None:
        self._note("resume_writing")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition()` holds; it is asked again at each callback."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def until_call(self, call: str) -> None:
        """Waits until the callback has been called."""
        await self.until(lambda: call in self.calls)

    async def until_received(self, count: int) -> None:
        """Waits until `count` bytes have come."""
        await self.until(lambda: len(self.received) >= count)


class Connection:
    """A connection whose near end is the loop's and whose far end is a raw socket."""

    def __init__(self, near: Recorder, far: socket.socket, server: asyncio.Server | None = None) -> None:
        self.near = near
        self.far = far
        self._server = server

    @property
    def transport(self) -> asyncio.Transport:
        """The near end's transport."""
        assert self.near.transport is not None
        return self.near.transport

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.far.close()
        if not self.transport.is_closing():
            self.transport.abort()
        await self.near.until_call("connection_lost")
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


async def accepted(near: Recorder | None = None) -> Connection:
    """Accepts one TCP connection from a raw, non-blocking client socket on loopback."""
    protocol = Recorder() if near is None else near
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
    # Completes in the kernel, before the loop accepts: the backlog answers for it.
    far = socket.create_connection(server.sockets[0].getsockname())
    far.setblocking(False)
    await protocol.until_call("connection_made")
    return Connection(protocol, far, server)


async def paired(near: Recorder | None = None) -> Connection:
    """Makes a connection of a pair of Unix stream sockets.

    How much such a socket takes before its peer reads is fixed (about 200 KiB), where TCP's
    buffers grow to megabytes and its acknowledgements wait for timers.
    """
    protocol = Recorder() if near is None else near
    near_sock, far = socket.socketpair()
    far.setblocking(False)
    await asyncio.get_running_loop().create_connection(lambda: protocol, sock=near_sock)
    return Connection(protocol, far)


async def read_raw(sock: socket.socket, count: int = -1) -> bytes:
    """Reads `count` bytes, or to end of stream, from a non-blocking socket without the loop.

    It asks again and again between turns of the loop, so that nothing here depends on the
    subject's way of watching descriptors.
    """
    got = bytearray()
    while count < 0 or len(got) < count:
        try:
            chunk = sock.recv(65536 if count < 0 else min(65536, count - len(got)))
        except BlockingIOError:
            await asyncio.sleep(0.001)
            continue
        if not chunk:
            break
        got += chunk
    return bytes(got)


async def write_raw(sock: socket.socket, data: bytes) -> None:
    """Writes all of `data` to a non-blocking socket without the loop's help."""
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await asyncio.sleep(0.001)


async def turns(count: int) -> None:
    """Lets the loop go round `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


def payload(count: int) -> bytes:
    """Gives `count` bytes in which a lost, doubled or moved piece shows."""
    # 251 is prime, so that the pattern does not repeat at any power of two.
    return (bytes(range(251)) * (count // 251 + 1))[:count]

"""An iperf3 server: what `iperf3 -c HOST` measures against, one test at a time, TCP only.

    python examples/iperf3_server.py --host 0.0.0.0 --port 5201

It speaks enough of iperf3's protocol for `iperf3 -c`, `-R`, `-P` and `-t`: a control connection on which states
go to and fro as single bytes, and data connections that say the same cookie. What it does not do, `-u`, `--sctp` and
`--bidir`, it refuses. A plain asyncio program.

Source: iperf3's own code, src/iperf_api.h (the states) and src/iperf_server_api.c (their order).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import struct
import sys
import time
from dataclasses import dataclass, field

COOKIE_BYTES = 37
TEST_START, TEST_RUNNING, TEST_END = 1, 2, 4
PARAM_EXCHANGE, CREATE_STREAMS, EXCHANGE_RESULTS, DISPLAY_RESULTS, IPERF_DONE = 9, 10, 13, 14, 16
# What one read or write moves at most; iperf3 itself takes 128 KiB.
BLOCK_BYTES = 131072
# As states go, -1 and -2 in a byte. iperf3 follows the second with two numbers, its own error and errno.
ACCESS_DENIED, SERVER_ERROR = b"\xff", b"\xfe"
# IEUNIMP of src/iperf_api.h, "an option you are trying to set is not supported", and errno 0.
UNSUPPORTED = struct.pack("!II", 13, 0)
# How long a client may take to make its connections; iperf3 makes them at once.
PATIENCE_S = 10
# What a client sent before its TEST_END may come after it, on another connection: we read until none came for so long.
QUIET_S, MOST_QUIET_WAITS = 0.05, 20
# No results of a client come near: it bounds what a stranger may make us keep.
MOST_JSON_BYTES = 1 << 20


class Sink(asyncio.Protocol):
    """A data connection: counts what comes, or sends without end."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.test: Test | None = None
        self.cookie = b""
        self.bytes = 0
        self.may_send = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.may_send.set()
        self.server.connected.add(self)

    def data_received(self, data: bytes) -> None:
        if self.test is None:
            self.cookie += data
            if len(self.cookie) >= COOKIE_BYTES:
                self.server.arrived(self, self.cookie[:COOKIE_BYTES], self.cookie[COOKIE_BYTES:])
        else:
            self.bytes += len(data)

    def pause_writing(self) -> None:
        self.may_send.clear()

    def resume_writing(self) -> None:
        self.may_send.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.may_send.set()
        self.server.connected.discard(self)

    async def send(self) -> None:
        """Send until cancelled."""
        block = bytes(BLOCK_BYTES)
        while not self.transport.is_closing():
            self.transport.write(block)
            self.bytes += len(block)
            await self.may_send.wait()
            await asyncio.sleep(0)


@dataclass(eq=False)
class Test:
    """One run: its control connection and its streams."""

    cookie: bytes
    control: Sink
    reader: asyncio.StreamReader
    streams: list[Sink] = field(default_factory=list)
    wanted: int = 0
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, state: int) -> None:
        """Tell the client the next state."""
        self.control.transport.write(bytes([state]))

    def say_json(self, value: object) -> None:
        """Send a length and a JSON text."""
        text = json.dumps(value).encode()
        self.control.transport.write(len(text).to_bytes(4, "big") + text)

    async def hear_json(self) -> dict[str, object]:
        """Receive one."""
        size = int.from_bytes(await self.reader.readexactly(4), "big")
        if size > MOST_JSON_BYTES:
            raise ValueError(f"{size} bytes of JSON are more than an iperf3 client sends")
        heard = json.loads(await self.reader.readexactly(size))
        if not isinstance(heard, dict):
            raise ValueError("an iperf3 client sends a JSON object")
        return heard


class Server:
    """Knows the test that runs, and which connection belongs to it."""

    def __init__(self) -> None:
        self.test: Test | None = None
        self.connected: set[Sink] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def arrived(self, sink: Sink, cookie: bytes, rest: bytes) -> None:
        """A connection has said its cookie: the first of a test is its control connection."""
        test = self.test
        if test is not None and test.cookie == cookie and len(test.streams) < test.wanted:
            sink.test = test
            sink.bytes = len(rest)
            test.streams.append(sink)
            if len(test.streams) == test.wanted:
                test.complete.set()
            return
        if test is not None:
            sink.transport.write(ACCESS_DENIED)
            sink.transport.close()
            return
        reader = asyncio.StreamReader()
        sink.test = self.test = Test(cookie, sink, reader)
        control = _Control(reader)
        sink.transport.set_protocol(control)
        self.connected.discard(sink)  # its protocol is another now, which the test closes
        reader.feed_data(rest)
        task = asyncio.create_task(self.run(self.test))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run(self, test: Test) -> None:
        """Lead one test through its states."""
        sending: list[asyncio.Task[None]] = []
        try:
            test.say(PARAM_EXCHANGE)
            async with asyncio.timeout(PATIENCE_S):
                parameters = await test.hear_json()
            for word in ("udp", "sctp", "bidirectional"):
                if parameters.get(word):
                    test.control.transport.write(SERVER_ERROR + UNSUPPORTED)
                    return  # iperf3 tells its user
            test.wanted = max(1, min(128, int(str(parameters.get("parallel", 1)))))
            reverse = bool(parameters.get("reverse"))
            test.say(CREATE_STREAMS)
            async with asyncio.timeout(PATIENCE_S):  # a client that went away makes none
                await test.complete.wait()
            test.say(TEST_START)
            test.say(TEST_RUNNING)
            began = time.monotonic()
            if reverse:
                sending = [asyncio.create_task(stream.send()) for stream in test.streams]
            while (await test.reader.readexactly(1))[0] != TEST_END:
                pass
            took = time.monotonic() - began
            for task in sending:
                task.cancel()
            if not reverse:
                await quiet(test.streams)
            for stream in test.streams:  # a client that receives reads until their end
                stream.transport.close()
            test.say(EXCHANGE_RESULTS)
            await test.hear_json()
            test.say_json(results(test, took))
            self.test = None  # the client may be gone, and the next be here, before we hear that it is done
            test.say(DISPLAY_RESULTS)
            with contextlib.suppress(asyncio.IncompleteReadError):
                while (await test.reader.readexactly(1))[0] != IPERF_DONE:
                    pass
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError, ValueError) as error:
            print(f"a test was broken off: {error!r}", file=sys.stderr, flush=True)
        finally:
            for task in sending:
                task.cancel()
            for sink in (*test.streams, test.control):
                sink.transport.close()
            if self.test is test:
                self.test = None


class _Control(asyncio.Protocol):
    """Hands what the control connection brings to a stream reader."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader

    def data_received(self, data: bytes) -> None:
        self.reader.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reader.feed_eof()


async def quiet(streams: list[Sink]) -> None:
    """Wait until nothing more comes."""
    for _ in range(MOST_QUIET_WAITS):
        before = sum(stream.bytes for stream in streams)
        await asyncio.sleep(QUIET_S)
        if before == sum(stream.bytes for stream in streams):
            return


def results(test: Test, took: float) -> dict[str, object]:
    """What iperf3 wants to hear of our side."""
    return {
        "cpu_util_total": 0.0,
        "cpu_util_user": 0.0,
        "cpu_util_system": 0.0,
        "sender_has_retransmits": 0,
        "streams": [
            {
                "id": 1 if at == 0 else at + 2,  # iperf3 numbers its streams 1, 3, 4, …
                "bytes": stream.bytes,
                "retransmits": -1,
                "jitter": 0,
                "errors": 0,
                "packets": 0,
                "start_time": 0,
                "end_time": took,
            }
            for at, stream in enumerate(test.streams)
        ],
    }


async def serve(host: str, port: int) -> None:
    """Listen until a signal says stop; then end the test that runs."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = Server()
    listener = await loop.create_server(lambda: Sink(server), host, port)
    print("listening on {}:{}".format(*listener.sockets[0].getsockname()), flush=True)
    await stop.wait()
    listener.close()
    for task in server.tasks:
        task.cancel()
    await asyncio.gather(*server.tasks, return_exceptions=True)
    for client in server.connected:
        client.transport.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="an iperf3 server, TCP only")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free; iperf3's own is 5201")
    options = parser.parse_args()
    asyncio.run(serve(options.host, options.port))

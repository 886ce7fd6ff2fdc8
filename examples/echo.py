"""Echo by asyncio.Protocol: what a client sends comes back, and the loop calls us when it is there.

Callbacks only, no task and no await per message: the cheapest server that asyncio offers, and
the one to compare I/O models with. A client that sends without reading is not read from until it
does (pause_writing), so memory is bounded.

    python examples/echo.py --port 8888
"""

import argparse
import asyncio
import signal
from typing import ClassVar, cast


class Echo(asyncio.Protocol):
    """One client's connection; the loop makes an instance for each."""

    connected: ClassVar[set["Echo"]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.connected.add(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connected.discard(self)


async def serve(host: str, port: int) -> None:
    """Listen until a signal says stop; then close the clients as well."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(Echo, host, port)
    print("listening on {}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await stop.wait()
    server.close()
    for client in Echo.connected:
        client.transport.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="echo, by asyncio.Protocol")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    options = parser.parse_args()
    asyncio.run(serve(options.host, options.port))

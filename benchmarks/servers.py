"""The servers under load: echo by protocol and by streams, on the event loop named in argv.

    python benchmarks/servers.py LOOP protocol|streams

LOOP is `asyncio`, `uvloop`, a model of `underlay.loop` (`epoll`), or `module:factory` for a loop
that is being written (`underlay.loop._io_uring:UringLoop`). Prints the port it listens on, then
serves until it is ended. It does not know that it is measured.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from typing import cast

# What the notes' programs and most tutorials pass to reader.read(); asyncio's own limit for a
# stream's buffer.
READ_BYTES = 65536


class Echo(asyncio.Protocol):
    """Sends back what it receives."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's, so only the reader of this line is told
        # the type.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def echo_by_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, with back-pressure, until the peer closes."""
    try:
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve(program: str) -> None:
    """Listen on a free port of the loopback address and tell it."""
    if program == "protocol":
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=1024)
    else:
        server = await asyncio.start_server(echo_by_streams, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def find_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give the loop factory of that name; None stands for the standard loop."""
    if name == "asyncio":
        return None
    if name == "uvloop":
        name = "uvloop:new_event_loop"
    elif ":" not in name:
        name = f"underlay.loop:{name.replace('-', '_')}"
    module, _, attribute = name.partition(":")
    factory: Callable[[], asyncio.AbstractEventLoop] = getattr(importlib.import_module(module), attribute)
    return factory


def main() -> None:
    """Run the server until a signal ends it."""
    loop_name, program = sys.argv[1:]
    with asyncio.Runner(loop_factory=find_factory(loop_name)) as runner:
        runner.run(serve(program))


if __name__ == "__main__":
    main()

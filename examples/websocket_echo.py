"""WebSocket with the `websockets` library: an HTTP request becomes a channel of messages.

The first exchange on the wire is HTTP (`Upgrade: websocket`, answered by 101); after it both
sides send frames, which keep text apart from bytes and one message apart from the next, as a
bare TCP stream does not. The file isn't called websocket.py because a program beside it that
imports a library of that name would get this one.

    python examples/websocket_echo.py --port 8765
    python -m websockets ws://127.0.0.1:8765
"""

import argparse
import asyncio
import signal
from contextlib import suppress

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError

MESSAGE_BYTES = 16 * 1024 * 1024  # the library's own limit is 1 MiB


async def echo(connection: ServerConnection) -> None:
    """Serve one client until it closes."""
    with suppress(ConnectionClosedError):  # a client that goes without a good-bye
        async for message in connection:  # str for a text frame, bytes for a binary one
            await connection.send(message)


async def main(host: str, port: int) -> None:
    """Listen until a signal says stop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serve(echo, host, port, max_size=MESSAGE_BYTES) as server:
        print("listening on {}:{}".format(*next(iter(server.sockets)).getsockname()), flush=True)
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="echo over WebSocket")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    options = parser.parse_args()
    asyncio.run(main(options.host, options.port))

"""Socket.IO with python-socketio on aiohttp: named events, and answers to them.

What WebSocket leaves to the program is here given: a fallback (long polling) where no upgrade
gets through, an answer to each event ("ack"), and rooms. It isn't WebSocket: a WebSocket client
cannot speak to it.

    python examples/socketio_app.py --port 8080
"""

import argparse
import asyncio
import signal

import socketio  # type: ignore[import-untyped]
from aiohttp import web

MESSAGE_BYTES = 16 * 1024 * 1024  # the library's own limit is 1 MB
STOP_S = 0.1  # for requests to end; a client's WebSocket is one that wouldn't, aiohttp waits 60

server = socketio.AsyncServer(async_mode="aiohttp", max_http_buffer_size=MESSAGE_BYTES)


@server.event  # type: ignore[untyped-decorator]
async def echo(client: str, data: str | bytes) -> str | bytes:
    """Answer the event with its own data."""
    return data  # what a handler returns is the answer to the event


@server.event  # type: ignore[untyped-decorator]
async def shout(client: str, data: str) -> None:
    """Tell every client, the sender included."""
    await server.emit("heard", data.upper())  # to every client


async def serve(host: str, port: int) -> None:
    """Listen until a signal says stop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    print("listening on {}:{}".format(*runner.addresses[0]), flush=True)
    await stop.wait()
    await server.shutdown()
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Socket.IO, on aiohttp")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    options = parser.parse_args()
    asyncio.run(serve(options.host, options.port))

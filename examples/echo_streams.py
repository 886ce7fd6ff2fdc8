"""Echo by streams: one task per client, which reads, writes and waits.

The same service as echo.py, written from top to bottom instead of as callbacks. Each `await` is
a place where the task stops and the loop runs somebody else; `drain` is where a client that
doesn't read makes only its own task wait.

    python examples/echo_streams.py --port 8888
"""

import argparse
import asyncio
import signal

CHUNK_BYTES = 65536  # asyncio's own limit for what a stream keeps unread


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client until it ends its half, or goes."""
    try:
        while data := await reader.read(CHUNK_BYTES):  # b"" is the peer's FIN
            writer.write(data)
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass  # the client is gone, or the server stops
    finally:
        writer.close()


async def serve(host: str, port: int) -> None:
    """Listen until a signal says stop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = await asyncio.start_server(echo, host, port)
    print("listening on {}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await stop.wait()
    server.close()  # the clients' tasks are cancelled by asyncio.run, and then close themselves


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="echo, by asyncio streams")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    options = parser.parse_args()
    asyncio.run(serve(options.host, options.port))

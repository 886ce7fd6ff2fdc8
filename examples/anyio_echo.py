"""Echo with anyio: structured concurrency on top of asyncio, and still the same loop below.

Each client is a child of the task group around the listener; nothing outlives the block that
started it. A signal is an `async for` instead of a callback.

    python examples/anyio_echo.py --port 8888
"""

import argparse
import signal

import anyio
from anyio.abc import SocketAttribute, SocketStream


async def echo(client: SocketStream) -> None:
    """Serve one client until it goes."""
    async with client:
        try:
            async for data in client:
                await client.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the client reset the connection; nobody is left to tell


async def stop_on_signal(scope: anyio.CancelScope) -> None:
    """Cancel everything in the scope at the first signal."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


async def main(host: str, port: int) -> None:
    """Listen until the scope is cancelled."""
    listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(stop_on_signal, tasks.cancel_scope)
        await anyio.lowlevel.checkpoint()  # the signals are caught from here on
        address = listener.extra(SocketAttribute.local_address)
        print("listening on {}:{}".format(*address), flush=True)
        await listener.serve(echo, tasks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="echo, with anyio")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    options = parser.parse_args()
    anyio.run(main, options.host, options.port)

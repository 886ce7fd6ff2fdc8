"""A command for each client, as inetd does: the client's bytes in, the command's output back.

Three kinds of descriptor meet in one loop: the client's socket, the child's two pipes, and the
notice that the child has exited. The default command, `cat`, makes it one more echo server.

    python examples/subprocess_cat.py --port 8888 tr a-z A-Z
"""

import argparse
import asyncio
import shutil
import signal
from asyncio.subprocess import PIPE
from contextlib import suppress
from weakref import WeakSet

CHUNK_BYTES = 65536  # asyncio's own limit for what a stream keeps unread


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, and pass the end on."""
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()  # the other direction goes on


async def converse(command: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client with a child of its own."""
    child = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert child.stdin is not None and child.stdout is not None
    try:
        async with asyncio.TaskGroup() as directions:
            directions.create_task(pump(reader, child.stdin))
            directions.create_task(pump(child.stdout, writer))
    except* ConnectionError:  # the client is gone, or the child
        with suppress(ProcessLookupError):
            child.kill()
    writer.close()
    child.stdin.close()
    await child.communicate()  # waits for its end, and empties its pipe, which closes only then


async def serve(host: str, port: int, command: list[str]) -> None:
    """Listen until a signal says stop; then hang up, and see every child end."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    connected: WeakSet[asyncio.StreamWriter] = WeakSet()
    async with asyncio.TaskGroup() as conversations:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.add(writer)
            conversations.create_task(converse(command, reader, writer))

        server = await asyncio.start_server(accept, host, port)
        print("listening on {}:{}".format(*server.sockets[0].getsockname()), flush=True)
        await stop.wait()
        server.close()
        for writer in connected:
            writer.close()  # for the child's side it is the end of the input


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a command for each client")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="and its arguments (default: cat)")
    options = parser.parse_args()
    command = options.command or ["cat"]
    if shutil.which(command[0]) is None:
        parser.error(f"there is no command {command[0]}")
    asyncio.run(serve(options.host, options.port, command))

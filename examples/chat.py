"""A chat room: the first line is your name, and every further line goes to all the others.

Two tasks and a queue per client: one task reads what the client types, the other sends what the
rest said, so a slow reader holds up nobody. A queue that is full loses the line: the room never
keeps more than QUEUE_LINES for a client.

    python examples/chat.py --port 8888        (then, in two other terminals: nc 127.0.0.1 8888)
"""

import argparse
import asyncio
import signal

QUEUE_LINES = 1000  # enough for any burst of typing; bounds what a client that stopped reading costs

room: set[asyncio.Queue[bytes]] = set()


def say(line: bytes, sender: asyncio.Queue[bytes]) -> None:
    """Put the line into everybody's queue but the sender's."""
    for inbox in room - {sender}:
        if not inbox.full():
            inbox.put_nowait(line)


async def deliver(inbox: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
    """Send one client what the others said."""
    while True:
        writer.write(await inbox.get())
        await writer.drain()


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read one client's lines until it goes."""
    inbox: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_LINES)
    delivery = asyncio.create_task(deliver(inbox, writer))
    try:
        name = (await reader.readline()).strip()
        writer.write(b"welcome %s, you are number %d\n" % (name, len(room) + 1))
        room.add(inbox)
        say(b"* %s came\n" % name, inbox)
        async for line in reader:
            say(b"%s: %s" % (name, line), inbox)
        say(b"* %s left\n" % name, inbox)
    except (ConnectionError, ValueError, asyncio.CancelledError):
        pass  # the client is gone or sent a line past the limit of 64 KiB, or the server stops
    finally:
        room.discard(inbox)
        delivery.cancel()
        writer.close()


async def serve(host: str, port: int) -> None:
    """Listen until a signal says stop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = await asyncio.start_server(talk, host, port)
    print("listening on {}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a chat room")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    options = parser.parse_args()
    with asyncio.Runner() as runner:
        runner.run(serve(options.host, options.port))

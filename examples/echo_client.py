"""The other side: connects to an echo server, sends, and checks that the same bytes come back.

Several connections at once, each a task; a reader that is too slow for the writer would fill
both ends' buffers and stop everything, so both go on at the same time.

    python examples/echo_client.py 127.0.0.1:8888 --connections 10 --messages 100 --size 1024
"""

import argparse
import asyncio
import os
import sys


async def converse(host: str, port: int, messages: int, size: int) -> bool:
    """Hold one connection; true if every byte came back, and nothing else."""
    reader, writer = await asyncio.open_connection(host, port)
    message = os.urandom(size)

    async def send() -> None:
        for _ in range(messages):
            writer.write(message)
            await writer.drain()
        writer.write_eof()  # our FIN: nothing more to say, still listening

    sending = asyncio.create_task(send())
    try:
        answer = [await reader.readexactly(size) for _ in range(messages)]
        ended = await reader.read() == b""
        return ended and all(part == message for part in answer)
    finally:
        await sending
        writer.close()
        await writer.wait_closed()


async def main(host: str, port: int, connections: int, messages: int, size: int) -> int:
    """Hold all connections at once; the result is the exit status."""
    try:
        each = [converse(host, port, messages, size) for _ in range(connections)]
        good = sum(await asyncio.gather(*each))
    except (OSError, EOFError) as error:
        print(f"echo_client: {error}", file=sys.stderr)
        return 1
    print(f"{good} of {connections} connections: {messages} messages of {size} bytes came back")
    return 0 if good == connections else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a client for the echo servers")
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--messages", type=int, default=10)
    parser.add_argument("--size", type=int, default=64, help="bytes in a message")
    options = parser.parse_args()
    host, _, port = options.address.rpartition(":")
    sys.exit(asyncio.run(main(host, int(port), options.connections, options.messages, options.size)))

"""A server that takes 0.2 s over each line: asyncio.sleep serves all at once, time.sleep doesn't.

`await asyncio.sleep()` gives the loop back. `time.sleep()` keeps it, and an `async def` around
it changes nothing: no I/O model can serve anybody while the program doesn't return to the loop.
`asyncio.to_thread` lets a thread wait instead.

    python examples/sleepy.py --clients 5        (measures all three ways, and ends)
    python examples/sleepy.py --way block        (serves)
"""

import argparse
import asyncio
import signal
import time

NAP_S = 0.2


class Sleepy:
    """A server with one way to wait; it counts how many of its clients wait at the same time."""

    def __init__(self, way: str) -> None:
        self.way, self.asleep, self.most_asleep = way, 0, 0

    async def sleep(self) -> None:
        if self.way == "await":
            await asyncio.sleep(NAP_S)
        elif self.way == "thread":
            await asyncio.to_thread(time.sleep, NAP_S)
        else:
            time.sleep(NAP_S)  # the mistake that this program is about

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async for line in reader:
                self.asleep += 1
                self.most_asleep = max(self.most_asleep, self.asleep)
                await self.sleep()
                self.asleep -= 1
                writer.write(line)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client is gone, or the server stops
        finally:
            writer.close()


async def ask(host: str, port: int) -> None:
    """Be one client with one line to have answered."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"wake up\n")
    await reader.readline()
    writer.close()
    await writer.wait_closed()


async def measure(host: str, port: int, clients: int) -> None:
    """Let that many clients ask at once, for each way to wait."""
    for way in ("await", "block", "thread"):
        sleepy = Sleepy(way)
        server = await asyncio.start_server(sleepy.answer, host, port)
        address = server.sockets[0].getsockname()
        started_s = time.perf_counter()
        await asyncio.gather(*(ask(*address) for _ in range(clients)))
        took_s = time.perf_counter() - started_s
        print(f"{way:6}  {clients} clients, {sleepy.most_asleep} asleep at once, {took_s:.2f} s")
        server.close()


async def serve(host: str, port: int, way: str) -> None:
    """Listen until a signal says stop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = await asyncio.start_server(Sleepy(way).answer, host, port)
    print("listening on {}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="asyncio.sleep, time.sleep and a thread")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--way", choices=("await", "block", "thread"), default="await")
    parser.add_argument("--clients", type=int, help="measure with so many clients, and end")
    options = parser.parse_args()
    if options.clients:
        asyncio.run(measure(options.host, options.port, options.clients))
    else:
        asyncio.run(serve(options.host, options.port, options.way))

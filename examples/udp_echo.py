"""Echo over UDP: each datagram goes back to whoever sent it; there is no connection.

One socket serves every client, and the sender's address comes with each datagram. Started the
old way, with a loop that the program makes itself, because many programs still do.

    python examples/udp_echo.py --port 8888
"""

import argparse
import asyncio
import signal
from typing import cast


class Echo(asyncio.DatagramProtocol):
    """The one endpoint, for all clients."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


async def serve(host: str, port: int) -> None:
    """Receive until a signal says stop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=(host, port))
    print("listening on {}:{}".format(*transport.get_extra_info("sockname")), flush=True)
    await stop.wait()
    transport.close()
    await asyncio.sleep(0)  # one turn of the loop, in which the transport closes its socket


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="echo over UDP")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    options = parser.parse_args()
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(serve(options.host, options.port))
    finally:
        loop.close()

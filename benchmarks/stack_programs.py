"""The programs that benchmarks/stack.py measures between: servers in plain asyncio, clients in plain sockets.

    python benchmarks/stack_programs.py serve HOST PORT
    python benchmarks/stack_programs.py push|pull|ask HOST PORT SECONDS

The server runs on whatever loop is beneath it, the user-space stack for one; a connection's first byte says what it
is for: it takes all that comes, sends without end, or returns each 64 bytes. A client prints one JSON line. Neither
knows that the other end may be no kernel's.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import sys
import time

# What one send moves: half of the largest buffer that Linux gives a socket by itself (tcp_wmem, 4 MiB), so that the
# kernel always has some.
BLOCK = bytes(1 << 20)
# The server's, small enough that asyncio's high-water mark (64 KiB) is passed by each.
SERVER_BLOCK = bytes(1 << 18)
MESSAGE_BYTES = 64
WARM_UP_S = 0.3


class Server(asyncio.Protocol):
    """Does what the first byte of a connection asks for: P takes, L sends, A answers."""

    role = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.paused = False

    def data_received(self, data: bytes) -> None:
        if not self.role:
            self.role, data = data[:1], data[1:]
            if self.role == b"L":
                self.pour()
        if self.role == b"A" and data:
            self.transport.write(data)

    def pour(self) -> None:
        """Send until the kernel, or who stands for it, takes no more; then wait to be told."""
        while not self.paused and not self.transport.is_closing():
            self.transport.write(SERVER_BLOCK)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.pour()


async def serve(host: str, port: int) -> None:
    """Listen, say so, and serve until ended."""
    server = await asyncio.get_running_loop().create_server(Server, host, port)
    print("listening", flush=True)
    await server.serve_forever()


def push(sock: socket.socket, seconds: float) -> dict[str, float]:
    """Send as fast as it goes; bits per second after the warm-up."""
    sock.sendall(b"P")
    return _rate(lambda: sock.send(BLOCK), seconds)


def pull(sock: socket.socket, seconds: float) -> dict[str, float]:
    """Receive as fast as it comes."""
    sock.sendall(b"L")
    buffer = bytearray(1 << 20)
    return _rate(lambda: sock.recv_into(buffer), seconds)


def _rate(step: object, seconds: float) -> dict[str, float]:
    assert callable(step)
    until = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < until:
        step()
    moved, began = 0, time.perf_counter()
    while (now := time.perf_counter()) < began + seconds:
        size = step()
        if not size:
            raise ConnectionError("the other end closed the connection")
        moved += size
    return {"bits_per_s": moved * 8 / (now - began)}


def ask(sock: socket.socket, seconds: float) -> dict[str, float]:
    """Send 64 bytes and wait for them to come back, again and again: the median round trip."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(b"A")
    message = bytes(MESSAGE_BYTES)
    times: list[float] = []
    began = time.perf_counter()
    while (start := time.perf_counter()) < began + WARM_UP_S + seconds:
        sock.sendall(message)
        missing = MESSAGE_BYTES
        while missing:
            missing -= len(sock.recv(missing))
        if start > began + WARM_UP_S:
            times.append(time.perf_counter() - start)
    return {"median_us": statistics.median(times) * 1e6}


def main() -> None:
    """Be the server or one of the clients."""
    role, host, port, *rest = sys.argv[1:]
    if role == "serve":
        asyncio.run(serve(host, int(port)))
        return
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        print(json.dumps({"push": push, "pull": pull, "ask": ask}[role](sock, float(rest[0]))))


if __name__ == "__main__":
    main()

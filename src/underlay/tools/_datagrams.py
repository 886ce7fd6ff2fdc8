"""UDP for `connect` and `listen`: datagrams in a bounded queue, errors where they are awaited.

This file knows that UDP has no connection, no end and no acknowledgement: what
"the other side has ended" can mean for it, and what an ICMP message tells. It
refuses to know stdin and stdout, and the command line.
"""

from __future__ import annotations

import asyncio
import socket
from typing import cast

__all__ = ["DATAGRAM_BYTES", "Datagrams", "open_datagrams"]

# The most that one Ethernet frame carries over IPv6, and so over IPv4 too: 1500
# less 40 for IPv6 (RFC 8200) and 8 for UDP (RFC 768). More would be fragmented.
DATAGRAM_BYTES = 1_452

# Datagrams that wait for our stdout. More are dropped, and counted, as the kernel
# drops what its own buffer (net.core.rmem_default, about this many) cannot hold.
_MOST_WAITING = 1_024

# asyncio gives (host, port) or (host, port, flow, scope).
Peer = tuple[str | int, ...]


class Datagrams(asyncio.DatagramProtocol):
    """A UDP socket to await: `receive` and `send`."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[bytes, Peer] | Exception] = asyncio.Queue(_MOST_WAITING)
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._transport: asyncio.DatagramTransport | None = None
        self.dropped = 0
        """Datagrams that came while ``_MOST_WAITING`` were waiting."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio calls this)."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Peer) -> None:
        """Queue a datagram, or drop it (asyncio calls this)."""
        self._offer((data, addr))

    def error_received(self, exc: Exception) -> None:
        """Queue what an ICMP message told (asyncio calls this)."""
        self._offer(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake a receiver (asyncio calls this)."""
        self._offer(exc or ConnectionAbortedError("the socket was closed"))

    def pause_writing(self) -> None:
        """Make `send` wait (asyncio calls this)."""
        self._may_send.clear()

    def resume_writing(self) -> None:
        """Let `send` go on (asyncio calls this)."""
        self._may_send.set()

    async def receive(self) -> tuple[bytes, Peer]:
        """The next datagram and who sent it; raises what ICMP told, ConnectionRefusedError for a closed port."""
        got = await self._waiting.get()
        if isinstance(got, Exception):
            raise got
        return got

    async def send(self, data: bytes, peer: Peer | None = None) -> None:
        """Send one datagram, to ``peer`` or to whom the socket is connected. That it arrives nobody knows."""
        assert self._transport is not None
        self._transport.sendto(data, peer)
        await self._may_send.wait()

    def close(self) -> None:
        """Close the socket after what is still to be sent."""
        if self._transport is not None:
            self._transport.close()

    def _offer(self, item: tuple[bytes, Peer] | Exception) -> None:
        try:
            self._waiting.put_nowait(item)
        except asyncio.QueueFull:
            self.dropped += 1


async def open_datagrams(sock: socket.socket) -> Datagrams:
    """Hand a bound or connected UDP socket to the loop."""
    _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, sock=sock)
    return protocol

"""Situations of UDP and of TLS.

What a situation is stands in ``_situations.py``.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl

from ._situations import PORT, USER_TIMEOUT, Side, Situation, Witness, serve, settle, spell, stream


class Datagrams(asyncio.DatagramProtocol):
    """Says what it is told."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._side.say(f"datagram_received: {len(data)} bytes")

    def error_received(self, exc: Exception) -> None:
        self._side.say(f"error_received: {spell(exc)}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._side.say(f"connection_lost: {spell(exc)}")


async def _open(side: Side, *, connected: bool) -> asyncio.DatagramTransport:
    loop = asyncio.get_running_loop()
    remote = (side.there, PORT) if connected else None
    local = None if connected else (side.here, 0)
    transport, _ = await loop.create_datagram_endpoint(lambda: Datagrams(side), remote_addr=remote, local_addr=local)
    return transport


class UdpClosedPort(Situation):
    """UDP to a closed port, connected"""

    async def client(self, side: Side) -> None:
        transport = await _open(side, connected=True)
        for _ in range(2):
            transport.sendto(b"hello")
            await settle()
        transport.close()
        await settle()


class UdpClosedPortAtOnce(Situation):
    """UDP to a closed port, connected: two datagrams at once, then another"""

    async def client(self, side: Side) -> None:
        sock, loop = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), asyncio.get_running_loop()
        sock.setblocking(False)
        sock.connect((side.there, PORT))
        await side.attempt("send 1", loop.sock_sendall(sock, b"1"))
        await settle()
        await side.attempt("send 2", loop.sock_sendall(sock, b"2"))
        await side.attempt("send 3", loop.sock_sendall(sock, b"3"))
        await settle()
        await side.attempt("recv", loop.sock_recv(sock, 10), limit_s=1.0)
        await side.attempt("recv", loop.sock_recv(sock, 10), limit_s=1.0)
        sock.close()


class UdpClosedPortUnconnected(Situation):
    """UDP to a closed port, unconnected"""

    async def client(self, side: Side) -> None:
        transport = await _open(side, connected=False)
        for _ in range(2):
            transport.sendto(b"hello", (side.there, PORT))
            await settle()
        transport.close()
        await settle()


class UdpTooLarge(Situation):
    """UDP of more bytes than a datagram has"""

    async def server(self, side: Side) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: Datagrams(side), local_addr=(side.here, PORT))
        side.ready()
        await asyncio.Event().wait()

    async def client(self, side: Side) -> None:
        transport = await _open(side, connected=True)
        for size_bytes in (65_508, 65_507):
            transport.sendto(bytes(size_bytes))
            await settle()
        transport.close()
        await settle()


class UdpNoRoute(Situation):
    """UDP to an address to which there is no route"""

    async def client(self, side: Side) -> None:
        sock, loop = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), asyncio.get_running_loop()
        sock.setblocking(False)
        await side.attempt("sendto", loop.sock_sendto(sock, b"hello", ("192.0.2.1", PORT)))

        async def connect() -> None:
            sock.connect(("192.0.2.1", PORT))

        await side.attempt("connect", connect())
        sock.close()


class UdpStrangeAddresses(Situation):
    """UDP to port 0, and to a broadcast address without SO_BROADCAST"""

    async def client(self, side: Side) -> None:
        sock, loop = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), asyncio.get_running_loop()
        sock.setblocking(False)
        await side.attempt("port 0", loop.sock_sendto(sock, b"hello", (side.there, 0)))
        await side.attempt("broadcast", loop.sock_sendto(sock, b"hello", ("10.255.255.255", PORT)))
        sock.close()


class UdpMulticast(Situation):
    """UDP to a multicast address, on a machine without a default route"""

    difference = "ours sends it out of the only interface, as Linux does where there is a default route"

    async def client(self, side: Side) -> None:
        sock, loop = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), asyncio.get_running_loop()
        sock.setblocking(False)
        await side.attempt("sendto", loop.sock_sendto(sock, b"hello", ("224.0.0.77", PORT)))
        sock.close()


class UdpVanishes(Situation):
    """UDP to a machine that lost its power"""

    async def client(self, side: Side) -> None:
        side.do("power off")
        transport = await _open(side, connected=True)
        for _ in range(2):
            transport.sendto(b"hello")
            await settle()
        transport.close()
        await settle()


# --- TLS --------------------------------------------------------------------------------------------------------------


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's, with a certificate of its own, and the client's, which asks for none."""
    import trustme

    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server", key_type=trustme.KeyType.ECDSA).configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


class Tls(Situation):  # without a docstring it is none, and for others to derive from
    async def server(self, side: Side) -> None:
        await serve(side, lambda: Witness(side), context=contexts()[0])

    async def connect(self, side: Side, options: dict[tuple[int, int], int] | None = None) -> Witness:
        loop = asyncio.get_running_loop()
        sock = stream(options)
        await loop.sock_connect(sock, (side.there, PORT))
        _, witness = await loop.create_connection(
            lambda: Witness(side), sock=sock, ssl=contexts()[1], server_hostname="server"
        )
        witness.transport.write(b"hello")
        await settle()
        return witness


class TlsVanishes(Tls):
    """TLS: the peer loses its power while we send, with TCP_USER_TIMEOUT"""

    async def client(self, side: Side) -> None:
        witness = await self.connect(side, USER_TIMEOUT)
        side.do("power off")
        witness.transport.write(b"are you there?")
        await witness.until_lost()


class TlsReboots(Tls):
    """TLS: the peer reboots, and we send"""

    async def client(self, side: Side) -> None:
        witness = await self.connect(side)
        side.do("reboot")
        await settle()
        witness.transport.write(b"are you there?")
        await witness.until_lost()


class TlsKilled(Tls):
    """TLS: the peer's process is killed"""

    async def client(self, side: Side) -> None:
        witness = await self.connect(side)
        side.do("kill")
        await witness.until_lost()


class TlsCloses(Tls):
    """TLS: close() by the client"""

    async def client(self, side: Side) -> None:
        witness = await self.connect(side)
        witness.transport.close()
        await witness.until_lost()
        await settle()


class TlsToPlain(Situation):
    """TLS: the server speaks none"""

    async def server(self, side: Side) -> None:
        await serve(side, lambda: Greets(side))

    async def client(self, side: Side) -> None:
        loop = asyncio.get_running_loop()
        connecting = loop.create_connection(
            lambda: Witness(side), side.there, PORT, ssl=contexts()[1], server_hostname="server"
        )
        await side.attempt("connect", connecting)
        await settle()


class Greets(Witness):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(b"220 no TLS here\r\n" * 10)

    def data_received(self, data: bytes) -> None:
        pass  # how many bytes a hello has is OpenSSL's

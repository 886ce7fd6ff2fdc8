"""Situations of opening: connections that do not come to be, backlogs, addresses that cannot be had.

What a situation is stands in ``_situations.py``.
"""

from __future__ import annotations

import asyncio
import socket

from ._situations import FEW_SYNS, PORT, Side, Situation, Witness, connect, reset_on_close, serve, settle, stream


class ClosedPort(Situation):
    """connect() to a port where nobody listens"""

    async def client(self, side: Side) -> None:
        await side.attempt("connect", asyncio.open_connection(side.there, PORT))


class ClosedPortHere(Situation):
    """connect() to a closed port of the own machine"""

    async def client(self, side: Side) -> None:
        await side.attempt("connect", asyncio.open_connection("127.0.0.1", PORT))


class BlackHole(Situation):
    """connect() through a black hole, with TCP_SYNCNT of 1"""

    async def client(self, side: Side) -> None:
        side.do("cut")
        await side.attempt("connect", asyncio.get_running_loop().sock_connect(stream(FEW_SYNS), (side.there, PORT)))


class BlackHoleHeals(Situation):
    """connect() through a black hole that heals before the second SYN"""

    async def server(self, side: Side) -> None:
        await serve(side, lambda: Witness(side))

    async def client(self, side: Side) -> None:
        side.do("cut")
        connecting = asyncio.ensure_future(connect(side))
        await settle()
        side.do("heal")
        await side.attempt("connect", connecting)


class BlackHoleImpatient(Situation):
    """connect() through a black hole, given up by asyncio.timeout(); the next one is served"""

    async def server(self, side: Side) -> None:
        await serve(side, lambda: Witness(side))

    async def client(self, side: Side) -> None:
        side.do("cut")
        await side.attempt("connect 1", asyncio.open_connection(side.there, PORT), limit_s=0.5)
        side.do("heal")
        await side.attempt("connect 2", connect(side))
        await settle()


class NoRoute(Situation):
    """connect() to an address to which there is no route"""

    async def client(self, side: Side) -> None:
        await side.attempt("connect", asyncio.open_connection("192.0.2.1", PORT))


class StrangeAddresses(Situation):
    """connect() to port 0, to 0.0.0.0, to a broadcast and to a multicast address"""

    async def client(self, side: Side) -> None:
        loop = asyncio.get_running_loop()
        for what, address in (
            ("port 0", (side.there, 0)),
            ("0.0.0.0", ("0.0.0.0", PORT)),
            ("broadcast", ("255.255.255.255", PORT)),
            ("multicast", ("224.0.0.1", PORT)),
        ):
            sock = stream(FEW_SYNS)
            await side.attempt(what, loop.sock_connect(sock, address))
            sock.close()


class NobodyOnTheLan(Situation):
    """connect() to an address of the own LAN that nobody has"""

    knows_macs = False

    async def client(self, side: Side) -> None:
        there = side.there.rpartition(".")[0] + ".77"
        await side.attempt("connect", asyncio.open_connection(there, PORT))


class BootsMeanwhile(Situation):
    """connect() to a machine that boots meanwhile"""

    async def server(self, side: Side) -> None:
        await serve(side, lambda: Witness(side))

    async def client(self, side: Side) -> None:
        side.do("power off")
        connecting = asyncio.ensure_future(connect(side))
        await settle()
        side.do("reboot")
        await side.attempt("connect", connecting)
        await settle()


class ConnectTwice(Situation):
    """connect() on a socket that is connected"""

    async def server(self, side: Side) -> None:
        await serve(side, lambda: Witness(side))

    async def client(self, side: Side) -> None:
        sock, loop = stream(), asyncio.get_running_loop()
        await side.attempt("connect 1", loop.sock_connect(sock, (side.there, PORT)))
        await side.attempt("connect 2", loop.sock_connect(sock, (side.there, PORT)))
        await side.attempt("send", loop.sock_sendall(sock, b"x"))
        await settle()
        sock.close()
        await settle()


class TryAgain(Situation):
    """connect() again on a socket that was refused"""

    async def client(self, side: Side) -> None:
        sock, loop = stream(), asyncio.get_running_loop()
        await side.attempt("connect 1", loop.sock_connect(sock, (side.there, PORT)))
        await side.attempt("connect 2", loop.sock_connect(sock, (side.there, PORT)))
        sock.close()


class NotConnected(Situation):
    """recv(), send() and shutdown() on a socket that was never connected"""

    async def client(self, side: Side) -> None:
        sock, loop = stream(), asyncio.get_running_loop()
        await side.attempt("recv", loop.sock_recv(sock, 10))
        await side.attempt("send", loop.sock_sendall(sock, b"x"))

        async def shutdown() -> None:
            sock.shutdown(socket.SHUT_WR)

        await side.attempt("shutdown", shutdown())
        sock.close()


# --- backlogs ---------------------------------------------------------------------------------------------------------


class Full(Situation):
    backlog = 0

    async def server(self, side: Side) -> None:
        sock = stream({(socket.SOL_SOCKET, socket.SO_REUSEADDR): 1})
        sock.bind((side.here, PORT))
        sock.listen(self.backlog)
        side.ready()
        await asyncio.Event().wait()
        sock.close()

    async def client(self, side: Side) -> None:
        kept = []
        for number in range(1, self.backlog + 3):
            sock = stream(FEW_SYNS)
            kept.append(sock)
            loop = asyncio.get_running_loop()
            await side.attempt(f"connect {number}", loop.sock_connect(sock, (side.there, PORT)))
            await settle(0.1)
        for sock in kept:
            sock.close()


class BacklogOfNone(Full):
    """listen(0), and nobody accepts"""


class BacklogOfOne(Full):
    """listen(1), and nobody accepts"""

    backlog = 1


class BacklogDrains(Situation):
    """a full backlog that is drained later"""

    async def server(self, side: Side) -> None:
        sock = stream({(socket.SOL_SOCKET, socket.SO_REUSEADDR): 1})
        sock.bind((side.here, PORT))
        sock.listen(0)
        side.ready()
        await settle(0.7)
        loop = asyncio.get_running_loop()
        for number in (1, 2):
            accepted = await side.attempt(f"accept {number}", loop.sock_accept(sock))
            if accepted is not None:
                await side.attempt("recv", loop.sock_recv(accepted[0], 100))
                accepted[0].close()
        await asyncio.Event().wait()

    async def client(self, side: Side) -> None:
        loop = asyncio.get_running_loop()
        for number in (1, 2):
            sock = stream()
            await side.attempt(f"connect {number}", loop.sock_connect(sock, (side.there, PORT)))
            await side.attempt("send", loop.sock_sendall(sock, b"hello"))
            await side.attempt("recv", loop.sock_recv(sock, 100))
            sock.close()
        await settle()


class ListenerCloses(Situation):
    """the listener is closed while connections wait to be accepted"""

    async def server(self, side: Side) -> None:
        sock = stream({(socket.SOL_SOCKET, socket.SO_REUSEADDR): 1})
        sock.bind((side.here, PORT))
        sock.listen(5)
        side.ready()
        await settle(1.0)
        sock.close()
        side.say("closed")
        await asyncio.Event().wait()

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        await witness.until_lost()
        await side.attempt("connect 2", asyncio.open_connection(side.there, PORT))


class ResetBeforeAccept(Situation):
    """the client resets before the server accepts"""

    async def server(self, side: Side) -> None:
        await serve(side, lambda: Witness(side))

    async def client(self, side: Side) -> None:
        side.do("pause")
        witness = await connect(side)
        reset_on_close(witness.transport)
        witness.transport.write(b"hello")
        await settle()
        witness.transport.abort()
        await witness.until_lost()
        await settle()
        side.do("resume")
        await settle(0.6)


class ClosedBeforeAccept(Situation):
    """the client sends and closes before the server accepts"""

    async def server(self, side: Side) -> None:
        await serve(side, lambda: Witness(side))

    async def client(self, side: Side) -> None:
        side.do("pause")
        witness = await connect(side)
        witness.transport.write(b"hello")
        witness.transport.close()
        await witness.until_lost()
        await settle()
        side.do("resume")
        await settle(0.6)


class ServerCloses(Situation):
    """Server.close() while a client is connected"""

    async def server(self, side: Side) -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Witness(side), side.here, PORT)
        side.ready()
        await settle(0.7)
        server.close()
        side.say("closed")
        await asyncio.Event().wait()

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        await settle(1.2)
        await side.attempt("connect 2", asyncio.open_connection(side.there, PORT))
        witness.transport.write(b"still there?")
        await settle()
        witness.transport.close()
        await witness.until_lost()
        await settle()


# --- addresses --------------------------------------------------------------------------------------------------------


async def _listen(side: Side, what: str, host: str, port: int, *, reuse: bool | None = None) -> asyncio.Server | None:
    loop = asyncio.get_running_loop()
    return await side.attempt(what, loop.create_server(asyncio.Protocol, host, port, reuse_address=reuse))


class AddressInUse(Situation):
    """bind() to an address where somebody listens"""

    async def client(self, side: Side) -> None:
        first = await _listen(side, "listen at the address", side.here, PORT)
        await _listen(side, "there again", side.here, PORT)
        await _listen(side, "at all addresses", "0.0.0.0", PORT)
        other = await _listen(side, "at 127.0.0.1", "127.0.0.1", PORT)
        for server in (first, other):
            if server is not None:
                server.close()


class AddressInUseUdp(Situation):
    """bind() of UDP to an address in use"""

    async def client(self, side: Side) -> None:
        loop = asyncio.get_running_loop()
        made = []
        for what, host in (("bind", side.here), ("again", side.here), ("all addresses", "0.0.0.0")):
            address = (host, PORT)
            made.append(
                await side.attempt(what, loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=address))
            )
        for endpoint in made:
            if endpoint is not None:
                endpoint[0].close()


class AddressNotOurs(Situation):
    """bind() to an address of another machine"""

    async def client(self, side: Side) -> None:
        sock = stream()

        async def bind() -> None:
            sock.bind((side.there, PORT))

        await side.attempt("bind", bind())
        sock.close()
        await side.attempt("connect", asyncio.open_connection(side.there, PORT, local_addr=(side.there, 0)))


class PrivilegedPort(Situation):
    """bind() to port 80, as root"""

    async def client(self, side: Side) -> None:
        server = await _listen(side, "listen", side.here, 80)
        if server is not None:
            server.close()


class TimeWait(Situation):
    first: bool
    second: bool

    async def server(self, side: Side) -> None:
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[None] = loop.create_future()

        class Closer(Witness):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                transport.close()

            def connection_lost(self, exc: BaseException | None) -> None:
                super().connection_lost(exc)
                gone.set_result(None)

        server = await loop.create_server(lambda: Closer(side), side.here, PORT, reuse_address=self.first)
        side.ready()
        await gone
        server.close()
        await settle()
        await _listen(side, "listen again", side.here, PORT, reuse=self.second)
        await asyncio.Event().wait()

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        await witness.until_lost()
        await settle(0.7)


class TimeWaitReused(TimeWait):
    """bind() to a port in TIME_WAIT, with SO_REUSEADDR"""

    first = second = True


class TimeWaitNotReused(TimeWait):
    """bind() to a port in TIME_WAIT, without SO_REUSEADDR"""

    first, second = True, False


class TimeWaitReusedLate(TimeWait):
    """bind() to a port in TIME_WAIT, with SO_REUSEADDR that its first owner did not set"""

    first, second = False, True

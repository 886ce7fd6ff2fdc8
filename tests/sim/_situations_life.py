"""Situations of connections that stand: peers that vanish, reboot, die, close and stall.

What a situation is stands in ``_situations.py``.
"""

from __future__ import annotations

import asyncio
import socket

from ._situations import (
    KEEPALIVE,
    PORT,
    USER_TIMEOUT,
    Side,
    Situation,
    Witness,
    connect,
    reset_on_close,
    serve,
    settle,
    stream,
)

# More than both buffers of any connection here ever hold: Linux grows each to a few MiB.
MUCH = bytes(16 << 20)


# A situation without a docstring is none: it is for others to derive from.


class Sink(Situation):
    async def server(self, side: Side) -> None:
        await serve(side, lambda: Witness(side))


class Deaf(Situation):
    async def server(self, side: Side) -> None:
        await serve(side, lambda: Witness(side, reads=False))


# --- the peer vanishes ------------------------------------------------------------------------------------------------


class VanishesWhileWeSend(Sink):
    """the peer loses its power while we send, with TCP_USER_TIMEOUT"""

    async def client(self, side: Side) -> None:
        witness = await connect(side, options=USER_TIMEOUT)
        witness.transport.write(b"hello")
        await settle()
        side.do("power off")
        witness.transport.write(b"are you there?")
        await witness.until_lost()


class VanishesWhileWeSendMuch(Deaf):
    """the peer loses its power while its window is shut and we wait for room, with TCP_USER_TIMEOUT"""

    async def client(self, side: Side) -> None:
        witness = await connect(side, options=USER_TIMEOUT)
        witness.transport.write(MUCH)
        await settle(0.5)
        side.do("power off")
        await witness.until_lost()


class VanishesWhileWeRead(Sink):
    """the peer loses its power while we only read, with keepalive"""

    async def client(self, side: Side) -> None:
        witness = await connect(side, options=KEEPALIVE)
        await settle()
        side.do("power off")
        await witness.until_lost()


class VanishesUnnoticed(Sink):
    """the peer loses its power while we only read, without keepalive"""

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        await settle()
        side.do("power off")
        await witness.until_lost(limit_s=3.0)


class VanishesAfterOurClose(Sink):
    """the peer loses its power, and we close"""

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        await settle()
        side.do("power off")
        witness.transport.write(b"hello")
        witness.transport.close()
        await witness.until_lost()


class CutThatHeals(Sink):
    """the network is cut while we send, and heals in time"""

    async def client(self, side: Side) -> None:
        witness = await connect(side, options=USER_TIMEOUT)
        witness.transport.write(b"hello")
        await settle()
        side.do("cut")
        witness.transport.write(b" again")
        await settle(0.8)
        side.do("heal")
        await settle(1.2)
        witness.transport.close()
        await witness.until_lost()
        await settle()


class RebootsAndWeSend(Sink):
    """the peer reboots, and we send"""

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        await settle()
        side.do("reboot")
        await settle()
        witness.transport.write(b"hello")
        await witness.until_lost()
        witness.transport.write(b"hello?")


class RebootsAndWeRead(Sink):
    """the peer reboots while we only read, with keepalive"""

    async def client(self, side: Side) -> None:
        witness = await connect(side, options=KEEPALIVE)
        await settle()
        side.do("reboot")
        await witness.until_lost()


class RebootsWhileWeWaitForRoom(Deaf):
    """the peer reboots while its window is shut and we wait for room"""

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        witness.transport.write(MUCH)
        await settle(0.5)
        side.do("reboot")
        await witness.until_lost()


# --- the peer's process ends ------------------------------------------------------------------------------------------


class Killed(Sink):
    """the peer's process is killed; all that we sent was read"""

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        witness.transport.write(b"hello")
        await settle()
        side.do("kill")
        await witness.until_lost()


class KilledUnread(Deaf):
    """the peer's process is killed; what we sent was not read"""

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        witness.transport.write(b"hello")
        await settle()
        side.do("kill")
        await witness.until_lost()


class KilledWhileWeWaitForRoom(Deaf):
    """the peer's process is killed while we wait for room"""

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        witness.transport.write(MUCH)
        await settle(0.5)
        side.do("kill")
        await witness.until_lost()


class WriteAfterPeersEnd(Sink):
    """we write twice after the peer's process was killed"""

    async def client(self, side: Side) -> None:
        witness = await connect(side, keep_open=True)
        await settle()
        side.do("kill")
        await witness.until_ended()
        side.say("write 1")
        witness.transport.write(b"one")
        await settle()
        side.say("write 2")
        witness.transport.write(b"two")
        await witness.until_lost(limit_s=2.0)


class StreamsAfterPeersEnd(Sink):
    """the same with streams: write(), drain(), read()"""

    async def client(self, side: Side) -> None:
        reader, writer = await asyncio.open_connection(side.there, PORT)
        await settle()
        side.do("kill")
        await side.attempt("read", reader.read(10))
        for number in (1, 2, 3):
            writer.write(b"x")
            await side.attempt(f"drain {number}", writer.drain())
            await settle()
        await side.attempt("readexactly", reader.readexactly(1))
        writer.close()
        await side.attempt("wait_closed", writer.wait_closed())


class SocketsAfterReset(Situation):
    """sock_recv() and sock_sendall() after a reset"""

    async def server(self, side: Side) -> None:
        class Resetter(Witness):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                reset_on_close(self.transport)
                self.transport.abort()

        await serve(side, lambda: Resetter(side))

    async def client(self, side: Side) -> None:
        sock, loop = stream(), asyncio.get_running_loop()
        await side.attempt("connect", loop.sock_connect(sock, (side.there, PORT)))
        await side.attempt("send", loop.sock_sendall(sock, b"hello"))
        await settle()
        await side.attempt("recv", loop.sock_recv(sock, 10))
        await side.attempt("recv", loop.sock_recv(sock, 10))
        await side.attempt("send", loop.sock_sendall(sock, b"hello"))
        sock.close()


class SendAfterReset(SocketsAfterReset):
    """sock_sendall() first, after a reset"""

    async def client(self, side: Side) -> None:
        sock, loop = stream(), asyncio.get_running_loop()
        await side.attempt("connect", loop.sock_connect(sock, (side.there, PORT)))
        await side.attempt("send", loop.sock_sendall(sock, b"hello"))
        await settle()
        await side.attempt("send", loop.sock_sendall(sock, b"hello"))
        await side.attempt("send", loop.sock_sendall(sock, b"hello"))
        await side.attempt("recv", loop.sock_recv(sock, 10))
        sock.close()


# --- ends of connections ----------------------------------------------------------------------------------------------


class WithData(Situation):
    # A server that answers the first bytes by doing something to its connection.

    async def server(self, side: Side) -> None:
        situation = self

        class Answers(Witness):
            def data_received(self, data: bytes) -> None:
                first = not self.got.is_set()
                super().data_received(data)
                if first:
                    situation.answer(self)

        await serve(side, lambda: Answers(side, keep_open=True))

    def answer(self, witness: Witness) -> None:
        raise NotImplementedError

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        witness.transport.write(b"hello")
        await witness.until_lost()
        await settle()


class AbortWithLinger(WithData):
    """abort() with SO_LINGER of 0 s"""

    def answer(self, witness: Witness) -> None:
        reset_on_close(witness.transport)
        witness.transport.abort()


class Abort(WithData):
    """abort()"""

    def answer(self, witness: Witness) -> None:
        witness.transport.abort()


class AnswerAndClose(WithData):
    """write() and close()"""

    def answer(self, witness: Witness) -> None:
        witness.transport.write(b"bye")
        witness.transport.close()


class AnswerAndAbort(WithData):
    """write() and abort() with SO_LINGER of 0 s"""

    def answer(self, witness: Witness) -> None:
        witness.transport.write(b"bye")
        reset_on_close(witness.transport)
        witness.transport.abort()


class WhileWeDoNotRead(WithData):
    # The client reads only after the peer's end.

    async def client(self, side: Side) -> None:
        witness = await connect(side, reads=False)
        witness.transport.write(b"hello")
        await settle(0.6)
        witness.say("read on")
        witness.transport.resume_reading()
        await witness.until_lost()
        await settle()


class ClosedWhileWeDoNotRead(WhileWeDoNotRead):
    """write() and close() by the peer while we do not read"""

    def answer(self, witness: Witness) -> None:
        witness.transport.write(b"bye")
        witness.transport.close()


class ResetWhileWeDoNotRead(WhileWeDoNotRead):
    """write() by the peer, and its reset later, while we do not read"""

    def answer(self, witness: Witness) -> None:
        witness.transport.write(b"bye")
        reset_on_close(witness.transport)
        asyncio.get_running_loop().call_later(0.2, witness.transport.abort)


class ShutReading(WithData):
    """shutdown(SHUT_RD), and the peer sends"""

    def answer(self, witness: Witness) -> None:
        asyncio.get_running_loop().call_later(0.3, witness.transport.write, b"bye")

    async def client(self, side: Side) -> None:
        sock, loop = stream(), asyncio.get_running_loop()
        await side.attempt("connect", loop.sock_connect(sock, (side.there, PORT)))
        await side.attempt("send", loop.sock_sendall(sock, b"hello"))
        sock.shutdown(socket.SHUT_RD)
        for _ in range(3):
            side.say(f"recv: {len(await loop.sock_recv(sock, 10))} bytes")
            await settle(0.4)
        sock.close()
        await settle()


class CloseUnread(Deaf):
    """close() with unread data"""

    async def server(self, side: Side) -> None:
        class Closer(Witness):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                asyncio.get_running_loop().call_later(0.5, transport.close)

        await serve(side, lambda: Closer(side, reads=False))

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        witness.transport.write(b"hello")
        await witness.until_lost()
        await settle()


class HalfCloseByClient(Situation):
    """write_eof() by the client; the server answers behind it"""

    async def server(self, side: Side) -> None:
        class Answers(Witness):
            def eof_received(self) -> bool:
                super().eof_received()
                asyncio.get_running_loop().call_later(0.2, self._answer)
                return True

            def _answer(self) -> None:
                self.transport.write(b"all of it")
                self.transport.close()

        await serve(side, lambda: Answers(side))

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        witness.transport.write(b"hello")
        witness.transport.write_eof()
        await witness.until_lost()
        await settle()


class HalfCloseByServer(Situation):
    """write_eof() by the server; the client goes on"""

    async def server(self, side: Side) -> None:
        class Ends(Witness):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                self.transport.write(b"bye")
                self.transport.write_eof()

        await serve(side, lambda: Ends(side))

    async def client(self, side: Side) -> None:
        witness = await connect(side, keep_open=True)
        await witness.until_ended()
        witness.transport.write(b"still here")
        await settle()
        witness.transport.close()
        await witness.until_lost()
        await settle()


class BothCloseAtOnce(Situation):
    """both close at once, before either hears of the other"""

    async def server(self, side: Side) -> None:
        class Closer(Witness):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                asyncio.get_running_loop().call_later(0.6, transport.close)

        await serve(side, lambda: Closer(side))

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        await settle()
        side.do("cut")
        witness.transport.close()
        await witness.until_lost()
        await settle(0.6)
        side.do("heal")
        await settle(1.5)


# --- the peer stalls --------------------------------------------------------------------------------------------------


class Stalls(Deaf):
    """drain() with a peer that does not read"""

    async def client(self, side: Side) -> None:
        _, writer = await asyncio.open_connection(side.there, PORT)
        writer.write(MUCH)
        await side.attempt("drain", writer.drain(), limit_s=1.5)
        writer.transport.abort()


class StallsTooLong(Deaf):
    """a peer that does not read, with TCP_USER_TIMEOUT"""

    async def client(self, side: Side) -> None:
        witness = await connect(side, options=USER_TIMEOUT)
        witness.transport.write(MUCH)
        await witness.until_lost(limit_s=7.0)


class StallsAndReadsOn(Situation):
    """pause_writing() and resume_writing() with a peer that reads on later"""

    async def server(self, side: Side) -> None:
        class Late(Witness):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                asyncio.get_running_loop().call_later(0.7, self.transport.resume_reading)

        await serve(side, lambda: Late(side, reads=False))

    async def client(self, side: Side) -> None:
        witness = await connect(side)
        witness.transport.write(MUCH)
        await witness.until_resumed()
        witness.transport.close()
        await witness.until_lost()
        await settle(1.0)


class Paused(Situation):
    """the peer's process is stopped for a while"""

    async def server(self, side: Side) -> None:
        class Echo(Witness):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                self.transport.write(data)

        await serve(side, lambda: Echo(side))

    async def client(self, side: Side) -> None:
        side.do("pause")
        _, writer = streams = await asyncio.open_connection(side.there, PORT)
        writer.write(b"hello")
        await side.attempt("read 1", streams[0].readexactly(5), limit_s=1.0)
        side.do("resume")
        await side.attempt("read 2", streams[0].readexactly(5))
        writer.close()
        await side.attempt("wait_closed", writer.wait_closed())
        await settle()


class PausedAndKeptAlive(Sink):
    """the peer's process is stopped, with keepalive: its kernel answers"""

    async def client(self, side: Side) -> None:
        witness = await connect(side, options=KEEPALIVE)
        await settle()
        side.do("pause")
        await witness.until_lost(limit_s=4.5)


class ReadTimesOut(Sink):
    """read() under asyncio.timeout(); the connection goes on"""

    async def client(self, side: Side) -> None:
        reader, writer = await asyncio.open_connection(side.there, PORT)
        await side.attempt("read", reader.read(1), limit_s=0.5)
        writer.write(b"hello")
        await side.attempt("drain", writer.drain())
        await settle()
        writer.close()
        await side.attempt("wait_closed", writer.wait_closed())
        await settle()


class SmallBuffers(Deaf):
    """sock_sendall() with SO_SNDBUF of 4 KiB and a peer that does not read"""

    async def client(self, side: Side) -> None:
        sock, loop = stream({(socket.SOL_SOCKET, socket.SO_SNDBUF): 4096}), asyncio.get_running_loop()
        await side.attempt("connect", loop.sock_connect(sock, (side.there, PORT)))
        await side.attempt("send", loop.sock_sendall(sock, MUCH), limit_s=1.0)
        sock.close()

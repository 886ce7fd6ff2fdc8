"""The command `underlay listen`: wait for a connection and join it to this terminal.

This file knows what a listener does with those who come: one alone, or all of
them, or their own bytes back. How it is bound stands in ``_bind.py``. Plain
asyncio, so that it runs on each I/O model; it refuses to know which.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import socket
import ssl
from dataclasses import dataclass, field

from ..errors import UnderlayError, UsageError
from ._address import Address, Place, parse, written
from ._bind import bound
from ._datagrams import DATAGRAM_BYTES, Datagrams, Peer, open_datagrams
from ._netcat import Options, add_options, note, options, run, tls
from ._relay import Patience, Traffic, both, echo, join
from ._terminal import READ_BYTES, Input, Output, OutputGone

__all__ = ["configure", "main"]

# Below the 1,024 descriptors that a process may usually have (RLIMIT_NOFILE).
_MOST_CONNECTIONS = 1_000
# When descriptors or memory ran out, look again after as long as asyncio does
# (asyncio.constants.ACCEPT_RETRY_DELAY).
_ACCEPT_RETRY_S = 1.0
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# The same patience with a silent client during the handshake as asyncio has.
_HANDSHAKE_S = 60.0
# Peers of a UDP listener to whom stdin goes; the longest silent one is forgotten.
_MOST_PEERS = 1_000


@dataclass(slots=True)
class _Wishes:
    """What a listener does with those who come."""

    chosen: Options
    address: Address
    context: ssl.SSLContext | None
    keep_open: bool
    echo: bool
    most: int
    keyboard: Input = field(default_factory=Input)
    screen: Output = field(default_factory=Output)

    def patience(self, peer: str) -> Patience:
        """The time-outs for one peer."""
        return Patience(peer, self.chosen.timeout_s, self.chosen.wait_s)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the address and the options."""
    parser.usage = "underlay listen [options] [HOST:]PORT | unix:PATH"
    parser.add_argument(
        "address", nargs="+", metavar="ADDRESS", help="PORT (of every address), HOST:PORT, [IPv6]:PORT or unix:PATH"
    )
    parser.add_argument("--echo", action="store_true", help="send back what comes; leave stdin and stdout alone")
    parser.add_argument(
        "-k",
        "--keep-open",
        action="store_true",
        help="serve many at once, until Ctrl-C: stdin goes to all, all of them to stdout",
    )
    parser.add_argument(
        "--max-connections",
        type=int,
        default=_MOST_CONNECTIONS,
        metavar="N",
        help="with --keep-open: at most N at once, others wait (default: %(default)s)",
    )
    add_options(parser, "listen")


def main(args: argparse.Namespace) -> int:
    """Join stdin and stdout to whoever connects; 1 for a network failure, 2 for wrong use."""
    if len(args.address) > 2:
        raise UsageError("more than one address", remedy="`underlay listen --help` tells how it is used")
    if args.max_connections < 1:
        raise UsageError("--max-connections must be at least 1", remedy="leave it out for the default")
    address = parse(args.address, unix=args.unix, udp=args.udp, listening=True)
    chosen = options(args, "listen", address)
    wishes = _Wishes(chosen, address, tls(chosen), args.keep_open, args.echo, args.max_connections)
    work = _serve_datagrams(wishes) if chosen.udp else _serve_streams(wishes)
    return run(work, args.io, f"the connection to {address} broke")


# --- streams ------------------------------------------------------------------------------------------


async def _serve_streams(wishes: _Wishes) -> None:
    async with bound(wishes.address, wishes.chosen) as sockets:
        if wishes.keep_open:
            await _Crowd(wishes).serve(sockets)
            return
        connection = await _first_of(sockets)
        # The others would wait for ever in the backlog: let them know.
        for sock in sockets:
            sock.close()
        await _serve_one(connection, wishes)


async def _first_of(sockets: list[socket.socket]) -> socket.socket:
    """Accept one connection on whichever socket it comes."""
    loop = asyncio.get_running_loop()
    waiting = [asyncio.ensure_future(loop.sock_accept(sock)) for sock in sockets]
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        connection, *more = [task.result()[0] for task in done]
        for extra in more:
            extra.close()
        return connection
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _serve_one(connection: socket.socket, wishes: _Wishes) -> None:
    traffic = Traffic()
    reader, writer, peer = await _opened(connection, wishes)
    note(wishes.chosen, f"{peer} connected")
    try:
        if wishes.echo:
            await echo(reader, writer, wishes.patience(peer), traffic)
        else:
            await join(reader, writer, wishes.keyboard, wishes.screen, wishes.patience(peer), traffic)
        await _farewell(writer)
    finally:
        writer.transport.abort()
        note(wishes.chosen, f"{peer} is gone: {traffic}")


def _remedy(reason: str) -> str:
    """Say what to look at after a handshake that failed for OpenSSL's `reason`."""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "with --ca each client has to show a certificate"
    if reason == "it hung up" or "ALERT" in reason:
        # A client that distrusts us may tell (an alert, RFC 8446, 6.2) or just leave.
        return "does it speak TLS, and trust our certificate?"
    return "does it speak TLS?"


async def _opened(connection: socket.socket, wishes: _Wishes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """Make streams of an accepted connection, after its TLS handshake."""
    loop = asyncio.get_running_loop()
    peer = written(connection.getpeername()) if isinstance(wishes.address, Place) else "a client"
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    try:
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            connection,
            ssl=wishes.context,
            ssl_handshake_timeout=None if wishes.context is None else wishes.chosen.timeout_s or _HANDSHAKE_S,
        )
    except OSError as error:
        connection.close()
        if wishes.context is None:
            raise
        reason = error.reason if isinstance(error, ssl.SSLError) else "it hung up"
        raise UnderlayError(f"the TLS handshake with {peer} failed ({reason})", remedy=_remedy(reason)) from error
    if not wishes.chosen.nodelay and isinstance(wishes.address, Place):
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop), peer


async def _farewell(writer: asyncio.StreamWriter) -> None:
    """Close after what is still to be sent; a peer that is gone by now misses nothing."""
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


class _Crowd:
    """Many clients at once: stdin goes to each, what each says goes to stdout."""

    def __init__(self, wishes: _Wishes) -> None:
        self._wishes = wishes
        self._writers: set[asyncio.StreamWriter] = set()
        self._places = asyncio.Semaphore(wishes.most)
        self._input_ended = False

    async def serve(self, sockets: list[socket.socket]) -> None:
        """Accept on each socket until cancelled, or until nobody reads stdout any more."""
        works = [self._accept(sock) for sock in sockets]
        try:
            await both(*works) if self._wishes.echo else await both(self._spread(), *works)
        except BaseExceptionGroup as group:
            if group.subgroup(OutputGone) is None:
                raise
            raise OutputGone from None

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as clients:
            while True:
                await self._places.acquire()
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    self._places.release()
                    if error.errno not in _EXHAUSTED:
                        continue  # the client has left already: accept(2)
                    note(self._wishes.chosen, f"cannot accept: {os.strerror(error.errno or 0).lower()}")
                    await asyncio.sleep(_ACCEPT_RETRY_S)
                else:
                    clients.create_task(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        """Serve one client; what goes wrong with it harms no other."""
        chosen, traffic = self._wishes.chosen, Traffic()
        peer = "a client"
        try:
            reader, writer, peer = await _opened(connection, self._wishes)
            note(chosen, f"{peer} connected")
            self._writers.add(writer)
            try:
                patience = self._wishes.patience(peer)
                if self._wishes.echo:
                    await echo(reader, writer, patience, traffic)
                else:
                    await self._listen_to(reader, writer, patience, traffic)
                await _farewell(writer)
            finally:
                self._writers.discard(writer)
                writer.transport.abort()
                note(chosen, f"{peer} is gone: {traffic}")
        except UnderlayError as error:
            note(chosen, str(error))
        except OSError as error:
            note(chosen, f"the connection to {peer} broke: {error.strerror or error}")
        finally:
            self._places.release()

    async def _listen_to(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: Patience, traffic: Traffic
    ) -> None:
        if self._input_ended and writer.can_write_eof():
            writer.write_eof()
        async with patience.watch():
            while data := await reader.read(READ_BYTES):
                traffic.received_bytes += len(data)
                with patience.delivering():
                    await self._wishes.screen.write(data)

    async def _spread(self) -> None:
        """Send stdin to all who are connected, as fast as the slowest takes it."""
        while data := await self._wishes.keyboard.read():
            for writer in self._writers:
                writer.write(data)
            drains = [writer.drain() for writer in self._writers]
            await asyncio.gather(*drains, return_exceptions=True)
        self._input_ended = True
        for writer in self._writers:
            if writer.can_write_eof():
                writer.write_eof()


# --- datagrams ----------------------------------------------------------------------------------------


async def _serve_datagrams(wishes: _Wishes) -> None:
    async with bound(wishes.address, wishes.chosen) as sockets:
        ways = [await open_datagrams(sock) for sock in sockets]
        try:
            await _Exchange(wishes).serve(ways)
        finally:
            for way in ways:
                way.close()


class _Exchange:
    """UDP peers: the first who sends, or with --keep-open all of them, and the socket that each reached."""

    def __init__(self, wishes: _Wishes) -> None:
        self._wishes = wishes
        self._patience = wishes.patience("any peer")
        self._peers: dict[Peer, Datagrams] = {}
        self._somebody = asyncio.Event()

    async def serve(self, ways: list[Datagrams]) -> None:
        """Exchange datagrams until time runs out or Ctrl-C: UDP has no end of its own."""
        works = [self._receive(way) for way in ways]
        async with self._patience.watch():
            await both(*works) if self._wishes.echo else await both(self._spread(), *works)

    async def _receive(self, way: Datagrams) -> None:
        while True:
            try:
                data, peer = await way.receive()
            except ConnectionRefusedError:
                continue  # a peer that we answered has left
            if peer not in self._peers and self._peers and not self._wishes.keep_open:
                continue  # somebody else's: one peer alone, as with streams
            self._remember(peer, way)
            self._patience.moved()
            if self._wishes.echo:
                await way.send(data, peer)
            else:
                with self._patience.delivering():
                    await self._wishes.screen.write(data)

    def _remember(self, peer: Peer, way: Datagrams) -> None:
        if self._peers.pop(peer, None) is None:
            note(self._wishes.chosen, f"{written(peer)} sends")
        self._peers[peer] = way  # now the last in line
        if len(self._peers) > _MOST_PEERS:
            del self._peers[next(iter(self._peers))]
        self._somebody.set()

    async def _spread(self) -> None:
        await self._somebody.wait()
        while data := await self._wishes.keyboard.read(DATAGRAM_BYTES):
            for peer, way in list(self._peers.items()):
                await way.send(data, peer)
            self._patience.moved()
        if self._wishes.chosen.wait_s is not None:
            self._patience.ended(None)

"""The command `underlay connect`: open a connection and join it to this terminal.

This file knows the order of things: resolve, bind, connect, encrypt, join. What
can go wrong on the way is put into words by ``_netcat.py``. Plain asyncio, so
that it runs on each I/O model; it refuses to know which.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import socket
import ssl

from ..errors import UnderlayError, UsageError
from ._address import Address, Place, UnixPath, parse, parse_source, written
from ._complaints import cannot_connect
from ._datagrams import DATAGRAM_BYTES, open_datagrams
from ._netcat import Options, add_options, new_socket, note, options, run, tls
from ._relay import Patience, Traffic, both, join
from ._terminal import Input, Output

__all__ = ["configure", "main"]

# UDP has no end. When our input has ended, this much silence counts as one.
_WAIT_FOR_DATAGRAMS_S = 1.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the address and the options."""
    parser.usage = "underlay connect [options] HOST:PORT | unix:PATH"
    parser.add_argument("address", nargs="+", metavar="ADDRESS", help="HOST:PORT, [IPv6]:PORT or unix:PATH")
    parser.add_argument("--source", metavar="ADDRESS[:PORT]", help="connect from here")
    add_options(parser, "connect")


def main(args: argparse.Namespace) -> int:
    """Join stdin and stdout to a connection until both sides have ended; 1 for a network failure."""
    if len(args.address) > 2:
        raise UsageError("more than one address", remedy="`underlay connect --help` tells how it is used")
    address = parse(args.address, unix=args.unix, udp=args.udp)
    source = parse_source(args.source) if args.source else None
    if source is not None and isinstance(address, UnixPath):
        raise UsageError("--source is about IP, and a Unix socket has none", remedy="leave it out")
    chosen = options(args, "connect", address)
    context = tls(chosen)
    work = _datagrams(address, source, chosen) if chosen.udp else _stream(address, source, chosen, context)
    return run(work, args.io, f"the connection to {address} broke")


async def _stream(address: Address, source: Place | None, chosen: Options, context: ssl.SSLContext | None) -> None:
    traffic = Traffic()
    reader, writer = await _open(address, source, chosen, context)
    note(chosen, f"connected to {_described(address, writer)}")
    try:
        await join(reader, writer, Input(), Output(), _patience(address, chosen), traffic)
        writer.close()
        # TLS may find, while it says goodbye, that the peer is gone; all is said.
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    finally:
        writer.transport.abort()
        note(chosen, f"the connection to {address} is over: {traffic}")


def _unconnected(address: Address, chosen: Options, error: OSError) -> UnderlayError:
    return cannot_connect(address, error, tls=chosen.tls, family=chosen.family)


async def _open(
    address: Address, source: Place | None, chosen: Options, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and agree on TLS, within the time-out."""
    name = None
    if context is not None:
        # Without a name there is nothing to verify; asyncio takes "" for that.
        name = chosen.server_name or (address.host if isinstance(address, Place) else "localhost")
    try:
        async with asyncio.timeout(chosen.timeout_s):
            if isinstance(address, UnixPath):
                return await asyncio.open_unix_connection(address.address, ssl=context, server_hostname=name)
            sock = await _connected_socket(address, source, chosen)
            reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=name)
    except TimeoutError as error:
        if error.errno is not None:
            raise _unconnected(address, chosen, error) from error  # the kernel gave up first
        raise UnderlayError(
            f"time-out: {address} did not answer within {chosen.timeout_s:g} s",
            remedy="a packet filter drops what it does not want without a word",
        ) from None
    except OSError as error:
        raise _unconnected(address, chosen, error) from error
    if not chosen.nodelay:
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    return reader, writer


async def _connected_socket(address: Place, source: Place | None, chosen: Options) -> socket.socket:
    """Try each address that the name has, in the order that getaddrinfo gives (RFC 6724); raise the first failure."""
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_DGRAM if chosen.udp else socket.SOCK_STREAM
    found = await loop.getaddrinfo(address.host, address.port, family=chosen.family, type=kind)
    failure: OSError | None = None
    for family, _, _, _, target in found:
        sock = new_socket(family, chosen)
        try:
            if source is not None:
                # Its family is the target's: AI_NUMERICHOST knows no other.
                try:
                    from_here = await loop.getaddrinfo(source.host, source.port, family=family, type=kind)
                except socket.gaierror as error:
                    raise OSError(errno.EADDRNOTAVAIL, error.strerror) from error
                sock.bind(from_here[0][4])
            if chosen.udp:
                sock.connect(target)  # sends nothing: it only names the peer
            else:
                await loop.sock_connect(sock, target)
            return sock
        except OSError as error:
            sock.close()
            failure = failure or error
        except BaseException:
            sock.close()
            raise
    raise failure or OSError(f"{address.host} has no address of this family")


async def _datagrams(address: Address, source: Place | None, chosen: Options) -> None:
    assert isinstance(address, Place)
    try:
        datagrams = await open_datagrams(await _connected_socket(address, source, chosen))
    except OSError as error:
        raise _unconnected(address, chosen, error) from error
    note(chosen, f"sends to {address} by UDP")
    patience, traffic = _patience(address, chosen), Traffic()
    keyboard, screen = Input(), Output()

    async def upward() -> None:
        while data := await keyboard.read(DATAGRAM_BYTES):
            with patience.sending():
                await datagrams.send(data)
            traffic.sent_bytes += len(data)
        patience.ended(_WAIT_FOR_DATAGRAMS_S)

    async def downward() -> None:
        while True:
            data, _ = await datagrams.receive()
            traffic.received_bytes += len(data)
            with patience.delivering():
                await screen.write(data)

    try:
        async with patience.watch():
            await both(upward(), downward())
    except ConnectionRefusedError:
        raise UnderlayError(
            f"nothing listens on UDP {address}: its machine answered by ICMP that the port is closed",
            remedy="is the server running, and on this port?",
        ) from None
    finally:
        datagrams.close()
        note(chosen, f"done with {address}: {traffic}")


def _patience(address: Address, chosen: Options) -> Patience:
    return Patience(str(address), chosen.timeout_s, chosen.wait_s)


def _described(address: Address, writer: asyncio.StreamWriter) -> str:
    """The connection in a few words: both ends, and what TLS agreed on."""
    text = str(address)
    if isinstance(address, Place):
        text = f"{written(writer.get_extra_info('peername'))} from {written(writer.get_extra_info('sockname'))}"
    cipher = writer.get_extra_info("cipher")
    if cipher is not None:
        secure: ssl.SSLObject = writer.get_extra_info("ssl_object")
        protocol = secure.selected_alpn_protocol()
        text += f" by {cipher[1]}, {cipher[0]}" + (f", {protocol}" if protocol else "")
    return text

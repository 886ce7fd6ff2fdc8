"""Contract: what a stream connection tells its protocol, and when.

It knows TCP and Unix sockets on one machine: beginning, data, half-close, end, errors. How
fast bytes go and who waits for whom is `contract_flow`'s.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import struct
import tempfile
from functools import partial

from .contract import Recorder, accepted, on_loop, payload, read_raw, turns, write_raw

# SO_LINGER on, for no seconds: close() sends a reset instead of a FIN (socket(7)).
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@on_loop
async def a_connection_begins_talks_and_ends_in_order() -> None:
    async with await accepted() as connection:
        await write_raw(connection.far, b"hello")
        await connection.near.until_received(5)
        connection.far.close()
        await connection.near.until_call("connection_lost")
        assert connection.near.calls == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]
        assert connection.near.error is None


@on_loop
async def data_that_came_before_the_end_is_not_lost() -> None:
    for size in (1, 1000, 100_000):
        data = payload(size)
        async with await accepted() as connection:
            await write_raw(connection.far, data)
            connection.far.close()
            await connection.near.until_call("connection_lost")
            assert connection.near.received == data


@on_loop
async def fifty_clients_that_connect_at_once_are_all_served() -> None:
    loop = asyncio.get_running_loop()

    class Echo(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            assert self.transport is not None
            self.transport.write(data)

    protocols: list[Echo] = []

    def make() -> Echo:
        protocols.append(Echo())
        return protocols[-1]

    server = await loop.create_server(make, "127.0.0.1", 0, backlog=100)
    address = server.sockets[0].getsockname()
    clients = [socket.create_connection(address) for _ in range(50)]
    for number, client in enumerate(clients):
        client.setblocking(False)
        await write_raw(client, bytes([number]) * 10)
    for number, client in enumerate(clients):
        assert await read_raw(client, 10) == bytes([number]) * 10
        client.close()
    for protocol in protocols:
        await protocol.until_call("connection_lost")
    assert len(protocols) == 50
    server.close()
    await server.wait_closed()


@on_loop
async def a_server_with_the_shortest_backlog_serves_everybody() -> None:
    loop = asyncio.get_running_loop()
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    # asyncio accepts `backlog` clients at a time, and the kernel queues one more (listen(2)).
    server = await loop.create_server(make, "127.0.0.1", 0, backlog=1)
    address = server.sockets[0].getsockname()
    for number in range(1, 11):
        pair = [socket.create_connection(address) for _ in range(2)]
        while len(made) < 2 * number:
            await asyncio.sleep(0.001)
        for client in pair:
            client.close()
    for protocol in made:
        await protocol.until_call("connection_lost")
    server.close()
    await server.wait_closed()


@on_loop
async def clients_go_on_connecting_after_the_first_burst() -> None:
    loop = asyncio.get_running_loop()
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    server = await loop.create_server(make, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for number in range(1, 31):
        with socket.create_connection(address) as client:
            client.send(b"x")
            while len(made) < number:
                await asyncio.sleep(0.001)
            await made[-1].until_received(1)
        await made[-1].until_call("connection_lost")
    server.close()
    await server.wait_closed()


@on_loop
async def a_client_half_closes_and_still_gets_its_answer() -> None:
    near = Recorder()
    near.keep_open_at_eof = True
    async with await accepted(near) as connection:
        await write_raw(connection.far, b"question")
        connection.far.shutdown(socket.SHUT_WR)
        await near.until_call("eof_received")
        await turns(3)
        assert not connection.transport.is_closing()
        assert near.received == b"question"
        connection.transport.write(b"answer")
        connection.transport.close()
        assert await read_raw(connection.far) == b"answer"
        await near.until_call("connection_lost")


@on_loop
async def write_eof_ends_one_direction_after_what_was_written() -> None:
    data = payload(16 << 20)  # the kernel takes 4 MiB at most (tcp(7), tcp_wmem)
    async with await accepted() as connection:
        assert connection.transport.can_write_eof()
        connection.transport.write(data)
        connection.transport.write_eof()
        connection.transport.write_eof()  # a second time is nothing
        try:
            connection.transport.write(b"more")
        except RuntimeError:
            pass
        else:
            raise AssertionError("write() after write_eof() was accepted")
        assert await read_raw(connection.far) == data
        await write_raw(connection.far, b"still open this way")
        await connection.near.until_received(19)
        connection.far.close()
        await connection.near.until_call("connection_lost")
        assert connection.near.error is None


@on_loop
async def a_reset_is_reported_as_an_error() -> None:
    async with await accepted() as connection:
        connection.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        connection.far.close()
        await connection.near.until_call("connection_lost")
        assert isinstance(connection.near.error, ConnectionResetError), connection.near.error
        assert "eof_received" not in connection.near.calls


@on_loop
async def writing_to_a_peer_that_has_gone_ends_the_connection() -> None:
    async with await accepted() as connection:
        connection.transport.pause_reading()
        connection.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        connection.far.close()
        while "connection_lost" not in connection.near.calls:
            connection.transport.write(b"x" * 1000)
            await asyncio.sleep(0.001)
        assert isinstance(connection.near.error, (ConnectionResetError, BrokenPipeError))


@on_loop
async def a_refused_connection_raises() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as bound:  # bound, not listening: nobody else can take the port
        bound.bind(("127.0.0.1", 0))
        try:
            await loop.create_connection(Recorder, *bound.getsockname())
        except ConnectionRefusedError:
            return
    raise AssertionError("connecting to a port where nobody listens did not raise")


@on_loop
async def abort_drops_what_was_not_sent() -> None:
    async with await accepted() as connection:
        connection.transport.write(bytes(32 << 20))
        connection.transport.abort()
        assert connection.transport.is_closing()
        await connection.near.until_call("connection_lost")
        assert connection.near.error is None
        assert len(await _read_until_end_or_reset(connection.far)) < 32 << 20


async def _read_until_end_or_reset(sock: socket.socket) -> bytes:
    try:
        return await read_raw(sock)
    except ConnectionResetError:
        return b""


@on_loop
async def close_sends_what_was_written_before() -> None:
    data = payload(16 << 20)  # the kernel takes 4 MiB at most (tcp(7), tcp_wmem)
    async with await accepted() as connection:
        connection.transport.write(data)
        connection.transport.close()
        assert connection.transport.is_closing()
        await turns(3)
        assert "connection_lost" not in connection.near.calls
        assert await read_raw(connection.far) == data
        await connection.near.until_call("connection_lost")
        assert connection.near.error is None


@on_loop
async def no_data_comes_after_close() -> None:
    async with await accepted() as connection:
        connection.far.send(b"before")
        await connection.near.until_received(6)
        connection.far.send(b"after")
        connection.transport.close()
        await connection.near.until_call("connection_lost")
        await turns(5)
        assert connection.near.received == b"before"
        assert connection.near.calls[-1] == "connection_lost"


@on_loop
async def a_transport_tells_about_its_socket() -> None:
    async with await accepted() as connection:
        transport = connection.transport
        sock = transport.get_extra_info("socket")
        assert transport.get_extra_info("peername") == connection.far.getsockname()
        assert transport.get_extra_info("sockname") == connection.far.getpeername()
        assert sock.fileno() >= 0 and sock.family == socket.AF_INET
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert transport.get_extra_info("no such thing", "default") == "default"
        assert transport.get_protocol() is connection.near
        assert transport.is_reading() and not transport.is_closing()


class _Buffered(asyncio.BufferedProtocol):
    def __init__(self, size: int) -> None:
        self.buffer = bytearray(size)
        self.received = bytearray()
        self.ended = asyncio.get_running_loop().create_future()
        self.hints: list[int] = []

    def get_buffer(self, sizehint: int) -> bytearray:
        self.hints.append(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]

    def connection_lost(self, exc: BaseException | None) -> None:
        self.ended.set_result(exc)


@on_loop
async def a_buffered_protocol_gets_every_byte_in_its_own_buffer() -> None:
    loop = asyncio.get_running_loop()
    data = payload(300_000)
    for size in (1 << 16, 1000, 7):
        sent = data[: size * 1000]
        near_sock, far = socket.socketpair()
        far.setblocking(False)
        _, near = await loop.create_connection(partial(_Buffered, size), sock=near_sock)
        await write_raw(far, sent)
        far.close()
        assert await near.ended is None
        assert near.received == sent


@on_loop
async def a_buffered_protocol_without_room_loses_its_connection() -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    near_sock, far = socket.socketpair()
    _, near = await loop.create_connection(lambda: _Buffered(0), sock=near_sock)
    far.send(b"x")
    assert isinstance(await near.ended, RuntimeError)
    far.close()


@on_loop
async def the_protocol_can_be_changed_in_mid_stream() -> None:
    async with await accepted() as connection:
        connection.far.send(b"first")
        await connection.near.until_received(5)
        second = Recorder()
        connection.transport.set_protocol(second)
        assert connection.transport.get_protocol() is second
        connection.far.send(b"second")
        await second.until_received(6)
        third = _Buffered(1024)
        connection.transport.set_protocol(third)
        connection.far.send(b"third")
        connection.far.close()
        assert await third.ended is None
        assert connection.near.received == b"first"
        assert second.received == b"second"
        assert third.received == b"third"
        connection.near.calls.append("connection_lost")  # the third was told in its place


@on_loop
async def streams_read_to_the_end() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.write(await reader.readexactly(3))
        writer.write(await reader.read())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"line\nabcrest of it")
    writer.write_eof()
    try:
        await reader.readexactly(100)
    except asyncio.IncompleteReadError as error:
        assert error.partial == b"LINE\nabcrest of it"
    else:
        raise AssertionError("readexactly() past the end did not raise")
    assert reader.at_eof()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@on_loop
async def unix_sockets_serve_by_path_and_by_abstract_name() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    with tempfile.TemporaryDirectory() as directory:
        for address in (f"{directory}/socket", f"\0underlay-{directory}"):
            server = await asyncio.start_unix_server(echo, address)
            reader, writer = await asyncio.open_unix_connection(address)
            data = payload(200_000)
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()


@on_loop
async def a_server_that_ran_out_of_descriptors_recovers() -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.set_exception_handler(lambda *_: told.set())
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    # Before the server listens: io_uring reads the limit when it begins to accept.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    server = await loop.create_server(make, "127.0.0.1", 0)
    clients = [socket.create_connection(server.sockets[0].getsockname())]
    while not made:
        await asyncio.sleep(0.001)
    clients.append(socket.socket())
    hoard: list[int] = []
    try:
        while True:
            hoard.append(os.dup(0))
    except OSError as error:
        assert error.errno == errno.EMFILE
    clients[1].connect(server.sockets[0].getsockname())
    while not told.is_set():
        assert len(made) == 1, "a connection was accepted without a descriptor left"
        await asyncio.sleep(0.001)
    for fd in hoard:
        os.close(fd)
    while len(made) < 2:
        await asyncio.sleep(0.01)
    for client, protocol in zip(clients, made, strict=True):
        client.close()
        await protocol.until_call("connection_lost")
    server.close()
    await server.wait_closed()

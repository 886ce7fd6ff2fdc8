"""Contract: bytes in quantity, and who waits for whom.

It knows flow control in both directions, bursts, and that no cancelled wait loses a byte.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from typing import cast

from .contract import Recorder, accepted, on_loop, paired, payload, read_raw, turns, write_raw


@on_loop
async def a_full_buffer_pauses_the_writer_once_and_resumes_it_once() -> None:
    async with await paired() as connection:
        transport, near = connection.transport, connection.near
        transport.set_write_buffer_limits(high=50_000, low=10_000)
        assert transport.get_write_buffer_limits() == (10_000, 50_000)
        written = 0
        while "pause_writing" not in near.calls:
            assert transport.get_write_buffer_size() <= 50_000
            transport.write(payload(20_000))
            written += 20_000
            await turns(1)
        assert transport.get_write_buffer_size() > 50_000
        transport.write(payload(20_000))
        written += 20_000
        await turns(10)
        assert near.calls.count("pause_writing") == 1
        assert "resume_writing" not in near.calls
        got = b""
        while "resume_writing" not in near.calls:
            got += await read_raw(connection.far, 1000)
            await turns(1)
            assert near.calls.count("pause_writing") == 1
        assert transport.get_write_buffer_size() <= 10_000
        got += await read_raw(connection.far, written - len(got))
        assert got == payload(20_000) * (written // 20_000)
        await turns(10)
        assert transport.get_write_buffer_size() == 0
        assert near.calls == ["connection_made", "pause_writing", "resume_writing"]


@on_loop
async def a_write_over_the_limit_pauses_before_it_returns() -> None:
    async with await paired() as connection:
        connection.transport.set_write_buffer_limits(high=1000)
        connection.transport.write(bytes(32 << 20))
        assert connection.near.calls == ["connection_made", "pause_writing"]


@on_loop
async def a_write_limit_of_zero_pauses_at_any_backlog() -> None:
    async with await paired() as connection:
        connection.transport.set_write_buffer_limits(high=0)
        data = payload(8 << 20)
        connection.transport.write(data)
        assert connection.near.calls[-1] == "pause_writing"
        assert await read_raw(connection.far, len(data)) == data
        await connection.near.until_call("resume_writing")
        assert connection.transport.get_write_buffer_size() == 0


@on_loop
async def drain_waits_for_a_slow_reader() -> None:
    near, far = socket.socketpair()
    far.setblocking(False)
    _, writer = await asyncio.open_connection(sock=near)
    data = payload(3 << 20)
    drained = False

    async def write() -> None:
        nonlocal drained
        writer.write(data)
        await writer.drain()
        drained = True

    task = asyncio.create_task(write())
    await turns(20)
    assert not drained
    assert await read_raw(far, len(data)) == data
    await task
    writer.close()
    await writer.wait_closed()
    far.close()


@on_loop
async def a_burst_of_a_mebibyte_comes_whole_and_goes_back_whole() -> None:
    class Echo(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            assert self.transport is not None
            self.transport.write(data)

    data = payload(1 << 20)
    async with await accepted(Echo()) as connection:
        sender = asyncio.create_task(write_raw(connection.far, data))
        assert await read_raw(connection.far, len(data)) == data
        await sender
        # And once more in small pieces that the kernel may join.
        for start in range(0, len(data), 40_000):
            piece = data[start : start + 40_000]
            await write_raw(connection.far, piece)
            assert await read_raw(connection.far, len(piece)) == piece


@on_loop
async def both_directions_carry_much_at_the_same_time() -> None:
    data = payload(4 << 20)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)

    async def one() -> None:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

        async def send() -> None:
            for start in range(0, len(data), 100_000):
                writer.write(data[start : start + 100_000])
                await writer.drain()
            writer.write_eof()

        sender = asyncio.create_task(send())
        assert await reader.read() == data
        await sender
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(one() for _ in range(3)))
    server.close()
    await server.wait_closed()


@on_loop
async def a_paused_reader_gets_nothing_and_then_loses_nothing() -> None:
    data = payload(1 << 20)
    async with await accepted() as connection:
        transport, near = connection.transport, connection.near
        for _ in range(3):
            near.received.clear()
            transport.pause_reading()
            transport.pause_reading()  # a second time is nothing
            assert not transport.is_reading()
            sender = asyncio.create_task(write_raw(connection.far, data))
            await turns(20)
            await asyncio.sleep(0.01)
            assert not near.received
            transport.resume_reading()
            transport.resume_reading()
            assert transport.is_reading()
            await near.until_received(len(data))
            await sender
            assert near.received == data


@on_loop
async def pausing_inside_data_received_stops_the_next_call() -> None:
    class OneAtATime(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.paused = False

        def data_received(self, data: bytes) -> None:
            assert not self.paused, "data came while reading was paused"
            assert self.transport is not None
            self.paused = True
            self.transport.pause_reading()
            super().data_received(data)
            asyncio.get_running_loop().call_later(0.001, self.go_on)

        def go_on(self) -> None:
            assert self.transport is not None
            self.paused = False
            self.transport.resume_reading()

    data = payload(1 << 20)
    near = OneAtATime()
    async with await accepted(near) as connection:
        sender = asyncio.create_task(write_raw(connection.far, data))
        await near.until_received(len(data))
        await sender
        assert near.received == data
        await asyncio.sleep(0.005)


@on_loop
async def reading_paused_in_connection_made_waits_for_its_resumption() -> None:
    class Paused(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            cast(asyncio.Transport, transport).pause_reading()

    async with await accepted(Paused()) as connection:
        connection.far.send(b"early")
        await turns(20)
        assert not connection.near.received
        connection.transport.resume_reading()
        await connection.near.until_received(5)


@on_loop
async def the_end_of_stream_waits_behind_a_pause() -> None:
    async with await accepted() as connection:
        connection.transport.pause_reading()
        connection.far.send(b"last words")
        connection.far.close()
        await turns(20)
        await asyncio.sleep(0.01)
        assert connection.near.calls == ["connection_made"]
        connection.transport.resume_reading()
        await connection.near.until_call("connection_lost")
        assert connection.near.received == b"last words"
        assert connection.near.error is None


@on_loop
async def writelines_and_every_kind_of_buffer_arrive_in_order() -> None:
    def pieces() -> Iterator[bytes]:
        for number in range(2000):
            yield b"%d," % number

    async with await accepted() as connection:
        transport = connection.transport
        mutable = bytearray(b"mutable")
        transport.write(mutable)
        mutable[:] = b"changed"  # what was written was written
        transport.write(memoryview(b"--view--")[2:6])
        transport.write(b"")
        transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
        transport.writelines(pieces())
        transport.writelines([])
        transport.close()
        expected = b"mutable" + b"view" + b"abc" + b"".join(pieces())
        assert await read_raw(connection.far) == expected


async def a_buffer_changed_after_write_does_not_change_what_is_sent() -> None:
    async with await paired() as connection:
        first = payload(4 << 20)
        connection.transport.write(first)  # more than the kernel takes
        late = bytearray(b"late")
        connection.transport.write(late)
        late[:] = b"XXXX"
        connection.transport.close()
        assert await read_raw(connection.far) == first + b"late"


# From 3.12 on the standard transport keeps a view of what it could not send, not a copy.
if sys.version_info < (3, 12):
    on_loop(a_buffer_changed_after_write_does_not_change_what_is_sent)


@on_loop
async def writing_what_is_not_bytes_is_refused() -> None:
    async with await accepted() as connection:
        for wrong in ("text", None, 7):
            try:
                connection.transport.write(wrong)  # type: ignore[arg-type]
            except TypeError:
                continue
            raise AssertionError(f"write({wrong!r}) was accepted")


@on_loop
async def a_cancelled_read_loses_no_byte() -> None:
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=near)
    for number in range(20):
        try:
            await asyncio.wait_for(reader.readexactly(2), 0.001)
        except TimeoutError:
            pass
        else:
            raise AssertionError("read what nobody had sent")
        far.send(b"%02d" % number)
        assert await reader.readexactly(2) == b"%02d" % number
    writer.close()
    await writer.wait_closed()
    far.close()


@on_loop
async def a_cancelled_sock_recv_loses_no_byte() -> None:
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    for number in range(20):
        task = asyncio.create_task(loop.sock_recv(near, 100))
        await turns(2)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        far.send(b"%02d" % number)
        assert await loop.sock_recv(near, 100) == b"%02d" % number
    near.close()
    far.close()

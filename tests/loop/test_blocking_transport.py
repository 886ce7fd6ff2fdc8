"""What the blocking model's connections keep of their promises while threads wait in recv and send.

It knows bytes and flow control. Whose thread delivers them is for `test_io_blocking.py`.
"""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path

from ._blocking import Echo, Keep, connected, in_thread, our_threads, round_trip, run, until


def test_aborting_ends_a_sender_that_waits_for_a_stalled_peer() -> None:
    async def main() -> None:
        protocol, far = await connected(Keep)
        with far:
            protocol.transport.write(b"x" * 10_000_000)
            await until(lambda: any("send" in name for name in our_threads()))
            assert protocol.transport.get_write_buffer_size() > 0
            protocol.transport.abort()
            assert await protocol.lost is None
        await until(lambda: not [name for name in our_threads() if "send" in name or "recv" in name])

    run(main())


def test_a_slow_peer_pauses_the_protocol_and_loses_nothing() -> None:
    class Paused(Keep):
        pauses = resumes = 0

        def pause_writing(self) -> None:
            self.pauses += 1

        def resume_writing(self) -> None:
            self.resumes += 1

    data = random.Random(1).randbytes(3_000_000)

    def read_all(sock: socket.socket) -> bytes:
        parts = []
        while part := sock.recv(50_000):
            parts.append(part)
        return b"".join(parts)

    async def main() -> None:
        protocol, far = await connected(Paused)
        with far:
            for start in range(0, len(data), 100_000):
                protocol.transport.write(data[start : start + 100_000])
            protocol.transport.close()
            assert await in_thread(read_all, far) == data
            assert await protocol.lost is None
        assert protocol.pauses == protocol.resumes > 0

    run(main())


def test_pausing_and_resuming_at_random_keeps_every_byte_in_order() -> None:
    chance = random.Random(2)
    data = chance.randbytes(4_000_000)

    async def main() -> None:
        protocol, far = await connected(Keep)
        with far:
            sending = asyncio.create_task(in_thread(far.sendall, data))
            while len(protocol.received) < len(data):
                protocol.transport.pause_reading()
                have = len(protocol.received)
                await asyncio.sleep(chance.choice((0, 0, 0.0005)))
                assert len(protocol.received) == have
                protocol.transport.resume_reading()
                await asyncio.sleep(chance.choice((0, 0, 0.0005)))
            await sending
        assert protocol.received == data

    run(main())


def test_a_buffered_protocol_with_a_small_buffer_gets_everything_in_order() -> None:
    class Small(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer = bytearray(1000)
            self.received = bytearray()
            self.eof = asyncio.get_running_loop().create_future()

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.received += self.buffer[:nbytes]

        def eof_received(self) -> None:
            self.eof.set_result(None)

    data = random.Random(3).randbytes(200_000)

    async def main() -> bytearray:
        near, far = socket.socketpair()
        with far:
            _, protocol = await asyncio.get_running_loop().create_connection(Small, sock=near)
            await in_thread(far.sendall, data)
            far.shutdown(socket.SHUT_WR)
            await protocol.eof
        return protocol.received

    assert run(main()) == data


def test_datagrams_are_waited_for_in_recvfrom_and_the_thread_ends_with_the_transport() -> None:
    class Reply(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(data, addr)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Reply, local_addr=("127.0.0.1", 0))
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.settimeout(30)
            for data in (b"one", b"x" * 60_000):
                sock.sendto(data, transport.get_extra_info("sockname"))
                assert await in_thread(sock.recv, 65536) == data
        assert [name for name in our_threads() if name.startswith("underlay-recvfrom")]
        transport.close()
        await until(lambda: not [name for name in our_threads() if "recvfrom" in name])

    run(main())


def test_a_file_sent_by_sendfile_is_followed_by_ordinary_traffic(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = random.Random(4).randbytes(2_000_000)
    path.write_bytes(content)

    async def main() -> None:
        protocol, far = await connected(Echo)
        with far, path.open("rb") as file:

            def receive() -> bytes:
                parts = bytearray()
                while len(parts) < len(content):
                    parts += far.recv(100_000)
                return bytes(parts)

            receiving = asyncio.create_task(in_thread(receive))
            assert await asyncio.get_running_loop().sendfile(protocol.transport, file) == len(content)
            assert await receiving == content
            assert await in_thread(round_trip, far, b"after") == b"after"

    run(main())

"""What asyncio promises, where completions make it hard to keep: operations under way outlive the moment.

The conformance suite compares the uring loop with the standard one; here are the traps of its own: sockets that
the kernel still holds, data received before a pause, buffers that run out. These
tests know the loop's public face, and its poller where a trap must be set.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from underlay.loop import _io_uring
from underlay.loop._io_uring import BUFFER_BYTES, UringLoop
from underlay.loop._ring import Ring
from underlay.loop._uring_transport import SEND_AT_MOST_BYTES

from ._uring import Recorder, connected, in_thread, needs_io_uring, poller, read_all, run
from ._uring import enough_descriptors as enough_descriptors  # a fixture

pytestmark = [needs_io_uring, pytest.mark.usefixtures("enough_descriptors")]


# --- one call a turn ------------------------------------------------------------------------------------------


def test_an_echo_of_small_messages_makes_one_call_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    extra: list[str] = []
    submit = Ring.submit

    def counted(ring: Ring) -> None:
        extra.append("submit")
        submit(ring)

    async def main() -> None:
        protocol, peer = await connected()
        with peer:
            monkeypatch.setattr(Ring, "submit", counted)
            for number in range(100):
                message = b"%d" % number * 100
                peer.sendall(message)
                await protocol.until(len(message))
                protocol.transport.write(bytes(protocol.received))
                protocol.received.clear()
                assert await in_thread(peer.recv, 1000) == message
            assert extra == []
            protocol.transport.close()

    run(main)


def test_headers_and_body_written_in_one_turn_leave_as_one_segment() -> None:
    async def main() -> None:
        protocol, peer = await connected()
        with peer:
            protocol.transport.write(b"headers ")
            protocol.transport.write(bytearray(b"and "))
            protocol.transport.writelines([b"bo", memoryview(b"dy")])
            assert await in_thread(peer.recv, 1000) == b"headers and body"
            protocol.transport.close()

    run(main)


# --- order and completeness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_writes_of_any_size_arrive_whole_and_in_order(seed: int, family: int) -> None:
    sizes = (1, 100, SEND_AT_MOST_BYTES - 1, SEND_AT_MOST_BYTES, SEND_AT_MOST_BYTES + 1, 300_000)

    async def main() -> None:
        chance = random.Random(seed)
        protocol, peer = await connected(family)
        sent = bytearray()
        with peer, ThreadPoolExecutor() as pool:
            reading = asyncio.wrap_future(pool.submit(read_all, peer))
            for _ in range(60):
                data = chance.randbytes(chance.choice(sizes))
                sent += data
                match chance.randrange(4):
                    case 0:
                        reused = bytearray(data)
                        protocol.transport.write(reused)
                        reused[:] = bytes(len(reused))  # ours to change again
                    case 1:
                        protocol.transport.writelines([data[:10], data[10:]])
                    case 2:
                        protocol.transport.write(memoryview(data))
                    case _:
                        protocol.transport.write(data)
                if chance.random() < 0.3:
                    await asyncio.sleep(0)
            protocol.transport.write_eof()
            assert await reading == sent
        assert await protocol.lost is None
        assert protocol.transport.get_write_buffer_size() == 0

    run(main)


def test_a_send_that_the_socket_has_no_room_for_waits_and_pauses_the_protocol() -> None:
    async def main() -> None:
        protocol, peer = await connected(socket.AF_UNIX)
        sent = bytearray()
        with peer:
            while "pause" not in protocol.calls:
                message = os.urandom(10_000)
                sent += message
                protocol.transport.write(message)
                await asyncio.sleep(0)
            assert protocol.transport.get_write_buffer_size() > 65536
            received = bytearray()
            while len(received) < len(sent):
                received += await in_thread(peer.recv, 1 << 20)
            assert received == sent
            while "resume" not in protocol.calls:
                await asyncio.sleep(0)
            assert protocol.transport.get_write_buffer_size() == 0
            protocol.transport.close()
            await protocol.lost

    run(main)


def test_a_pause_loses_nothing_that_was_already_received() -> None:
    async def main() -> None:
        protocol, peer = await connected()
        sent = os.urandom(1 << 20)
        with peer, ThreadPoolExecutor() as pool:
            sending = pool.submit(peer.sendall, sent)
            while len(protocol.received) < len(sent):
                protocol.transport.pause_reading()
                so_far = len(protocol.received)
                for _ in range(3):
                    await asyncio.sleep(0)
                assert len(protocol.received) == so_far, "paused is paused"
                protocol.transport.resume_reading()
                protocol.came.clear()
                await protocol.came.wait()
            assert protocol.received == sent
            sending.result()
        await protocol.lost

    run(main)


def test_an_end_of_stream_is_not_told_while_reading_is_paused() -> None:
    async def main() -> None:
        protocol, peer = await connected()
        protocol.transport.pause_reading()
        peer.sendall(b"last words")
        peer.close()
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert protocol.calls == ["made"]
        protocol.transport.resume_reading()
        assert await protocol.lost is None
        assert protocol.calls == ["made", "data", "eof", "lost"]
        assert protocol.received == b"last words"

    run(main)


def test_a_connection_changes_to_direct_reads_for_bulk_and_keeps_the_order() -> None:
    async def main() -> None:
        protocol, peer = await connected()
        sent = os.urandom(BUFFER_BYTES * 40)
        with peer:
            await in_thread(peer.sendall, sent)
            await protocol.until(len(sent))
            assert protocol.transport._by_poll
            peer.sendall(b"small again")
            await protocol.until(len(sent) + 11)
            assert protocol.received == sent + b"small again"
        assert await protocol.lost is None

    run(main)


class Borrower(asyncio.BufferedProtocol):
    """Lends seven bytes at a time."""

    def __init__(self) -> None:
        self.memory = bytearray(7)
        self.received = bytearray()
        self.ended = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.memory

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.memory[:nbytes]

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


def test_a_buffered_protocol_may_lend_less_than_was_received() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        _, protocol = await asyncio.get_running_loop().create_connection(Borrower, sock=ours)
        sent = os.urandom(10_000)
        theirs.sendall(sent)
        theirs.close()
        assert await protocol.ended is None
        assert protocol.received == sent

    run(main)


def test_more_messages_than_buffers_all_arrive_and_more_buffers_are_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_io_uring, "_BUFFERS_AT_FIRST", 2)

    async def main() -> None:
        pairs = [await connected(socket.AF_UNIX) for _ in range(50)]
        for number, (_, peer) in enumerate(pairs):
            peer.sendall(b"%d" % number)
        for number, (protocol, peer) in enumerate(pairs):
            await protocol.until(len(b"%d" % number))
            assert protocol.received == b"%d" % number
            peer.close()
            await protocol.lost
        counts = poller().statistics()
        assert counts.buffers_lent > 2
        assert counts.out_of_buffers > 0
        assert counts.streams == 0

    run(main)


def test_more_writes_in_one_turn_than_the_ring_or_its_arena_holds_all_arrive() -> None:
    async def main() -> None:
        pairs = [await connected(socket.AF_UNIX) for _ in range(400)]
        message = os.urandom(SEND_AT_MOST_BYTES)  # 400 of them are more than the arena
        for protocol, _ in pairs:
            protocol.transport.write(message)
        await asyncio.sleep(0)
        for protocol, peer in pairs:
            with peer:
                assert peer.recv(SEND_AT_MOST_BYTES, socket.MSG_WAITALL) == message
            await protocol.lost

    run(main)


# --- the end of a connection ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["close", "abort"])
def test_the_peer_of_a_closed_idle_connection_is_told_within_two_turns(way: str) -> None:
    async def main() -> None:
        protocol, peer = await connected()
        with peer:
            getattr(protocol.transport, way)()
            assert await protocol.lost is None
            await asyncio.sleep(0)
            # On our own thread: the loop gets no further turn in which to mend anything.
            assert peer.recv(1) == b""

    run(main)


def test_a_write_followed_by_a_close_arrives_before_the_end() -> None:
    async def main() -> None:
        for size in (1, SEND_AT_MOST_BYTES, 1 << 20):
            protocol, peer = await connected()
            protocol.transport.write(bytes(size))
            protocol.transport.close()
            with peer:
                assert await in_thread(read_all, peer) == bytes(size)
            assert await protocol.lost is None
            assert protocol.calls[-1] == "lost"

    run(main)


def test_what_was_written_last_leaves_though_the_loop_stops_at_once() -> None:
    loop = UringLoop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=ours))

        async def last() -> None:
            transport.write(b"goodbye")

        loop.run_until_complete(last())
        assert theirs.recv(100) == b"goodbye"
        transport.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        assert theirs.recv(100) == b""
    loop.close()


def test_half_closed_by_the_peer_the_other_half_still_sends() -> None:
    class StaysOpen(Recorder):
        def eof_received(self) -> bool:
            super().eof_received()
            return True

    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        transport, protocol = await asyncio.get_running_loop().create_connection(StaysOpen, sock=ours)
        with theirs:
            theirs.sendall(b"question")
            theirs.shutdown(socket.SHUT_WR)
            await protocol.until(8)
            while "eof" not in protocol.calls:
                await asyncio.sleep(0)
            transport.write(b"answer")
            transport.write_eof()
            assert await in_thread(read_all, theirs) == b"answer"
            transport.close()
            assert await protocol.lost is None

    run(main)


def test_a_reset_by_the_peer_reaches_connection_lost_as_an_error() -> None:
    async def main() -> None:
        protocol, peer = await connected()
        linger = b"\1\0\0\0\0\0\0\0"
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        peer.close()
        assert isinstance(await protocol.lost, ConnectionResetError)

    run(main)


def test_a_write_to_a_peer_that_is_gone_ends_the_connection() -> None:
    async def main() -> None:
        protocol, peer = await connected(socket.AF_UNIX)
        protocol.transport.pause_reading()  # so that only the send can notice
        peer.close()
        protocol.transport.write(b"anyone?")
        assert isinstance(await protocol.lost, BrokenPipeError)

    run(main)


def test_a_killed_client_is_an_end_of_stream() -> None:
    async def main() -> None:
        made: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()

        def factory() -> Recorder:
            made.set_result(Recorder())
            return made.result()

        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        program = (
            f"import socket, time; s = socket.create_connection(('127.0.0.1', {port})); s.send(b'x'); time.sleep(99)"
        )
        client = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
        protocol = await made
        await protocol.until(1)
        client.send_signal(signal.SIGKILL)
        await protocol.lost
        assert protocol.calls == ["made", "data", "eof", "lost"]
        assert await client.wait() == -signal.SIGKILL
        server.close()
        await server.wait_closed()

    run(main)


def test_descriptors_used_again_at_once_never_get_what_was_their_predecessors() -> None:
    async def main() -> None:
        for number in range(200):
            protocol, peer = await connected(socket.AF_UNIX)
            message = b"%d" % number
            peer.sendall(message)
            if number % 3:
                await protocol.until(len(message))
            if number % 2:
                protocol.transport.abort()  # with the peer's data perhaps just received
            else:
                protocol.transport.write(message)
                protocol.transport.close()
            await protocol.lost
            assert protocol.received in (b"", message)
            peer.close()
        assert poller().streams == {}

    run(main)


# --- servers --------------------------------------------------------------------------------------------------


def test_the_port_of_a_closed_server_is_free_at_once() -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        await asyncio.sleep(0)  # the accept is with the kernel
        server.close()
        with socket.socket() as again:
            again.bind(address)
            again.listen()

    run(main)


def test_connections_accepted_just_before_the_server_closed_are_closed_too() -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Recorder, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        await asyncio.sleep(0)
        before = len(os.listdir("/proc/self/fd"))
        with socket.create_connection(address, timeout=30) as client:
            server.close()
            await asyncio.sleep(0)
            try:
                assert client.recv(1) == b""
            except ConnectionResetError:
                pass  # it was waiting in the backlog still
        assert len(os.listdir("/proc/self/fd")) == before - 1

    run(main)


# --- readiness ------------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_something_is_called_again() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        got = bytearray()
        done = loop.create_future()

        def one_byte() -> None:
            got.extend(ours.recv(1))
            if len(got) == 10:
                done.set_result(None)

        with ours, theirs:
            loop.add_reader(ours, one_byte)
            theirs.send(b"0123456789")
            await done
            loop.remove_reader(ours)
        assert got == b"0123456789"

    run(main)


def test_a_socket_closed_right_after_its_reader_was_removed_is_really_closed() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.settimeout(30)
        loop.add_reader(ours, lambda: None)
        await asyncio.sleep(0)  # the poll is with the kernel, which holds the socket
        loop.remove_reader(ours)
        ours.close()
        assert theirs.recv(1) == b""
        theirs.close()

    run(main)


def test_a_hangup_wakes_a_reader_and_a_writer_once_each_a_turn() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        calls: list[str] = []
        with ours:
            ours.setblocking(False)
            theirs.close()
            loop.add_reader(ours, calls.append, "reader")
            loop.add_writer(ours, calls.append, "writer")
            while len(calls) < 4:
                await asyncio.sleep(0)
            assert sorted(calls[:2]) == ["reader", "writer"]
            loop.remove_reader(ours)
            loop.remove_writer(ours)

    run(main)


def test_watching_a_file_or_a_closed_descriptor_is_refused_as_epoll_refuses_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with open(__file__, "rb") as file, pytest.raises(PermissionError):
            loop.add_reader(file, lambda: None)
        with pytest.raises(OSError) as caught:
            loop.add_reader(10**6, lambda: None)
        assert caught.value.errno == errno.EBADF

    run(main)

"""What asyncio promises, where completions make it hard to keep: operations under way outlive the moment.

The conformance suite compares the uring loop with the standard one; here are the traps of its own: sockets that
the kernel still holds, data received before a pause, threads and forks, buffers that run out. These
tests know the loop's public face, and its poller where a trap must be set.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from underlay.loop import _io_uring, aio
from underlay.loop._io_uring import BUFFER_BYTES, RingPoller, UringLoop
from underlay.loop._ring import Ring, probe
from underlay.loop._uring_transport import SEND_AT_MOST_BYTES, RingStreamTransport

SUPPORT = probe()
pytestmark = pytest.mark.skipif(not SUPPORT.available, reason=f"{SUPPORT.reason}; {SUPPORT.remedy}")


_T = TypeVar("_T")


def run(main: Callable[[], Awaitable[None]], *, debug: bool = False) -> None:
    async def awaited() -> None:
        await main()

    with asyncio.Runner(loop_factory=UringLoop, debug=debug) as runner:
        runner.run(awaited())


def poller() -> RingPoller:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, UringLoop)
    return loop._ring_poller


class Recorder(asyncio.Protocol):
    """Keeps what comes, and the order of calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received = bytearray()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.came = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, RingStreamTransport)
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.calls.append("data")
        self.came.set()

    def eof_received(self) -> bool | None:
        self.calls.append("eof")
        return None

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.lost.set_result(exc)

    async def until(self, nbytes: int) -> None:
        while len(self.received) < nbytes:
            self.came.clear()
            await self.came.wait()


async def connected(family: int = socket.AF_INET) -> tuple[Recorder, socket.socket]:
    """A protocol on the loop's transport and, for its peer, a plain socket that blocks."""
    if family == socket.AF_UNIX:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            theirs = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
    ours.setblocking(False)
    theirs.settimeout(30)  # a limit on a hang, no measure
    _, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=ours)
    return protocol, theirs


async def in_thread(function: Callable[..., _T], *args: object) -> _T:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def read_all(sock: socket.socket) -> bytes:
    chunks = []
    while chunk := sock.recv(1 << 20):
        chunks.append(chunk)
    return b"".join(chunks)


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


# --- threads, forks, closing ----------------------------------------------------------------------------------


def test_a_loop_may_run_in_one_thread_and_then_in_another() -> None:
    loop = UringLoop()
    protocol, theirs = loop.run_until_complete(connected(socket.AF_UNIX))
    server = loop.run_until_complete(echo_server())
    address = server.sockets[0].getsockname()

    async def echo(message: bytes) -> None:
        await protocol.until(len(message))
        protocol.transport.write(bytes(protocol.received))
        protocol.received.clear()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(message)
        assert await reader.readexactly(len(message)) == message
        writer.close()
        await writer.wait_closed()

    for number in range(8):
        message = b"%d" % number * 1000
        theirs.sendall(message)  # while no thread runs the loop
        protocol.transport.write(b"before")
        thread = threading.Thread(target=loop.run_until_complete, args=(echo(message),))
        thread.start()
        thread.join()
        assert theirs.recv(2000, socket.MSG_DONTWAIT) == b"before" + message
    assert loop.statistics().rings_made == 9
    server.close()
    protocol.transport.close()
    loop.run_until_complete(protocol.lost)
    loop.close()
    theirs.close()


def test_between_runs_what_arrives_stays_in_its_socket() -> None:
    loop = UringLoop()
    protocol, theirs = loop.run_until_complete(connected(socket.AF_UNIX))
    theirs.send(b"early")
    sock = protocol.transport.get_extra_info("socket")
    assert sock._sock.recv(100, socket.MSG_PEEK) == b"early"
    loop.run_until_complete(protocol.until(5))
    protocol.transport.close()
    loop.run_until_complete(protocol.lost)
    loop.close()
    theirs.close()


async def echo_server() -> asyncio.Server:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    return await asyncio.start_server(echo, "127.0.0.1", 0)


def wait_for_child(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_after_a_fork_parent_and_child_each_have_a_ring_of_their_own() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        protocol, peer = await connected(socket.AF_UNIX)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: of threads, which a test runner may have
            pid = os.fork()
        if pid == 0:
            # The child goes on in the same coroutine, on the same loop.
            status = 1
            try:
                asyncio._set_running_loop(loop)
                peer.sendall(b"from the child")
                await protocol.until(14)
                protocol.transport.write(b"seen")
                await asyncio.sleep(0)
                assert peer.recv(100) == b"seen"
                async with aio.open(__file__) as file:
                    assert await file.read(3) == b'"""'
                status = 0
            finally:
                os._exit(status)
        # The socket is both's, so the parent's ring stands still until the child has had its turn.
        assert wait_for_child(pid) == 0
        peer.sendall(b"from the parent")
        await protocol.until(15)
        assert protocol.received == b"from the parent"
        protocol.transport.close()
        await protocol.lost
        peer.close()

    run(main)


def test_a_child_may_close_the_loop_it_inherited_without_harm_to_the_parent() -> None:
    loop = UringLoop()
    protocol, theirs = loop.run_until_complete(connected(socket.AF_UNIX))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            loop.close()
            another = UringLoop()
            another.run_until_complete(asyncio.sleep(0))
            another.close()
            status = 0
        finally:
            os._exit(status)
    assert wait_for_child(pid) == 0
    theirs.send(b"x")
    loop.run_until_complete(protocol.until(1))
    protocol.transport.close()
    loop.run_until_complete(protocol.lost)
    loop.close()
    theirs.close()


@pytest.mark.parametrize("where", ["its own thread", "another thread"])
def test_a_loop_closed_with_everything_in_flight_leaves_nothing_behind(where: str) -> None:
    gc.collect()
    descriptors = sorted(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    loop = UringLoop()
    pipe_read, pipe_write = os.pipe()
    transports: list[RingStreamTransport] = []
    sockets: list[socket.socket] = []

    async def main() -> None:
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        sockets.extend(socket.create_connection(server.sockets[0].getsockname()) for _ in range(3))
        for _ in range(20):
            protocol, peer = await connected(socket.AF_UNIX)
            peer.sendall(b"unread")
            protocol.transport.write(b"unsent")
            transports.append(protocol.transport)
            sockets.append(peer)
        loop.add_reader(pipe_read, lambda: None)
        file = await aio.open(f"/proc/self/fd/{pipe_read}")
        reading = asyncio.ensure_future(file.read(10))
        reading.add_done_callback(lambda _: None)
        await asyncio.sleep(0)
        os.close(file.fileno())
        file._fd = -1

    loop.run_until_complete(main())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        if where == "another thread":
            closing = threading.Thread(target=loop.close)
            closing.start()
            closing.join()
        else:
            loop.close()
        os.close(pipe_read)
        os.close(pipe_write)
        for sock in sockets:
            sock.close()
        # What the program never closed its garbage does, as on any loop.
        transports.clear()
        loop._ready.clear()
        gc.collect()
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads


def test_a_process_out_of_descriptors_cannot_make_a_loop_and_is_told_why() -> None:
    program = """
import os, resource
from underlay.loop._io_uring import UringLoop
before = os.listdir("/proc/self/fd")
for spare in range(12):
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) - 1 + spare, 1000))
    try:
        UringLoop().close()
    except OSError as error:
        assert error.errno == 24, error
    else:
        break
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
    assert os.listdir("/proc/self/fd") == before
print("made with", spare > 3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout == "made with True\n"


@pytest.fixture(autouse=True)
def enough_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(4096, hard) if hard != resource.RLIM_INFINITY else 4096
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

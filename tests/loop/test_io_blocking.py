"""What is the blocking model's own: which thread runs what, and how its threads are got out of their calls.

That it behaves as any event loop does is for `tests/conformance` to show.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from underlay.loop import blocking
from underlay.loop._io_blocking import BlockingLoop

T = TypeVar("T")


def run(main: Coroutine[object, object, T], *, turns: bool = True, debug: bool = False) -> T:
    with asyncio.Runner(loop_factory=lambda: blocking(turns=turns), debug=debug) as runner:
        return runner.run(main)


def our_threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("underlay-"))


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what comes about in other threads; a condition that never does is the test's time limit."""
    while not condition():
        await asyncio.sleep(0.001)


class Echo(asyncio.Protocol):
    """Sends back what it gets, and keeps a record of what it was told and by which thread."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.received = bytearray()
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.threads.append(threading.current_thread().name)
        self.received += data
        self.transport.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


class Keep(Echo):
    """Keeps what it gets and sends nothing back."""

    def data_received(self, data: bytes) -> None:
        self.received += data


ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)


async def connected(make: Callable[[], ProtocolT]) -> tuple[ProtocolT, socket.socket]:
    """A protocol on one end of a Unix stream pair, and the other end as a blocking socket."""
    near, far = socket.socketpair()
    far.settimeout(30)
    _, protocol = await asyncio.get_running_loop().create_connection(make, sock=near)
    return protocol, far


@asynccontextmanager
async def serving(make: Callable[[], asyncio.Protocol]) -> AsyncIterator[tuple[str, int]]:
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, backlog=1024)
    address: tuple[str, int] = server.sockets[0].getsockname()
    try:
        yield address
    finally:
        server.close()


async def in_thread(function: Callable[..., T], *args: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def round_trip(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    answer = b""
    while len(answer) < len(data):
        answer += sock.recv(65536)
    return answer


# --- who runs what ------------------------------------------------------------------------------------------------


def test_each_connection_has_a_thread_and_delivers_in_it() -> None:
    async def main() -> None:
        first, far_first = await connected(Echo)
        second, far_second = await connected(Echo)
        with far_first, far_second:
            for _ in range(3):
                assert await in_thread(round_trip, far_first, b"a") == b"a"
                assert await in_thread(round_trip, far_second, b"b") == b"b"
            receivers = [name for name in our_threads() if name.startswith("underlay-recv-")]
            assert len(receivers) == 2
            # Home delivers what came while it had the baton; all else is delivered by the connection's own thread.
            assert set(first.threads) <= {receivers[0], "MainThread"}
            assert set(second.threads) <= {receivers[1], "MainThread"}
            assert len({*first.threads, *second.threads} - {"MainThread"}) == 2

    run(main())


def test_only_one_thread_at_a_time_runs_callbacks() -> None:
    inside = 0
    overlaps = 0

    class Slow(Echo):
        def data_received(self, data: bytes) -> None:
            nonlocal inside, overlaps
            inside += 1
            overlaps += inside != 1
            time.sleep(0.0005)  # lets every other thread in that would come in
            inside -= 1
            super().data_received(data)

    async def main() -> None:
        async with serving(Slow) as address:
            with socket.create_connection(address) as one, socket.create_connection(address) as two:
                for _ in range(10):
                    await asyncio.gather(in_thread(round_trip, one, b"x"), in_thread(round_trip, two, b"x"))

    run(main())
    assert overlaps == 0


def test_the_main_task_its_children_and_timers_stay_in_the_main_thread() -> None:
    seen: set[str] = set()

    def note() -> None:
        seen.add(threading.current_thread().name)

    async def child(reader: asyncio.StreamReader) -> None:
        while await reader.read(10):
            note()

    async def main() -> None:
        async with serving(Echo) as address:
            reader, writer = await asyncio.open_connection(*address)
            task = asyncio.create_task(child(reader))
            for _ in range(20):
                writer.write(b"x")
                await asyncio.sleep(0.001)
                asyncio.get_running_loop().call_later(0, note)
                note()
            writer.close()
            await task

    run(main())
    assert seen == {"MainThread"}


def test_without_turns_everything_runs_in_the_main_thread() -> None:
    async def main() -> list[str]:
        protocol, far = await connected(Echo)
        with far:
            for _ in range(5):
                await in_thread(round_trip, far, b"x")
            assert [name for name in our_threads() if "recv" in name]
        return protocol.threads

    assert set(run(main(), turns=False)) == {"MainThread"}


def test_tasks_of_handlers_share_queues_and_locks_with_the_main_task() -> None:
    async def main() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(3)
        lock = asyncio.Lock()
        total = 0

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal total
            while line := await reader.readline():
                async with lock:
                    before = total
                    await asyncio.sleep(0)
                    total = before + 1
                await queue.put(int(line))
            writer.close()

        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        def client(first: int) -> None:
            with socket.create_connection(address) as sock:
                for number in range(first, first + 25):
                    sock.sendall(b"%d\n" % number)

        clients = [asyncio.create_task(in_thread(client, first)) for first in (0, 25, 50, 75)]
        got = [await queue.get() for _ in range(100)]
        await asyncio.gather(*clients)
        server.close()
        assert total == 100
        return sorted(got)

    assert run(main()) == list(range(100))


def test_a_busy_main_task_does_not_keep_connections_from_being_served() -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def main() -> None:
        spinner = asyncio.create_task(spin())
        _, far = await connected(Echo)
        with far:
            for _ in range(5):
                assert await in_thread(round_trip, far, b"x") == b"x"
        spinner.cancel()

    run(main())


def test_a_handler_that_never_rests_does_not_keep_timers_from_running() -> None:
    async def main() -> None:
        stop = asyncio.Event()

        class Restless(Echo):
            def data_received(self, data: bytes) -> None:
                self.again()

            def again(self) -> None:
                if not stop.is_set():
                    asyncio.get_running_loop().call_soon(self.again)

        _, far = await connected(Restless)
        with far:
            far.send(b"go")
            await asyncio.sleep(0.01)
            stop.set()

    run(main())


def test_protocols_are_called_in_the_context_in_which_the_connection_was_made() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

    class Named(Echo):
        def data_received(self, data: bytes) -> None:
            self.transport.write(name.get().encode())

    async def main() -> bytes:
        name.set("maker")
        _, far = await connected(Named)
        name.set("later")
        with far:
            return await in_thread(round_trip, far, b"12345")

    assert run(main()) == b"maker"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_must_not_be_swallowed_leaves_run_forever(error: type[BaseException]) -> None:
    class Fatal(Echo):
        def data_received(self, data: bytes) -> None:
            raise error(7)

    loop = BlockingLoop()
    try:
        _, far = loop.run_until_complete(connected(Fatal))
        with far:
            far.send(b"x")
            with pytest.raises(error, match="7"):
                loop.run_forever()
            assert loop.run_until_complete(asyncio.sleep(0, "usable")) == "usable"
    finally:
        loop.close()


def test_stop_from_a_connections_thread_ends_run_forever() -> None:
    class Stopper(Echo):
        def data_received(self, data: bytes) -> None:
            asyncio.get_running_loop().stop()

    loop = BlockingLoop()
    try:
        _, far = loop.run_until_complete(connected(Stopper))
        with far:
            far.send(b"x")
            loop.run_forever()
    finally:
        loop.close()


def test_closing_the_running_loop_from_a_connections_thread_is_an_error_and_no_deadlock() -> None:
    class Closer(Echo):
        def data_received(self, data: bytes) -> None:
            try:
                asyncio.get_running_loop().close()
            except RuntimeError as exc:
                self.transport.write(str(exc).encode()[:6])

    async def main() -> bytes:
        _, far = await connected(Closer)
        with far:
            return await in_thread(round_trip, far, b"123456")

    assert run(main()) == b"Cannot"


def test_debug_mode_still_refuses_calls_from_foreign_threads() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="Non-thread-safe"):
            await in_thread(loop.call_soon, print)
        protocol, far = await connected(Echo)
        with far:
            assert await in_thread(round_trip, far, b"x") == b"x"
        assert protocol.received == b"x"

    run(main(), debug=True)


def test_news_that_come_between_two_runs_wait_for_the_next() -> None:
    loop = BlockingLoop()
    try:
        protocol, far = loop.run_until_complete(connected(Keep))
        with far:
            far.send(b"early")
            deadline = time.monotonic() + 30
            while not loop._arrivals and time.monotonic() < deadline:
                time.sleep(0.001)
            assert protocol.received == b""
            order: list[bytes] = []
            loop.call_soon(lambda: order.append(bytes(protocol.received)))
            loop.run_until_complete(until(lambda: bool(protocol.received)))
            assert order == [b""]  # what was ready went first, as on a loop that asks a selector
    finally:
        loop.close()


# --- signals -------------------------------------------------------------------------------------------------------


def test_a_signal_handler_runs_in_the_main_thread_while_connections_wait() -> None:
    async def main() -> str:
        called: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: called.set_result(threading.current_thread().name))
        _, far = await connected(Echo)
        with far:
            os.kill(os.getpid(), signal.SIGUSR1)
            name = await called
        assert loop.remove_signal_handler(signal.SIGUSR1)
        return name

    assert run(main()) == "MainThread"


def test_a_connections_thread_cannot_add_a_signal_handler() -> None:
    outcomes: list[str] = []

    class Adder(Echo):
        def data_received(self, data: bytes) -> None:
            if threading.current_thread() is not threading.main_thread():
                try:
                    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
                except RuntimeError as exc:
                    outcomes.append(str(exc))
            self.transport.write(data)

    async def main() -> None:
        _, far = await connected(Adder)
        with far:
            while not outcomes:
                await in_thread(round_trip, far, b"x")

    run(main())
    assert "set them in the main task" in outcomes[0]


@pytest.mark.parametrize("busy", [False, True])
def test_control_c_ends_a_server(busy: bool) -> None:
    program = f"""if True:
        import asyncio, os, signal, threading
        from underlay.loop._io_blocking import BlockingLoop

        async def echo(reader, writer):
            while data := await reader.read(100):
                writer.write(data)

        async def main():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x")
            await reader.read(1)
            print("ready", flush=True)
            while {busy}:
                await asyncio.sleep(0)
            await server.serve_forever()

        with asyncio.Runner(loop_factory=BlockingLoop) as runner:
            try:
                runner.run(main())
            finally:
                print([t.name for t in threading.enumerate() if t.name.startswith("underlay-accept")], flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, errors
    assert "KeyboardInterrupt" in errors


# --- getting threads out of their calls ------------------------------------------------------------------------------


def test_a_loop_closed_with_everything_in_flight_leaves_no_thread_and_no_descriptor() -> None:
    gc.collect()
    before = open_descriptors()
    loop = BlockingLoop()
    kept: list[object] = []

    async def main() -> None:
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        pipe_read, pipe_write = os.pipe()
        kept.extend((server, os.fdopen(pipe_read, "rb"), os.fdopen(pipe_write, "wb")))
        loop.add_reader(pipe_read, print)
        kept.append(await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)))
        for _ in range(3):
            protocol, far = await connected(Keep)
            kept.extend((protocol, far))
        protocol.transport.write(b"x" * 10_000_000)  # its sender waits for the far end, which never reads
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())
    kinds = {name.split("-")[1] for name in our_threads()}
    assert kinds == {"accept", "poll", "recv", "recvfrom", "send"}
    loop.close()
    assert our_threads() == []
    for thing in kept:
        if hasattr(thing, "close"):
            thing.close()
    assert open_descriptors() == before


def test_closing_a_connection_ends_its_thread() -> None:
    async def main() -> None:
        protocol, far = await connected(Keep)
        with far:
            assert [name for name in our_threads() if "recv" in name]
            protocol.transport.close()
            assert await protocol.lost is None
            assert await in_thread(far.recv, 1) == b""
        await until(lambda: not [name for name in our_threads() if "recv" in name])

    run(main())


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


def test_closing_a_server_frees_its_port_at_once() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for _ in range(20):
            server.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
            server = await loop.create_server(Echo, "127.0.0.1", port)
        server.close()

    run(main())


def test_closing_a_server_spares_a_listening_socket_that_others_share() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    others = listening.dup()  # as another process has it that inherited it

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, sock=listening)
        with socket.create_connection(others.getsockname()) as sock:
            assert await in_thread(round_trip, sock, b"x") == b"x"
        server.close()

    run(main())
    with others, socket.create_connection(others.getsockname()):
        others.accept()[0].close()


def test_a_descriptor_closed_after_remove_reader_is_let_go_at_once() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(50):
            near, far = socket.socketpair()
            with far:
                far.setblocking(False)
                loop.add_reader(near, print)
                await asyncio.sleep(0)
                loop.remove_reader(near)
                near.close()
                assert far.recv(1) == b""  # poll(2) on it would have kept the connection open

    run(main())


def test_a_watched_descriptor_calls_back_once_for_what_was_read() -> None:
    async def main() -> list[bytes]:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        got: list[bytes] = []
        with near, far:
            loop.add_reader(near, lambda: got.append(near.recv(100)))  # would block if called for nothing
            for number in range(10):
                far.send(b"%d" % number)
                await until(lambda expected=number: len(got) > expected)  # type: ignore[misc]
            loop.remove_reader(near)
        return got

    assert run(main()) == [b"%d" % number for number in range(10)]


def test_a_connection_for_which_there_is_no_thread_is_closed_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> BaseException | None:
        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        near, far = socket.socketpair()
        with far:
            monkeypatch.setattr(threading.Thread, "start", refuse)
            _, protocol = await asyncio.get_running_loop().create_connection(Keep, sock=near)
            error = await protocol.lost
            assert far.recv(1) == b""
        return error

    error = run(main())
    assert isinstance(error, BlockingIOError)  # EAGAIN, as clone(2) has it
    assert "no thread for this connection" in str(error)


def test_descriptors_exhausted_rest_the_listener_and_do_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("underlay.loop._io_blocking.ACCEPT_REST_S", 0.01)
    real_accept = socket.socket.accept
    refusals = iter(range(3))

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        if threading.current_thread().name.startswith("underlay-accept") and next(refusals, None) is not None:
            raise OSError(24, "Too many open files")
        return real_accept(self)

    reports: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context["message"]))
        monkeypatch.setattr(socket.socket, "accept", accept)
        async with serving(Echo) as address:
            with socket.create_connection(address) as sock:
                assert await in_thread(round_trip, sock, b"x") == b"x"

    run(main())
    assert reports == ["socket.accept() out of system resource"] * 3


def test_a_socket_that_somebody_made_nonblocking_is_waited_for_without_a_spin() -> None:
    async def main() -> None:
        protocol, far = await connected(Echo)
        with far:
            descriptor = protocol.transport.get_extra_info("socket").fileno()
            os.set_blocking(descriptor, False)
            for _ in range(5):
                assert await in_thread(round_trip, far, b"x") == b"x"

    run(main())


def test_a_forked_child_that_closes_the_loop_leaves_the_parents_connections_alone() -> None:
    program = """if True:
        import asyncio, os, socket, warnings
        from underlay.loop._io_blocking import BlockingLoop

        warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads

        class Echo(asyncio.Protocol):
            def connection_made(self, transport): self.transport = transport
            def data_received(self, data): self.transport.write(data)

        loop = BlockingLoop()
        near, far = socket.socketpair()
        far.setblocking(False)
        loop.run_until_complete(loop.create_connection(Echo, sock=near))
        child = os.fork()
        if child == 0:
            loop.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        far.send(b"alive")

        async def answer():
            while True:
                try:
                    return far.recv(100)
                except BlockingIOError:
                    await asyncio.sleep(0.001)

        print(loop.run_until_complete(answer()))
        loop.close()
    """
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "b'alive'\n")


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


def test_a_thousand_connections_opened_at_once_and_closed_at_random_leave_nothing() -> None:
    chance = random.Random(5)

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        made = lost = 0

        class Counted(Echo):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                nonlocal made
                made += 1
                super().connection_made(transport)

            def connection_lost(self, exc: BaseException | None) -> None:
                nonlocal lost
                lost += 1
                super().connection_lost(exc)

        def clients(address: tuple[str, int]) -> None:
            socks = [socket.create_connection(address) for _ in range(1000)]
            chance.shuffle(socks)
            for number, sock in enumerate(socks):
                if number % 3 == 0:  # reset
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                elif number % 3 == 1:
                    assert round_trip(sock, b"x" * 100) == b"x" * 100
                sock.close()

        async with serving(Counted) as address:
            await loop.run_in_executor(None, clients, address)
            await until(lambda: made == lost == 1000)
        await until(lambda: not [name for name in our_threads() if "recv" in name])
        return made, lost

    assert run(main()) == (1000, 1000)


def test_a_thread_in_its_call_is_seen_by_the_kernel_as_asleep_there() -> None:
    """`/proc/<pid>/task/<tid>/syscall` names the call: no multiplexer is among those of connections."""
    waits: dict[str, str] = {}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        _, far = await connected(Echo)
        await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        async with serving(Echo):
            with far:
                await asyncio.sleep(0.05)  # none of this waits for time; a thread on its way only makes it look again
                for thread in threading.enumerate():
                    if thread.name.startswith("underlay-"):
                        path = Path(f"/proc/self/task/{thread.native_id}/syscall")
                        waits[thread.name.split("-")[1]] = path.read_text().split()[0]

    if not Path("/proc/self/syscall").exists() or os.uname().machine != "x86_64":
        pytest.skip("needs /proc/<pid>/syscall, and the numbers of x86-64")
    run(main())
    # arch/x86/entry/syscalls/syscall_64.tbl: recvfrom 45, accept 43, accept4 288
    assert waits["recv"] == waits["recvfrom"] == "45"
    assert waits["accept"] in {"43", "288"}

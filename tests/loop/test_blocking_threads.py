"""How the blocking model's threads are got out of their calls, and that they leave nothing behind.

It knows threads and descriptors. What a connection promises is in `test_blocking_transport.py`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from underlay.loop._io_blocking import BlockingLoop

from ._blocking import Echo, Keep, connected, in_thread, open_descriptors, our_threads, round_trip, run, serving, until


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

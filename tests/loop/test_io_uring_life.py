"""A ring belongs to one thread of one process: what the uring loop does when it changes either, and how it ends.

The tests know the loop's public face, and its poller where a trap must be set.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
import warnings

import pytest

from underlay.loop import aio
from underlay.loop._io_uring import UringLoop
from underlay.loop._uring_transport import RingStreamTransport

from ._uring import connected, needs_io_uring, run
from ._uring import enough_descriptors as enough_descriptors  # a fixture

pytestmark = [needs_io_uring, pytest.mark.usefixtures("enough_descriptors")]


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

"""Far ends reach a loop on the stack through the stack, whoever calls them, and leave all other sockets alone.

Each test runs in a forked child, as `far_ends` changes `socket.socket` for its whole process.
"""

from __future__ import annotations

import asyncio
import select
import socket
import threading
from collections.abc import Callable

import pytest

from .children import Job, Report, run_jobs
from .far_ends import FarSocket, SubjectLoop
from .stack_subject import stack

LIMIT_S = 30.0


async def _serve_one(ready: asyncio.Future[int]) -> None:
    served = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()
        served.set()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    ready.set_result(server.sockets[0].getsockname()[1])
    await served.wait()
    server.close()


def _a_thread_reaches_the_loop_through_the_stack() -> None:
    loop = stack()
    assert isinstance(loop, SubjectLoop)
    ready = loop.create_future()
    answers: list[bytes] = []

    def ask(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as sock:
            assert isinstance(sock, FarSocket)
            sock.sendall(b"by the stack")
            answers.append(sock.recv(100))

    client = threading.Thread(target=lambda: ask(ready.result()))
    ready.add_done_callback(lambda _: client.start())
    loop.run_until_complete(_serve_one(ready))
    client.join()
    assert answers == [b"by the stack"]
    carried = loop.host.tcp.statistics()
    assert carried.segments_in > 6, carried  # two handshakes' worth at least
    loop.close()


def _between_two_runs_the_stack_goes_on_by_the_calls_themselves() -> None:
    loop = stack()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.settimeout(LIMIT_S)
        client.connect(listener.getsockname())
        assert select.select([listener], [], [], LIMIT_S) == ([listener], [], [])
        server, _ = listener.accept()
        with server:
            assert select.select([server], [], [], 0) == ([], [], [])
            client.sendall(b"abc")
            assert server.recv(10) == b"abc"
    loop.close()


def _far_ends_go_on_while_the_loop_waits_for_their_thread() -> None:
    loop = stack()

    async def main() -> bytes:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        told: list[bytes] = []

        def talk() -> None:
            with (
                socket.create_connection(address),
                socket.create_server(("127.0.0.1", 0)) as listener,
                socket.create_connection(listener.getsockname()) as client,
                listener.accept()[0] as accepted,
            ):
                client.sendall(b"meanwhile")
                told.append(accepted.recv(100))

        thread = threading.Thread(target=talk)
        thread.start()
        thread.join()
        server.close()
        return told[0]

    assert loop.run_until_complete(main()) == b"meanwhile"
    loop.close()


def _a_call_gives_up_when_its_time_is_over() -> None:
    loop = stack()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.01)
        with pytest.raises(TimeoutError):
            listener.accept()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    with socket.socket() as refused, pytest.raises(ConnectionRefusedError):
        refused.connect(("127.0.0.1", 9))
    loop.close()


def _sockets_of_the_loop_and_of_other_families_are_no_far_ends() -> None:
    async def main() -> None:
        with socket.socket() as near:
            assert type(near) is not FarSocket

    loop = stack()
    loop.run_until_complete(main())
    for sock in socket.socketpair():
        assert type(sock) is socket.socket
        sock.close()
    loop.close()
    with socket.socket() as after:
        assert type(after) is socket.socket


@pytest.mark.parametrize(
    "work",
    [
        _a_thread_reaches_the_loop_through_the_stack,
        _between_two_runs_the_stack_goes_on_by_the_calls_themselves,
        _far_ends_go_on_while_the_loop_waits_for_their_thread,
        _a_call_gives_up_when_its_time_is_over,
        _sockets_of_the_loop_and_of_other_families_are_no_far_ends,
    ],
    ids=lambda work: work.__name__.strip("_"),
)
def test_far_ends(work: Callable[[], None]) -> None:
    def report() -> Report:
        work()
        return Report("passed")

    [(_, outcome)] = run_jobs([Job(work.__name__, report, LIMIT_S)], parallel=1)
    assert outcome.status == "passed", outcome.explain()

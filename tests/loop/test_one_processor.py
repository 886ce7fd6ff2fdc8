"""The threads of a blocking loop keep to one processor, and nothing that they start does.

It knows affinity masks and policies. How much that saves is for benchmarks/loops.py to say.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from underlay.loop import _one_processor
from underlay.loop._io_blocking import BlockingLoop
from underlay.loop._one_processor import Processor

from ._blocking import Echo, in_thread, run, serving

AT_HOME = b"at home"
ALLOWED = os.sched_getaffinity(0)
FREE = repr((sorted(ALLOWED), os.sched_getscheduler(0)))
PRINT_MASK = "import os; print((sorted(os.sched_getaffinity(0)), os.sched_getscheduler(0)))"

needs_two = pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two processors; this process may use one only")


class Asked(Echo):
    """Calls a function at each arrival that a connection's thread delivers, and sends what it returned."""

    def __init__(self, asked: Callable[[], object]) -> None:
        super().__init__()
        self.asked = asked

    def data_received(self, data: bytes) -> None:
        # Home delivers what arrives while it is awake.
        elsewhere = threading.current_thread().name.startswith("underlay-")
        self.transport.write(repr(self.asked()).encode() if elsewhere else AT_HOME)


def ask(address: tuple[str, int], times: int) -> list[str]:
    with socket.create_connection(address, timeout=30) as client:
        answers: list[str] = []
        while len(answers) < times:
            client.sendall(b"?")
            answer = client.recv(4096)
            if answer != AT_HOME:
                answers.append(answer.decode())
        return answers


def told(asked: Callable[[], object], times: int = 1, loop: BlockingLoop | None = None) -> list[str]:
    """What `asked` returns in a connection's thread, in so many requests on one connection."""

    async def main() -> list[str]:
        async with serving(lambda: Asked(asked)) as address:
            return await in_thread(ask, address, times)

    with asyncio.Runner(loop_factory=lambda: loop or BlockingLoop()) as runner:
        return runner.run(main())


def standing() -> tuple[list[int], int]:
    """The processors that the calling thread may use, and its scheduling policy."""
    return sorted(os.sched_getaffinity(0)), os.sched_getscheduler(0)


def in_thread_of_its_own() -> tuple[list[int], int]:
    found: list[tuple[list[int], int]] = []
    thread = threading.Thread(target=lambda: found.append(standing()))
    thread.start()
    thread.join()
    return found[0]


def in_fork() -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, repr(standing()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        return answer.read()


def in_subprocess() -> str:
    return subprocess.run([sys.executable, "-c", PRINT_MASK], capture_output=True, text=True, check=True).stdout.strip()


@needs_two
def test_the_threads_of_connections_keep_to_the_one_processor_of_their_loop_and_preempt_nobody_there() -> None:
    loop = BlockingLoop()
    assert told(standing, times=5, loop=loop) == 5 * [repr(([loop._processor.number], os.SCHED_BATCH))]
    assert repr(standing()) == FREE  # home is the program's own thread


@pytest.mark.parametrize("start", [in_fork, in_subprocess], ids=["fork", "subprocess"])
def test_a_process_that_a_handler_starts_has_all_processors(start: Callable[[], str]) -> None:
    assert told(start) == [repr(FREE)]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs CPython 3.12, which tells of the start of a thread")
def test_a_thread_that_a_handler_starts_has_all_processors() -> None:
    assert told(in_thread_of_its_own) == [FREE]


@needs_two
def test_a_thread_of_the_loop_that_starts_another_gives_nothing_back() -> None:
    found: list[object] = []

    def in_a_thread_of_the_loop() -> None:
        stay = Processor().enter()
        kept = standing()
        _one_processor.start_beside(threading.Thread(target=lambda: None))
        found.append((standing() == kept, stay.away))
        in_subprocess()
        found.append((standing() == kept, stay.away))

    thread = threading.Thread(target=in_a_thread_of_the_loop)
    thread.start()
    thread.join()
    assert found == [(True, False), (False, True)]


@needs_two
def test_a_thread_that_started_something_is_on_its_processor_again_at_the_next_arrival() -> None:
    calls = iter([in_subprocess, standing, in_fork, standing])
    away, back, again_away, again_back = told(lambda: next(calls)(), times=4)
    assert away == again_away == repr(FREE)
    assert back == again_back != FREE


@pytest.mark.parametrize("kind", ["default", "threads", "spawned processes"])
def test_what_an_executor_starts_for_a_handler_has_all_processors(kind: str) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        loop = asyncio.get_running_loop()
        executor: ThreadPoolExecutor | ProcessPoolExecutor | None = None
        if kind == "threads":
            executor = ThreadPoolExecutor(1)
        elif kind != "default":
            executor = ProcessPoolExecutor(1, get_context("spawn"))
        found = await loop.run_in_executor(executor, standing)
        if executor is not None:
            executor.shutdown()
        writer.write(repr(found).encode())
        writer.close()

    async def main() -> bytes:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"?")
            answer = await reader.read()
            writer.close()
            return answer

    assert run(main()).decode() == FREE


def test_a_subprocess_of_the_loop_started_by_a_handler_has_all_processors() -> None:
    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", PRINT_MASK, stdout=subprocess.PIPE)
        writer.write((await child.communicate())[0])
        writer.close()

    async def main() -> bytes:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            answer = await reader.read()
            writer.close()
            return answer

    assert run(main()).decode().strip() == FREE


@needs_two
def test_two_loops_of_a_process_take_turns_among_the_processors() -> None:
    numbers = [Processor().number for _ in range(len(ALLOWED))]
    assert sorted(number for number in numbers if number is not None) == sorted(ALLOWED)


def test_where_there_is_one_processor_no_mask_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a mask was set")

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert told(lambda: _one_processor._here.stay.away) == ["False"]


def test_a_system_that_refuses_masks_and_policies_only_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert told(standing) == [FREE]

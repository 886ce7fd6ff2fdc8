"""Loops and threads: several at once, one moved from thread to thread, several that take turns in one.

It matters most to what belongs to a thread and not to the process: the owner of a signal, the mask that
blocks it, and the ring that only one thread may submit to.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import traceback
from collections.abc import Callable

from .robustness_cases import Facts, Leavings, case, eventually
from .robustness_crowd import EVERYWHERE, Echo, Tally, address_of
from .subjects import LoopFactory

# The blocking model starts and joins threads with each loop, and a ring is a few mappings.
ALL_FEW = dict.fromkeys(EVERYWHERE, 20)


async def exchange(rounds: int = 3) -> int:
    """A server and a client on the running loop: TCP echoes, a datagram, a timer, a call of another thread."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    server = await loop.create_server(lambda: Echo(tally), "127.0.0.1", 0)
    heard = 0
    for number in range(rounds):
        reader, writer = await asyncio.open_connection(*address_of(server))
        message = b"%d" % number * 1000
        writer.write(message)
        assert await reader.readexactly(len(message)) == message
        writer.close()
        await writer.wait_closed()
        heard += 1
    near, far = socket.socketpair()
    near.setblocking(False)
    far.send(b"raw")
    assert await loop.sock_recv(near, 10) == b"raw"
    near.close()
    far.close()
    await asyncio.sleep(0.001)
    await loop.run_in_executor(None, bool)
    server.close()
    await server.wait_closed()
    await tally.all_lost(rounds)
    return heard


def _in_threads(*works: Callable[[], None]) -> None:
    """Runs each in a thread of its own, all at once, and raises what any of them raised."""
    failures: list[str] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, "\n".join(failures)


def _blocked_signals() -> set[int]:
    return set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))


@case(sizes=ALL_FEW)
def loops_in_several_threads_at_once_do_not_hear_each_other(make: LoopFactory, size: int) -> Facts:
    heard = []

    def live() -> None:
        before = _blocked_signals()
        for _ in range(size):
            with asyncio.Runner(loop_factory=make) as runner:
                heard.append(runner.run(exchange()))
        assert _blocked_signals() == before, "signals left blocked in the thread"

    _in_threads(live, live, live)
    return {"exchanges": sum(heard)}


@case(sizes=ALL_FEW)
def a_loop_made_in_one_thread_runs_in_another_and_is_closed_in_either(make: LoopFactory, size: int) -> Facts:
    heard = []
    before = Leavings.now()
    for number in range(size):
        loop = make()

        def run(loop: asyncio.AbstractEventLoop = loop, number: int = number) -> None:
            heard.append(loop.run_until_complete(exchange()))
            if number % 2:
                loop.close()

        if number % 4 >= 2:
            heard.append(loop.run_until_complete(exchange()))
        _in_threads(run)
        if not number % 2:
            if number % 4 == 2:
                heard.append(loop.run_until_complete(exchange()))
            loop.close()
        if number % 4 == 3:
            # A mask is its own thread's: what the closing thread could not undo here, making the next loop does.
            make().close()
        left = before.left_behind()
        assert not left, f"after loop {number}: {left}"
    return {"exchanges": sum(heard)}


@case(sizes=ALL_FEW)
def a_connection_goes_on_when_its_loop_runs_in_another_thread(make: LoopFactory, size: int) -> Facts:
    loop = make()
    near, far = socket.socketpair()
    tally = Tally()
    received = bytearray()

    class Keeps(Echo):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            received.extend(data)

    loop.run_until_complete(loop.create_connection(lambda: Keeps(tally), sock=near))
    for number in range(size):
        # What comes between two runs belongs to no thread.
        far.send(b"%02d" % number)

        def run(number: int = number) -> None:
            loop.run_until_complete(eventually(lambda: len(received) == 2 * number + 2, f"message {number}"))

        if number % 2:
            _in_threads(run)
        else:
            run()
    assert bytes(received) == b"".join(b"%02d" % number for number in range(size))
    far.settimeout(30)
    assert far.recv(1000) == received
    far.close()
    loop.run_until_complete(tally.all_lost(1))
    loop.close()
    assert tally.wrong == [], tally.wrong
    return {"messages": size}


@case(sizes=ALL_FEW)
def loops_of_one_thread_that_take_turns_do_not_hear_each_other(make: LoopFactory, size: int) -> Facts:
    loops = [make() for _ in range(5)]
    heard = 0
    for _ in range(size):
        for loop in loops:
            heard += loop.run_until_complete(exchange(1))
    # The first ones closed must leave the others able to run: signals are blocked for all of them.
    while loops:
        loops.pop(0).close()
        for loop in loops:
            heard += loop.run_until_complete(exchange(1))
    return {"exchanges": heard}

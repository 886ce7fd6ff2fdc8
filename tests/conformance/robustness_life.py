"""A loop's end: closed with everything in flight, thousands in a row, ended by Ctrl-C.

After each of them the process must be as it was: `robustness_cases` compares descriptors, rings, threads,
children, and the signals that are pending or blocked; here is only what leads up to it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path

from .robustness_cases import Facts, case
from .robustness_crowd import BACKLOG, EVERYWHERE, Echo, Tally, address_of
from .robustness_peers import CHUNK, Deaf, Flood
from .robustness_threads import ALL_FEW, exchange
from .subjects import LoopFactory

# --- closed with everything in flight ------------------------------------------------------------------------------


class InFlight:
    """Everything that a loop can have under way at once, and the far ends of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        self.loop = loop
        self.size = size
        self.tally = Tally()
        self.far: list[socket.socket] = []
        self.pipes: list[int] = []
        self.child: asyncio.subprocess.Process | None = None
        self.holds: list[object] = []
        self.blocked_call = threading.Event()

    async def begin(self) -> None:
        """Starts it all and returns while it is under way."""
        loop = self.loop
        kinds = [Echo, Flood, Deaf]
        for number in range(self.size):
            near, far = socket.socketpair()
            far.setblocking(False)
            kind = kinds[number % len(kinds)]
            self.holds.append(await loop.create_connection(lambda kind=kind: kind(self.tally), sock=near))  # type: ignore[misc]
            with suppress(BlockingIOError):
                while True:
                    far.send(CHUNK)  # more than is read before the loop is closed
            self.far.append(far)
        server = await loop.create_server(lambda: Echo(self.tally), "127.0.0.1", 0, backlog=BACKLOG)
        self.holds.append(server)
        for _ in range(self.size):
            # Half of them are accepted by the end, half not.
            self.far.append(socket.create_connection(address_of(server)))
        self.holds.append(await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0)))
        self.holds.append(await asyncio.open_connection(*address_of(server)))
        reading, writing = os.pipe()
        loop.add_reader(reading, os.read, reading, 1)
        self.pipes += [reading, writing]
        near, far = socket.socketpair()
        near.setblocking(False)
        self.far += [near, far]
        loop.add_signal_handler(signal.SIGUSR1, self.holds.clear)
        loop.call_later(1000, self.holds.clear)
        self.tasks = [
            asyncio.create_task(loop.sock_recv(near, 10)),
            asyncio.create_task(asyncio.sleep(1000)),
            asyncio.create_task(loop.create_connection(asyncio.Protocol, *address_of(server))),
        ]
        self.call = loop.run_in_executor(None, self.blocked_call.wait)
        await asyncio.sleep(0)

    def end(self) -> None:
        """Closes the far ends, after the loop."""
        self.blocked_call.set()
        for sock in self.far:
            sock.close()
        for fd in self.pipes:
            os.close(fd)


# Four descriptors each: select has room for 250.
@case(sizes=EVERYWHERE, long={**dict.fromkeys(EVERYWHERE, 1000), "select": 200})
def a_loop_closed_with_everything_in_flight_leaves_nothing_behind(make: LoopFactory, size: int) -> Facts:
    # asyncio warns of each transport and task that nobody ended; this is about what they leave behind all the same.
    warnings.simplefilter("ignore")

    def once() -> None:
        loop = make()
        loop.set_exception_handler(lambda *_: None)
        flight = InFlight(loop, size)
        loop.run_until_complete(flight.begin())
        loop.close()
        assert loop.is_closed()
        flight.end()

    for _ in range(3):
        once()
        gc.collect()
    return {"connections": 3 * size}


@case(sizes=EVERYWHERE)
def a_runner_closed_with_everything_in_flight_leaves_nothing_behind(make: LoopFactory, size: int) -> Facts:
    warnings.simplefilter("ignore")
    flights = []
    for _ in range(3):
        with asyncio.Runner(loop_factory=make) as runner:
            loop = runner.get_loop()
            loop.set_exception_handler(lambda *_: None)
            flight = InFlight(loop, size)
            flights.append(flight)
            runner.run(flight.begin())
            flight.blocked_call.set()  # asyncio's own shutdown waits for its executor
        flight.end()
        assert all(task.done() for task in flight.tasks), flight.tasks
    flights.clear()
    del flight, loop
    gc.collect()
    return {"connections": 3 * size}


@case(sizes=ALL_FEW)
def children_and_their_pipes_under_way_are_gone_with_the_loop(make: LoopFactory, size: int) -> Facts:
    warnings.simplefilter("ignore")

    async def main() -> list[int]:
        children = [await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1) for _ in range(size)]
        for child in children:
            assert child.stdin is not None
            child.stdin.write(CHUNK * 16)
        await asyncio.sleep(0)
        for child in children[::2]:
            child.kill()
        return [child.pid for child in children]

    with asyncio.Runner(loop_factory=make) as runner:
        runner.get_loop().set_exception_handler(lambda *_: None)
        pids = runner.run(main())
    gc.collect()
    for pid in pids:
        # Transports kill what they lose; reaping is the child watcher's, which went with its loop.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
    return {"children": len(pids)}


# --- many, one after another ------------------------------------------------------------------------------------------

THOUSANDS = dict.fromkeys(EVERYWHERE, 1000)


def _mappings() -> int:
    return Path("/proc/self/maps").read_text().count("\n")


@case(sizes=THOUSANDS, long=dict.fromkeys(EVERYWHERE, 20_000))
def a_thousand_loops_in_sequence_leave_no_trace(make: LoopFactory, size: int) -> Facts:
    def live() -> None:
        loop = make()
        near, far = socket.socketpair()
        near.setblocking(False)
        far.send(b"x")
        assert loop.run_until_complete(loop.sock_recv(near, 1)) == b"x"
        near.close()
        far.close()
        loop.close()

    for _ in range(size // 10):
        live()
    gc.collect()
    before = _mappings()
    for _ in range(size):
        live()
    gc.collect()
    after = _mappings()
    # The allocators of Python and glibc map arenas now and then; a loop that leaks maps at least one each.
    assert after - before < size // 10, f"{before} mappings before {size} loops, {after} after"
    return {"loops": size + size // 10, "mappings": f"{before} then {after}"}


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@case(sizes=ALL_FEW)
def a_runner_ended_by_ctrl_c_leaves_nothing_behind(make: LoopFactory, size: int) -> Facts:
    cleaned_up = 0

    async def main(busy: bool) -> None:
        nonlocal cleaned_up
        loop = asyncio.get_running_loop()
        tally = Tally()
        server = await loop.create_server(lambda: Echo(tally), "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*address_of(server))
        # From another thread, as a terminal's comes: in the middle of a wait, or of busy turns.
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0 if busy else 1000)
        finally:
            timer.join()
            cleaned_up += 1
            writer.close()
            server.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            await server.wait_closed()
            await tally.all_lost(tally.made)

    for number in range(size):
        try:
            with asyncio.Runner(loop_factory=make) as runner:
                runner.run(main(busy=bool(number % 2)))
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("Ctrl-C was lost")
    assert cleaned_up == size, f"{cleaned_up} of {size} main tasks were cancelled and cleaned up"
    return {"interrupts": size}


@case(sizes=ALL_FEW)
def ctrl_c_out_of_a_wait_leaves_the_loop_usable_and_closable(make: LoopFactory, size: int) -> Facts:
    """Without a Runner the handler raises where the loop stands.

    That is its wait: were the loop busy, the callback in hand could be lost, also by the standard loop.
    """
    for _ in range(size):
        loop = make()
        near, far = socket.socketpair()
        near.setblocking(False)
        waiting, interrupted = threading.Event(), threading.Event()

        def press(waiting: threading.Event = waiting, interrupted: threading.Event = interrupted) -> None:
            waiting.wait()
            time.sleep(0.01)
            while True:
                os.kill(os.getpid(), signal.SIGINT)
                # One that comes just before the system call is noticed only after it, by any Python program.
                if interrupted.wait(5.0):
                    return

        thread = threading.Thread(target=press)
        thread.start()
        task = loop.create_task(loop.sock_recv(near, 100))
        loop.call_later(0.001, waiting.set)
        try:
            loop.run_until_complete(task)
        except KeyboardInterrupt:
            interrupted.set()
        else:
            raise AssertionError("Ctrl-C was lost")
        thread.join()
        assert not task.done()
        far.send(b"and on")
        assert loop.run_until_complete(task) == b"and on"
        near.close()
        far.close()
        assert loop.run_until_complete(exchange(1)) == 1
        loop.close()
    return {"interrupts": size}

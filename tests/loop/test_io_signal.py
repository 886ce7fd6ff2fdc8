"""Signal-driven I/O survives the kernel's traps: one test for each that the model's own file tells of.

What would kill or block a whole process is tried in a child, which must live. The tests know
fcntl(2), sigtimedwait(2) and /proc; which callbacks asyncio owes to whom is the contract's.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from underlay.errors import UnderlayError
from underlay.loop._io_signal import SignalLoop, SignalPoller
from underlay.loop._reactor import READ, WRITE
from underlay.loop._real_time_signals import free_signals

from ..conformance.contract import paired, turns
from ._reactors import FEW_TURNS, in_child, new_loop, run, turns_while_idle


@pytest.fixture
def poller() -> Iterator[SignalPoller]:
    poller = SignalPoller()
    poller.adopt_thread()
    yield poller
    poller.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


def wait_until_reaped(thread: threading.Thread) -> None:
    """A thread that was joined may still be in the kernel's list for a moment."""
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):
        pass


def settled(poller: SignalPoller) -> None:
    """Let the poller confirm that what it counts as announced at first isn't ready."""
    assert poller.wait(0) == []


def running() -> SignalLoop:
    return cast(SignalLoop, asyncio.get_running_loop())


# --- struct_siginfo has no si_fd ----------------------------------------------------------------------------


def test_a_signal_names_its_descriptor_where_python_shows_si_status(
    poller: SignalPoller, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    poller.add(near.fileno(), READ)
    far.send(b"data")
    info = signal.sigtimedwait(poller._signals, 10)
    assert info is not None
    assert (info.si_signo, info.si_status) == (poller._signo, near.fileno())
    assert info.si_band & READ


def test_of_many_descriptors_only_those_that_changed_are_told(poller: SignalPoller) -> None:
    pairs = [socket.socketpair() for _ in range(20)]
    try:
        for near, _ in pairs:
            poller.add(near.fileno(), READ)
        settled(poller)
        for _, far in pairs[3:20:5]:
            far.send(b"data")
        assert sorted(poller.wait(None)) == [(near.fileno(), READ) for near, _ in pairs[3:20:5]]
    finally:
        for ends in pairs:
            for end in ends:
                end.close()


# --- the owner is the thread ------------------------------------------------------------------------------------

# Traffic for the loop of one thread while another thread, which blocks no signal, uses the processor.
TRAFFIC = """
import asyncio, socket, threading, underlay.loop

async def echo_much():
    async def serve(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()
        await writer.wait_closed()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for _ in range(300):
            writer.write(b"x" * 100)
            assert await reader.readexactly(100)
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.01)  # the server's side too
    return "lived"

def use_the_processor():
    while not over.is_set():
        sum(range(1000))

over = threading.Event()
others = [threading.Thread(target=use_the_processor) for _ in range(2)]
for other in others:
    other.start()
"""


def test_signals_reach_the_loops_thread_and_kill_no_other() -> None:
    in_main = """
with asyncio.Runner(loop_factory=underlay.loop.signal) as runner:
    print(runner.run(echo_much()))
over.set()
"""
    assert in_child(TRAFFIC + in_main) == "lived"


def test_a_loop_made_in_one_thread_and_run_in_another_takes_its_signals_along() -> None:
    moved = """
loop = underlay.loop.signal()
near, far = socket.socketpair()
arrived = loop.create_future()
loop.add_reader(near, lambda: arrived.done() or arrived.set_result(near.recv(10)))
far.send(b"early")  # announced to the thread that made the loop

def run():
    print(loop.run_until_complete(arrived).decode())
    print(loop.run_until_complete(echo_much()))
    loop.close()

thread = threading.Thread(target=run)
thread.start()
thread.join()
over.set()
near.close()
far.close()
"""
    assert in_child(TRAFFIC + moved).split() == ["early", "lived"]


def test_a_descriptor_closed_while_watched_does_not_keep_the_loop_from_moving_to_another_thread() -> None:
    loop = new_loop("signal")
    near, far = socket.socketpair()
    with far:
        loop.add_reader(near, int)
        near.close()
        thread = threading.Thread(target=loop.run_until_complete, args=(turns(2),))
        failures: list[threading.ExceptHookArgs] = []
        previous, threading.excepthook = threading.excepthook, failures.append
        try:
            thread.start()
            thread.join()
        finally:
            threading.excepthook = previous
            loop.close()
        assert failures == []


def test_two_loops_in_two_threads_do_not_take_each_others_signals() -> None:
    both = """
results = []

def run():
    with asyncio.Runner(loop_factory=underlay.loop.signal) as runner:
        results.append(runner.run(echo_much()))

threads = [threading.Thread(target=run) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
over.set()
print(*results)
"""
    assert in_child(TRAFFIC + both).split() == ["lived", "lived"]


# --- the queue is bounded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 5])
def test_a_full_queue_is_recovered_by_asking_about_all_descriptors(limit: int) -> None:
    """SIGIO comes instead, once; everything announced by signals that were never queued is found all the same."""
    overflow = f"""
import asyncio, resource, socket, underlay.loop
resource.setrlimit(resource.RLIMIT_SIGPENDING, ({limit}, {limit}))

async def main():
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(40)]
    readers, transports = [], []
    for near, far in pairs:
        readers.append(asyncio.StreamReader())
        protocol = asyncio.StreamReaderProtocol(readers[-1])
        transports.append((await loop.create_connection(lambda: protocol, sock=near))[0])
    await asyncio.sleep(0.01)  # everything that is announced at first has been looked at
    before = loop._poller.overflows
    for round in range(3):
        for _, far in pairs:
            far.send(b"ping%d" % round)  # no turn of the loop in between: 40 signals for a queue of {limit}
        for reader in readers:
            assert await reader.readexactly(5) == b"ping%d" % round
    print(loop._poller.overflows > before)
    for _, far in pairs:
        far.close()
    for reader, transport in zip(readers, transports):
        assert await reader.read() == b""
        transport.close()
    await asyncio.sleep(0.01)
    print(type(loop._poller.edges).__name__)

with asyncio.Runner(loop_factory=underlay.loop.signal) as runner:
    runner.run(main())
"""
    assert in_child(overflow).split() == ["True", "Edges"]


def test_an_overflow_seen_by_one_loop_makes_the_threads_other_loops_ask_too() -> None:
    one, other = SignalPoller(), SignalPoller()
    near, far = socket.socketpair()
    try:
        with near, far:
            other.add(near.fileno(), READ)
            settled(other)
            signal.pthread_kill(threading.get_ident(), signal.SIGIO)  # blocked, so queued
            assert one.wait(0) == []
            assert (one.overflows, other.overflows) == (1, 1)
            assert near.fileno() in other.edges
    finally:
        one.close()
        other.close()


# --- signals stay queued -------------------------------------------------------------------------------------------


def test_a_signal_whose_data_was_read_already_is_an_eagain_that_nobody_hears_of() -> None:
    async def main() -> None:
        async with await paired() as connection:
            for letter in b"abcdefgh":
                connection.far.send(bytes([letter]))  # eight signals, and the first read takes it all
            await connection.near.until_received(8)
            assert await turns_while_idle() < FEW_TURNS
            assert connection.near.calls == ["connection_made", "data_received"]
            connection.far.send(b"more")
            await connection.near.until_received(12)

    run("signal", main())


@pytest.mark.parametrize("model", ["signal", "nonblocking", "epoll_et"])
def test_a_blocking_pipes_reader_is_called_only_when_it_would_not_block(model: str) -> None:
    async def main() -> None:
        reading, writing = os.pipe()  # blocking: a reader that is called for nothing stops the program
        asker = select.poll()
        asker.register(reading, select.POLLIN)
        calls_for_nothing = 0
        received = b""
        arrived = asyncio.Event()

        def read() -> None:
            nonlocal calls_for_nothing, received
            if not asker.poll(0):
                calls_for_nothing += 1
                return
            received += os.read(reading, 65536)
            arrived.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(reading, read)
        try:
            for expected in (b"abc", b"abcdef"):
                for letter in expected[-3:]:
                    os.write(writing, bytes([letter]))
                while received != expected:
                    arrived.clear()
                    await arrived.wait()
                await turns(20)
            os.write(writing, b"ghi")
            await turns(1)  # the write after which it is ready, and one after it was taken
            os.write(writing, b"jkl")
            while not received.endswith(b"jkl"):
                arrived.clear()
                await arrived.wait()
            await turns(20)
            assert calls_for_nothing == 0
        finally:
            loop.remove_reader(reading)
            os.close(reading)
            os.close(writing)

    run(model, main())


def test_the_end_signalled_before_its_last_data_was_read_is_not_lost() -> None:
    async def main() -> None:
        async with await paired() as connection:
            await turns(5)
            connection.far.send(b"last words")
            connection.far.shutdown(socket.SHUT_WR)
            await connection.near.until_call("connection_lost")
            assert connection.near.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]

    run("signal", main())


# --- signal numbers, masks, ends -----------------------------------------------------------------------------------


def test_each_loop_has_a_signal_of_its_own_and_gives_it_back() -> None:
    free = sorted(free_signals)
    loops = [new_loop("signal") for _ in range(3)]
    taken = [cast(SignalPoller, loop._poller)._signo for loop in loops]
    assert len(set(taken)) == 3 and sorted([*taken, *free_signals]) == free
    assert not set(taken) & signal.pthread_sigmask(signal.SIG_BLOCK, ())  # to make one is not to run it
    for loop in loops:
        loop.run_until_complete(turns(1))
    assert set(taken) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for loop in loops:
        loop.close()
    assert sorted(free_signals) == free
    assert not {*taken, signal.SIGIO} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_one_loop_too_many_is_one_sentence_with_a_remedy() -> None:
    loops = []
    try:
        with pytest.raises(UnderlayError, match=r"every real-time signal is taken .*; close loops") as refusal:
            while True:
                loops.append(new_loop("signal"))
        assert "\n" not in str(refusal.value)
        assert len(loops) >= 20
    finally:
        for loop in loops:
            loop.close()
    new_loop("signal").close()


def test_the_lowest_and_the_highest_real_time_signals_are_left_to_others() -> None:
    free = set(free_signals)
    assert not free & {signal.SIGRTMIN, signal.SIGRTMIN + 1, signal.SIGRTMIN + 2, signal.SIGRTMAX}


def test_a_closed_loop_leaves_no_signal_queued_and_no_descriptor_signalling(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    loop = new_loop("signal")
    signo = cast(SignalPoller, loop._poller)._signo
    loop.add_reader(near, int)
    far.send(b"queued")
    loop.close()
    far.send(b"after the end")
    assert not fcntl.fcntl(near, fcntl.F_GETFL) & os.O_ASYNC
    assert signo not in signal.sigpending()


def test_a_loop_closed_from_another_thread_keeps_its_number_while_its_own_thread_lives() -> None:
    made, release = threading.Event(), threading.Event()
    loops = []

    def make() -> None:
        loops.append(new_loop("signal"))
        loops[0].run_until_complete(turns(1))
        made.set()
        release.wait()

    thread = threading.Thread(target=make)
    thread.start()
    made.wait()
    signo = cast(SignalPoller, loops[0]._poller)._signo
    loops[0].close()
    try:
        assert signo not in free_signals
    finally:
        release.set()
        thread.join()
    wait_until_reaped(thread)
    new_loop("signal").close()  # whoever makes a loop next finds that the thread is gone
    assert signo in free_signals


def test_a_thread_whose_loop_another_one_closed_is_put_right_when_it_makes_its_next() -> None:
    loop = new_loop("signal")
    loop.run_until_complete(turns(1))
    signo = cast(SignalPoller, loop._poller)._signo
    thread = threading.Thread(target=loop.close)
    thread.start()
    thread.join()
    assert signo not in free_signals
    assert signo in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    new_loop("signal").close()
    assert signo in free_signals
    assert not {signo, signal.SIGIO} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_loop_whose_thread_is_gone_gives_its_number_back() -> None:
    loops = []

    def make() -> None:
        loops.append(new_loop("signal"))
        loops[0].run_until_complete(turns(1))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    wait_until_reaped(thread)
    loops[0].close()
    assert cast(SignalPoller, loops[0]._poller)._signo in free_signals


def test_a_subprocess_starts_with_the_loops_signals_blocked_and_no_others() -> None:
    """A documented trap: a blocked signal stays blocked across exec."""

    async def blocked_in_child() -> int:
        child = await asyncio.create_subprocess_exec(
            "/bin/grep", "SigBlk", "/proc/self/status", stdout=asyncio.subprocess.PIPE
        )
        output, _ = await child.communicate()
        return int(output.split()[1], 16)

    async def main() -> tuple[int, int]:
        return await blocked_in_child(), running()._poller._signo

    before = {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])}
    blocked, signo = run("signal", main())
    assert blocked == sum(1 << (number - 1) for number in before | {signo, signal.SIGIO})


def test_a_forked_child_that_closes_the_loop_does_not_silence_the_parent() -> None:
    forked = """
import os, socket, threading, asyncio, underlay.loop
loop = underlay.loop.signal()
near, far = socket.socketpair()
transport, protocol = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=near))
watched, peer = socket.socketpair()
called = loop.create_future()
loop.add_reader(watched, lambda: called.done() or called.set_result("data came"))
loop.run_until_complete(asyncio.sleep(0))
child = os.fork()
if not child:
    loop.remove_reader(watched)
    loop.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
threading.Timer(0.01, peer.send, [b"x"]).start()
print(loop.run_until_complete(called))
woken = loop.create_future()
threading.Timer(0.01, loop.call_soon_threadsafe, [woken.set_result, "woken"]).start()
print(loop.run_until_complete(woken))
transport.abort()
loop.run_until_complete(asyncio.sleep(0))
loop.remove_reader(watched)
loop.close()
for sock in (far, watched, peer):
    sock.close()
"""
    assert in_child(forked).split("\n") == ["data came", "woken"]


def test_interest_given_up_for_writing_leaves_reading_alone(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair
    poller = SignalPoller()
    try:
        poller.add(near.fileno(), READ | WRITE)
        poller.tried.add(near.fileno())
        poller.modify(near.fileno(), READ)
        assert near.fileno() in poller.tried
        poller.modify(near.fileno(), WRITE)
        assert near.fileno() not in poller.tried  # a later reader may be one that blocks
    finally:
        poller.close()

"""Contract: callbacks, timers, watched descriptors, threads, signals and contexts.

It knows what the standard loop promises about the order in which it calls. Streams,
datagrams and processes are held elsewhere.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, cast

from .contract import Recorder, accepted, on_loop, read_raw, run, scenario, turns
from .subjects import LoopFactory

Trace = list[str]


def _same_as_stock(make: LoopFactory, story: Callable[[Trace], Coroutine[Any, Any, None]]) -> None:
    expected: Trace = []
    run(asyncio.SelectorEventLoop, story(expected))
    seen: Trace = []
    run(make, story(seen))
    assert seen == expected, f"order of calls\n  here:  {seen}\n  stock: {expected}"


@scenario
def calls_and_timers_run_in_the_stock_order(make: LoopFactory) -> None:
    async def story(trace: Trace) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def soon() -> None:
            trace.append("soon")
            loop.call_soon(trace.append, "soon from soon")
            loop.call_later(0, later)

        def later() -> None:
            trace.append("later from soon")
            # Not with the others: on a busy machine 10 ms may be over before they have had their turn.
            loop.call_later(0.02, done.set_result, None)
            loop.call_later(0.01, trace.append, "at 10 ms")
            loop.call_later(0.01, trace.append, "cancelled").cancel()

        loop.call_later(0, trace.append, "at 0, first")
        loop.call_soon(soon)
        loop.call_later(0, trace.append, "at 0, second")
        loop.call_soon(trace.append, "soon, last")
        loop.call_later(-1, trace.append, "overdue")
        loop.call_later(0, trace.append, "cancelled").cancel()
        await done

    _same_as_stock(make, story)


@scenario
def io_interleaves_with_calls_and_timers_in_the_stock_order(make: LoopFactory) -> None:
    class PingPong(asyncio.Protocol):
        def __init__(self, name: str, trace: Trace, rounds: int) -> None:
            self.name, self.trace, self.rounds = name, trace, rounds
            self.lost = asyncio.get_running_loop().create_future()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)
            self.trace.append(f"{self.name} made")

        def data_received(self, data: bytes) -> None:
            loop = asyncio.get_running_loop()
            self.trace.append(f"{self.name} got {data.decode()}")
            loop.call_later(0, self.trace.append, f"{self.name} later")
            loop.call_soon(self.trace.append, f"{self.name} soon")
            self.rounds -= 1
            if self.rounds < 0:
                self.transport.close()
            else:
                self.transport.write(data)

        def eof_received(self) -> None:
            self.trace.append(f"{self.name} eof")

        def connection_lost(self, exc: BaseException | None) -> None:
            self.trace.append(f"{self.name} lost {exc}")
            self.lost.set_result(None)

    async def story(trace: Trace) -> None:
        loop = asyncio.get_running_loop()
        left_sock, right_sock = socket.socketpair()
        _, left = await loop.create_connection(lambda: PingPong("left", trace, 4), sock=left_sock)
        _, right = await loop.create_connection(lambda: PingPong("right", trace, 4), sock=right_sock)
        left.transport.write(b"ball")
        await left.lost
        await right.lost

    _same_as_stock(make, story)


@scenario
def errors_reach_the_exception_handler_as_on_the_stock_loop(make: LoopFactory) -> None:
    async def story(trace: Trace) -> None:
        loop = asyncio.get_running_loop()

        def handler(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            # Without arguments, and without the class whose method was called back.
            words = context["message"].split("(")[0].split()
            message = " ".join([*words[:-1], words[-1].split(".")[-1]])
            trace.append(f"{message}: {context.get('exception')!r}")

        def fails() -> None:
            raise ValueError("a callback's")

        loop.set_exception_handler(handler)
        loop.call_soon(fails)
        await turns(3)

        class Failing(Recorder):
            def __init__(self, where: str) -> None:
                super().__init__()
                self.where = where

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                if self.where == "data_received":
                    raise ValueError(self.where)

            def eof_received(self) -> bool:
                super().eof_received()
                if self.where == "eof_received":
                    raise ValueError(self.where)
                return False

            def connection_lost(self, exc: BaseException | None) -> None:
                super().connection_lost(exc)
                if self.where == "connection_lost":
                    raise ValueError(self.where)

        for where in ("data_received", "eof_received", "connection_lost"):
            trace.append(f"-- {where}")
            near = Failing(where)
            async with await accepted(near) as connection:
                connection.far.send(b"x")
                await near.until_call("data_received")
                connection.far.shutdown(socket.SHUT_WR)
                await near.until_call("connection_lost")
                await turns(2)
                trace.extend([*near.calls, repr(near.error)])
                trace.append(f"closing {connection.transport.is_closing()}")

    _same_as_stock(make, story)


@on_loop
async def what_data_received_schedules_runs_before_its_next_call() -> None:
    order: list[str] = []

    class Small(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            order.append("data")
            asyncio.get_running_loop().call_soon(order.append, "soon")

    near = Small()
    async with await accepted(near) as connection:
        for _ in range(30):
            connection.far.send(b"x")
            await turns(1)
        await near.until_received(30)
        await turns(2)
        assert order == ["data", "soon"] * (len(order) // 2), order


@on_loop
async def create_connection_returns_before_the_first_data() -> None:
    order: list[str] = []

    class Ordered(Recorder):
        def data_received(self, data: bytes) -> None:
            order.append("data")
            super().data_received(data)

    loop = asyncio.get_running_loop()
    near_sock, far = socket.socketpair()
    far.send(b"already here")
    transport, near = await loop.create_connection(Ordered, sock=near_sock)
    order.append("returned")
    await near.until_received(12)
    assert order == ["returned", "data"], order
    transport.close()
    await near.until_call("connection_lost")
    far.close()


@on_loop
async def protocol_callbacks_see_the_context_of_their_creator() -> None:
    where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")
    seen: dict[str, str] = {}

    class Looking(Recorder):
        def _note(self, call: str) -> None:
            seen[call] = where.get()
            super()._note(call)

    where.set("the server's creator")
    near = Looking()
    async with await accepted(near) as connection:
        where.set("someone later")
        connection.far.send(b"x")
        await near.until_received(1)
        connection.far.shutdown(socket.SHUT_WR)
        await near.until_call("eof_received")
    del seen["connection_lost"]  # scheduled by whoever closed
    assert set(seen.values()) == {"the server's creator"}, seen


@on_loop
async def a_reader_is_called_until_it_has_drained_its_descriptor() -> None:
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    got: list[bytes] = []
    done = loop.create_future()

    def one_byte() -> None:
        got.append(near.recv(1))
        if len(got) == 10:
            loop.remove_reader(near)
            done.set_result(None)

    far.send(b"0123456789")
    loop.add_reader(near, one_byte)
    await done
    assert b"".join(got) == b"0123456789"
    assert loop.remove_reader(near) is False
    near.close()
    far.close()


@on_loop
async def a_writer_is_called_while_its_descriptor_is_writable() -> None:
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    calls = 0
    done = loop.create_future()

    def ready() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            loop.remove_writer(near)
            done.set_result(None)

    loop.add_writer(near, ready)
    await done
    await turns(5)
    assert calls == 5
    near.close()
    far.close()


@on_loop
async def reader_and_writer_of_one_descriptor_come_and_go_apart() -> None:
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    writable, readable = asyncio.Event(), asyncio.Event()

    def read() -> None:
        assert near.recv(10) == b"x"
        readable.set()

    def write() -> None:
        loop.remove_writer(near)
        writable.set()

    loop.add_reader(near, read)
    for _ in range(3):
        loop.add_writer(near, write)
        await writable.wait()
        far.send(b"x")
        await readable.wait()
        writable.clear()
        readable.clear()
    loop.remove_reader(near)
    far.send(b"x")
    await turns(5)
    assert not readable.is_set(), "a reader was called after it had been removed"
    near.close()
    far.close()


@on_loop
async def a_newer_reader_replaces_the_older() -> None:
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    called = loop.create_future()
    loop.add_reader(near, called.set_exception, AssertionError("the replaced reader ran"))
    loop.add_reader(near, called.set_result, None)
    far.send(b"x")
    await called
    loop.remove_reader(near)
    near.close()
    far.close()


@on_loop
async def a_descriptor_number_used_again_is_a_new_descriptor() -> None:
    loop = asyncio.get_running_loop()
    for number in range(5):
        near, far = socket.socketpair()
        came = loop.create_future()
        loop.add_reader(near, came.set_result, number)
        far.send(b"x")
        assert await came == number
        loop.remove_reader(near)
        near.close()
        far.close()


@on_loop
async def calls_from_a_thread_wake_an_idle_loop_and_keep_their_order() -> None:
    loop = asyncio.get_running_loop()
    got: list[int] = []
    done = loop.create_future()

    def elsewhere() -> None:
        for number in range(1000):
            loop.call_soon_threadsafe(got.append, number)
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await done
    thread.join()
    assert got == list(range(1000))


@on_loop
async def an_idle_loop_wakes_for_each_single_call_from_a_thread() -> None:
    loop = asyncio.get_running_loop()
    for number in range(20):
        answered = loop.create_future()
        # The executor's thread sets the future by call_soon_threadsafe while the loop sleeps.
        thread = threading.Timer(0.002, loop.call_soon_threadsafe, [answered.set_result, number])
        thread.start()
        assert await answered == number
        thread.join()


@on_loop
async def executor_and_name_lookup_return_to_the_loop() -> None:
    loop = asyncio.get_running_loop()
    here = threading.get_ident()
    idents = await asyncio.gather(*(loop.run_in_executor(None, threading.get_ident) for _ in range(8)))
    assert here not in idents
    found = await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert any(entry[4][0] in ("127.0.0.1", "::1") for entry in found)
    assert (await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST))[0] == "127.0.0.1"


@on_loop
async def a_signal_handler_runs_in_the_loop() -> None:
    loop = asyncio.get_running_loop()
    got: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    for signum in (signal.SIGUSR1, signal.SIGUSR2):
        loop.add_signal_handler(signum, lambda signum: got.put_nowait((signum, threading.get_ident())), signum)
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        os.kill(os.getpid(), signum)
        assert await got.get() == (signum, threading.get_ident())
    # From a thread, while the loop has nothing to do but to sleep.
    kill = threading.Timer(0.01, os.kill, [os.getpid(), signal.SIGUSR2])
    kill.start()
    assert (await got.get())[0] == signal.SIGUSR2
    kill.join()
    assert loop.remove_signal_handler(signal.SIGUSR1)
    assert not loop.remove_signal_handler(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@scenario
def control_c_interrupts_an_idle_program(make: LoopFactory) -> None:
    cancelled = False

    async def main() -> None:
        nonlocal cancelled
        kill = threading.Timer(0.01, os.kill, [os.getpid(), signal.SIGINT])
        kill.start()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            kill.join()

    try:
        run(make, main())
    except KeyboardInterrupt:
        assert cancelled
    else:
        raise AssertionError("SIGINT did not end the program")


@scenario
def a_closed_loop_with_everything_in_flight_leaves_nothing(make: LoopFactory) -> None:
    loop = make()

    async def begin() -> socket.socket:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        far = socket.create_connection(server.sockets[0].getsockname())
        await loop.create_connection(Recorder, *server.sockets[0].getsockname())
        near, other = socket.socketpair()
        loop.add_reader(near, near.close)
        await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
        loop.call_later(3600, print)
        await turns(5)
        other.close()
        return far

    far = loop.run_until_complete(begin())
    loop.close()
    assert loop.is_closed()
    loop.close()  # a second time is nothing
    far.close()
    try:
        loop.call_soon(print)
    except RuntimeError:
        pass
    else:
        raise AssertionError("a closed loop took a callback")
    del loop  # its last reference, so that the collector can find what it held


@on_loop
async def a_round_trip_works_in_debug_mode() -> None:
    asyncio.get_running_loop().set_debug(True)
    async with await accepted() as connection:
        connection.far.send(b"ping")
        await connection.near.until_received(4)
        connection.transport.write(b"pong")
        assert await read_raw(connection.far, 4) == b"pong"

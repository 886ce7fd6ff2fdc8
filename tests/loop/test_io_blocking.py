"""Which thread runs what on the blocking model.

That it behaves as any event loop does is for `tests/conformance` to show.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from underlay.loop._io_blocking import BlockingLoop

from ._blocking import Echo, Keep, connected, in_thread, our_threads, round_trip, run, serving, until

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
            writer.close()

        async def main():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x")
            await reader.read(1)
            writer.close()  # since Python 3.12 a server that ends waits for its connections
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

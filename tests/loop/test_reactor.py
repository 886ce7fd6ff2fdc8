"""One turn of the reactor is one turn of the standard loop, over any poller that keeps the contract.

Most tests here put a poller of their own beneath the loop: one that invents readiness, moves a clock
instead of waiting, or refuses what a kernel would refuse. The standard loop, on the same invented
clock, is what the order of timers is held against. How bytes move is not known here.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import select
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import underlay.loop
from underlay.loop._reactor import READ, WRITE, ReactorLoop

from ..conformance.contract import turns
from ._reactors import FEW_TURNS, REACTORS, new_loop, run, running, turns_while_idle

HUP, ERR = select.POLLHUP, select.POLLERR
A_DAY_S = 24 * 3600.0


class StrictPoller:
    """A poller that refuses what a kernel would refuse, and gives what the test has put into `next_ready`."""

    def __init__(self) -> None:
        self.watched: dict[int, int] = {}
        self.next_ready: list[tuple[int, int]] = []
        self.timeouts_s: list[float | None] = []

    def add(self, fd: int, events: int) -> None:
        assert fd not in self.watched, "added twice"
        self.watched[fd] = events

    def modify(self, fd: int, events: int) -> None:
        assert fd in self.watched, "changed before it was added"
        assert events != self.watched[fd], "a call for nothing"
        self.watched[fd] = events

    def remove(self, fd: int) -> None:
        del self.watched[fd]

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        self.timeouts_s.append(timeout_s)
        ready, self.next_ready = self.next_ready, []
        return ready

    def close(self) -> None:
        self.watched.clear()


@contextmanager
def strict_loop() -> Iterator[tuple[ReactorLoop, StrictPoller]]:
    poller = StrictPoller()
    loop = ReactorLoop(poller)
    try:
        yield loop, poller
    finally:
        loop.close()


# --- who watches which descriptor ---------------------------------------------------------------------------

CHANGES = st.sampled_from(["add_reader", "add_writer", "remove_reader", "remove_writer"])


@given(st.lists(st.tuples(CHANGES, st.integers(100, 102)), max_size=40))
def test_the_poller_is_asked_for_exactly_what_is_watched_and_never_twice(changes: list[tuple[str, int]]) -> None:
    wanted: dict[int, int] = {}
    with strict_loop() as (loop, poller):
        own = dict(poller.watched)  # the loop's own pipe
        for change, fd in changes:
            bit = READ if change.endswith("reader") else WRITE
            if change.startswith("add"):
                getattr(loop, change)(fd, int)
                wanted[fd] = wanted.get(fd, 0) | bit
            else:
                assert getattr(loop, change)(fd) == bool(wanted.get(fd, 0) & bit)
                wanted[fd] = wanted.get(fd, 0) & ~bit
            assert poller.watched == own | {fd: events for fd, events in wanted.items() if events}


def test_a_replaced_callback_is_not_called_though_it_was_ready() -> None:
    called: list[str] = []
    with strict_loop() as (loop, poller):
        loop.set_exception_handler(lambda _, context: called.append(context["message"]))
        for _ in range(2):
            loop.add_reader(100, called.append, "older")
            loop.call_soon(loop.add_reader, 100, called.append, "newer")  # runs before what the poller says
            poller.next_ready = [(100, READ)]
            loop.call_soon(loop.stop)
            loop.run_forever()
        poller.next_ready = [(100, READ)]
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert called == ["newer"]


@pytest.mark.parametrize(
    ("mask", "woken"),
    [
        (READ, ["reader"]),
        (WRITE, ["writer"]),
        (READ | WRITE, ["reader", "writer"]),
        (HUP, ["reader", "writer"]),
        (ERR, ["reader", "writer"]),
        (READ | HUP, ["reader", "writer"]),
        (WRITE | ERR | HUP, ["reader", "writer"]),
    ],
)
def test_a_hang_up_or_an_error_wakes_both_sides_and_readiness_only_its_own(mask: int, woken: list[str]) -> None:
    called: list[str] = []
    with strict_loop() as (loop, poller):
        loop.add_reader(100, called.append, "reader")
        loop.add_writer(100, called.append, "writer")
        poller.next_ready = [(100, mask), (999, mask)]  # nobody watches 999
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert called == woken


@pytest.mark.parametrize("wrong", [-1, None, "stdin", object()])
def test_what_is_no_descriptor_is_refused_as_selectors_refuse_it(wrong: object) -> None:
    with selectors.SelectSelector() as reference, pytest.raises(ValueError) as expected:
        reference.register(wrong, selectors.EVENT_READ)  # type: ignore[arg-type]
    with strict_loop() as (loop, _):
        for method in (loop._add_reader, loop._add_writer):
            with pytest.raises(ValueError) as got:
                method(wrong, int)  # type: ignore[arg-type]
            assert str(got.value) == str(expected.value)


def test_a_selector_key_tells_who_is_watched_for_what() -> None:
    with strict_loop() as (loop, _):
        loop.add_writer(100, int)
        key = loop._selector.get_key(100)  # type: ignore[attr-defined]
        assert (key.fd, key.events) == (100, selectors.EVENT_WRITE)
        with pytest.raises(KeyError, match="101 is not registered"):
            loop._selector.get_key(101)  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", REACTORS)
def test_a_closed_loop_watches_nothing_and_takes_nothing(model: str) -> None:
    loop = new_loop(model)
    near, far = socket.socketpair()
    with near, far:
        loop.add_reader(near, int)
        loop.add_writer(near, int)
        loop.close()
        assert (loop._readers, loop._writers) == ({}, {})
        assert loop._remove_reader(near) is False
        assert loop._remove_writer(near) is False
        for refused in (partial(loop.add_reader, near, int), partial(loop.call_soon, int)):
            with pytest.raises(RuntimeError, match="closed"):
                refused()


@pytest.mark.parametrize("model", [*REACTORS, "blocking", "uring"])
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_connections_that_a_handler_forgot_end_once(model: str) -> None:
    """Transport and writer are garbage together once the client has ended: both would end the connection."""
    if not (row := underlay.loop.model(model)).available:
        pytest.skip(row.reason)

    async def main() -> None:
        forgotten = 0

        def forget(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal forgotten
            forgotten += 1

        server = await asyncio.start_server(forget, "127.0.0.1", 0)
        for number in range(1, 21):
            with socket.create_connection(server.sockets[0].getsockname()):
                while forgotten < number:
                    await asyncio.sleep(0.001)
        for _ in range(10):
            gc.collect()
            await asyncio.sleep(0.001)
        server.close()

    run(model, main())
    gc.collect()  # the ring's own, here rather than in another test


@pytest.mark.parametrize("model", REACTORS)
def test_a_descriptor_closed_while_watched_neither_spins_nor_stops_the_others(model: str) -> None:
    async def main() -> None:
        loop = running()
        calls_for_closed = 0

        def count() -> None:
            nonlocal calls_for_closed
            calls_for_closed += 1

        gone, gone_peer = socket.socketpair()
        kept, kept_peer = socket.socketpair()
        with gone_peer, kept, kept_peer:
            closed_fd = gone.fileno()
            loop.add_reader(closed_fd, count)
            loop.add_writer(closed_fd, int)
            arrived = loop.create_future()
            loop.add_reader(kept, lambda: arrived.set_result(kept.recv(100)))
            loop.remove_writer(closed_fd)
            gone.close()
            assert await turns_while_idle() < FEW_TURNS
            kept_peer.send(b"still here")
            assert await arrived == b"still here"
            loop.remove_reader(kept)
            assert calls_for_closed <= 1  # poll says so, once, and the callback's own call tells EBADF
            assert loop.remove_reader(closed_fd) is True

    run(model, main())


@pytest.mark.parametrize("model", REACTORS)
def test_a_file_object_closed_while_watched_can_still_be_given_up(model: str) -> None:
    loop = new_loop(model)
    try:
        near, far = socket.socketpair()
        stranger = socket.socket()
        with far:
            loop.add_reader(near, int)
            near.close()
            stranger.close()
            assert loop.remove_reader(near) is True
            for not_watched in (near, stranger):
                with pytest.raises(ValueError, match="-1"):
                    loop.remove_reader(not_watched)
            assert near not in loop._file_objects.values()  # nothing keeps it alive
    finally:
        loop.close()


@pytest.mark.parametrize("model", REACTORS)
def test_a_loop_that_cannot_be_made_leaves_no_descriptor(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pair() -> tuple[socket.socket, socket.socket]:
        raise OSError(errno.EMFILE, "Too many open files")

    new_loop(model).close()  # what is opened once and for all is open now
    before = sorted(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(socket, "socketpair", no_pair)
    with pytest.raises(OSError, match="Too many open files"):
        new_loop(model)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_poller_without_room_for_the_loops_own_pipe_leaves_no_descriptor() -> None:
    class Full(StrictPoller):
        def add(self, fd: int, events: int) -> None:
            raise OSError(errno.ENOSPC, "max_user_watches reached")

    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="max_user_watches"):
        ReactorLoop(Full())
    assert sorted(os.listdir("/proc/self/fd")) == before


# --- servers ----------------------------------------------------------------------------------------------------


class Queue:
    """A listening socket's queue, as accept(2) gives it: connections, errors, and EAGAIN for ever after."""

    def __init__(self, *waiting: socket.socket | OSError) -> None:
        self.waiting = list(waiting)

    def accept(self) -> tuple[socket.socket, object]:
        first = self.waiting.pop(0) if self.waiting else BlockingIOError()
        if isinstance(first, OSError):
            raise first
        return first, ("192.0.2.1", 7)


def test_a_connection_that_was_aborted_keeps_nobody_behind_it_waiting() -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        with near, far:
            queue = cast(socket.socket, Queue(ConnectionAbortedError(), near))
            made = asyncio.get_running_loop().create_future()

            class Made(asyncio.Protocol):
                def connection_made(self, transport: asyncio.BaseTransport) -> None:
                    transport.close()
                    made.set_result(transport.get_extra_info("peername"))

            running()._accept_connection(Made, queue)
            assert await made == ("192.0.2.1", 7)
            await turns(2)

    run("epoll", main())


def test_as_many_are_accepted_at_once_as_linux_lets_wait() -> None:
    async def main() -> None:
        pairs = [socket.socketpair() for _ in range(4)]
        queue = Queue(*(near for near, _ in pairs))
        running()._accept_connection(Closing, cast(socket.socket, queue), backlog=2)
        assert queue.waiting == [pairs[3][0]]  # of a backlog of 2 there are 3
        await turns(5)
        for near, far in pairs:
            near.close()
            far.close()

    class Closing(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

    run("epoll", main())


# --- timers, against the standard loop on the same invented clock ---------------------------------------------

Timer = tuple[int, bool, int | None, list["Timer"]]  # delay in ms, cancelled at once?, cancels which later?, its own

# Delays collide often, since the order among equals is what a heap gets wrong first.
TIMERS: st.SearchStrategy[list[Timer]] = st.recursive(
    st.just([]),
    lambda nested: st.lists(
        st.tuples(st.integers(0, 8), st.booleans(), st.none() | st.integers(0, 30), nested), max_size=8
    ),
    max_leaves=30,
)
# More than a hundred timers, over half of them cancelled: asyncio then rebuilds its heap.
MANY: list[Timer] = [(n % 7, n % 3 != 0, None, [(1, False, None, [])]) for n in range(400)]


def _play(loop: asyncio.BaseEventLoop, plan: list[Timer], now_s: Callable[[], float]) -> list[tuple[int, float]]:
    """Run the plan to its end; give which timer was called at what time."""
    called: list[tuple[int, float]] = []
    made: list[asyncio.TimerHandle] = []

    def schedule(timers: list[Timer]) -> None:
        for delay_ms, cancelled, victim, nested in timers:
            number = len(made)
            made.append(loop.call_later(delay_ms / 1000, fire, number, victim, nested))
            if cancelled:
                made[-1].cancel()

    def fire(number: int, victim: int | None, nested: list[Timer]) -> None:
        called.append((number, now_s()))
        if victim is not None and victim < len(made):
            made[victim].cancel()
        schedule(nested)

    schedule(plan)
    loop.call_later(1.0, loop.stop)
    loop.run_forever()
    return called


class _VirtualPoller(StrictPoller):
    """Waits by moving its clock."""

    now_s = 0.0

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        assert timeout_s is not None, "nothing would ever wake this loop"
        self.timeouts_s.append(timeout_s)
        self.now_s += timeout_s
        return []


class _VirtualSelector(selectors.SelectSelector):
    """The same for the standard loop."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = _VirtualPoller()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.clock.wait(timeout)
        return []


@given(TIMERS)
@example(MANY)
@settings(max_examples=150)
def test_timers_come_in_the_stock_order_after_the_stock_waits(plan: list[Timer]) -> None:
    selector, poller = _VirtualSelector(), _VirtualPoller()
    stock, ours = asyncio.SelectorEventLoop(selector), ReactorLoop(poller)
    try:
        stock.time = lambda: selector.clock.now_s  # type: ignore[method-assign]
        ours.time = lambda: poller.now_s  # type: ignore[method-assign]
        expected = _play(stock, plan, stock.time)
        assert _play(ours, plan, ours.time) == expected
        assert poller.timeouts_s == selector.clock.timeouts_s
        assert len(ours._scheduled) == len(stock._scheduled)  # type: ignore[attr-defined]
    finally:
        stock.close()
        ours.close()


def test_most_timers_cancelled_are_dropped_before_they_are_due() -> None:
    with strict_loop() as (loop, _):
        handles = [loop.call_later(1000, int) for _ in range(200)]
        for handle in handles[:150]:
            handle.cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert len(loop._scheduled) == 50
        assert loop._timer_cancelled_count == 0
        assert not any(handle._scheduled for handle in handles[:150])  # type: ignore[attr-defined]


def test_no_wait_is_longer_than_a_day() -> None:
    with strict_loop() as (loop, poller):
        loop.call_later(10 * A_DAY_S, int)
        loop.add_reader(100, loop.stop)
        poller.next_ready = [(100, READ)]
        loop.run_forever()
    assert poller.timeouts_s == [A_DAY_S]


# --- callbacks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_the_loop_and_what_was_queued_behind_it_stays(leaving: type[BaseException]) -> None:
    called: list[str] = []

    def leave() -> None:
        raise leaving

    with strict_loop() as (loop, _):
        loop.call_soon(leave)
        loop.call_soon(called.append, "behind")
        with pytest.raises(leaving):
            loop.run_forever()
        assert called == []
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert called == ["behind"]


def test_debug_mode_names_the_task_whose_step_was_slow(caplog: pytest.LogCaptureFixture) -> None:
    async def slow() -> None:
        await asyncio.sleep(0)

    with strict_loop() as (loop, _), caplog.at_level(logging.WARNING, "asyncio"):
        loop.set_debug(True)
        loop.slow_callback_duration = 0.0  # everything is slow
        loop.call_soon(int)
        loop.run_until_complete(asyncio.Task(slow(), loop=loop, name="the slow one"))
    texts = [record.getMessage() for record in caplog.records]
    assert any("Executing <Task" in text and "the slow one" in text for text in texts)
    assert any("Executing <Handle int()" in text for text in texts)


def test_debug_mode_refuses_calls_from_another_thread_and_what_cannot_be_called() -> None:
    complaints: list[str] = []

    def call() -> None:
        with suppress(RuntimeError):
            loop.call_soon(int)
            complaints.append("taken")

    with strict_loop() as (loop, _):
        loop.set_debug(True)
        thread = threading.Thread(target=call)
        loop.call_soon(thread.start)
        loop.call_soon(thread.join)
        loop.call_soon(loop.stop)
        loop.run_forever()
        with pytest.raises(TypeError, match="a callable object was expected"):
            loop.call_soon("not a function")  # type: ignore[arg-type]
    assert complaints == []


def test_a_queued_call_is_a_handle_like_the_stock_loops_in_every_slot() -> None:
    stock, ours = asyncio.SelectorEventLoop(), ReactorLoop(StrictPoller())
    context = copy_context()
    try:
        expected, handle = (loop.call_soon(print, 1, context=context) for loop in (stock, ours))
        assert type(handle) is type(expected)
        # A slot left empty would raise here.
        slots = [name for name in asyncio.Handle.__slots__ if name not in ("__weakref__", "_loop")]
        assert [getattr(handle, name) for name in slots] == [getattr(expected, name) for name in slots]
        assert getattr(handle, "_loop") is ours  # noqa: B009  (typeshed doesn't know it)
        assert repr(handle) == repr(expected)
        assert getattr(ours.call_soon(print), "_context") is not context  # noqa: B009
    finally:
        stock.close()
        ours.close()

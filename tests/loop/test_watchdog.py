"""The watchdog tells which call held a loop, whatever the loop is made of, and gives everything back.

Nothing here depends on the machine's speed: a call that lasts twenty thresholds is reported however late it is
noticed, and where nothing may be reported the threshold is one that nothing exceeds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from underlay.errors import UnderlayError, UsageError
from underlay.loop import Block, watchdog
from underlay.loop._real_time_signals import free_signals
from underlay.loop._watch_sampler import ROOM_BYTES, Sampler
from underlay.loop._watchdog import BLOCKED

from . import _watched
from ._watched import BLOCK_S, LOOPS, NEVER_S, THRESHOLD_S, LoopFactory, held

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a watchdog needs Linux's timers")


@pytest.fixture(params=LOOPS, ids=str)
def factory(request: pytest.FixtureRequest) -> LoopFactory:
    return LOOPS[request.param]


@pytest.fixture(autouse=True)
def everything_is_given_back() -> Iterator[None]:
    before = held()
    yield
    assert held() == before


def blocks_of(factory: LoopFactory, call: Callable[[], object], threshold_s: float = THRESHOLD_S) -> list[Block]:
    """What a watchdog reports of a call in a task."""
    blocks: list[Block] = []

    async def main() -> None:
        with watchdog(threshold_s, report=blocks.append):
            await asyncio.sleep(0.001)
            call()
            await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    return blocks


def of(blocks: list[Block], function: str) -> Block:
    """The one block of this function; a loaded machine may show others."""
    found = [block for block in blocks if block.at.function == function]
    assert len(found) == 1, [str(block) for block in blocks]
    return found[0]


@pytest.mark.parametrize("call", ["sleeps", "sleeps_with_the_lock", "computes", "loops_in_python"])
def test_a_call_that_holds_a_loop_is_reported_with_its_line_in_any_loop(factory: LoopFactory, call: str) -> None:
    block = of(blocks_of(factory, getattr(_watched, call)), call)
    assert block.at.file == _watched.__file__
    assert block.stack[-1].function == "main" and block.stack[-1].file == __file__
    assert block.held_s > THRESHOLD_S == block.threshold_s


def test_the_stack_is_that_of_the_call_while_it_blocks(factory: LoopFactory) -> None:
    block = of(blocks_of(factory, _watched.sleeps), "sleeps")
    assert block.stack[0].source == "time.sleep(BLOCK_S)"
    assert [frame.function for frame in block.stack] == ["sleeps", "main"]


def test_a_call_that_lasts_no_threshold_is_not_reported(factory: LoopFactory) -> None:
    assert blocks_of(factory, lambda: time.sleep(0.001), NEVER_S) == []


def test_a_call_in_a_callback_is_reported_with_the_function_that_blocks(factory: LoopFactory) -> None:
    blocks: list[Block] = []

    async def main() -> None:
        with watchdog(THRESHOLD_S, report=blocks.append):
            asyncio.get_running_loop().call_soon(_watched.sleeps)
            await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert [frame.function for frame in of(blocks, "sleeps").stack] == ["sleeps"]


def test_a_block_in_what_a_connection_receives_is_reported(factory: LoopFactory) -> None:
    blocks: list[Block] = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            _watched.sleeps()
            self.transport.close()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Server, "127.0.0.1", 0)
        with watchdog(THRESHOLD_S, report=blocks.append):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x")
            await reader.read()
            writer.close()
        server.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert "data_received" in [frame.function for frame in of(blocks, "sleeps").stack]


def test_a_loop_that_only_waits_when_the_alarm_goes_off_is_not_blamed(factory: LoopFactory) -> None:
    async def main() -> None:
        with watchdog(NEVER_S, report=lambda block: pytest.fail(str(block))) as dog:
            sampler, ident = dog._sampler, threading.get_ident()
            assert sampler is not None
            done, left = asyncio.Event(), threading.Event()

            def ring(loop: asyncio.AbstractEventLoop) -> None:
                # Nothing wakes the loop until we do: once it has left the task it waits, or is about to. (To walk over
                # the frames of a thread that runs may crash CPython 3.11.)
                left.wait()
                time.sleep(0.05)
                signal.pthread_kill(ident, sampler._signo)
                loop.call_soon_threadsafe(done.set)

            thread = threading.Thread(target=ring, args=(asyncio.get_running_loop(),))
            thread.start()
            asyncio.get_running_loop().call_soon(left.set)
            await done.wait()
            thread.join()
            # In a beat's place: what a beat that is too late does.
            dog._tell(sampler, NEVER_S)
            assert (dog.statistics().count, dog.statistics().unplaced) == (0, 1)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_a_blocking_call_deep_in_a_library_is_reported_with_the_programs_own_line() -> None:
    def call() -> None:
        class Slow(json.JSONEncoder):
            def default(self, value: object) -> object:
                _watched.sleeps()
                return None

        json.dumps([[object()]], cls=Slow)

    assert of(blocks_of(asyncio.SelectorEventLoop, call), "sleeps").stack[1].function == "default"
    block = next(iter(blocks_of(asyncio.SelectorEventLoop, lambda: threading.Event().wait(BLOCK_S))))
    assert block.stack[0].file == threading.__file__
    assert block.at.file == __file__ and block.at != block.stack[0]
    assert f"(at {threading.__file__}:" in block.summary


def test_a_stack_of_more_frames_than_are_written_down_is_reported_with_its_inner_ones(factory: LoopFactory) -> None:
    def dive(depth: int) -> None:
        if depth:
            dive(depth - 1)
        else:
            _watched.sleeps()

    block = of(blocks_of(factory, lambda: dive(200)), "sleeps")
    assert block.stack[1].function == "dive" and len(block.stack) == 100


def test_a_program_that_blocks_and_stops_the_watchdog_is_told_of_it(factory: LoopFactory) -> None:
    blocks: list[Block] = []

    async def main() -> None:
        with watchdog(THRESHOLD_S, report=blocks.append):
            await asyncio.sleep(0.001)
            _watched.sleeps()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    of(blocks, "sleeps")


def test_loops_in_threads_are_told_apart() -> None:
    # None that keeps the interpreter lock: who waits for that is held by it, wherever he is.
    found: dict[str, list[Block]] = {"sleeps": [], "loops_in_python": []}
    together = threading.Barrier(len(found))

    def thread(call: str) -> None:
        together.wait()
        found[call] = blocks_of(asyncio.SelectorEventLoop, getattr(_watched, call))

    threads = [threading.Thread(target=thread, args=(call,), name=f"of {call}") for call in found]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for call, blocks in found.items():
        block = of(blocks, call)
        assert block.thread == f"of {call}" and f"of thread of {call} was held" in block.summary
        assert not {b.at.function for b in blocks} & (found.keys() - {call})


def test_threads_that_begin_to_block_together_do_not_lose_each_others_samples() -> None:
    # faulthandler writes one stack at a time in a process, and drops what is asked for meanwhile. Deep stacks take
    # long, so all but one or two of these threads lose their first sample; the next ones must not meet again.
    count, rounds, step_s = 4, 6, 2 * THRESHOLD_S
    samples: dict[int, list[int]] = {}
    together = threading.Barrier(count)

    def deep(frames: int, call: Callable[[], None]) -> None:
        if frames:
            deep(frames - 1, call)
        else:
            call()

    def thread(number: int) -> None:
        sampler = Sampler()
        sampler.adopt_thread()
        alarm = sampler.specification(step_s, step_s)

        def blocks() -> None:
            together.wait()
            sampler.arm(alarm)
            time.sleep(8 * step_s)
            sampler.disarm()

        try:
            samples[number] = []
            for _ in range(rounds):
                deep(80, blocks)
                samples[number].append(len(sampler.take()))
        finally:
            sampler.close()

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert all(min(each) for each in samples.values()), samples


def test_a_loop_that_is_run_within_a_callback_of_another_holds_that_one() -> None:
    blocks: list[Block] = []
    inner_blocks: list[Block] = []

    def runs_another() -> None:
        async def inner() -> None:
            with watchdog(NEVER_S, report=inner_blocks.append):
                await asyncio.sleep(BLOCK_S)

        asyncio._set_running_loop(None)
        with asyncio.Runner() as runner:
            runner.run(inner())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        # Of the loop itself, not of a task: from CPython 3.14 on a thread has one current task, whatever its loops.
        def callback() -> None:
            try:
                runs_another()
            finally:
                asyncio._set_running_loop(loop)
                done.set_result(None)

        with watchdog(THRESHOLD_S, report=blocks.append):
            await asyncio.sleep(0.001)
            loop.call_soon(callback)
            await done
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert of(blocks, "runs_another").stack[0].file != __file__ and inner_blocks == []


def test_a_thread_that_blocks_all_signals_is_watched_too_and_blocks_them_again() -> None:
    blocks: list[Block] = []
    masks = []

    def thread() -> None:
        everything = signal.valid_signals() - {signal.SIGSEGV, signal.SIGFPE}
        signal.pthread_sigmask(signal.SIG_SETMASK, everything)
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        blocks.extend(blocks_of(asyncio.SelectorEventLoop, _watched.sleeps))
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))

    beside = threading.Thread(target=thread)
    beside.start()
    beside.join()
    assert of(blocks, "sleeps").at.file == _watched.__file__ and masks[0] == masks[1]


def test_a_loop_can_be_watched_from_another_thread(factory: LoopFactory) -> None:
    blocks: list[Block] = []
    loop = factory()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def turn() -> None:
        await asyncio.sleep(0)

    dog = watchdog(THRESHOLD_S, loop=loop, report=blocks.append)
    dog.start()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(2 * THRESHOLD_S), loop).result()
    loop.call_soon_threadsafe(_watched.sleeps)
    while not any(block.at.function == "sleeps" for block in blocks):
        asyncio.run_coroutine_threadsafe(turn(), loop).result()
    dog.stop()
    asyncio.run_coroutine_threadsafe(turn(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    of(blocks, "sleeps")


def test_counts_and_totals_are_kept_by_line() -> None:
    async def main() -> None:
        with watchdog(THRESHOLD_S, report=lambda block: None) as dog:
            for _ in range(3):
                await asyncio.sleep(0.001)
                _watched.sleeps()
            await asyncio.sleep(0.001)
            seen = dog.statistics()
        place = next(place for place in seen.places if place.at.function == "sleeps")
        assert place.count == 3
        assert place.total_s >= place.longest_s > THRESHOLD_S
        assert seen.count == sum(place.count for place in seen.places)
        assert seen.total_s == pytest.approx(sum(place.total_s for place in seen.places))

    asyncio.run(main())


def test_a_block_of_two_calls_is_told_with_the_one_that_took_the_most() -> None:
    def holds() -> None:
        _watched.sleeps()
        time.sleep(3 * BLOCK_S)

    block = of(blocks_of(asyncio.SelectorEventLoop, holds), "holds")
    assert block.stack[0].source == "time.sleep(3 * BLOCK_S)"


def test_the_default_report_is_a_warning_with_the_stack_once_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with watchdog(THRESHOLD_S):
            for _ in range(2):
                await asyncio.sleep(0.001)
                _watched.sleeps()

    with caplog.at_level(logging.WARNING, "underlay.watchdog"):
        asyncio.run(main())
    first, second = [record.getMessage() for record in caplog.records if " in sleeps" in record.getMessage()]
    lines = first.splitlines()
    assert lines[0].startswith("the event loop was held for ") and lines[0].endswith("in sleeps")
    assert lines[1].endswith(" in sleeps: time.sleep(BLOCK_S)")
    assert lines[2].endswith(" in main: _watched.sleeps()") and len(lines) == 3
    assert second.endswith(" in sleeps, for the 2nd time")


def test_a_probe_tells_of_a_block() -> None:
    heard: list[Block] = []
    with BLOCKED.listening(heard.append):
        blocks = blocks_of(asyncio.SelectorEventLoop, _watched.sleeps)
    assert heard == blocks != []


def test_a_report_that_fails_is_the_loops_to_tell_and_the_watch_goes_on() -> None:
    told: list[dict[str, object]] = []

    def fail(block: Block) -> None:
        raise LookupError("no report today")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        with watchdog(THRESHOLD_S, report=fail) as dog:
            for _ in range(2):
                await asyncio.sleep(0.001)
                _watched.sleeps()
                await asyncio.sleep(0.001)
        assert dog.statistics().count >= 2

    asyncio.run(main())
    assert len(told) >= 2 and isinstance(told[0]["exception"], LookupError)


def test_a_long_block_takes_no_more_memory_than_it_was_given() -> None:
    def dive(depth: int) -> None:
        if depth:
            dive(depth - 1)
        else:
            time.sleep(BLOCK_S)

    async def main() -> None:
        with watchdog(0.001, report=lambda block: None) as dog:
            await asyncio.sleep(0.002)
            assert dog._sampler is not None
            fd = dog._sampler._fd
            dive(90)
            assert os.fstat(fd).st_size == ROOM_BYTES >= os.fstat(fd).st_blocks * 512
            await asyncio.sleep(0.002)
        assert "dive" in [place.at.function for place in dog.statistics().places]

    asyncio.run(main())


def test_each_watched_loop_takes_one_signal_and_the_one_too_many_is_refused() -> None:
    async def main() -> None:
        dogs = []
        try:
            with pytest.raises(UnderlayError, match="no real-time signal is free"):
                while True:
                    dog = watchdog(NEVER_S)
                    dog.start()
                    dogs.append(dog)
        finally:
            for dog in dogs:
                dog.stop()
        assert len(dogs) >= len(free_signals) - 3

    asyncio.run(main())


def test_a_signal_that_somebody_handles_or_waits_for_is_left_alone() -> None:
    taken = free_signals[:2]
    before = signal.signal(taken[0], lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [taken[1]])
    try:

        async def main() -> int:
            with watchdog(NEVER_S) as dog:
                assert dog._sampler is not None
                return dog._sampler._signo

        assert asyncio.run(main()) not in taken
    finally:
        signal.signal(taken[0], before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [taken[1]])


def test_without_a_running_loop_or_with_a_senseless_threshold_it_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="no event loop is running here"):
        watchdog()
    loop = asyncio.new_event_loop()
    for threshold_s in (0, -1, 0.0001, float("nan"), float("inf"), 1e300, 10**400):
        with pytest.raises(UsageError, match=r"the threshold is from 0\.001 to 86400 s"):
            watchdog(threshold_s, loop=loop)
    loop.close()


def test_a_closed_loop_cannot_be_watched_and_nothing_stays() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        watchdog(loop=loop).start()


def test_a_watchdog_that_watches_is_not_started_again() -> None:
    async def main() -> None:
        with watchdog(NEVER_S) as dog, pytest.raises(UsageError, match="watching already"):
            dog.start()
        dog.stop()

    asyncio.run(main())


def test_a_forked_child_is_not_watched_and_the_parent_still_is() -> None:
    async def main() -> list[Block]:
        blocks: list[Block] = []
        with watchdog(THRESHOLD_S, report=blocks.append):
            await asyncio.sleep(0.001)
            pid = os.fork()
            if not pid:
                # Nothing here may run asyncio's or pytest's own endings.
                kept = [link for link in _watched._links() if "underlay-watchdog" in link]
                os._exit(len(kept))
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            _watched.sleeps()
            await asyncio.sleep(0.001)
        return blocks

    assert any(block.at.function == "sleeps" for block in asyncio.run(main()))


def test_a_spawned_process_can_watch_its_own_loop() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_watch_in_a_process) == "sleeps"


def _watch_in_a_process() -> str:
    return of(blocks_of(asyncio.SelectorEventLoop, _watched.sleeps), "sleeps").at.function

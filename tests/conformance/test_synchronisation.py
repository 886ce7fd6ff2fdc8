"""What all synchronisation between processes promises: it excludes, it wakes, and it outlives anybody's death.

It knows promises. What the other processes do is in `synchronisation_work.py`.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tests.conformance.channel_subjects import PATIENCE_S, START_METHODS, process
from tests.conformance.synchronisation_work import (
    Counter,
    come_until_killed,
    count_with_condition,
    count_with_mutex,
    count_with_semaphore,
    count_with_writing,
    die_holding,
    die_writing,
    meet,
    read_until_killed,
    use_for_ever,
    use_once,
    wait_and_set,
    wait_until_killed,
)

from underlay import ipc
from underlay.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

Thing = ipc.Mutex | ipc.Semaphore | ipc.Event | ipc.Condition | ipc.Barrier | ipc.ReadWriteLock
MAKERS: dict[str, Callable[[], Thing]] = {
    "mutex": ipc.Mutex,
    "semaphore": ipc.Semaphore,
    "event": ipc.Event,
    "condition": ipc.Condition,
    "barrier": lambda: ipc.Barrier(2),
    "read-write-lock": ipc.ReadWriteLock,
}


@pytest.fixture(params=MAKERS)
def thing(request: pytest.FixtureRequest) -> Iterator[Thing]:
    made = MAKERS[request.param]()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    resource_tracker.ensure_running()  # multiprocessing's own, which stays
    descriptors, threads = _descriptors(), threading.active_count()
    yield
    assert _descriptors() == descriptors
    assert threading.active_count() == threads


@pytest.fixture
def ready(nothing_is_left: None) -> Iterator[ipc.Event]:
    event = ipc.Event()
    yield event
    event.close()


@pytest.fixture
def numbers(tmp_path: Path) -> str:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(64))
    return str(path)


def _descriptors() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


def _value(path: str, number: int = 0) -> int:
    counter = Counter(path)
    try:
        return counter[number]
    finally:
        counter.close()


def kill(other: BaseProcess) -> None:
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    other.join()


# --- several processes at once ---


@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize(
    ("make", "work"),
    [
        (ipc.Mutex, count_with_mutex),
        (ipc.Semaphore, count_with_semaphore),
        (ipc.ReadWriteLock, count_with_writing),
    ],
    ids=["mutex", "semaphore", "read-write-lock"],
)
def test_what_several_processes_count_comes_out_right(
    make: Callable[[], Thing], work: Callable[..., None], method: str, numbers: str
) -> None:
    lock = make()
    with process(method, work, lock, numbers, 200), process(method, work, lock, numbers, 200):
        work(lock, numbers, 200)
    lock.close()
    assert _value(numbers) == 600


@pytest.mark.parametrize("method", START_METHODS)
def test_a_notice_reaches_who_waits_in_another_process(method: str, numbers: str) -> None:
    condition, counter = ipc.Condition(), Counter(numbers)
    with process(method, count_with_condition, condition, numbers, 50) as other:
        for _ in range(50):
            with condition:
                assert condition.wait_for(lambda: counter[0] % 2 == 0, timeout_s=PATIENCE_S)
                counter.add()
                condition.notify_all()
        other.join(PATIENCE_S)
        assert other.exitcode == 0
    condition.close()
    assert counter[0] == 100
    counter.close()


@pytest.mark.parametrize("method", START_METHODS)
def test_all_meet_at_a_barrier_round_after_round(method: str, numbers: str) -> None:
    barrier = ipc.Barrier(3)
    with process(method, meet, barrier, numbers, 20) as one, process(method, meet, barrier, numbers, 20) as two:
        meet(barrier, numbers, 20)
        for each in (one, two):
            each.join(PATIENCE_S)
            assert each.exitcode == 0
    assert barrier.parties == 3
    barrier.close()
    assert _value(numbers) == 20


@pytest.mark.parametrize("method", START_METHODS)
def test_an_event_is_seen_in_another_process(method: str, ready: ipc.Event) -> None:
    asked = ipc.Event()
    with process(method, wait_and_set, asked, ready):
        assert not ready.is_set()
        asked.set()
        assert ready.wait(timeout_s=PATIENCE_S)
    asked.close()


def test_a_process_that_inherits_the_descriptor_uses_the_same_one(thing: Thing, ready: ipc.Event) -> None:
    kind = type(thing).__name__
    program = (
        "import sys\nfrom underlay import ipc\n"
        f"ipc.inherit(sys.argv[1], ipc.{kind}); ipc.inherit(sys.argv[2], ipc.Event).set()"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program, thing.argument(), ready.argument()],
        pass_fds=[*thing.descriptors, *ready.descriptors],
        check=True,
        timeout=PATIENCE_S,
    )
    assert ready.is_set()
    with pytest.raises(UsageError, match=f"names no {kind}"):
        ipc.inherit('{"synchronisation": "Lock"}', type(thing))
    with pytest.raises(UsageError, match="names no end of a channel"):
        ipc.inherit(thing.argument())


def test_it_is_pickled_only_while_a_process_starts(thing: Thing) -> None:
    with pytest.raises(UsageError, match="can only be pickled while multiprocessing starts the process"):
        pickle.dumps(thing)


def test_one_that_is_closed_says_so(thing: Thing) -> None:
    thing.close()
    thing.close()
    with pytest.raises(ipc.ChannelClosed, match="is closed"):
        use_once(thing, timeout_s=0)


# --- time-outs ---


def test_a_wait_that_takes_too_long_gives_up() -> None:
    mutex, semaphore, event = ipc.Mutex(), ipc.Semaphore(0), ipc.Event()

    def hold() -> None:
        with mutex:
            event.wait()

    other = threading.Thread(target=hold)
    other.start()
    while mutex.acquire(timeout_s=0):
        mutex.release()
        time.sleep(0.001)
    assert not mutex.acquire(timeout_s=0.01)
    assert not semaphore.acquire(timeout_s=0.01)
    event.set()
    other.join()
    event.clear()
    assert not event.wait(timeout_s=0.01)
    for each in (mutex, semaphore, event):
        each.close()


def test_a_lock_that_others_have_is_waited_for_in_time() -> None:
    with_readers = ipc.ReadWriteLock()
    with with_readers.reading():
        with with_readers.reading(timeout_s=0):
            pass
        with (
            pytest.raises(TimeoutError, match=r"could not be written within 0\.01 s"),
            with_readers.writing(timeout_s=0.01),
        ):
            pass
        with with_readers.reading(timeout_s=0):  # the writer has gone
            pass
    with with_readers.writing(), pytest.raises(TimeoutError), with_readers.reading(timeout_s=0.01):
        pass
    with_readers.close()


def test_a_barrier_that_not_all_come_to_is_broken_for_all() -> None:
    barrier = ipc.Barrier(2)
    with pytest.raises(ipc.BrokenBarrier, match=r"not all came within 0\.01 s"):
        barrier.wait(timeout_s=0.01)
    assert (barrier.broken, barrier.n_waiting) == (True, 0)
    with pytest.raises(threading.BrokenBarrierError, match="was broken before"):
        barrier.wait()
    barrier.reset()
    assert (barrier.broken, barrier.n_waiting) == (False, 0)
    barrier.close()


# --- misuse ---


def test_only_the_thread_that_has_a_mutex_gives_it_back() -> None:
    mutex = ipc.Mutex()
    with pytest.raises(UsageError, match="this thread does not have the Mutex"):
        mutex.release()
    with mutex:
        with pytest.raises(UsageError, match="this thread has the Mutex already"):
            mutex.acquire()
        with pytest.raises(UsageError, match="release it before it is closed"):
            mutex.close()
    mutex.close()


def test_a_condition_is_used_with_its_mutex() -> None:
    condition = ipc.Condition()
    for call in (condition.wait, condition.notify):
        with pytest.raises(UsageError, match="this thread does not have"):
            call()
    condition.close()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="a barrier cannot be for 0"):
        ipc.Barrier(0)
    with pytest.raises(UsageError, match="a semaphore cannot begin with -1"):
        ipc.Semaphore(-1)


# --- deaths ---


@pytest.mark.parametrize("method", START_METHODS)
def test_who_gets_a_mutex_after_its_holder_died_is_told(method: str, ready: ipc.Event) -> None:
    mutex = ipc.Mutex()
    with process(method, die_holding, mutex, ready) as other:
        assert ready.wait(timeout_s=PATIENCE_S)
        with pytest.raises(ipc.HolderDied, match=f"process {other.pid} died while it had the Mutex"), mutex:
            pass
        with pytest.raises(ipc.HolderDied):  # nobody has put it in order yet
            mutex.acquire(timeout_s=0)
        mutex.mark_consistent()
        mutex.release()
        with mutex:
            pass
    mutex.close()


def test_what_a_death_advises_can_be_done_where_it_is_said(ready: ipc.Event) -> None:
    mutex = ipc.Mutex()

    async def in_asyncio() -> None:
        with pytest.raises(ipc.HolderDied) as died:
            async with mutex.aio:
                pass
        assert died.value.remedy == (
            "give recover=, or await aio.acquire() in place of the with: then it is held, to be put in order"
        )
        with pytest.raises(ipc.HolderDied) as died:
            await mutex.aio.acquire()
        assert died.value.remedy == "put that in order and await aio.mark_consistent(), or give recover="
        await mutex.aio.release()

    with process("fork", die_holding, mutex, ready):
        assert ready.wait(timeout_s=PATIENCE_S)
        with pytest.raises(ipc.HolderDied) as died, mutex:
            pass
        assert not mutex.held
        assert died.value.remedy == (
            "give recover=, or call acquire() in place of the with: then it is held, to be put in order"
        )
        asyncio.run(in_asyncio())
        with pytest.raises(ipc.HolderDied) as died:
            mutex.acquire()
        assert died.value.remedy == "put that in order and call mark_consistent(), or give recover="
        mutex.mark_consistent()
        mutex.release()
    mutex.close()


def test_what_a_dead_holder_left_is_put_in_order_by_recover(ready: ipc.Event) -> None:
    done: list[str] = []
    mutex = ipc.Mutex(recover=lambda: done.append("recovered"))
    with process("fork", die_holding, mutex, ready):
        assert ready.wait(timeout_s=PATIENCE_S)
        with mutex:
            assert done == ["recovered"]
        with mutex:
            assert done == ["recovered"]
    mutex.close()


def test_a_reader_that_dies_is_taken_off(ready: ipc.Event) -> None:
    lock = ipc.ReadWriteLock()
    with process("fork", read_until_killed, lock, ready) as other:
        assert ready.wait(timeout_s=PATIENCE_S)
        kill(other)
        with lock.writing(timeout_s=PATIENCE_S):
            pass
    lock.close()


def test_a_writer_that_dies_is_told_to_all_until_it_is_put_in_order(ready: ipc.Event) -> None:
    lock = ipc.ReadWriteLock()
    with process("fork", die_writing, lock, ready) as other:
        assert ready.wait(timeout_s=PATIENCE_S)
        for way in (lock.reading, lock.writing):
            with pytest.raises(ipc.HolderDied, match=f"process {other.pid} died while it wrote"), way():
                pass
        lock.recover = lambda: None
        with lock.writing():
            pass
        with lock.reading():
            pass
    lock.close()


def test_a_notice_is_not_lost_to_a_dead_one(ready: ipc.Event) -> None:
    condition = ipc.Condition()
    woken: list[bool] = []

    def wait() -> None:
        with condition:
            woken.append(condition.wait(timeout_s=PATIENCE_S))

    with process("fork", wait_until_killed, condition, ready) as other:
        assert ready.wait(timeout_s=PATIENCE_S)
        with condition:
            pass  # it waits by now
        kill(other)
        waiter = threading.Thread(target=wait)
        waiter.start()
        while not woken:
            with condition:
                condition.notify()
            waiter.join(0.05)
    waiter.join()
    condition.close()
    assert woken == [True]


def test_a_death_at_a_barrier_breaks_it_for_the_others(ready: ipc.Event) -> None:
    barrier = ipc.Barrier(3)
    with process("fork", come_until_killed, barrier, ready) as other:
        assert ready.wait(timeout_s=PATIENCE_S)
        while not barrier.n_waiting:
            time.sleep(0.001)
        kill(other)
        with pytest.raises(ipc.BrokenBarrier, match=f"process {other.pid} died"):
            barrier.wait(timeout_s=PATIENCE_S)
    barrier.close()


def test_a_death_between_two_rounds_breaks_the_barrier(ready: ipc.Event) -> None:
    barrier = ipc.Barrier(2)
    with process("fork", come_until_killed, barrier, ready) as other:
        barrier.wait(timeout_s=PATIENCE_S)
        kill(other)
        with pytest.raises(ipc.BrokenBarrier):
            barrier.wait(timeout_s=PATIENCE_S)
            barrier.wait(timeout_s=PATIENCE_S)  # the first one may have been complete
    barrier.close()


def _killed_at_a_random_moment(name: str, seed: int) -> None:
    chance = random.Random(seed)
    thing, ready = MAKERS[name](), ipc.Event()
    with (
        process("fork", use_for_ever, thing, ready) as victim,
        process("fork", use_for_ever, thing, ready) as survivor,
    ):
        assert ready.wait(timeout_s=PATIENCE_S)
        until_s = time.monotonic() + chance.uniform(0, 0.05)
        while time.monotonic() < until_s:
            _use(thing, 0.01)
        kill(victim)
        assert _use(thing, PATIENCE_S), "it hangs after a death"
        kill(survivor)
        if not isinstance(thing, ipc.Semaphore | ipc.Barrier):  # what a dead one took of the first is gone
            assert _use(thing, PATIENCE_S), "it hangs after a death"
    thing.close()
    ready.close()


def _use(thing: Thing, timeout_s: float) -> bool:
    try:
        if isinstance(thing, ipc.Semaphore) and timeout_s == PATIENCE_S:
            thing.release()  # for the one that the dead may have taken along
        if isinstance(thing, ipc.Condition):
            timeout_s = 0.01
        return use_once(thing, timeout_s)
    except (ipc.HolderDied, ipc.BrokenBarrier):
        if isinstance(thing, ipc.Barrier):
            thing.reset()
        elif isinstance(thing, ipc.Mutex):
            if not thing.held:
                with pytest.raises(ipc.HolderDied):
                    thing.acquire()
            thing.mark_consistent()
            thing.release()
        elif isinstance(thing, ipc.ReadWriteLock):
            thing.mark_consistent()
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", MAKERS)
def test_a_kill_at_a_random_moment_hangs_nobody(name: str, seed: int) -> None:
    _killed_at_a_random_moment(name, seed)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MAKERS)
def test_two_hundred_kills_at_random_moments_hang_nobody(name: str) -> None:
    for seed in range(200):
        _killed_at_a_random_moment(name, seed)


# --- asyncio ---


def test_the_asyncio_face_excludes_and_wakes(numbers: str) -> None:
    mutex, semaphore, event, condition = ipc.Mutex(), ipc.Semaphore(0), ipc.Event(), ipc.Condition()
    barrier, lock, counter = ipc.Barrier(2), ipc.ReadWriteLock(), Counter(numbers)

    async def count() -> None:
        for _ in range(20):
            async with mutex.aio:
                counter.add()
            async with lock.aio.writing():
                counter.add(1)
            async with lock.aio.reading():
                pass
        await barrier.aio.wait()

    async def waits() -> None:
        await semaphore.aio.acquire()
        await event.aio.wait()
        async with condition.aio:
            assert await condition.aio.wait()

    async def wakes(waiter: asyncio.Task[None]) -> None:
        semaphore.aio.release()
        event.set()
        while not waiter.done():
            async with condition.aio:
                await condition.aio.notify_all()
            await asyncio.sleep(0.01)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(count())
            group.create_task(count())
            group.create_task(wakes(group.create_task(waits())))

    asyncio.run(main())
    assert (counter[0], counter[1]) == (40, 40)
    counter.close()
    for each in (mutex, semaphore, event, condition, barrier, lock):
        each.close()


def test_a_task_that_is_cancelled_has_nothing_and_leaves_no_thread() -> None:
    semaphore, mutex, lock, event, barrier = (
        ipc.Semaphore(0),
        ipc.Mutex(),
        ipc.ReadWriteLock(),
        ipc.Event(),
        ipc.Barrier(2),
    )
    condition = ipc.Condition()

    async def waits_for_a_notice() -> None:
        async with condition.aio:
            await condition.aio.wait()

    async def writes() -> None:
        async with lock.aio.writing():
            pass

    async def main() -> None:
        for wait in (
            semaphore.aio.acquire,
            mutex.aio.acquire,
            writes,
            event.aio.wait,
            barrier.aio.wait,
            waits_for_a_notice,
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await wait()

    with mutex, lock.reading():
        asyncio.run(main())
    assert barrier.broken
    assert mutex.acquire(timeout_s=PATIENCE_S)
    mutex.release()
    assert condition.acquire(timeout_s=PATIENCE_S)
    condition.release()
    semaphore.release()
    assert semaphore.acquire(timeout_s=0)
    with lock.writing(timeout_s=0):
        pass
    for each in (semaphore, mutex, lock, event, barrier, condition):
        each.close()


def test_a_call_that_has_to_be_awaited_is_named_where_a_task_has_the_mutex() -> None:
    condition = ipc.Condition()

    async def main() -> None:
        async with condition.aio:
            for call, words in (
                (condition.notify_all, "notify_all"),
                (condition.notify, "notify"),
                (condition.wait, "wait"),
                (condition.mark_consistent, "mark_consistent"),
                (condition.release, "release"),
            ):
                with pytest.raises(UsageError, match=rf"a task has the Condition.*; await aio\.{words}\(\)"):
                    call()
            await condition.aio.notify_all()

    asyncio.run(main())
    with pytest.raises(UsageError, match="this thread does not have the Condition; acquire it first"):
        condition.notify_all()
    condition.close()


def test_the_asyncio_face_is_told_of_a_death(ready: ipc.Event) -> None:
    mutex = ipc.Mutex()

    async def main() -> None:
        with pytest.raises(ipc.HolderDied):
            await mutex.aio.acquire()
        await mutex.aio.mark_consistent()
        await mutex.aio.release()
        async with mutex.aio:
            pass

    with process("fork", die_holding, mutex, ready):
        assert ready.wait(timeout_s=PATIENCE_S)
        asyncio.run(main())
    mutex.close()

"""What other processes do with synchronisation; each is found by name where it starts anew.

A counter in shared memory is counted by reading, and writing one more: it comes out wrong where two do so at once.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time

from underlay import ipc


class Counter:
    """Numbers in a file that several processes map."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 64)
        self._words = memoryview(self._map).cast("Q")

    def __getitem__(self, number: int) -> int:
        return int(self._words[number])

    def add(self, number: int = 0) -> None:
        """Count one on, in two steps with others' turn in between."""
        value = self._words[number]
        os.sched_yield()
        self._words[number] = value + 1

    def close(self) -> None:
        self._words.release()
        self._map.close()


def count_with_mutex(mutex: ipc.Mutex, path: str, times: int) -> None:
    counter = Counter(path)
    for _ in range(times):
        with mutex:
            counter.add()


def count_with_semaphore(semaphore: ipc.Semaphore, path: str, times: int) -> None:
    counter = Counter(path)
    for _ in range(times):
        with semaphore:
            counter.add()


def count_with_writing(lock: ipc.ReadWriteLock, path: str, times: int) -> None:
    counter = Counter(path)
    for _ in range(times):
        with lock.writing():
            counter.add(0)
            counter.add(1)
        with lock.reading():
            assert counter[0] == counter[1]


def count_with_condition(condition: ipc.Condition, path: str, times: int) -> None:
    """Each takes a turn when the number is its own kind's: even ones, then odd ones, by a notice."""
    counter = Counter(path)
    for _ in range(times):
        with condition:
            assert condition.wait_for(lambda: counter[0] % 2 == 1, timeout_s=20)
            counter.add()
            condition.notify_all()


def meet(barrier: ipc.Barrier, path: str, times: int) -> None:
    counter = Counter(path)
    for number in range(times):
        if barrier.wait(timeout_s=20) == 0:
            assert counter[0] == number
            counter.add()
        barrier.wait(timeout_s=20)


def wait_and_set(asked: ipc.Event, answered: ipc.Event) -> None:
    assert asked.wait(timeout_s=20)
    answered.set()


def die_holding(mutex: ipc.Mutex, ready: ipc.Event) -> None:
    mutex.acquire()
    ready.set()
    os.kill(os.getpid(), signal.SIGKILL)


def die_writing(lock: ipc.ReadWriteLock, ready: ipc.Event) -> None:
    with lock.writing():
        ready.set()
        os.kill(os.getpid(), signal.SIGKILL)


def read_until_killed(lock: ipc.ReadWriteLock, ready: ipc.Event) -> None:
    with lock.reading():
        ready.set()
        time.sleep(60)


def wait_until_killed(condition: ipc.Condition, ready: ipc.Event) -> None:
    with condition:
        ready.set()
        condition.wait()


def come_until_killed(barrier: ipc.Barrier, ready: ipc.Event) -> None:
    ready.set()
    with contextlib.suppress(ipc.BrokenBarrier):
        while True:
            barrier.wait()


def use_for_ever(thing: object, ready: ipc.Event) -> None:
    """Take and give back, or wait and wake, until it is killed."""
    ready.set()
    while True:
        with contextlib.suppress(ipc.HolderDied, ipc.BrokenBarrier, TimeoutError):
            use_once(thing, timeout_s=0.01)


def use_once(thing: object, timeout_s: float) -> bool:
    """Have it once; whether it was had."""
    match thing:
        case ipc.Condition():
            with thing:
                thing.notify()
                thing.wait(timeout_s=timeout_s)
            return True
        case ipc.Mutex():
            if not thing.acquire(timeout_s=timeout_s):
                return False
            thing.release()
            return True
        case ipc.Semaphore():
            if not thing.acquire(timeout_s=timeout_s):
                return False
            thing.release()
            return True
        case ipc.Event():
            thing.clear()
            thing.set()
            return thing.wait(timeout_s=timeout_s) or True
        case ipc.Barrier():
            thing.wait(timeout_s=timeout_s)
            return True
        case ipc.ReadWriteLock():
            with thing.reading(timeout_s=timeout_s):
                pass
            with thing.writing(timeout_s=timeout_s):
                pass
            return True
    raise AssertionError(thing)

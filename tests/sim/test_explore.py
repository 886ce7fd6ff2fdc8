"""Exploring seeds: in this process, in others, through any executor; the outcome is the same.

It knows `explore`. What pytest makes of it is in `test_plugin.py`.
"""

from __future__ import annotations

import itertools
import queue
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from underlay import sim
from underlay.errors import UnderlayError, UsageError
from underlay.sim import explore


@sim.test(seeds=40)
async def unlucky(world: sim.World, also: int = 99) -> None:
    assert world.seed not in (13, 17, also), f"seed {world.seed}"


class LastFirst(ThreadPoolExecutor):
    """Runs the last that it was given first: what comes earlier is known later."""

    def __init__(self) -> None:
        super().__init__(1)
        self._work_queue: Any = queue.LifoQueue()


def test_it_ends_with_the_first_seed_that_fails() -> None:
    told: list[tuple[int, int]] = []
    exploration = explore(unlucky, progress=lambda *each: told.append(each))
    assert [failure.seed for failure in exploration.failures] == [13]
    assert exploration.failures[0].error.startswith("AssertionError: seed 13")
    assert "assert world.seed not in" in exploration.failures[0].traceback
    assert told == [(number, number == 14) for number in range(1, 15)]


@pytest.mark.parametrize("most", [1, 2, None])
@pytest.mark.parametrize("make", [lambda: ThreadPoolExecutor(1), LastFirst])
def test_whoever_explores_the_failures_are_the_same(make: Callable[[], Executor], most: int | None) -> None:
    here = explore(unlucky, 64, kwargs={"also": 30}, most_failures=most)
    with make() as executor:
        there = explore(unlucky, 64, kwargs={"also": 30}, most_failures=most, executor=executor, in_flight=8)
    seeds = [failure.seed for failure in here.failures]
    assert seeds == [failure.seed for failure in there.failures] == [13, 17, 30][:most]


def test_processes_find_the_test_by_its_name_and_get_its_arguments() -> None:
    exploration = explore(unlucky, range(14, 60), jobs=2, kwargs={"also": 20}, most_failures=None)
    assert [failure.seed for failure in exploration.failures] == [17, 20]
    assert exploration.explored == 46


def test_an_interruption_waits_until_the_executor_has_its_locks_back() -> None:
    done: list[Future[Any]] = []

    class Interrupted(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            if len(done) == 3:
                signal.raise_signal(signal.SIGINT)  # a lock may be held here
            future = super().submit(*args, **kwargs)
            done.append(future)
            return future

    with Interrupted(2) as executor, pytest.raises(KeyboardInterrupt):
        explore(unlucky, itertools.repeat(1), executor=executor)
    assert len(done) >= 4 and all(future.done() for future in done)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_no_seed_is_explored_that_is_not_asked_for() -> None:
    exploration = explore(unlucky, [20, 17, 13, 5])
    assert (exploration.explored, exploration.failures[0].seed) == (2, 17)
    assert explore(unlucky, 0) == sim.Exploration(0, ())


def test_what_no_process_could_be_given_is_refused_in_a_sentence() -> None:
    @sim.test
    async def local(world: sim.World) -> None:
        pass

    with pytest.raises(UsageError, match=r"local cannot be found in another process by its name; define it in a"):
        explore(local, jobs=2)
    with pytest.raises(UsageError, match=r"also cannot be pickled for another process"):
        explore(unlucky, jobs=2, kwargs={"also": lambda: 1})
    with pytest.raises(UsageError, match=r"is no test of a world; decorate it with @sim.test"):
        explore(print)
    with pytest.raises(UsageError, match="jobs=0 cannot be"):
        explore(unlucky, jobs=0)


def test_an_executor_that_needs_no_pickle_gets_what_is_local() -> None:
    @sim.test
    async def local(world: sim.World, callback: Callable[[], int]) -> None:
        assert callback() == 1

    with ThreadPoolExecutor(1) as executor:
        assert explore(local, 5, executor=executor, kwargs={"callback": lambda: 1}).explored == 5


def test_seeds_that_an_executor_lost_are_told() -> None:
    class Lossy(ThreadPoolExecutor):
        def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            future: Future[Any] = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    with pytest.raises(UnderlayError, match=r"the seeds 0 to 0 were not explored: CancelledError"):
        explore(unlucky, 5, executor=Lossy(1))

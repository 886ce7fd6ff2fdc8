"""One test on many seeds, in this process or through any executor, until one fails.

This file knows how seeds are dealt out in chunks, and how a test is found again in another process. It refuses to
know pytest, and what kind of executor it was given.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import queue
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from ..errors import UnderlayError, UsageError
from ._elsewhere import Processes, Work, interrupted_by, work_of
from ._test import SimTest, sim_test_of

Progress: TypeAlias = Callable[[int, int], None]
"""Is told how many seeds were explored so far, and how many of them failed."""

IN_FLIGHT: Final = 64
"""How many chunks an executor is given before one of them is done: enough for a small cluster."""
# A chunk should last so long that handing it over does not count, and be over soon when a failure is found.
_CHUNK_S: Final = 0.5
_MOST_IN_CHUNK: Final = 256
# A traceback that is longer is cut in the middle: it crosses a network, and a night may find many.
_TRACEBACK_CHARACTERS: Final = 20_000


@dataclass(frozen=True)
class Failure:
    """A seed that fails: the error's last line, its traceback, and in this process the error itself."""

    seed: int
    error: str
    traceback: str
    exception: BaseException | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Exploration:
    """How many seeds were run, and those that failed, the lowest first."""

    explored: int
    failures: tuple[Failure, ...]


def explore(
    test: Callable[..., object] | SimTest,
    seeds: int | Iterable[int] | None = None,
    *,
    executor: Executor | None = None,
    jobs: int = 1,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    most_failures: int | None = 1,
    in_flight: int = IN_FLIGHT,
    progress: Progress | None = None,
) -> Exploration:
    """Run a test made by `test` on many seeds: the numbers below `seeds`, or those that it gives.

    It ends with the failure of the lowest seed, or with that of `most_failures` seeds; None is for all of them. The
    outcome does not depend on who runs them: with neither ``executor`` nor ``jobs`` it is this process, one seed after
    another; with ``jobs`` it is that many new processes; or any ``concurrent.futures.Executor``, which is left open.
    There the test must be found by its module and name, or be something that the executor can pickle.

    >>> from underlay import sim
    >>> @sim.test(delay="1ms")
    ... async def unlucky(world):
    ...     assert world.seed not in (13, 17)
    >>> exploration = explore(unlucky, 20, most_failures=None)
    >>> exploration.explored, [failure.seed for failure in exploration.failures]
    (20, [13, 17])
    """
    sim_test = test if isinstance(test, SimTest) else sim_test_of(test)
    if sim_test is None:
        raise UsageError(f"{test!r} is no test of a world", remedy="decorate it with @sim.test")
    if jobs < 1:
        raise UsageError(f"jobs={jobs} cannot be", remedy="one process is the least")
    if seeds is None:
        seeds = sim_test.seeds
    numbers = iter(range(seeds) if isinstance(seeds, int) else seeds)
    if executor is None and jobs == 1:
        return _explore_here(sim_test, numbers, args, kwargs or {}, most_failures, progress)
    work = work_of(sim_test, args, kwargs or {})
    pool: Any = nullcontext(executor) if executor is not None else Processes(jobs)
    if executor is None or isinstance(executor, Processes):
        work.must_be_portable()  # others may know more than pickle
    with pool as open_pool:
        return _Dealer(open_pool, work, numbers, most_failures, in_flight, progress).deal()


def _explore_here(
    sim_test: SimTest,
    seeds: Iterator[int],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    most_failures: int | None,
    progress: Progress | None,
) -> Exploration:
    failures: list[Failure] = []
    explored = 0
    for seed in seeds:
        failure = _failure_of(sim_test, seed, args, kwargs)
        explored += 1
        if failure is not None:
            failures.append(failure)
        if progress is not None:
            progress(explored, len(failures))
        if most_failures is not None and len(failures) >= most_failures:
            break
    return Exploration(explored, tuple(sorted(failures, key=lambda each: each.seed)))


def _failure_of(sim_test: SimTest, seed: int, args: Sequence[object], kwargs: Mapping[str, object]) -> Failure | None:
    try:
        sim_test.run_seed(seed, *args, **kwargs)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        if len(text) > _TRACEBACK_CHARACTERS:
            half = _TRACEBACK_CHARACTERS // 2
            text = f"{text[:half]}\n…\n{text[-half:]}"
        return Failure(seed, "".join(traceback.format_exception_only(error)).strip(), text, error)
    return None


# --- through an executor --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk:
    """What came of some seeds that were run elsewhere."""

    explored: int
    failures: tuple[Failure, ...]
    took_s: float


def run_chunk(work: Work, seeds: Sequence[int], most_failures: int | None) -> Chunk:
    """Run some seeds; called where the executor calls it."""
    began_s = time.perf_counter()
    sim_test, args, kwargs = work.unpacked()
    failures: list[Failure] = []
    explored = 0
    with work.as_at_home():
        for seed in seeds:
            failure = _failure_of(sim_test, seed, args, kwargs)
            explored += 1
            if failure is not None:
                failures.append(Failure(failure.seed, failure.error, failure.traceback))  # the error may not pickle
                if most_failures is not None and len(failures) >= most_failures:
                    break
    return Chunk(explored, tuple(failures), time.perf_counter() - began_s)


class _Dealer:
    """Hands out chunks of seeds in their order, so many at a time, and gathers what came of them."""

    def __init__(
        self,
        executor: Executor,
        work: Work,
        seeds: Iterator[int],
        most_failures: int | None,
        in_flight: int,
        progress: Progress | None,
    ) -> None:
        self._executor = executor
        self._work = work
        self._seeds = seeds
        self._most_failures = most_failures
        self._in_flight = in_flight
        self._progress = progress
        self._size = 1
        self._explored = 0
        self._failures: list[tuple[int, Failure]] = []
        # Each with the place of its seeds in the row: the first failure is that of the earliest place.
        self._pending: dict[Future[Chunk], tuple[int, Sequence[int]]] = {}
        self._dealt = 0
        self._last_place: int | None = None
        # Those that are done, and None for an interruption. It is the one queue that may be put to from a signal's
        # handler or in the middle of itself; `concurrent.futures.wait` holds the locks of all it waits for.
        self._news: queue.SimpleQueue[Future[Chunk] | None] = queue.SimpleQueue()

    def deal(self) -> Exploration:
        """Do it; whatever ends it, nothing is left with the executor that could still be taken back."""
        try:
            with interrupted_by(self._news.put) as interruptions:
                while not interruptions:
                    while self._last_place is None and len(self._pending) < self._in_flight and self._hand_out():
                        pass
                    if not self._pending:
                        break
                    for future in sorted(self._done(), key=lambda each: self._pending[each][0]):
                        if future in self._pending:  # an earlier one may have made it needless
                            self._take(future)
        finally:
            for future in self._pending:
                future.cancel()
        self._failures.sort(key=lambda each: each[0])
        failures = [failure for _, failure in self._failures[: self._most_failures]]
        return Exploration(self._explored, tuple(sorted(failures, key=lambda each: each.seed)))

    def _hand_out(self) -> bool:
        seeds = list(itertools.islice(self._seeds, self._size))
        if not seeds:
            return False
        future = self._executor.submit(run_chunk, self._work, seeds, self._most_failures)
        self._pending[future] = (self._dealt, seeds)
        self._dealt += 1
        future.add_done_callback(self._news.put)
        return True

    def _done(self) -> set[Future[Chunk]]:
        """Wait for one that is done, and take all that are by then; none if an interruption came."""
        done: set[Future[Chunk]] = set()
        while not done or not self._news.empty():
            future = self._news.get()
            if future is None:
                return set()
            if future in self._pending:
                done.add(future)
        return done

    def _take(self, future: Future[Chunk]) -> None:
        place, seeds = self._pending.pop(future)
        try:
            chunk = future.result()
        except UnderlayError:
            raise
        except concurrent.futures.BrokenExecutor as error:
            raise UnderlayError(
                f"a process that explored seeds died, {seeds[0]} to {seeds[-1]} or those near them",
                remedy="see what it wrote; in this process (jobs=1) it would be seen which seed it is",
            ) from error
        except (Exception, concurrent.futures.CancelledError) as error:  # a test's own are in the chunk
            raise UnderlayError(
                f"the seeds {seeds[0]} to {seeds[-1]} were not explored: {error!r}",
                remedy="whoever runs the executor is at fault, or it lacks what the test imports",
            ) from error
        self._explored += chunk.explored
        self._failures += [(place, failure) for failure in chunk.failures]
        if chunk.took_s < _CHUNK_S / 2:
            self._size = min(2 * self._size, _MOST_IN_CHUNK)
        elif chunk.took_s > 2 * _CHUNK_S:
            self._size = max(1, self._size // 2)
        if self._most_failures is not None and len(self._failures) >= self._most_failures:
            # What was handed out earlier may still fail with an earlier seed; what comes later need not be known.
            self._last_place = sorted(each for each, _ in self._failures)[self._most_failures - 1]
            for other, (other_place, _) in list(self._pending.items()):
                if other_place > self._last_place and other.cancel():
                    del self._pending[other]
        if self._progress is not None:
            self._progress(self._explored, len(self._failures))

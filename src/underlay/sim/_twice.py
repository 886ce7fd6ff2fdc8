"""Whether a seed gives the same run twice, in one process or in two, and the first event that differs where it doesn't.

This file knows how two runs are compared. It refuses to know which events tell a run (``_determinism.py``).

Two runs in one process have one PYTHONHASHSEED, and much of memory in the same places: that a program goes through a
set of its own, of texts or of objects without a number, differs between processes only. asyncio's sets of tasks and
futures are in the order of their making, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ._determinism import Recorder, recording
from ._elsewhere import Processes, Work, work_of

if TYPE_CHECKING:
    from ._test import SimTest

# A difference that moves is looked for so often.
_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two runs of one seed part: the event's number, what it was in each run (None: it had ended), and before."""

    number: int
    first: str | None
    second: str | None
    before: str | None

    def __str__(self) -> str:
        lines = [f"the runs differ from event {self.number:,} on:"]
        if self.before is not None:
            lines.append(f"    before: {self.before}")
        lines.append(f"    first:  {self.first or 'had ended'}")
        lines.append(f"    second: {self.second or 'had ended'}")
        return "\n".join(lines)


def check(
    sim_test: SimTest, seed: int, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None
) -> Difference | None:
    """Run one seed of a test twice; give the first event that differs, None where the runs are equal.

    A run may fail, if it fails in the same way twice; its error is not raised.

    >>> import asyncio
    >>> from underlay import sim
    >>> calls = []
    >>> async def test(world):
    ...     calls.append("a thing that outlives the world")
    ...     async with world.host("a"):
    ...         await asyncio.sleep(len(calls))
    >>> difference = check(sim.SimTest(test), seed=1)
    >>> print(difference.second)
    0.000000000 s: turn of a, 1 callbacks, then sleeps 4.0 s
    """

    def run(from_: int, to: int) -> Recorder:
        return _run(sim_test, seed, args, kwargs or {}, from_, to)

    return _compare(run, run)


def check_elsewhere(
    sim_test: SimTest, seed: int, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None
) -> Difference | None:
    """The same with each run in a process of its own, of another PYTHONHASHSEED.

    Raises `NotPortable` for a test that cannot be handed to another process.
    """
    work = work_of(sim_test, args, kwargs or {})
    work.must_be_portable()
    with Processes(1, hash_seed=1) as one, Processes(1, hash_seed=2) as other:

        def run_by(processes: Processes) -> Callable[[int, int], Recorder]:
            return lambda from_, to: processes.submit(_run_work, work, seed, from_, to).result()

        return _compare(run_by(one), run_by(other))


def _run_work(work: Work, seed: int, from_: int, to: int) -> Recorder:
    sim_test, args, kwargs = work.unpacked()
    with work.as_at_home():
        return _run(sim_test, seed, args, kwargs, from_, to)


def _run(
    sim_test: SimTest, seed: int, args: tuple[object, ...], kwargs: Mapping[str, object], from_: int, to: int
) -> Recorder:
    with recording(Recorder(from_, to)) as recorder:
        try:
            result = sim_test.run_seed(seed, *args, **kwargs)
        except Exception as error:
            recorder.note(f"the test ended with {type(error).__name__}")
        else:
            recorder.note(f"the test ended with {type(result).__name__}")
    return recorder


def _compare(run_one: Callable[[int, int], Recorder], run_other: Callable[[int, int], Recorder]) -> Difference | None:
    first, second = run_one(0, 0), run_other(0, 0)
    number = 0
    for _ in range(_ATTEMPTS):
        part = first.part_from(second)
        if part is None:
            return None
        number, start = part.start, max(part.start - 1, 0)
        first, second = run_one(start, part.stop), run_other(start, part.stop)
        found = _first_difference(first, second)
        if found is not None:
            return found
    return Difference(number, "somewhere else each time", "somewhere else each time", None)


def _first_difference(first: Recorder, second: Recorder) -> Difference | None:
    ours, theirs = first.texts, second.texts
    for index in range(max(len(ours), len(theirs))):
        one = ours[index] if index < len(ours) else None
        other = theirs[index] if index < len(theirs) else None
        if one != other:
            return Difference(first.from_ + index, one, other, ours[index - 1] if index else None)
    return None

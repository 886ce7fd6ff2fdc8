"""Which of many faults it takes for a test to fail: delta debugging, within limits.

This file knows sets of numbers and a question that is asked of them. It refuses to know what a number stands for and
how long the answer takes to find.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shrunk:
    """What is left of a set, after how many runs, and whether leaving out any one more was seen to be too much."""

    needed: tuple[int, ...]
    runs: int
    is_minimal: bool


def shrink(
    numbers: Sequence[int],
    fails: Callable[[tuple[int, ...]], bool],
    *,
    most_runs: int = 200,
    may_go_on: Callable[[], bool] = lambda: True,
) -> Shrunk:
    """Find a smallest subset of `numbers` of which `fails` is still true; of all of them it is taken to be true.

    By the ddmin algorithm (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002), after
    asking of none at all. It asks at most `most_runs` times, and no more once ``may_go_on()`` is false; what is
    smallest by then is given.

    >>> shrink(range(20), lambda some: 13 in some).needed
    (13,)
    >>> shrink(range(20), lambda some: {2, 17} <= set(some)).needed
    (2, 17)
    >>> shrink(range(20), lambda some: {2, 17} <= set(some), most_runs=3).is_minimal
    False
    """
    needed = tuple(numbers)
    runs = 0
    known: set[tuple[int, ...]] = set()  # of these it is false

    class _OutOfRunsError(Exception):
        pass

    def still_fails(some: tuple[int, ...]) -> bool:
        nonlocal runs
        if some in known:
            return False
        if runs >= most_runs or not may_go_on():
            raise _OutOfRunsError
        runs += 1
        if fails(some):
            return True
        known.add(some)
        return False

    try:
        if not needed or still_fails(()):
            return Shrunk((), runs, True)
        pieces = 2
        while len(needed) > 1:
            smaller = _smaller(needed, pieces, still_fails)
            if smaller is not None:
                needed, pieces = smaller
            elif pieces >= len(needed):
                break
            else:
                pieces = min(len(needed), 2 * pieces)
    except _OutOfRunsError:
        return Shrunk(needed, runs, False)
    return Shrunk(needed, runs, True)


def _smaller(
    needed: tuple[int, ...], pieces: int, still_fails: Callable[[tuple[int, ...]], bool]
) -> tuple[tuple[int, ...], int] | None:
    """One of `pieces` parts that is enough, or all but one of them; and into how many to cut that one."""
    bounds = [len(needed) * each // pieces for each in range(pieces + 1)]
    parts = [needed[begin:end] for begin, end in itertools.pairwise(bounds)]
    for part in parts:
        if still_fails(part):
            return part, 2
    if pieces > 2:
        for each in range(pieces):
            rest = tuple(number for other, part in enumerate(parts) if other != each for number in part)
            if still_fails(rest):
                return rest, max(pieces - 1, 2)
    return None

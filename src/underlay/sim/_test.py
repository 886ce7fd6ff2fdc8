"""``@sim.test``: a test function that is run on a world for each of many seeds.

This file knows how a test is marked, and how one seed of it is run. It refuses to know pytest.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, overload

from ..errors import UsageError
from ._world import World

Test: TypeAlias = Callable[..., Coroutine[Any, Any, object]]
_R = TypeVar("_R")

SEEDS: Final = 20
"""How many seeds a test is run on, unless told otherwise."""
runner: Callable[..., None] | None = None
"""Who runs the seeds of a test that is called, with the `SimTest` and its arguments; None for `SimTest.run`."""
ATTRIBUTE: Final = "underlay_sim_test"
"""Under this name the decorated function carries its `SimTest`."""


@dataclass(frozen=True)
class SimTest:
    """A test of a world: ``function(world, …)``, on how many seeds, and what its worlds are made with.

    ``before_world`` counts the parameters before the world: 1 for a method, else 0.
    """

    function: Test
    seeds: int = SEEDS
    options: dict[str, Any] = field(default_factory=dict)
    before_world: int = 0

    def world(self, seed: int, only_faults: Collection[int] | None = None) -> World:
        """The world of one seed; of the faults drawn by chance, only those of these numbers happen."""
        options = self.options if only_faults is None else {**self.options, "only_faults": only_faults}
        return World(seed, **options)

    def run_on(self, world: World, *args: object, **kwargs: object) -> object:
        """Run it on a world that was made for it."""
        count = self.before_world
        return world.run(lambda world: self.function(*args[:count], world, *args[count:], **kwargs))

    def run_seed(self, seed: int, *args: object, **kwargs: object) -> object:
        """Run it on the world of one seed."""
        return self.run_on(self.world(seed), *args, **kwargs)

    def run(self, *args: object, **kwargs: object) -> None:
        """Run it on all its seeds, one after another; the first that fails is named in a note of its error."""
        for seed in range(self.seeds):
            try:
                self.run_seed(seed, *args, **kwargs)
            except BaseException as error:
                error.add_note(f"with seed {seed}")
                raise


def sim_test_of(function: object) -> SimTest | None:
    """What `test` made of a function, or None where it made nothing of it."""
    found = getattr(function, ATTRIBUTE, None)
    return found if isinstance(found, SimTest) else None


@overload
def test(function: Test, /) -> Callable[..., None]: ...
@overload
def test(*, seeds: int = ..., **options: Any) -> Callable[[Test], Callable[..., None]]: ...
def test(
    function: Test | None = None, /, *, seeds: int = SEEDS, **options: Any
) -> Callable[..., None] | Callable[[Test], Callable[..., None]]:
    """Make a pytest test of ``async def test_…(world)``: it is run once for each seed, in virtual time.

    Further parameters are pytest's, fixtures say; ``options`` are `World`'s, such as ``loss=0.01``.

    >>> @test(seeds=3, delay="20ms")
    ... async def test_nothing_takes_no_time(world):
    ...     assert world.now == 0
    >>> test_nothing_takes_no_time()
    """

    def decorate(function: Test) -> Callable[..., None]:
        if not inspect.iscoroutinefunction(function):
            raise UsageError(
                f"{getattr(function, '__qualname__', function)} is no coroutine function", remedy="write async def"
            )
        if seeds < 1:
            raise UsageError(f"seeds={seeds} cannot be", remedy="a test is run on one seed at least")
        parameters = list(inspect.signature(function).parameters.values())
        before_world = 1 if parameters and parameters[0].name == "self" else 0
        if len(parameters) <= before_world:
            raise UsageError(f"{function.__qualname__} takes no world", remedy="give it a first parameter: world")
        sim_test = SimTest(function, seeds, options, before_world)

        @functools.wraps(function)
        def run_seeds(*args: object, **kwargs: object) -> None:
            (sim_test.run if runner is None else partial(runner, sim_test))(*args, **kwargs)

        # pytest reads the signature: the world is ours to give, the others are its fixtures.
        del parameters[before_world]
        run_seeds.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        del run_seeds.__wrapped__
        setattr(run_seeds, ATTRIBUTE, sim_test)
        return run_seeds

    return decorate(function) if function is not None else decorate

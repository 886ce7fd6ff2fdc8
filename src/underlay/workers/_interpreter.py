"""The kind ``interpreter``: a call runs in another interpreter of this process, with a lock of its own.

Python has them for programs since 3.14 (PEP 734). A module in C that does not know of them cannot be imported there.
"""

from __future__ import annotations

import importlib
import os
import sys

from ..errors import UsageError
from ._contract import Kind
from ._packages import package
from ._pickling import perform
from ._pool import PoolExecutor

__all__ = ["KIND", "make", "require"]

KIND = Kind(
    "interpreter",
    runs_in="interpreters of this process",
    parallel=True,
    crosses_machines=False,
    pickles=True,
    cancels_waiting=True,
    sees_death=False,  # it is this process that would die
    needs="cloudpickle, CPython 3.14",
)
# PEP 734: concurrent.interpreters
_OLDEST = (3, 14)


class _InterpreterLane:
    def __init__(self) -> None:
        self._interpreter = importlib.import_module("concurrent.interpreters").create()
        self._interpreter.prepare_main({"path": tuple(sys.path)})
        self._interpreter.exec("import sys; sys.path[:] = path")

    def call(self, packed: bytes) -> bytes:
        answer: bytes = self._interpreter.call(perform, packed)
        return answer

    def close(self) -> None:
        self._interpreter.close()


class _InterpreterEngine:
    def open_lane(self) -> _InterpreterLane:
        return _InterpreterLane()

    def close(self) -> None:
        """Each lane has closed its interpreter."""


def require() -> None:
    """Raise ``UsageError`` where something is missing."""
    if sys.version_info < _OLDEST:
        version = ".".join(map(str, sys.version_info[:3]))
        raise UsageError(
            f"Python {version} has no interpreters to run calls in, they came with 3.14",
            remedy="the executor process runs calls in parallel here",
        )
    package("cloudpickle", "the executor interpreter")


def make(*, max_workers: int | None = None) -> PoolExecutor:
    """Make a pool of at most ``max_workers`` interpreters; one per processor without it."""
    require()
    return PoolExecutor(KIND.name, _InterpreterEngine(), max_workers or os.cpu_count() or 1)

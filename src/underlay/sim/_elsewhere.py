"""A test in another process: how it is named, found again and given its arguments there, and the pool of processes.

This file knows modules, files and pickles. It refuses to know what a test does and which seeds it is run on.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any, Final, ParamSpec, TypeVar

from ..errors import UsageError
from ._test import SimTest, sim_test_of

_P = ParamSpec("_P")
_T = TypeVar("_T")


class NotPortable(UsageError):
    """A test, or what it is given, cannot be handed to another process."""


@dataclass(frozen=True)
class Reference:
    """Where a test is: its module, that module's file, its name there, and where its imports are found."""

    module: str
    file: str | None
    name: str
    path: tuple[str, ...]

    def load(self) -> SimTest:
        """The test itself. Raises ``UsageError`` where it is not found."""
        for folder in self.path:
            if folder not in sys.path:
                sys.path.append(folder)
        try:
            found = _named(_module(self.module, self.file), self.name)
        except Exception as error:
            raise UsageError(
                f"{self.module} cannot be imported in another process: {error!r}",
                remedy="explore in this process, with one job",
            ) from error
        sim_test = sim_test_of(found)
        if sim_test is None:
            raise UsageError(f"there is no test {self.name} in {self.module} here", remedy="bring its file up to date")
        return sim_test


def _module(name: str, file: str | None) -> ModuleType:
    module = sys.modules.get(name)
    if module is not None and _is_from(module, file):
        return module
    try:
        if module is None:
            module = importlib.import_module(name)
            if _is_from(module, file):
                return module
    except ImportError:
        if file is None or not os.path.exists(file):
            raise
    # pytest loads files that no import would find; do as it does.
    assert file is not None
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_from(module: ModuleType, file: str | None) -> bool:
    # Another machine may have it elsewhere.
    if file is None or not os.path.exists(file):
        return True
    its_file = getattr(module, "__file__", None)
    return its_file is not None and os.path.exists(its_file) and os.path.samefile(its_file, file)


def _named(module: ModuleType, name: str) -> object:
    found: object = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


@dataclass(frozen=True)
class Work:
    """A test, its arguments and the filters of its warnings; pickled where that can be done.

    ``arguments`` and ``test`` are the things themselves where it cannot: some executors know more than pickle.
    """

    test: Reference | SimTest
    arguments: bytes | tuple[tuple[object, ...], dict[str, object]]
    filters: bytes

    def must_be_portable(self) -> None:
        """Raise `NotPortable` where pickle cannot take all of it to another process."""
        if isinstance(self.test, SimTest):
            raise NotPortable(
                f"{self.test.function.__qualname__} cannot be found in another process by its name",
                remedy="define it in a module, at the top or in a class",
            )
        if not isinstance(self.arguments, bytes):
            args, kwargs = self.arguments
            named = [*((f"argument {number}", each) for number, each in enumerate(args)), *kwargs.items()]
            at_fault = [name for name, each in named if _pickled(each) is None]
            raise NotPortable(
                f"{', '.join(at_fault) or 'what it is given'} cannot be pickled for another process",
                remedy="explore in this process, with one job",
            )

    def unpacked(self) -> tuple[SimTest, tuple[object, ...], dict[str, object]]:
        """The test and its arguments, here."""
        sim_test = self.test if isinstance(self.test, SimTest) else self.test.load()
        arguments = pickle.loads(self.arguments) if isinstance(self.arguments, bytes) else self.arguments
        return sim_test, *arguments

    @contextmanager
    def as_at_home(self) -> Iterator[None]:
        """Let a warning be the error here that it is there."""
        with warnings.catch_warnings():
            if self.filters:
                warnings.resetwarnings()
                warnings.filters.extend(pickle.loads(self.filters))  # type: ignore[attr-defined]
            yield


def work_of(sim_test: SimTest, args: Sequence[object], kwargs: Mapping[str, object]) -> Work:
    """What another process needs to run this test."""
    function = sim_test.function
    module = sys.modules.get(function.__module__)
    test: Reference | SimTest = sim_test
    if module is not None and function.__module__ != "__main__":
        found = sim_test_of(_named(module, function.__qualname__))
        if found is not None and found.function is function:
            file = getattr(module, "__file__", None)
            path = tuple(os.path.abspath(folder) for folder in sys.path)
            test = Reference(module.__name__, file, function.__qualname__, path)
    arguments = (tuple(args), dict(kwargs))
    return Work(test, _pickled(arguments) or arguments, _pickled(list(warnings.filters)) or b"")


def _pickled(value: object) -> bytes | None:
    try:
        return pickle.dumps(value)
    except Exception:  # each type refuses with an error of its own
        return None


# --- processes ------------------------------------------------------------------------------------------------------

_INTERRUPTION: Final = {signal.SIGINT}


class Processes(ProcessPoolExecutor):
    """Processes that begin anew, each with one hash seed, and leave an interruption to the one that started them."""

    def __init__(self, jobs: int, hash_seed: int = 0) -> None:
        self._hash_seed = str(hash_seed)
        super().__init__(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)

    def submit(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """As ever; a process that is started for it gets its hash seed, and no interruption from its first line."""
        before = os.environ.get("PYTHONHASHSEED")
        os.environ["PYTHONHASHSEED"] = self._hash_seed
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTION)  # who is started inherits it
        try:
            return super().submit(function, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if before is None:
                del os.environ["PYTHONHASHSEED"]
            else:
                os.environ["PYTHONHASHSEED"] = before

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        self.end(at_once=kind is not None)

    def end(self, *, at_once: bool = False) -> None:
        """Let the processes end; at once, where nobody wants to know any more what they find."""
        processes = list((self._processes or {}).values())
        if at_once:
            for process in processes:
                process.terminate()
        self.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTION)


@contextmanager
def interrupted_by(put: Callable[[None], object]) -> Iterator[Sequence[int]]:
    """The first Ctrl-C is a None that ``put`` gets, and ``KeyboardInterrupt`` at the end; it gives those that came.

    An executor takes its locks in Python: ``KeyboardInterrupt`` may come between a lock that was taken and the line
    that would give it back, and then whoever ends the executor waits for ever. A second Ctrl-C is one as ever. Where
    signals are somebody else's (another thread, a handler of the program's own) nothing is changed.
    """
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield came
        return

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        came.append(number)
        put(None)

    signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt

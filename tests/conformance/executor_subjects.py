"""Every kind of executor as a subject of one suite, beside the standard library's, and the work that they are given.

It knows how an executor is made, and in what its nature limits the common promises. What they have to show is in
`test_executors.py`.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from underlay import workers
from underlay.errors import UsageError

# A worker that starts anew imports what it needs first, on a machine that is busy.
PATIENCE_S = 30.0
MAX_WORKERS = 2


@dataclass(frozen=True)
class Subject:
    """One way to have an executor, and what of the common promises it cannot keep."""

    name: str
    make: Callable[[], Executor]
    waits: bool = True
    """Calls may wait and run while the submitter goes on."""
    other_process: bool = True
    pickles: bool = True
    closures: bool = True
    """Lambdas and closures go along."""
    survives_bad_answers: bool = True
    """An exception that cannot be unpickled is the call's matter; the standard library's pool of processes breaks."""
    copies_at_submit: bool = True
    reference: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def sees_death(self) -> bool:
        return self.other_process and self.name != "interpreter"

    def missing(self) -> str | None:
        """Why it cannot be had here, or None."""
        return _missing(self.name.removeprefix("bounded-"))


@functools.cache
def _missing(kind: str) -> str | None:
    if kind not in workers.KINDS:
        return None
    try:
        workers.executor(kind, **({} if kind == "inline" else {"max_workers": 1})).shutdown()
    except UsageError as error:
        return str(error)
    return None


def _ours(kind: str) -> Callable[[], Executor]:
    return lambda: workers.executor(kind, max_workers=MAX_WORKERS)


SUBJECTS = [
    Subject(
        "stdlib-thread", lambda: ThreadPoolExecutor(MAX_WORKERS), other_process=False, pickles=False, reference=True
    ),
    Subject(
        "stdlib-process",
        lambda: ProcessPoolExecutor(MAX_WORKERS, mp_context=get_context("spawn")),
        closures=False,
        survives_bad_answers=False,
        copies_at_submit=False,
        reference=True,
    ),
    Subject("inline", lambda: workers.executor("inline"), waits=False, other_process=False, pickles=False),
    Subject("thread", _ours("thread"), other_process=False, pickles=False),
    Subject("process", _ours("process")),
    Subject("bounded-process", lambda: workers.bounded(workers.executor("process", max_workers=MAX_WORKERS), 1000)),
    Subject("interpreter", _ours("interpreter"), other_process=False),
    Subject("celery", _ours("celery")),
    Subject("dask", _ours("dask")),
]


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds; it has to, sooner or later."""
    limit = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < limit, f"in vain: {what}"
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it is reaped between open(2) and read(2)
        return True


# --- the work; each is found by name where the worker is another process ---


def echo(value: object) -> object:
    return value


def folder(_: object) -> str:
    return os.getcwd()


def pid() -> int:
    return os.getpid()


def late_if_even(number: int) -> int:
    time.sleep(0.03 if number % 2 == 0 else 0)
    return number * number


def raise_value_error(text: str) -> None:
    raise ValueError(text, 7)


def positive(number: int) -> int:
    if number < 0:
        raise ValueError(number)
    return number


class Awkward(Exception):
    """An exception that cannot be made again from its args."""

    def __init__(self, what: str, *, why: str) -> None:
        super().__init__(f"{what}: {why}")


def raise_awkward() -> None:
    raise Awkward("it", why="so")


def raise_with_a_lock() -> None:
    raise ValueError(threading.Lock())


def raise_system_exit() -> None:
    raise SystemExit(3)


def a_lock() -> object:
    return threading.Lock()


def keywords(**given: object) -> dict[str, object]:
    return given


def append(file: Path, line: str) -> None:
    with open(file, "a") as out:
        out.write(line + "\n")


def gate(folder: Path, value: object = None) -> object:
    """Say that it began, and wait until it may end."""
    (folder / f"began-{os.getpid()}-{time.monotonic_ns()}").touch()
    limit = time.monotonic() + PATIENCE_S
    while not (folder / "open").exists() and time.monotonic() < limit:
        time.sleep(0.005)
    return value


def size(content: bytes) -> tuple[int, bytes]:
    return len(content), content[::-1]


def die() -> None:
    os._exit(9)

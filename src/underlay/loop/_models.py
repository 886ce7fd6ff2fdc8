"""The table of I/O models: their names, where each is built, and whether this machine can run it.

This file knows names, order of preference and what each model needs of the kernel.  It does not know how any of
them works: a model's module is imported only when a loop of it is made, or its kernel support asked about.
"""

from __future__ import annotations

import errno
import importlib
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import ModelUnavailable, UsageError, nearest

if TYPE_CHECKING:
    import asyncio  # not at run time: `underlay run` names a model without asyncio, and starts 40 ms sooner

# What may be named where a model may, without being one.
_NO_MODELS: Final = ("auto", "asyncio", "uvloop")

LoopFactory = Callable[[], "asyncio.AbstractEventLoop"]

_NO_NEED: Final = (True, "", "")


@dataclass(frozen=True, slots=True)
class Model:
    """One I/O model as a row of ``underlay models``.

    ``name`` is that of its factory in ``underlay.loop``; ``number`` counts the five models of Stevens' *UNIX
    Network Programming* (6.2); ``how`` says in a few words how it waits.  Where ``available`` is False, ``reason``
    says what this machine lacks and ``remedy`` what would mend it.
    """

    name: str
    number: int
    how: str
    available: bool
    reason: str
    remedy: str

    @property
    def command_name(self) -> str:
        """The name as the command line writes it: ``epoll-et`` for ``epoll_et``."""
        return self.name.replace("_", "-")


@dataclass(frozen=True, slots=True)
class _Entry:
    number: int
    how: str
    module: str
    factory: str
    check: Callable[[], tuple[bool, str, str]]


def _needs_linux() -> tuple[bool, str, str]:
    platform: str = sys.platform  # a plain str: mypy believes that sys.platform is a constant
    if platform == "linux":
        return _NO_NEED
    return False, f"it needs Linux, and this is {sys.platform}", "use select or asyncio's own loop"


def _needs_real_time_signals() -> tuple[bool, str, str]:
    if sys.platform == "linux" and hasattr(signal, "sigtimedwait"):
        return _NO_NEED
    return False, f"it needs Linux's real-time signals, and this is {sys.platform}", "use select"


def _needs_io_uring() -> tuple[bool, str, str]:
    if sys.platform != "linux":
        return _needs_linux()
    try:
        support = importlib.import_module("._ring", __package__).probe()
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        # A ring is locked memory, of which a user without CAP_IPC_LOCK has little: setrlimit(2), RLIMIT_MEMLOCK.
        return False, "this user may not lock the memory that a ring needs", "raise `ulimit -l`, or use the model epoll"
    return support.available, support.reason, support.remedy


_ENTRIES: Final = {
    "blocking": _Entry(1, "a thread per connection waits in recv()", "_io_blocking", "BlockingLoop", _needs_linux),
    "nonblocking": _Entry(
        2, "asks every descriptor, again and again", "_io_nonblocking", "NonblockingLoop", _needs_linux
    ),
    "select": _Entry(3, "select(2): bit maps, 1024 descriptors", "_io_select", "SelectLoop", lambda: _NO_NEED),
    "poll": _Entry(3, "poll(2): an array, any descriptor", "_io_poll", "PollLoop", _needs_linux),
    "epoll": _Entry(3, "epoll(7), told while ready", "_io_epoll", "EpollLoop", _needs_linux),
    "epoll_et": _Entry(3, "epoll(7), told once per change", "_io_epoll_et", "EpollEtLoop", _needs_linux),
    "signal": _Entry(4, "a real-time signal per change", "_io_signal", "SignalLoop", _needs_real_time_signals),
    "uring": _Entry(5, "io_uring(7): told when it is done", "_io_uring", "UringLoop", _needs_io_uring),
}

MODELS: Final = tuple(_ENTRIES)
"""Names of all models, in the order of the five models."""

# The first that this machine offers is `auto`. By the table of docs/models.md (benchmarks/loops.py) uring and epoll
# each cost less in about half of the cells; uring leads as the model that does most for the program, files included.
_PREFERENCE: Final = ("uring", "epoll", "poll", "select")


def model(name: str) -> Model:
    """The row of one model; `name` with ``-`` or ``_``.  UsageError for a name that isn't one."""
    known = canonical(name)
    entry = _ENTRIES[known]
    return Model(known, entry.number, entry.how, *entry.check())


def models() -> tuple[Model, ...]:
    """All models as rows, in the order of the five models, each asked of this machine now."""
    return tuple(model(name) for name in MODELS)


def canonical(name: str, others: tuple[str, ...] = ()) -> str:
    """The factory's name for `name` as people write it; UsageError where there is no such model.

    `others` are names that the asker takes besides, for the sentence that tells what there is.
    """
    if not isinstance(name, str):
        raise UsageError(f"an I/O model is called by its name, not by {name!r}", remedy='as in "epoll" or "uring"')
    known = name.replace("-", "_").lower()
    if known not in _ENTRIES:
        names = [*(n.replace("_", "-") for n in MODELS), *others]
        raise UsageError(f"there is no I/O model {name!r}", remedy=nearest(name, names))
    return known


def chosen_by_auto() -> tuple[Model, tuple[Model, ...]]:
    """The model that ``auto`` takes here, and those better ones that it had to pass over, each with its reason."""
    passed_over: list[Model] = []
    for name in _PREFERENCE:
        row = model(name)
        if row.available:
            return row, tuple(passed_over)
        passed_over.append(row)
    raise ModelUnavailable("auto", "this machine offers none of the models", remedy="use asyncio's own loop")


def resolve(name: str) -> LoopFactory:
    """The factory for `name`: a model, ``auto``, ``asyncio`` (the standard loop) or ``uvloop`` where it is installed.

    Raises UsageError for an unknown name and ModelUnavailable, before any loop is made, where this machine lacks it.

    >>> resolve("select")().close()
    """
    if name == "asyncio":
        import asyncio

        return asyncio.SelectorEventLoop
    if name == "uvloop":
        try:
            factory: LoopFactory = importlib.import_module("uvloop").new_event_loop
        except ImportError:
            raise ModelUnavailable("uvloop", "it isn't installed", remedy="pip install uvloop") from None
        return factory
    known = chosen_by_auto()[0].name if name == "auto" else canonical(name, _NO_MODELS)
    row = model(known)
    if not row.available:
        raise ModelUnavailable(row.command_name, row.reason, remedy=row.remedy)
    entry = _ENTRIES[known]
    loop_factory: LoopFactory = getattr(importlib.import_module(f".{entry.module}", __package__), entry.factory)
    return loop_factory


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """A new event loop of the model `name`; errors as `resolve`."""
    return resolve(name)()

"""The kinds of executors there are, each in a file of its own, and how one is made.

This file knows their names and modules. It refuses to know what any of them does.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import Final, Protocol, cast

from ..errors import UsageError, nearest
from ._contract import Kind

__all__ = ["KINDS", "check_options", "executor", "options_of", "require"]

_MODULES: Final = {
    "inline": "_inline",
    "thread": "_thread",
    "process": "_process",
    "interpreter": "_interpreter",
    "celery": "_celery",
    "dask": "_dask",
}


class _KindModule(Protocol):
    KIND: Kind
    make: Callable[..., Executor]
    require: Callable[[], None]


def _module_of(kind: str) -> _KindModule:
    name = _MODULES.get(kind)
    if name is None:
        raise UsageError(f"there is no kind of executor {kind!r}", remedy=nearest(kind, _MODULES))
    return cast(_KindModule, importlib.import_module(f"{__package__}.{name}"))


class _Kinds(Mapping[str, Kind]):
    def __getitem__(self, name: str) -> Kind:
        if name not in _MODULES:
            raise KeyError(name)
        return _module_of(name).KIND

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


KINDS: Final[Mapping[str, Kind]] = _Kinds()
"""What each kind can do, by its name; the file of one is loaded when it is asked for."""


def options_of(kind: str) -> list[str]:
    """Name the options of a kind. Raises ``UsageError`` for one that does not exist.

    >>> options_of("thread"), options_of("inline")
    (['max_workers'], [])
    """
    return list(inspect.signature(_module_of(kind).make).parameters)


def check_options(kind: str, options: Mapping[str, object]) -> None:
    """Raise ``UsageError`` for a kind that does not exist, and for options that it does not know."""
    known = options_of(kind)
    for name in options:
        if name not in known:
            raise UsageError(
                f"the executor {kind} has no option {name!r}",
                remedy=nearest(name, known) if known else "it has none at all",
            )
    most = options.get("max_workers")
    if most is not None and (not isinstance(most, int) or most < 1):
        raise UsageError(f"there cannot be {most!r} workers", remedy="max_workers is a number from 1 on")


def require(kind: str) -> None:
    """Raise ``UsageError`` where this machine lacks what a kind needs."""
    _module_of(kind).require()


def executor(kind: str, **options: object) -> Executor:
    """Make an executor of ``kind``, one of `KINDS`.

    All kinds but ``inline`` know ``max_workers``; what else one knows is told by ``help(workers.executor)``'s page,
    docs/workers.md. Raises ``UsageError`` for a kind or an option that does not exist and for
    a package that is missing, and ``EngineUnavailable`` for a broker or a scheduler that does not answer.

    >>> with executor("thread", max_workers=2) as pool:
    ...     list(pool.map(abs, [-1, -2]))
    [1, 2]
    """
    check_options(kind, options)
    return _module_of(kind).make(**options)

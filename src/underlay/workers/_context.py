"""Context variables on their way to another process: `asyncio.to_thread` calls a function in a copy of the context.

A `contextvars.Context` cannot be pickled, but a variable that a module holds can be found again by the module's and
its own name. This file knows how to look for it, and to call a function with its value. A variable that no
module holds, or whose value cannot be pickled, stays behind.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ._packages import package

__all__ = ["call_in", "carried", "parted"]

Place = tuple[str, str]
"""The module that holds a variable, and the name by which."""

Call = tuple[Callable[..., object], tuple[object, ...], dict[str, object]]

# Where each variable was found, if at all, among how many modules: a search looks at all names of all modules.
_places: dict[contextvars.ContextVar[Any], tuple[Place | None, int]] = {}
# More than programs have; docs.python.org/3/library/contextvars.html has them made once, at the top of a module.
_MOST_PLACES = 1000


def parted(fn: Callable[..., object], args: tuple[object, ...]) -> tuple[contextvars.Context | None, Call]:
    """Part a call from the context that it is to run in, where it has one, as `asyncio.to_thread` hands it over.

    >>> context, call = parted(functools.partial(contextvars.Context().run, divmod, 7), (2,))
    >>> context is not None, call
    (True, (<built-in function divmod>, (7, 2), {}))
    """
    call: Call = fn, args, {}
    if isinstance(fn, functools.partial):
        call = fn.func, (*fn.args, *args), dict(fn.keywords)
    context = getattr(call[0], "__self__", None)
    if isinstance(context, contextvars.Context) and call[1] and getattr(call[0], "__name__", "") == "run":
        inner, *rest = call[1]
        if callable(inner):
            return context, (inner, tuple(rest), call[2])
    return None, (fn, args, {})


def carried(context: contextvars.Context) -> dict[Place, bytes]:
    """The variables that can go along, each pickled alone."""
    dumps = package("cloudpickle", "an executor outside of this process").dumps
    found: dict[Place, bytes] = {}
    for variable, value in context.items():
        place = _place_of(variable)
        if place is None:
            continue
        try:
            found[place] = dumps(value)
        except Exception:
            continue  # it stays behind, as this file's docstring says
    return found


def _place_of(variable: contextvars.ContextVar[Any]) -> Place | None:
    modules = len(sys.modules)
    place, seen = _places.get(variable, (None, 0))
    if place is not None and getattr(sys.modules.get(place[0]), place[1], None) is variable:
        return place
    if seen == modules:
        return None  # nor was it in any of these
    place = next(_search(variable), None)
    if len(_places) >= _MOST_PLACES:
        _places.clear()
    _places[variable] = place, modules
    return place


def _search(variable: contextvars.ContextVar[Any]) -> Iterator[Place]:
    for module_name, module in list(sys.modules.items()):
        if module_name == "__main__":
            continue  # no other process can import it
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                yield module_name, name


def call_in(variables: Mapping[Place, bytes], call: Call) -> object:
    """Call a function, with these values in its context."""
    fn, args, kwargs = call
    context = contextvars.Context()
    for (module_name, name), packed in variables.items():
        try:
            variable, value = getattr(importlib.import_module(module_name), name), pickle.loads(packed)
        except Exception:
            continue  # this process has no such module; a call that needs the variable will say so
        context.run(variable.set, value)
    return context.run(fn, *args, **kwargs)

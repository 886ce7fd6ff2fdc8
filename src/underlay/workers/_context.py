"""Context variables on their way to another process: `asyncio.to_thread` calls a function in a copy of the context.

A `contextvars.Context` cannot be pickled, but a variable that a module holds can be found again by the module's and
its own name. One of the program's own script has no module there: each worker makes one in its place, for that name.
This file knows how to look for a variable, and to call a function with its value. A variable that no module holds, or
whose value cannot be pickled, stays behind.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ._packages import package

__all__ = ["InContext", "found_again", "parted"]

Place = tuple[str, str]
"""The module that holds a variable, and the name by which."""

Call = tuple[Callable[..., object], tuple[object, ...], dict[str, object]]
Find = Callable[..., contextvars.ContextVar[Any]]

_SCRIPT = "__main__"

# Where each variable was found, if at all, among how many modules: a search looks at all names of all modules.
_places: dict[contextvars.ContextVar[Any], tuple[Place | None, int]] = {}
# More than programs have; docs.python.org/3/library/contextvars.html has them made once, at the top of a module.
_MOST_PLACES = 1000
_stand_ins: dict[str, contextvars.ContextVar[Any]] = {}


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


class InContext:
    """A function that is called with the values that the variables of a context have here and now.

    A variable goes along if it can be found again and its value can be pickled.
    """

    def __init__(self, fn: Callable[..., object], context: contextvars.Context) -> None:
        self.__qualname__ = name_of(fn)  # whoever complains of it means the function
        self._fn = fn
        self._values = list(_packed(context))

    def __call__(self, *args: object, **kwargs: object) -> object:
        context = contextvars.Context()
        for make, where, packed in self._values:
            try:
                context.run(make(*where).set, pickle.loads(packed))
            except Exception:
                continue  # this process has no such module; a call that needs the variable will say so
        return context.run(self._fn, *args, **kwargs)


def name_of(fn: object) -> str:
    """How people call a function.

    >>> name_of(print), name_of(functools.partial(print, 1)), name_of(3)
    ('print', 'print', 'int')
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__qualname__", type(fn).__qualname__))


def found_again(variable: contextvars.ContextVar[Any]) -> tuple[Find, tuple[Any, ...]] | None:
    """A function, and its arguments, that give this variable in another process; None where it cannot be found there.

    They are what ``__reduce__`` of a variable would give.
    """
    place = _place_of(variable)
    if place is None:
        return None
    module, name = place
    if module != _SCRIPT:
        return _of_module, place
    try:
        return _of_script, (name, variable.name, contextvars.Context().run(variable.get))
    except LookupError:
        return _of_script, (name, variable.name)  # it has no default


def _packed(context: contextvars.Context) -> Iterator[tuple[Find, tuple[Any, ...], bytes]]:
    dumps = package("cloudpickle", "an executor outside of this process").dumps
    for variable, value in context.items():
        found = found_again(variable)
        if found is None:
            continue
        try:
            dumps(found)  # its default may be what cannot be pickled
            yield *found, dumps(value)
        except Exception:
            continue  # it stays behind, as this file's docstring says


def _of_module(module: str, name: str) -> contextvars.ContextVar[Any]:
    found: contextvars.ContextVar[Any] = getattr(importlib.import_module(module), name)
    return found


def _of_script(place: str, name: str, *default: Any) -> contextvars.ContextVar[Any]:
    """The variable that stands here for one of the script; the same one for each call that brings it."""
    found = _stand_ins.get(place)
    if found is None:
        if len(_stand_ins) >= _MOST_PLACES:
            _stand_ins.clear()
        make: Any = contextvars.ContextVar
        found = _stand_ins[place] = make(name, default=default[0]) if default else make(name)
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
    # The script comes last, under whichever name: one that it imported is found elsewhere, where others find it too.
    script = sys.modules.get(_SCRIPT)
    modules = {name: module for name, module in list(sys.modules.items()) if module is not script}
    for module_name, module in [*modules.items(), (_SCRIPT, script)]:
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                yield module_name, name

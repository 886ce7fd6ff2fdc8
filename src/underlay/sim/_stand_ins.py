"""Functions of the standard library, stood in for while a world runs, wherever a library may have bound them.

This file knows where a function can be bound: a module's globals, a class, a function's defaults and what it closes
over. It refuses to know what objects and containers hold (``_held.py``), which functions they are, and what stands in
for them (``_time.py``, ``_chance.py``, …).

``from time import monotonic`` binds the function itself, so to set ``time.monotonic`` is not enough. Each module is
searched once for the originals; later worlds only look at modules imported since. After a world each original is back
where it was found. Who imported a name during a world keeps the stand-in, which outside of a host's turn is the
original with 0.1 µs more. What objects and containers hold (``self.now = time.monotonic``) is found where they were
made before the first world of the process, or within a world.
"""

from __future__ import annotations

import functools
import os
import sys
import types
from _thread import get_ident
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from . import _turn
from ._held import held

if TYPE_CHECKING:
    from ._host import Host

Function: TypeAlias = Callable[..., Any]
# Put the stand-in there (True), or the original again (False).
Place: TypeAlias = Callable[[bool], None]

# The folders of what was installed.
PACKAGES: Final = ("site-packages", "dist-packages")

# The stand-ins by the identity of their originals; the originals are kept, so that no other object gets their number.
_by_id: dict[int, Function] = {}
_originals: Final[list[object]] = []
_ours: Final[set[int]] = set()
_fixed: Final[list[Place]] = []
_found: Final[list[Place]] = []
_searched: Final[dict[str, int]] = {}
_makers: Final[dict[type, Callable[[Any], object]]] = {}
_awaited: Final[dict[str, Callable[[types.ModuleType], None]]] = {}
_depth = 0


def stand_in(original: Function, inside: Callable[..., Any]) -> Function:
    """A function that within a host's turn is ``inside(host, …)``, and the original elsewhere."""

    def call(*args: Any, **kwargs: Any) -> Any:
        host = _turn.host
        if host is None or get_ident() != _turn.thread:
            return original(*args, **kwargs)
        return inside(host, *args, **kwargs)

    return _named(call, original)


def stand_in_without_arguments(original: Function, inside: Callable[[Host], Any]) -> Function:
    """The same for a function that is called often, and takes nothing."""

    def call() -> Any:
        host = _turn.host
        if host is None or get_ident() != _turn.thread:
            return original()
        return inside(host)

    return _named(call, original)


def _named(call: Function, original: Function) -> Function:
    functools.update_wrapper(call, original)
    del call.__wrapped__  # type: ignore[attr-defined]
    return call


def replace(original: Function, inside: Callable[..., Any], *, without_arguments: bool = False) -> None:
    """From the next world on let ``inside(host, …)`` stand for a function, wherever it is bound."""
    make = stand_in_without_arguments if without_arguments else stand_in
    made = make(original, inside)
    _by_id[id(original)] = made
    _originals.append(original)
    _ours.add(id(made))


def replace_method(owner: type, name: str, inside: Callable[..., Any]) -> None:
    """The same for a method of a class written in Python: ``inside(host, original, self, …)``."""
    original = getattr(owner, name)
    raw = owner.__dict__.get(name, _ABSENT)
    made = stand_in(original, lambda host, /, *args, **kwargs: inside(host, original, *args, **kwargs))

    def put(on: bool) -> None:
        if on:
            setattr(owner, name, made)
        elif raw is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, raw)

    _fixed.append(put)


def at_begin_and_end(place: Place) -> None:
    """Call ``place(True)`` when a world begins, ``place(False)`` when it has ended."""
    _fixed.append(place)


def of_libraries(cls: type, make: Callable[[Any], object]) -> None:
    """Let ``make(one)`` stand for each object of a class that a library made when it was imported, as a global or a
    default. What a program made so is its own: it has put a seed there, maybe.
    """
    _makers[cls] = make


def when_imported(name: str, register: Callable[[types.ModuleType], None]) -> None:
    """Call ``register(module)`` before the first world that begins after the program imported the module, or within
    a world when it is imported there.
    """
    _awaited[name] = register


_ABSENT: Final = object()


@contextmanager
def in_place() -> Iterator[None]:
    """While a world runs: each original is stood in for."""
    global _depth
    _depth += 1
    try:
        if _depth == 1:
            _search()
            sys.meta_path.insert(0, _finder)
            for place in (*_fixed, *_found):
                place(True)
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            if _finder in sys.meta_path:
                sys.meta_path.remove(_finder)
            for place in (*_found, *_fixed):
                place(False)


class _Finder(MetaPathFinder):
    """Finds what is awaited as the others find it, and has it registered when it has been run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """None for what nobody awaits."""
        if fullname not in _awaited:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(fullname, path, target)) is not None:
                _have_searched(spec.loader)
                return spec
        return None


def _have_searched(loader: Any) -> None:
    execute = loader.exec_module

    def exec_module(module: types.ModuleType) -> None:
        execute(module)
        begun = len(_found)
        _search()
        for place in _found[begun:]:
            place(True)

    loader.exec_module = exec_module


_finder: Final = _Finder()


# --- the search ------------------------------------------------------------------------------------------------------


def _search() -> None:
    """Find the places in modules that are new, or were put in place of another."""
    for name in [name for name in _awaited if name in sys.modules]:
        _awaited.pop(name)(sys.modules[name])
    if not _searched:
        _found.extend(held(_originals, _by_id))  # before there are places of ours, which hold them too
    for name, module in list(sys.modules.items()):
        if _searched.get(name) == id(module):
            continue
        _searched[name] = id(module)
        # What is not a plain module may import something when it is asked for its names, and ours are no programs.
        if issubclass(type(module), types.ModuleType) and not name.startswith("underlay."):
            _search_namespace(object.__getattribute__(module, "__dict__"), name)


def _search_namespace(namespace: dict[str, Any], module: str) -> None:
    by_id = _by_id
    name = namespace.get("__name__", module)
    is_library = _is_library(namespace)
    for key, value in list(namespace.items()):
        if is_library and type(value) in _makers:
            _make(value)
        made = by_id.get(id(value))
        if made is not None:
            _found.append(_place_in_dict(namespace, key, value, made))
        elif type(value) is types.FunctionType:
            if value.__module__ == name:
                _search_function(value)
        elif issubclass(type(value), type) and type.__getattribute__(value, "__module__") == name:
            _search_class(value, name)


def _search_class(cls: type, module: str) -> None:
    for key, value in list(vars(cls).items()):
        made = _by_id.get(id(value))
        if made is not None:
            _found.append(_place_in_class(cls, key, value, made))
            continue
        if type(value) is staticmethod or type(value) is classmethod:
            made = _by_id.get(id(value.__func__))
            if made is not None and type(value) is staticmethod:
                _found.append(_place_in_class(cls, key, value, made))
                continue
            value = value.__func__
        if type(value) is types.FunctionType:
            if id(value) not in _ours:
                _search_function(value)
        elif issubclass(type(value), type) and value.__qualname__ == f"{cls.__qualname__}.{key}":
            _search_class(value, module)


def _is_library(namespace: dict[str, Any]) -> bool:
    return any(f"{os.sep}{each}{os.sep}" in str(namespace.get("__file__")) for each in PACKAGES)


def _make(one: Any) -> None:
    if id(one) not in _by_id:
        made = _makers[type(one)](one)
        _by_id[id(one)] = made  # type: ignore[assignment]  # it is called no more than the one
        _originals.append(one)
        _ours.add(id(made))


def _search_function(function: types.FunctionType) -> None:
    by_id = _by_id
    if _is_library(function.__globals__):
        for each in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            if type(each) in _makers:
                _make(each)
    if function.__defaults__ and any(id(each) in by_id for each in function.__defaults__):
        _found.append(_place_in_defaults(function))
    if function.__kwdefaults__:
        for key, value in list(function.__kwdefaults__.items()):
            made = by_id.get(id(value))
            if made is not None:
                _found.append(_place_in_dict(function.__kwdefaults__, key, value, made))
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:
            continue
        made = by_id.get(id(value))
        if made is not None:
            _found.append(_place_in_cell(cell, value, made))


def _place_in_dict(namespace: dict[str, Any], key: str, original: object, made: Function) -> Place:
    def put(on: bool) -> None:
        now, then = (made, original) if not on else (original, made)
        if namespace.get(key) is now:  # else somebody has bound another meanwhile
            namespace[key] = then

    return put


def _place_in_class(cls: type, key: str, original: object, made: Function) -> Place:
    static = staticmethod(made)  # a function of ours would be a method there, a built-in one is none

    def put(on: bool) -> None:
        now, then = (static, original) if not on else (original, static)
        if cls.__dict__.get(key) is now:
            setattr(cls, key, then)

    return put


def _place_in_defaults(function: types.FunctionType) -> Place:
    original = function.__defaults__ or ()
    ours = tuple(_by_id.get(id(each), each) for each in original)

    def put(on: bool) -> None:
        function.__defaults__ = ours if on else original

    return put


def _place_in_cell(cell: types.CellType, original: object, made: Function) -> Place:
    def put(on: bool) -> None:
        cell.cell_contents = made if on else original

    return put

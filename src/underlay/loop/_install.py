"""Puts an I/O model beneath everything in this process that makes an event loop.

There are many ways to ask asyncio for a loop, but on Unix all of them end at one
class. ``asyncio.run``, ``Runner``, ``new_event_loop`` and ``get_event_loop`` ask
the policy; the default policy, and each policy derived from it, calls its
``_loop_factory``, which is that class; uvicorn, and programs that make their own
loop, call it by its public name ``asyncio.SelectorEventLoop`` (``EventLoop``
since Python 3.13). So this file replaces the class, and nothing else. Setting a
policy instead would be undone by a program that sets one, would not be seen by
whoever calls the class, and warns since Python 3.14, where policies are
deprecated; replacing ``new_event_loop`` would miss the class as well.

In the class's place stands a subclass of it that gives the model's loop when it
is called. A subclass, so that ``isinstance``, ``issubclass`` and a program's own
``class Loop(asyncio.SelectorEventLoop)`` keep their meaning. Such a class of the
program's own *is* the program's loop: it is left as it is, on the standard
loop, and so is one made with a selector of the program's own making. A selector
of the standard library's is not: which one waits is what the model decides.

uvloop has one class too, ``uvloop.Loop``, below ``new_event_loop``, ``run``,
``install`` and its policy. It is replaced in the same way at the moment when the
program imports uvloop, since the person who named a model meant that model.

This file knows the names under which the two classes are reached. It refuses to
know any model: a model is a function that makes a loop.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import cast

from ..errors import UnderlayError
from ._models import LoopFactory, resolve
from ._site.sitecustomize import AfterImport

__all__ = ["LEAVE", "install", "install_named"]

# The name that stands beside the models for the standard loop: change nothing.
LEAVE = "asyncio"

# The factory in force, or None. Each stand-in asks at each call, so that a second
# install() needs to replace no class again.
_in_force: LoopFactory | None = None


class _Building(threading.local):
    """Whether this thread is inside a factory: what that calls must be the real classes."""

    now = False


_building = _Building()


class _StandIn(type):
    """The metaclass of a class that gives the model's loop when it is called.

    Only for the class itself: a class that derives from it is somebody's own.
    """

    _original: type[asyncio.AbstractEventLoop]
    # The classes of the loops given. uvloop.run() insists on an instance of
    # uvloop.Loop, so what the stand-in gave must count as one.
    _given: weakref.WeakSet[type]

    def __call__(cls, *args: object, **kwargs: object) -> object:
        if "_original" not in cls.__dict__:
            return super().__call__(*args, **kwargs)
        selector = kwargs.get("selector", args[0] if args else None)
        theirs = selector is not None and type(selector).__module__ != "selectors"
        if _in_force is None or _building.now or theirs:
            return cast("Callable[..., object]", cls._original)(*args, **kwargs)
        _building.now = True
        try:
            loop = _in_force()
        finally:
            _building.now = False
        cls._given.add(type(loop))
        return loop

    def __instancecheck__(cls, instance: object) -> bool:
        if "_original" not in cls.__dict__:
            return super().__instancecheck__(instance)
        return isinstance(instance, (cls._original, *cls._given))

    def __subclasscheck__(cls, subclass: type) -> bool:
        if "_original" not in cls.__dict__:
            return super().__subclasscheck__(subclass)
        return issubclass(subclass, (cls._original, *cls._given))


def install(factory: LoopFactory) -> Callable[[], None]:
    """From now on every loop that this process makes by asyncio's or uvloop's names is ``factory()``.

    Returns a function that undoes it. Loops made before stay what they are. A
    program's own subclass of a loop class is not replaced.

    >>> class Quiet(asyncio.SelectorEventLoop):
    ...     pass
    >>> undo = install(Quiet)
    >>> async def main() -> str:
    ...     return type(asyncio.get_running_loop()).__name__
    >>> asyncio.run(main())
    'Quiet'
    >>> undo()
    """
    global _in_force
    before, _in_force = _in_force, factory
    restore = _replace_classes() if before is None else _nothing

    def undo() -> None:
        global _in_force
        _in_force = before
        restore()

    return undo


def install_named(name: str, net: str = "") -> None:
    """Put the model called ``name`` beneath this process, if this machine can run it.

    ``name`` is a model's, ``auto``, ``uvloop``, or ``asyncio``, which changes
    nothing. With ``net`` it is the user-space stack that this describes, opened
    now. Raises ``UsageError`` for any other name and a network that cannot be, and
    ``ModelUnavailable`` for a model that this machine lacks; all before anything is changed.

    >>> install_named("asyncio")
    """
    if net:
        from ._io_stack import network_factory

        undo = install(network_factory(net))
        os.register_at_fork(after_in_child=undo)  # the device's cable stays the parent's
        return
    factory = resolve(name)
    if name != LEAVE:
        install(factory)


def _replace_classes() -> Callable[[], None]:
    """Put stand-ins where asyncio's class is named, and wait for uvloop's; return the undoing."""
    if sys.platform == "win32":
        raise UnderlayError("underlay's models need Unix", remedy="WSL offers one")
    from asyncio import unix_events

    original = unix_events._UnixSelectorEventLoop
    stand_in = _stand_in_for(original)
    restore = [
        _replace(place, name, original, stand_in)
        for place in (asyncio, unix_events, unix_events._UnixDefaultEventLoopPolicy)
        for name, value in list(vars(place).items())
        if value is original
    ]
    uvloop_too = AfterImport("uvloop", lambda module: restore.append(_replace_uvloop(module)))
    uvloop_too.watch()

    def undo() -> None:
        uvloop_too.unwatch()
        for step in restore:
            step()

    return undo


def _replace_uvloop(module: ModuleType) -> Callable[[], None]:
    """Put a stand-in where ``uvloop.Loop`` is; return the undoing."""
    original = module.Loop
    return _replace(module, "Loop", original, _stand_in_for(original))


def _stand_in_for(original: type[asyncio.AbstractEventLoop]) -> _StandIn:
    """Derive from ``original`` a class that looks like it and gives the model's loop."""
    members: dict[str, object] = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "_original": original,
        "_given": weakref.WeakSet(),
    }
    return _StandIn(original.__name__, (original,), members)


def _replace(place: ModuleType | type, name: str, original: type, stand_in: type) -> Callable[[], None]:
    setattr(place, name, stand_in)
    return functools.partial(setattr, place, name, original)


def _nothing() -> None:
    """Undo nothing."""

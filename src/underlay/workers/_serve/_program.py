"""What the person named: ``module:attribute``, a script or a module; how it is found, and run in a worker.

It refuses to know that there are several workers. What cannot be found is a
``UsageError`` before anything of the program has run.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import os
import runpy
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ...errors import UsageError, nearest

__all__ = ["Program", "parse"]


@dataclass(frozen=True)
class Program:
    """A program by its name, and the arguments it is given."""

    name: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False  # to be run as `python -m` does

    @property
    def title(self) -> str:
        """The program as the person named it."""
        return f"-m {self.name}" if self.is_module else self.name

    @property
    def is_script(self) -> bool:
        """Whether the name is a file's."""
        return not self.is_module and (self.name.endswith(".py") or os.path.isfile(self.name))

    def load(self) -> Callable[[], object]:
        """Find it, importing the module of a function, and return what runs it. Raises ``UsageError``."""
        sys.argv = [self.name, *self.arguments]
        if self.is_script:
            sys.path.insert(0, os.path.dirname(os.path.realpath(self.name)))
            return self._script
        sys.path.insert(0, os.getcwd())
        if self.is_module:
            return self._module
        module_name, _, attribute = self.name.partition(":")
        found: object = _import(module_name)
        for part in attribute.split("."):
            if not hasattr(found, part):
                known = [name for name, value in vars(found).items() if callable(value) and name[:1] != "_"]
                remedy = nearest(part, known) if known and hasattr(found, "__dict__") else "check the name"
                raise UsageError(f"{self.name}: there is no {part!r} in {module_name}", remedy=remedy)
            found = getattr(found, part)
        if not callable(found):
            raise UsageError(
                f"{self.name} is {type(found).__name__!r}, which cannot be called",
                remedy="name a coroutine function without arguments that serves until it is cancelled",
            )
        _check_arguments(self.name, found)
        return lambda: _run(found)

    def _module(self) -> None:
        # In threads without what runpy exchanges meanwhile, as below.
        runpy.run_module(self.name, run_name="__main__", alter_sys=_is_main_thread())

    def _script(self) -> None:
        if _is_main_thread():
            runpy.run_path(self.name, run_name="__main__")
            return
        # runpy exchanges sys.argv and sys.modules["__main__"] meanwhile, which threads share.
        with open(self.name, "rb") as file:
            code = compile(file.read(), self.name, "exec")
        exec(code, {"__name__": "__main__", "__file__": self.name, "__builtins__": __builtins__})


def parse(name: str, arguments: Sequence[str]) -> Program:
    """Check what can be checked without running anything of the program. Raises ``UsageError``.

    >>> parse("no_such_module_here:main", [])
    Traceback (most recent call last):
    underlay.errors.UsageError: there is no module no_such_module_here; is it installed, or in this directory?
    """
    program = Program(name, tuple(arguments))
    if program.is_script:
        if not os.path.isfile(name):
            raise UsageError(f"there is no script {name}", remedy="check the path")
        return program
    module, colon, attribute = name.partition(":")
    if not colon or not module or module.startswith(".") or not attribute:
        raise UsageError(
            f"{name!r} names no program", remedy="say module:function, as in app:main, or a script, as in app.py"
        )
    sys.path.insert(0, os.getcwd())
    try:
        # A parent package is imported by this; of a plain module nothing runs.
        is_there = "." in module or importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        is_there = False
    finally:
        sys.path.pop(0)
    if not is_there:
        raise UsageError(f"there is no module {module}", remedy="is it installed, or in this directory?")
    return program


def _import(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise  # something that the program needs
        raise UsageError(f"there is no module {error.name}", remedy="is it installed, or in this directory?") from error


def _check_arguments(name: str, found: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return  # written in C
    try:
        signature.bind()
    except TypeError as error:
        if (kind := _application(found, signature)) == "ASGI":
            attribute = name.partition(":")[2]
            raise UsageError(
                f"{name} is an ASGI application, and no server",
                remedy=f"say `-m uvicorn {name}` in its place, or name a main() that calls uvicorn.run({attribute}, …)",
            ) from error
        if kind:
            raise UsageError(
                f"{name} is a {kind} application, and no server", remedy="name a function that serves it"
            ) from error
        raise UsageError(
            f"{name} cannot be called without arguments ({error})", remedy="name a function that can"
        ) from error


def _application(found: Callable[..., object], signature: inspect.Signature) -> str:
    """The kind of interface, "ASGI" or "WSGI", whose application this is by the arguments that it takes; or "".

    >>> async def app(scope, receive, send): ...
    >>> _application(app, inspect.signature(app))
    'ASGI'
    """
    names = [each.name for each in signature.parameters.values() if each.default is each.empty]
    is_coroutine = any(map(inspect.iscoroutinefunction, (found, type(found).__call__)))
    if names == ["scope", "receive", "send"] or (is_coroutine and len(names) == 3):
        return "ASGI"
    return "WSGI" if names == ["environ", "start_response"] else ""


def _run(main: Callable[[], object]) -> None:
    """Call it; what it returns, if it can be awaited, is run to its end on an event loop."""
    if inspect.iscoroutinefunction(main):
        asyncio.run(main())
        return
    result = main()
    if inspect.isawaitable(result):

        async def wait(awaitable: Awaitable[object]) -> None:
            await awaitable

        asyncio.run(wait(result))


def _is_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()

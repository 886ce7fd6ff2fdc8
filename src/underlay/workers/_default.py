"""An executor in the place of event loops' own threads, for `run_in_executor(None, …)` and `to_thread`.

asyncio takes only a `ThreadPoolExecutor` as a loop's default, and makes one when it is first needed. So what is
replaced is the method by which a loop is asked, on the class: every loop that has no default of
the program's own asks the installed executor. What asyncio, and underlay's loops, run in
threads themselves stays there: names are looked up, and files read into buffers, in this process.

This file knows the classes of loops, and when a call is somebody else's. It refuses to know what the executor is.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import sys
import threading
import weakref
from asyncio import base_events
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from types import ModuleType, TracebackType

from ..errors import UnderlayError, UsageError
from ._bounded import BoundedExecutor
from ._context import InContext, parted
from ._inline import InlineExecutor
from ._kinds import check_options, executor, options_of, require
from ._say import say

__all__ = ["install", "install_words", "parse", "redirect_uvloop"]

Loop = asyncio.AbstractEventLoop
RunInExecutor = Callable[..., "asyncio.Future[object]"]

# Whose calls stay in threads: they change what belongs to this process.
_OWN = ("asyncio", "uvloop", "underlay.loop")
# ... but asyncio.to_thread() is the program's.
_NOT_OWN = "asyncio.threads"

_sources: list[Callable[[], Executor]] = []  # of those that are installed the last one counts
_undo_classes: list[Callable[[], None]] = []


def install(executor: Executor) -> Callable[[], None]:
    """From now on event loops of this process call in ``executor`` what they are to call in no executor that is named.

    That is ``loop.run_in_executor(None, f)`` and ``asyncio.to_thread(f)``, in asyncio's loops, underlay's and,
    where it is imported already, uvloop's. A loop to which the program gave a default executor keeps it. Returns
    a function that undoes it; the executor stays open, and whoever made it shuts it down.

    >>> from underlay import workers
    >>> undo = install(workers.executor("inline"))
    >>> async def main() -> bool:
    ...     return await asyncio.to_thread(threading.current_thread) is threading.main_thread()
    >>> asyncio.run(main()), undo()
    (True, None)
    """
    if not isinstance(executor, Executor):
        raise UsageError(
            f"what is to be installed is no executor but of the type {type(executor).__name__}",
            remedy="make one by workers.executor()",
        )
    return _install(lambda: executor)


def _install(source: Callable[[], Executor]) -> Callable[[], None]:
    _sources.append(source)
    if not _undo_classes:
        _undo_classes.append(redirect(base_events.BaseEventLoop))
        if "uvloop" in sys.modules:
            _undo_classes.append(redirect(_class_of_uvloop(sys.modules["uvloop"])))

    def undo() -> None:
        # In any order, and once: others may have been installed since, or be left.
        if source in _sources:
            _sources.remove(source)
            while not _sources and _undo_classes:
                _undo_classes.pop()()

    return undo


def redirect(loop_class: type) -> Callable[[], None]:
    """Make a class of loops ask for the installed executor; return the undoing."""
    has_own = "run_in_executor" in vars(loop_class)
    original: RunInExecutor = loop_class.run_in_executor  # type: ignore[attr-defined]

    @functools.wraps(original)
    def run_in_executor(
        self: Loop, executor: Executor | None, func: Callable[..., object], *args: object
    ) -> asyncio.Future[object]:
        is_free = executor is None and getattr(self, "_default_executor", None) is None
        if is_free and _sources and not _is_own(_caller()):
            executor = _sources[-1]()
            func, args = _brought_over(executor, func, args)
        return original(self, executor, func, *args)

    setattr(loop_class, "run_in_executor", run_in_executor)  # noqa: B010  mypy calls the plain way wrong

    def undo() -> None:
        if has_own:
            setattr(loop_class, "run_in_executor", original)  # noqa: B010
        else:
            delattr(loop_class, "run_in_executor")

    return undo


def redirect_uvloop(module: ModuleType) -> None:
    """The same for uvloop's loops, where the module is imported later, and for good."""
    redirect(_class_of_uvloop(module))


def _class_of_uvloop(module: ModuleType) -> type:
    # `underlay run` may have put a class in its place that gives another model's loop.
    found: type = getattr(module.Loop, "_original", module.Loop)
    return found


def _is_own(module: str) -> bool:
    return module != _NOT_OWN and any(module == each or module.startswith(f"{each}.") for each in _OWN)


def _caller() -> str:
    """The module that asked the loop; a loop's own class may stand between."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_name == "run_in_executor":
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


def _brought_over(
    executor: Executor, func: Callable[..., object], args: tuple[object, ...]
) -> tuple[Callable[..., object], tuple[object, ...]]:
    """The call as the executor can take it: a context cannot leave this process, its variables can."""
    below = executor
    while isinstance(below, BoundedExecutor):
        below = below.below
    apart = getattr(concurrent.futures, "InterpreterPoolExecutor", ())  # it is a ThreadPoolExecutor, by its class
    if isinstance(below, (ThreadPoolExecutor, InlineExecutor)) and not isinstance(below, apart):
        return func, args
    context, call = parted(func, args)
    if context is None:
        return func, args
    fn, inner_args, inner_kwargs = call
    brought = InContext(fn, context)
    return (functools.partial(brought, **inner_kwargs) if inner_kwargs else brought), inner_args


def parse(words: str) -> tuple[str, dict[str, object]]:
    """Read ``KIND[,OPTION=VALUE…]``, as `underlay run --executor` takes it. Raises ``UsageError``.

    >>> parse("process,max_workers=4")
    ('process', {'max_workers': 4})
    """
    kind, *rest = words.split(",")
    options_of(kind)  # for its complaint
    options: dict[str, object] = {}
    for each in rest:
        name, equals, value = each.partition("=")
        if not equals or not value:
            raise UsageError(f"{each!r} gives no option a value", remedy=_example(kind, name))
        options[name] = int(value) if value.isdecimal() else value
    check_options(kind, options)
    return kind, options


def _example(kind: str, name: str) -> str:
    known = options_of(kind)
    if not known:
        return f"{kind} has no options at all"
    return f"say it as in {kind},{name}=…" if name in known else f"say it as in {kind},max_workers=4"


def install_words(words: str) -> Callable[[], None]:
    """Install the executor that ``words`` describe; it is made at the first call that needs it.

    Raises ``UsageError`` for words that describe none, and for a package that is missing.
    """
    kind, options = parse(words)
    require(kind)
    return _install(_Lazy(kind, options))


class _Lazy:
    """The executor that some words describe, made when it is first asked for."""

    def __init__(self, kind: str, options: dict[str, object]) -> None:
        self._kind = kind
        self._options = options
        self._lock = threading.Lock()
        self._executor: Executor | None = None
        self._errors: weakref.WeakSet[BaseException] = weakref.WeakSet()

    def __call__(self) -> Executor:
        with self._lock:
            if self._executor is None:
                try:
                    self._executor = executor(self._kind, **self._options)
                except UnderlayError as error:
                    self._tell_at_the_end(error)
                    raise
            return self._executor

    def _tell_at_the_end(self, error: UnderlayError) -> None:
        """Where the program ends by this error, print its sentence alone: it is not the program that is at fault.

        The program may catch it, and one that has a hook of its own keeps that.
        """
        self._errors.add(error)
        if sys.excepthook is sys.__excepthook__:
            sys.excepthook = self._print_sentence

    def _print_sentence(self, kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
        if error not in self._errors:
            sys.__excepthook__(kind, error, at)
        else:
            say(str(error))

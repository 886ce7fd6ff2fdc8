"""What a program may not do on a host: threads, processes, the real machine's descriptors, waiting for a person.

This file knows which calls would make a run depend on the machine, and what to do instead. It refuses to know what
does work: calls in threads that a pool or the loop makes are ``_threads.py``'s, sockets ``_sockets.py``'s.

A refusal is an ``UnderlayError`` that names file and line. Outside of a host's turn nothing is refused.
"""

from __future__ import annotations

import _posixsubprocess
import _thread
import builtins
import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from ..errors import UnderlayError
from ._stand_ins import PACKAGES, replace, replace_method

if TYPE_CHECKING:
    from ._host import Host

_LIBRARY: Final = tuple({sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep, "<frozen "})
_OURS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

_USE_COROUTINES: Final = "make it a coroutine, or hand the call to asyncio.to_thread(), which costs time and no thread"
USE_A_HOST: Final = "let another host do it, whose program is a coroutine: world.host(name, start=...)"
# Whoever asks a person on behalf of a debugger.
_DEBUGGERS: Final = frozenset({"cmd", "code", "pdb"})


def refusal(what: str, remedy: str) -> UnderlayError:
    """The error that names the program's line; to be raised by who calls."""
    place = program_line(sys._getframe(1))
    return UnderlayError(f"{place}: {what}" if place else what, remedy=remedy)


def program_line(frame: FrameType | None) -> str:
    """File and line that called into the standard library or into us; where that is a package, its caller's too."""
    return line_of(_callers(frame))


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def line_of(frames: Iterable[FrameType]) -> str:
    """The same of frames, the innermost first; nothing where all are the library's or ours."""
    package = ""
    for frame in frames:
        file = frame.f_code.co_filename
        if any(f"{os.sep}{each}{os.sep}" in file for each in PACKAGES) and not file.startswith(_OURS):
            package = package or f"{file}:{frame.f_lineno}"
        elif not file.startswith((*_LIBRARY, _OURS)):
            here = f"{file}:{frame.f_lineno}"
            return f"{package} (called from {here})" if package else here
    return package


def _refuse(what: str, remedy: str) -> Callable[..., Any]:
    def inside(host: Host, /, *args: object, **kwargs: object) -> Any:
        raise refusal(f"{what} on the simulated host {host.name}", remedy)

    return inside


def _refuse_method(what: str, remedy: str) -> Callable[..., Any]:
    inside = _refuse(what, remedy)

    def method(host: Host, original: object, /, *args: object, **kwargs: object) -> Any:
        return inside(host)

    return method


_thread_refused: Final = _refuse("a thread was started", _USE_COROUTINES)
for _name in ("start_new_thread", "start_new", "start_joinable_thread"):
    if hasattr(_thread, _name):
        replace(getattr(_thread, _name), _thread_refused)

_process_refused: Final = _refuse("a process was started", USE_A_HOST)
for _name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "execv", "execve"):
    if hasattr(os, _name):
        replace(getattr(os, _name), _process_refused)
replace(_posixsubprocess.fork_exec, _process_refused)
replace_method(subprocess.Popen, "__init__", _refuse_method("a process was started", USE_A_HOST))

_selector: Final = "a selector was made"
USE_LOOP: Final = "the loop of a host waits; await asyncio's streams or loop.sock_*()"
replace_method(selectors._BaseSelectorImpl, "__init__", _refuse_method(_selector, USE_LOOP))


_USE_TIMER: Final = "use loop.call_later() or asyncio.timeout()"
replace(signal.alarm, _refuse("an alarm of the real machine was set", _USE_TIMER))
replace(signal.setitimer, _refuse("an alarm of the real machine was set", _USE_TIMER))
for _name in ("pause", "sigwait", "sigwaitinfo", "sigtimedwait"):
    if hasattr(signal, _name):
        replace(
            getattr(signal, _name),
            _refuse("a signal was waited for", "use loop.add_signal_handler() and an asyncio.Event"),
        )
for _name in ("wait", "wait3", "wait4", "waitid", "waitpid"):
    if hasattr(os, _name):
        replace(getattr(os, _name), _refuse("a process was waited for, and there is none", USE_A_HOST))


def _input(host: Host, prompt: object = "", /) -> str:
    if sys._getframe(2).f_globals.get("__name__") in _DEBUGGERS:
        return _real_input(prompt)
    raise refusal(
        f"a person was asked on the simulated host {host.name}, and a seed cannot answer",
        "give the program what it asks for",
    )


_real_input: Final = builtins.input
replace(builtins.input, _input)


def _wait(host: Host, original: object, self: threading.Condition, timeout: float | None = None) -> bool:
    """Nobody else runs who could notify: with a time-out it passes, as code that takes time."""
    if timeout is None:
        raise refusal(
            f"code on the simulated host {host.name} waits for another thread, and there is none",
            "wait for an asyncio.Event or asyncio.Queue",
        )
    host.take(timeout)
    return False


replace_method(threading.Condition, "wait", _wait)

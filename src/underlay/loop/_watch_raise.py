"""Calls that are known to block raise an error at their line, where an event loop would have to wait for them.

The functions are replaced while anybody forbids them, and put back afterwards. A replaced one asks whether a loop
runs in this thread; in all other threads, executors' among them, it does what it always does. What the standard
library does itself is let through where it knows better or can't do otherwise: asyncio's own calls, imports, the
reading of source lines for tracebacks, and what subprocess does inside a call of its own.

This file knows which calls block, and what to say instead. It refuses to know how long anything takes.
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from ..errors import UnderlayError
from ._site.sitecustomize import AfterImport
from ._watch_stack import Frame, callers_own

__all__ = ["BlockingCall", "forbid", "refused"]


class BlockingCall(UnderlayError, RuntimeError):
    """A call that would block was made in the thread of a running event loop; it was not carried out.

    >>> print(BlockingCall("time.sleep()", Frame("app.py", 12, "handler"), "await asyncio.sleep()"))
    time.sleep() would hold the event loop, at app.py:12 in handler; await asyncio.sleep() instead
    """

    def __init__(self, call: str, at: Frame, instead: str) -> None:
        super().__init__(f"{call} would hold the event loop, at {at}", remedy=f"{instead} instead")
        # pickle and copy call the class with args, so they must be our own three.
        self.args = (call, at, instead)
        self.call = call
        self.at = at


BlockingCall.__module__ = "underlay.loop"  # where it is public, and what a traceback calls it


# Calls refused so far by call and line; as many lines as a person will read, others under None.
_MOST_LINES: Final = 100
_refused: Final[dict[tuple[str, Frame] | None, int]] = {}

# The innermost frame above a call, in one of these: it knows what it does.
_KNOWING: Final = (
    os.path.dirname(asyncio.__file__) + os.sep,
    os.path.dirname(__file__) + os.sep,
    subprocess.__file__,
    threading.__file__,
    concurrent.futures.__path__[0] + os.sep,
    os.path.join(os.path.dirname(os.__file__), "selectors.py"),
)
# A frame anywhere between a call and its loop, in one of these: the program can't help it.
_INEVITABLE: Final = (
    "<frozen importlib.",
    "<frozen zipimport>",
    os.path.join(os.path.dirname(os.__file__), "linecache.py"),
    os.path.join(os.path.dirname(os.__file__), "warnings.py"),
)

_TO_THREAD: Final = "await asyncio.to_thread(…)"
_STREAMS: Final = "await asyncio.open_connection(…), or loop.sock_…() on a non-blocking socket"
_PROCESS: Final = "await asyncio.create_subprocess_exec(…)"
_LOOKUP: Final = "await loop.getaddrinfo(…) or loop.getnameinfo(…)"

_FUNCTIONS: Final = (
    (time, "sleep", "await asyncio.sleep()"),
    (builtins, "open", _TO_THREAD),
    (io, "open", _TO_THREAD),
    (builtins, "input", _TO_THREAD),
    (socket, "getaddrinfo", _LOOKUP),
    (socket, "gethostbyname", _LOOKUP),
    (socket, "gethostbyname_ex", _LOOKUP),
    (socket, "gethostbyaddr", _LOOKUP),
    (socket, "getnameinfo", _LOOKUP),
    (os, "system", "await asyncio.create_subprocess_shell(…)"),
    (os, "wait", _PROCESS),
    (os, "waitpid", _PROCESS),
    (subprocess, "run", _PROCESS),
    (subprocess, "call", _PROCESS),
    (subprocess, "check_call", _PROCESS),
    (subprocess, "check_output", _PROCESS),
    (subprocess, "getoutput", _PROCESS),
    (subprocess, "getstatusoutput", _PROCESS),
)
# fmt: off
_SOCKET_METHODS: Final = (
    "accept", "connect", "recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into",
    "send", "sendall", "sendfile", "sendmsg", "sendto",
)
# fmt: on
_TLS_METHODS: Final = ("do_handshake", "read", "recv", "recv_into", "send", "sendall", "write")

_lock: Final = threading.Lock()
_scopes: Final[list[asyncio.AbstractEventLoop | None]] = []
_put_back: Final[list[Callable[[], None]]] = []


def refused() -> dict[tuple[str, Frame] | None, int]:
    """How often which call was refused at which line, whatever became of the error; those past 100 lines by None."""
    return dict(_refused)


def forbid(loop: asyncio.AbstractEventLoop | None = None) -> Callable[[], None]:
    """From now on known blocking calls raise `BlockingCall` in ``loop``, or in any; returns what ends it."""
    with _lock:
        if not _scopes:
            _replace_all()
        _scopes.append(loop)
    ended = False

    def allow() -> None:
        nonlocal ended
        with _lock:
            if ended:
                return
            ended = True
            _scopes.remove(loop)
            if not _scopes:
                while _put_back:
                    _put_back.pop()()

    return allow


class _Guarded:
    """Stands where a function stood. An object, as a built-in function, doesn't become a method in a class's body."""

    def __init__(self, function: Callable[..., Any], call: str, instead: str, blocks: Callable[..., bool]) -> None:
        self.__wrapped__ = function
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self._call = call
        self._instead = instead
        self._blocks = blocks

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if asyncio._get_running_loop() is not None and self._would_block(*args, **kwargs):
            _refuse(self._call, self._instead)
        return self.__wrapped__(*args, **kwargs)

    def _would_block(self, *args: Any, **kwargs: Any) -> bool:
        try:
            return self._blocks(*args, **kwargs)
        except TypeError:
            return False  # these arguments are wrong: the function itself says so

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by its name, as the function itself

    def __repr__(self) -> str:
        return repr(self.__wrapped__)


def _refuse(call: str, instead: str) -> None:
    """Raise, unless no one forbade it in this loop, or the call is the standard library's own."""
    loop = asyncio._get_running_loop()
    if not any(scope is None or scope is loop for scope in _scopes):
        return
    frame = sys._getframe(2)
    if frame.f_code.co_filename.startswith(_KNOWING):
        return
    stack = []
    above: Any = frame
    while above is not None and above.f_code.co_name != "run_forever":
        if above.f_code.co_filename.startswith(_INEVITABLE):
            return
        stack.append(Frame(above.f_code.co_filename, above.f_lineno, above.f_code.co_name))
        above = above.f_back
    at = callers_own(stack)
    with _lock:
        line = (call, at) if (call, at) in _refused or len(_refused) < _MOST_LINES else None
        _refused[line] = _refused.get(line, 0) + 1
    raise BlockingCall(call, at, instead)


def _replace_all() -> None:
    for module, name, instead in _FUNCTIONS:
        _replace_function(module, name, instead)
    for name in _SOCKET_METHODS:
        _replace_method(socket.socket, name, f"socket.{name}()", _STREAMS, lambda sock: sock.gettimeout() != 0)
    for name in ("wait", "communicate"):
        _replace_method(subprocess.Popen, name, f"Popen.{name}()", _PROCESS, lambda child: child.poll() is None)
    _replace_method(
        concurrent.futures.Future, "result", "Future.result()", "await asyncio.wrap_future(…)", lambda it: not it.done()
    )
    _replace_method(threading.Thread, "join", "Thread.join()", _TO_THREAD, lambda thread: thread.is_alive())
    tls = AfterImport("ssl", _replace_tls)
    tls.watch()
    _put_back.append(tls.unwatch)


def _replace_tls(module: ModuleType) -> None:
    for name in _TLS_METHODS:
        _replace_method(
            module.SSLSocket,
            name,
            f"SSLSocket.{name}()",
            _STREAMS,
            lambda sock: sock.fileno() >= 0 and sock.gettimeout() != 0,
        )


def _replace_function(module: ModuleType, name: str, instead: str) -> None:
    original = getattr(module, name)
    shown = name if module in (builtins, io) else f"{module.__name__}.{name}"
    setattr(module, name, _Guarded(original, f"{shown}()", instead, _MAY_NOT.get(name, _always)))
    _put_back.append(lambda: setattr(module, name, original))


def _replace_method(owner: Any, name: str, call: str, instead: str, blocks: Callable[[Any], bool]) -> None:
    own = owner.__dict__.get(name)
    original = getattr(owner, name)

    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        if asyncio._get_running_loop() is not None and blocks(self):
            _refuse(call, instead)
        return original(self, *args, **kwargs)

    guarded.__name__, guarded.__qualname__, guarded.__doc__ = name, original.__qualname__, original.__doc__
    setattr(owner, name, guarded)
    # A method that was inherited is found again once ours is gone.
    _put_back.append((lambda: delattr(owner, name)) if own is None else (lambda: setattr(owner, name, own)))


def _always(*args: object, **kwargs: object) -> bool:
    return True


def _sleeps(seconds: Any) -> bool:
    return bool(seconds)  # time.sleep(0) only gives way


def _opens_a_path(file: Any, *args: object, **kwargs: object) -> bool:
    return not isinstance(file, int)  # a descriptor is open already


def _waits(pid: int, options: int) -> bool:
    return not options & os.WNOHANG


def _asks(host: Any, *args: object, **kwargs: object) -> bool:
    """Whether a name must be looked up: an address needs no server."""
    if host is None:
        return False
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
            return False
        except (OSError, TypeError, ValueError):
            pass
    return True


_MAY_NOT: Final[dict[str, Callable[..., bool]]] = {
    "sleep": _sleeps,
    "open": _opens_a_path,
    "waitpid": _waits,
    "getaddrinfo": _asks,
    "gethostbyname": _asks,
}

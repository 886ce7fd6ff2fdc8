"""Signals of a host's program: its handlers are its own, and only it can send itself one.

This file knows who handles which signal on which host. It refuses to know the real process's handlers, which stay as
they are, so that Ctrl-C ends the test.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Final

from ._refusals import refusal
from ._stand_ins import replace

if TYPE_CHECKING:
    from ._host import Host

# signal(7): what does nothing where nobody handles it.
_HARMLESS: Final = frozenset({signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT})
_real_kill = os.kill


def _signal(host: Host, signalnum: int, handler: Any) -> Any:
    number = signal.Signals(signalnum)
    if number in (signal.SIGKILL, signal.SIGSTOP):
        raise OSError(22, "Invalid argument")
    if not callable(handler) and handler not in (signal.SIG_IGN, signal.SIG_DFL):
        raise TypeError("signal handler must be signal.SIG_IGN, signal.SIG_DFL, or a callable object")
    before = _handler(host, number)
    host.signals[number] = handler
    return before


def _handler(host: Host, signalnum: int) -> Any:
    default = signal.default_int_handler if signalnum == signal.SIGINT else signal.SIG_DFL
    return host.signals.get(signal.Signals(signalnum), default)


def send(host: Host, signalnum: int) -> None:
    """Let the program of this host have a signal, as ``os.kill(os.getpid(), …)`` does."""
    number = signal.Signals(signalnum)
    loop = host.loop
    if number in loop.signal_callbacks:
        callback, args = loop.signal_callbacks[number]
        loop.call_soon(callback, *args)
        return
    handler = _handler(host, number)
    if callable(handler):
        loop.call_soon(handler, number, None)
    elif handler == signal.SIG_DFL and number not in _HARMLESS:
        raise refusal(
            f"{number.name} would end the program on the simulated host {host.name}, as nobody handles it",
            "return from its coroutine, or let the test crash() the host",
        )


def _kill(host: Host, pid: int, signalnum: int, /) -> None:
    if pid not in (host.chance.pid, 0):
        raise ProcessLookupError(3, "No such process")
    if signalnum:
        send(host, signalnum)


def _wakeup_fd(host: Host, fd: int, /, *, warn_on_full_buffer: bool = True) -> int:
    return -1


replace(signal.signal, _signal)
replace(signal.getsignal, _handler)
replace(signal.raise_signal, send)
replace(signal.set_wakeup_fd, _wakeup_fd)
replace(signal.siginterrupt, lambda host, signalnum, flag: None)
replace(os.kill, _kill)

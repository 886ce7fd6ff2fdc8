"""Which sockets a program on a host gets: the host's TCP, UDP and Unix streams, and none of the real machine's.

This file knows what ``socket.socket(…)`` makes there, and what is refused. It refuses to know what the sockets do.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from ..loop._bridge import FIRST_NUMBER
from ..loop._io_stack import _hook_socket, _unhook_socket
from ..loop._stack_socket import StackSocket
from . import _names, _turn  # noqa: F401  # names are looked up where sockets are
from ._refusals import refusal
from ._stand_ins import at_begin_and_end, replace
from ._unix import UnixSocket, pair

if TYPE_CHECKING:
    from ._host import Host

_INTERNET: Final = frozenset({-1, socket.AF_INET, socket.AF_INET6})
_KINDS: Final = frozenset({-1, socket.SOCK_STREAM, socket.SOCK_DGRAM})
_FLAGS_OF_TYPE: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_REMEDY: Final = "a host has TCP, UDP and Unix streams, for asyncio"


def _class_for(
    host: Host, cls: type[socket.socket], family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
) -> type[socket.socket]:
    """The class of what is asked for."""
    if cls is not socket.socket:
        raise refusal(f"a {cls.__name__} was made on the simulated host {host.name}", _REMEDY + "; TLS is asyncio's")
    if fileno is not None:
        if fileno < FIRST_NUMBER:
            raise refusal(
                f"the descriptor {fileno} of the real machine was made a socket on the simulated host {host.name}",
                _REMEDY,
            )
        former = host.loop.socket_of(fileno)
        return UnixSocket if isinstance(former, UnixSocket) else cls
    kind = type if type == -1 else type & ~_FLAGS_OF_TYPE
    if family in _INTERNET and kind in _KINDS:
        return cls
    if family == socket.AF_UNIX and kind in (-1, socket.SOCK_STREAM):
        return UnixSocket
    raise refusal(
        f"a socket of family {_called(socket.AddressFamily, family)} and type {_called(socket.SocketKind, kind)} was "
        f"made on the simulated host {host.name}",
        _REMEDY,
    )


def _called(names: Any, number: int) -> str:
    try:
        return str(names(number).name)
    except ValueError:
        return str(number)


def _socketpair(host: Host, family: int | None = None, type: int = socket.SOCK_STREAM, proto: int = 0) -> Any:
    if family not in (None, socket.AF_UNIX) or type & ~_FLAGS_OF_TYPE != socket.SOCK_STREAM:
        raise refusal(f"a pair of such sockets was made on the simulated host {host.name}", "a pair is of Unix streams")
    return pair(type)


replace(socket.socketpair, _socketpair)

_before: Any = None
_raw: Any = None
_is_hooked_by_us = False


def _allocate(cls: type[socket.socket], *args: Any, **kwargs: Any) -> socket.socket:
    host = _turn.here()
    if host is not None and not issubclass(cls, StackSocket):
        cls = _class_for(host, cls, *args, **kwargs)
    made: socket.socket = _before(cls, *args, **kwargs)
    return made


def _put(on: bool) -> None:
    global _before, _raw, _is_hooked_by_us
    if on:
        _is_hooked_by_us = _hook_socket()
        _raw = socket.socket.__dict__["__new__"]
        _before = _raw.__func__
        socket.socket.__new__ = staticmethod(_allocate)  # type: ignore[assignment,method-assign]
    else:
        socket.socket.__new__ = _raw  # type: ignore[method-assign]
        if _is_hooked_by_us:
            _unhook_socket()


at_begin_and_end(_put)

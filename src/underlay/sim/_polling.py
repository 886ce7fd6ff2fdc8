"""``select.select`` and ``select.poll`` on a host: a look at its own sockets, and no waiting.

This file knows which of a host's sockets are ready now: libraries look so whether a pooled connection was closed
(httpcore). It refuses to wait, as nothing happens on a host while its code waits, and to look at real descriptors.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ..loop._bridge import FIRST_NUMBER
from ._refusals import USE_LOOP, refusal
from ._stand_ins import replace

if TYPE_CHECKING:
    from ._host import Host

_READABLE: Final = select.POLLIN | select.POLLHUP | select.POLLERR
_WRITABLE: Final = select.POLLOUT | select.POLLERR


class HostPoll:
    """What ``select.poll()`` gives on a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._masks: dict[int, int] = {}

    def register(self, fd: Any, eventmask: int = select.POLLIN | select.POLLPRI | select.POLLOUT, /) -> None:
        """Look at it from now on."""
        self._masks[_number(self._host, fd)] = eventmask

    def modify(self, fd: Any, eventmask: int, /) -> None:
        """Look for these events instead; FileNotFoundError where nobody looked."""
        number = _number(self._host, fd)
        if number not in self._masks:
            raise FileNotFoundError(2, "No such file or directory")
        self._masks[number] = eventmask

    def unregister(self, fd: Any, /) -> None:
        """Look no more; KeyError where nobody looked."""
        del self._masks[_number(self._host, fd)]

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Who is ready now."""
        found = [
            (number, mask) for number, wanted in self._masks.items() if (mask := _ready(self._host, number, wanted))
        ]
        if not found and timeout != 0:
            _refuse_to_wait(self._host)
        return found


def _poll(host: Host) -> HostPoll:
    return HostPoll(host)


def _select(
    host: Host, rlist: Iterable[Any], wlist: Iterable[Any], xlist: Iterable[Any], timeout: float | None = None, /
) -> tuple[list[Any], list[Any], list[Any]]:
    readers = [each for each in rlist if _ready(host, _number(host, each), select.POLLIN) & _READABLE]
    writers = [each for each in wlist if _ready(host, _number(host, each), select.POLLOUT) & _WRITABLE]
    urgent = [each for each in xlist if _ready(host, _number(host, each), select.POLLPRI) & select.POLLPRI]
    if not (readers or writers or urgent) and timeout != 0:
        _refuse_to_wait(host)
    return readers, writers, urgent


def _number(host: Host, fd: Any) -> int:
    number = fd if isinstance(fd, int) else int(fd.fileno())
    if number < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({number})")
    if number < FIRST_NUMBER:
        raise refusal(f"the real descriptor {number} was looked at on the simulated host {host.name}", USE_LOOP)
    return number


def _ready(host: Host, number: int, wanted: int) -> int:
    try:
        return host.loop.socket_of(number).readiness(wanted)
    except OSError:
        return select.POLLNVAL


def _refuse_to_wait(host: Host) -> None:
    raise refusal(f"sockets were waited for by select or poll on the simulated host {host.name}", USE_LOOP)


replace(select.select, _select)
replace(select.poll, _poll, without_arguments=True)

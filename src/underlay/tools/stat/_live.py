"""The live view: each figure with its last minutes as a sparkline.

This file knows lines of text and how far they reach back. It refuses to know terminals and where numbers come from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .._sparkline import sparkline
from ._usage import Usage
from ._view import pressure, process_rows, short, whole
from ._watch import Reading

__all__ = ["History"]

_WIDTH: Final = 80
_NAME: Final = 22
_VALUE: Final = 8
# So many readings are kept: more than a line of the widest terminal in use has room for.
_MOST: Final = 1000
# The processor's and the pressure's, which stay where there is room for little else.
_FEWEST_LINES: Final = 9


@dataclass(frozen=True, slots=True)
class _Line:
    """A figure: what it is called, what it is, how it is written, and where its scale ends (None: at its greatest)."""

    name: str
    value: Callable[[Usage], float | None]
    write: Callable[[float | None], str]
    top: float | None = None


_LINES: Final[tuple[_Line, ...]] = (
    _Line("user            %", lambda u: u.cpu.user, whole, 100),
    _Line("system          %", lambda u: u.cpu.system, whole, 100),
    _Line("waits for disk  %", lambda u: u.cpu.iowait, whole, 100),
    _Line("stolen          %", lambda u: u.cpu.steal, whole, 100),
    _Line("runnable threads", lambda u: u.running, whole),
    _Line("blocked threads", lambda u: u.blocked, whole),
    _Line("pressure cpu    %", lambda u: pressure(u, "cpu_some"), whole, 100),
    _Line("pressure memory %", lambda u: pressure(u, "memory_some"), whole, 100),
    _Line("pressure io     %", lambda u: pressure(u, "io_some"), whole, 100),
    _Line("memory taken    %", lambda u: 100 - 100 * u.memory_available_bytes / u.memory_total_bytes, whole, 100),
    _Line("swap in, out  B/s", lambda u: u.swapped_in_bytes_per_s + u.swapped_out_bytes_per_s, short),
    _Line("disk in       B/s", lambda u: u.paged_in_bytes_per_s, short),
    _Line("disk out      B/s", lambda u: u.paged_out_bytes_per_s, short),
    _Line("net in        B/s", lambda u: u.received_bytes_per_s, short),
    _Line("net out       B/s", lambda u: u.sent_bytes_per_s, short),
    _Line("retransmitted  /s", lambda u: u.tcp_retransmitted_segments_per_s, short),
    _Line("sockets", lambda u: u.sockets, short),
    _Line("switches       /s", lambda u: u.context_switches_per_s, short),
    _Line("interrupts     /s", lambda u: u.interrupts_per_s, short),
    _Line("softirqs       /s", lambda u: u.softirqs_per_s, short),
)


class History:
    """The last readings, of which a view shows as many as its lines have room for."""

    def __init__(self, *, plain: bool = False) -> None:
        self._plain = plain
        self._usages: deque[Usage] = deque(maxlen=_MOST)
        self._last: Reading | None = None

    def add(self, reading: Reading) -> None:
        """Take one more."""
        self._usages.append(reading.usage)
        self._last = reading

    def lines(self, width: int = _WIDTH, height: int | None = None) -> list[str]:
        """Give the view: the newest readings of each line, and where there is little height, the processes rather
        than the last figures."""
        if self._last is None:
            return []
        found = []
        room = max(width - _NAME - _VALUE - 1, 1)
        newest = list(self._usages)[-room:]
        for line in _LINES:
            values = [line.value(usage) for usage in newest]
            if values[-1] is None:
                continue
            drawn = sparkline(values, line.top, plain=self._plain)
            found.append(f"{line.name:<{_NAME}}{line.write(values[-1]):>{_VALUE}} {drawn}")
        processes = process_rows(self._last.processes)
        if height is not None:
            found = found[: max(height - len(processes), _FEWEST_LINES)]
        return found + processes

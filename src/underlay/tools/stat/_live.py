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
    """The last readings, as many as a line of 80 columns has room for."""

    def __init__(self, *, plain: bool = False) -> None:
        self._plain = plain
        self._usages: deque[Usage] = deque(maxlen=_WIDTH - _NAME - _VALUE - 1)
        self._last: Reading | None = None

    def add(self, reading: Reading) -> None:
        """Take one more."""
        self._usages.append(reading.usage)
        self._last = reading

    def lines(self) -> list[str]:
        """Give the view."""
        if self._last is None:
            return []
        found = []
        for line in _LINES:
            values = [line.value(usage) for usage in self._usages]
            if values[-1] is None:
                continue
            drawn = sparkline(values, line.top, plain=self._plain)
            found.append(f"{line.name:<{_NAME}}{line.write(values[-1]):>{_VALUE}} {drawn}")
        return found + process_rows(self._last.processes)

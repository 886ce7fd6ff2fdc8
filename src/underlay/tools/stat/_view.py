"""How readings look: rows of a table of 80 columns, or of more, and JSON.

This file knows columns. It refuses to know terminals, and where numbers come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from ._processes import ProcessUsage
from ._usage import Usage
from ._watch import Period, Reading

__all__ = [
    "COLUMNS",
    "SCHEMA",
    "WIDE_COLUMNS",
    "Column",
    "as_json",
    "heads",
    "pressure",
    "process_rows",
    "row",
    "short",
    "whole",
]

SCHEMA: Final = "underlay.stat/1"

_MARKS: Final = {Period.BOOT: "*", Period.INTERVAL: "", Period.AVERAGE: "="}


def short(value: float | None) -> str:
    """Write a number in at most four letters: 1k is 1000.

    >>> [short(value) for value in (0, 0.04, 7.44, 999.6, 12_345, 1_234_567, 98.6e9, None)]
    ['0', '0.0', '7.4', '1.0k', '12k', '1.2M', '99G', '-']
    """
    if value is None:
        return "-"
    if value < 9.95:
        return f"{value:.1f}" if value else "0"
    if value < 999.5:
        return f"{value:.0f}"
    for letter in "kMGTPEZ":
        value /= 1000
        if value < 9.95:
            return f"{value:.1f}{letter}"
        if value < 999.5:
            break
    return f"{value:.0f}{letter}"


def whole(value: float | None) -> str:
    """Write a number without a fraction."""
    return "-" if value is None else f"{value:.0f}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: to which group it belongs, its name, its width with the space before it, and what stands in it."""

    group: str
    name: str
    width: int
    value: Callable[[Usage], float | None]
    write: Callable[[float | None], str]


def pressure(usage: Usage, name: str) -> float | None:
    """Give the percentage of one kind of pressure; None where this kernel has none."""
    return None if usage.pressure_percent is None else usage.pressure_percent.get(name)


def _greatest_pressure(usage: Usage) -> float | None:
    shares = [share for name in ("cpu_some", "memory_some", "io_some") if (share := pressure(usage, name)) is not None]
    return max(shares, default=None)


_RUNNING = (
    Column("procs", "r", 3, lambda u: u.running, whole),
    Column("procs", "b", 3, lambda u: u.blocked, whole),
)
_CPU = (
    Column("cpu %", "us", 4, lambda u: u.cpu.user, whole),
    Column("cpu %", "sy", 4, lambda u: u.cpu.system, whole),
    Column("cpu %", "id", 4, lambda u: u.cpu.idle, whole),
    Column("cpu %", "wa", 4, lambda u: u.cpu.iowait, whole),
    Column("cpu %", "st", 4, lambda u: u.cpu.steal, whole),
)
_FREE = Column("memory B", "free", 5, lambda u: u.memory_free_bytes, short)
_CACHE = Column("memory B", "cache", 6, lambda u: u.memory_cached_bytes, short)
_DISK_AND_NET = (
    Column("disk B/s", "in", 5, lambda u: u.paged_in_bytes_per_s, short),
    Column("disk B/s", "out", 5, lambda u: u.paged_out_bytes_per_s, short),
    Column("net B/s", "in", 5, lambda u: u.received_bytes_per_s, short),
    Column("net B/s", "out", 5, lambda u: u.sent_bytes_per_s, short),
)
_INTERRUPTS = Column("per s", "intr", 5, lambda u: u.interrupts_per_s, short)
_SWITCHES = Column("per s", "cs", 5, lambda u: u.context_switches_per_s, short)
_RETRANSMITTED = Column("per s", "rtx", 5, lambda u: u.tcp_retransmitted_segments_per_s, short)

COLUMNS: Final = (
    *_RUNNING,
    *_CPU,
    _FREE,
    _CACHE,
    Column("swap", "B/s", 5, lambda u: u.swapped_in_bytes_per_s + u.swapped_out_bytes_per_s, short),
    *_DISK_AND_NET,
    _SWITCHES,
    _RETRANSMITTED,
    Column("psi", "%", 4, _greatest_pressure, whole),
)
"""The columns that fit 80: psi is the greatest pressure of processor, memory and disk."""

WIDE_COLUMNS: Final = (
    *_RUNNING,
    *_CPU,
    Column("cpu %", "gu", 4, lambda u: u.cpu.guest, whole),
    Column("cpu %", "si", 4, lambda u: u.cpu.softirq, whole),
    Column("memory B", "swpd", 5, lambda u: u.swap_used_bytes, short),
    _FREE,
    Column("memory B", "avail", 6, lambda u: u.memory_available_bytes, short),
    Column("memory B", "buff", 5, lambda u: u.memory_buffers_bytes, short),
    _CACHE,
    Column("swap B/s", "in", 5, lambda u: u.swapped_in_bytes_per_s, short),
    Column("swap B/s", "out", 5, lambda u: u.swapped_out_bytes_per_s, short),
    *_DISK_AND_NET,
    _INTERRUPTS,
    Column("per s", "sirq", 5, lambda u: u.softirqs_per_s, short),
    _SWITCHES,
    Column("per s", "fork", 5, lambda u: u.forks_per_s, short),
    Column("per s", "flt", 5, lambda u: u.major_faults_per_s, short),
    _RETRANSMITTED,
    Column("sockets", "all", 5, lambda u: u.sockets, short),
    Column("sockets", "tcp", 5, lambda u: u.tcp_sockets, short),
    Column("sockets", "tw", 5, lambda u: u.tcp_time_wait, short),
    Column("sockets", "udp", 5, lambda u: u.udp_sockets, short),
    Column("pressure %", "cpu", 4, lambda u: pressure(u, "cpu_some"), whole),
    Column("pressure %", "mem", 4, lambda u: pressure(u, "memory_some"), whole),
    Column("pressure %", "io", 4, lambda u: pressure(u, "io_some"), whole),
)
"""All of them."""


def heads(columns: Sequence[Column]) -> list[str]:
    """Give the two lines above a table: groups, and names."""
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + column.width)
        else:
            groups.append((column.group, column.width))
    above = "".join(f" {group:-^{width - 1}}" for group, width in groups)
    return [above, "".join(f"{column.name:>{column.width}}" for column in columns)]


def row(reading: Reading, columns: Sequence[Column]) -> str:
    """Give the line of one reading; ``*`` marks that since boot, ``=`` the average of all.

    What is too long for its column moves the next ones, and still has a space before it, as in vmstat.
    """
    cells = [f" {column.write(column.value(reading.usage)):>{column.width - 1}}" for column in columns]
    return "".join(cells) + _MARKS[reading.period]


def process_rows(processes: Sequence[ProcessUsage]) -> list[str]:
    """Give a small table of processes; nothing for none."""
    if not processes:
        return []
    names = ("pid", "cpu %", "user", "sys", "RSS B", "read/s", "write/s", "thr")
    widths = (8, 6, 5, 5, 6, 6, 7, 4)
    return [
        "    " + " ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True)) + " s  name",
        *(
            f"    {each.pid:>8} {each.cpu_percent:>6.1f} {each.user_percent:>5.0f} {each.system_percent:>5.0f}"
            f" {short(each.resident_bytes):>6} {short(each.read_bytes_per_s):>6} {short(each.written_bytes_per_s):>7}"
            f" {each.threads:>4} {each.state:<1}  {each.name}"
            for each in processes
        ),
    ]


def as_json(reading: Reading) -> dict[str, object]:
    """Give a reading as the object that docs/stat.md describes."""
    usage = asdict(reading.usage)
    del usage["is_since_boot"]
    return {
        "schema": SCHEMA,
        "period": reading.period.value,
        **usage,
        "cpus": {str(number): share for number, share in usage["cpus"].items()},
        "processes": [asdict(each) for each in reading.processes],
    }

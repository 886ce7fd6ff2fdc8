"""What the kernel's counters say at one moment: one reading of /proc.

This file knows the files and their layout (proc(5); in the kernel's Documentation, filesystems/proc.rst and
accounting/psi.rst). It refuses to know what two readings mean together. A file that this kernel lacks, or that may
not be read here, leaves its values None; a line that a later kernel adds is passed over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

__all__ = ["CpuTicks", "Interface", "Memory", "Sample", "Sockets", "read_sample"]

_PROC: Final = Path("/proc")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_KIB: Final = 1024
# The network's files are a namespace's; a thread may be in another one than its process began in.
_NET: Final = Path("thread-self/net")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class CpuTicks:
    """Where processors spent their time, in ticks (sysconf(3), _SC_CLK_TCK) since the start of the machine."""

    user: int
    nice: int
    system: int
    idle: int
    iowait: int
    irq: int
    softirq: int
    steal: int
    guest: int
    """For guests; ``user`` holds it too."""
    guest_nice: int
    """For guests with a low priority; ``nice`` holds it too."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory and swap, in bytes."""

    total_bytes: int
    free_bytes: int
    available_bytes: int
    """What programs could still get without swapping."""
    buffers_bytes: int
    cached_bytes: int
    """Page cache, and what of the kernel's own memory it would give back."""
    swap_total_bytes: int
    swap_used_bytes: int


@dataclass(frozen=True, slots=True)
class Interface:
    """Counters of a network interface."""

    received_bytes: int
    received_packets: int
    received_dropped: int
    sent_bytes: int
    sent_packets: int
    sent_dropped: int


@dataclass(frozen=True, slots=True)
class Sockets:
    """Sockets that there are, of this network namespace."""

    used: int
    """Of all families, of all programs."""
    tcp: int
    tcp_time_wait: int
    tcp_orphans: int
    udp: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading."""

    monotonic_ns: int
    uptime_s: float
    cpu: CpuTicks
    cpus: dict[int, CpuTicks]
    """Of each processor that was online."""
    running: int
    """Threads that run or could, the reader among them."""
    blocked: int
    """Threads that wait for a disk."""
    interrupts: int
    softirqs: dict[str, int]
    context_switches: int
    forks: int
    memory: Memory
    paged_in_bytes: int
    """Read from disks, as the page cache counts it."""
    paged_out_bytes: int
    swapped_in_bytes: int
    swapped_out_bytes: int
    major_faults: int
    pressure_us: dict[str, int] | None
    """Time for which some threads waited, or all (``full``): ``cpu_some``, ``memory_some``, ``memory_full``, …"""
    interfaces: dict[str, Interface] | None
    sockets: Sockets | None
    tcp_sent_segments: int | None
    tcp_retransmitted_segments: int | None


# Documentation/filesystems/proc.rst, "softirq": the order of kernel/softirq.c, softirq_to_name, since Linux 2.6.31.
_SOFTIRQS: Final = ("hi", "timer", "net_tx", "net_rx", "block", "irq_poll", "tasklet", "sched", "hrtimer", "rcu")


def read_sample(proc: Path = _PROC) -> Sample:
    """Read all counters once.

    ``OSError`` or ``ValueError`` where /proc is none: without /proc/stat, /proc/meminfo, /proc/vmstat and /proc/uptime
    there is nothing to tell.

    >>> sample = read_sample()
    >>> sample.memory.free_bytes < sample.memory.total_bytes
    True
    """
    now = time.monotonic_ns()
    stat = _lines((proc / "stat").read_bytes())
    vmstat = {name: int(words[0]) for name, words in _lines((proc / "vmstat").read_bytes()).items() if words}
    tcp = _optional(lambda: _snmp((proc / _NET / "snmp").read_bytes(), "Tcp"))
    softirqs = [int(word) for word in stat.get("softirq", [])]
    return Sample(
        now,
        float((proc / "uptime").read_text().split()[0]),
        _ticks(stat["cpu"]),
        {int(name[3:]): _ticks(words) for name, words in stat.items() if name[:3] == "cpu" and name[3:].isdecimal()},
        int(stat["procs_running"][0]),
        int(stat["procs_blocked"][0]),
        int(stat["intr"][0]),
        dict(zip(_SOFTIRQS, softirqs[1:], strict=False)),
        int(stat["ctxt"][0]),
        int(stat["processes"][0]),
        _memory((proc / "meminfo").read_bytes()),
        vmstat["pgpgin"] * _KIB,  # proc_vmstat(5): in KiB, whatever the name says
        vmstat["pgpgout"] * _KIB,
        vmstat["pswpin"] * _PAGE_BYTES,
        vmstat["pswpout"] * _PAGE_BYTES,
        vmstat["pgmajfault"],
        _pressure(proc),
        _optional(lambda: _interfaces((proc / _NET / "dev").read_bytes())),
        _optional(lambda: _sockets(proc)),
        None if tcp is None else tcp.get("OutSegs"),
        None if tcp is None else tcp.get("RetransSegs"),
    )


def _optional(read: Callable[[], _T]) -> _T | None:
    """What a file says; None where it is absent, unreadable, or of another layout."""
    try:
        return read()
    except (OSError, ValueError, LookupError):
        return None


def _lines(data: bytes) -> dict[str, list[str]]:
    """Give the words of each line by its first."""
    found = {}
    for line in data.decode(errors="replace").splitlines():
        words = line.split()
        if words:
            found[words[0].rstrip(":")] = words[1:]
    return found


def _ticks(words: list[str]) -> CpuTicks:
    # Kernels before 2.6.33 have fewer columns, and later ones may have more.
    numbers = [int(word) for word in words[:10]]
    return CpuTicks(*numbers, *[0] * (10 - len(numbers)))


def _memory(data: bytes) -> Memory:
    found = {name: int(words[0]) * _KIB for name, words in _lines(data).items() if words}
    swap_total = found.get("SwapTotal", 0)
    return Memory(
        found["MemTotal"],
        found["MemFree"],
        found.get("MemAvailable", found["MemFree"]),
        found["Buffers"],
        found["Cached"] + found.get("SReclaimable", 0),
        swap_total,
        swap_total - found.get("SwapFree", 0),
    )


def _pressure(proc: Path) -> dict[str, int] | None:
    """Read the totals of pressure stall information; None where the kernel keeps none (psi=0)."""
    found = {}
    for resource in ("cpu", "memory", "io"):
        try:
            lines = _lines((proc / "pressure" / resource).read_bytes())
        except OSError:
            continue
        for kind, words in lines.items():
            for word in words:
                name, _, value = word.partition("=")
                if name == "total" and value.isdecimal():
                    found[f"{resource}_{kind}"] = int(value)
    return found or None


def _interfaces(data: bytes) -> dict[str, Interface]:
    found = {}
    for line in data.decode(errors="replace").splitlines()[2:]:
        name, _, rest = line.rpartition(":")  # an alias has a colon in its name
        numbers = [int(word) for word in rest.split()]
        found[name.strip()] = Interface(numbers[0], numbers[1], numbers[3], numbers[8], numbers[9], numbers[11])
    return found


def _sockets(proc: Path) -> Sockets:
    four = _pairs((proc / _NET / "sockstat").read_bytes())
    six = _optional(lambda: _pairs((proc / _NET / "sockstat6").read_bytes())) or {}
    return Sockets(
        four["sockets"]["used"],
        four["TCP"]["inuse"] + six.get("TCP6", {}).get("inuse", 0),
        four["TCP"]["tw"],
        four["TCP"]["orphan"],
        four["UDP"]["inuse"] + six.get("UDP6", {}).get("inuse", 0),
    )


def _pairs(data: bytes) -> dict[str, dict[str, int]]:
    """Read lines such as ``TCP: inuse 5 orphan 0``."""
    return {
        name: {key: int(value) for key, value in zip(words[::2], words[1::2], strict=True)}
        for name, words in _lines(data).items()
    }


def _snmp(data: bytes, protocol: str) -> dict[str, int]:
    """Read a protocol's two lines, of names and of values."""
    names: list[str] = []
    for line in data.decode(errors="replace").splitlines():
        words = line.split()
        if words and words[0] == f"{protocol}:":
            if names:
                return {name: int(value) for name, value in zip(names, words[1:], strict=True)}
            names = words[1:]
    raise ValueError(f"no lines of {protocol}")

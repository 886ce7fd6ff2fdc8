"""What happened between two readings of the counters: rates and shares.

Counters are not as simple as they look. Some are 32 bits wide and wrap; idle and iowait of a processor may go back
a little (proc_stat(5)); interfaces and processors come and go between readings, and take their sums along. So a
difference is never negative, and sums over interfaces are sums of differences. A wrap is told from a counter that
began anew by its size: what fits 32 bits, and would have run less than half of them, has wrapped.

This file computes, and reads nothing.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Final

from ._sample import CpuTicks, Interface, Sample

__all__ = ["CpuShares", "Traffic", "Usage", "between", "counted", "since_boot"]

_WRAP: Final = 1 << 32
# The loopback carries what never leaves the machine.
LOOPBACK: Final = "lo"


@dataclass(frozen=True, slots=True)
class CpuShares:
    """Where processors spent their time, in percent of it."""

    user: float
    """Programs, those with a low priority too; without what guests had."""
    system: float
    """The kernel, with its interrupts."""
    idle: float
    iowait: float
    """Idle, while some thread waited for a disk."""
    steal: float
    """Wanted, but had by other virtual machines."""
    guest: float
    """Running virtual machines of this one."""
    softirq: float
    """The part of ``system`` that handled what interrupts left to do, of packets above all."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an interface carried, a second."""

    received_bytes_per_s: float
    received_packets_per_s: float
    sent_bytes_per_s: float
    sent_packets_per_s: float
    dropped_per_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What the machine was busy with for a while. Rates are per second; what is None this kernel doesn't tell."""

    is_since_boot: bool
    """Whether this is the average since the machine was started."""
    elapsed_s: float
    running: int
    """Threads that ran or could, at the end; this program among them, as in vmstat."""
    blocked: int
    """Threads that waited for a disk, at the end."""
    cpu: CpuShares
    cpus: dict[int, CpuShares]
    """Of each processor that was online at both ends."""
    memory_total_bytes: int
    memory_free_bytes: int
    memory_available_bytes: int
    memory_buffers_bytes: int
    memory_cached_bytes: int
    swap_total_bytes: int
    swap_used_bytes: int
    swapped_in_bytes_per_s: float
    swapped_out_bytes_per_s: float
    paged_in_bytes_per_s: float
    """Read from disks."""
    paged_out_bytes_per_s: float
    """Written to disks."""
    major_faults_per_s: float
    interrupts_per_s: float
    softirqs_per_s: float
    softirqs_by_kind_per_s: dict[str, float]
    context_switches_per_s: float
    forks_per_s: float
    pressure_percent: dict[str, float] | None
    """The part of the time for which some threads waited for a resource, or all: ``cpu_some``, ``memory_full``, …"""
    received_bytes_per_s: float | None
    """Of all interfaces but the loopback."""
    sent_bytes_per_s: float | None
    interfaces: dict[str, Traffic] | None
    sockets: int | None
    tcp_sockets: int | None
    tcp_time_wait: int | None
    tcp_orphans: int | None
    udp_sockets: int | None
    tcp_sent_segments_per_s: float | None
    tcp_retransmitted_segments_per_s: float | None


def counted(now: int, before: int) -> int:
    """Give how far a counter went, though it may have wrapped at 32 bits, gone back a little or begun anew.

    >>> counted(105, 100), counted(10, (1 << 32) - 5), counted(99, 100), counted(3, 1 << 40)
    (5, 15, 0, 0)
    """
    if now >= before:
        return now - before
    if before < _WRAP and now + _WRAP - before < _WRAP >> 1:
        return now + _WRAP - before
    return 0


def between(first: Sample, second: Sample) -> Usage:
    """Tell what happened from the first reading to the second."""
    return _usage(first, second, (second.monotonic_ns - first.monotonic_ns) / 1e9, is_since_boot=False)


def since_boot(sample: Sample) -> Usage:
    """Tell the averages since the machine was started."""
    nothing = CpuTicks(*[0] * 10)
    boot = replace(
        sample,
        cpu=nothing,
        cpus=dict.fromkeys(sample.cpus, nothing),
        interrupts=0,
        softirqs=dict.fromkeys(sample.softirqs, 0),
        context_switches=0,
        forks=0,
        paged_in_bytes=0,
        paged_out_bytes=0,
        swapped_in_bytes=0,
        swapped_out_bytes=0,
        major_faults=0,
        pressure_us=None if sample.pressure_us is None else dict.fromkeys(sample.pressure_us, 0),
        interfaces=None if sample.interfaces is None else {},
        tcp_sent_segments=0,
        tcp_retransmitted_segments=0,
    )
    return _usage(boot, sample, sample.uptime_s, is_since_boot=True)


def _usage(before: Sample, now: Sample, elapsed_s: float, *, is_since_boot: bool) -> Usage:
    elapsed_s = max(elapsed_s, 1e-9)

    def rate(after: int, was: int) -> float:
        return counted(after, was) / elapsed_s

    def rate_or_none(after: int | None, was: int | None) -> float | None:
        return None if after is None or was is None else rate(after, was)

    memory, sockets = now.memory, now.sockets
    kinds = {kind: rate(count, before.softirqs.get(kind, count)) for kind, count in now.softirqs.items()}
    interfaces = _traffic(before, now, elapsed_s)
    outside = None if interfaces is None else [each for name, each in interfaces.items() if name != LOOPBACK]
    pressure = None
    if now.pressure_us is not None and before.pressure_us is not None:
        # Totals are brought up to date by whoever reads them, a little before or after the clock is read.
        pressure = {
            name: min(100.0, rate(total, before.pressure_us.get(name, total)) / 1e4)
            for name, total in now.pressure_us.items()
        }
    return Usage(
        is_since_boot,
        elapsed_s,
        now.running,
        now.blocked,
        _shares(before.cpu, now.cpu),
        {number: _shares(before.cpus[number], ticks) for number, ticks in now.cpus.items() if number in before.cpus},
        memory.total_bytes,
        memory.free_bytes,
        memory.available_bytes,
        memory.buffers_bytes,
        memory.cached_bytes,
        memory.swap_total_bytes,
        memory.swap_used_bytes,
        rate(now.swapped_in_bytes, before.swapped_in_bytes),
        rate(now.swapped_out_bytes, before.swapped_out_bytes),
        rate(now.paged_in_bytes, before.paged_in_bytes),
        rate(now.paged_out_bytes, before.paged_out_bytes),
        rate(now.major_faults, before.major_faults),
        rate(now.interrupts, before.interrupts),
        sum(kinds.values()),
        kinds,
        rate(now.context_switches, before.context_switches),
        rate(now.forks, before.forks),
        pressure,
        None if outside is None else sum(each.received_bytes_per_s for each in outside),
        None if outside is None else sum(each.sent_bytes_per_s for each in outside),
        interfaces,
        None if sockets is None else sockets.used,
        None if sockets is None else sockets.tcp,
        None if sockets is None else sockets.tcp_time_wait,
        None if sockets is None else sockets.tcp_orphans,
        None if sockets is None else sockets.udp,
        rate_or_none(now.tcp_sent_segments, before.tcp_sent_segments),
        rate_or_none(now.tcp_retransmitted_segments, before.tcp_retransmitted_segments),
    )


def _traffic(before: Sample, now: Sample, elapsed_s: float) -> dict[str, Traffic] | None:
    """Tell what each interface carried; one that came in between has carried all that it counts."""
    if now.interfaces is None or before.interfaces is None:
        return None
    nothing = Interface(0, 0, 0, 0, 0, 0)
    found = {}
    for name, each in now.interfaces.items():
        was = before.interfaces.get(name, nothing)
        if each.received_packets < was.received_packets and not counted(each.received_packets, was.received_packets):
            was = nothing  # another one that is called the same
        dropped = counted(each.received_dropped, was.received_dropped) + counted(each.sent_dropped, was.sent_dropped)
        found[name] = Traffic(
            counted(each.received_bytes, was.received_bytes) / elapsed_s,
            counted(each.received_packets, was.received_packets) / elapsed_s,
            counted(each.sent_bytes, was.sent_bytes) / elapsed_s,
            counted(each.sent_packets, was.sent_packets) / elapsed_s,
            dropped / elapsed_s,
        )
    return found


def _shares(before: CpuTicks, now: CpuTicks) -> CpuShares:
    spent = CpuTicks(*(counted(after, was) for after, was in zip(astuple(now), astuple(before), strict=True)))
    guest = spent.guest + spent.guest_nice
    user = max(spent.user + spent.nice - guest, 0)
    system = spent.system + spent.irq + spent.softirq
    total = user + guest + system + spent.idle + spent.iowait + spent.steal
    percent = 100 / total if total else 0.0
    return CpuShares(
        user * percent,
        system * percent,
        spent.idle * percent,
        spent.iowait * percent,
        spent.steal * percent,
        guest * percent,
        spent.softirq * percent,
    )

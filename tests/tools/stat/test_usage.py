"""Rates and shares are those of the counters, though these wrap, go back, vanish and begin anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.tools.stat import CpuTicks, Interface, Memory, Sample, between, since_boot
from underlay.tools.stat._usage import counted

WRAP = 1 << 32
MEMORY = Memory(1000, 400, 600, 50, 300, 100, 10)
ETH = Interface(1000, 10, 0, 2000, 20, 0)
SAMPLE = Sample(
    monotonic_ns=10_000_000_000,
    uptime_s=100.0,
    cpu=CpuTicks(1000, 100, 500, 8000, 200, 50, 150, 10, 40, 5),
    cpus={
        0: CpuTicks(500, 50, 250, 4000, 100, 25, 75, 5, 20, 5),
        1: CpuTicks(500, 50, 250, 4000, 100, 25, 75, 5, 20, 0),
    },
    running=3,
    blocked=1,
    interrupts=10_000,
    softirqs={"timer": 500, "net_rx": 700},
    context_switches=20_000,
    forks=30,
    memory=MEMORY,
    paged_in_bytes=4096,
    paged_out_bytes=8192,
    swapped_in_bytes=0,
    swapped_out_bytes=0,
    major_faults=5,
    pressure_us={"cpu_some": 1_000_000},
    interfaces={"lo": Interface(9, 9, 0, 9, 9, 0), "eth0": ETH},
    sockets=None,
    tcp_sent_segments=100,
    tcp_retransmitted_segments=4,
)


def later(seconds: float = 2.0, **changes: object) -> Sample:
    """The same machine after a while."""
    return replace(
        SAMPLE,
        monotonic_ns=SAMPLE.monotonic_ns + int(seconds * 1e9),
        uptime_s=SAMPLE.uptime_s + seconds,
        **changes,  # type: ignore[arg-type]
    )


def test_rates_are_differences_over_the_time_between() -> None:
    usage = between(
        SAMPLE,
        later(
            context_switches=21_000,
            interrupts=10_500,
            paged_out_bytes=8192 + 4096,
            softirqs={"timer": 510, "net_rx": 790},
            tcp_retransmitted_segments=10,
            pressure_us={"cpu_some": 1_500_000},
        ),
    )
    assert not usage.is_since_boot
    assert (usage.context_switches_per_s, usage.interrupts_per_s, usage.paged_out_bytes_per_s) == (500, 250, 2048)
    assert (usage.softirqs_per_s, usage.softirqs_by_kind_per_s["net_rx"]) == (50, 45)
    assert usage.tcp_retransmitted_segments_per_s == 3
    assert usage.pressure_percent == {"cpu_some": 25}


def test_since_boot_is_the_counters_over_the_uptime() -> None:
    usage = since_boot(SAMPLE)
    assert usage.is_since_boot
    assert (usage.elapsed_s, usage.context_switches_per_s, usage.forks_per_s) == (100, 200, 0.3)
    assert (usage.received_bytes_per_s, usage.sent_bytes_per_s) == (10, 20)
    assert usage.pressure_percent == {"cpu_some": 1}
    assert set(usage.cpus) == {0, 1}


def test_shares_of_processors_make_up_all_of_their_time_and_guests_count_once() -> None:
    cpu = since_boot(SAMPLE).cpu
    assert cpu.user + cpu.system + cpu.idle + cpu.iowait + cpu.steal + cpu.guest == pytest.approx(100)
    total = 1000 + 100 + 500 + 8000 + 200 + 50 + 150 + 10
    assert cpu.user == pytest.approx(100 * (1000 + 100 - 45) / total)
    assert cpu.system == pytest.approx(100 * (500 + 50 + 150) / total)
    assert cpu.softirq == pytest.approx(100 * 150 / total)


def test_no_time_at_all_is_no_share_and_no_error() -> None:
    assert between(SAMPLE, SAMPLE).cpu.idle == 0
    assert between(SAMPLE, SAMPLE).context_switches_per_s == 0


def test_idle_time_that_goes_back_is_none() -> None:
    # proc_stat(5) warns of it: iowait may decrease, and so may idle, of a processor that sleeps without ticks.
    back = replace(SAMPLE.cpu, user=1200, idle=7999, iowait=190)
    cpu = between(SAMPLE, later(cpu=back)).cpu
    assert (cpu.user, cpu.idle, cpu.iowait) == (100, 0, 0)


def test_a_processor_that_goes_and_one_that_comes_are_told_of_when_they_were_there_twice() -> None:
    ticks = replace(SAMPLE.cpus[0], user=600)
    usage = between(SAMPLE, later(cpus={0: ticks, 2: ticks}))
    assert usage.cpus.keys() == {0}
    assert usage.cpus[0].user == 100


def test_an_interface_that_goes_takes_nothing_from_the_others() -> None:
    usage = between(SAMPLE, later(interfaces={"wlan0": Interface(500, 5, 0, 0, 0, 0)}))
    assert usage.received_bytes_per_s == 250
    assert usage.interfaces is not None and usage.interfaces.keys() == {"wlan0"}


def test_an_interface_of_the_same_name_that_is_another_has_carried_what_it_counts() -> None:
    usage = between(SAMPLE, later(interfaces={"eth0": Interface(600, 6, 0, 0, 0, 0)}))
    assert usage.received_bytes_per_s == 300


def test_the_loopback_is_shown_and_not_summed() -> None:
    busy = Interface(1 << 40, 1 << 30, 0, 1 << 40, 1 << 30, 0)
    usage = between(SAMPLE, later(interfaces={"lo": busy, "eth0": ETH}))
    assert usage.received_bytes_per_s == usage.sent_bytes_per_s == 0
    assert usage.interfaces is not None and usage.interfaces["lo"].received_bytes_per_s > 1e11


def test_what_a_kernel_does_not_tell_is_none() -> None:
    bare = later(pressure_us=None, interfaces=None, tcp_sent_segments=None, tcp_retransmitted_segments=None)
    for usage in (between(SAMPLE, bare), between(bare, bare), between(bare, later(4)), since_boot(bare)):
        assert usage.pressure_percent is None and usage.received_bytes_per_s is None and usage.sockets is None
    assert between(bare, bare).tcp_sent_segments_per_s is None


def test_waiting_all_the_time_is_not_more_than_all_the_time() -> None:
    usage = between(SAMPLE, later(1.0, pressure_us={"cpu_some": 2_000_300}))
    assert usage.pressure_percent == {"cpu_some": 100}


@given(st.integers(0, WRAP - 1), st.integers(0, WRAP // 2 - 1))
def test_a_counter_of_32_bits_may_wrap(before: int, step: int) -> None:
    assert counted((before + step) % WRAP, before) == step


@given(st.integers(0, 1 << 64), st.integers(0, 1 << 64))
def test_no_difference_is_negative(now: int, before: int) -> None:
    assert 0 <= counted(now, before) <= max(now, WRAP)


@given(st.integers(1, 1 << 62), st.integers(1, 1000))
def test_a_counter_that_goes_back_a_little_did_not_go_round(before: int, back: int) -> None:
    assert counted(max(before - back, 0), before) in (0, *([] if before > back else [0]))

"""The benchmark of channels measures what it says: it runs over each carrier whose package is there."""

from __future__ import annotations

import os

import pytest
from benchmarks import ipc as benchmark
from benchmarks.ipc_carriers import CARRIERS, Carrier, MissingPackageError, bare_pipe


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("name", CARRIERS)
def test_each_carrier_carries_what_is_measured(name: str) -> None:
    carrier = CARRIERS[name]
    try:
        carrier.check()
    except MissingPackageError as missing:
        pytest.skip(str(missing))
    allowed = os.sched_getaffinity(0)
    cores = sorted(allowed)[:1]
    before = set(os.listdir("/proc/self/fd"))
    size_bytes = min(100_000, carrier.max_message_bytes)
    if not carrier.round_trip_only:
        assert min(benchmark.rate(carrier, size_bytes, cores, 20)) > 0
    if not carrier.one_way_only:
        assert min(benchmark.round_trip_us(carrier, size_bytes, cores, 20)) > 0
    if not carrier.package:  # what another package keeps open is its own
        assert set(os.listdir("/proc/self/fd")) == before
    assert os.sched_getaffinity(0) == allowed


def test_a_package_that_is_missing_is_passed_over_with_a_word() -> None:
    with pytest.raises(
        MissingPackageError, match=r"no_such_package is not installed \(pip install underlay\[bench\]\)"
    ):
        Carrier(bare_pipe, package="no_such_package").check()


def test_the_table_shows_ratios_of_medians() -> None:
    figures: benchmark.Figures = {
        "round trip, 64 B": {"bare pipe": [(10.0, 5.0), (12.0, 5.0), (11.0, 5.0)], "pipe": [(22.0, 10.0)]}
    }
    assert any("2.00 ×,  2.00 × bare pipe" in line for line in benchmark.table(figures))


def test_the_table_of_the_docs_has_a_row_for_each_carrier() -> None:
    figures: benchmark.Figures = {
        "one way, 64 B": {"pipe": [(1_000_000.0, 2.0)]},
        "round trip, 64 B": {"bare pipe": [(10.0, 5.0)], "pipe": [(22.0, 6.0)]},
    }
    assert list(benchmark.markdown(figures))[2:] == [
        "| pipe | 1,000,000 | 2.0 |  |  | 22.0 | 6.0 | 1.20 |",
        "| bare pipe |  |  |  |  | 10.0 | 5.0 |  |",
    ]


def test_the_goals_say_whether_each_is_reached() -> None:
    figures: benchmark.Figures = {
        "one way, 64 B": {"ring": [(110.0, 1.0)], "multiprocessing.Queue": [(10.0, 9.0)]},
        "round trip, 64 B": {"bare pipe": [(10.0, 5.0)], "pipe": [(12.0, 8.0)]},
    }
    assert list(benchmark.goals(figures)) == [
        "  one way, 64 B: ring 11.0 × multiprocessing.Queue, wanted ≥ 10 ×: reached",
        "  round trip, 64 B: pipe 1.60 × the CPU time of bare pipe, wanted ≤ 1.5 ×: NOT REACHED",
    ]

"""The contract fails a loop that has a fault: else it would prove nothing of those that pass."""

from __future__ import annotations

import sys

import pytest
from tests._background import Command, background

from .conftest import RUNNER

FAULTS = [
    ("LeaksADescriptor", "a_round_trip_works_in_debug_mode", "descriptors left open"),
    ("LeavesAThread", "a_round_trip_works_in_debug_mode", "threads left behind"),
    ("SleepsOnThroughThreads", "an_idle_loop_wakes_for_each_single_call", "HUNG"),
    ("ForgetsContexts", "protocol_callbacks_see_the_context", "AssertionError"),
    ("RunsTheLastCallFirst", "calls_and_timers_run_in_the_stock_order", "stock:"),
    ("NaivelyEdgeTriggered", "a_reader_is_called_until_it_has_drained", "HUNG"),
    ("NaivelyEdgeTriggered", "a_burst_of_a_mebibyte", "HUNG"),
]


def _run(fault: str, scenario: str, ending: str) -> Command:
    # A hang that is expected may be ended early.
    limit_s = "2" if ending == "HUNG" else "30"
    options = ["--subject", f"tests.conformance.faulty:{fault}", "-k", f"contract.{scenario}", "--limit", limit_s, "-q"]
    return Command([sys.executable, "-m", RUNNER, *options])


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        pytest.param(
            name := f"{fault}-{scenario}",
            ending,
            id=name,
            marks=pytest.mark.background(name, _run(fault, scenario, ending)),
        )
        for fault, scenario, ending in FAULTS
    ],
)
def test_a_fault_is_noticed(name: str, ending: str) -> None:
    run = background().result(name)
    assert run.returncode == 1, run.stdout + run.stderr
    assert ending in run.stdout + run.stderr

"""What pytest shows of a failure: the lines of the test and of the programs, and none of ours."""

from __future__ import annotations

import re

from .test_plugin import HEAD, Run, run

__all__ = ["run"]

pytest_plugins = ["pytester"]


def test_a_mistake_is_shown_at_the_line_that_made_it_and_in_no_line_of_ours(run: Run) -> None:
    result = run(
        HEAD
        + """
@sim.test
async def test_link(world):
    world.host("db")
    world.link("db", "api", delay="20ms")

@sim.test
async def test_chaos(world):
    world.host("db")
    world.chaos("crahs")

@sim.test
async def test_connect(world):
    async with world.host("api"):
        await asyncio.open_connection("10.0.0.1", 9)
"""
    )
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [">*world.link(*", "E*there is no host 'api'*", ">*world.chaos(*", "E*did you mean 'crash'?"]
    )
    shown = result.stdout.str()
    assert re.findall(r"sim/(_\w+\.py):\d+", shown) == []
    assert "pytest_runtest_call" not in shown


def test_a_test_that_waits_for_ever_shows_where_and_nothing_else(run: Run) -> None:
    result = run(HEAD + "@sim.test\nasync def test_it(world):\n    await asyncio.Event().wait()\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "sim.Stalled: nothing is left to happen at 0.0*",
            "waiting:",
            "*test_it.py:* in test_it, in Event.wait",
            "seed 0: *",
        ]
    )
    assert "_world.py" not in result.stdout.str()


def test_an_error_of_a_hosts_program_is_shown_where_it_was_raised(run: Run) -> None:
    result = run(
        HEAD
        + """
async def work():
    await asyncio.sleep(2)
    raise LookupError("in a program")

@sim.test
async def test_it(world):
    world.host("worker", start=work)
    await asyncio.sleep(10)
"""
    )
    result.stdout.fnmatch_lines(
        [">*raise LookupError*", "E*LookupError: in a program", "E*on the host worker, at 2.0*"]
    )
    assert "_schedule.py" not in result.stdout.str()

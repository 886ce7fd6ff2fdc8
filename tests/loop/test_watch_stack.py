"""The stacks that faulthandler writes are read, and the call that holds a loop is found in them; no loop runs here."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.loop._watch_ledger import MOST_PLACES, Block, Ledger
from underlay.loop._watch_run import summary
from underlay.loop._watch_stack import Base, Frame, callers_own, held_by, read_stack

LIBRARY = os.path.dirname(os.__file__)
ASYNCIO = os.path.dirname(asyncio.__file__)

MODULE = Frame("app.py", 30, "<module>")
BELOW = [Frame(f"{ASYNCIO}/base_events.py", 607, "run_forever"), Frame(f"{ASYNCIO}/runners.py", 190, "run"), MODULE]
RUN = [Frame(f"{ASYNCIO}/events.py", 80, "_run"), Frame(f"{ASYNCIO}/base_events.py", 1922, "_run_once")]
WAITS = [Frame(f"{LIBRARY}/selectors.py", 468, "select"), Frame(f"{ASYNCIO}/base_events.py", 1884, "_run_once")]
CALL = [Frame(f"{LIBRARY}/site-packages/lib.py", 5, "get"), Frame("app.py", 12, "handler")]

IN_PYTHON = Base((), 1)
IN_C = Base((("runners.py", "run"), ("app.py", "<module>")), 0)
BELOW_C = [Frame("runners.py", 118, "run"), MODULE]


def test_the_part_above_the_loop_is_what_holds_it() -> None:
    assert held_by([*CALL, *RUN, *BELOW], True, [IN_PYTHON]) == CALL


def test_a_loop_that_waits_is_not_held() -> None:
    assert held_by([*WAITS, *BELOW], True, [IN_PYTHON]) == []


def test_a_thread_in_which_no_loop_runs_holds_none() -> None:
    assert held_by([*CALL, MODULE], True, [IN_PYTHON, IN_C]) == []


def test_a_loop_of_c_is_held_by_what_stands_above_what_stood_below_its_callbacks() -> None:
    assert held_by([*CALL, *BELOW_C], True, [IN_C]) == CALL
    assert held_by(BELOW_C, True, [IN_C]) == []


def test_a_loop_of_c_is_known_on_another_line_of_its_runner() -> None:
    moved = [BELOW_C[0]._replace(line=120), MODULE._replace(line=31)]
    assert held_by([*CALL, *moved], True, [IN_C]) == CALL


def test_an_outer_loop_is_held_by_the_whole_run_of_an_inner_one() -> None:
    inner = [*WAITS, BELOW[0]]
    assert held_by([*inner, *CALL, *RUN, *BELOW], True, [IN_PYTHON])[: len(inner)] == inner
    assert held_by([*inner, *CALL, *RUN, *BELOW], True, [Base((), 2)]) == []


@pytest.mark.parametrize("base", [IN_PYTHON, IN_C])
def test_a_stack_that_was_cut_before_the_loop_is_all_of_a_call(base: Base) -> None:
    assert held_by(CALL, False, [base]) == CALL


def test_an_idle_stack_that_was_cut_is_still_idle() -> None:
    assert held_by([*WAITS, BELOW[0]], False, [IN_PYTHON]) == []
    assert held_by(BELOW_C[:1], False, [IN_C]) == []


def test_the_programs_own_line_is_the_innermost_that_is_no_librarys() -> None:
    assert callers_own(CALL) == CALL[1]
    assert callers_own(CALL[:1]) == CALL[0]
    assert callers_own([Frame("<frozen importlib._bootstrap>", 1, "f"), CALL[1]]) == CALL[1]


def test_the_text_of_faulthandler_is_read_with_what_it_escapes() -> None:
    lines = [
        '  File "/tmp/gr\\xf6\\u20ac\\U0001f600.py", line 7 in f',
        '  File "x.py", line ??? in g',
        "  ...",
        '  File "y", line 1 in h',
    ]
    frames, is_whole = read_stack("\n".join(lines))
    assert frames == [Frame("/tmp/grö€😀.py", 7, "f"), Frame("x.py", 0, "g")] and not is_whole


def test_a_stack_of_a_hundred_frames_may_have_been_cut_where_nothing_says_so() -> None:
    line = '  File "app.py", line 1 in f\n'
    assert read_stack(99 * line)[1] and not read_stack(100 * line)[1]


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    frames, _ = read_stack(text)
    held_by(frames, True, [IN_PYTHON, IN_C])


def test_no_more_places_are_kept_than_a_hundred_and_the_rest_is_counted() -> None:
    ledger = Ledger()
    for line in range(3 * MOST_PLACES):
        ledger.add([Frame("app.py", line, "f")], 1.0, 0.05)
    ledger.add([Frame("app.py", 0, "f")], 5.0, 0.05)
    seen = ledger.statistics()
    assert (seen.count, seen.total_s, seen.longest_s) == (3 * MOST_PLACES + 1, 3 * MOST_PLACES + 5.0, 5.0)
    assert len(seen.places) == MOST_PLACES and seen.elsewhere == 2 * MOST_PLACES
    assert (seen.places[0].at.line, seen.places[0].count) == (0, 2)


def test_a_report_tells_the_line_the_length_and_the_stack() -> None:
    block = Block(1.2345, 0.05, CALL[1], tuple(CALL), 1, "MainThread")
    assert str(block).splitlines() == [
        f"the event loop was held for 1,234 ms by app.py:12 in handler (at {CALL[0].file}:5 in get)",
        f"    {CALL[0]}",
        "    app.py:12 in handler",
    ]
    assert Block(0.1, 0.05, CALL[1], tuple(CALL[1:]), 3, "worker").summary == (
        "the event loop of thread worker was held for 100 ms by app.py:12 in handler, for the 3rd time"
    )


def test_a_summary_has_the_worst_first_and_ends_after_twenty_lines() -> None:
    ledger = Ledger()
    assert summary(ledger.statistics(), 0.05) == ["no call held an event loop for more than 50 ms"]
    for line in range(30):
        ledger.add([Frame("app.py", line, "f")], 0.1 + line, 0.05)
    ledger.add_unplaced()
    lines = summary(ledger.statistics(), 0.05)
    assert lines[0].startswith("calls that held an event loop for more than 50 ms: 30, 438.000 s in all, 29.100 s")
    assert lines[2].split() == ["1", "29.100", "s", "29.100", "s", "app.py:29", "in", "f"]
    assert lines[22].split() == ["10", "at", "other", "lines"]
    assert lines[23].startswith("a loop was late without a call in it: 1 time (")


def test_a_summary_tells_what_was_refused() -> None:
    lines = summary(Ledger().statistics(), 0.05, {("open()", CALL[1]): 3, None: 2})
    assert lines[:3] == [
        "blocking calls refused: 5",
        "      3 × open() at app.py:12 in handler",
        "      2 × elsewhere",
    ]

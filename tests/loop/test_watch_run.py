"""`underlay run --watch` watches every loop that an unmodified program makes, and tells what held them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from underlay.errors import UsageError
from underlay.loop._watch_words import threshold_of, variable_for

from ._watched import LOOPS

# A child that runs longer hangs; nothing is measured by it.
LIMIT_S = 60

BLOCKS = """\
import asyncio
import time

async def main():
    await asyncio.sleep(0)
    time.sleep(0.4)

asyncio.run(main())
"""
# What the summary says where the machine itself makes nobody late.
MODELS = [name for name in LOOPS if name != "stack"]

Done = subprocess.CompletedProcess[str]


def watched(where: Path, program: str, *options: str, io: str = "asyncio", **environment: str) -> Done:
    (where / "app.py").write_text(program)
    return subprocess.run(
        [sys.executable, "-m", "underlay", "run", "--io", io, *options, "app.py"],
        cwd=where,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("io", MODELS)
def test_a_program_that_blocks_is_told_its_line_and_the_sum_at_its_end(tmp_path: Path, io: str) -> None:
    done = watched(tmp_path, BLOCKS, "--watch", "--watch-threshold", "20ms", io=io)
    assert (done.returncode, done.stdout) == (0, "")
    assert " ms by " in done.stderr and "app.py:6 in main\n" in done.stderr
    assert "app.py:6 in main: time.sleep(0.4)\n" in done.stderr
    assert "underlay: calls that held an event loop for more than 20 ms: " in done.stderr
    summary = [line for line in done.stderr.splitlines() if line.startswith("underlay: ") and "app.py:6" in line]
    assert len(summary) == 1


def test_a_program_that_runs_no_loop_is_summed_up_in_no_word(tmp_path: Path) -> None:
    done = watched(tmp_path, "import asyncio\nprint('nothing')", "--watch")
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing\n", "")


def test_a_program_in_a_network_of_its_own_is_watched(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BLOCKS)
    done = subprocess.run(
        [sys.executable, "-m", "underlay", "run", "--net", "lo", "--watch", "app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert "app.py:6 in main: time.sleep(0.4)\n" in done.stderr


def test_a_program_that_never_blocks_is_told_so(tmp_path: Path) -> None:
    done = watched(tmp_path, BLOCKS.replace("0.4", "0"), "--watch", "--watch-threshold=1000s")
    assert done.stderr == "underlay: no call held an event loop for more than 1e+06 ms\n"


def test_what_the_program_does_between_its_loops_holds_none(tmp_path: Path) -> None:
    program = "import asyncio, time\nasyncio.run(asyncio.sleep(0))\ntime.sleep(0.4)\nasyncio.run(asyncio.sleep(0))\n"
    for io in MODELS:
        done = watched(tmp_path, program, "--watch", "--watch-threshold=100ms", io=io)
        assert "app.py:3" not in done.stderr


@pytest.mark.parametrize("io", MODELS)
def test_loops_that_a_program_makes_in_any_way_are_watched(tmp_path: Path, io: str) -> None:
    program = """\
import asyncio, threading, time

class Mine(asyncio.SelectorEventLoop):
    pass

def first(): time.sleep(0.4)
def second(): time.sleep(0.4)
def third(): time.sleep(0.4)

async def call(function):
    await asyncio.sleep(0)
    function()

loop = Mine()
loop.run_until_complete(call(first))
loop.run_until_complete(call(second))
loop.close()
thread = threading.Thread(target=lambda: asyncio.run(call(third)))
thread.start()
thread.join()
"""
    done = watched(tmp_path, program, "--watch", "--watch-threshold=20ms", io=io)
    for line, name in (6, "first"), (7, "second"), (8, "third"):
        assert f"app.py:{line} in {name}: " in done.stderr, done.stderr
    assert "of thread Thread-1 (<lambda>) was held" in done.stderr


def test_uvloop_is_watched_however_the_program_asks_for_it(tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    done = watched(tmp_path, BLOCKS.replace("asyncio.run(", "import uvloop\nuvloop.run("), "--watch")
    assert "app.py:6 in main: time.sleep(0.4)\n" in done.stderr


def test_a_block_in_the_exception_that_ends_a_program_is_told_and_the_status_is_pythons(tmp_path: Path) -> None:
    done = watched(tmp_path, BLOCKS.replace("0.4)", "0.4); raise SystemExit(3)"), "--watch")
    assert done.returncode == 3 and "app.py:6 in main: " in done.stderr


def test_python_processes_that_the_program_starts_are_watched(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(BLOCKS)
    program = "import subprocess, sys\nsubprocess.run([sys.executable, 'child.py'])\n"
    done = watched(tmp_path, program, "--watch")
    assert "child.py:6 in main: time.sleep(0.4)\n" in done.stderr


def test_a_forked_child_counts_for_itself(tmp_path: Path) -> None:
    program = BLOCKS + "import os, sys\nif os.fork() == 0:\n    sys.exit()\nos.wait()\n"
    done = watched(tmp_path, program, "--watch", "--watch-threshold=100ms")
    lines = done.stderr.splitlines()
    assert lines.count("underlay: no call held an event loop for more than 100 ms") == 1
    assert sum(line.startswith("underlay: calls that held") for line in lines) == 1


def test_watch_raise_makes_a_known_blocking_call_an_error_at_its_line(tmp_path: Path) -> None:
    done = watched(tmp_path, BLOCKS, "--watch=raise")
    assert done.returncode == 1
    assert 'app.py", line 6, in main\n    time.sleep(0.4)\n' in done.stderr
    assert "BlockingCall: time.sleep() would hold the event loop, at " in done.stderr
    assert "underlay: blocking calls refused: 1\n" in done.stderr
    assert "app.py:6 in main\n" in done.stderr.partition("refused: 1")[2]


def test_a_name_that_the_program_imported_by_itself_raises_too(tmp_path: Path) -> None:
    program = BLOCKS.replace("import time", "from time import sleep").replace("time.sleep", "sleep")
    assert "BlockingCall: time.sleep()" in watched(tmp_path, program, "--watch=raise").stderr


def test_a_program_that_has_no_loop_may_block_under_watch_raise(tmp_path: Path) -> None:
    done = watched(tmp_path, "import time\ntime.sleep(0.001)\nprint(open(__file__).readline())\n", "--watch=raise")
    assert (done.returncode, done.stdout) == (0, "import time\n\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--watch=rise"], "--watch has no way 'rise'; say --watch, or --watch=raise"),
        (["--watch", "--watch-threshold", "50"], "--watch-threshold is a time of at least 1ms and at most a day, and"),
        (["--watch-threshold", "50ms"], "--watch-threshold is for --watch, which isn't there; say --watch too"),
    ],
)
def test_a_mistake_in_the_asking_is_one_sentence(tmp_path: Path, options: list[str], said: str) -> None:
    done = watched(tmp_path, BLOCKS, *options)
    assert done.returncode == 2
    assert done.stderr.startswith(f"underlay: {said}") and done.stderr.count("\n") == 1


def test_a_program_without_watch_has_nothing_of_it(tmp_path: Path) -> None:
    program = "import asyncio, sys\nprint([name for name in sys.modules if '_watch' in name])\n"
    assert watched(tmp_path, program).stdout == "[]\n"


@pytest.mark.parametrize(
    "text", ["", "50", "ms", "-1ms", "0ms", "0.5ms", "1 ms", "1m", "infs", "nans", "1e3ms", "9" * 400 + "s"]
)
def test_a_threshold_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="an example: --watch-threshold 50ms"):
        threshold_of(text)


def test_a_threshold_is_read_in_seconds_and_milliseconds() -> None:
    assert [threshold_of(text) for text in ("1ms", "2.5ms", " 3s ", "0.25s")] == [0.001, 0.0025, 3.0, 0.25]
    assert variable_for("report", "3s") == "3s report"

"""`underlay sim` and the pytest plugin on a real terminal, in a pipe and interrupted.

It knows what a person sees. What is computed is in tests/sim.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from ._screen import PATIENCE_S, Terminal

SCENARIO = """
import asyncio

async def main(world):
    world.link(world.host("one"), world.host("two"), delay="20ms")
    async with world.host("one"):
        print("begun", flush=True)
        await asyncio.sleep(1000)
"""


def test_a_terminal_shows_a_live_table_and_ctrl_c_ends_it_cleanly(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    (tmp_path / "scenario.py").write_text(SCENARIO)
    command = [sys.executable, "-m", "underlay", "sim", "scenario.py", "--pace", "1"]
    terminal = Terminal(command, tmp_path, child_environment)
    # The picture is drawn again and again while virtual time stands still for long.
    terminal.read(lambda seen: seen.count("one → two") >= 2)
    terminal.child.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert "begun" in terminal.seen and "interrupted" in terminal.seen
    assert "Traceback" not in terminal.seen
    assert terminal.seen.rstrip().endswith("\x1b[0m") or "last fault" in terminal.seen.splitlines()[-1]
    assert "\x1b[?25h" in terminal.seen  # the cursor is there again


def test_in_a_pipe_only_the_last_table_is_printed(tmp_path: Path, child_environment: dict[str, str]) -> None:
    (tmp_path / "scenario.py").write_text(SCENARIO)
    command = [sys.executable, "-m", "underlay", "sim", "scenario.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=child_environment, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout.count("one → two") == 1 and "\x1b" not in done.stdout and done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_long_exploration_tells_how_far_it_is_on_one_line_of_a_terminal(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    # Real time passes, and only until the line has been seen: the test itself waits for it.
    (tmp_path / "test_it.py").write_text(
        """
import os, select
from pathlib import Path
from underlay import sim

@sim.test(seeds=100000)
async def test_long(world):
    if world.seed == 99999 or Path("seen").exists():
        assert False, "it was seen"
"""
    )
    installed = any(each.value == "underlay.sim._plugin" for each in entry_points(group="pytest11"))
    plugin = [] if installed else ["-p", "underlay.sim._plugin"]
    command = [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider", "-p", "no:asyncio", "test_it.py"]
    terminal = Terminal(command, tmp_path, {**child_environment, "PYTHONWARNINGS": "default"})
    terminal.read(lambda seen: len(re.findall(r"\r\x1b\[Ktest_long: \d+ of 100000 seeds, \d+ a second", seen)) >= 2)
    (tmp_path / "seen").touch()
    assert terminal.end() == 1
    # Gone again, and the cursor is back where pytest had left it: behind the name of the file.
    assert re.search(r"a second\r\x1b\[K\x1b\[A\x1b\[11C", terminal.seen), terminal.seen
    assert "it was seen" in terminal.seen and "--underlay-seed" in terminal.seen


def test_ctrl_c_ends_an_exploration_and_its_processes(tmp_path: Path, child_environment: dict[str, str]) -> None:
    (tmp_path / "test_it.py").write_text(
        """
import os
from pathlib import Path
from underlay import sim

@sim.test(seeds=1000000)
async def test_long(world):
    pass

Path(f"pid-{os.getpid()}").touch()
"""
    )
    installed = any(each.value == "underlay.sim._plugin" for each in entry_points(group="pytest11"))
    plugin = [] if installed else ["-p", "underlay.sim._plugin"]
    command = [sys.executable, "-m", "pytest", *plugin, "-p", "no:asyncio", "test_it.py", "--underlay-jobs=2"]
    terminal = Terminal(command, tmp_path, {**child_environment, "PYTHONWARNINGS": "default"})
    terminal.read(lambda seen: "a second" in seen and len(list(tmp_path.glob("pid-*"))) == 3)
    os.killpg(terminal.child.pid, signal.SIGINT)  # as a terminal does it: to all of them
    assert terminal.end() == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in terminal.seen and "Process SpawnProcess" not in terminal.seen
    processes = [file.name.removeprefix("pid-") for file in tmp_path.glob("pid-*")]
    assert len(processes) == 3  # pytest, and those that it started
    assert not any(Path("/proc", process).exists() for process in processes)

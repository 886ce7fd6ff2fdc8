"""A command in the background is run once, by whoever comes to it first, and never remains unrun."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests._background import Background, Command

# A command that has not begun by then never will; nothing is measured by it.
BEGINS_WITHIN_S = 60.0


@pytest.fixture
def background() -> Iterator[Background]:
    background = Background()
    try:
        yield background
    finally:
        background.end()


def python(script: str) -> Command:
    return Command([sys.executable, "-c", script])


def appears(path: Path) -> None:
    give_up_s = time.monotonic() + BEGINS_WITHIN_S
    while not path.exists():
        assert time.monotonic() < give_up_s, f"{path} does not appear"
        time.sleep(0.01)


def test_a_result_is_the_status_and_what_was_printed(background: Background) -> None:
    background.add("says", python("import sys; print('yes'); print('no', file=sys.stderr); sys.exit(3)"))
    background.begin()
    done = background.result("says")
    assert (done.returncode, done.stdout, done.stderr) == (3, "yes\n", "no\n")


def test_the_worker_begins_at_the_end_while_the_asker_runs_the_first_itself(background: Background) -> None:
    # The last waits for the first, so they end only if they run at once; and each tells whose child it is.
    first, last = background.folder / "first", background.folder / "last"
    tells = "import os, pathlib, sys, time; print(os.getppid()); "
    waits = f"[time.sleep(0.01) for _ in iter(pathlib.Path({str(first)!r}).exists, True)]"
    background.add("first", python(f"{tells}pathlib.Path({str(first)!r}).touch()"))
    background.add("last", python(f"{tells}pathlib.Path({str(last)!r}).touch(); {waits}"))
    background.begin()
    appears(last)
    assert int(background.result("first").stdout) == os.getpid()
    assert int(background.result("last").stdout) != os.getpid()


def test_a_command_runs_once_though_it_is_asked_for_twice(background: Background) -> None:
    log = background.folder / "log"
    background.add("logs", python(f"open({str(log)!r}, 'a').write('x')"))
    background.begin()
    background.result("logs")
    background.result("logs")
    assert log.read_text() == "x"


def test_what_a_killed_worker_had_begun_is_run_again(background: Background) -> None:
    pids, begun = background.folder / "pids", background.folder / "begun"
    script = f"import os, time; open({str(pids)!r}, 'a').write(f'{{os.getppid()}} '); open({str(begun)!r}, 'w');"
    script += f"[time.sleep(0.01) for _ in iter(lambda: {os.getpid()} == os.getppid(), True)]"
    background.add("waits", python(script))
    background.begin()
    appears(begun)
    os.killpg(int(pids.read_text()), signal.SIGKILL)
    assert background.result("waits").returncode == 0
    assert pids.read_text().split()[1:] == [str(os.getpid())]


def test_what_still_runs_at_the_end_is_ended_and_may_end_its_own_children(background: Background) -> None:
    begun, ended = background.folder / "begun", background.folder.with_suffix(".ended")
    script = f"import pathlib, time\ntry: pathlib.Path({str(begun)!r}).touch(); time.sleep(1000)\n"
    script += f"finally: pathlib.Path({str(ended)!r}).touch()"
    background.add("sleeps", python(script))
    background.begin()
    appears(begun)
    background.end()
    appears(ended)
    ended.unlink()
    assert not background.folder.exists()


def test_the_worker_ends_with_the_tests_that_it_works_for(background: Background) -> None:
    (background.folder / "commands").write_text(
        json.dumps([{"name": "never", "arguments": [sys.executable, "-c", ""], "environment": None}])
    )
    background.add("worker", Command([sys.executable, "-m", "tests._background", str(background.folder), "1"]))
    assert background.result("worker").returncode == 0
    assert not (background.folder / "never.claim").exists()

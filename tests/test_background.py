"""A command in the background is run once, by whoever comes to it first, and never remains unrun."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests._background import WORKERS, Background, Command

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


def comes_about(condition: Callable[[], bool], what: str) -> None:
    give_up_s = time.monotonic() + BEGINS_WITHIN_S
    while not condition():
        assert time.monotonic() < give_up_s, f"does not come about: {what}"
        time.sleep(0.01)


def appears(path: Path) -> None:
    comes_about(path.exists, f"{path} appears")


def test_a_result_is_the_status_and_what_was_printed(background: Background) -> None:
    background.add("says", python("import sys; print('yes'); print('no', file=sys.stderr); sys.exit(3)"))
    background.begin()
    done = background.result("says")
    assert (done.returncode, done.stdout, done.stderr) == (3, "yes\n", "no\n")


def test_the_workers_begin_at_the_end_while_the_asker_runs_the_first_itself(background: Background) -> None:
    # The others wait for the first, so they end only if all run at once; and each tells whose child it is.
    first, others = background.folder / "first", [f"other-{number}" for number in range(WORKERS)]
    tells = "import os, pathlib, sys, time; print(os.getppid()); "
    waits = f"[time.sleep(0.01) for _ in iter(pathlib.Path({str(first)!r}).exists, True)]"
    background.add("first", python(f"{tells}pathlib.Path({str(first)!r}).touch()"))
    for other in others:
        background.add(other, python(f"{tells}pathlib.Path({str(background.folder / other)!r}).touch(); {waits}"))
    background.begin()
    for other in others:
        appears(background.folder / other)
    assert int(background.result("first").stdout) == os.getpid()
    assert len({int(background.result(other).stdout) for other in others} - {os.getpid()}) == WORKERS


def test_a_command_runs_once_though_it_is_asked_for_twice(background: Background) -> None:
    log = background.folder / "log"
    background.add("logs", python(f"open({str(log)!r}, 'a').write('x')"))
    background.begin()
    background.result("logs")
    background.result("logs")
    assert log.read_text() == "x"


def test_what_a_killed_worker_had_begun_is_run_again(background: Background) -> None:
    pids, begun = background.folder / "pids", background.folder / "begun"
    script = f"import os, time; parent = os.getppid(); open({str(pids)!r}, 'a').write(f'{{parent}} ');"
    script += f"open({str(begun)!r}, 'w');"
    script += f"[time.sleep(0.01) for _ in iter(lambda: parent == {os.getpid()} or os.getppid() != parent, True)]"
    background.add("waits", python(script))
    background.begin()
    appears(begun)
    os.kill(int(pids.read_text()), signal.SIGKILL)
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


def test_what_still_runs_when_the_tests_have_died_is_ended_too(background: Background) -> None:
    begun, ended = background.folder / "begun", background.folder / "ended"
    sleeps = f"import pathlib, time\ntry: pathlib.Path({str(begun)!r}).touch(); time.sleep(1000)\n"
    sleeps += f"finally: pathlib.Path({str(ended)!r}).touch()"
    script = "import os, signal\nfrom tests._background import *\ntests = Background()\n"
    script += f"tests.add('sleeps', Command({[sys.executable, '-c', sleeps]!r}))\ntests.begin()\n"
    script += f"from tests.test_background import *\nappears(Path({str(begun)!r}))\n"
    script += "print(tests.folder, flush=True)\n"
    background.add("dies", python(f"{script}os.kill(os.getpid(), signal.SIGKILL)"))
    done = background.result("dies")
    assert done.returncode == -signal.SIGKILL
    appears(ended)
    comes_about(lambda: not Path(done.stdout.strip()).exists(), "its folder is gone")

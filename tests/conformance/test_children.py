"""A test that hangs, dies or leaves something behind is one failure, and the run goes on.

Held here because every other conformance result stands on it.
"""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

from .children import Job, Report, run_jobs

ROOT = Path(__file__).parents[2]


def outcomes_of(tmp_path: Path, **bodies: str) -> dict[str, dict[str, object]]:
    """Runs each body as a job, in a process apart, and gives the outcomes as dictionaries."""
    script = ["import dataclasses, json, os, signal, subprocess, sys, time, unittest"]
    script += ["from tests.conformance.children import Job, Report, run_jobs"]
    for name, body in bodies.items():
        script += [f"def {name}():", textwrap.indent(textwrap.dedent(body).strip(), "    ")]
    jobs = ", ".join(f"Job({name!r}, {name}, 1.5)" for name in bodies)
    script += [f"outcomes = dict(run_jobs([{jobs}], parallel=2))"]
    script += ["print(json.dumps({k: dataclasses.asdict(v) for k, v in outcomes.items()}))"]
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "SCRATCH": str(tmp_path)},
    )
    told: dict[str, dict[str, object]] = json.loads(run.stdout)
    return told


def test_each_way_to_end_is_told_apart(tmp_path: Path) -> None:
    outcomes = outcomes_of(
        tmp_path,
        passes="return Report('passed')",
        skips="return Report('skipped', 'no IPv6')",
        fails="print('about to fail'); assert 1 == 2, 'not equal'",
        exits="os._exit(3)",
        segfaults="os.kill(os.getpid(), signal.SIGSEGV)",
        hangs="time.sleep(1000)",
        after="return Report('passed')",
    )
    assert {name: outcome["status"] for name, outcome in outcomes.items()} == {
        "passes": "passed",
        "skips": "skipped",
        "fails": "failed",
        "exits": "died",
        "segfaults": "died",
        "hangs": "hung",
        "after": "passed",
    }
    assert "not equal" in str(outcomes["fails"]["detail"])
    assert "about to fail" in str(outcomes["fails"]["output"])
    assert "exit status 3" in str(outcomes["exits"]["detail"])
    assert "SIGSEGV" in str(outcomes["segfaults"]["detail"])
    # The stack of the hung test is told, so that one sees where it stuck.
    assert "in hangs" in str(outcomes["hangs"]["output"])


def test_what_a_child_leaves_running_is_killed_with_it(tmp_path: Path) -> None:
    outcomes_of(
        tmp_path,
        leaves="""
            started = subprocess.Popen(["sleep", "1000"])
            with open(os.path.join(os.environ["SCRATCH"], "pid"), "w") as file:
                file.write(str(started.pid))
            return Report("passed")
            """,
    )
    state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    # Gone, or a zombie that waits for this machine's init to collect it.
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_each_child_has_an_empty_directory_of_its_own(tmp_path: Path) -> None:
    look = "open('mine', 'w').close(); return Report('passed', ' '.join(os.listdir()))"
    outcomes = outcomes_of(tmp_path, first=look, second=look, third=look)
    assert {outcome["detail"] for outcome in outcomes.values()} == {"mine"}


class Thing:
    """Something that is logged and that is in the frame of a thread's last exception."""


def _is_forgotten() -> Report:
    thing = Thing()
    remembered = weakref.ref(thing)
    print("printed")
    logging.getLogger("asyncio").warning("logged: %r", thing)

    def fail(_: Thing) -> None:
        raise RuntimeError("raised in a thread")

    thread = threading.Thread(target=fail, args=(thing,))
    thread.start()
    thread.join()
    del thing, thread
    gc.collect()
    return Report("failed" if remembered() else "passed")


def test_what_a_child_logs_and_raises_is_told_and_not_kept_for_the_pytest_that_it_was_forked_from() -> None:
    [(_, outcome)] = run_jobs([Job("forgets", _is_forgotten, 30.0)], parallel=1)
    assert outcome.status == "passed"
    for told in ("printed", "logged: ", "raised in a thread"):
        assert told in outcome.output

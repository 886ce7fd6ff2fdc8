"""`underlay jobs`: workers as processes, and what a person sees and does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from underlay.workers import Backoff, Jobs, JobState, Limits
from underlay.workers._job_ends import Ends

Run = Callable[..., "subprocess.CompletedProcess[str]"]

PATIENCE_S = 60

APP = """
import os, signal, sys, time
from underlay import workers

jobs = workers.Jobs("jobs.db")

@jobs.task
def double(number):
    return 2 * number

@jobs.task(retries=0)
def fail(word):
    raise ValueError(f"no {word}")

@jobs.task
def process(_=None):
    return os.getpid()

@jobs.task
def wait_for(path):
    open(path + ".begun", "w").close()
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.getpid()

@jobs.task(losses=1)
def end_the_process(status):
    os._exit(status)

@jobs.task(losses=1)
def stop_the_process():
    os.kill(os.getpid(), signal.SIGSTOP)

@jobs.task(retries=0)
def say(what):
    raise ValueError(what)
"""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Jobs]:
    (tmp_path / "app.py").write_text(APP)
    with Jobs(tmp_path / "jobs.db") as jobs:
        for name in ("double", "fail", "process", "wait_for", "say"):
            jobs.task(name=name, retries=0)(lambda *unused, **named: None)
        for name in ("end_the_process", "stop_the_process"):
            jobs.task(name=name, losses=1)(lambda *unused: None)
        yield jobs


@contextmanager
def working(folder: Path, environment: dict[str, str], *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run `underlay jobs work` until the block ends; whatever happens, nothing of it stays."""
    command = [sys.executable, "-m", "underlay", "jobs", "work", "app:jobs", *words]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it ended before open(2), or before read(2)
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_workers_run_all_jobs_and_end_when_idle(app: Jobs, underlay: Run) -> None:
    receipts = app.submit_many("double", [(number,) for number in range(20)])
    done = underlay("jobs", "work", "app:jobs", "--workers", "2", "--until-idle")
    assert (done.returncode, done.stderr) == (0, "")
    tasks = "double, end_the_process, fail, process, say, stop_the_process, wait_for"
    assert done.stdout == f"2 workers for jobs.db: {tasks}\n20 done, 0 dead\n"
    assert [receipt.result(0) for receipt in receipts] == [2 * number for number in range(20)]


def test_a_killed_workers_job_is_run_again_at_once_by_a_new_one(
    app: Jobs, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    flag = tmp_path / "flag"
    receipt = app.submit("wait_for", str(flag))
    # A lease that outlasts the test: only the process that watches the workers can know.
    with working(tmp_path, child_environment, "--workers", "1", "--lease", "1h") as process:
        eventually(Path(f"{flag}.begun").exists)
        first = _child_of(process.pid)
        os.kill(first, signal.SIGKILL)
        flag.touch()
        assert receipt.result(PATIENCE_S) != first
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_S)
        assert "was killed by SIGKILL; 1 job goes back, another starts at once" in said
    assert receipt.job.losses == 1
    assert process.returncode == 0


@pytest.mark.parametrize("status", [0, 2])
def test_a_job_that_ends_its_process_counts_as_lost_and_the_others_are_run_whatever_the_status(
    app: Jobs, underlay: Run, status: int
) -> None:
    # 0 is how a worker that is idle ends, and 2 one that cannot work at all: neither is believed of one with a job.
    poison = app.submit("end_the_process", status)
    other = app.submit("double", 4)
    done = underlay("jobs", "work", "app:jobs", "--workers", "1", "--until-idle")
    assert done.returncode == 1
    assert f"ended with status {status}; 1 job goes back" in done.stderr
    assert done.stderr.count("underlay: job 1 (end_the_process) is dead: its worker died\n") == 1
    assert poison.job.state is JobState.DEAD
    assert str(poison.job.error) == "WorkerLost: its worker died; it was lost 2 times"
    assert other.result(timeout_s=0) == 8


def test_a_worker_that_is_stopped_for_as_long_as_its_lease_is_killed_and_replaced(app: Jobs, underlay: Run) -> None:
    poison, other = app.submit("stop_the_process"), app.submit("double", 4)
    done = underlay("jobs", "work", "app:jobs", "--workers", "1", "--until-idle", "--lease", "0.3s")
    assert done.returncode == 1
    assert done.stderr.count(" has been stopped for 0.3 s, as long as its lease, and is killed\n") == 2
    assert poison.job.state is JobState.DEAD
    assert poison.job.losses == 2
    assert other.result(timeout_s=0) == 8


def test_a_worker_that_is_stopped_and_continued_goes_on(
    app: Jobs, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    with working(tmp_path, child_environment, "--workers", "1", "--lease", "3s") as process:
        first = app.submit("process").result(PATIENCE_S)
        assert isinstance(first, int)
        os.kill(first, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(first, signal.SIGCONT)
        time.sleep(3.2)  # more than the lease after the stop, in which it was not stopped for as long
        assert app.submit("process").result(PATIENCE_S) == first
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert errors == ""


def _child_of(process: int) -> int:
    return int(Path(f"/proc/{process}/task/{process}/children").read_text().split()[0])


def test_workers_end_when_their_parent_is_killed(app: Jobs, tmp_path: Path, child_environment: dict[str, str]) -> None:
    receipt = app.submit("process")
    with working(tmp_path, child_environment, "--workers", "1") as process:
        child = receipt.result(PATIENCE_S)
        assert isinstance(child, int) and alive(child)
        process.kill()
        eventually(lambda: not alive(child))


def test_a_worker_whose_parent_is_killed_gives_its_job_the_drain_and_then_back(
    app: Jobs, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    flag = tmp_path / "flag"
    receipt = app.submit("wait_for", str(flag))
    with working(tmp_path, child_environment, "--workers", "1", "--drain", "0.1s") as process:
        eventually(Path(f"{flag}.begun").exists)
        child = _child_of(process.pid)
        process.kill()
        eventually(lambda: not alive(child))
    assert receipt.state is JobState.WAITING
    assert (receipt.job.losses, receipt.job.failures) == (0, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_jobs_end_within_the_drain_and_gives_back_the_rest(
    app: Jobs, tmp_path: Path, child_environment: dict[str, str], number: signal.Signals
) -> None:
    flag = tmp_path / "flag"
    receipt = app.submit("wait_for", str(flag))
    with working(tmp_path, child_environment, "--workers", "1", "--drain", "0.1s") as process:
        eventually(Path(f"{flag}.begun").exists)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
    assert receipt.state is JobState.WAITING
    assert (receipt.job.losses, receipt.job.failures) == (0, 0)


@pytest.mark.parametrize(("kind", "needs"), [("process", "cloudpickle"), ("dask", "distributed")])
def test_jobs_run_on_another_executor_where_asked(app: Jobs, underlay: Run, kind: str, needs: str) -> None:
    pytest.importorskip(needs, reason=f"{needs} is not installed; remedy: pip install 'underlay[workers]'")
    receipt = app.submit("process")
    done = underlay("jobs", "work", "app:jobs", "--executor", kind, "--workers", "1", "--until-idle")
    assert (done.returncode, done.stderr) == (0, "")  # what the engine logs is not told as ours
    assert receipt.result(0)


def test_dead_letters_are_told_one_by_one_and_in_the_exit_status(app: Jobs, underlay: Run) -> None:
    app.submit("say", "first line\nsecond line")
    app.submit("say", "\x1b[31m" + "w" * 1000)
    app.submit("double", 3)
    done = underlay("jobs", "work", "app:jobs", "--workers", "1", "--until-idle")
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first == "underlay: job 1 (say) is dead: ValueError: first line"
    assert second.startswith("underlay: job 2 (say) is dead: ValueError:  [31mwww") and len(second) < 250
    assert done.stdout.splitlines()[1:] == ["1 done, 2 dead"]
    again = underlay("jobs", "work", "app:jobs", "--workers", "1", "--until-idle")
    assert (again.returncode, again.stderr) == (0, "")  # those were dead before it began
    assert again.stdout.splitlines()[1:] == ["0 done, 0 dead"]


def test_a_failure_that_is_tried_again_is_no_dead_letter(app: Jobs, underlay: Run, tmp_path: Path) -> None:
    app.submit("say", str(tmp_path), retries=1, backoff=Backoff(first_s=0.01))
    done = underlay("jobs", "work", "app:jobs", "--workers", "1", "--until-idle")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert app.job(1).failures == 2


def test_verbose_workers_print_a_line_for_each_job_that_is_done(app: Jobs, underlay: Run) -> None:
    app.submit_many("double", [(number,) for number in range(3)])
    done = underlay("jobs", "work", "app:jobs", "--workers", "2", "--until-idle", "--verbose")
    assert (done.returncode, done.stderr) == (0, "")
    _, *lines, summary = done.stdout.splitlines()
    assert sorted(line.rpartition(", in ")[0] for line in lines) == [f"job {n} (double) is done" for n in (1, 2, 3)]
    assert summary == "3 done, 0 dead"


def test_ends_of_other_commands_are_theirs_and_events_that_were_dropped_are_counted(tmp_path: Path) -> None:
    told: list[str] = []
    with Jobs(tmp_path / "jobs.db", limits=Limits(events=3)) as jobs:
        jobs.task(name="fail", retries=0)(lambda: [].pop())
        ends = Ends(jobs.store, "ours", dead=told.append, done=None)
        for worker in ("theirs.1", "ours.1"):
            jobs.submit("fail")
            jobs.work(until_idle=True, name=worker)
            ends.look()
        assert told == ["job 2 (fail) is dead: IndexError: pop from empty list"]
        jobs.submit_many("fail", [()] * 2)
        jobs.work(until_idle=True, name="ours.1")
        ends.last_look()
    assert ends.dead == 1 + 1
    assert told[-1].startswith("3 events had been dropped before this command could read them, so there may be more")


def test_a_kind_of_executor_that_is_none_is_one_sentence_before_any_worker_begins(app: Jobs, underlay: Run) -> None:
    done = underlay("jobs", "work", "app:jobs", "--executor", "nonsense", "--workers", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("underlay: there is no kind of executor 'nonsense'; choose one of ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("app", "'app' names no Jobs; write MODULE:NAME, like app:jobs"),
        ("..app:jobs", "'..app:jobs' names no Jobs; write MODULE:NAME, like app:jobs"),
        ("nowhere:jobs", "there is no module nowhere here"),
        ("app:nothing", "app:nothing has no such name"),
        ("app:double", "app:double is of the type function"),
        ("lacking:jobs", "lacking imports not_installed_at_all, which is not installed"),
        ("empty:jobs", "empty:jobs has no task; register functions with @jobs.task"),
    ],
)
def test_what_is_no_jobs_is_one_sentence(app: Jobs, underlay: Run, tmp_path: Path, target: str, why: str) -> None:
    (tmp_path / "lacking.py").write_text("import not_installed_at_all")
    (tmp_path / "empty.py").write_text("from underlay.workers import Jobs\njobs = Jobs('empty.db')")
    done = underlay("jobs", "work", target)
    assert done.returncode == 2
    assert done.stderr.startswith(f"underlay: {why}")
    assert done.stderr.count("\n") == 1


def test_status_shows_counts_and_dead_letters_in_80_columns(app: Jobs, underlay: Run) -> None:
    app.submit("fail", "w" * 200, key="a key")
    app.submit("double", 1)
    underlay("jobs", "work", "app:jobs", "--workers", "1", "--until-idle")
    app.submit("double", 2, delay_s=3600)
    done = underlay("jobs", "status", "jobs.db")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "waiting 1   running 0   done 1   dead 1   cancelled 0"
    assert lines[3].split()[:3] == ["3", "waiting", "0"]
    assert lines[4].split()[:3] == ["1", "dead", "1"]
    assert "ValueError: no www" in lines[5]
    assert max(map(len, lines)) <= 80
    one = underlay("jobs", "status", "jobs.db", "1").stdout
    assert one.startswith("job 1: fail, dead, key 'a key'\n")
    assert 'raise ValueError(f"no {word}")' in one


def test_status_shows_what_a_terminal_would_obey_or_cannot_show_as_escapes(
    app: Jobs, underlay: Run, child_environment: dict[str, str]
) -> None:
    app.submit("say", "red \x1b[31m bell \x07 half \udc80")
    underlay("jobs", "work", "app:jobs", "--workers", "1", "--until-idle")
    child_environment["PYTHONIOENCODING"] = "utf-8:strict"
    for words in (("jobs.db",), ("jobs.db", "1")):
        done = underlay("jobs", "status", *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert all(letter.isprintable() or letter == "\n" for letter in done.stdout)
    assert done.stdout.endswith("ValueError: red \\x1b[31m bell \\x07 half \\udc80\n")


def test_status_as_json_has_a_schema(app: Jobs, underlay: Run) -> None:
    app.submit("double", 1, key="k")
    told = json.loads(underlay("jobs", "status", "jobs.db", "--json").stdout)
    assert (told["schema"], told["waiting"], told["jobs"][0]["key"]) == ("underlay.jobs/1", 1, "k")
    one = json.loads(underlay("jobs", "status", "jobs.db", "1", "--json").stdout)
    assert (one["schema"], one["state"], one["events"][0]["event"]) == ("underlay.job/1", "waiting", "submitted")


def test_status_of_one_job_shows_its_arguments_and_its_result(app: Jobs, underlay: Run) -> None:
    app.submit("wait_for", "é" * 200)
    app.submit("double", 21)
    app.submit("say", kwargs={"what": ["x", None]})
    app.receipt(1).cancel()
    underlay("jobs", "work", "app:jobs", "--workers", "1", "--until-idle")
    shown = [underlay("jobs", "status", "jobs.db", str(job)).stdout.splitlines() for job in (1, 2, 3)]
    assert shown[0][1].startswith('arguments: "éééé') and max(map(len, shown[0])) <= 80
    assert shown[1][1:3] == ["arguments: 21", "begun 1 time, failed 0 times (dead at 1), worker lost 0 times"]
    assert shown[1][-1] == "result: 42"
    assert shown[2][1:3] == [
        'arguments: what=["x", null]',
        "begun 1 time, failed 1 time (dead at 1), worker lost 0 times",
    ]
    told = [json.loads(underlay("jobs", "status", "jobs.db", str(job), "--json").stdout) for job in (1, 2, 3)]
    assert [each["arguments"] for each in told] == [[["é" * 200], {}], [[21], {}], [[], {"what": ["x", None]}]]
    assert [each["result"] for each in told] == [None, 42, None]
    assert [each["result_size_bytes"] for each in told] == [None, 2, None]


@pytest.mark.parametrize("data", [b"\x80\x04K\x15.", b"[NaN]", b"[" * 100_000])
def test_what_is_no_json_is_told_by_its_size(tmp_path: Path, underlay: Run, data: bytes) -> None:
    class Own:
        def dumps(self, value: object, /) -> bytes:
            return data

        def loads(self, data: bytes, /) -> object:
            return [[], {}]

    with Jobs(tmp_path / "own.db", serialiser=Own()) as jobs:
        jobs.task(name="give")(lambda: 1)
        jobs.submit("give")
        jobs.work(until_idle=True)
    done = underlay("jobs", "status", "own.db", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"arguments: {len(data)} bytes that are no JSON\n" in done.stdout
    assert f"result: {len(data)} bytes that are no JSON\n" in done.stdout
    told = json.loads(underlay("jobs", "status", "own.db", "1", "--json").stdout)
    assert (told["arguments"], told["arguments_size_bytes"]) == (None, len(data))


def test_jobs_are_listed_by_state_and_task(app: Jobs, underlay: Run) -> None:
    app.submit("fail", "x")
    app.submit_many("double", [(1,), (2,), (3,)])
    underlay("jobs", "work", "app:jobs", "--workers", "1", "--until-idle")
    app.submit("double", 4)

    def listed(*words: str) -> list[int]:
        told = json.loads(underlay("jobs", "list", "jobs.db", *words, "--json").stdout)
        assert told["schema"] == "underlay.jobs.list/1"
        return [job["id"] for job in told["jobs"]]

    assert listed() == [5, 4, 3, 2, 1]
    assert listed("--state", "done") == [4, 3, 2]
    assert listed("--state", "done", "--state", "dead", "--limit", "2") == [4, 3]
    assert listed("--task", "double", "--state", "waiting") == [5]
    assert listed("--task", "nothing") == []
    table = underlay("jobs", "list", "jobs.db", "--state", "done", "--limit", "1").stdout.splitlines()
    assert [line.split()[:2] for line in table] == [["job", "state"], ["4", "done"], ["and", "more;"]]


def test_jobs_that_wait_are_cancelled_and_others_are_named(app: Jobs, underlay: Run) -> None:
    app.submit("double", 1)
    underlay("jobs", "work", "app:jobs", "--workers", "1", "--until-idle")
    app.submit_many("double", [(2,), (3,), (4,)])
    assert underlay("jobs", "cancel", "jobs.db", "2", "2").stdout == "1 cancelled\n"
    nothing = underlay("jobs", "cancel", "jobs.db", "3", "99")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert app.job(3).state is JobState.WAITING  # all or none, where one is not there
    some = underlay("jobs", "cancel", "jobs.db", "1", "3", "2", "--json")
    assert (some.returncode, json.loads(some.stdout)["cancelled"]) == (2, 1)
    assert some.stderr == "underlay: job 1 is done, 2 is cancelled; only a job that waits is taken back\n"
    assert app.statistics().cancelled == 2


def test_retry_and_purge_say_what_they_did(app: Jobs, underlay: Run) -> None:
    app.submit("fail", "x")
    app.submit("double", 1)
    underlay("jobs", "work", "app:jobs", "--workers", "1", "--until-idle")
    assert underlay("jobs", "retry", "jobs.db", "1").stdout == "1 waits again\n"
    assert underlay("jobs", "retry", "jobs.db", "--all").stdout == "0 wait again\n"
    assert json.loads(underlay("jobs", "purge", "jobs.db", "--json").stdout)["purged"] == 1
    assert underlay("jobs", "purge", "jobs.db", "--dead", "--older-than", "7d").stdout == "0 removed\n"
    told = app.statistics()
    assert (told.waiting, told.done, told.dead) == (1, 0, 0)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["status", "nowhere.db"], "there is no file nowhere.db"),
        (["status", "app.py"], "app.py is no database"),
        (["cancel", "jobs.db", "99"], "jobs.db has no job 99"),
        (["list", "jobs.db", "--state", "lost"], "jobs list: argument --state: invalid choice: 'lost'"),
        (["status", "jobs.db", "99"], "jobs.db has no job 99"),
        (["status", "jobs.db", str(10**30)], f"jobs.db has no job {10**30}"),
        (["retry", "jobs.db", str(10**30)], f"jobs.db has no job {10**30}"),
        (["retry", "jobs.db"], "underlay: jobs retry: no job is named; give"),
        (["retry", "jobs.db", "99"], "jobs.db has no job 99"),
        (["purge", "jobs.db", "--older-than", "soon"], "jobs purge: argument --older-than: 'soon' is no time"),
        (["work", "app:jobs", "--workers", "0"], "jobs work: argument --workers: '0' is no count"),
        (
            ["work", "app:jobs", "--lease", "0.001"],
            "underlay: jobs work: a lease of 0.001 s ends before",
        ),
    ],
)
def test_a_mistake_is_one_sentence(app: Jobs, underlay: Run, words: list[str], why: str) -> None:
    done = underlay("jobs", *words)
    assert done.returncode == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("action", ["work", "status", "list", "retry", "cancel", "purge"])
def test_each_actions_help_fits_80_columns(underlay: Run, action: str) -> None:
    done = underlay("jobs", action, "--help")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80

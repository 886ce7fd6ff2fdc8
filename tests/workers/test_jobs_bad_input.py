"""What cannot be done with jobs: one clear error each, and what was recorded before stays."""

from __future__ import annotations

import datetime
import functools
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from underlay.errors import UnderlayError, UsageError
from underlay.workers import (
    JobFailed,
    Jobs,
    JobsBusy,
    JobState,
    JobsUnavailable,
    Limits,
    NoSuchJob,
    NotSerialisable,
    QueueFull,
)

# How a child of these tests is told: it says its error, and the number of jobs that are there.
FILL = textwrap.dedent(
    """
    import sys
    from underlay.errors import UnderlayError
    from underlay.workers import Jobs

    kept = 0
    try:
        with Jobs(sys.argv[1]) as jobs:
            jobs.task(len)
            for _ in range(2000):
                jobs.submit("len", "x" * 20_000)
                kept += 1
    except UnderlayError as error:
        print(type(error).__name__, error, sep=": ")
    print(kept)
    """
)


def test_an_unknown_task_is_refused_with_the_nearest_name(jobs: Jobs) -> None:
    with pytest.raises(UsageError, match="no task is called 'asb'; did you mean 'abs'"):
        jobs.submit("asb")
    with pytest.raises(UsageError, match="the function len is not registered"):
        jobs.submit(len)


def test_two_tasks_of_one_name_are_refused(jobs: Jobs) -> None:
    with pytest.raises(UsageError, match="two tasks are called 'abs'"):
        jobs.task(abs)
    with pytest.raises(UsageError, match="is no name for a task"):
        jobs.task(name="")(len)
    with pytest.raises(UsageError, match="retries is a count"):
        jobs.task(retries=-1)(len)


@pytest.mark.parametrize(
    ("argument", "why"),
    [
        ({"when": datetime.date(2026, 1, 1)}, r"its part \['when'\] is of the type date, which JSON has no word for"),
        ({1: 2}, "it has the key 1, and JSON's keys are strings"),
        (float("nan"), "it is nan, which JSON has no word for"),
        (b"bytes", "it is of the type bytes, which"),
        ({1, 2}, "it is of the type set, which JSON has no word for; give plain data"),
        (10**5000, "it is an integer of 16,610 bits, too long for JSON's readers"),
        (sys.stdout, "it is of the type "),
    ],
    ids=["date", "key", "nan", "bytes", "set", "integer", "file"],
)
def test_arguments_that_json_cannot_say_are_refused_with_their_place(jobs: Jobs, argument: object, why: str) -> None:
    with pytest.raises(NotSerialisable, match=f"argument 1 of abs cannot be stored: {why}"):
        jobs.submit("abs", argument)
    assert jobs.statistics().waiting == 0


@pytest.mark.parametrize(
    ("arguments", "kwargs", "why"),
    [
        ((1,), {}, "missing a required argument: 'second'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1, 2), {"third": 3}, "got an unexpected keyword argument 'third'"),
        ((1, 2), {"second": 3}, "multiple values for argument 'second'"),
    ],
)
def test_arguments_that_the_function_does_not_take_are_refused_before_they_wait(
    jobs: Jobs, arguments: tuple[int, ...], kwargs: dict[str, int], why: str
) -> None:
    @jobs.task
    def add(first: int, second: int, *, offset: int = 0) -> int:
        return first + second + offset

    told = re.escape(f"add cannot be called with these arguments: {why}; it takes (first, second, offset=…)")
    with pytest.raises(UsageError, match=f"^{told}$"):
        jobs.submit(add, *arguments, kwargs=kwargs)
    with pytest.raises(UsageError, match=f"^{told}$"):
        jobs.submit("add", *arguments, kwargs=kwargs)
    assert jobs.statistics().waiting == 0
    jobs.submit(add, 1, kwargs={"second": 2, "offset": 3})
    assert jobs.statistics().waiting == 1


def test_a_function_whose_signature_nobody_knows_or_whose_wrapper_adds_to_it_is_called_as_asked(jobs: Jobs) -> None:
    def with_a_connection(function: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(function)
        def wrapper(*arguments: object) -> str:
            return function("the connection", *arguments)

        return wrapper

    @jobs.task
    @with_a_connection
    def use(connection: str, what: str) -> str:
        return f"{connection} for {what}"

    jobs.task(name="largest")(max)  # written in C, and without a signature
    used, largest = jobs.submit(use, "this"), jobs.submit("largest", 1, 2)
    jobs.work(until_idle=True)
    assert (used.result(), largest.result()) == ("the connection for this", 2)


def test_arguments_that_contain_themselves_or_are_nested_too_deep_are_refused(jobs: Jobs) -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(NotSerialisable, match="nested deeper than 200 levels, or contains itself"):
        jobs.submit("abs", endless)


def test_texts_that_utf_8_cannot_say_come_back_as_they_were(jobs: Jobs) -> None:
    @jobs.task(retries=0)
    def give(text: str) -> str:
        if text == "\udc01":
            raise ValueError(text)
        return text

    receipt = jobs.submit(give, "\udc00\0é")
    failing = jobs.submit(give, "\udc01")
    jobs.work(until_idle=True)
    assert receipt.result() == "\udc00\0é"
    assert failing.job.error is not None and failing.job.error.message == "\udc01"


def test_a_result_that_cannot_be_stored_is_a_dead_letter_and_is_not_computed_again(jobs: Jobs) -> None:
    jobs.task(name="give")(lambda: {1, 2})
    receipt = jobs.submit("give")
    assert jobs.work(until_idle=True).failed == 1
    with pytest.raises(JobFailed, match="the result cannot be stored: it is of the type set, which JSON"):
        receipt.result()


def test_arguments_results_and_errors_that_are_too_long_are_refused_or_cut(tmp_path: Path) -> None:
    with Jobs(tmp_path / "jobs.db", limits=Limits(arguments_bytes=100, result_bytes=100, error_bytes=1000)) as jobs:
        jobs.task(name="long")(lambda *unused: "x" * 99)
        jobs.task(name="raise", retries=0)(lambda: (_ for _ in ()).throw(ValueError("x" * 5000)))
        with pytest.raises(
            NotSerialisable, match="argument 1 of long cannot be stored: 202 bytes are more than the limit of 100"
        ):
            jobs.submit("long", "x" * 200)
        result, error = jobs.submit("long"), jobs.submit("raise")
        jobs.work(until_idle=True)
        assert "the result cannot be stored: 101 bytes" in str(result.job.error)
        assert error.job.error is not None
        assert "… left out …" in error.job.error.message and len(error.job.error.message) < 1000


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "\udc00"])
def test_a_key_that_is_none_is_refused(jobs: Jobs, key: str) -> None:
    with pytest.raises(UsageError, match="is no key"):
        jobs.submit("abs", 1, key=key)


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_jobs_need_a_file(path: str) -> None:
    with pytest.raises(UsageError, match="is no file, so jobs would not outlive this process"):
        Jobs(path)


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.write_text("dear diary\n" * 200)
    with pytest.raises(UsageError, match="is no database"):
        Jobs(path)
    assert path.read_text() == "dear diary\n" * 200


def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE jobs (a)")
    theirs.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is another program's database"):
        Jobs(path)
    assert path.read_bytes() == before


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    Jobs(path).close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 2")
    newer.close()
    with pytest.raises(UsageError, match="is of version 2, and this underlay knows version 1"):
        Jobs(path)


def test_a_database_that_lacks_a_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    Jobs(path).close()
    with sqlite3.connect(path) as lacking:
        lacking.execute("DROP TABLE events")
    lacking.close()
    with pytest.raises(UsageError, match="lacks tables that jobs have"):
        Jobs(path)


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1, 10**30])
def test_a_number_that_sqlite_cannot_count_to_is_no_jobs_and_has_no_events_after_it(jobs: Jobs, number: int) -> None:
    receipt = jobs.submit("abs", 1)
    for ask in (jobs.job, jobs.retry, jobs.receipt):
        with pytest.raises(NoSuchJob, match=f"has no job {number}"):
            ask(number)
    assert receipt.cancel()
    after = [event.event for event in receipt.events(after=number)]
    assert after == ([] if number > 0 else ["submitted", "cancelled"])


def test_a_damaged_database_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with Jobs(path) as jobs:
        jobs.task(abs)
        jobs.submit_many("abs", [(number,) for number in range(2000)])
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(UnderlayError, match="is damaged"), Jobs(path) as jobs:
        jobs.statistics()


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(JobsUnavailable, match="cannot be made: No such file or directory; name a file in a folder"):
        Jobs(tmp_path / "nowhere" / "jobs.db")
    with pytest.raises(JobsUnavailable, match="cannot be opened"):
        Jobs(tmp_path)


def test_a_database_that_somebody_keeps_locked_is_told_and_works_again_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with Jobs(path, busy_s=0.05) as jobs:
        jobs.task(abs)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JobsBusy, match=r"another process keeps .* locked; end it, or wait longer with busy_s"):
            jobs.submit("abs", 1)
        assert jobs.statistics().waiting == 0  # to look takes no lock
        other.execute("ROLLBACK")
        other.close()
        jobs.submit("abs", 1)


def test_a_database_is_its_owners_alone(jobs: Jobs) -> None:
    jobs.submit("abs", 1)
    for file in Path(jobs.path).parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def _in_a_mount(options: str, folder: Path, command: list[str], environment: dict[str, str]) -> str:
    """Run a command where ``folder`` is a file system of its own, in a mount namespace that ends with it."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed; remedy: apt-get install util-linux")
    mount = [unshare, "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace may be made here; remedy: run as root, or allow user namespaces")
    script = f'mount {options} "$0" && exec "$@"'
    done = subprocess.run(
        [*mount, "sh", "-c", script, str(folder), *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_full_disk_is_one_clear_error(tmp_path: Path, child_environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", FILL, str(tmp_path / "jobs.db")]
    said = _in_a_mount("-t tmpfs -o size=2m tmpfs", tmp_path, command, child_environment)
    error, kept = said.splitlines()
    assert error == (
        f"JobsUnavailable: the disk of {tmp_path}/jobs.db is full, nothing was recorded; make room and try again"
    )
    assert 0 < int(kept) < 200


def test_a_disk_that_is_full_from_the_beginning_is_one_clear_error(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    command = [sys.executable, "-c", FILL, str(tmp_path / "jobs.db")]
    said = _in_a_mount("-t tmpfs -o size=16k tmpfs", tmp_path, command, child_environment)
    assert re.fullmatch(r"JobsUnavailable: .*; make room .*\n0\n", said), said


def test_a_place_that_can_only_be_read_is_one_clear_error(tmp_path: Path, child_environment: dict[str, str]) -> None:
    Jobs(tmp_path / "jobs.db").close()
    for name, why in (("jobs.db", "is in a place that can only be read"), ("new.db", "Read-only file system")):
        command = [sys.executable, "-c", FILL, str(tmp_path / name)]
        said = _in_a_mount('--bind -o ro "$0"', tmp_path, command, child_environment)
        assert said.startswith("JobsUnavailable: ") and why in said, said


def test_a_limit_of_a_files_size_is_one_clear_error_and_what_was_kept_stays(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    path = tmp_path / "jobs.db"
    script = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))\n{FILL}"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], env=child_environment, capture_output=True, text=True, timeout=60
    )
    error, kept = done.stdout.splitlines()
    assert error.startswith("JobsUnavailable: the system refused to read or write ")
    assert "raise the limit of a file's size" in error
    with Jobs(path) as jobs:
        assert jobs.statistics().waiting == int(kept) > 0
        assert {job.state for job in jobs.newest(limit=1000)} == {JobState.WAITING}


def test_a_worker_on_a_full_disk_ends_with_the_error(
    tmp_path: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.submit("abs", -1)

    def refuse(*unused: object) -> None:
        raise JobsUnavailable("the disk is full")

    real: Callable[..., object] = jobs.store.record
    monkeypatch.setattr(jobs.store, "record", refuse)
    with pytest.raises(JobsUnavailable, match="the disk is full"):
        jobs.work(until_idle=True)
    monkeypatch.setattr(jobs.store, "record", real)
    assert jobs.store.lose_worker("nobody", jobs.now()) == 0
    assert jobs.receipt(1).state is JobState.RUNNING  # until its lease runs out; then it is run again


def test_what_a_queue_beyond_its_limit_refuses_is_no_part_of_a_batch(tmp_path: Path) -> None:
    with Jobs(tmp_path / "jobs.db", limits=Limits(waiting=2)) as jobs:
        jobs.task(abs)
        with pytest.raises(QueueFull):
            jobs.submit_many("abs", [(1,), (2,), (3,)])
        assert jobs.statistics().waiting == 2

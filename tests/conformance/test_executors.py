"""What every kind of executor promises; one suite over all of them, and over the standard library's own.

It knows promises. What a kind has besides is tested with its file, in tests/workers.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import traceback
import uuid
from collections.abc import Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    as_completed,
    wait,
)
from pathlib import Path

import pytest
from tests.conformance import executor_subjects as work
from tests.conformance.executor_subjects import MAX_WORKERS, PATIENCE_S, SUBJECTS, Subject, is_gone, until

from underlay import workers

pytestmark = pytest.mark.threads


@pytest.fixture(scope="module", params=SUBJECTS, ids=str)
def kind(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.param
    if (reason := found.missing()) is not None:
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def shared(kind: Subject) -> Iterator[Executor]:
    """One executor for the tests that leave it as it is."""
    with kind.make() as executor:
        yield executor


@pytest.fixture
def fresh(kind: Subject) -> Iterator[Executor]:
    """An executor that the test may shut down, or break; nothing of it stays."""
    children = _children()
    with kind.make() as executor:
        yield executor
    until(lambda: _children() <= children, "the workers are gone")


def _children() -> set[str]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = set(file.read().split())
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children") as file:
                children |= set(file.read().split())
        except OSError:
            pass
    return {child for child in children if not _is_tracker(child)}


def _is_tracker(child: str) -> bool:
    try:
        return b"resource_tracker" in Path(f"/proc/{child}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ended before open(2), or before read(2)
        return False


class Gate:
    """Calls that run until the test lets them end."""

    def __init__(self, executor: Executor, folder: Path, calls: int = MAX_WORKERS) -> None:
        self.folder = folder
        self.futures = [executor.submit(work.gate, folder, number) for number in range(calls)]

    def began(self) -> int:
        return len(list(self.folder.glob("began-*")))

    def wait_until_all_run(self) -> None:
        until(lambda: self.began() == len(self.futures), "the calls have begun")

    def open(self) -> None:
        (self.folder / "open").touch()


def needs_waiting(kind: Subject) -> None:
    if not kind.waits:
        pytest.skip("a call is over when it is submitted")


# --- results and exceptions ---


def test_a_call_has_its_result(shared: Executor) -> None:
    assert shared.submit(divmod, 7, 2).result(PATIENCE_S) == (3, 1)
    assert shared.submit(work.echo, None).result(PATIENCE_S) is None


def test_keywords_go_along_whatever_they_are_called(shared: Executor) -> None:
    given = {"fn": 1, "self": 2, "timeout": 3}
    assert shared.submit(work.keywords, **given).result(PATIENCE_S) == given


def test_a_call_runs_where_the_kind_says(kind: Subject, shared: Executor) -> None:
    assert (shared.submit(work.pid).result(PATIENCE_S) != os.getpid()) is kind.other_process


def test_calls_run_in_the_programs_folder(kind: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with kind.make() as executor:
        assert set(executor.map(work.folder, range(2 * MAX_WORKERS))) == {str(tmp_path)}


def test_an_exception_is_the_callers_with_the_traceback_from_there(shared: Executor) -> None:
    future = shared.submit(work.raise_value_error, "no")
    with pytest.raises(ValueError) as caught:
        future.result(PATIENCE_S)
    assert caught.value.args == ("no", 7)
    assert future.exception() is caught.value
    told = "".join(traceback.format_exception(caught.value))
    assert "in raise_value_error" in told
    assert "raise ValueError(text, 7)" in told


def test_system_exit_in_a_call_is_an_exception_of_the_call(shared: Executor) -> None:
    with pytest.raises(SystemExit) as caught:
        shared.submit(work.raise_system_exit).result(PATIENCE_S)
    assert caught.value.code == 3
    assert shared.submit(work.echo, 1).result(PATIENCE_S) == 1


@pytest.mark.parametrize("raises", [work.raise_awkward, work.raise_with_a_lock])
def test_an_exception_that_cannot_come_back_is_told(kind: Subject, shared: Executor, raises: object) -> None:
    if not kind.survives_bad_answers:
        pytest.skip("the standard library's pool breaks, or loses the exception")
    with pytest.raises((work.Awkward, ValueError, workers.RemoteFailure)) as caught:
        shared.submit(raises).result(PATIENCE_S)  # type: ignore[arg-type]
    assert raises.__name__ in "".join(traceback.format_exception(caught.value))  # type: ignore[attr-defined]
    if kind.pickles:
        assert isinstance(caught.value, workers.RemoteFailure)
        assert "cannot be brought back" in str(caught.value)
    assert shared.submit(work.echo, 1).result(PATIENCE_S) == 1


def test_what_cannot_be_pickled_is_an_error_and_the_next_call_works(kind: Subject, shared: Executor) -> None:
    if not kind.pickles:
        lock = threading.Lock()
        assert shared.submit(work.echo, lock).result(PATIENCE_S) is lock
        return
    for future in (shared.submit(work.echo, threading.Lock()), shared.submit(work.a_lock)):
        with pytest.raises((pickle.PicklingError, TypeError)) as caught:
            future.result(PATIENCE_S)
        if not kind.reference:
            assert isinstance(caught.value, workers.NotPicklable)
            assert "\n" not in str(caught.value)
    assert shared.submit(work.echo, 1).result(PATIENCE_S) == 1


def test_lambdas_and_closures_go_along(kind: Subject, shared: Executor) -> None:
    if not kind.closures:
        pytest.skip("the standard library pickles by name")
    factor = 6

    class Local:
        def __init__(self, number: int) -> None:
            self.number = number

    assert shared.submit(lambda: factor * 7).result(PATIENCE_S) == 42
    made = shared.submit(lambda: Local(factor)).result(PATIENCE_S)
    assert isinstance(made, Local)
    assert made.number == 6


def test_large_arguments_and_results_arrive_whole(shared: Executor) -> None:
    content = os.urandom(1 << 20) * 16
    assert shared.submit(work.size, content).result(PATIENCE_S) == (16 << 20, content[::-1])


def test_a_call_that_is_made_twice_runs_twice(shared: Executor, tmp_path: Path) -> None:
    file = tmp_path / "log"
    wait([shared.submit(work.append, file, "same") for _ in range(5)], PATIENCE_S)
    assert file.read_text() == "same\n" * 5


def test_arguments_are_what_they_were_when_submitted(kind: Subject, fresh: Executor, tmp_path: Path) -> None:
    needs_waiting(kind)
    if not kind.pickles or not kind.copies_at_submit:
        pytest.skip("arguments are shared, or copied later")
    gate, words = Gate(fresh, tmp_path), ["one"]
    gate.wait_until_all_run()
    future = fresh.submit(work.echo, words)
    words.append("two")
    gate.open()
    assert future.result(PATIENCE_S) == ["one"]


# --- many calls ---


@pytest.mark.parametrize("chunksize", [1, 4])
def test_map_keeps_the_order(shared: Executor, chunksize: int) -> None:
    assert list(shared.map(work.late_if_even, range(10), chunksize=chunksize)) == [number**2 for number in range(10)]
    assert list(shared.map(divmod, [7, 8], [2, 3], chunksize=chunksize)) == [(3, 1), (2, 2)]
    assert list(shared.map(work.echo, [])) == []


def test_map_raises_where_the_call_raised(shared: Executor) -> None:
    results = shared.map(work.positive, [1, -2, 3])
    assert next(results) == 1
    with pytest.raises(ValueError, match="-2"):
        next(results)


def test_map_ends_by_its_time_out(kind: Subject, shared: Executor, tmp_path: Path) -> None:
    needs_waiting(kind)
    results = shared.map(work.gate, [tmp_path], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    (tmp_path / "open").touch()


def test_as_completed_gives_each_once(shared: Executor) -> None:
    futures = [shared.submit(work.late_if_even, number) for number in range(8)]
    assert sorted(each.result() for each in as_completed(futures, PATIENCE_S)) == [number**2 for number in range(8)]


def test_wait_returns_with_the_first_result_or_exception(kind: Subject, shared: Executor, tmp_path: Path) -> None:
    needs_waiting(kind)
    slow: Future[object] = shared.submit(work.gate, tmp_path)
    quick: Future[object] = shared.submit(work.echo, 1)
    done, pending = wait([slow, quick], PATIENCE_S, FIRST_COMPLETED)
    assert (done, pending) == ({quick}, {slow})
    failing: Future[object] = shared.submit(work.raise_value_error, "no")
    done, pending = wait([slow, failing], PATIENCE_S, FIRST_EXCEPTION)
    assert (done, pending) == ({failing}, {slow})
    (tmp_path / "open").touch()
    assert wait([slow], PATIENCE_S).not_done == set()


def test_a_done_callback_is_called_once_and_may_submit(shared: Executor) -> None:
    seen: list[Future[int]] = []
    next_call: list[Future[object]] = []

    def done(future: Future[int]) -> None:
        seen.append(future)
        next_call.append(shared.submit(work.echo, "next"))

    future = shared.submit(abs, -1)
    future.add_done_callback(done)
    until(lambda: bool(next_call), "the callback was called")
    assert next_call[0].result(PATIENCE_S) == "next"
    assert seen == [future]


def test_many_threads_may_submit(shared: Executor) -> None:
    results: list[list[object]] = []

    def submit_some(number: int) -> None:
        results.append(list(shared.map(work.echo, [number] * 5)))

    threads = [threading.Thread(target=submit_some, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(results) == [[number] * 5 for number in range(4)]


# --- through an event loop ---


def test_a_loop_awaits_its_calls(shared: Executor) -> None:
    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(shared, work.late_if_even, number) for number in range(6)]
        with pytest.raises(ValueError, match="no"):
            await loop.run_in_executor(shared, work.raise_value_error, "no")
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [number**2 for number in range(6)]


def test_a_loop_cancels_what_waits(kind: Subject, fresh: Executor, tmp_path: Path) -> None:
    needs_waiting(kind)

    async def main() -> None:
        gate = Gate(fresh, tmp_path)
        await asyncio.to_thread(gate.wait_until_all_run)
        calls = [
            asyncio.get_running_loop().run_in_executor(fresh, work.append, tmp_path / "log", "x") for _ in range(9)
        ]
        calls[-1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[-1]
        gate.open()
        await asyncio.gather(*calls[:-1])

    asyncio.run(main())
    assert (tmp_path / "log").read_text() == "x\n" * 8


# --- cancellation and the end ---


def test_what_waits_is_taken_back_and_what_runs_is_not(kind: Subject, fresh: Executor, tmp_path: Path) -> None:
    needs_waiting(kind)
    gate = Gate(fresh, tmp_path)
    gate.wait_until_all_run()
    until(lambda: all(each.running() for each in gate.futures), "the futures say that they run")
    assert not any(each.cancel() for each in gate.futures)
    # The standard library's pool of processes has one call more on its way than it has workers, beside those that run.
    waiting = [fresh.submit(work.append, tmp_path / "log", str(number)) for number in range(8)]
    assert waiting[-1].cancel()
    assert waiting[-2].cancel()
    gate.open()
    assert [each.result(PATIENCE_S) for each in gate.futures] == list(range(MAX_WORKERS))
    assert wait(waiting, PATIENCE_S).not_done == set()
    with pytest.raises(CancelledError):
        waiting[-1].result()
    fresh.shutdown()
    assert sorted((tmp_path / "log").read_text().split()) == [str(number) for number in range(6)]


def test_shutdown_waits_for_what_was_submitted(fresh: Executor, tmp_path: Path) -> None:
    futures = [fresh.submit(work.append, tmp_path / "log", "x") for _ in range(6)]
    fresh.shutdown()
    assert all(each.done() for each in futures)
    assert (tmp_path / "log").read_text() == "x\n" * 6
    fresh.shutdown()


def test_shutdown_without_waiting_still_does_what_was_submitted(kind: Subject, fresh: Executor, tmp_path: Path) -> None:
    needs_waiting(kind)
    gate = Gate(fresh, tmp_path, 2 * MAX_WORKERS)
    fresh.shutdown(wait=False)
    assert not gate.futures[-1].done()
    gate.open()
    assert [each.result(PATIENCE_S) for each in gate.futures] == list(range(2 * MAX_WORKERS))


def test_shutdown_can_cancel_what_waits(kind: Subject, fresh: Executor, tmp_path: Path) -> None:
    needs_waiting(kind)
    gate = Gate(fresh, tmp_path)
    gate.wait_until_all_run()
    waiting = [fresh.submit(work.append, tmp_path / "log", "x") for _ in range(8)]
    fresh.shutdown(wait=False, cancel_futures=True)
    until(lambda: waiting[-1].cancelled(), "what waits is cancelled")
    gate.open()
    fresh.shutdown()
    assert [each.result(PATIENCE_S) for each in gate.futures] == list(range(MAX_WORKERS))
    assert sum(each.cancelled() for each in waiting) >= 4  # all, but those on their way


def test_nothing_is_taken_after_shutdown(fresh: Executor) -> None:
    fresh.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        fresh.submit(work.echo, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        fresh.map(work.echo, [1])


def test_an_executor_that_never_had_a_call_ends(fresh: Executor) -> None:
    fresh.shutdown(cancel_futures=True)


def test_an_executor_that_was_forgotten_does_its_work_and_ends(kind: Subject, tmp_path: Path) -> None:
    children = _children()
    executor = kind.make()
    futures = [executor.submit(work.append, tmp_path / "log", "x") for _ in range(4)]
    del executor
    assert wait(futures, PATIENCE_S).not_done == set()
    assert (tmp_path / "log").read_text() == "x\n" * 4
    until(lambda: _children() <= children, "the workers are gone")


# --- death ---


def needs_to_see_death(kind: Subject) -> None:
    if not kind.sees_death:
        pytest.skip("its workers die with this process")


def test_a_worker_that_dies_breaks_the_executor(kind: Subject, fresh: Executor) -> None:
    needs_to_see_death(kind)
    with pytest.raises(BrokenExecutor):
        fresh.submit(work.die).result(PATIENCE_S)
    with pytest.raises(BrokenExecutor):
        fresh.submit(work.echo, 1).result(PATIENCE_S)


def test_a_killed_worker_fails_what_runs_and_what_waits(kind: Subject, fresh: Executor, tmp_path: Path) -> None:
    needs_to_see_death(kind)
    gate = Gate(fresh, tmp_path)
    gate.wait_until_all_run()
    waiting = [fresh.submit(work.echo, number) for number in range(4)]
    pids = [int(each.name.split("-")[1]) for each in tmp_path.glob("began-*")]
    os.kill(pids[0], signal.SIGKILL)
    for each in waiting:
        with pytest.raises(BrokenExecutor):
            each.result(PATIENCE_S)
    gate.open()
    broken = [each for each in gate.futures if isinstance(each.exception(PATIENCE_S), BrokenExecutor)]
    assert broken


def test_a_worker_killed_while_it_has_nothing_to_do_is_seen_at_the_next_call(kind: Subject, fresh: Executor) -> None:
    needs_to_see_death(kind)
    pids = {fresh.submit(work.pid).result(PATIENCE_S)}
    for each in pids:
        os.kill(each, signal.SIGKILL)
        until(lambda each=each: is_gone(each), "it is dead")  # type: ignore[misc]
    with pytest.raises(BrokenExecutor):
        for _ in range(2 * MAX_WORKERS):
            fresh.submit(work.pid).result(PATIENCE_S)


# --- the end of the program ---


def _program(kind: Subject, text: str) -> list[str]:
    make = f"[each for each in SUBJECTS if each.name == {kind.name!r}][0].make()"
    code = f"""
        from pathlib import Path
        import os, sys
        from tests.conformance import executor_subjects as work
        from tests.conformance.executor_subjects import SUBJECTS
        if __name__ == "__main__":
            executor = {make}
        """
    return [sys.executable, "-c", textwrap.dedent(code) + textwrap.indent(textwrap.dedent(text), "    ")]


def _environment(mark: str) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, "UNDERLAY_TEST_MARK": mark}


def _marked(mark: str) -> list[str]:
    """The processes that have the mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes() and not is_gone(int(process.name)):
                found.append(process.name)
        except OSError:
            pass
    return found


def test_an_executor_that_was_shut_down_leaves_nothing_behind(kind: Subject, tmp_path: Path) -> None:
    text = """
        import gc, threading, time, warnings
        warnings.simplefilter("error")
        def left():
            gc.collect()
            return len(os.listdir("/proc/self/fd")), sorted(each.name for each in threading.enumerate())
        for turn in range(3):
            assert list(executor.map(work.echo, range(4))) == [0, 1, 2, 3]
            executor.shutdown()
            if turn == 0:  # what its packages keep for ever is there now
                executor = None
                before = left()
            executor = [each for each in SUBJECTS if each.name == NAME][0].make()
        executor.shutdown()
        executor = None
        limit = time.monotonic() + 20
        while (after := left()) != before and time.monotonic() < limit:
            time.sleep(0.05)
        assert after == before, f"{before} {after}"
        """
    folder = tmp_path / "tmp"
    folder.mkdir()
    mark = uuid.uuid4().hex
    done = subprocess.run(
        _program(kind, text.replace("NAME", repr(kind.name))),
        env={**_environment(mark), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(folder.iterdir()) == []
    until(lambda: not _marked(mark), "all its processes are gone")


def test_a_program_that_ends_does_first_what_it_submitted(kind: Subject, tmp_path: Path) -> None:
    text = f"""
        for number in range(6):
            executor.submit(work.append, Path({str(tmp_path / "log")!r}), "x")
        """
    mark = uuid.uuid4().hex
    done = subprocess.run(
        _program(kind, text), env=_environment(mark), capture_output=True, text=True, timeout=100, check=False
    )
    if (3, 12) <= sys.version_info < (3, 12, 3) and kind.name in ("celery", "dask"):
        # These refuse each thread that is started when the program ends: python/cpython#113964.
        assert "6 calls have no result, and the program ends: no worker could be started" in done.stderr
        return
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "log").read_text() == "x\n" * 6
    until(lambda: not _marked(mark), "all its processes are gone")


def test_a_program_that_is_killed_leaves_no_process_behind(kind: Subject, tmp_path: Path) -> None:
    if kind.reference:
        pytest.skip("the standard library promises nothing")
    text = f"""
        executor.submit(work.pid).result()
        for number in range(4):
            executor.submit(work.gate, Path({str(tmp_path)!r}))
        print("go", flush=True)
        executor.shutdown()
        """
    if not kind.waits:
        text = 'print("go", flush=True); import time; time.sleep(60)'
    mark = uuid.uuid4().hex
    folder = tmp_path / "tmp"
    folder.mkdir()
    environment = {**_environment(mark), "TMPDIR": str(folder)}
    with subprocess.Popen(_program(kind, text), env=environment, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "go\n"
        if kind.waits:
            until(lambda: len(list(tmp_path.glob("began-*"))) == MAX_WORKERS, "the calls have begun")
        program.kill()
    until(lambda: not _marked(mark), "all its processes are gone")
    assert list(folder.iterdir()) == []

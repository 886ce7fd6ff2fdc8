"""Unmodified programs on an installed executor: `run_in_executor(None, …)`, `to_thread`, `underlay run`."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from underlay import workers
from underlay.errors import UsageError
from underlay.workers import _context

pytest.importorskip("cloudpickle", reason="cloudpickle is not installed; remedy: pip install 'underlay[workers]'")

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")
LOCK: contextvars.ContextVar[object] = contextvars.ContextVar("LOCK")

Underlay = Callable[..., "subprocess.CompletedProcess[str]"]


def who_and_where(greeting: str = "") -> tuple[str, int]:
    return greeting + WHO.get(), os.getpid()


def has_a_lock() -> bool:
    return LOCK.get(None) is not None


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with workers.executor("process", max_workers=1) as executor:
        yield executor


@pytest.fixture
def installed(processes: Executor) -> Iterator[None]:
    undo = workers.install(processes)
    yield
    undo()


def test_loops_call_in_the_installed_executor(installed: None) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert (await loop.run_in_executor(None, os.getpid)) != os.getpid()
        assert (await asyncio.to_thread(lambda: os.getpid())) != os.getpid()

    asyncio.run(main())


def test_context_variables_go_along_where_they_can(installed: None) -> None:
    async def main() -> tuple[str, int]:
        WHO.set("me")
        LOCK.set(threading.Lock())
        assert not await asyncio.to_thread(has_a_lock)
        return await asyncio.to_thread(who_and_where, greeting="it is ")

    who, where = asyncio.run(main())
    assert who == "it is me"
    assert where != os.getpid()


def test_what_a_call_sets_does_not_stay_in_the_worker(installed: None) -> None:
    async def main() -> str:
        WHO.set("me")
        await asyncio.to_thread(who_and_where)
        return (await asyncio.get_running_loop().run_in_executor(None, who_and_where))[0]

    assert asyncio.run(main()) == "nobody"


def test_an_exception_arrives_through_to_thread(installed: None) -> None:
    async def main() -> None:
        await asyncio.to_thread(int, "x")

    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(main())


def test_what_asyncio_runs_in_threads_itself_stays_in_this_process(installed: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        ours, theirs = socket.socketpair()
        with ours, theirs, open(tmp_path / "file", "rb") as file:
            ours.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=theirs)
            sent = asyncio.create_task(loop.sock_sendfile(ours, file, fallback=True))
            assert await reader.readexactly(100_000) == b"x" * 100_000
            assert await sent == 100_000
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def test_a_loop_with_a_default_executor_of_its_own_keeps_it(installed: None) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        return await loop.run_in_executor(None, os.getpid)

    assert asyncio.run(main()) == os.getpid()


def test_an_executor_that_is_named_is_asked(installed: None) -> None:
    async def main() -> int:
        with workers.executor("thread") as threads:
            return await asyncio.get_running_loop().run_in_executor(threads, os.getpid)

    assert asyncio.run(main()) == os.getpid()


def test_undone_it_is_as_it_was_and_installs_nest(processes: Executor) -> None:
    before = asyncio.BaseEventLoop.run_in_executor

    async def where() -> int:
        return await asyncio.to_thread(os.getpid)

    undo_outer = workers.install(processes)
    undo_inner = workers.install(workers.executor("inline"))
    assert asyncio.run(where()) == os.getpid()
    undo_inner()
    assert asyncio.run(where()) != os.getpid()
    undo_outer()
    assert asyncio.run(where()) == os.getpid()
    assert asyncio.BaseEventLoop.run_in_executor is before


def in_this_thread() -> bool:
    """Whether a loop calls where it runs: in the executor inline, and in none of asyncio's threads."""

    async def main() -> bool:
        return await asyncio.to_thread(threading.get_ident) == threading.get_ident()

    return asyncio.run(main())


def test_installs_are_undone_in_any_order_and_once_each() -> None:
    inline, threads = workers.executor("inline"), workers.executor("thread")
    first, second = workers.install(inline), workers.install(threads)
    first()
    assert not in_this_thread()
    third = workers.install(inline)
    assert in_this_thread()
    first()  # a second time it does nothing
    assert in_this_thread()
    second()
    assert in_this_thread()
    third()
    assert not in_this_thread()
    again = workers.install(inline)
    assert in_this_thread()
    again()
    assert not in_this_thread()


@pytest.mark.parametrize("nothing", [None, "thread", ThreadPoolExecutor])
def test_what_is_no_executor_is_not_installed(nothing: Any) -> None:
    with pytest.raises(UsageError, match="no executor but of the type"):
        workers.install(nothing)


def test_uvloop_asks_it_too(installed: None) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed; remedy: pip install uvloop")
    undo = workers.install(workers.executor("inline"))
    undo()

    async def where() -> int:
        return await asyncio.get_running_loop().run_in_executor(None, os.getpid)

    with workers.executor("process", max_workers=1) as executor:
        workers.redirect_uvloop(uvloop)
        undo = workers.install(executor)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(where()) != os.getpid()
        undo()


def test_bounds_are_kept(processes: Executor) -> None:
    undo = workers.install(workers.bounded(processes, 10))

    async def main() -> str:
        WHO.set("me")
        return (await asyncio.to_thread(who_and_where))[0]

    assert asyncio.run(main()) == "me"
    undo()


# --- underlay run --executor ---

APP = """
import asyncio, os, sys

def square(number):
    return number * number, os.getpid()

async def main():
    loop = asyncio.get_running_loop()
    squares = await asyncio.gather(*(loop.run_in_executor(None, square, number) for number in range(4)))
    threads = await asyncio.gather(*(asyncio.to_thread(square, number) for number in range(4)))
    print([each[0] for each in squares], [each[0] for each in threads])
    print(os.getpid() in {each[1] for each in squares + threads})
    print(os.environ.get("UNDERLAY_EXECUTOR"))

asyncio.run(main())  # without an `if __name__ == "__main__"`
"""


@pytest.mark.parametrize("kind", ["inline", "thread", "process", "process,max_workers=1", "celery", "dask"])
@pytest.mark.parametrize("io", ["asyncio", "epoll", "uvloop"])
def test_an_unmodified_program_runs_its_calls_there(kind: str, io: str, underlay: Underlay, tmp_path: Path) -> None:
    name = kind.split(",")[0]
    package = {"celery": "celery", "dask": "distributed"}.get(name, "underlay")
    pytest.importorskip(package, reason=f"{package} is not installed; remedy: pip install 'underlay[workers]'")
    if io == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed; remedy: pip install uvloop")
        if name in ("celery", "dask"):
            pytest.skip("one loop is enough for the slow ones")
    (tmp_path / "app.py").write_text(APP)
    done = underlay("run", "--io", io, "--executor", kind, "app.py")
    here = name in ("inline", "thread")
    assert done.stdout == f"[0, 1, 4, 9] [0, 1, 4, 9]\n{here}\nNone\n", done.stderr
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("proces", "there is no kind of executor 'proces'; did you mean 'process'?"),
        ("process,4", "'4' gives no option a value; say it as in process,max_workers=4"),
        ("thread,", "'' gives no option a value; say it as in thread,max_workers=4"),
        ("celery,broker=", "'broker=' gives no option a value; say it as in celery,broker=…"),
        ("inline,2", "'2' gives no option a value; inline has no options at all"),
        ("proces,4", "there is no kind of executor 'proces'; did you mean 'process'?"),
        ("process,max_workers=0", "there cannot be 0 workers; max_workers is a number from 1 on"),
        ("", "--executor needs a kind; an example: --executor process,max_workers=4"),
    ],
)
def test_a_mistake_is_one_sentence_before_the_program_begins(words: str, sentence: str, underlay: Underlay) -> None:
    done = underlay("run", "--executor", words, "-c", "print('began')")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"underlay: {sentence}\n")


UNREACHABLE = "underlay: no broker answers at redis://127.0.0.1:1: Connection refused; "


def test_an_executor_that_cannot_be_made_ends_the_program_with_one_sentence(underlay: Underlay, tmp_path: Path) -> None:
    pytest.importorskip("celery", reason="celery is not installed; remedy: pip install 'underlay[workers]'")
    (tmp_path / "app.py").write_text(APP)
    done = underlay("run", "--executor", "celery,broker=redis://127.0.0.1:1", "app.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(UNREACHABLE) and done.stderr.count("\n") == 1


CATCHES = """
import asyncio, sys
from underlay.workers import EngineUnavailable

async def main():
    try:
        await asyncio.to_thread(print)
    except EngineUnavailable as error:
        print("caught", str(error)[:16])
    {then}

{before}
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("before", "then", "said"),
    [
        ("", "", None),
        ("", "raise KeyError('another')", "Traceback"),
        ("sys.excepthook = lambda *error: print(error[0].__name__)", "await asyncio.to_thread(print)", None),
    ],
    ids=["catches", "another", "hook"],
)
def test_an_executor_that_cannot_be_made_is_the_programs_to_catch(
    underlay: Underlay, tmp_path: Path, before: str, then: str, said: str | None
) -> None:
    pytest.importorskip("celery", reason="celery is not installed; remedy: pip install 'underlay[workers]'")
    (tmp_path / "app.py").write_text(CATCHES.format(before=before, then=then))
    done = underlay("run", "--executor", "celery,broker=redis://127.0.0.1:1", "app.py")
    assert done.stdout.splitlines() == ["caught no broker answer"] + ["EngineUnavailable"] * bool(before)
    assert (done.stderr.splitlines() or [""])[0].startswith(said or "")
    assert bool(done.stderr) == (said is not None)
    assert done.returncode == (1 if then else 0)


def test_a_call_that_cannot_leave_the_process_is_one_clear_error(installed: None, tmp_path: Path) -> None:
    async def main() -> None:
        with open(tmp_path / "file", "w") as file:
            await asyncio.get_running_loop().run_in_executor(None, file.write, "x")

    with pytest.raises(workers.NotPicklable, match=r"the call of TextIOWrapper.write cannot be brought to another"):
        asyncio.run(main())


def test_what_cannot_leave_the_process_by_to_thread_is_told_by_the_functions_name(installed: None) -> None:
    lock = threading.Lock()

    def locked() -> bool:
        return lock.locked()

    for arguments in ({}, {"of": 1}):
        with pytest.raises(workers.NotPicklable, match=r"the call of \S*locked cannot be brought to another process"):
            asyncio.run(asyncio.to_thread(locked, **arguments))


OWN_VARIABLES = """
import asyncio, contextvars, threading

A = contextvars.ContextVar("A", default="default of A")
B = contextvars.ContextVar("B")
A_AGAIN = A

def get():
    return A.get(), A_AGAIN.get(), B.get("none"), nested()

def nested():
    return A.get()

def set_it():
    A.set("changed")
    return nested()

async def main():
    print(await asyncio.to_thread(get))
    A.set("mine")
    B.set("too")
    print(await asyncio.to_thread(get))
    print(await asyncio.to_thread(set_it), A.get())
    print(await asyncio.get_running_loop().run_in_executor(None, nested))

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["thread", "process", "celery", "dask"])
def test_context_variables_of_the_script_itself_go_along(kind: str, underlay: Underlay, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(OWN_VARIABLES)
    done = underlay("run", "--io", "asyncio", "--executor", kind, "app.py")
    assert done.stdout.splitlines() == [
        "('default of A', 'default of A', 'none', 'default of A')",
        "('mine', 'mine', 'too', 'mine')",
        "changed mine",
        "default of A",
    ], done.stderr


def test_a_worker_has_nothing_of_the_program_but_what_a_call_needs(tmp_path: Path) -> None:
    script = """
        print("once")
        from underlay import workers
        class Point:
            def __init__(self, x): self.x = x
        def double(point): return Point(point.x * 2)
        class Odd(Exception): pass
        def fail(): raise Odd(1)
        with workers.executor("process", max_workers=1) as executor:
            made = executor.submit(double, Point(4)).result()
            print(type(made) is Point, made.x)
            try:
                executor.submit(fail).result()
            except Odd as error:
                print("odd", error.args)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "once\nTrue 8\nodd (1,)\n", done.stderr


def test_a_variable_of_the_script_is_one_and_the_same_in_a_worker_for_each_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = contextvars.ContextVar("asked", default="nobody")
    monkeypatch.setattr(sys.modules["__main__"], "a_variable_of_the_script", asked, raising=False)
    monkeypatch.setattr(_context, "_stand_ins", {})
    found = _context.found_again(asked)
    assert found is not None
    make, where = found
    stand_in = make(*where)
    assert (stand_in is asked, stand_in.name, contextvars.Context().run(stand_in.get)) == (False, "asked", "nobody")
    assert make(*where) is stand_in

"""A call that holds a loop and does not come back is told while it holds it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from underlay.loop import Block, _watch_overdue, _watchdog, watchdog

from . import _watched
from ._watched import LOOPS, THRESHOLD_S, LoopFactory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a watchdog needs Linux's timers")

# A child that runs longer hangs; nothing is measured by it.
LIMIT_S = 60
NEVER_COMES_BACK = {
    "a lock that is never free": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "a read that nobody answers": "os.read(os.pipe()[0], 1)",
    "a loop without an end": "while True: pass",
}


@pytest.fixture(params=LOOPS, ids=str)
def factory(request: pytest.FixtureRequest) -> LoopFactory:
    return LOOPS[request.param]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that lasts a quarter of what the blocking ones do is overdue."""
    monkeypatch.setattr(_watchdog, "_OVERDUE_S", _watched.BLOCK_S / 4)
    monkeypatch.setattr(_watch_overdue, "LOOK_EVERY_S", _watched.BLOCK_S / 20)


def the_thread() -> threading.Thread | None:
    return next((each for each in threading.enumerate() if each.name == _watch_overdue.NAME), None)


def watch_and(call: Callable[[], object], factory: LoopFactory = asyncio.SelectorEventLoop) -> list[Block]:
    blocks: list[Block] = []

    async def main() -> None:
        with watchdog(THRESHOLD_S, report=blocks.append):
            await asyncio.sleep(0.001)
            call()
            await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    return blocks


@pytest.mark.parametrize("call", NEVER_COMES_BACK)
def test_a_program_that_hangs_is_told_of_where_it_does(tmp_path: Path, call: str) -> None:
    (tmp_path / "app.py").write_text(
        f"import asyncio, os, threading\nasync def main():\n    {NEVER_COMES_BACK[call]}\nasyncio.run(main())\n"
    )
    arguments = [sys.executable, "-m", "underlay", "run", "--io", "asyncio", "--watch", "app.py"]
    with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as child:
        killer = threading.Timer(LIMIT_S, child.kill)
        killer.start()
        try:
            assert child.stderr is not None
            told, where = child.stderr.readline(), child.stderr.readline()
        finally:
            child.kill()
            killer.cancel()
    assert told.startswith("the event loop has been held for ") and " s, and still is, by " in told
    assert told.endswith("app.py:3 in main\n") and "app.py:3 in main: " in where


@pytest.mark.usefixtures("soon")
def test_a_long_call_is_told_once_while_it_lasts_and_reported_when_it_is_over(
    factory: LoopFactory, caplog: pytest.LogCaptureFixture
) -> None:
    blocks = watch_and(_watched.sleeps, factory)
    told = [record.getMessage() for record in caplog.records if "still is" in record.getMessage()]
    assert len(told) == 1 and "in sleeps" in told[0]
    assert [block.times for block in blocks if block.at.function == "sleeps"] == [1]


@pytest.mark.usefixtures("soon")
def test_a_loop_that_waits_and_one_that_stands_still_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.SelectorEventLoop()
    dog = watchdog(THRESHOLD_S, loop=loop)
    dog.start()
    loop.run_until_complete(asyncio.sleep(_watched.BLOCK_S))
    time.sleep(_watched.BLOCK_S)  # and no loop is held by it
    dog.stop()
    loop.close()
    assert not [record for record in caplog.records if "still is" in record.getMessage()]


def test_the_thread_is_there_while_a_loop_is_watched_and_no_signal_reaches_it() -> None:
    if (last := the_thread()) is not None:  # of the test before, which did not wait for its end
        last.join(LIMIT_S)
    assert the_thread() is None
    found: list[int] = []

    def look() -> None:
        thread = the_thread()
        assert thread is not None
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        found.append(int(status.partition("SigBlk:\t")[2].split()[0], 16))

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    watch_and(look)
    # All but KILL and STOP, which can't be blocked, and those two that glibc keeps for itself (nptl(7)).
    ours = sum(1 << (number - 1) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
    assert found[0] & ours == ours
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    while (thread := the_thread()) is not None:
        thread.join(LIMIT_S)


@pytest.mark.usefixtures("soon")
def test_a_process_forks_without_the_thread_and_has_it_again_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    def fork_and_block() -> None:
        pid = os.fork()  # on CPython 3.12, a process with threads would be warned, which is an error here
        if not pid:
            os._exit(the_thread() is not None or len(os.listdir("/proc/self/task")) - 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        _watched.sleeps()

    watch_and(fork_and_block)
    assert [record for record in caplog.records if "still is" in record.getMessage()]


@pytest.mark.usefixtures("soon")
def test_of_loops_in_threads_the_one_that_is_held_is_told(caplog: pytest.LogCaptureFixture) -> None:
    thread = threading.Thread(target=watch_and, args=(_watched.sleeps,), name="of sleeps")
    thread.start()
    watch_and(lambda: None)
    thread.join()
    told = [record.getMessage() for record in caplog.records if "still is" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith("the event loop of thread of sleeps has been held for ")


def test_a_report_that_fails_at_the_end_is_the_loops_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    def fail(block: Block) -> None:
        raise ValueError(f"a report of {block.at.function}")

    async def main() -> None:
        with pytest.raises(KeyError, match="of the program"), watchdog(THRESHOLD_S, report=fail):
            await asyncio.sleep(0.001)
            _watched.sleeps()
            raise KeyError("of the program")

    with caplog.at_level(logging.ERROR, "asyncio"):
        asyncio.run(main())
    assert "the report of a watchdog failed" in caplog.text and "ValueError: a report of sleeps" in caplog.text

"""What a program may not do on a host: each refusal names the line, and says what to do instead."""

from __future__ import annotations

import _thread
import asyncio
import multiprocessing
import os
import re
import select
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable

import pytest

from underlay.errors import UnderlayError
from underlay.sim import World


def run(test: Callable[[World], Awaitable[object]], seed: int = 1) -> object:
    return World(seed).run(test)  # type: ignore[arg-type]


def on_a(call: Callable[[], object]) -> object:
    """Call it a second after the host "a" was made, on it; await what it gives where that can be awaited."""

    async def test(world: World) -> object:
        async with world.host("a"):
            await asyncio.sleep(1)
            result = call()
            return await result if asyncio.iscoroutine(result) else result

    return run(test)


async def add_reader() -> None:
    reader, writer = os.pipe()
    try:
        asyncio.get_running_loop().add_reader(reader, print)
    finally:
        os.close(reader)
        os.close(writer)


def wait_for_a_thread() -> None:
    threading.Event().wait()


REFUSED: dict[str, Callable[[], object]] = {
    "threading.Thread": lambda: threading.Thread(target=print).start(),
    "threading.Timer": lambda: threading.Timer(1, print).start(),
    "_thread.start_new_thread": lambda: _thread.start_new_thread(print, ()),
    "threading.Event.wait": wait_for_a_thread,
    "subprocess.run": lambda: subprocess.run(["true"], check=True),
    "subprocess.Popen": lambda: subprocess.Popen(["true"]),
    "os.system": lambda: os.system("true"),
    "os.popen": lambda: os.popen("true"),
    "os.fork": lambda: os.fork(),
    "os.posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "multiprocessing.Process": lambda: multiprocessing.get_context("fork").Process(target=print).start(),
    "multiprocessing spawn": lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
    "create_subprocess_exec": lambda: asyncio.create_subprocess_exec("true"),
    "create_subprocess_shell": lambda: asyncio.create_subprocess_shell("true"),
    "connect_read_pipe": lambda: asyncio.get_running_loop().connect_read_pipe(asyncio.Protocol, sys.stdin),
    "connect_write_pipe": lambda: asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, sys.stdout),
    "input": lambda: input("name? "),
    "select.select": lambda: select.select([0], [], [], 0),
    "select.poll": lambda: select.poll().register(0),
    "a poll that waits": lambda: select.poll().poll(1000),
    "selectors": lambda: selectors.DefaultSelector(),
    "new_event_loop": lambda: asyncio.new_event_loop(),
    "add_reader": add_reader,
    "signal.alarm": lambda: signal.alarm(1),
    "SIGTERM without a handler": lambda: os.kill(os.getpid(), signal.SIGTERM),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_depend_on_the_machine_is_refused_with_file_and_line(name: str) -> None:
    with pytest.raises(UnderlayError) as caught:
        on_a(REFUSED[name])
    assert re.match(rf"{re.escape(__file__)}:\d+: ", str(caught.value))
    assert "; " in str(caught.value)


def test_a_refusal_within_a_package_names_its_caller_too() -> None:
    scope: dict[str, Callable[[], None]] = {}
    code = "import threading\ndef work():\n    threading.Thread(target=print).start()\n"
    exec(compile(code, "/x/site-packages/library.py", "exec"), scope)
    with pytest.raises(UnderlayError, match=r"^/x/site-packages/library.py:3 \(called from .*test_refusals.py:\d+\): "):
        on_a(lambda: scope["work"]())


def test_outside_of_a_host_nothing_is_refused() -> None:
    seen = []
    thread = threading.Thread(target=lambda: seen.append(1))
    on_a(lambda: None)
    thread.start()
    thread.join()
    assert seen == [1]
    assert subprocess.run(["true"], check=True).returncode == 0
    assert not threading.Event().wait(0.001)


def test_a_thread_beside_a_world_keeps_the_real_clock_and_chance() -> None:
    import time

    go, came = threading.Event(), threading.Event()
    seen: list[float] = []

    def beside() -> None:
        go.wait()
        seen.append(time.time())
        came.set()

    thread = threading.Thread(target=beside)
    thread.start()
    real_wait, before_s = came._cond.wait, time.time()  # type: ignore[attr-defined]
    assert real_wait is not None

    def look() -> None:
        go.set()
        while not came.is_set():
            pass

    on_a(look)
    thread.join()
    assert before_s <= seen[0] <= time.time()


# --- what works ------------------------------------------------------------------------------------------------------


def test_a_wait_for_a_thread_with_a_timeout_passes_on_the_hosts_clock() -> None:
    async def test(world: World) -> object:
        async with world.host("a"):
            assert not threading.Event().wait(5)
            await asyncio.sleep(0)
            return world.now

    assert run(test) == pytest.approx(5)


def test_signal_handlers_are_the_hosts_own_and_it_may_send_itself_a_signal() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    async def test(world: World) -> object:
        seen: list[object] = []
        async with world.host("a"):
            assert signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number)) == signal.SIG_DFL
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, seen.append, "loop")
            async with world.host("b"):
                assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            os.kill(os.getpid(), signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(0)
            assert asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
            assert not asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
            with pytest.raises(ProcessLookupError):
                os.kill(1, signal.SIGTERM)
        return seen

    assert run(test) == [signal.SIGTERM, "loop"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before

"""A call that is known to block raises at its line in a running loop, and nowhere else."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import io
import os
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from underlay.loop import BlockingCall, watchdog
from underlay.loop._watch_raise import refused

from ._watched import LOOPS, NEVER_S

TRUE = [sys.executable, "-c", ""]


def raising(call: Callable[[], object], loop: str = "asyncio") -> BlockingCall:
    """The error of a call in a loop that refuses it."""

    async def main() -> BlockingCall:
        with watchdog(NEVER_S, raise_at_blocking_calls=True):
            with pytest.raises(BlockingCall) as caught:
                call()
            return caught.value

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(main())


def receives() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.recv(1)


def opens() -> None:
    with open(os.devnull):
        pass


def connects() -> None:
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", 9))


def joins() -> None:
    thread = threading.Thread(target=time.sleep, args=(0.2,))
    thread.start()
    try:
        thread.join()
    finally:
        while thread.is_alive():
            pass


def waits_for_a_child() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        child.wait()
    finally:
        child.kill()
        assert child.stdin is not None
        child.stdin.close()
        while child.poll() is None:
            pass


CALLS: dict[str, Callable[[], object]] = {
    "time.sleep()": lambda: time.sleep(0.001),
    "open()": opens,
    "input()": lambda: input(),
    "socket.recv()": receives,
    "socket.connect()": connects,
    "socket.getaddrinfo()": lambda: socket.getaddrinfo("localhost", 80),
    "socket.gethostbyname()": lambda: socket.gethostbyname("localhost"),
    "os.system()": lambda: os.system("true"),
    "os.waitpid()": lambda: os.waitpid(-1, 0),
    "subprocess.run()": lambda: subprocess.run(TRUE, check=False),
    "subprocess.check_output()": lambda: subprocess.check_output(TRUE),
    "Popen.wait()": waits_for_a_child,
    "Future.result()": lambda: concurrent.futures.Future[None]().result(),
    "Thread.join()": joins,
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_is_known_to_block_raises_at_its_line(call: str) -> None:
    error = raising(CALLS[call])
    assert error.call == call and error.at.file == __file__
    assert str(error).startswith(f"{call} would hold the event loop, at {__file__}:{error.at.line} in ")
    assert str(error).endswith(" instead")
    assert error.at.line in [line.lineno for line in traceback.extract_tb(error.__traceback__)]


@pytest.mark.parametrize("loop", LOOPS)
def test_it_raises_in_any_loop(loop: str) -> None:
    assert raising(lambda: time.sleep(0.001), loop).call == "time.sleep()"


def test_reading_a_file_by_its_path_raises_as_well() -> None:
    error = raising(lambda: Path(__file__).read_text())
    assert (error.call, error.at.file) == ("open()", __file__)


def test_tls_on_a_blocking_socket_raises() -> None:
    def shakes_hands() -> None:
        left, right = socket.socketpair()
        context = ssl.create_default_context()
        with left, right, context.wrap_socket(left, server_hostname="x", do_handshake_on_connect=False) as tls:
            tls.do_handshake()

    assert raising(shakes_hands).call == "SSLSocket.do_handshake()"


async def a_process() -> None:
    child = await asyncio.create_subprocess_exec(*TRUE)
    assert await child.wait() == 0


async def a_connection() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("localhost", server.sockets[0].getsockname()[1])
    assert await reader.read() == b""
    writer.close()
    server.close()


async def an_executor() -> None:
    await asyncio.to_thread(time.sleep, 0.001)
    assert (await asyncio.to_thread(Path(__file__).read_text)).startswith('"""')


async def an_import() -> None:
    sys.modules.pop("this_is_new", None)
    sys.path.insert(0, str(Path(os.environ["NEW_MODULE"]).parent))
    try:
        __import__("this_is_new")
    finally:
        sys.path.pop(0)
        sys.modules.pop("this_is_new", None)


async def a_traceback() -> None:
    import linecache

    linecache.clearcache()
    try:
        raise LookupError
    except LookupError:
        assert "raise LookupError" in traceback.format_exc()


async def what_does_not_wait() -> None:
    time.sleep(0)
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        with pytest.raises(BlockingIOError):
            left.recv(1)
    assert socket.getaddrinfo("127.0.0.1", 80) and socket.getaddrinfo(None, 80)
    done: concurrent.futures.Future[int] = concurrent.futures.Future()
    done.set_result(3)
    assert done.result() == 3
    with pytest.raises(ChildProcessError):
        os.waitpid(os.getpid(), os.WNOHANG)  # nobody is his own child; others may be there
    with open(os.dup(left.fileno()) if left.fileno() >= 0 else os.open(os.devnull, os.O_RDONLY)) as file:
        assert file.read() == ""


@pytest.mark.parametrize(
    "what", [a_process, a_connection, an_executor, an_import, a_traceback, what_does_not_wait], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("loop", LOOPS)
def test_what_asyncio_and_the_interpreter_do_themselves_goes_on(
    loop: str, what: Callable[[], Awaitable[None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "this_is_new.py").write_text("import time\ntime.sleep(0.001)\nopen(__file__).close()\n")
    monkeypatch.setenv("NEW_MODULE", str(tmp_path / "this_is_new.py"))
    if loop == "stack" and what is a_connection:
        pytest.skip("a network of its own has no localhost by name")

    async def main() -> None:
        with watchdog(NEVER_S, raise_at_blocking_calls=True):
            await what()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


@pytest.mark.parametrize(
    "call", ["open()", "os.waitpid()", "os.waitpid(-1)", "socket.getaddrinfo()", "time.sleep()"], ids=str
)
def test_wrong_arguments_are_the_error_that_the_function_itself_raises(call: str) -> None:
    names = {"os": os, "socket": socket, "time": time}

    def error() -> str:
        with pytest.raises(TypeError) as caught:
            eval(call, names)
        return str(caught.value)

    async def main() -> str:
        with watchdog(NEVER_S, raise_at_blocking_calls=True):
            return error()

    assert asyncio.run(main()) == error()


def test_another_loop_that_is_only_watched_may_block() -> None:
    results: list[str] = []
    refusing, over = threading.Event(), threading.Event()

    def thread() -> None:
        async def other() -> None:
            with watchdog(NEVER_S):
                time.sleep(0.001)
                results.append("slept")

        refusing.wait()
        asyncio.run(other())
        over.set()

    async def main() -> None:
        with watchdog(NEVER_S, raise_at_blocking_calls=True):
            refusing.set()
            while not over.is_set():
                await asyncio.sleep(0)

    beside = threading.Thread(target=thread)
    beside.start()
    asyncio.run(main())
    beside.join()
    assert results == ["slept"]


def test_everything_is_put_back_when_the_last_one_ends() -> None:
    def found() -> list[object]:
        return [
            time.sleep,
            builtins.open,
            io.open,
            builtins.input,
            os.waitpid,
            subprocess.run,
            subprocess.Popen.wait,
            socket.getaddrinfo,
            ssl.SSLSocket.read,
            threading.Thread.join,
            concurrent.futures.Future.result,
            sorted(vars(socket.socket)),
            list(sys.meta_path),
        ]

    before = found()

    async def main() -> None:
        with watchdog(NEVER_S, raise_at_blocking_calls=True):
            with watchdog(NEVER_S, raise_at_blocking_calls=True):
                assert time.sleep is not before[0]
            with pytest.raises(BlockingCall):
                time.sleep(1)

    asyncio.run(main())
    assert found() == before


def test_what_was_refused_is_counted_whoever_swallows_the_error() -> None:
    async def main() -> None:
        with watchdog(NEVER_S, raise_at_blocking_calls=True):
            for _ in range(3):
                try:
                    time.sleep(1)
                except Exception:
                    pass

    before = sum(refused().values())
    asyncio.run(main())
    assert sum(refused().values()) == before + 3


def test_a_guarded_function_is_pickled_and_kept_in_a_class_as_the_function_itself() -> None:
    async def main() -> None:
        with watchdog(NEVER_S, raise_at_blocking_calls=True):

            class Within:
                sleep = time.sleep

            Within().sleep(0)  # type: ignore[misc,call-arg]  # mypy takes every callable for a method
            assert pickle.loads(pickle.dumps(time.sleep)) is time.sleep

    asyncio.run(main())


def test_the_error_itself_can_be_pickled() -> None:
    error = raising(lambda: time.sleep(1))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.call, again.at) == (str(error), error.call, error.at)

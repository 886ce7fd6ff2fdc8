"""Which of CPython's own tests are borrowed, and how each is bent to a loop of ours.

It knows `test.test_asyncio` of the running interpreter: its classes, and the hook by which
each makes its loop. It does not know which subjects exist or what they fail.

A test's id here is its own in CPython without the package, so that
`python -m unittest test.test_asyncio.<id>` runs the original.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
import unittest
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Final, Literal

from .children import Report
from .subjects import LoopFactory
from .testcase import ConformanceTest, Group

PACKAGE = "test.test_asyncio"

# How a class comes by its loop: by a method that we override, by the event loop policy,
# or by naming asyncio.SelectorEventLoop in its setUp.
Hook = Literal["create_event_loop", "new_loop", "policy", "SelectorEventLoop"]


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A test class of CPython (or `*`, all of a module) and the hook that gives it our loop.

    `since` is the first version that has it.
    """

    group: Group
    module: str
    cls: str
    hook: Hook
    since: tuple[int, int] = (3, 11)


# On 3.11 `loop` holds 161 tests: 73 events + 1 Server.get_loop, 29 subprocess, 13
# sock_lowlevel, 20 sendfile, 22 ssl, 2 server, 1 buffered protocol; `library` holds 306:
# 67 streams, 70 locks, 44 queues, 35 task groups, 32 timeouts, 26 runners, 15 wait_for,
# 6 threads, 10 pep492, 1 context.
BORROWED: tuple[Borrowed, ...] = (
    Borrowed("loop", "test_events", "SelectEventLoopTests", "create_event_loop"),
    Borrowed("loop", "test_events", "TestServer", "policy"),
    Borrowed("loop", "test_subprocess", "SubprocessThreadedWatcherTests", "policy"),
    Borrowed("loop", "test_sock_lowlevel", "SelectEventLoopTests", "create_event_loop"),
    Borrowed("loop", "test_sendfile", "SelectEventLoopTests", "create_event_loop"),
    Borrowed("loop", "test_ssl", "TestSSL", "new_loop"),
    Borrowed("loop", "test_server", "SelectorStartServerTests", "new_loop"),
    Borrowed("loop", "test_server", "TestServer2", "policy", (3, 12)),
    Borrowed("loop", "test_server", "UnixServerCleanupTests", "policy", (3, 13)),
    Borrowed("loop", "test_buffered_proto", "BufferedProtocolSelectorTests", "new_loop"),
    Borrowed("library", "test_streams", "*", "policy"),
    Borrowed("library", "test_locks", "*", "policy"),
    Borrowed("library", "test_queues", "*", "policy"),
    Borrowed("library", "test_taskgroups", "*", "policy"),
    Borrowed("library", "test_timeouts", "*", "policy"),
    Borrowed("library", "test_runners", "*", "policy"),
    Borrowed("library", "test_waitfor", "*", "policy"),
    Borrowed("library", "test_threads", "*", "policy"),
    Borrowed("library", "test_pep492", "*", "policy"),
    Borrowed("library", "test_context", "*", "policy"),
    # start_tls, which the ssl tests above reach only from the outside.
    Borrowed("more", "test_sslproto", "SelectorStartTLSTests", "new_loop"),
    # The watcher that 3.12 prefers: the loop itself watches the child's pidfd.
    Borrowed("more", "test_subprocess", "SubprocessPidfdWatcherTests", "policy"),
    Borrowed("more", "test_unix_events", "SelectorEventLoopUnixSocketTests", "SelectorEventLoop"),
    Borrowed("more", "test_unix_events", "SelectorEventLoopUnixSockSendfileTests", "policy"),
    Borrowed("more", "test_unix_events", "TestFunctional", "policy"),
    Borrowed("more", "test_unix_events", "TestFork", "policy", (3, 12)),
    Borrowed("more", "test_tasks", "RunCoroutineThreadsafeTests", "policy"),
    Borrowed("more", "test_eager_task_factory", "*", "policy", (3, 12)),
)

# A test whose server sleeps while the client is meant to get something done, and by what to multiply that. This one
# gives it 0.2 s, of which the kernel takes 40 ms from each loop, the standard one too: the server's `pong` waits by
# Nagle's algorithm for the client's delayed acknowledgment. A machine that stood still for the rest failed it.
_SLEEPS_TOO_SHORT: Final = {"test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data": 5.0}


def cpython_tests() -> list[ConformanceTest]:
    """Imports CPython's test modules and lists the borrowed tests of this interpreter.

    Raises `ModuleNotFoundError` where the interpreter came without its tests (some
    distributions package them apart, Debian as libpython3-testsuite).
    """
    return list(_all_tests())


def _all_tests() -> Iterator[ConformanceTest]:
    loader = unittest.TestLoader()
    for entry in BORROWED:
        if sys.version_info[:2] < entry.since:
            continue
        module = importlib.import_module(f"{PACKAGE}.{entry.module}")
        for name, cls in sorted(vars(module).items()):
            if not (isinstance(cls, type) and issubclass(cls, unittest.TestCase)):
                continue
            if entry.cls != name and (entry.cls != "*" or cls.__module__ != module.__name__):
                continue
            for method in loader.getTestCaseNames(cls):
                test_id = f"{entry.module}.{name}.{method}"
                slower = _SLEEPS_TOO_SHORT.get(test_id, 1.0)
                yield ConformanceTest(test_id, entry.group, partial(_work, entry.hook, cls, method, slower))


def _work(hook: Hook, cls: type[unittest.TestCase], method: str, slower: float, factory: LoopFactory) -> Report:
    """Runs one test, in the child, on loops of `factory`; its module's sleeps last `slower` times as long."""
    made = 0
    if slower != 1.0:
        module = importlib.import_module(cls.__module__)
        vars(module)["time"] = SimpleNamespace(**{**vars(time), "sleep": lambda s: time.sleep(s * slower)})

    def counted() -> asyncio.AbstractEventLoop:
        nonlocal made
        loop = factory()
        made += 1
        return loop

    result = unittest.TestResult()
    unittest.TestSuite([_bent(hook, cls, counted)(method)]).run(result)
    status, detail = _verdict(result)
    return Report(status, detail, {"loops": made})


def _bent(hook: Hook, cls: type[unittest.TestCase], factory: LoopFactory) -> type[unittest.TestCase]:
    """Gives the test's class, with the subject in the place of the loop it would make."""

    class SubjectPolicy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return factory()

    asyncio.set_event_loop_policy(SubjectPolicy())
    _close_by_public_calls()
    if hook == "policy":
        return cls
    if hook == "SelectorEventLoop":
        asyncio.SelectorEventLoop = factory  # type: ignore[assignment]
        return cls
    # The module's name is kept, for unittest finds setUpModule by it.
    body = {hook: lambda self: factory(), "__module__": cls.__module__}
    return type(cls.__name__, (cls,), body)


def _close_by_public_calls() -> None:
    """Lets CPython's test helper close loops that are not built on asyncio.base_events.

    Its `close_loop` reads `loop._default_executor`, which only decides whether an executor
    must be shut down; `shutdown_default_executor` does nothing where there is none.
    """
    utils = importlib.import_module(f"{PACKAGE}.utils")
    original = utils.TestCase.close_loop

    def close_loop(loop: asyncio.AbstractEventLoop) -> None:
        if hasattr(loop, "_default_executor"):
            original(loop)
        elif not loop.is_closed():
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    utils.TestCase.close_loop = staticmethod(close_loop)


def _verdict(result: unittest.TestResult) -> tuple[Literal["passed", "failed", "skipped"], str]:
    bad = [text for _, text in (*result.errors, *result.failures)]
    if bad:
        return "failed", "\n".join(bad)
    if result.unexpectedSuccesses:
        return "failed", "CPython marks this test as an expected failure, but it passed"
    if result.skipped:
        return "skipped", result.skipped[0][1]
    if result.testsRun != 1:
        return "failed", f"unittest ran {result.testsRun} tests instead of one"
    return "passed", ""

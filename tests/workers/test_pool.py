"""Calls that wait for a worker when the program ends."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("cloudpickle", reason="cloudpickle is not installed; remedy: pip install 'underlay[workers]'")

_ENGINE = """
    import time
    from underlay.workers._pickling import perform
    from underlay.workers._pool import PoolExecutor

    class Engine:
        def open_lane(self):
            return self

        def call(self, packed):
            time.sleep(0.1)  # the program has ended meanwhile
            return perform(packed)

        def close(self):
            pass
    """


def _run(text: str) -> subprocess.CompletedProcess[str]:
    program = textwrap.dedent(_ENGINE) + textwrap.dedent(text)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_what_waits_at_the_end_is_done_though_it_takes_a_pool_of_threads_that_was_imported_later() -> None:
    # Dask's client has one: refused by it, a call would wait for ever, and the program with it.
    done = _run("""
        class ByThreads(Engine):
            def call(self, packed):
                time.sleep(0.1)
                return pool.submit(perform, packed).result()

        executor = PoolExecutor("test", ByThreads(), 1)
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1)
        pool.submit(len, "").result()  # its thread is there: CPython 3.12.0 to 3.12.2 start none at the end
        executor.submit(print, "done", flush=True)
        """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_what_could_not_be_done_before_the_end_is_told() -> None:
    done = _run("""
        class Refused(Engine):
            def open_lane(self):
                time.sleep(0.1)
                raise RuntimeError("can't create new thread at interpreter shutdown")

        executor = PoolExecutor("test", Refused(), 1)
        for number in range(3):
            executor.submit(print, number)
        """)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "underlay: 3 calls have no result, and the program ends: no worker could be started: can't create new thread "
        "at interpreter shutdown; remedy: end the executor before the program, by `with` or shutdown()\n"
    )


def test_what_failed_while_the_program_ran_is_not_told_at_the_end() -> None:
    done = _run("""
        class Refused(Engine):
            def open_lane(self):
                raise RuntimeError("no")

        executor = PoolExecutor("test", Refused(), 1)
        print(type(executor.submit(print).exception()).__name__)
        """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "BrokenExecutor\n", "")

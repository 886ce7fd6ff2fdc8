"""What the kind ``process`` has besides: calls that fork."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor
from pathlib import Path

import pytest
from tests.conformance.executor_subjects import PATIENCE_S, is_gone, until

from underlay import workers

pytestmark = pytest.mark.threads


@pytest.fixture
def executor() -> Iterator[Executor]:
    """One worker, so that each call goes to the same process."""
    with workers.executor("process", max_workers=1) as executor:
        yield executor


def test_a_worker_that_dies_is_seen_although_a_child_that_it_forked_lives_on(
    executor: Executor, tmp_path: Path
) -> None:
    note = tmp_path / "child"

    def fork_and_die() -> None:
        child = os.fork()
        if child == 0:
            signal.pause()
        note.write_text(str(child))
        os._exit(1)

    future = executor.submit(fork_and_die)
    try:
        with pytest.raises(BrokenExecutor, match="ended with status 1"):
            future.result(PATIENCE_S)
    finally:
        os.kill(int(note.read_text()), signal.SIGKILL)


def test_a_forked_child_that_returns_from_a_call_gives_no_second_answer(executor: Executor) -> None:
    def fork_and_return() -> tuple[int, int]:
        child = os.fork()
        return child, os.getpid()

    child, parent = executor.submit(fork_and_return).result(PATIENCE_S)
    assert child != 0
    until(lambda: is_gone(child), "the child has ended")
    assert [executor.submit(os.getpid).result(PATIENCE_S) for _ in range(3)] == [parent] * 3

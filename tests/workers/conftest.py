"""What the tests of jobs share: a database of their own, and a clock that only they move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from underlay.workers import Jobs


class Day:
    """A time of day that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def day() -> Day:
    return Day()


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with Jobs(tmp_path / "jobs.db") as jobs:
        jobs.task(abs)
        yield jobs

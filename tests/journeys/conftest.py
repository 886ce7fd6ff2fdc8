"""What the journeys share; it knows only how a machine of a test's own begins and ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ._machine import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    try:
        yield machine
    finally:
        machine.close()

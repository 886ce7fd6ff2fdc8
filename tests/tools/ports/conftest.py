"""Gives each test of the sockets a place of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import _place


@pytest.fixture
def place() -> Iterator[_place.Place]:
    with _place.place() as found:
        yield found

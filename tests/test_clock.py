"""The contract of a clock is met by what it was cut for."""

from __future__ import annotations

import asyncio

from underlay.clock import Clock


def test_the_standard_loop_is_a_clock_as_it_is() -> None:
    loop = asyncio.new_event_loop()
    try:
        assert isinstance(loop, Clock)
        assert loop.time() <= loop.time()
    finally:
        loop.close()


def test_something_without_time_is_no_clock() -> None:
    assert not isinstance(object(), Clock)

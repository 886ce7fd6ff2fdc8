"""What a run is told by: each packet, each turn of a host's program, each number that is drawn; and how it is kept.

This file knows those events, and their digests. It refuses to know why two runs differ, and who compares them
(``_twice.py``).

A run is any length, so that it is kept as digests of blocks of events. Where two runs differ in a block, two more are
made that write down the events of it. (What differs by chance may differ elsewhere then, and is looked for again.)
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Final

from ..link import FRAME
from . import _turn
from ._loop import SimLoop

if TYPE_CHECKING:
    from ._host import Host

# Events in a block at first, and blocks at most: then two become one, and blocks are twice as long. So a run's digests
# take 64 KiB at most, and what is written down of a run of a million events is 128 of them.
BLOCK_EVENTS: Final = 64
MOST_BLOCKS: Final = 8192


class Recorder:
    """The events of one run: digests of all, and the text of those from number `from_` up to `to`."""

    def __init__(self, from_: int = 0, to: int = 0) -> None:
        self.from_ = from_
        self.to = to
        self.count = 0
        self.block_events = BLOCK_EVENTS
        self.texts: list[str] = []
        self._digests = array("Q")
        self._rolling = hashlib.blake2b(digest_size=8)
        self._final: int | None = None

    def __getstate__(self) -> dict[str, object]:
        """For another process: a run that has ended."""
        return {**{name: value for name, value in vars(self).items() if name != "_rolling"}, "_final": self._digest()}

    def note(self, event: str) -> None:
        """One event happened."""
        if self.from_ <= self.count < self.to:
            self.texts.append(event)
        self._rolling.update(event.encode("utf-8", "backslashreplace") + b"\n")
        self.count += 1
        if self.count % self.block_events == 0:
            self._digests.append(self._digest())
            if len(self._digests) == MOST_BLOCKS:
                self._digests = self._digests[1::2]
                self.block_events *= 2

    def _digest(self) -> int:
        # Of all events up to here.
        return int.from_bytes(self._rolling.digest(), "big") if self._final is None else self._final

    def part_from(self, other: Recorder) -> range | None:
        """The numbers of events among which this run and the other part; None where they are equal."""
        if self.count == other.count and self._digest() == other._digest():
            return None
        # A longer run may have longer blocks; the shorter run's are then looked at by as many.
        events = max(self.block_events, other.block_events)
        pairs = zip(self._ends(events), other._ends(events), strict=False)
        equal = 0
        for mine, others in pairs:
            if mine != others:
                break
            equal += 1
        return range(equal * events, (equal + 1) * events)

    def _ends(self, block_events: int) -> array[int]:
        step = block_events // self.block_events
        return self._digests[step - 1 :: step]


class NotedRandom(Random):
    """Chance that notes each draw, and draws the same."""

    _noted_for: str | None = None  # not before it is seeded

    def random(self) -> float:
        """As ever."""
        value = super().random()
        self._note(value)
        return value

    def getrandbits(self, k: int, /) -> int:
        """As ever."""
        value = super().getrandbits(k)
        self._note(value)
        return value

    def note_for(self, purpose: str) -> NotedRandom:
        """Note draws from now on."""
        self._noted_for = purpose
        return self

    def _note(self, value: object) -> None:
        if self._noted_for is not None and _recorder is not None:
            _recorder.note(f"chance for {self._noted_for}: {value!r}")


_recorder: Recorder | None = None


def rng(seed: int, purpose: str) -> Random:
    """Chance of a world's seed for one purpose; noted, where somebody records."""
    text = f"{seed} {purpose}"
    return Random(text) if _recorder is None else NotedRandom(text).note_for(purpose)


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Let the recorder hear what happens in worlds that are made and run meanwhile; others pay nothing for it."""
    global _recorder
    turn = SimLoop.turn

    def frame(name: str, direction: str, data: bytes, now: float | None, comment: str) -> None:
        digest = hashlib.blake2b(data, digest_size=6).hexdigest()
        what = f" ({comment})" if comment else ""
        recorder.note(f"{now or 0.0:.9f} s: {name} {direction} {len(data)} bytes {digest}{what}")

    def noted_turn(loop: SimLoop) -> float | None:
        host: Host | None = _turn.host
        ready = len(loop._ready)
        sleeps_s = turn(loop)
        if host is not None:
            now = host.world.now
            recorder.note(f"{now:.9f} s: turn of {host.name}, {ready} callbacks, then sleeps {sleeps_s!r} s")
        return sleeps_s

    _recorder = recorder
    SimLoop.turn = noted_turn  # type: ignore[method-assign,assignment]
    try:
        with FRAME.listening(frame):
            yield recorder
    finally:
        SimLoop.turn = turn  # type: ignore[method-assign]
        _recorder = None

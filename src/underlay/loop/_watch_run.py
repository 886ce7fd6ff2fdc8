"""Watches every event loop that a program makes, below `underlay run --watch`, and sums up at its end.

Each loop, of asyncio's, of ours or uvloop, tells asyncio in `_set_running_loop` that it begins to run in this thread,
and that it ends. There a watchdog begins and ends with it, so that nothing is watched, and nothing held, while no
loop runs. No frame of ours stays on the program's stack.

This file knows when loops run, and the words of the summary. It refuses to know how a block is noticed.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from asyncio import events
from collections.abc import Callable
from typing import Final

from ..errors import UnderlayError, plural
from ._watch_ledger import Ledger, WatchStatistics
from ._watch_raise import forbid, refused
from ._watch_stack import Frame
from ._watch_words import threshold_of
from ._watchdog import Watchdog

__all__ = ["begin", "summary"]

# Lines of the summary; the reports before it have told all.
_MOST_LINES: Final = 20


class _Watch:
    """All loops of this process, one watchdog for each that runs."""

    def __init__(self, threshold_s: float) -> None:
        self._threshold_s = threshold_s
        self._set_running_loop = events._set_running_loop
        self._here = threading.local()
        self.ledger = Ledger()
        self.has_run = False
        self.unwatched = 0
        self.why_unwatched = ""

    def install(self) -> None:
        for place in (events, asyncio):
            place._set_running_loop = self._on_running_loop  # type: ignore[attr-defined]

    def uninstall(self) -> None:
        for place in (events, asyncio):
            place._set_running_loop = self._set_running_loop  # type: ignore[attr-defined]

    def _on_running_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        dog: Watchdog | None = getattr(self._here, "dog", None)
        if dog is not None:
            self._here.dog = None
            dog.stop()
        self._set_running_loop(loop)
        self.has_run |= loop is not None
        # The blocking model's threads are adopted by a loop that runs elsewhere; hosts in a world have its time.
        if loop is not None and not _is_adopting(loop) and not type(loop).__module__.startswith("underlay.sim"):
            dog = Watchdog(loop, self._threshold_s, None, self.ledger)
            try:
                dog.start()
            except (UnderlayError, OSError) as error:
                self.unwatched += 1
                self.why_unwatched = str(error)
            else:
                dog.know_below(sys._getframe(1))
                self._here.dog = dog


def _is_adopting(loop: asyncio.AbstractEventLoop) -> bool:
    home = getattr(loop, "_home", None)
    return home is not None and home != threading.get_ident()


def begin(words: str) -> Callable[[], None]:
    """Watch all loops of this process as `variable_for` says, and print a summary at its end; returns the undoing."""
    threshold, _, way = words.partition(" ")
    watch = _Watch(threshold_of(threshold))
    watch.install()
    allow = forbid() if way == "raise" else None

    def tell() -> None:
        # A process that ran no loop has nothing to sum up: one of many that a program starts, or that looks at it.
        if sys.stderr is not None and (watch.has_run or refused()):
            lines = summary(watch.ledger.statistics(), threshold_of(threshold), refused() if allow else None)
            if watch.unwatched:
                lines.append(f"loops that could not be watched: {watch.unwatched} ({watch.why_unwatched})")
            # In one write, also where Python is unbuffered: other processes may end at this moment.
            print("".join(f"underlay: {line}\n" for line in lines), end="", file=sys.stderr, flush=True)

    def undo() -> None:
        atexit.unregister(tell)
        watch.uninstall()
        if allow is not None:
            allow()

    atexit.register(tell)
    os.register_at_fork(after_in_child=watch.ledger.clear_in_child)
    return undo


def summary(
    seen: WatchStatistics, threshold_s: float, refusals: dict[tuple[str, Frame] | None, int] | None = None
) -> list[str]:
    """What was seen, in lines for a person: the greatest total first."""
    threshold = f"{threshold_s * 1e3:g} ms"
    lines = []
    if refusals is not None:
        lines.append(f"blocking calls refused: {sum(refusals.values())}")
        for line, count in sorted(refusals.items(), key=lambda item: -item[1])[:_MOST_LINES]:
            lines.append(f"  {count:>5} × " + ("elsewhere" if line is None else f"{line[0]} at {line[1]}"))
    if not seen.count:
        lines.append(f"no call held an event loop for more than {threshold}")
    else:
        lines.append(
            f"calls that held an event loop for more than {threshold}: {seen.count}, "
            f"{seen.total_s:.3f} s in all, {seen.longest_s:.3f} s at most"
        )
        lines.append(f"  {'count':>5}  {'total':>9}  {'longest':>9}  where")
        for place in seen.places[:_MOST_LINES]:
            lines.append(f"  {place.count:>5}  {place.total_s:>7.3f} s  {place.longest_s:>7.3f} s  {place.at}")
        rest = seen.elsewhere + sum(place.count for place in seen.places[_MOST_LINES:])
        if rest:
            lines.append(f"  {rest:>5}  at other lines")
    if seen.unplaced:
        times = plural(seen.unplaced, "time")
        lines.append(f"a loop was late without a call in it: {times} (the machine was busy, or stood still)")
    return lines

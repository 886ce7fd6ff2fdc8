"""What is made of a seed that fails: it is replayed and recorded, its faults are shrunk, and it is told in words.

This file knows the order of these, and the words. It refuses to know pytest: whoever calls says how its tests are
named and called again.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from ..errors import plural
from ._capture import CAPTURE_BYTES
from ._faults import Drawn, FaultLog
from ._folder import KEPT_FOLDERS, Recording, place_for, remove_oldest, writable
from ._shrink import Shrunk, shrink
from ._test import SimTest

if TYPE_CHECKING:
    from ._explore import Failure

_OURS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# A person reads so many faults; the file has them all.
_MOST_TOLD: Final = 10


@dataclass(frozen=True)
class Limits:
    """How much a failure may leave, and how long its faults are shrunk."""

    kept_folders: int = KEPT_FOLDERS
    capture_bytes: int = CAPTURE_BYTES
    shrink_runs: int = 200
    shrink_s: float = 30.0


@dataclass(frozen=True)
class Replayed:
    """What came of it: the error, if any, what there is to say about it, and where its folder is."""

    error: BaseException | None
    told: str = ""
    folder: Path | None = None


def replay(
    sim_test: SimTest,
    seed: int,
    args: Sequence[object],
    kwargs: Mapping[str, Any],
    *,
    parent: Path,
    name: str,
    test: str,
    command: str,
    only_faults: tuple[int, ...] | None = None,
    found: Failure | None = None,
    passed: int = 0,
    limits: Limits = Limits(),
    is_no_failure: Callable[[BaseException], bool] = lambda error: False,
) -> Replayed:
    """Run one seed and record it; where it fails, leave a folder in `parent`, with its faults shrunk.

    ``found`` is the failure that an exploration found, after ``passed`` seeds that did not fail; a replay that does not
    fail like it is told to be no replay. An error that `is_no_failure` leaves nothing.
    """
    wanted, parent = parent, writable(parent)
    folder = parent / f"{os.getpid()}.running"
    recording = Recording(folder, capture_bytes=limits.capture_bytes)
    world = sim_test.world(seed, only_faults)
    error: BaseException | None = None
    try:
        try:
            with recording.of(world):
                sim_test.run_on(world, *args, **kwargs)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as raised:
            error = raised
        if is_no_failure(error) if error is not None else found is None:
            return Replayed(error)
        place = place_for(parent, name, seed, test)
        for file in folder.iterdir():
            file.rename(place / file.name)
        recording.folder = place
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            parent.rmdir()  # where it was made for nothing
    is_same = error is not None and (found is None or _is_like(error, found))
    shrunk = None
    if error is not None and is_same and only_faults is None:
        shrunk = _shrink(sim_test, seed, args, kwargs, world.faults, type(error), limits, is_no_failure)
    told = _Telling(seed, command, place, passed, world.faults, shrunk, only_faults)
    if not is_same:
        told.found = found
    if parent != wanted:
        told.unwritable = wanted
    if error is None:
        assert found is not None
        error = found.exception or NotReproducedError(f"seed {seed} failed elsewhere:\n{found.traceback}")
    recording.write_report(
        seed, test, told.command, told.report("".join(traceback.format_exception_only(error)).strip())
    )
    if shrunk is not None:
        recording.add_to_faults(needed=list(shrunk.needed), shrinking_runs=shrunk.runs, is_minimal=shrunk.is_minimal)
    remove_oldest(parent, limits.kept_folders)
    error.add_note(f"seed {seed}: {told.command}")
    return Replayed(error, told.section(), place)


class NotReproducedError(AssertionError):
    """A seed failed in another process, and does not fail here; the text has the traceback from there."""


def of_the_test(error: BaseException) -> TracebackType | None:
    """The traceback from where it leaves our machinery and asyncio's, or all of it where it never does."""
    asyncios = os.path.dirname(os.path.abspath(asyncio.__file__))
    traceback = error.__traceback__
    while traceback is not None:
        if not _is_below(traceback, _OURS, asyncios):
            return traceback
        traceback = traceback.tb_next
    return error.__traceback__


def end_at_the_caller(traceback: TracebackType | None) -> None:
    """Let a traceback end at the line that asked for what cannot be, and not where we found that out."""
    last = None
    while traceback is not None:
        if not _is_below(traceback, _OURS):
            last = traceback
        traceback = traceback.tb_next
    if last is not None:
        last.tb_next = None


def _is_below(traceback: TracebackType, *folders: str) -> bool:
    file = os.path.abspath(traceback.tb_frame.f_code.co_filename)
    return file.startswith(tuple(folder + os.sep for folder in folders))


def _is_like(error: BaseException, found: Failure) -> bool:
    # Addresses and the like may stand in its text; an assertion that pytest rewrote says more than one it did not.
    kind = found.error.partition(":")[0].rpartition(".")[2].splitlines()[0]
    return kind == type(error).__name__


def _shrink(
    sim_test: SimTest,
    seed: int,
    args: Sequence[object],
    kwargs: Mapping[str, Any],
    log: FaultLog,
    kind: type[BaseException],
    limits: Limits,
    is_no_failure: Callable[[BaseException], bool],
) -> Shrunk | None:
    """Find the drawn faults without which it does not fail with an error of this kind."""
    if not log.drawn or not limits.shrink_runs:
        return None
    # What was drawn for a time after the failure did nothing.
    applied = {each.number for each in log.applied if each.number is not None}
    candidates = [each.number for each in log.drawn if each.number in applied or log.unlogged]

    def fails(some: tuple[int, ...]) -> bool:
        try:
            sim_test.run_on(sim_test.world(seed, some), *args, **kwargs)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if is_no_failure(error):
                raise
            return type(error) is kind
        return False

    last_s = time.monotonic() + limits.shrink_s
    return shrink(candidates, fails, most_runs=limits.shrink_runs, may_go_on=lambda: time.monotonic() < last_s)


@dataclass
class _Telling:
    """The words for one failure."""

    seed: int
    replay: str
    folder: Path
    passed: int
    faults: FaultLog
    shrunk: Shrunk | None
    only_faults: tuple[int, ...] | None
    found: Failure | None = None
    unwritable: Path | None = None

    @property
    def command(self) -> str:
        """What to say to see it again."""
        only = "" if self.only_faults is None else f" --underlay-faults {_listed(self.only_faults)}"
        elsewhere = self.found is not None and self.found.exception is None
        return f"{'PYTHONHASHSEED=0 ' if elsewhere else ''}{self.replay} --underlay-seed {self.seed}{only}"

    def section(self) -> str:
        """What stands in the terminal below the traceback."""
        after = f" (after {self.passed} that passed)" if self.passed else ""
        lines = [f"seed     {self.seed}{after}", f"replay   {self.command}"]
        if self.found is not None:
            lines += [f"note     {self._not_repeated()}"]
        if self.shrunk is not None:
            lines += [f"faults   {self._summary()}"]
            if len(self.shrunk.needed) < len(self.faults.drawn):
                lines += [f"         {self.command} --underlay-faults {_listed(self.shrunk.needed)}"]
        if self.unwritable is not None:
            lines += [f"note     {_relative(self.unwritable)} cannot be written; --underlay-dir names another place"]
        lines += [f"folder   {_relative(self.folder)}", f"         {', '.join(sorted(_contents(self.folder)))}"]
        return "\n".join(lines) + "\n"

    def report(self, error: str) -> list[str]:
        """The paragraphs of ``report.md``."""
        paragraphs = [f"```text\n{error}\n```", f"See it again:\n\n```console\n$ {self.command}\n```"]
        if self.found is not None:
            paragraphs += [self._not_repeated(), f"```text\n{self.found.traceback.strip()}\n```"]
        if self.shrunk is not None:
            paragraphs += [f"Of the faults that were drawn: {self._summary()}."]
            if len(self.shrunk.needed) < len(self.faults.drawn):
                only = f"{self.command} --underlay-faults {_listed(self.shrunk.needed)}"
                paragraphs += [f"With these alone:\n\n```console\n$ {only}\n```"]
        paragraphs += [
            "| File | has |\n|---|---|\n"
            "| `capture.pcapng` | every packet, one interface for each link; `wireshark capture.pcapng` |\n"
            "| `timeline.txt` | what happened to the hosts, in virtual time; `timeline/` has a file for each |\n"
            "| `faults.json` | the faults that were applied, and those that were drawn |\n"
            "| `seed.txt` | the seed, the test, the command |",
            f"Made by Python {platform.python_version()} on {sys.platform}"
            f" with PYTHONHASHSEED={os.environ.get('PYTHONHASHSEED', 'random')}.",
        ]
        return paragraphs

    def _summary(self) -> str:
        """As in "20 faults, 1 needed: at 3.2 s partition db | api (found in 9 runs)"."""
        shrunk = self.shrunk
        assert shrunk is not None
        drawn = self.faults.drawn
        by_number: dict[int, Drawn] = {each.number: each for each in drawn}
        needed = [str(by_number[number]) for number in shrunk.needed]
        more = len(needed) - _MOST_TOLD
        named = "; ".join(needed[:_MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")
        what = f"{len(needed)} needed: {named}" if needed else "none needed: it fails without any"
        runs = f"found in {plural(shrunk.runs, 'run')}"
        if not shrunk.is_minimal:
            runs += ", the most that are made; fewer may do"
        return f"{plural(len(drawn), 'fault')}, {what} ({runs})"

    def _not_repeated(self) -> str:
        assert self.found is not None
        remedy = "--underlay-check-determinism names what differs"
        if self.found.exception is None:
            remedy += "; or it needs what only the other process had or lacked, such as a fixture's changes"
        first = self.found.error.splitlines()[0]
        return f"its replay did not fail like this ({first}): the test is not the same each time; {remedy}"


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers)) or "''"


def _contents(folder: Path) -> list[str]:
    return [f"{each.name}/" if each.is_dir() else each.name for each in folder.iterdir()]


def _relative(folder: Path) -> str:
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith("..") else relative

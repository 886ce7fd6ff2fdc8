"""The register of robustness cases, and what a process must look like again when one is over.

A case is a plain function of a loop factory and of how many it should take (connections, loops, rounds); it
raises when the loop misbehaves, and returns facts worth printing. Its name is the sentence that it proves.
It runs in a child process of its own, so it may lower limits, kill clients and exhaust tables.

This file knows what a loop could leave behind: descriptors, rings, threads, children, signals pending or
blocked, and entries in its own tables. It does not know the cases: importing their modules registers them.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .children import Job, Report
from .subjects import LoopFactory

Facts = dict[str, int | str]
Work = Callable[[LoopFactory, int], Facts]

CASE_MODULES = (
    "robustness_crowd",
    "robustness_limits",
    "robustness_models",
    "robustness_peers",
    "robustness_stall",
    "robustness_threads",
    "robustness_life",
)

# Nothing measures itself by this: alone a case takes a fraction, and a hang is a failure.
LIMIT_S = 60.0
LONG_LIMIT_S = 600.0

# A thread that was told to end, a child that was killed, a descriptor in its last moments: all may need an
# instant. What remains past this was left behind.
SETTLE_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Case:
    """A case on one model: `size` is how many of whatever the case counts."""

    name: str
    model: str
    size: int
    long: bool
    work: Work

    @property
    def id(self) -> str:
        """The case's sentence and the model, as pytest and the command line show them."""
        return f"{self.name}[{self.model}-{self.size}]"

    def job(self, make: LoopFactory) -> Job:
        """The case as work for a child process."""
        limit_s = LONG_LIMIT_S if self.long else LIMIT_S
        return Job(self.id, partial(_work, self.work, make, self.size), limit_s)


_cases: list[Case] = []


def case(sizes: Mapping[str, int], long: Mapping[str, int] | None = None) -> Callable[[Work], Work]:
    """Registers a function as a case on the models that `sizes` names; `long` adds variants for the long run."""

    def register(work: Work) -> Work:
        for is_long, by_model in ((False, sizes), (True, long or {})):
            _cases.extend(Case(work.__name__, model, size, is_long, work) for model, size in by_model.items())
        return work

    return register


def robustness_cases() -> list[Case]:
    """Every case on every model that it applies to."""
    for name in CASE_MODULES:
        importlib.import_module(f".{name}", __package__)
    return list(_cases)


class NotHere(Exception):
    """This machine doesn't allow what the case needs; the text names the remedy."""


def _work(work: Work, make: LoopFactory, size: int) -> Report:
    make().close()  # what a process needs once is no leak
    gc.collect()
    before = Leavings.now()
    try:
        facts = work(make, size)
    except NotHere as exc:
        return Report("skipped", str(exc))
    except BaseException:
        return Report("failed", traceback.format_exc())
    left = before.left_behind()
    if left:
        return Report("failed", "left behind: " + "; ".join(left), facts)
    return Report("passed", "", facts)


# --- what could be left behind ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leavings:
    """What this process holds: compare two of them."""

    descriptors: dict[int, str]
    ring_mappings: int
    threads: dict[str, str]
    children: frozenset[str]
    pending: frozenset[int]
    blocked: frozenset[int]

    @classmethod
    def now(cls) -> Leavings:
        """Looks at the process; pending and blocked signals are the calling thread's."""
        return cls(
            descriptors=open_descriptors(),
            ring_mappings=Path("/proc/self/maps").read_text().count("anon_inode:[io_uring]"),
            threads=_threads(),
            children=frozenset(Path("/proc/thread-self/children").read_text().split()),
            pending=frozenset(map(int, signal.sigpending())),
            blocked=frozenset(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        )

    def left_behind(self) -> list[str]:
        """What there is now that was not there at `self`, as sentences; waits a moment for it to go."""
        give_up_s = time.monotonic() + SETTLE_WITHIN_S
        while True:
            gc.collect()
            left = self._differences(Leavings.now())
            if not left or time.monotonic() > give_up_s:
                return left
            time.sleep(0.01)

    def _differences(self, now: Leavings) -> list[str]:
        found: list[str] = []
        descriptors = {fd: what for fd, what in now.descriptors.items() if self.descriptors.get(fd) != what}
        if descriptors:
            found.append(f"descriptors {descriptors}")
        if now.ring_mappings > self.ring_mappings:
            found.append(f"{now.ring_mappings - self.ring_mappings} mappings of rings")
        threads = {tid: name for tid, name in now.threads.items() if tid not in self.threads}
        if threads:
            found.append(f"threads {threads}")
        if now.children - self.children:
            found.append(f"child processes {sorted(now.children - self.children)}")
        if now.pending - self.pending:
            found.append(f"pending signals {sorted(now.pending - self.pending)}")
        if now.blocked != self.blocked:
            found.append(f"signals blocked now {sorted(now.blocked)}, before {sorted(self.blocked)}")
        return found


def open_descriptors() -> dict[int, str]:
    """The open descriptors of this process and what each is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # the descriptor by which the directory itself was read
    return found


def _threads() -> dict[str, str]:
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            found[task.name] = (task / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            pass  # it ended while we looked
    return found


def tables(loop: asyncio.AbstractEventLoop) -> dict[str, int]:
    """How many entries each container has that the loop, its poller and the poller's memory keep.

    It asks no table by name, so that one which is added to a model later is counted as well.
    """
    sizes: dict[str, int] = {}
    seen: set[int] = set()

    def count(owner: object, path: str) -> None:
        for name, value in sorted(vars(owner).items()):
            if id(value) in seen or isinstance(value, (str, bytes, type)):
                continue
            seen.add(id(value))
            if isinstance(value, Sized) and hasattr(value, "__iter__"):
                sizes[f"{path}{name}"] = len(value)
            # Edges is a set that has tables of its own; and a poller is an object that has them.
            if type(value).__module__.startswith("underlay.loop") and hasattr(value, "__dict__"):
                count(value, f"{path}{name}.")

    count(loop, "")
    # What comes and goes with every turn is no memory of a connection.
    for passing in ("_ready", "_scheduled"):
        sizes.pop(passing, None)
    return sizes


async def settled_tables(loop: asyncio.AbstractEventLoop) -> dict[str, int]:
    """The tables of a loop that has watched something before: what it keeps for the next time is no leak."""
    near, far = socket.socketpair()
    heard = asyncio.Event()
    loop.add_reader(near, heard.set)
    far.send(b"x")
    await heard.wait()
    loop.remove_reader(near)
    near.close()
    far.close()
    await asyncio.sleep(0)
    return tables(loop)


async def same_tables(loop: asyncio.AbstractEventLoop, before: dict[str, int]) -> None:
    """Fails unless every table shrinks to its size in `before` within a few turns of the loop."""
    give_up_s = loop.time() + SETTLE_WITHIN_S
    while True:
        gc.collect()
        now = tables(loop)
        grown = {name: (before.get(name, 0), size) for name, size in now.items() if size > before.get(name, 0)}
        if not grown:
            return
        assert loop.time() < give_up_s, f"entries left in the loop's tables, as (before, now): {grown}"
        await asyncio.sleep(0.01)


async def eventually(condition: Callable[[], bool], what: str | Callable[[], str], within_s: float = 30.0) -> None:
    """Waits until `condition()` holds, by timers alone: nothing here depends on the subject's readiness."""
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + within_s
    while not condition():
        if loop.time() > give_up_s:
            raise AssertionError(f"did not come about: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(0.005)

"""Which worker is started, drained, asked to stop or killed, and when: a state machine over pure events.

``Supervisor.on(event, now)`` takes what happened and answers what is to be done;
``next_wake(now)`` says when it wants a ``Tick``. It knows no process, no clock and no
socket: ``now`` is an argument, a worker is a number, and whoever calls it carries
the actions out. So that each rule can be tested without waiting for any.

A worker's life::

    STARTING --Ready--> READY --restart, fewer, stop, failing--> DRAINING --> ASKED --> KILLED
        `-------------------------- a stop, or too slow to start --------------'

It leaves by ``Exited`` from any of these, and only then is it forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

__all__ = [
    "Action",
    "Ask",
    "Beat",
    "Begin",
    "Cause",
    "Ceased",
    "Connections",
    "Drain",
    "Event",
    "Exited",
    "Failing",
    "Finish",
    "GiveUp",
    "Kill",
    "Policy",
    "Ready",
    "Resize",
    "Restart",
    "Start",
    "State",
    "Stop",
    "Supervisor",
    "Tick",
    "Unusable",
    "Worker",
]


@dataclass(frozen=True)
class Policy:
    """How many workers, and how long each is given for what."""

    workers: int = 1
    # As long as Kubernetes gives a pod to end (terminationGracePeriodSeconds): what people plan their requests for.
    drain_s: float = 30.0
    # A server asked to stop closes its clients and its files; a third of the above.
    kill_after_s: float = 10.0
    # Imports of a large program take seconds; a minute without a listener is a program that hangs. 0: no limit.
    start_s: float = 60.0
    # Doubled at each crash: a program that is broken for good costs one start a minute.
    backoff_first_s: float = 0.5
    backoff_most_s: float = 60.0
    # A worker that served this long had a chance crash; the next starts at once.
    good_after_s: float = 10.0
    # A loop that doesn't answer for so long is replaced. 0: nobody looks.
    health_s: float = 0.0


class State(Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"  # accepts no more; its connections go on
    ASKED = "stopping"  # has got SIGTERM
    KILLED = "killed"  # has got SIGKILL


@dataclass
class Worker:
    """What the supervisor remembers of one."""

    number: int
    generation: int
    started_at: float
    state: State = State.STARTING
    since: float = 0.0  # when it came into this state
    heard_at: float = 0.0  # its loop's last sign of life
    has_ceased: bool = False  # has said that it accepts no more
    is_expected_to_end: bool = False


# --- what happens ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Begin:
    """The group begins."""


@dataclass(frozen=True)
class Tick:
    """Time went by."""


@dataclass(frozen=True)
class Ready:
    """The worker listens."""

    number: int


@dataclass(frozen=True)
class Beat:
    """The worker's loop is alive."""

    number: int


@dataclass(frozen=True)
class Ceased:
    """The worker accepts no more; ``completely`` is False where its loop offers no way to stop only that."""

    number: int
    completely: bool = True


@dataclass(frozen=True)
class Connections:
    """So many connections the worker has."""

    number: int
    count: int


@dataclass(frozen=True)
class Failing:
    """The worker lost a part of itself (one of its threads) and is to be replaced."""

    number: int


@dataclass(frozen=True)
class Unusable:
    """The worker says that the program cannot be run at all: a wrong name, a taken port."""

    number: int


@dataclass(frozen=True)
class Exited:
    """The worker's process is gone."""

    number: int


@dataclass(frozen=True)
class Restart:
    """Replace each worker, one after the other."""


@dataclass(frozen=True)
class Resize:
    """So many workers more, or fewer."""

    by: int


@dataclass(frozen=True)
class Stop:
    """End all; ``gently`` lets connections end first. A second one kills."""

    gently: bool = True


Event: TypeAlias = (
    Begin | Tick | Ready | Beat | Ceased | Connections | Failing | Unusable | Exited | Restart | Resize | Stop
)


# --- what is to be done ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """Start a worker under this number."""

    number: int


class Cause(Enum):
    """Why a worker is given up whose process still runs."""

    SLOW = "slow"  # it did not listen in time
    SILENT = "silent"  # its loop gave no sign of life
    FAILING = "failing"  # it lost a part of itself


@dataclass(frozen=True)
class GiveUp:
    """It counts as crashed, and is drained or asked to stop by the action that follows: somebody should hear why."""

    number: int
    cause: Cause


@dataclass(frozen=True)
class Drain:
    """Tell it to accept no more."""

    number: int


@dataclass(frozen=True)
class Ask:
    """Send it SIGTERM."""

    number: int


@dataclass(frozen=True)
class Kill:
    """Send it SIGKILL: it took too long to stop, or, ``at_once``, a second stop doesn't wait for it."""

    number: int
    at_once: bool = False


@dataclass(frozen=True)
class Finish:
    """All are gone; the group ends with this status."""

    status: int


Action: TypeAlias = Start | GiveUp | Drain | Ask | Kill | Finish

_ACTIVE = (State.STARTING, State.READY)


@dataclass
class Supervisor:
    """The group's state, and the rules by which it changes.

    >>> supervisor = Supervisor(Policy(workers=2))
    >>> supervisor.on(Begin(), 0.0)
    [Start(number=1), Start(number=2)]
    >>> supervisor.on(Ready(1), 0.1), supervisor.on(Ready(2), 0.1)
    ([], [])
    >>> supervisor.on(Restart(), 5.0)  # a new one first
    [Start(number=3)]
    >>> supervisor.on(Ready(3), 5.2)  # and now an old one may go
    [Drain(number=1), Start(number=4)]
    """

    policy: Policy
    wanted: int = 0
    generation: int = 1
    workers: dict[int, Worker] = field(default_factory=dict)
    crashes_in_a_row: int = 0
    crashes: int = 0  # workers that ended by themselves, in all
    not_before: float = 0.0  # no start earlier
    pause_s: float = 0.0  # by which the last crash put the next start off
    stopping: str = ""  # "", "gently" or "at once"
    has_ever_been_ready: bool = False
    has_never_listened: bool = False  # and the group ends for that
    is_finished: bool = False
    failed_generation: int = 0  # the newest of which a worker crashed
    _last_number: int = 0
    _status: int = 0
    _backed_off_at: float = float("-inf")
    _last_of_first_round: int | None = None  # the youngest worker that the first crash found

    def on(self, event: Event, now: float) -> list[Action]:
        """Take one event; the actions are to be carried out in their order."""
        if self.is_finished:
            return []
        actions: list[Action] = []
        match event:
            case Begin():
                self.wanted = self.policy.workers
            case Restart():
                self.generation += 1
                self.not_before = now  # somebody mended the program: no reason to wait
                self._last_of_first_round = None
            case Resize(by):
                self.wanted = max(1, self.wanted + by)
            case Stop(gently):
                actions += self._stop(gently, now)
            case Exited(number):
                if (gone := self.workers.pop(number, None)) is not None:
                    self._ended(gone, now)
                    if self._is_hopeless():
                        self.has_never_listened = True
                        self._status = 1
                        actions += self._stop(False, now)
            case Tick():
                pass
            case _:
                if (worker := self.workers.get(event.number)) is not None:
                    actions += self._heard(worker, event, now)
        return [*actions, *self._settle(now)]

    @property
    def is_settled(self) -> bool:
        """Whether as many workers as are wanted are ready, and none is left to be replaced."""
        active = self._active()
        return len(active) == self.wanted and all(
            worker.state is State.READY and worker.generation == self.generation for worker in active
        )

    def next_wake(self, now: float) -> float | None:
        """The time of the next deadline, for a ``Tick``; None where only events can change anything."""
        times = [at for worker in self.workers.values() if (at := self._deadline(worker)) is not None]
        if not self.stopping and self._missing() > 0:
            times.append(self.not_before)
        times += [
            worker.since + self.policy.good_after_s
            for worker in self._active()
            if self.crashes_in_a_row and self._proves_good(worker)
        ]
        return max(now, min(times)) if times else None

    # --- rules ------------------------------------------------------------------------------------------------

    def _heard(self, worker: Worker, event: Event, now: float) -> list[Action]:
        """What a worker says of itself."""
        worker.heard_at = now
        match event:
            case Ready():
                if worker.state is State.STARTING:
                    self.has_ever_been_ready = True
                    self._enter(worker, State.READY, now)
            case Ceased(completely=completely):
                worker.has_ceased = True
                if worker.state is State.DRAINING and not completely:
                    return self._ask(worker, now)
            case Connections(count=count):
                if worker.state is State.DRAINING and worker.has_ceased and count == 0:
                    return self._ask(worker, now)
            case Failing():
                if worker.state in _ACTIVE:
                    self._crashed(worker, now)
                    return [GiveUp(worker.number, Cause.FAILING), *self._drain(worker, now)]
            case Unusable():
                if not self.has_ever_been_ready and not self.stopping:
                    self._status = 2
                    return self._stop(False, now)
        return []

    def _settle(self, now: float) -> list[Action]:
        """Meet deadlines, start what is missing, and replace what is old."""
        actions: list[Action] = []
        for worker in list(self.workers.values()):
            deadline = self._deadline(worker)
            if deadline is not None and now >= deadline:
                actions += self._too_late(worker, now)
        # By the same sum as in next_wake(): a difference might be rounded to just less, and wake it again at once.
        if any(self._proves_good(w) and now >= w.since + self.policy.good_after_s for w in self._active()):
            self.crashes_in_a_row = 0
        if self.stopping:
            if not self.workers:
                self.is_finished = True
                actions.append(Finish(self._status))
            return actions
        actions += self._retire(now)
        if now >= self.not_before:
            for _ in range(self._missing()):
                self._last_number += 1
                started = Worker(self._last_number, self.generation, now, since=now, heard_at=now)
                self.workers[started.number] = started
                actions.append(Start(started.number))
        return actions

    def _retire(self, now: float) -> list[Action]:
        """Drain workers beyond the wanted number: old ones first, and none that would leave too few that are ready."""
        actions: list[Action] = []
        ready = [worker for worker in self._active() if worker.state is State.READY]
        # Old ones first, oldest first; of the same generation the youngest goes, which has done the least.
        ready.sort(key=lambda w: (w.generation, w.number if w.generation < self.generation else -w.number))
        while len(ready) > self.wanted:
            actions += self._drain(ready.pop(0), now)
        # Of those that aren't ready, old ones are of no use, nor are those beyond the number: as many as are wanted,
        # and while old ones still serve, one to replace them.
        starting = [worker for worker in self._active() if worker.state is State.STARTING]
        for worker in starting:
            if worker.generation < self.generation:
                actions += self._ask(worker, now)
        active = self._active()
        current = [worker for worker in active if worker.generation == self.generation]
        spare = max(len(current) - self.wanted, len(active) - self.wanted - 1)
        for worker in reversed(starting):
            if worker.state is State.STARTING and spare > 0:
                spare -= 1
                actions += self._ask(worker, now)
        return actions

    def _missing(self) -> int:
        """How many to start now: all that are missing; beyond the number one at a time, to replace an old one."""
        active = self._active()
        missing = self.wanted - len(active)
        if missing > 0:
            return missing
        is_old = any(worker.generation < self.generation for worker in active)
        is_one_coming = any(worker.state is State.STARTING for worker in active)
        return 1 if is_old and not is_one_coming and len(active) <= self.wanted else 0

    def _ended(self, gone: Worker, now: float) -> None:
        if not gone.is_expected_to_end and not self.stopping:
            self._crashed(gone, now)

    def _is_hopeless(self) -> bool:
        """Whether none ever listened, and all that were started before the first crash are gone.

        A program that is broken in each of its first workers is broken for good, and whoever started it looks on now;
        later nobody may, and what once listened is started again for ever.
        """
        if self.has_ever_been_ready or self.stopping or self._last_of_first_round is None:
            return False
        return all(number > self._last_of_first_round for number in self.workers)

    def _crashed(self, worker: Worker, now: float) -> None:
        """Count it, and put the next start off, unless the worker had served well."""
        self.crashes += 1
        self.failed_generation = max(self.failed_generation, worker.generation)
        if self._last_of_first_round is None:
            self._last_of_first_round = self._last_number
        self.pause_s = 0.0
        if worker.state is State.READY and now >= worker.since + self.policy.good_after_s:
            return
        # Workers that were started together die together: that is one crash, not one for each.
        if worker.started_at < self._backed_off_at:
            self.pause_s = self.not_before - self._backed_off_at
            return
        self.crashes_in_a_row += 1
        # 2 ** 30 is beyond any cap, and no float overflows.
        pause_s = self.policy.backoff_first_s * 2.0 ** min(self.crashes_in_a_row - 1, 30)
        self.pause_s = min(pause_s, self.policy.backoff_most_s)
        self._backed_off_at = now
        self.not_before = now + self.pause_s

    def _proves_good(self, worker: Worker) -> bool:
        """Whether it would prove, by serving, that the crashes are over: one started before them proves nothing."""
        return worker.state is State.READY and worker.started_at >= self._backed_off_at

    def _stop(self, gently: bool, now: float) -> list[Action]:
        is_second = bool(self.stopping)
        self.stopping = "gently" if gently and not is_second else "at once"
        actions: list[Action] = []
        for worker in self.workers.values():
            if worker.state is State.READY and gently and not is_second:
                actions += self._drain(worker, now)
            elif worker.state in _ACTIVE or (worker.state is State.DRAINING and (is_second or not gently)):
                actions += self._ask(worker, now)
            elif worker.state is State.ASKED and is_second:
                actions += self._kill(worker, now, at_once=True)
        return actions

    def _deadline(self, worker: Worker) -> float | None:
        """When the worker's state has lasted too long."""
        policy = self.policy
        match worker.state:
            case State.STARTING:
                return worker.since + policy.start_s if policy.start_s else None
            case State.READY:
                return worker.heard_at + policy.health_s if policy.health_s else None
            case State.DRAINING:
                return worker.since + policy.drain_s
            case State.ASKED:
                return worker.since + policy.kill_after_s
        return None  # the kernel ends what is killed

    def _too_late(self, worker: Worker, now: float) -> list[Action]:
        match worker.state:
            case State.STARTING | State.READY:  # it hangs: it could not be asked to accept no more
                cause = Cause.SLOW if worker.state is State.STARTING else Cause.SILENT
                self._crashed(worker, now)
                return [GiveUp(worker.number, cause), *self._ask(worker, now)]
            case State.DRAINING:
                return self._ask(worker, now)
        return self._kill(worker, now)

    def _drain(self, worker: Worker, now: float) -> list[Action]:
        worker.is_expected_to_end = True
        if self.policy.drain_s <= 0 or worker.state is not State.READY:
            return self._ask(worker, now)
        self._enter(worker, State.DRAINING, now)
        return [Drain(worker.number)]

    def _ask(self, worker: Worker, now: float) -> list[Action]:
        worker.is_expected_to_end = True
        self._enter(worker, State.ASKED, now)
        return [Ask(worker.number)]

    def _kill(self, worker: Worker, now: float, *, at_once: bool = False) -> list[Action]:
        self._enter(worker, State.KILLED, now)
        return [Kill(worker.number, at_once)]

    def _enter(self, worker: Worker, state: State, now: float) -> None:
        worker.state = state
        worker.since = now
        worker.heard_at = now

    def _active(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.state in _ACTIVE]

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self.workers.values()))

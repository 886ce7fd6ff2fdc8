"""The life of a job: its states, what moves it from one to another, and when it is tried again.

This file only computes: the time and chance are arguments. It refuses to know the database, threads and processes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ..errors import UsageError

__all__ = ["TRANSITIONS", "Backoff", "JobEvent", "JobState", "Move", "after_failure", "after_loss", "move"]


class JobState(enum.StrEnum):
    """Where a job stands.

    >>> [str(state) for state in JobState if state.is_final]
    ['done', 'dead', 'cancelled']
    """

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether it stays so unless a person asks for another try."""
        return self in (JobState.DONE, JobState.DEAD, JobState.CANCELLED)


class JobEvent(enum.StrEnum):
    """What can happen to a job. ``SUBMITTED`` begins its life; each other one is a way in ``TRANSITIONS``."""

    SUBMITTED = "submitted"
    CLAIMED = "claimed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # and is tried again
    GAVE_UP = "gave up"  # failed once too often, or said itself that another try is of no use
    LOST = "lost"  # its worker died, or let the lease run out
    ABANDONED = "abandoned"  # lost once too often
    RELEASED = "released"  # its worker was asked to end
    CANCEL = "cancelled"
    RETRIED = "retried"  # by a person


_S = JobState
_E = JobEvent

TRANSITIONS: Final[Mapping[tuple[JobState, JobEvent], JobState]] = MappingProxyType(
    {
        (_S.WAITING, _E.CLAIMED): _S.RUNNING,
        (_S.WAITING, _E.CANCEL): _S.CANCELLED,
        (_S.RUNNING, _E.SUCCEEDED): _S.DONE,
        (_S.RUNNING, _E.FAILED): _S.WAITING,
        (_S.RUNNING, _E.GAVE_UP): _S.DEAD,
        (_S.RUNNING, _E.LOST): _S.WAITING,
        (_S.RUNNING, _E.ABANDONED): _S.DEAD,
        (_S.RUNNING, _E.RELEASED): _S.WAITING,
        # Nothing leads out of DONE: a result is recorded once.
        (_S.DEAD, _E.RETRIED): _S.WAITING,
        (_S.CANCELLED, _E.RETRIED): _S.WAITING,
    }
)
"""(state, event) -> state. What is not in here cannot happen."""


def move(state: JobState, event: JobEvent) -> JobState:
    """The state that an event leads to; ``ValueError``, which is a bug of ours, where there is no such way.

    >>> str(move(JobState.WAITING, JobEvent.CLAIMED))
    'running'
    >>> move(JobState.DONE, JobEvent.FAILED)
    Traceback (most recent call last):
    ValueError: a job that is done cannot be failed
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a job that is {state} cannot be {event}") from None


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a job that failed waits: ``first_s``, then ``factor`` times longer each time, at most ``most_s``.

    Of each wait a part is left to chance, so that jobs which failed together don't come back together: ``jitter`` is
    that part, from 0 to 1. The default is the "equal jitter" of AWS's article on back-off: half is kept, half drawn.

    >>> [Backoff(jitter=0).delay_s(failures, chance=0.5) for failures in (1, 2, 3, 100)]
    [1.0, 2.0, 4.0, 300.0]
    >>> Backoff(first_s=10).delay_s(1, chance=0.0), Backoff(first_s=10).delay_s(1, chance=1.0)
    (10.0, 5.0)
    """

    first_s: float = 1.0
    factor: float = 2.0
    most_s: float = 300.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        # `not (...)` also refuses NaN, which compares false to everything.
        if not (0 <= self.first_s < float("inf") and 0 <= self.most_s < float("inf")):
            raise UsageError("a back-off's first_s and most_s are seconds, 0 or more")
        if not (1 <= self.factor < float("inf")):
            raise UsageError(f"a back-off's factor is 1 or more, not {self.factor}")
        if not (0 <= self.jitter <= 1):
            raise UsageError(f"a back-off's jitter is a part from 0 to 1, not {self.jitter}")

    def delay_s(self, failures: int, chance: float) -> float:
        """Seconds to wait after this many failures; ``chance`` is from 0 to 1."""
        try:
            whole = min(self.most_s, self.first_s * self.factor ** (failures - 1))
        except OverflowError:
            whole = self.most_s
        return whole * (1 - self.jitter * chance)


@dataclass(frozen=True, slots=True)
class Move:
    """What becomes of a job: what happened, the state it leads to, and the earliest time of the next try."""

    event: JobEvent
    state: JobState
    due: float


def after_failure(*, failures: int, retries: int, final: bool, backoff: Backoff, now: float, chance: float) -> Move:
    """What becomes of a running job whose function raised; ``failures`` counts this one, ``final`` forbids a retry.

    >>> moved = after_failure(failures=1, retries=3, final=False, backoff=Backoff(jitter=0), now=50.0, chance=0.0)
    >>> str(moved.event), str(moved.state), moved.due
    ('failed', 'waiting', 51.0)
    >>> str(after_failure(failures=4, retries=3, final=False, backoff=Backoff(), now=50.0, chance=0.0).state)
    'dead'
    """
    if final or failures > retries:
        return Move(_E.GAVE_UP, move(_S.RUNNING, _E.GAVE_UP), now)
    return Move(_E.FAILED, move(_S.RUNNING, _E.FAILED), now + backoff.delay_s(failures, chance))


def after_loss(*, losses: int, most_losses: int, now: float) -> Move:
    """What becomes of a running job whose worker is gone; ``losses`` counts this one.

    It is due at once: the lease was the wait. A job that kills each of its workers is given up in the end.

    >>> [str(after_loss(losses=losses, most_losses=10, now=50.0).state) for losses in (1, 11)]
    ['waiting', 'dead']
    """
    event = _E.ABANDONED if losses > most_losses else _E.LOST
    return Move(event, move(_S.RUNNING, event), now)

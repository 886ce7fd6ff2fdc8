"""How the jobs end that the workers of one `underlay jobs work` run: counted, and told one by one.

All is read from the events, which say whoever ended a job, a worker or who watches it. This file knows what becomes of
a claim. It refuses to know processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..errors import plural
from ._job_errors import JobsUnavailable, NoSuchJob
from ._job_states import JobEvent

if TYPE_CHECKING:
    from ._job_records import StoredEvent
    from ._job_store import Store

__all__ = ["Ends"]

_AT_ONCE: Final = 1000
# A task's name may have 255 characters, and an event's detail 200: it is a line of a log.
_LONGEST_NAME: Final = 60
_ENDS: Final = frozenset(
    {
        JobEvent.SUCCEEDED,
        JobEvent.FAILED,
        JobEvent.GAVE_UP,
        JobEvent.LOST,
        JobEvent.ABANDONED,
        JobEvent.RELEASED,
    }
)


class Ends:
    """Counts, from now on, the jobs that workers whose names begin with ``name`` and a dot bring to an end.

    ``dead`` is called with a sentence for each dead letter, and ``done``, where it is given, with a line for each job
    that is done.
    """

    def __init__(
        self, store: Store, name: str, *, dead: Callable[[str], None], done: Callable[[str], None] | None
    ) -> None:
        self.done = self.dead = 0
        self._store = store
        self._names = f"{name}."
        self._tell_dead = dead
        self._tell_done = done
        self._seen = store.last_event()
        self._missed = 0
        self._begun: dict[int, float] = {}  # when each job began that runs on one of ours

    def look(self) -> None:
        """Read what happened since the last look; while the database is busy or gone, that is for the next one."""
        try:
            self._read()
        except JobsUnavailable:
            pass  # whoever works there says so

    def last_look(self) -> None:
        """Read the rest, and say where that cannot be, and what was dropped before it could be read."""
        try:
            self._read()
        except JobsUnavailable as error:
            self._tell_dead(f"how the last jobs ended is not known here: {error}")
        if self._missed:
            gone = f"{plural(self._missed, 'event')} had been dropped before this command could read them"
            self._tell_dead(f"{gone}, so there may be more dead letters; allow more with Limits(events=…)")

    def _read(self) -> None:
        more = True
        while more:
            events = self._store.events(self._seen, None, _AT_ONCE)
            if events:
                self._missed += events[0].id - self._seen - 1  # their numbers have no gaps
                self._seen = events[-1].id
            for event in events:
                self._take(event)
            more = len(events) == _AT_ONCE

    def _take(self, event: StoredEvent) -> None:
        if event.event is JobEvent.CLAIMED:
            if event.detail.startswith(self._names):
                self._begun[event.job] = event.at
            else:
                self._begun.pop(event.job, None)  # its end was among what we missed
            return
        if event.event not in _ENDS or (began := self._begun.pop(event.job, None)) is None:
            return
        if event.event is JobEvent.SUCCEEDED:
            self.done += 1
            if self._tell_done is not None:
                self._tell_done(f"{self._job(event.job)} is done, in {event.at - began:.2f} s")
        elif event.event in (JobEvent.GAVE_UP, JobEvent.ABANDONED):
            self.dead += 1
            why = next(iter(event.detail.splitlines()), "")
            printable = "".join(letter if letter.isprintable() else " " for letter in why)
            self._tell_dead(f"{self._job(event.job)} is dead: {printable}")

    def _job(self, number: int) -> str:
        try:
            return f"job {number} ({self._store.job(number).task:.{_LONGEST_NAME}})"
        except (NoSuchJob, JobsUnavailable):  # purged meanwhile, or somebody keeps the database locked
            return f"job {number}"

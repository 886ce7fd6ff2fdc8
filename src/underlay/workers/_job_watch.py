"""Who waits for a job hears of it: one thread looks whether the database changed, however many wait.

SQLite has no way to call another process. ``PRAGMA data_version`` tells at the cost of a look into shared memory
whether anybody committed (sqlite.org/pragma.html#pragma_data_version). This file knows that and the numbers of events.
It refuses to know what waiters do when they hear.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from ._job_database import Database

__all__ = ["Pace", "Watch"]

# How late news may be where nothing happened for long: a person notices from 100 ms on, and a look takes some 10 µs, so
# this costs 0.05 % of a core.
_MOST_S: Final = 0.02
# Where something has just happened more may come: a disk keeps a write in 0.05 to 5 ms.
_LEAST_S: Final = 0.001
# Events that are read at a time; they are two numbers each.
_AT_ONCE: Final = 10_000

Bell = Callable[[], None]


class Pace:
    """How long to sleep between two looks: short after something happened, and longer each time that nothing did.

    >>> pace = Pace()
    >>> [round(pace.next_s(), 4) for _ in range(3)], [pace.next_s() for _ in range(9)][-1]
    ([0.001, 0.0015, 0.0023], 0.02)
    """

    def __init__(self) -> None:
        self._s = _LEAST_S

    def hasten(self) -> None:
        """Begin again with short sleeps."""
        self._s = _LEAST_S

    def next_s(self) -> float:
        """Seconds to sleep now."""
        now = self._s
        self._s = min(_MOST_S, now * 1.5)
        return now


class Watch:
    """Rings the bells of those who wait for a job, or for all, when something happened to it.

    A bell must not block. ``failure`` is what ended the watch, if anything did; then all bells have rung.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._bells: dict[int | None, set[Bell]] = {}
        self._thread: threading.Thread | None = None
        self._seen = 0
        self._pace = Pace()
        self.failure: Exception | None = None

    def subscribe(self, job: int | None, bell: Bell) -> None:
        """Ring ``bell`` for each change of the job, or of any; what happened before this call is not told."""
        with self._lock:
            self._bells.setdefault(job, set()).add(bell)
            self._pace.hasten()
            if self._thread is None:
                self.failure = None
                # From here, not from where the thread gets going: the caller looks at the job as soon as this returns.
                with self._database.reading() as connection:
                    self._seen = connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0]
                self._thread = threading.Thread(target=self._run, name="underlay-jobs-watch", daemon=True)
                self._thread.start()

    def unsubscribe(self, job: int | None, bell: Bell) -> None:
        """Ring ``bell`` no more."""
        with self._lock:
            bells = self._bells.get(job, set())
            bells.discard(bell)
            if not bells:
                self._bells.pop(job, None)

    def close(self) -> None:
        """End the watch; whoever still waits is rung once more."""
        with self._lock:
            left = [bell for bells in self._bells.values() for bell in bells]
            self._bells.clear()
            thread = self._thread
        for bell in left:
            bell()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        try:
            self._look_until_nobody_waits()
        except Exception as error:
            with self._lock:
                self.failure = error
                self._thread = None
                left = [bell for bells in self._bells.values() for bell in bells]
            for bell in left:
                bell()

    def _look_until_nobody_waits(self) -> None:
        # A connection of its own: data_version does not count the commits of the connection that asks.
        database = self._database.another()
        pause = threading.Event()
        try:
            version = None
            while True:
                with self._lock:
                    if not self._bells:
                        self._thread = None
                        return
                # A connection that a fork made close and open again begins at another number, and that is looked into.
                with database.reading() as connection:
                    now = connection.execute("PRAGMA data_version").fetchone()[0], id(connection)
                if now != version:
                    version = now
                    self._pace.hasten()
                    while self._ring(self._news(database)):
                        pass
                pause.wait(self._pace.next_s())
        finally:
            database.close()

    def _news(self, database: Database) -> list[tuple[int, int]]:
        with database.reading() as connection:
            return connection.execute(
                "SELECT id, job FROM events WHERE id > ? ORDER BY id LIMIT ?", (self._seen, _AT_ONCE)
            ).fetchall()

    def _ring(self, rows: list[tuple[int, int]]) -> bool:
        """Ring for these events; whether there may be more."""
        if rows:
            self._seen = rows[-1][0]
            with self._lock:
                bells = {bell for job in {row[1] for row in rows} for bell in self._bells.get(job, ())}
                bells |= self._bells.get(None, set())
            for bell in bells:
                bell()
        return len(rows) == _AT_ONCE

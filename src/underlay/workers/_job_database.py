"""The file that jobs are kept in: how it is made, opened, and written so that what is said to be kept is kept.

This file knows SQLite: its write-ahead log, its locks, and what a fork does to it. It refuses to know what a job is,
beyond the tables.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import UsageError
from ._job_errors import JobsUnavailable, explained

__all__ = ["Database"]

# "uJob": what `file` and SQLite's own tools show of a database's owner (sqlite.org/pragma.html#pragma_application_id).
APPLICATION: Final = 0x754A6F62
VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- a receipt of a purged job must never mean another one
    task TEXT NOT NULL,
    arguments BLOB NOT NULL,
    key TEXT UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'dead', 'cancelled')),
    submitted REAL NOT NULL,
    due REAL NOT NULL,
    finished REAL,
    claims INTEGER NOT NULL DEFAULT 0,     -- how often it was begun; the newest claim is the only one that counts
    failures INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL,
    most_losses INTEGER NOT NULL,
    backoff TEXT NOT NULL,
    worker TEXT,
    lease_until REAL,
    result BLOB,
    error TEXT,
    CHECK ((state = 'done') = (result IS NOT NULL)),
    CHECK ((state = 'running') = (lease_until IS NOT NULL))
);
CREATE INDEX jobs_waiting ON jobs (task, due, id) WHERE state = 'waiting';
CREATE INDEX jobs_running ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_final ON jobs (finished) WHERE finished IS NOT NULL;
CREATE TRIGGER jobs_one_result BEFORE UPDATE OF result ON jobs WHEN OLD.result IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'a job has one result'); END;
CREATE TABLE counts (state TEXT PRIMARY KEY, jobs INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counts VALUES ('waiting', 0), ('running', 0), ('done', 0), ('dead', 0), ('cancelled', 0);
CREATE TRIGGER jobs_added AFTER INSERT ON jobs
    BEGIN UPDATE counts SET jobs = jobs + 1 WHERE state = NEW.state; END;
CREATE TRIGGER jobs_moved AFTER UPDATE OF state ON jobs WHEN OLD.state <> NEW.state
    BEGIN
        UPDATE counts SET jobs = jobs - 1 WHERE state = OLD.state;
        UPDATE counts SET jobs = jobs + 1 WHERE state = NEW.state;
    END;
CREATE TRIGGER jobs_removed AFTER DELETE ON jobs
    BEGIN UPDATE counts SET jobs = jobs - 1 WHERE state = OLD.state; END;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL,
    at REAL NOT NULL,
    event TEXT NOT NULL,
    state TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX events_of_job ON events (job, id);
"""

# A fork copies SQLite's own record of which locks this process holds on a file, but not the locks: a child that opened
# the file anew would believe that it has them, and write into a log that others think unused, or wait for ever for a
# lock that it thinks is held by itself (sqlite.org/howtocorrupt.html, 2.6). So before a fork every connection is
# closed, between two transactions, which takes that record away; after it both sides open their own when they need
# one. A process that is started by exec, such as subprocess makes, is not concerned and does not come here.
_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_forking = threading.local()  # what this thread has locked for its fork; two threads may fork at once


def _before_fork() -> None:
    _forking.locked = sorted(_databases, key=id)  # in one order, so that two who fork don't wait for each other
    for database in _forking.locked:
        database._lock.acquire()
        database._close_connection()


def _after_fork() -> None:
    for database in _forking.locked:
        database._lock.release()
    del _forking.locked


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


class Database:
    """The open database of jobs; any thread may use it, and so may a forked child.

    ``busy_s`` is how long to wait for another process's transaction. Raises ``UsageError`` for a file that is no
    database of jobs, and ``JobsUnavailable`` for one that cannot be opened, made or written.
    """

    def __init__(self, path: str, *, busy_s: float) -> None:
        self.path = path
        # It is opened again after a fork, and by who waits: the program may have gone to another folder meanwhile. Not
        # abspath(), which takes `link/..` for nothing.
        self._file = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
        self._busy_s = busy_s
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._open: list[sqlite3.Connection] = []
        weakref.finalize(self, _close_all, self._open)
        _databases.add(self)
        self._closed = False
        with self.reading():
            pass

    def another(self) -> Database:
        """Open the same file once more."""
        return Database(self._file, busy_s=self._busy_s)

    def _connect(self) -> sqlite3.Connection:
        self._make_private()
        with self._explaining():
            connection = sqlite3.connect(
                self._file, timeout=self._busy_s, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def close(self) -> None:
        """Close it; a second time does nothing."""
        with self._lock:
            self._closed = True
            self._close_connection()

    def _close_connection(self) -> None:
        if self._connection is None or not self._connection.in_transaction:
            _close_all(self._open)
            self._connection = None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for statements that only read."""
        with self._lock, self._explaining():
            yield self._own()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for one transaction, which is on the disk when the block ends; an error undoes it."""
        with self._lock, self._explaining():
            connection = self._own()
            # A transaction that began as a reader could be refused when it wants to write (SQLITE_BUSY_SNAPSHOT).
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite undoes it itself when the disk is full
                    connection.execute("ROLLBACK")
                raise

    def _own(self) -> sqlite3.Connection:
        if self._closed:
            raise UsageError(f"the jobs of {self.path} are closed")
        if self._connection is None:
            self._connection = self._connect()
            self._open.append(self._connection)
        return self._connection

    def _make_private(self) -> None:
        """Make the file for its owner alone, where there is none; SQLite gives its companions the same mode."""
        try:
            os.close(os.open(self._file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise JobsUnavailable(
                f"the database {self.path} cannot be made: {error.strerror}",
                remedy="name a file in a folder where this user may write",
            ) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Set what holds for each connection; make the tables in a new file, refuse somebody else's."""
        if not self._is_ours(connection):
            # Journal modes cannot change inside a transaction; two makers at once agree on WAL.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                if not self._is_ours(connection):
                    # One by one: executescript() would commit first. No statement but a trigger has a `;` inside.
                    for statement in _statements():
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {APPLICATION}")
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        connection.execute("PRAGMA synchronous = FULL")  # in a WAL: fsync at each commit
        # A log that grew while somebody read for long is cut to this again: 16 MiB, four checkpoints' worth.
        connection.execute(f"PRAGMA journal_size_limit = {16 << 20}")

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Whether the tables are there; False for an empty file, ``UsageError`` for another's."""
        if connection.in_transaction:
            return self._is_ours_now(connection)
        connection.execute("BEGIN")  # all that is read is of one moment: somebody may be making the tables
        try:
            return self._is_ours_now(connection)
        finally:
            connection.execute("ROLLBACK")

    def _is_ours_now(self, connection: sqlite3.Connection) -> bool:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application == APPLICATION:
            if version != VERSION:
                raise UsageError(
                    f"{self.path} is of version {version}, and this underlay knows version {VERSION}",
                    remedy="use the underlay that made it, or one that is newer",
                )
            tables = "SELECT count(*) FROM sqlite_master WHERE name IN ('jobs', 'counts', 'events')"
            if connection.execute(tables).fetchone()[0] != 3:
                raise UsageError(f"{self.path} lacks tables that jobs have", remedy="name another file for the jobs")
            return True
        if application or version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise UsageError(f"{self.path} is another program's database", remedy="name a file of its own for the jobs")
        return False

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            told = explained(error, self.path, os.path.dirname(self._file))
            if told is None:
                raise
            raise told from error


def _close_all(connections: list[sqlite3.Connection]) -> None:
    """Close connections, also where nobody called close(): at the latest when Python ends."""
    while connections:
        connections.pop().close()


def _statements() -> Iterator[str]:
    """Part the schema into its statements, as SQLite itself does."""
    statement = ""
    for line in _SCHEMA.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""

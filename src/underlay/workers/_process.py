"""The kind ``process``: a call runs in one of several processes of this machine.

Each worker is a new Python that imports nothing of the program until a call
needs it. So a script needs no ``if __name__ == "__main__"``, and threads and event loops of this
process are not forked in the midst of what they do, as the standard library's pool does up to Python 3.13.
"""

from __future__ import annotations

import os
import socket
from multiprocessing.connection import Connection

from ._contract import Kind
from ._packages import package
from ._pool import PoolExecutor, WorkerDied
from ._worker_process import WorkerProcess

__all__ = ["KIND", "make", "require"]

KIND = Kind(
    "process",
    runs_in="processes of this machine",
    parallel=True,
    crosses_machines=False,
    pickles=True,
    cancels_waiting=True,
    sees_death=True,
    needs="cloudpickle",
)


class _ProcessLane:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._connection = Connection(ours.detach())
            try:
                self._worker = WorkerProcess("_process_worker", {"fd": theirs.fileno()}, pass_fds=[theirs.fileno()])
            except BaseException:
                self._connection.close()
                raise

    def call(self, packed: bytes) -> bytes:
        try:
            self._connection.send_bytes(packed)
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            raise WorkerDied(self._worker.how_it_ended()) from None

    def close(self) -> None:
        self._connection.close()
        self._worker.close()


class _ProcessEngine:
    def open_lane(self) -> _ProcessLane:
        return _ProcessLane()

    def close(self) -> None:
        """Each lane has ended its worker."""


def require() -> None:
    """Raise ``UsageError`` where something is missing."""
    package("cloudpickle", "the executor process")


def make(*, max_workers: int | None = None) -> PoolExecutor:
    """Make a pool of at most ``max_workers`` processes, started when needed; one per processor without it."""
    require()
    return PoolExecutor(KIND.name, _ProcessEngine(), max_workers or os.cpu_count() or 1)

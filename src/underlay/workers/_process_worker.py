"""What a process of the kind ``process`` does: one call after the other, until the other end is closed."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from typing import cast

from ._pickling import perform
from ._worker_process import adopted

__all__ = ["main"]


def main() -> None:
    """Be a worker."""
    connection = Connection(cast(int, adopted()["fd"]))
    # A child that a call forks (fork(2)) has this end as well. It would hold the connection open past our death, which
    # nobody would see then; and one that returned from the call would answer it a second time, in place of the next.
    os.register_at_fork(after_in_child=connection.close)
    while True:
        try:
            connection.send_bytes(perform(connection.recv_bytes()))
        except (EOFError, OSError):
            return

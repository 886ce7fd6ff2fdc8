"""What a process of the kind ``process`` does: one call after the other, until the other end is closed."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import cast

from ._pickling import perform
from ._worker_process import adopted

__all__ = ["main"]


def main() -> None:
    """Be a worker."""
    connection = Connection(cast(int, adopted()["fd"]))
    while True:
        try:
            connection.send_bytes(perform(connection.recv_bytes()))
        except (EOFError, OSError):
            return

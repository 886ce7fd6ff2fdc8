"""A FIFO, fifo(7): a pipe that is opened through a node of the file system; one way, in order.

This file knows how its node is made and removed. It refuses to know how it is read and written: as a pipe is.

The node has a name for as long as it takes to open both ends, in the folder of names. The ends then go where they are
wanted, as all descriptors do, and nothing is left of it whoever is killed.
"""

from __future__ import annotations

import os
from typing import Final

from . import _folder
from ._contract import MAX_MESSAGE_BYTES, Kind, Terms
from ._end import close_all
from ._folder_lock import locked
from ._pipe import check, incoming, outgoing, set_capacity

__all__ = ["KIND", "check", "incoming", "make", "outgoing"]

KIND: Final = Kind(
    name="fifo",
    summary="a FIFO, fifo(7)",
    max_message_bytes=MAX_MESSAGE_BYTES,
    one_way=True,
)


def make(terms: Terms) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The descriptors of the way in, and of the way out."""
    where = _folder.folder()
    made: list[int] = []
    try:
        with locked(where):
            _folder.sweep(where)
            node = os.path.join(where, f".{os.getpid()}")
            os.mkfifo(node, 0o600)
            try:
                # In this order: a FIFO without a reader cannot be opened for writing without waiting.
                made.append(os.open(node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                made.append(os.open(node, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            finally:
                os.unlink(node)
        reader, writer = made
        set_capacity(terms, writer)
        return (reader,), (writer,)
    except BaseException:
        close_all(made)
        raise

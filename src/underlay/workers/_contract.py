"""What a kind of executor offers, and what can go wrong with any of them.

This file knows the columns of the table of kinds, and the errors. It refuses to know any kind.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass

from ..errors import UnderlayError

__all__ = ["EngineUnavailable", "Kind", "NotPicklable", "RemoteFailure", "RemoteTraceback", "reason_of"]


@dataclass(frozen=True)
class Kind:
    """What the executors of one kind can do."""

    name: str
    runs_in: str
    """Where a call runs, in a few words."""
    parallel: bool
    """Whether calls in pure Python run on many processors at once, in spite of the global interpreter lock."""
    crosses_machines: bool
    """Whether the workers may be on other machines."""
    pickles: bool
    """Whether functions, arguments and results are copied (by cloudpickle) and not shared."""
    cancels_waiting: bool
    """Whether `Future.cancel` takes back a call that has not started. One that runs is never taken back."""
    sees_death: bool
    """Whether a worker that dies is seen, as ``BrokenExecutor``."""
    needs: str = ""
    """What has to be installed besides underlay."""


# Long enough for an address and what is wrong with it; libraries append what they tried.
_LONGEST_REASON = 200


class NotPicklable(UnderlayError, pickle.PicklingError):
    """A call, or what came of it, cannot be brought to another process."""


class EngineUnavailable(UnderlayError):
    """The broker or the cluster that was named cannot be reached."""


class RemoteFailure(UnderlayError):
    """A call raised an exception that cannot be pickled; this one says what it was."""


class RemoteTraceback(Exception):
    """The traceback of an exception where it was raised: the ``__cause__`` of what the caller gets."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def reason_of(error: BaseException) -> str:
    """Why something could not be reached, as a part of a sentence: the kernel's word, where it lies below.

    >>> reason_of(ConnectionRefusedError(111, "Connection refused"))
    'Connection refused'
    >>> reason_of(ValueError("No such\\nthing."))
    'No such thing'
    """
    below: BaseException | None = error
    for _ in range(16):  # a library wraps another's errors a few times; a chain may be a circle
        if below is None:
            break
        if isinstance(below, OSError) and below.errno is not None and below.strerror:
            # getaddrinfo(3) has numbers of its own, below 0; asyncio has a sentence in the place of strerror(3)'s.
            return os.strerror(below.errno) if below.errno > 0 else below.strerror
        below = below.__cause__ or below.__context__
    return " ".join(f"{error}".split()).rstrip(".")[:_LONGEST_REASON] or type(error).__name__

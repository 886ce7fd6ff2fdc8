"""What a kind of executor offers, and what can go wrong with any of them.

This file knows the columns of the table of kinds, and the errors. It refuses to know any kind.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass

from ..errors import UnderlayError

__all__ = ["EngineUnavailable", "Kind", "NotPicklable", "RemoteFailure", "RemoteTraceback"]


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

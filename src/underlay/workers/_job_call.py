"""One try of a job where the executor runs it: a thread, another process, another machine.

What goes in and comes out is plain data, so that no executor has to carry an exception or a result that it cannot.
This file knows a function and its serialised arguments. It refuses to know the database.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from ..errors import UsageError
from ._job_errors import GiveUp, JobError, NotSerialisable
from ._job_records import Ending, Outcome
from ._job_serialise import JobSerialiser, dumps, loads

__all__ = ["Call", "CurrentJob", "call", "current_job"]


@dataclass(frozen=True, slots=True)
class CurrentJob:
    """The job that the calling task is run for.

    A job may be run more than once, so a task that acts on the world tells the world which job it acts for: ``id`` and
    ``key`` stay the same over all tries, ``claim`` counts them.
    """

    id: int
    claim: int
    key: str | None
    submitted_at: float


_current: ContextVar[CurrentJob] = ContextVar("underlay.workers.current_job")


def current_job() -> CurrentJob:
    """The job that this code runs for; ``UsageError`` where it runs for none."""
    try:
        return _current.get()
    except LookupError:
        raise UsageError("no job runs here", remedy="current_job() is for code that a task calls") from None


@dataclass(frozen=True, slots=True)
class Call:
    """What an executor is given: all of it can be pickled where the function can."""

    function: Callable[..., Any]
    arguments: bytes
    job: CurrentJob
    serialiser: JobSerialiser
    result_bytes: int
    error_bytes: int


def call(what: Call) -> Outcome:
    """Run the function and tell what came of it; whatever the function raises is told as well."""
    token = _current.set(what.job)
    try:
        given = cast("tuple[list[Any], dict[str, Any]]", loads(what.serialiser, what.arguments, "the arguments"))
        positional, named = given
        result = what.function(*positional, **named)
        if inspect.iscoroutine(result):
            import asyncio  # which takes longer to import than all the rest here

            result = asyncio.run(result)
        return Outcome(Ending.RESULT, dumps(what.serialiser, result, "the result", what.result_bytes))
    except (GiveUp, NotSerialisable) as error:
        # What cannot be stored today can't be tomorrow, and the work is done: another try would only do it again.
        return Outcome(Ending.FINAL_ERROR, error=_told(error, what.error_bytes))
    except (Exception, SystemExit) as error:
        return Outcome(Ending.ERROR, error=_told(error, what.error_bytes))
    finally:
        _current.reset(token)


def _told(error: BaseException, most_bytes: int) -> JobError:
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be shown)"
    # The first frame is ours.
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except Exception:
        text = "".join(traceback.format_tb(frames))
    return JobError(type(error).__qualname__, _cut(message, most_bytes), _cut(text, most_bytes))


def _cut(text: str, most_bytes: int) -> str:
    """Leave out the middle of a text that is too long; in UTF-8 a character has up to 4 bytes."""
    if len(text.encode("utf-8", "replace")) <= most_bytes:
        return text
    half = max(1, most_bytes // 8)
    return f"{text[:half]}\n… left out …\n{text[-half:]}"

"""How an end goes to another process: pickled while one is started, or as a word on its command line.

This file knows descriptors that are inherited or duplicated. It refuses to know what they carry. After fork(2) nothing
has to be done: the child has them.

What crosses is the number of each descriptor and what both ends agree on. An end that was used is not handed over with
what it had read ahead; hand it over before its first use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from multiprocessing import context, reduction
from typing import Protocol

from ..errors import UsageError
from ._end import End, end_of
from ._kinds import check


class Duplicate(Protocol):
    """A descriptor on its way into a process that multiprocessing starts."""

    def detach(self) -> int:
        """Its number there."""


def duplicates(end: End, what: object) -> tuple[Duplicate, ...]:
    """The descriptors of an end, for pickle."""
    if context.get_spawning_popen() is None:
        raise UsageError(
            f"{what} can only be pickled while multiprocessing starts the process that gets it",
            remedy="give it to Process(args=…); for other processes there is argument(), or give it a name",
        )
    return tuple(reduction.DupFd(each) for each in end.descriptors)


def word_of(end: End) -> str:
    """A word that `end_from` understands in a process that inherited the descriptors."""
    return json.dumps(asdict(end), separators=(",", ":"))


def end_from(word: str) -> End:
    """The end that this process inherited.

    Raises ``UsageError`` where it says no such thing, or the descriptors did not come along or are something else; they
    are left as they are.
    """
    try:
        end = end_of(json.loads(word))
        must_be_here(end.descriptors)
        check(end)
    except NotAlong:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, UsageError) as error:
        raise UsageError(
            f"{str(word)[:80]!r} names no end of a channel ({error})",
            remedy="give what Channel.argument() gave; for others name the class, too: ipc.inherit(word, ipc.Mutex)",
        ) from None
    for descriptor in end.descriptors:
        os.set_inheritable(descriptor, False)
    return end


class NotAlong(UsageError):
    """A descriptor that was to be inherited is not there."""


def must_be_here(descriptors: Iterable[int]) -> None:
    """Raise ``UsageError`` where one of them was not inherited."""
    for descriptor in descriptors:
        try:
            os.fstat(descriptor)
        except OSError:
            raise NotAlong(
                f"descriptor {descriptor} did not come along", remedy="start it with pass_fds=….descriptors"
            ) from None

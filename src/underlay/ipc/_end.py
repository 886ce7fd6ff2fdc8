"""One end as data: what both ends agree on, and the descriptors of it.

This file knows which descriptors there are, once each, and how they get other numbers in another process. It refuses
to know what any of them is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ._contract import MAX_MESSAGE_BYTES, MOST_CAPACITY, WAKEUPS, Terms
from ._descriptors import number_of


@dataclass(frozen=True, slots=True)
class End:
    """All that makes one end, in a form that another process can be given."""

    terms: Terms
    ways_in: tuple[int, ...] | None
    ways_out: tuple[int, ...] | None
    life: int | None
    """None where nothing but what carries the messages tells of the other side: between machines, and where there is
    none, since the channel outlives its processes."""

    @property
    def role(self) -> str:
        """What it does: "receiver", "sender" or "both"."""
        if self.ways_in is not None and self.ways_out is not None:
            return "both"
        return "receiver" if self.ways_out is None else "sender"

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Each descriptor once."""
        return tuple(dict.fromkeys((*(self.ways_in or ()), *(self.ways_out or ()), *self._lives)))

    @property
    def _lives(self) -> tuple[int, ...]:
        return () if self.life is None else (self.life,)

    def with_descriptors(self, descriptors: Sequence[int]) -> End:
        """The same end, where its descriptors have other numbers: in the order of `descriptors`."""
        known = dict(zip(self.descriptors, descriptors, strict=True))
        return End(
            self.terms,
            None if self.ways_in is None else tuple(known[each] for each in self.ways_in),
            None if self.ways_out is None else tuple(known[each] for each in self.ways_out),
            None if self.life is None else known[self.life],
        )

    def close(self) -> None:
        """Give back the descriptors of an end that nobody has made use of."""
        close_all(self.descriptors)


def end_of(said: object) -> End:
    """The end that a dictionary of its fields says, as JSON brings it.

    Raises ``ValueError``, ``TypeError`` and ``KeyError`` for what says none.
    """
    fields = cast(dict[str, Any], said)
    ways_in, ways_out, life = fields["ways_in"], fields["ways_out"], fields["life"]
    return End(
        terms_of(fields["terms"]),
        None if ways_in is None else tuple(map(number_of, ways_in)),
        None if ways_out is None else tuple(map(number_of, ways_out)),
        None if life is None else number_of(life),
    )


def terms_of(said: object) -> Terms:
    """The terms that a dictionary says, as JSON brings it. Raises ``ValueError`` or ``TypeError`` where it is none."""
    terms = Terms(**cast(dict[str, Any], said))
    for name, number, least, most in (
        ("max_message_bytes", terms.max_message_bytes, 1, MAX_MESSAGE_BYTES),
        ("capacity", terms.capacity, 0, MOST_CAPACITY),
    ):
        if type(number) is not int or not least <= number <= most:
            raise ValueError(f"{name} is {str(number)[:40]}, and not from {least} to {most:,}")
    if terms.wakeup not in WAKEUPS:
        raise ValueError(f"nobody is woken by {str(terms.wakeup)[:40]!r}")
    return terms


def close_all(descriptors: Iterable[int]) -> None:
    """Close all of them, also where one is no more: somebody else has closed it, and that is raised at the end."""
    with contextlib.ExitStack() as closing:
        for each in descriptors:
            closing.callback(os.close, each)


def copies(descriptors: Sequence[int]) -> tuple[int, ...]:
    """The same again, for the other end: each end closes its own."""
    made: list[int] = []
    try:
        for each in descriptors:
            made.append(os.dup(each))
    except OSError:
        close_all(made)
        raise
    return tuple(made)

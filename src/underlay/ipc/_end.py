"""One end as data: what both ends agree on, and the descriptors of it.

This file knows which descriptors there are, once each, and how they get other numbers in another process. It refuses
to know what any of them is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ._contract import Terms


@dataclass(frozen=True, slots=True)
class End:
    """All that makes one end, in a form that another process can be given."""

    terms: Terms
    ways_in: tuple[int, ...] | None
    ways_out: tuple[int, ...] | None
    life: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Each descriptor once."""
        return tuple(dict.fromkeys((*(self.ways_in or ()), *(self.ways_out or ()), self.life)))

    def with_descriptors(self, descriptors: Sequence[int]) -> End:
        """The same end, where its descriptors have other numbers: in the order of `descriptors`."""
        known = dict(zip(self.descriptors, descriptors, strict=True))
        return End(
            self.terms,
            None if self.ways_in is None else tuple(known[each] for each in self.ways_in),
            None if self.ways_out is None else tuple(known[each] for each in self.ways_out),
            known[self.life],
        )

    def close(self) -> None:
        """Give back the descriptors of an end that nobody has made use of."""
        for descriptor in self.descriptors:
            os.close(descriptor)

"""One test of event loops as the runner sees it, wherever it was written.

It knows the groups by which tests are counted. It does not know how a test is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from .children import Report
from .subjects import LoopFactory

# loop: CPython's tests of what an event loop does itself. library: CPython's tests of what
# asyncio builds on any loop. more: further tests of CPython's, beside the two sets that
# others count as well. contract: ours.
Group = Literal["loop", "library", "more", "contract"]

GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True, slots=True)
class ConformanceTest:
    """A test by its id; `work` runs it on loops of the given factory, in a child."""

    id: str
    group: Group
    work: Callable[[LoopFactory], Report]

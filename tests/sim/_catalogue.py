"""All situations that the simulator and two real kernels play: the list, in the order of the table in the docs.

It refuses to know what is in them.
"""

from __future__ import annotations

from . import _situations_life, _situations_opening, _situations_others
from ._situations import Situation

__all__ = ["CHAPTERS", "situations"]

CHAPTERS = {
    "Opening": _situations_opening,
    "Life and end": _situations_life,
    "UDP and TLS": _situations_others,
}


def situations(chapter: str | None = None) -> list[type[Situation]]:
    """All of them, or a chapter's."""
    modules = [CHAPTERS[chapter]] if chapter else list(CHAPTERS.values())
    names = {module.__name__ for module in modules}
    return [each for each in Situation.all if each.__module__ in names]

"""Figures as one line of small bars, and whether an output can show them.

This file knows letters. It refuses to know what the figures are, and terminals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["is_utf8", "sparkline"]

# Unicode's block elements, U+2581 to U+2588; and what looks a little like them, for a terminal without (LANG=C).
_LEVELS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_LEVELS: Final = "_.:-=+*#"


def sparkline(values: Sequence[float | None], top: float | None = None, *, plain: bool = False) -> str:
    """Draw each value as a bar from 0 to ``top``, or to the greatest of them; a gap stands for None.

    >>> sparkline([0, 25, 50, 75, 100, None], 100), sparkline([0, 1, 2, 4], plain=True)
    ('▁▃▅▇█ ', '_:=#')
    """
    levels = _PLAIN_LEVELS if plain else _LEVELS
    greatest = top if top is not None else max((value for value in values if value is not None), default=0.0)
    greatest = greatest or 1.0
    last = len(levels) - 1
    return "".join(" " if value is None else levels[min(int(value / greatest * len(levels)), last)] for value in values)


def is_utf8(encoding: str | None) -> bool:
    """Tell whether an output of this encoding, as a file or rich's ``Console`` names it, can show the bars.

    >>> is_utf8("UTF-8"), is_utf8("utf8"), is_utf8("ascii"), is_utf8(None)
    (True, True, False, False)
    """
    return (encoding or "").lower().replace("-", "") == "utf8"

"""The words of `underlay run --watch`: read before the program starts, and again in its process.

This file knows what may be said. It refuses to import asyncio: `underlay run` starts sooner without.
"""

from __future__ import annotations

import re
from typing import Final

from ..errors import UsageError

__all__ = ["LEAST_THRESHOLD_S", "MOST_THRESHOLD_S", "threshold_of", "variable_for"]

# Below this the beats of a watchdog alone would cost 2 % of a core: about 5 µs each.
LEAST_THRESHOLD_S: Final = 0.001
# As many seconds as a day has: what holds a loop for longer needs no watchdog, and the kernel's seconds have 63 bits.
MOST_THRESHOLD_S: Final = 86400.0

_QUANTITY: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")


def threshold_of(text: str) -> float:
    """The seconds that `--watch-threshold` says; ``UsageError`` for what is no time.

    >>> threshold_of("50ms"), threshold_of("1.5s")
    (0.05, 1.5)
    """
    found = _QUANTITY.fullmatch(text.strip())
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0
    if not LEAST_THRESHOLD_S <= seconds <= MOST_THRESHOLD_S:
        raise UsageError(
            f"--watch-threshold is a time of at least 1ms and at most a day, and not {text!r:.40}",
            remedy="an example: --watch-threshold 50ms",
        )
    return seconds


def variable_for(watch: str, threshold: str) -> str:
    """What the environment says for ``--watch`` or ``--watch=raise``; ``UsageError`` for another word.

    >>> variable_for("raise", "50ms")
    '50ms raise'
    """
    if watch not in ("report", "raise"):
        raise UsageError(f"--watch has no way {watch!r}", remedy="say --watch, or --watch=raise")
    threshold_of(threshold)
    return f"{threshold.strip()} {watch}"

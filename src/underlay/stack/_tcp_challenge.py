"""How many challenge ACKs a host sends in a second (RFC 5961 §7).

This file knows the limit. It refuses to know what is challenged.
"""

from __future__ import annotations

from ._contract import Rng

__all__ = ["ChallengeLimit"]


class ChallengeLimit:
    """How many there are is drawn anew each second, that nobody counts ours to find other connections (CVE-2016-5696).

    >>> import random
    >>> limit = ChallengeLimit(random.Random(1), most_per_s=10)
    >>> [sum(limit.take(now) for _ in range(100)) for now in (0.5, 1.5, 2.5)]
    [5, 9, 8]
    """

    __slots__ = ("_half", "_left", "_rng", "_second")

    def __init__(self, rng: Rng, *, most_per_s: int) -> None:
        self._rng = rng
        self._half = (most_per_s + 1) // 2
        self._second = -1
        self._left = 0

    def take(self, now: float) -> bool:
        """Is there one left in this second? Then it is taken."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._left = self._half + int(self._rng.random() * self._half)
        if self._left <= 0:
            return False
        self._left -= 1
        return True

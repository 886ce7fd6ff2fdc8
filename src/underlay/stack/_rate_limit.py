"""How many of something may be sent: tokens that come back with time.

This file knows rates and bursts. It refuses to know what is counted.
"""

from __future__ import annotations

from typing import Final

_MOST_PEERS: Final = 256  # one that falls out begins with a full bucket again; the limit for all still holds


class TokenBucket:
    """At most ``burst`` at once, and ``per_second`` in the long run (RFC 4443 section 2.4 f).

    >>> bucket = TokenBucket(1.0, 2)
    >>> [bucket.take(0.0), bucket.take(0.0), bucket.take(0.5), bucket.take(1.5)]
    [True, True, False, True]
    """

    __slots__ = ("_burst", "_per_second", "_tokens", "_when")

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._when: float | None = None

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        if self._when is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._when) * self._per_second)
        self._when = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class PeerLimits:
    """One bucket for each of the peers that were met last."""

    __slots__ = ("_buckets", "_burst", "_per_second")

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets: dict[bytes, TokenBucket] = {}

    def take(self, peer: bytes, now: float) -> bool:
        """Take a token of one peer, if it has one."""
        bucket = self._buckets.pop(peer, None)
        if bucket is None:
            bucket = TokenBucket(self._per_second, self._burst)
            if len(self._buckets) >= _MOST_PEERS:
                del self._buckets[next(iter(self._buckets))]
        self._buckets[peer] = bucket  # at the end: the one met last
        return bucket.take(now)

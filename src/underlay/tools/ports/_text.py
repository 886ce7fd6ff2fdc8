"""Words for a terminal: what has room in a row, and lengths of time.

This file only computes. It refuses to know sockets.
"""

from __future__ import annotations

__all__ = ["cut", "duration"]


def cut(text: str, width: int) -> str:
    """At most so many columns of it; the last is ``…`` where something is missing.

    >>> cut("nginx: worker", 6)
    'nginx…'
    """
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def duration(ms: float) -> str:
    """A length of time in the unit that suits it.

    >>> duration(0.25), duration(204), duration(59_900), duration(7_200_000)
    ('250 µs', '204 ms', '60 s', '120 min')
    """
    if ms < 1:
        return f"{ms * 1000:.0f} µs"
    if ms < 1000:
        return f"{ms:.3g} ms"
    return f"{ms / 1000:.0f} s" if ms < 120_000 else f"{ms / 60_000:.0f} min"

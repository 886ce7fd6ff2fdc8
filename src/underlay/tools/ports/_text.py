"""Words for a terminal: lengths of time.

This file only computes. It refuses to know sockets.
"""

from __future__ import annotations

__all__ = ["duration"]


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

"""Words for a terminal: what has room in a row, and lengths of time.

This file only computes. It refuses to know sockets.
"""

from __future__ import annotations

__all__ = ["columns_of", "cut", "duration"]


def columns_of(text: str) -> int:
    """How many columns of a terminal it takes: two for a wide letter (Unicode, UAX #11), none for a combining mark.

    >>> columns_of("nginx"), columns_of("日本")
    (5, 4)
    """
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(letter: str) -> int:
    import unicodedata  # few texts need it

    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def cut(text: str, width: int) -> str:
    """At most so many columns of it; the last is ``…`` where something is missing.

    >>> cut("nginx: worker", 6), cut("日本: worker", 6)
    ('nginx…', '日本:…')
    """
    if columns_of(text) <= width:
        return text
    room = width - 1
    for at, letter in enumerate(text):
        room -= 1 if text.isascii() else _columns(letter)
        if room < 0:
            return text[:at] + "…"
    return text


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

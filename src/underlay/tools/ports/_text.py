"""Words for a terminal: what strangers wrote, made harmless, and lengths of time.

This file only computes. It refuses to know sockets.
"""

from __future__ import annotations

__all__ = ["clean", "duration"]


def clean(text: str) -> str:
    """The text without what a terminal would obey: a process names itself, and a path has any byte.

    >>> print(clean("a\\x1b[2Jb"))
    a\\x1b[2Jb
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    if 0xDC80 <= ord(letter) <= 0xDCFF:  # a byte that is no UTF-8: PEP 383
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape", errors="surrogatepass").decode()


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

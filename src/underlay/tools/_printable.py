"""What strangers wrote, made harmless for a terminal: a process names itself, a path has any byte, a name comes by DNS.

This file only computes. It refuses to know where a text comes from.
"""

from __future__ import annotations

from typing import Final

__all__ = ["escaped", "masked", "quoted"]

# In a sentence, as much of what somebody typed as shows which it was: two lines of 80 columns.
_MOST_QUOTED: Final = 160


def escaped(text: str) -> str:
    """The text with an escape for each letter that a terminal would obey: it can be read what stood there.

    A byte that is no UTF-8 (PEP 383, as os.fsdecode() gives it) is written as that byte.

    >>> print(escaped("a\\x1b[2Jb"))
    a\\x1b[2Jb
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in text)


def _escape(letter: str) -> str:
    if 0xDC80 <= ord(letter) <= 0xDCFF:
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape", errors="surrogatepass").decode()


def quoted(text: str) -> str:
    """The text in quotes for a sentence, escaped, and cut where it is long.

    >>> print(quoted("tcp prot 80"), quoted("x" * 200)[-20:])
    'tcp prot 80' xxxx…' (200 letters)
    """
    return repr(text) if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED] + '…'!r} ({len(text)} letters)"


def masked(text: str) -> str:
    """The text with a ``?`` for each letter that a terminal would obey: it stays as long as it was.

    >>> masked("curl\\x1b[2J")
    'curl?[2J'
    """
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)

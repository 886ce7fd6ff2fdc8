"""A line of ours on stderr, beside what the program under it writes.

This file knows that there may be no stderr. It refuses to know what is said.
"""

from __future__ import annotations

import sys

__all__ = ["say"]


def say(sentence: str) -> None:
    """Print ``underlay: `` and a sentence, where there is somewhere to print.

    Where stderr was closed, ``sys.stderr`` is None, and print() would write to stdout, among the output.
    """
    if sys.stderr is not None:
        # In one write, also where Python is unbuffered: lines of several workers do not run into each other.
        print(f"underlay: {sentence}\n", end="", file=sys.stderr, flush=True)

"""What a command tells the person beside its output: a line on stderr.

This file knows that stderr may be closed, full or a terminal, which must not obey what a stranger wrote or what was
pasted, and that nothing of the output may suffer by it. It refuses to know what is said.
"""

from __future__ import annotations

import sys

from ._printable import escaped

__all__ = ["say"]


def say(sentence: str) -> None:
    """Write ``underlay: `` and a sentence to stderr; where it cannot be written, nobody is there to be told.

    It may have lines. What else a terminal would obey in it is escaped.
    Where the shell closed stderr, ``sys.stderr`` is None, and print() would write to stdout, among the output.
    """
    if sys.stderr is not None:
        try:
            # In one write, also where Python is unbuffered: other processes of a pipe may write at this moment.
            said = "\n".join(map(escaped, sentence.split("\n")))
            print(f"underlay: {said}\n", end="", file=sys.stderr, flush=True)
        except BlockingIOError:
            pass  # its reader is slow, and may read what comes later
        except OSError:
            # What it holds back Python would write once more at exit, and end with status 120 for it.
            sys.stderr = None

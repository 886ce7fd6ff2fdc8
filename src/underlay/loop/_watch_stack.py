"""Reads the stacks that faulthandler wrote, and finds the call in them that held the loop.

This file knows what stands around a callback in a running loop's stack. It only computes: text and names in, frames
out. It refuses to know when and by whom a stack was written.
"""

from __future__ import annotations

import asyncio
import linecache
import os
import re
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Final, NamedTuple

__all__ = ["Base", "Frame", "base_of", "callers_own", "held_by", "read_stack"]

_LINE: Final = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)')
# faulthandler writes ASCII: \xE9, й, \U0001F600 (_Py_DumpASCII of CPython's traceback.c).
_ESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")
# What it writes below the last frame that it writes, the hundredth (MAX_FRAME_DEPTH); nothing, since Python 3.13.
_CUT: Final = "  ..."
_MOST_FRAMES: Final = 100

_STANDARD_LIBRARY: Final = os.path.dirname(os.__file__) + os.sep
_UNDERLAY: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep
# Where loops are made of Python: what waits there is the loop itself, not a call that holds it.
_LOOPS: Final = (
    os.path.dirname(asyncio.__file__) + os.sep,
    os.path.join(_STANDARD_LIBRARY, "selectors.py"),
    os.path.dirname(__file__) + os.sep,
)
_PACKAGES: Final = re.compile(r"[/\\](site|dist)-packages[/\\]")
_FROM: Final = "run_forever"


class Frame(NamedTuple):
    """One line of a stack. ``str()`` gives ``app.py:12 in handler``.

    >>> print(Frame("app.py", 12, "handler"))
    app.py:12 in handler
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"

    @property
    def source(self) -> str:
        """The text of the line, where its file can be read; else empty."""
        return linecache.getline(self.file, self.line).strip()


class Base(NamedTuple):
    """What lies below the callbacks of one loop: the functions, innermost first, and how many are ``run_forever``."""

    functions: tuple[tuple[str, str], ...]
    runs: int


def base_of(frame: FrameType | None) -> Base:
    """What lies below a callback whose caller is ``frame``."""
    functions: list[tuple[str, str]] = []
    while frame is not None:
        code = frame.f_code
        functions.append((code.co_filename, code.co_name))
        frame = frame.f_back
    return Base(tuple(functions), sum(name == _FROM for _, name in functions))


def read_stack(text: str) -> tuple[list[Frame], bool]:
    r"""The frames of one stack as faulthandler writes it, innermost first, and whether they are all.

    >>> read_stack('  File "app.py", line 3 in main\n  File "gr\\xf6\\xdfe.py", line 9 in <module>\n')
    ([Frame(file='app.py', line=3, function='main'), Frame(file='größe.py', line=9, function='<module>')], True)
    """
    frames: list[Frame] = []
    for line in text.splitlines():
        if line == _CUT:
            return frames, False
        if found := _LINE.fullmatch(line):
            number = found["line"]
            frames.append(
                Frame(_decoded(found["file"]), int(number) if number.isdigit() else 0, _decoded(found["function"]))
            )
    return frames, len(frames) < _MOST_FRAMES


def held_by(frames: Sequence[Frame], is_whole: bool, bases: Iterable[Base]) -> list[Frame]:
    """The part of a stack above the loop, innermost first; empty where the loop itself was waiting, or didn't run.

    ``bases`` are what was seen below its callbacks. A loop written in Python is told by its ``run_forever``: what lies
    below that changes with who runs the loop. One written in C leaves no frame, so there all must be the same.
    """
    for base in bases:
        above: Sequence[Frame] | None
        if base.runs:
            # The outermost belong to loops that run this one in a callback of theirs: count from outside.
            runs = [at for at, frame in enumerate(frames) if frame.function == _FROM]
            if is_whole:
                above = frames[: runs[-base.runs]] if len(runs) >= base.runs else None
            else:
                above = frames[: runs[0]] if runs else frames
        else:
            above = _above(frames, base.functions)
            if above is None and not is_whole:
                above = frames  # so deep in a callback that the loop's end was not written
        if above and _is_a_call(above):
            return _without_the_loop(above)
    return []


def _without_the_loop(above: Sequence[Frame]) -> list[Frame]:
    """Take the loop's own lines off the outer end; where there are no others, the innermost is left."""
    end = len(above)
    while end > 1 and above[end - 1].file.startswith(_LOOPS):
        end -= 1
    return list(above[:end])


def _above(frames: Sequence[Frame], functions: Sequence[tuple[str, str]]) -> Sequence[Frame] | None:
    names = [(frame.file, frame.function) for frame in frames]
    for at in range(len(names) + 1):
        rest = names[at:]
        if rest and rest == list(functions[: len(rest)]):
            return frames[:at]
    return None


def _is_a_call(above: Sequence[Frame]) -> bool:
    """Whether some callback runs, and not only the loop that waits or looks for one."""
    if any(not frame.file.startswith(_LOOPS) for frame in above):
        return True
    # A callback that is no Python function has no frame: asyncio's line that calls it stands innermost.
    return "context.run(" in above[0].source


def callers_own(stack: Sequence[Frame]) -> Frame:
    """The innermost line of the program itself, not of a library; the innermost of all where there is none."""
    for frame in stack:
        if not (
            frame.file.startswith((_STANDARD_LIBRARY, _UNDERLAY, "<frozen "))
            or _PACKAGES.search(frame.file) is not None
        ):
            return frame
    return stack[0]


def _decoded(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1] or found[2] or found[3], 16)), text)

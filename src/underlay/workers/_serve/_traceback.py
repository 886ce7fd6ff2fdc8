"""The traceback of a program that failed: without our frames, and a short form of it for the supervisor.

It refuses to know what is done with it.
"""

from __future__ import annotations

import hashlib
import traceback
from types import TracebackType

__all__ = ["digest", "in_one_line", "without_our_frames"]

# The modules whose frames stand between this process's beginning and the program's first line.
_BETWEEN = ("underlay", "importlib", "_frozen_importlib", "_frozen_importlib_external", "runpy", "asyncio", "uvloop")


def without_our_frames(error: BaseException) -> TracebackType | None:
    """The traceback from the program's first frame on; the whole where no frame is the program's.

    None for a program that could not even be compiled: Python's own words name the line.

    >>> import runpy
    >>> try:
    ...     runpy.run_path("/nowhere/app.py")
    ... except OSError as error:
    ...     without_our_frames(error).tb_frame.f_code.co_name
    '<module>'
    """
    found = error.__traceback__
    while found is not None and str(found.tb_frame.f_globals.get("__name__")).split(".")[0] in _BETWEEN:
        found = found.tb_next
    return found if found is not None or isinstance(error, SyntaxError) else error.__traceback__


def in_one_line(error: BaseException) -> str:
    r"""The error's name and the first line of what it says.

    >>> in_one_line(ValueError("one\ntwo")), in_one_line(TimeoutError())
    ('ValueError: one', 'TimeoutError')
    """
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        said = str(error).strip().split("\n")[0]
    except Exception:  # the program's own class, which may fail in this as well
        said = ""
    return f"{name}: {said}" if said else name


def digest(error: BaseException) -> str:
    """Something equal for equal tracebacks."""
    return hashlib.sha256("".join(traceback.format_exception(error)).encode(errors="replace")).hexdigest()

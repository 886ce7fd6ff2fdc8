"""The errors that underlay itself raises, each with the sentence that mends it.

This file knows who can be at fault besides the kernel: the person at the
command line, and the machine that lacks what was asked for. It refuses to know
any operating system and any model. A failed system call stays the ``OSError``
that the kernel gave, and what asyncio raises, we raise; neither is wrapped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

__all__ = ["ModelUnavailable", "UnderlayError", "UsageError", "nearest", "plural"]


class UnderlayError(Exception):
    """Every error that underlay defines is one of these.

    ``what`` says what was tried and who is at fault; ``remedy`` says what mends
    it, and is empty when ``what`` already does. Together they are one sentence,
    which is what ``str()`` gives and the command line prints.

    >>> print(UnderlayError("port 80 is taken", remedy="choose another with --port"))
    port 80 is taken; choose another with --port
    """

    exit_status: ClassVar[int] = 1
    """The exit status with which the command line ends when it meets this error."""

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


class UsageError(UnderlayError):
    """The caller asked for something that cannot be: a wrong name, file, port or option.

    >>> print(UsageError("no such file: app.py", remedy="check the path"))
    no such file: app.py; check the path
    >>> UsageError.exit_status
    2
    """

    # 2 is what getopt-style programs, argparse among them, give for bad usage.
    exit_status = 2


class ModelUnavailable(UnderlayError):
    """This machine cannot run the I/O model that was asked for.

    The kernel is too old, a container forbids a system call, or the operating
    system is another one. ``model`` and ``reason`` stay readable, for a table.

    >>> error = ModelUnavailable("uring", "io_uring_disabled is 2", remedy="use epoll")
    >>> print(error)
    the model uring is not available here: io_uring_disabled is 2; use epoll
    >>> error.model, error.exit_status
    ('uring', 2)
    """

    exit_status = 2

    def __init__(self, model: str, reason: str, *, remedy: str = "") -> None:
        super().__init__(f"the model {model} is not available here: {reason}", remedy=remedy)
        # pickle and copy call the class with args, so they must be our own two.
        self.args = (model, reason)
        self.model = model
        self.reason = reason


def nearest(wrong: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, or list them all, as a remedy.

    >>> nearest("epol", ["select", "poll", "epoll"])
    "did you mean 'epoll'?"
    >>> nearest("kqueue", ["select", "poll"])
    'choose one of select, poll'
    """
    import difflib  # only a mistake needs it

    names = list(known)
    # 0.6 is difflib's own default cutoff: one slip in three letters still matches.
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}"


def plural(count: int, noun: str) -> str:
    """Say how many.

    >>> plural(1, "worker"), plural(3, "worker")
    ('1 worker', '3 workers')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
